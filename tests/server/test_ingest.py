"""What a put means: real cache, catalog and files on an event loop, without sockets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hall import (
    ARENA,
    BT,
    CACHE_ONLY,
    DEFAULT,
    FILE_ONLY,
    META_ONLY,
    SOURCE,
    STREAM,
    Hall,
    message,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import (
    BadInput,
    BadName,
    Error,
    IdConflict,
    NameConflict,
    NoSpace,
    NotFound,
    TooLarge,
)
from beamstream.model import Level, Place, Who
from beamstream.server.beamtimes import BeamtimeFolders
from beamstream.server.ingest import Put
from beamstream.server.messages import Answer, Message, Producer

levels = pytest.mark.parametrize("durability", list(Level))


@levels
@pytest.mark.parametrize("mode", [CACHE_ONLY, DEFAULT, META_ONLY, FILE_ONLY])
def test_a_message_is_where_its_mode_says(tmp_path: Path, durability: Level, mode: int) -> None:
    async def test(hall: Hall) -> None:
        payload = b"" if mode == META_ONLY else b"payload"
        answer = await hall.send(message(mode=mode, size=7), payload)
        assert answer == Answer(1)
        file = hall.files / "processed/f1"
        assert file.exists() == bool(mode & 4)
        if mode & 4:
            assert file.read_bytes() == payload
        if mode == FILE_ONLY:
            assert hall.catalog.stream(BT, SOURCE, STREAM) is None
            return
        record = hall.record(1)
        assert record.level == {CACHE_ONLY: 0, DEFAULT: max(durability, 1)}.get(mode, durability)
        assert record.place == {CACHE_ONLY: Place.CACHE, DEFAULT: Place.FILE}.get(mode, 0)
        assert (record.size, record.mode, record.node, record.boot) == (7, mode, 1, 1)
        assert hall.cached(record) == (payload or None)
        assert hall.stats.messages_in == 1
        assert hall.catalog.items_by_id(BT, 1, 1, 2, 1) == [record]

    run(tmp_path, test, durability)


@levels
@pytest.mark.parametrize("mode", [CACHE_ONLY, DEFAULT])
def test_the_same_again_is_a_duplicate_and_other_content_a_conflict(
    tmp_path: Path, durability: Level, mode: int
) -> None:
    async def test(hall: Hall) -> None:
        assert await hall.send(message(mode=mode), b"abc") == Answer(1)
        assert await hall.send(message(mode=mode), b"abc") == Answer(1, duplicate=True)
        other = await hall.send(message(mode=mode), b"abd")
        assert isinstance(other.error, IdConflict)
        renamed = await hall.send(message(name="processed/f2", mode=mode), b"abc")
        assert isinstance(renamed.error, IdConflict)
        assert not (hall.files / "processed/f2").exists(), "nothing is written for a conflict"
        assert hall.cached(hall.record(1)) == b"abc"
        taken = await hall.send(message(id=2, mode=mode), b"xyz")
        if mode == DEFAULT:
            assert isinstance(taken.error, NameConflict)
            assert (hall.files / "processed/f1").read_bytes() == b"abc"
        else:
            assert taken == Answer(2)

    run(tmp_path, test, durability)


def test_automatic_ids_follow_each_other(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        names = [f"processed/f{n}" for n in range(10)]
        answers = await asyncio.gather(
            *(hall.send(message(0, name), name.encode()) for name in names)
        )
        assert sorted(answer.id for answer in answers) == list(range(1, 11))
        for name, answer in zip(names, answers, strict=True):
            assert hall.record(answer.id).name == name

    run(tmp_path, test)


@levels
def test_two_sends_at_once_are_one_message(tmp_path: Path, durability: Level) -> None:
    """The second waits for the end of the first: nothing is written twice or over another."""

    async def test(hall: Hall) -> None:
        same = await asyncio.gather(*(hall.send(message(), b"abc") for _ in range(8)))
        assert sorted(answer.duplicate for answer in same) == [False] + [True] * 7
        assert not any(answer.error for answer in same)
        different = await asyncio.gather(
            *(hall.send(message(2, "processed/f2"), b"ab%d" % n) for n in range(8))
        )
        assert sum(answer.error is None for answer in different) == 1
        one_path = await asyncio.gather(
            *(hall.send(message(10 + n, "processed/f3"), b"ab%d" % n) for n in range(8))
        )
        assert sum(answer.error is None for answer in one_path) == 1
        assert len(list((hall.files / "processed").iterdir())) == 3

    run(tmp_path, test, durability)


def test_who_waits_for_a_reservation_goes_on_when_the_first_is_aborted(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        first = await hall.begin(message(), 3)
        second = asyncio.ensure_future(hall.send(message(), b"abc"))
        await asyncio.sleep(0)
        assert not second.done()
        first.abort()
        assert await second == Answer(1)

    run(tmp_path, test)


def test_who_waits_for_room_goes_on_when_there_is_some(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        held = await hall.begin(message(1, mode=CACHE_ONLY), ARENA)
        waiting = [
            asyncio.ensure_future(hall.send(message(n, f"f{n}", CACHE_ONLY), bytes(ARENA)))
            for n in range(2, 6)
        ]
        await asyncio.sleep(0)
        assert not any(answer.done() for answer in waiting)
        assert set(hall.ingest._reserved) == {held.key}
        await hall.receive(held, bytes(ARENA))
        assert await hall.complete(held) == Answer(1)
        assert sorted(answer.id for answer in await asyncio.gather(*waiting)) == [2, 3, 4, 5]

    run(tmp_path, test, arenas=1)


def test_who_gives_up_waits_no_more(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        called: list[int] = []
        held = await hall.begin(message(1, mode=CACHE_ONLY), ARENA)
        resumes = [lambda: called.append(1), lambda: called.append(2)]
        for id, resume in zip((1, 2), resumes, strict=True):
            waits = hall.ingest.begin(
                hall.producer, message(id, "x", mode=CACHE_ONLY), ARENA, resume
            )
            assert not isinstance(waits, Put)
            hall.ingest.give_up(resume)
        held.abort()
        await asyncio.sleep(0)
        assert called == []

    run(tmp_path, test, arenas=1)


def test_a_payload_that_left_the_cache_comes_back_with_a_duplicate(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        payload = os.urandom(ARENA)
        await hall.send(message(), payload)
        await hall.send(message(2, "processed/f2"), bytes(ARENA))
        assert hall.cached(hall.record(1)) is None
        assert (await hall.send(message(), payload)).duplicate
        assert hall.cached(hall.record(1)) == payload

    run(tmp_path, test, arenas=1)


@levels
@settings(max_examples=8, deadline=None)
@given(nbytes=st.integers(ARENA + 1, 5 * ARENA), data=st.data())
def test_a_payload_larger_than_the_cache_goes_to_its_file_as_it_comes(
    tmp_path_factory: pytest.TempPathFactory, durability: Level, nbytes: int, data: st.DataObject
) -> None:
    payload = os.urandom(nbytes)
    stop = data.draw(st.integers(0, nbytes // (ARENA // 2) - 1))

    async def test(hall: Hall) -> None:
        aborted = await hall.begin(message(), nbytes)
        for _ in range(stop):
            more: asyncio.Future[memoryview] = hall.loop.create_future()
            aborted.filled(more.set_result)
            await more
        aborted.abort()
        assert await hall.send(message(), payload) == Answer(1)
        assert (hall.files / "processed/f1").read_bytes() == payload
        assert hall.cached(hall.record(1)) is None
        assert await hall.send(message(), payload) == Answer(1, duplicate=True)
        other = await hall.send(message(), bytes(nbytes))
        assert isinstance(other.error, IdConflict)
        taken = await hall.send(message(2), bytes(nbytes))
        assert isinstance(taken.error, NameConflict)
        with pytest.raises(TooLarge, match="larger than what the cache takes"):
            await hall.begin(message(3, mode=CACHE_ONLY), nbytes)

    run(tmp_path_factory.mktemp("streamed"), test, durability)


def test_a_streamed_payload_whose_file_cannot_be_written_is_refused_at_its_end(
    tmp_path: Path,
) -> None:
    async def test(hall: Hall) -> None:
        hall.files.mkdir()
        (hall.files / "processed").symlink_to(tmp_path)
        answer = await hall.send(message(), bytes(3 * ARENA))
        assert isinstance(answer.error, BadName)

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("refused", "nbytes", "error"),
    [
        (message(mode=0), 3, BadInput),
        (message(mode=3), 3, BadInput),
        (message(mode=1), 3, BadInput),
        (message(mode=6), 3, BadInput),
        (message(mode=32 + 9), 3, BadInput),
        (message(id=2**63), 3, BadInput),
        (message(name="../f"), 3, BadName),
        (message(name="raw/f"), 3, BadName),
        (message(name="processed"), 3, BadName),
        (message(), 0, BadInput),
        (message(size=limits.PAYLOAD_NBYTES_MAX + 1), 3, TooLarge),
        (message(id=0, substream=1, expected=2), 3, BadInput),
        (message(substream=3, expected=2), 3, BadInput),
        (message(substream=1), 3, BadInput),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, refused: Message, nbytes: int, error: type[Error]
) -> None:
    async def test(hall: Hall) -> None:
        with pytest.raises(error):
            hall.ingest.begin(hall.producer, refused, nbytes, lambda: None)
        assert hall.cache.slots == 0

    run(tmp_path, test)


def test_a_full_disk_and_a_beamtime_without_folder_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(hall: Hall) -> None:
        monkeypatch.setattr(limits, "DISK_RESERVE_NBYTES_MIN", 2**62)
        free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
        with pytest.raises(NoSpace):
            hall.ingest.begin(hall.producer, message(), free, lambda: None)
        folders = BeamtimeFolders(BT, "", hall.files, raw_to_core=False)
        raw = Producer(folders, SOURCE, True, Who())
        with pytest.raises(NotFound):
            hall.ingest.begin(raw, message(name="raw/f"), 3, lambda: None)
        assert hall.cache.slots == 0

    run(tmp_path, test)
