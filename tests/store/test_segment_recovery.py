"""After a crash: what was synced stays, what was torn goes, and never other bytes."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_files import files_open
from segment_logs import Written, change, flip, is_damaged, opened

from beamstream.errors import Corrupt, DataLost, StorageError, StoreTooNew
from beamstream.store.files import digest_of
from beamstream.store.segment_files import name_of
from beamstream.store.segment_format import ENTRY_NBYTES, HEADER_NBYTES, checksum_of, padded
from beamstream.store.segment_recovery import Damaged, Torn
from beamstream.store.segments import SegmentFile, Segments


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    gc.collect()
    fds = files_open()
    yield tmp_path / "segments"
    gc.collect()
    assert files_open() == fds


# ------------------------------------------------------------------------ after a crash


def test_a_torn_end_is_cut_off_at_every_byte(folder: Path) -> None:
    log = opened(folder)
    first = Written(log, [b"first", b"of two"])
    log.sync()
    second = Written(log, [b"second"])
    del log
    content = (folder / name_of(1)).read_bytes()
    for nbytes in range(second.start + 1, second.end):
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / name_of(1)).write_bytes(content[:nbytes])
        log = opened(folder)
        assert log.recovery == (nbytes, (Torn(1, nbytes - second.start),), ())
        first.check(log)
        with pytest.raises(DataLost, match="ends before"):
            second.check(log)
        assert log.list() == [SegmentFile(1, second.start + ENTRY_NBYTES)]
        third = Written(log, [b"third"])
        assert third.place.segment == 2
        log.close()
        again = opened(folder)
        assert again.recovery == (0, (), ())
        first.check(again)
        third.check(again)
        again.close()


@pytest.mark.parametrize("missing", ["body", "header", "all"])
def test_a_file_that_has_grown_without_its_bytes(folder: Path, missing: str) -> None:
    log = opened(folder)
    first = Written(log, [b"first"])
    second = Written(log, [b"second" * 1000])
    del log
    lo = second.start if missing != "body" else second.place.offset
    hi = second.end if missing != "header" else second.place.offset

    def zero(content: bytearray) -> None:
        content[lo:hi] = bytes(hi - lo)

    change(folder / name_of(1), zero)
    log = opened(folder)
    assert log.recovery.torn == (Torn(1, padded(second.end) - second.start),)
    assert not log.recovery.damaged
    first.check(log)
    log.close()


@pytest.mark.parametrize("where", ["header", "first payload", "last payload"])
def test_damage_before_what_is_whole_is_kept(folder: Path, where: str) -> None:
    log = opened(folder)
    before = Written(log, [b"before"])
    hit = Written(log, [b"hit one", b"hit two"])
    after = Written(log, [b"after"])
    del log
    offset = {
        "header": hit.start + 20,
        "first payload": hit.place.offset,
        "last payload": hit.end - 1,
    }[where]
    flip(folder / name_of(1), offset)
    nbytes = (folder / name_of(1)).stat().st_size
    log = opened(folder)
    assert log.recovery == (nbytes, (), (Damaged(1, hit.start, after.start - hit.start),))
    assert log.list() == [SegmentFile(1, nbytes + ENTRY_NBYTES)]
    before.check(log)
    after.check(log)
    assert is_damaged(log, hit) == (where != "header")
    [first, second] = list(hit.places())
    for (place, payload), name in ((first, "first payload"), (second, "last payload")):
        if where != name:
            assert log.read(*place, len(payload), digest_of(payload)) == payload
    log.close()
    again = opened(folder)
    assert again.recovery == (0, (), ())
    again.close()


def test_what_records_speak_of_is_never_cut_off(folder: Path) -> None:
    """One flipped bit in the last entry costs one message, not the entry."""
    log = opened(folder)
    last = Written(log, [b"one", b"two", b"three"])
    log.sync()
    unrecorded = Written(log, [b"unrecorded"])
    del log
    for offset in (last.start + 3, last.place.offset):
        flip(folder / name_of(1), offset)
    flip(folder / name_of(1), unrecorded.place.offset)
    log = Segments(folder, referenced={1: last.end}.__getitem__)
    assert log.recovery.damaged == (Damaged(1, last.start, last.end - last.start),)
    [torn] = log.recovery.torn
    assert torn.nbytes == padded(unrecorded.end) - last.end
    [one, two, three] = list(last.places())
    with pytest.raises(Corrupt, match="segment 1"):
        log.read(*one[0], 3, digest_of(b"one"))
    for place, payload in (two, three):
        assert log.read(*place, len(payload), digest_of(payload)) == payload
    log.close()
    again = opened(folder)
    assert again.recovery == (0, (), ())
    again.close()


def test_records_of_bytes_that_never_came(folder: Path) -> None:
    log = opened(folder)
    first, lost = Written(log, [b"first"]), Written(log, [b"lost"])
    del log
    os.truncate(folder / name_of(1), lost.place.offset + 1)
    log = Segments(folder, referenced=lambda _: lost.end)
    assert log.recovery.damaged == (Damaged(1, lost.start, ENTRY_NBYTES + 1),)
    Written(log, [b"more" * 100]).check(log)
    first.check(log)
    assert is_damaged(log, lost)
    log.close()


@pytest.mark.parametrize("content", [b"", b"BEAM", bytes(64), bytes(4096)])
def test_a_segment_that_was_just_being_made_is_removed(folder: Path, content: bytes) -> None:
    log = opened(folder)
    first = Written(log, [b"first"])
    log.close()
    (folder / name_of(2)).write_bytes(content)
    log = opened(folder)
    assert [file.number for file in log.list()] == [1]
    assert log.recovery.torn == ((Torn(2, 4096),) if len(content) > 64 else ())
    first.check(log)
    assert log.append([b"x"]).segment == 3
    log.close()


def test_a_lost_header_costs_nothing_that_is_recorded(folder: Path) -> None:
    log = opened(folder)
    written = Written(log, [b"payload"])
    log.close()
    flip(folder / name_of(1), 10)
    nbytes = (folder / name_of(1)).stat().st_size
    for _ in range(2):
        log = Segments(folder, referenced={1: written.end}.__getitem__)
        assert log.recovery.damaged == (Damaged(1, 0, nbytes),)
        written.check(log)
        log.close()
    log = Segments(folder, referenced={1: written.end}.__getitem__)
    assert log.append([b"x"]).segment == 2
    log.close()


def test_a_segment_under_another_name_is_not_appended_to(folder: Path) -> None:
    log = opened(folder)
    log.append([b"payload"])
    log.close()
    shutil.copy(folder / name_of(1), folder / name_of(3))
    before = (folder / name_of(3)).read_bytes()
    log = opened(folder)
    assert log.recovery.damaged == (Damaged(3, 0, len(before)),)
    assert log.append([b"x"]).segment == 4
    log.close()
    assert (folder / name_of(3)).read_bytes() == before


def test_a_later_version_is_refused(folder: Path) -> None:
    log = opened(folder)
    log.append([b"payload"])
    log.close()

    def newer(content: bytearray) -> None:
        content[8:12] = (2).to_bytes(4, "little")
        content[56:64] = checksum_of([bytes(content[:56])]).to_bytes(8, "little")

    change(folder / name_of(1), newer)
    before = (folder / name_of(1)).read_bytes()
    with pytest.raises(StoreTooNew, match="version 2"):
        opened(folder)
    assert (folder / name_of(1)).read_bytes() == before


def test_the_older_of_two_torn_segments_is_mended_first(folder: Path) -> None:
    """Else a crash in between would leave it torn behind one that counts as whole."""
    log = opened(folder, 200)
    written = [Written(log, [bytes([n]) * 150]) for n in range(3)]
    del log
    for segment in (1, 2, 3):
        with (folder / name_of(segment)).open("ab") as file:
            file.write(b"torn")
    asked: list[int] = []

    def referenced(segment: int) -> int:
        asked.append(segment)
        if len(asked) == 2:
            raise StorageError("stopped here")
        return 0

    with pytest.raises(StorageError, match="stopped"):
        Segments(folder, referenced=referenced)
    assert asked == [1, 2]
    log = opened(folder, 200)
    assert log.recovery.torn == (Torn(2, 4), Torn(3, 4))
    for one in written:
        one.check(log)
    log.close()


def test_payloads_cannot_pretend_to_be_entries(folder: Path, tmp_path: Path) -> None:
    """A segment sent as a payload, behind damage, is not taken for entries of this one."""
    other = opened(tmp_path / "other")
    other.append([b"theirs"] * 10)
    other.close()
    theirs = (tmp_path / "other" / name_of(1)).read_bytes()
    log = opened(folder)
    first = Written(log, [b"first"])
    evil = Written(
        log, [bytes(64 + HEADER_NBYTES - evil_pad(first)), theirs, theirs[HEADER_NBYTES:]]
    )
    del log
    flip(folder / name_of(1), evil.start)
    log = opened(folder)
    assert log.recovery.torn == (Torn(1, padded(evil.end) - evil.start),)
    assert log.recovery.damaged == ()
    log.close()


def evil_pad(before: Written) -> int:
    """So that the copy stands at multiples of 8."""
    return (before.end + ENTRY_NBYTES) % 8


# -------------------------------------------------------------------- crashes at random


def crash(data: st.DataObject, path: Path, safe: int) -> None:
    """Let a power cut do something to what was not synced."""
    content = bytearray(path.read_bytes())
    tail = len(content) - safe
    if tail <= 0:
        return
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(safe, len(content)))
        match data.draw(st.sampled_from(["cut", "zero", "flip", "nothing"])):
            case "cut":
                del content[at:]
            case "zero":
                # Pages that did not reach the disk, though the file's length did.
                lo = max(safe, at - at % 64)
                hi = min(len(content), lo + 64 * data.draw(st.integers(1, 8)))
                content[lo:hi] = bytes(max(0, hi - lo))
            case "flip" if at < len(content):
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case _:
                pass
    path.write_bytes(content)


BODY = st.lists(st.binary(max_size=300), min_size=1, max_size=4)
STEP = st.one_of(BODY, st.just("sync"), BODY)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(STEP, max_size=10), min_size=1, max_size=4), st.data())
def test_what_was_synced_survives_any_crash(runs: list[list[object]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "segments"
        synced: list[Written] = []
        unsynced: list[Written] = []
        lost: list[Written] = []
        for steps in runs:
            log = Segments(folder, referenced=reach(synced), rotate_nbytes=1000)
            for one in synced:
                one.check(log)
            for step in steps:
                if step == "sync":
                    log.sync()
                    synced += unsynced
                    unsynced.clear()
                elif isinstance(step, list):
                    unsynced.append(Written(log, step))
                    unsynced[-1].check(log)
            if data.draw(st.booleans(), "clean stop"):
                log.close()
                synced += unsynced
            else:
                del log
                for path in sorted(folder.iterdir()):
                    number = int(path.stem)
                    crash(data, path, reach(synced)(number))
                lost += unsynced
            unsynced = []
        log = Segments(folder, referenced=reach(synced))
        for one in synced:
            one.check(log)
        for one in lost:
            is_damaged(log, one)
        log.close()
        again = Segments(folder, referenced=reach(synced))
        assert again.recovery.scanned_nbytes == 0
        again.close()


def reach(written: list[Written]) -> Callable[[int], int]:
    """How far records of these reach into a segment."""

    def referenced(segment: int) -> int:
        return max((one.end for one in written if one.place.segment == segment), default=0)

    return referenced
