"""Root folders, the journal of folders, and what a node does with it when it starts."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import NoSpace, NotFound, StorageError
from beamstream.model import PART_PREFIX, Root
from beamstream.server.beamtimes import BeamtimeFolders
from beamstream.server.recovery import recover
from beamstream.server.roots import FolderNote, Roots, read_journal
from beamstream.store import catalog as ops
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.store.files import NewFile, write_file

BT = "bt1"


def put(name: str) -> ops.Put:
    return ops.Put("det", "s", 0, name, 3, bytes(16), b"{}", 1000, 1000, mode=13, level=2, place=2)


def folders(tmp_path: Path) -> BeamtimeFolders:
    return BeamtimeFolders(BT, "", tmp_path / "core")


def test_a_killed_node_is_cleaned_up_after(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    roots = Roots(journal)
    catalog = SqliteCatalog(tmp_path)
    for name in ("raw/a/recorded", "raw/a/orphan", "raw/b/recorded", "top"):
        root = roots.folder(folders(tmp_path), Root.CORE, name)
        write_file(root, name, memoryview(b"abc"), sync=False)
        if name != "raw/a/orphan":
            catalog.apply(BT, [put(name)])
    halves = [NewFile(root, f"{below}/half", sync=False) for below in ("raw/a", "raw/b")]
    roots.close()
    (tmp_path / "core/raw/a/folder").mkdir()
    (tmp_path / "core/raw/a/link").symlink_to("orphan")
    with journal.open("ab") as file:
        file.write(b'{"beamtime":"\xff","root":"/x","below":""}\n')
        file.write(b'{"beamtime":"bt1","root":"/x","below":"\xc3')
    found = recover(journal, catalog)
    assert (found.folders, found.parts, found.orphans_count) == (3, 2, 1)
    assert found.orphans == [f"{tmp_path}/core/raw/a/orphan"]
    assert (tmp_path / "core/raw/a/orphan").read_bytes() == b"abc", "listed, never removed"
    assert not list((tmp_path / "core").rglob(PART_PREFIX + "*"))
    assert not list(tmp_path.glob("journal*"))
    again = recover(journal, catalog)
    assert (again.folders, again.parts, again.orphans_count) == (0, 0, 0)
    for half in halves:
        half.abort()
    catalog.close()


def test_folders_that_have_gone_are_no_hindrance(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    roots = Roots(journal)
    root = roots.folder(folders(tmp_path), Root.CORE, "raw/f")
    assert root.path == tmp_path / "core"
    roots.close()
    catalog = SqliteCatalog(tmp_path)
    assert recover(journal, catalog).folders == 1
    assert recover(tmp_path / "nowhere", catalog).folders == 0
    catalog.close()


def test_orphans_are_listed_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ORPHANS_LISTED_MAX", 3)
    roots = Roots(tmp_path / "journal")
    root = roots.folder(folders(tmp_path), Root.CORE, "raw/f")
    for number in range(7):
        write_file(root, f"raw/f{number}", memoryview(b"x"), sync=False)
    roots.close()
    catalog = SqliteCatalog(tmp_path)
    found = recover(tmp_path / "journal", catalog)
    assert (found.orphans_count, len(found.orphans)) == (7, 3)
    catalog.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8)), max_size=6),
    st.binary(max_size=60),
)
def test_a_journal_is_read_whatever_its_end(
    tmp_path_factory: pytest.TempPathFactory, notes: list[tuple[str, str, str]], torn: bytes
) -> None:
    journal = tmp_path_factory.mktemp("journal") / "journal"
    roots = Roots(journal)
    expected = [FolderNote(*note) for note in dict.fromkeys(notes)]
    for note in expected:
        roots._note(note)
        roots._note(note)
    roots.close()
    assert list(read_journal(journal)) == expected
    with journal.open("ab") as file:
        file.write(torn)
    found = list(read_journal(journal))
    assert found[: len(expected)] == expected


def test_a_folder_is_noted_once_before_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FOLDER_NOTES_MAX", 4)
    roots = Roots(tmp_path / "journal")
    opened = set()

    def write(number: int) -> None:
        for name in ("raw/f", "raw/g", f"raw/{number}/f"):
            opened.add(id(roots.folder(folders(tmp_path), Root.CORE, name)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    notes = list(read_journal(tmp_path / "journal"))
    assert {note.below for note in notes} == {"raw"} | {f"raw/{number}" for number in range(6)}
    assert roots.existing(folders(tmp_path), Root.CORE).path == tmp_path / "core"
    with pytest.raises(NotFound):
        roots.existing(folders(tmp_path), Root.BEAMLINE)
    roots.close()


def test_a_journal_that_cannot_be_written_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = Roots(tmp_path / "journal")

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    for _ in range(2):
        with pytest.raises(StorageError, match="journal"):
            roots.folder(folders(tmp_path), Root.CORE, "raw/f")
    monkeypatch.undo()
    roots.folder(folders(tmp_path), Root.CORE, "raw/f")
    roots.close()


def test_space_is_kept_for_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = Roots(tmp_path / "journal")
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    roots.check_space(folders(tmp_path), Root.CORE, 1)
    with pytest.raises(NoSpace, match="MiB free"):
        roots.check_space(folders(tmp_path), Root.CORE, free)
    roots.close()
