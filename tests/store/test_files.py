"""Payload files: never replaced, never half, never outside their folder. Real file systems only."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_files import files_open

from beamstream.errors import BadName, Corrupt, DataLost, Error, NameConflict, NoSpace, StorageError
from beamstream.model import PART_PREFIX
from beamstream.store import beneath
from beamstream.store.files import (
    CHUNK_NBYTES,
    NewFile,
    RootFolder,
    StoredFile,
    digest_of,
    remove_parts,
    storage_error,
    sync_folders,
    write_file,
)

syncs = pytest.mark.parametrize("sync", [False, True])


@pytest.fixture(params=["openat2", "by components"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RootFolder]:
    """A root folder, with the kernel's help and without."""
    patch = pytest.MonkeyPatch()
    if request.param == "by components":
        patch.setattr(beneath, "_OPENAT2", False)
        patch.setattr(beneath, "_RENAMEAT2", None)
    elif not beneath._OPENAT2:
        pytest.skip("this kernel has no openat2")
    gc.collect()
    fds = files_open()
    folder = RootFolder(tmp_path / "root")
    yield folder
    folder.close()
    patch.undo()
    gc.collect()
    assert files_open() == fds


def write(root: RootFolder, name: str, data: bytes, sync: bool = False) -> bytes:
    digest, folder = write_file(root, name, memoryview(data), sync=sync)
    if sync:
        sync_folders([folder, folder])
    return digest


def read(root: RootFolder, name: str) -> bytes:
    file = StoredFile(root, name)
    try:
        memory = memoryview(bytearray(file.nbytes))
        file.read_into(memory)
        return bytes(memory)
    finally:
        file.close()


def files(root: RootFolder) -> dict[str, bytes]:
    """All regular files below, parts of unfinished writes included."""
    found = {}
    for path in root.path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found[str(path.relative_to(root.path))] = path.read_bytes()
    return found


@syncs
@pytest.mark.parametrize("nbytes", [1, 1000, CHUNK_NBYTES, 3 * CHUNK_NBYTES + 17])
def test_what_is_written_is_read(root: RootFolder, sync: bool, nbytes: int) -> None:
    data = os.urandom(nbytes)
    digest = write(root, "raw/a/b/f", data, sync)
    assert digest == digest_of(data)
    assert read(root, "raw/a/b/f") == data
    assert files(root) == {"raw/a/b/f": data}
    file = StoredFile(root, "raw/a/b/f")
    try:
        file.verify(digest, nbytes)
        piece = memoryview(bytearray(nbytes - nbytes // 2))
        file.read_piece(piece, nbytes // 2)
        assert piece == data[nbytes // 2 :]
    finally:
        file.close()


@syncs
def test_a_file_is_never_replaced(root: RootFolder, sync: bool) -> None:
    write(root, "raw/f", b"first", sync)
    inode = (root.path / "raw/f").stat().st_ino
    assert write(root, "raw/f", b"first", sync) == digest_of(b"first"), "adopted"
    for other in (b"other", b"", b"first and more"):
        with pytest.raises(NameConflict, match="other content"):
            write(root, "raw/f", other, sync)
    assert files(root) == {"raw/f": b"first"}
    assert (root.path / "raw/f").stat().st_ino == inode


@syncs
@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "dangling link"])
def test_a_name_that_is_taken_by_something_else(root: RootFolder, sync: bool, kind: str) -> None:
    (root.path / "raw").mkdir()
    taken = root.path / "raw/f"
    outside = root.path.parent / "outside"
    outside.write_bytes(b"same")
    match kind:
        case "folder":
            taken.mkdir()
        case "fifo":
            os.mkfifo(taken)
        case "link":
            taken.symlink_to(outside)
        case "dangling link":
            taken.symlink_to(root.path.parent / "nowhere")
    with pytest.raises(BadName if "link" in kind else NameConflict):
        write(root, "raw/f", b"same", sync)
    assert [path.name for path in (root.path / "raw").iterdir()] == ["f"]
    assert outside.read_bytes() == b"same"
    assert not (root.path.parent / "nowhere").exists()
    if kind != "folder":
        with pytest.raises(DataLost):
            StoredFile(root, "raw/f")


def test_a_file_is_seen_under_its_name_only_when_it_is_whole(root: RootFolder) -> None:
    file = NewFile(root, "raw/f", sync=False)
    file.write(memoryview(b"half"))
    assert [name.startswith("raw/" + PART_PREFIX) for name in files(root)] == [True]
    file.write(memoryview(b" and half"))
    file.commit(digest_of(b"half and half"), 13)
    assert files(root) == {"raw/f": b"half and half"}
    assert stat.S_IMODE((root.path / "raw/f").stat().st_mode) & 0o133 == 0
    aborted = NewFile(root, "raw/g", sync=False)
    aborted.write(memoryview(b"half"))
    aborted.abort()
    assert set(files(root)) == {"raw/f"}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["raw/f", "raw/g", "raw/sub/f", "raw/f/x"]), st.binary(max_size=3)
        ),
        max_size=12,
    )
)
def test_who_comes_first_has_the_name(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, bytes]]
) -> None:
    root = RootFolder(tmp_path_factory.mktemp("root"))
    model: dict[str, bytes] = {}
    for name, data in writes:
        blocked = name == "raw/f/x" and "raw/f" in model
        taken = name == "raw/f" and "raw/f/x" in model
        if blocked:
            with pytest.raises(BadName):
                write(root, name, data)
        elif taken or model.get(name, data) != data:
            with pytest.raises(NameConflict):
                write(root, name, data)
        else:
            write(root, name, data)
            model[name] = data
        assert files(root) == model
    root.close()


