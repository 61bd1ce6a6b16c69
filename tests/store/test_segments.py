"""Segments: what is appended can be read, whatever disks do. Real files only."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from open_files import files_open
from segment_logs import Written, opened, path_of

from beamstream import limits
from beamstream.errors import (
    BadInput,
    Corrupt,
    DataLost,
    NoSpace,
    NotFound,
    ReadOnly,
    StorageError,
    TooLarge,
)
from beamstream.store.files import digest_of
from beamstream.store.segment_files import name_of
from beamstream.store.segment_format import ENTRY_NBYTES, HEADER_NBYTES, SCAN_NBYTES, padded
from beamstream.store.segment_recovery import Torn


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    gc.collect()
    fds = files_open()
    yield tmp_path / "segments"
    gc.collect()
    assert files_open() == fds


# ----------------------------------------------------------------------------- everyday


BODIES = {
    "one": [b"payload"],
    "many": [bytes([i]) * i for i in range(1, 200)],
    "empty ones": [b"", b"x", b""],
    "nothing at all": [b""],
    "large": [bytes(5 << 20)],
    "more pieces than one call takes": [i.to_bytes(4, "big") * 1100 for i in range(1200)],
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_appended_can_be_read(folder: Path, body: list[bytes]) -> None:
    log = opened(folder)
    first, second = Written(log, body), Written(log, [b"next", *body])
    log.sync()
    for written in (first, second):
        written.check(log)
        for place, payload in written.places():
            memory = bytearray(len(payload))
            log.read_into(*place, memoryview(memory), digest_of(payload))
            assert memory == payload
    log.close()
    again = opened(folder)
    first.check(again)
    second.check(again)
    again.close()


def test_payloads_of_any_kind_of_memory(folder: Path) -> None:
    log = opened(folder)
    place = log.append([b"bytes", bytearray(b"array"), memoryview(b"-view-")[1:-1]])
    assert log.read(place.segment, place.offset, 14, digest_of(b"bytesarrayview")) == (
        b"bytesarrayview"
    )
    wide = memoryview(bytes(16)).cast("I")
    for body in ([wide, b"x"], [wide]):
        with pytest.raises(BadInput, match="bytes"):
            log.append(body)
    with pytest.raises(BadInput, match="needs a payload"):
        log.append([])
    log.close()


def test_too_much_at_once_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAYLOAD_NBYTES_MAX", 1000)
    log = opened(folder)
    with pytest.raises(TooLarge, match="2 payloads of 1001 bytes"):
        log.append([bytes(500), bytes(501)])
    assert log.list() == []
    log.append([bytes(1000)])
    log.close()


def test_a_new_segment_when_one_is_full(folder: Path) -> None:
    log = opened(folder, 1000)
    written = [Written(log, [bytes([n]) * 400]) for n in range(4)]
    written.append(Written(log, [bytes(5000)]))
    written.append(Written(log, [b"small"]))
    assert [one.place.segment for one in written] == [1, 1, 2, 2, 3, 4]
    log.sync()
    assert [file.number for file in log.list()] == [1, 2, 3, 4]
    for one in written:
        one.check(log)
    log.close()
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_nothing_is_read_through_after_a_clean_stop(folder: Path) -> None:
    ends = []
    for run in range(4):
        log = opened(folder)
        assert log.recovery == (0, (), ())
        if run != 2:
            Written(log, [b"payload"]).check(log)
        log.close()
        log.close()
        ends.append(path_of(log).stat().st_size)
    assert [path.name for path in folder.iterdir()] == ["00000001.seg"]
    # A run without appends writes nothing.
    assert ends[1] == ends[2] < ends[3]


def test_full_segments_are_marked_by_the_next_sync(folder: Path) -> None:
    log = opened(folder, 500)
    for _ in range(5):
        log.append([bytes(400)])
        log.sync()
    del log
    again = opened(folder, 500)
    assert again.recovery.scanned_nbytes == HEADER_NBYTES + ENTRY_NBYTES + 400
    again.close()


def test_a_closed_log_says_so(folder: Path) -> None:
    log = opened(folder)
    place = log.append([b"x"])
    log.close()
    calls: list[Callable[[], object]] = [
        lambda: log.append([b"x"]),
        log.list,
        lambda: log.drop(1),
        lambda: log.read(*place, 1, digest_of(b"x")),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="closed"):
            call()
    # Closing has synced.
    log.sync()


def test_other_things_in_the_folder_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    for name in ("1.seg", "000000001.seg", "00000001.seg.bak", "notes"):
        (folder / name).write_bytes(b"mine")
    log = opened(folder)
    assert log.list() == []
    assert log.append([b"x"]).segment == 1
    log.close()
    assert (folder / "000000001.seg").read_bytes() == b"mine"


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / name_of(1)).symlink_to(tmp_path / "secret")
    with pytest.raises(StorageError):
        opened(folder)
    assert (tmp_path / "secret").read_bytes() == b"secret"
    (folder / name_of(1)).unlink()
    log = opened(folder)
    (folder / name_of(1)).symlink_to(tmp_path / "secret")
    with pytest.raises(StorageError):
        log.read(1, 0, 6, digest_of(b"secret"))
    (folder / name_of(2)).mkdir()
    with pytest.raises(Corrupt, match="regular"):
        log.read(2, 0, 6, digest_of(b"secret"))
    log.close()
    (folder / name_of(1)).unlink()
    with pytest.raises(StorageError):
        opened(folder)


def test_few_segments_are_kept_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEGMENTS_READ_MAX", 3)
    log = opened(folder, 100)
    written = [Written(log, [bytes([n]) * 100]) for n in range(12)]
    log.sync()
    fds = files_open()
    for one in [*written, *written]:
        one.check(log)
    assert files_open() == fds + 3
    held = log.slice(*written[0].place, 100)
    for one in written[1:]:
        one.check(log)
    # Pushed out of what is kept open, it stays valid for who has it.
    held.verify(digest_of(bytes(100)), 100)
    del held
    log.close()


def test_a_slice_has_the_face_of_a_file(folder: Path) -> None:
    log = opened(folder)
    payload = random.Random(1).randbytes(3 * SCAN_NBYTES + 5)
    place = log.append([b"before", payload, b"after"])
    found = log.slice(place.segment, place.offset + 6, len(payload))
    found.verify(digest_of(payload), len(payload))
    for digest, nbytes in ((digest_of(payload), 1), (digest_of(b""), len(payload))):
        with pytest.raises(Corrupt, match=r"segment 1, .* damaged"):
            found.verify(digest, nbytes)
    memory = bytearray(10)
    found.read_piece(memoryview(memory), 100)
    assert memory == payload[100:110]
    with pytest.raises(Corrupt, match="shorter"):
        found.read_piece(memoryview(memory), len(payload) - 9)
    assert os.pread(found.fd, 3, found.offset) == payload[:3]
    found.close()
    log.close()


def test_wrong_records_cost_nothing(folder: Path) -> None:
    log = opened(folder)
    place = log.append([b"payload"])
    for segment, offset, nbytes in (
        (place.segment, place.offset, 1 << 60),
        (place.segment, -5, 5),
        (place.segment, place.offset, -1),
        (2, 0, 1),
        (-1, 0, 1),
    ):
        with pytest.raises(DataLost, match="segment"):
            log.read(segment, offset, nbytes, digest_of(b"payload"))
    for offset, nbytes in ((place.offset, 6), (place.offset + 1, 7), (0, 7)):
        with pytest.raises(Corrupt, match="segment 1"):
            log.read(1, offset, nbytes, digest_of(b"payload"))
    with pytest.raises(Corrupt, match="segment 1"):
        log.read_into(1, place.offset, memoryview(bytearray(6)), digest_of(b"payload"))
    log.close()


# ------------------------------------------------------------------------------- dropping


def test_dropped_segments_are_gone(folder: Path) -> None:
    log = opened(folder, 300)
    written = [Written(log, [bytes([n]) * 100]) for n in range(3)]
    written[0].check(log)
    log.drop(1)
    with pytest.raises(DataLost, match=r"segment 1 in .* is not there"):
        written[0].check(log)
    written[1].check(log)
    # The newest: its number is not used again.
    log.drop(3)
    log.sync()
    assert [file.number for file in log.list()] == [2, 4]
    with pytest.raises(NotFound, match="no segment 3"):
        log.drop(3)
    log.close()
    again = opened(folder, 300)
    assert again.recovery == (0, (), ())
    assert again.append([b"x"]).segment == 4
    again.drop(2)
    again.drop(4)
    again.close()
    last = opened(folder)
    assert last.append([b"x"]).segment == 5
    last.close()


# ------------------------------------------------------------------------- failing disks


@contextlib.contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("size", [3000, 6 << 20])
def test_an_append_that_fails_half_way_leaves_nothing(folder: Path, size: int) -> None:
    log = opened(folder)
    first = Written(log, [b"first"])
    nbytes = path_of(log).stat().st_size
    with file_size_limit(nbytes + size // 2):
        with pytest.raises(StorageError, match="too large"):
            log.append([bytes(size // 3)] * 3)
        assert path_of(log).stat().st_size == nbytes
        second = Written(log, [b"second"])
    third = Written(log, [bytes(size)])
    log.sync()
    for one in (first, second, third):
        one.check(log)
    log.close()
    again = opened(folder)
    assert again.recovery == (0, (), ())
    again.close()


def test_a_segment_that_cannot_be_begun_leaves_nothing(folder: Path) -> None:
    log = opened(folder, 100)
    with file_size_limit(10), pytest.raises(StorageError):
        log.append([b"x"])
    assert log.list() == []
    assert log.append([b"x"]).segment == 2
    log.close()


FILL = """
import os, sys
from pathlib import Path
from beamstream.errors import NoSpace
from beamstream.store.files import digest_of
from beamstream.store.segments import Segments
folder = Path(sys.argv[1]) / "segments"
log = Segments(folder, referenced=lambda segment: 0, rotate_nbytes=200_000)
places = []
def fill():
    try:
        while True:
            places.append(log.append([bytes([len(places) % 256]) * 10_007]))
            log.sync()
    except NoSpace as error:
        assert "send" in error.hint
