"""Which files of a folder that fills are complete; the clock is given."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream.cli.put_folder import Folder


def write(path: Path, data: bytes, changed_ns: int = 1_000_000_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(changed_ns, changed_ns))
    return path


def test_a_file_is_given_once_when_it_has_settled(tmp_path: Path) -> None:
    folder = Folder(tmp_path, settle_s=1.0)
    first = write(tmp_path / "a.cbf", b"1")
    assert folder.look(0.0) == []
    assert folder.look(0.5) == []
    assert folder.look(1.0) == [first]
    assert folder.look(9.0) == []
    write(first, b"changed later", 2_000_000_000)
    assert folder.look(20.0) == []
    assert folder.look(30.0) == []


def test_a_file_that_grows_is_waited_for(tmp_path: Path) -> None:
    folder = Folder(tmp_path, settle_s=1.0)
    path = write(tmp_path / "a", b"1")
    assert folder.look(0.0) == []
    write(path, b"12")
    assert folder.look(1.0) == []
    # The same size, but written again.
    write(path, b"34", 3_000_000_000)
    assert folder.look(2.0) == []
    assert folder.look(2.9) == []
    assert folder.look(3.0) == [path]


def test_files_come_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    late = write(tmp_path / "a", b"", 3_000_000_000)
    early = write(tmp_path / "below" / "b", b"", 1_000_000_000)
    middle = write(tmp_path / "c", b"", 2_000_000_000)
    assert Folder(tmp_path, settle_s=0.0).look(0.0) == [early, middle, late]


def test_what_is_hidden_or_no_file_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / ".part-1", b"1")
    write(tmp_path / ".cache" / "a", b"1")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    folder = Folder(tmp_path, settle_s=0.0)
    assert folder.look(0.0) == []
    os.rename(tmp_path / ".part-1", tmp_path / "one")
    assert folder.look(2.0) == [tmp_path / "one"]


def test_a_file_that_vanishes_is_forgotten(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"1")
    folder = Folder(tmp_path, settle_s=1.0)
    folder.look(0.0)
    path.unlink()
    assert folder.look(5.0) == []
    write(path, b"1")
    assert folder.look(6.0) == []
    assert folder.look(7.0) == [path]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20))
def test_every_file_is_given_exactly_once(
    tmp_path_factory: object, steps: list[tuple[int, bool]]
) -> None:
    """Whatever is written when: in the end each file was given once, and only unchanged ones."""
    root: Path = tmp_path_factory.mktemp("folder")  # type: ignore[attr-defined]
    folder = Folder(root, settle_s=1.0)
    given_paths: list[Path] = []
    written: dict[Path, float] = {}
    now, stamp = 0.0, 1
    for number, touch in steps:
        now += 0.5
        path = root / f"f{number}"
        if touch and path not in given_paths:
            stamp += 1
            write(path, b"x" * number, stamp * 1_000_000_000)
            written[path] = now
        for found in folder.look(now):
            assert now - written[found] >= 1.0
            given_paths.append(found)
    for _ in range(4):
        now += 0.5
        given_paths += folder.look(now)
    assert sorted(given_paths) == sorted(written)