def test_many_writers_of_one_name_make_one_file(root: RootFolder) -> None:
    payloads = [bytes([65 + n]) * 5000 for n in range(8)]
    outcomes: list[bytes | Error] = []

    def writer(data: bytes) -> None:
        try:
            outcomes.append(write(root, "raw/f", data))
        except Error as error:
            outcomes.append(error.with_traceback(None))

    threads = [threading.Thread(target=writer, args=(data,)) for data in payloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    assert len(winners) == 1
    (content,) = files(root).values()
    assert digest_of(content) == winners[0]
    assert all(isinstance(o, NameConflict) for o in outcomes if not isinstance(o, bytes))
    outcomes.clear()


# ---------------------------------------------------------------------------- links


@syncs
@pytest.mark.parametrize("name", ["link/f", "raw/link/f", "raw/link/deeper/f", "link"])
def test_no_link_leads_out(root: RootFolder, sync: bool, name: str) -> None:
    outside = root.path.parent / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"secret")
    (root.path / "raw").mkdir()
    (root.path / "link").symlink_to(outside)
    (root.path / "raw/link").symlink_to(outside)
    with pytest.raises(BadName):
        write(root, name, b"mine", sync)
    with pytest.raises(DataLost):
        StoredFile(root, name)
    assert [path.name for path in outside.iterdir()] == ["f"]
    assert files(root) == {}


def test_no_link_leads_out_while_somebody_swaps_folders(root: RootFolder) -> None:
    """A folder and a link change places while files are written and read below them."""
    outside = root.path.parent / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub/secret").write_bytes(b"secret")
    (root.path / "swapped").mkdir()
    (root.path / "other").symlink_to(outside)
    names = [os.fsencode(root.path / name) for name in ("swapped", "other")]
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    stop = threading.Event()
    rounds = 0

    def swap() -> None:
        nonlocal rounds
        while not stop.is_set():
            assert exchange(-100, names[0], -100, names[1], 2) == 0
            rounds += 1

    thread = threading.Thread(target=swap)
    thread.start()
    escapes = done = refused = 0
    try:
        for number in range(600):
            fresh = RootFolder(root.path)
            try:
                write(fresh, f"swapped/sub/f{number}", b"mine")
                done += 1
            except BadName:
                refused += 1
            try:
                escapes += read(fresh, "swapped/sub/secret") == b"secret"
            except DataLost:
                pass
            fresh.close()
    finally:
        stop.set()
        thread.join()
    escapes += len(list(outside.rglob("*"))) - 2
    assert escapes == 0
    assert done
    assert refused
    assert rounds > 100


def test_a_folder_that_was_moved_away_is_not_written_to_for_ever(
    root: RootFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, "raw/f", b"1")
    (root.path / "raw").rename(root.path / "moved")
    monkeypatch.setattr(RootFolder, "_KEEP_S", 0.0)
    write(root, "raw/g", b"2")
    assert files(root) == {"moved/f": b"1", "raw/g": b"2"}


def test_a_folder_that_was_removed_is_made_again(root: RootFolder) -> None:
    write(root, "raw/f", b"1")
    (root.path / "raw/f").unlink()
    (root.path / "raw").rmdir()
    write(root, "raw/f", b"2")
    assert files(root) == {"raw/f": b"2"}