fill()
assert len(places) > 50, places
full = len(places)
files = log.list()
fill()
assert len(places) <= full + 1
log.sync()
for number, place in enumerate(places):
    payload = bytes([number % 256]) * 10_007
    assert log.read(*place, 10_007, digest_of(payload)) == payload
log.drop(1)
fill()
log.sync()
assert len(places) > full + 10, (full, len(places))
log.close()
again = Segments(folder, referenced=lambda segment: 0)
assert not again.recovery.damaged
for number, place in enumerate(places):
    payload = bytes([number % 256]) * 10_007
    if place.segment > 1:
        assert again.read(*place, 10_007, digest_of(payload)) == payload
again.close()
print("full and well")
"""


def test_a_full_disk(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is missing: no small file system can be mounted")
    mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    command = [unshare, "-rm", "sh", "-c", mount, str(tmp_path)]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here: no small file system can be mounted")
    code = textwrap.dedent(FILL)
    done = subprocess.run(
        [*command, sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "full and well\n", done.stderr


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_after_a_failed_sync_nothing_is_called_safe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    log = opened(folder)
    written = Written(log, [b"payload"])
    real = getattr(os, call)
    failures = [OSError(errno.EIO, "Input/output error")]

    def fails_once(fd: int) -> None:
        if failures:
            raise failures.pop()
        real(fd)

    monkeypatch.setattr(os, call, fails_once)
    with pytest.raises(ReadOnly, match="could not be written to disk"):
        log.sync()
    assert not failures
    for refused in (log.sync, lambda: log.append([b"more"]), lambda: log.drop(1)):
        with pytest.raises(ReadOnly):
            refused()
    written.check(log)
    assert [file.number for file in log.list()] == [1]
    log.close()
    # It does not count as closed cleanly.
    again = opened(folder)
    assert again.recovery.scanned_nbytes > 0
    again.close()


def test_all_that_wait_for_a_sync_that_fails_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(folder)
    log.append([b"payload"])
    inside, go = threading.Event(), threading.Event()

    def fails(_fd: int) -> None:
        inside.set()
        assert go.wait(30)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            log.sync()
        except ReadOnly as error:
            told.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    # Appends go on beside a sync, but are not safe.
    log.append([b"meanwhile"])
    go.set()
    for thread in threads:
        thread.join(30)
    assert len(told) == 4
    log.close()


@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch, full: int) -> None:
    log = opened(folder)
    first = Written(log, [b"first"])

    def fails(fd: int, pieces: list[bytes], offset: int) -> int:
        os.pwrite(fd, b"half of it", offset)
        raise OSError(full, os.strerror(full))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", fails)
        with pytest.raises(ReadOnly if full == errno.EIO else NoSpace):
            log.append([b"second"])
    assert path_of(log).stat().st_size == padded(first.end)
    first.check(log)
    if full == errno.EIO:
        with pytest.raises(ReadOnly):
            log.append([b"third"])
    else:
        Written(log, [b"third"]).check(log)
    log.close()


def test_a_partial_entry_that_cannot_be_cut_off_ends_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(folder)
    first = Written(log, [b"first"])
    monkeypatch.setattr(os, "ftruncate", broken)
    with file_size_limit(path_of(log).stat().st_size + 10), pytest.raises(ReadOnly):
        log.append([bytes(1000)])
    monkeypatch.undo()
    with pytest.raises(ReadOnly):
        log.append([b"more"])
    first.check(log)
    log.close()
    again = opened(folder)
    assert again.recovery.torn == (Torn(1, 10),)
    first.check(again)
    again.close()


def broken(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_writes_may_be_short(folder: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = os.pwrite
    body = [bytes([n]) * (50 * n) for n in range(20)]
    large = [bytes(4 << 20), b"tail"]

    def short(fd: int, pieces: list[bytes], offset: int) -> int:
        return real(fd, b"".join(pieces)[:step], offset)

    def short_too(fd: int, piece: bytes, offset: int) -> int:
        return real(fd, bytes(piece)[: max(step, len(piece) // 2)], offset)

    monkeypatch.setattr(os, "pwritev", short)
    monkeypatch.setattr(os, "pwrite", short_too)
    log = opened(folder)
    written = [Written(log, body), Written(log, large), Written(log, body)]
    monkeypatch.undo()
    for one in written:
        one.check(log)
    log.close()


def test_a_full_disk_does_not_keep_a_node_from_starting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(folder)
    first = Written(log, [b"first"])
    del log
    with (folder / name_of(1)).open("ab") as file:
        file.write(b"torn")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for torn in ((Torn(1, 4),), ()):
        log = opened(folder)
        assert log.recovery.torn == torn
        first.check(log)
        log.close()


def test_a_disk_that_fails_at_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(folder)
    log.append([b"first"])
    del log
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match="segments"):
        opened(folder)
    monkeypatch.undo()
    (folder / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        opened(folder / "file")


def test_segments_that_wait_for_a_sync_are_few(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def counts(fd: int) -> None:
        synced.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counts)
    log = opened(folder, 100)
    for _ in range(limits.SEGMENTS_UNSYNCED_MAX):
        log.append([bytes(100)])
    assert not synced
    log.append([bytes(100)])
    assert len(synced) == limits.SEGMENTS_UNSYNCED_MAX
    log.close()


# --------------------------------------------------------------------------------- threads


def test_many_threads_append_sync_and_read(folder: Path) -> None:
    log = opened(folder, 20_000)
    wrong: list[BaseException] = []
    found: list[Written] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        mine: list[Written] = []
        try:
            for _ in range(60):
                body = [rng.randbytes(rng.randrange(400)) for _ in range(rng.randrange(1, 6))]
                mine.append(Written(log, body))
                if rng.random() < 0.3:
                    log.sync()
                rng.choice(mine).check(log)
        except BaseException as error:
            wrong.append(error)
        found.extend(mine)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(found) == 360
    log.close()
    again = opened(folder)
    assert again.recovery == (0, (), ())
    for one in found:
        one.check(again)
    spans = sorted((one.place.segment, one.start, one.end) for one in found)
    assert all(a[0] < b[0] or a[2] <= b[1] for a, b in itertools.pairwise(spans))
    again.close()


def test_a_segment_left_between_a_sync_and_the_next_append_has_no_mark(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append while a sync runs, then one that begins a new segment: the old one is not safe."""
    log = opened(folder, 400)
    log.append([bytes(100)])
    inside, go = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(fd: int) -> None:
        real(fd)
        inside.set()
        assert go.wait(30)

    monkeypatch.setattr(os, "fdatasync", slow)
    thread = threading.Thread(target=log.sync)
    thread.start()
    assert inside.wait(30)
    unsafe = Written(log, [bytes(50)])
    assert log.append([bytes(200)]).segment == 2
    go.set()
    thread.join(30)
    assert path_of(log).stat().st_size == padded(unsafe.end)
    log.sync()
    assert path_of(log).stat().st_size == padded(unsafe.end) + ENTRY_NBYTES
    log.close()
