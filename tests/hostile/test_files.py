"""Folders and file names that try to lead the node out of the beamtime."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat.doors import Doors
from compat.wire import FILE_ONLY, OK, STORED, WRONG, Answer

pytestmark = pytest.mark.system

SECRET = b"not for everybody"


def fetch(doors: Doors, name: str, folder: str = "auto", size_only: bool = False) -> Answer:
    cookie = {"Cookie": f"Authorization=Bearer {doors.folder_token()}"}
    target = f"/v0.2/transfer{doors.query()}" + ("&sizeonly=true" if size_only else "")
    with doors.http() as http:
        body = json.dumps({"Folder": folder, "FileName": name})
        answer: Answer = http.post(target, body, **cookie)
    return answer


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path


@pytest.fixture
def stored(doors: Doors, source: str) -> str:
    """A file that was sent properly; its name."""
    name = f"processed/{source}/good"
    with doors.receiver(source) as wire:
        assert wire.put(1, b"good", path=name, mode=STORED).code == OK
    return name


def test_names_that_lead_out(doors: Doors, stored: str) -> None:
    depth = "../" * 20
    names = [
        depth + "etc/hostname", "processed/" + depth + "etc/hostname", "/etc/hostname",
        "../../node.db", "../../key", "../../catalog/bt1.db", "..", ".", "", "/", "processed",
        "processed/../" + stored, "./" + stored, stored + "/", stored + "/.", "//" + stored,
        stored.replace("/", "//"), "%2e%2e/%2e%2e/key", stored + "\0", stored + "\0.txt",
        "\\..\\..\\key", "a" * 5000, "\ud800", stored.upper(),
    ]  # fmt: skip
    for name in names:
        for size_only in (False, True):
            answer = fetch(doors, name, size_only=size_only)
            assert answer.status in (400, 404), (name, answer)
            assert str(doors.node.data) not in answer.text
    assert fetch(doors, stored).body == b"good"
    for folder in ("/", "/etc", "..", str(doors.node.data), "", 5):
        answer = fetch(doors, stored, folder=folder)  # type: ignore[arg-type]
        assert answer.status in (200, 400, 401), folder
        assert answer.status != 200 or answer.body == b"good"


def test_files_without_a_record_are_not_served(doors: Doors, stored: str) -> None:
    (doors.core / "processed" / "foreign").write_bytes(SECRET)
    assert fetch(doors, "processed/foreign").status == 404
    other = Doors(doors.node, "other1")
    assert fetch(other, stored).status == 404


def test_links_are_not_followed_when_writing(
    doors: Doors, stored: str, source: str, outside: Path
) -> None:
    folder = doors.core / Path(stored).parent
    (folder / "link").symlink_to(outside)
    (folder / "file_link").symlink_to(outside / "secret")
    (folder / "dangling").symlink_to(outside / "made")
    paths = ["link/new", "link/deeper/new", "file_link", "dangling", "file_link/x"]
    for mode in (STORED, FILE_ONLY):
        for id, path in enumerate(paths, 10):
            with doors.receiver(source) as wire:
                name = f"{Path(stored).parent}/{path}"
                assert wire.put(id, b"overwritten", path=name, mode=mode).code == WRONG, path
    assert sorted(os.listdir(outside)) == ["secret"]
    assert (outside / "secret").read_bytes() == SECRET


def test_links_are_not_followed_when_reading(
    doors: Doors, stored: str, source: str, outside: Path
) -> None:
    folder = doors.core / Path(stored).parent
    path = doors.core / stored
    path.unlink()
    path.symlink_to(outside / "secret")
    answer = fetch(doors, stored)
    assert SECRET not in answer.body
    path.unlink()
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(outside)
    (outside / path.name).write_bytes(SECRET[:4])
    assert SECRET[:4] not in fetch(doors, stored).body
    folder.unlink()
    with doors.receiver(source) as wire:
        assert wire.put(2, b"fine", path=stored + "2", mode=STORED).code == OK


@pytest.mark.parametrize("kind", ["fifo", "folder", "gone", "changed", "longer"])
def test_files_that_became_something_else(doors: Doors, stored: str, kind: str) -> None:
    """Neither other bytes nor a hanging node: the file is not available."""
    path = doors.core / stored
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "changed":
        path.write_bytes(b"evil")
    elif kind == "longer":
        path.write_bytes(b"good and more")
    answer = fetch(doors, stored)
    # The payload may still be in the cache, which was not touched.
    assert answer.body == b"good" or answer.status in (404, 500, 503)


@contextlib.contextmanager
def swapping(link: Path, targets: tuple[Path, Path]) -> Iterator[None]:
    """Point `link` to one and the other folder, as fast as possible."""
    stop = threading.Event()

    def work() -> None:
        spare = link.with_name(link.name + "_")
        while not stop.is_set():
            for target in targets:
                spare.symlink_to(target)
                spare.replace(link)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_links_that_change_while_files_are_written(
    doors: Doors, stored: str, source: str, outside: Path
) -> None:
    folder = doors.core / Path(stored).parent
    inside = folder / "inside"
    inside.mkdir()
    link = folder / "racing"
    with swapping(link, (inside, outside)):
        for id in range(10, 60):
            with doors.receiver(source) as wire:
                name = f"{Path(stored).parent}/racing/{id}"
                assert wire.put(id, b"escaped", path=name, mode=STORED).code == WRONG
    assert sorted(os.listdir(outside)) == ["secret"]