def test_few_folders_are_kept_open(root: RootFolder) -> None:
    fds = files_open()
    for number in range(200):
        write(root, f"d{number}/f", b"x")
    assert files_open() <= fds + RootFolder._KEEP_MAX + 1


# ---------------------------------------------------------------------------- disks


@syncs
def test_a_disk_that_takes_no_more_leaves_nothing(root: RootFolder, sync: bool) -> None:
    """A limit on the size of files stands for a disk that fails in the middle of a write."""
    before = signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_NBYTES + 100, hard))
    try:
        with pytest.raises(StorageError, match="too large"):
            write(root, "raw/f", bytes(2 * CHUNK_NBYTES), sync)
        file = NewFile(root, "raw/g", sync=sync)
        file.write(memoryview(bytes(CHUNK_NBYTES + 100)))
        with pytest.raises(StorageError):
            file.write(memoryview(b"x"))
        file.abort()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert files(root) == {}
    write(root, "raw/f", bytes(2 * CHUNK_NBYTES), sync)


@pytest.mark.parametrize("call", ["fdatasync", "close", "write"])
def test_a_disk_that_fails_at_the_end_leaves_nothing(
    root: RootFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A quota may be told as late as when a file is closed."""
    real = getattr(os, call)
    failed: list[int] = []

    def fails(fd: int, *rest: object) -> object:
        if failed:
            return real(fd, *rest)
        failed.append(fd)
        if call == "close":
            real(fd)
        raise OSError(122, "Disk quota exceeded")

    file = NewFile(root, "raw/f", sync=True)
    monkeypatch.setattr(os, call, fails)
    with pytest.raises(NoSpace, match="raw/f"):
        END[call](file)
    monkeypatch.undo()
    file.abort()
    assert failed
    assert not [name for name in files(root) if PART_PREFIX in name]


END: dict[str, Callable[[NewFile], object]] = {
    "write": lambda file: file.write(memoryview(b"data")),
    "fdatasync": lambda file: file.commit(digest_of(b""), 0),
    "close": lambda file: file.commit(digest_of(b""), 0),
}


def test_errors_of_the_system_are_ours(tmp_path: Path) -> None:
    assert isinstance(storage_error(OSError(28, "full"), "x"), NoSpace)
    assert isinstance(storage_error(OSError(122, "quota"), "x"), NoSpace)
    assert not isinstance(storage_error(OSError(5, "broken"), "x"), NoSpace)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="folder"):
        RootFolder(tmp_path / "file")
    root = RootFolder(tmp_path / "root")
    with pytest.raises(BadName, match="too long"):
        write(root, "x" * 300, b"")
    root.close()


def test_a_damaged_file_is_detected(root: RootFolder) -> None:
    digest = write(root, "raw/f", b"payload")
    for damage in (b"Payload", b"payloa", b"payload!", b""):
        (root.path / "raw/f").write_bytes(damage)
        file = StoredFile(root, "raw/f")
        with pytest.raises(Corrupt, match="damaged"):
            file.verify(digest, 7)
        if len(damage) < 7:
            with pytest.raises(Corrupt, match="shorter"):
                file.read_into(memoryview(bytearray(7)))
        file.close()
    (root.path / "raw/f").unlink()
    with pytest.raises(DataLost, match="raw/f"):
        StoredFile(root, "raw/f")


def test_what_unfinished_writes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    root = RootFolder(tmp_path / "root")
    left = [NewFile(root, f"raw/f{number}", sync=False) for number in range(3)]
    keep = [f"{PART_PREFIX}short", "f", f"x{PART_PREFIX}{'0' * 32}", f"{PART_PREFIX}{'g' * 32}"]
    for name in keep:
        (root.path / "raw" / name).write_bytes(b"")
    (root.path / "raw" / f"{PART_PREFIX}{'0' * 32}").mkdir()
    (root.path / "raw" / f"{PART_PREFIX}{'1' * 32}").symlink_to("f")
    assert remove_parts(root.path / "raw") == 3
    assert {path.name for path in (root.path / "raw").iterdir()} >= set(keep)
    assert len(list((root.path / "raw").iterdir())) == len(keep) + 2
    assert remove_parts(tmp_path / "nowhere") == 0
    assert remove_parts(root.path / "raw/f") == 0
    for file in left:
        file.abort()
    root.close()
