"""Datasets, finish flags, metadata and failing disks, as ingest sees them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hall import BT, CACHE_ONLY, DEFAULT, META_ONLY, SOURCE, STREAM, Hall, message, run

from beamstream.errors import (
    BadInput,
    BadMetadata,
    BadName,
    Conflict,
    Error,
    IdConflict,
    ReadOnly,
    StorageError,
    StreamFinished,
)
from beamstream.model import Dataset, Level
from beamstream.server.messages import Answer
from beamstream.store import catalog as ops
from beamstream.store.catalog import Op, Result

levels = pytest.mark.parametrize("durability", list(Level))


def parts(hall: Hall, id: int) -> set[int]:
    """Substreams of a dataset that readers see."""
    item = hall.streams.item_by_id(hall.view, id)
    if item is None:
        return set()
    assert isinstance(item, Dataset)
    return {part.substream for part in item.parts}


@levels
@pytest.mark.parametrize("mode", [CACHE_ONLY, DEFAULT, META_ONLY])
def test_a_part_that_is_sent_again_stays_visible(
    tmp_path: Path, durability: Level, mode: int
) -> None:
    async def test(hall: Hall) -> None:
        for part in (1, 2):
            payload = b"" if mode == META_ONLY else b"abc"
            sent = message(1, f"processed/f{part}", mode, 3, substream=part, expected=2)
            assert await hall.send(sent, payload) == Answer(1)
            assert parts(hall, 1) == set(range(1, part + 1))
            put = await hall.begin(sent, len(payload))
            await hall.receive(put, payload)
            answer = hall.complete(put)
            assert parts(hall, 1) == set(range(1, part + 1)), "not even for a moment"
            assert await answer == Answer(1, duplicate=True)
            assert parts(hall, 1) == set(range(1, part + 1))
        payload = b"" if mode == META_ONLY else b"abcd"
        sent = message(1, "processed/f9", mode, 4, substream=2, expected=2)
        assert isinstance((await hall.send(sent, payload)).error, IdConflict)
        assert parts(hall, 1) == {1, 2}

    run(tmp_path, test, durability)


@pytest.mark.parametrize("mode", [DEFAULT, META_ONLY])
def test_a_part_is_not_seen_before_it_is_safe(tmp_path: Path, mode: int) -> None:
    async def test(hall: Hall) -> None:
        may, syncing = threading.Event(), threading.Event()
        sync = hall.catalog.sync

        def slow(beamtime: str) -> None:
            syncing.set()
            assert may.wait(30)
            sync(beamtime)

        assert (await hall.send(message(1, "processed/a", mode, substream=1, expected=3),
                                b"" if mode == META_ONLY else b"a")) == Answer(1)  # fmt: skip
        hall.catalog.sync = slow  # type: ignore[method-assign]
        try:
            second = asyncio.ensure_future(
                hall.send(
                    message(1, "processed/b", mode, substream=2, expected=3),
                    b"" if mode == META_ONLY else b"b",
                )
            )
            assert await asyncio.to_thread(syncing.wait, 30)
            recorded = hall.catalog.items_by_id(BT, hall.view.no, 1, 2, 1)[0]
            assert isinstance(recorded, Dataset)
            assert len(recorded.parts) == 2
            assert parts(hall, 1) == {1}
        finally:
            may.set()
        assert await second == Answer(1)
        assert parts(hall, 1) == {1, 2}

    run(tmp_path, test)


def test_who_is_behind_a_message_that_the_disk_did_not_take_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(hall: Hall) -> None:
        assert await hall.send(message(1, "processed/a"), b"a") == Answer(1)
        may, syncing = threading.Event(), threading.Event()
        sync = hall.catalog.sync

        def slow(beamtime: str) -> None:
            syncing.set()
            assert may.wait(30)
            sync(beamtime)

        hall.catalog.sync = slow  # type: ignore[method-assign]
        try:
            needs = asyncio.ensure_future(hall.send(message(2, "processed/b"), b"b"))
            assert await asyncio.to_thread(syncing.wait, 30)
            behind = asyncio.ensure_future(hall.send(message(3, "c", CACHE_ONLY), b"c"))
            while not hall.view.held:
                await asyncio.sleep(0)
            monkeypatch.setattr("os.fdatasync", _fails)
        finally:
            may.set()
        assert isinstance((await needs).error, ReadOnly)
        assert isinstance((await behind).error, ReadOnly)
        monkeypatch.undo()
        assert hall.view.visible_seq == 1
        assert hall.record(1).id == 1
        later = await hall.send(message(4, "d", CACHE_ONLY), b"d")
        assert isinstance(later.error, ReadOnly)

    run(tmp_path, test)


def _fails(fd: int) -> None:
    raise OSError(5, "Input/output error")


@levels
def test_a_stream_ends_once(tmp_path: Path, durability: Level) -> None:
    async def test(hall: Hall) -> None:
        async def finish(last_id: int, next_stream: str = "", stream: str = STREAM) -> Answer:
            answer: asyncio.Future[Answer] = hall.loop.create_future()
            hall.ingest.finish(
                hall.producer, SOURCE, stream, last_id, next_stream, answer.set_result
            )
            return await answer

        assert await hall.send(message(3, "processed/a"), b"a") == Answer(3)
        early = await finish(2)
        assert isinstance(early.error, Conflict)
        assert await finish(5, "scan2") == Answer(6)
        assert await finish(5, "scan2") == Answer(6, duplicate=True)
        assert isinstance((await finish(6)).error, Conflict)
        assert (hall.view.last_id, hall.view.next_stream) == (5, "scan2")
        with pytest.raises(StreamFinished):
            hall.ingest.begin(hall.producer, message(6, "processed/b"), 1, lambda: None)
        assert await hall.send(message(5, "processed/b"), b"b") == Answer(5)
        for stream, last_id, following, error in (
            ("", 1, "", BadName),
            ("s", -1, "", BadInput),
            ("s", 1, '"', BadName),
        ):
            with pytest.raises(error):
                await finish(last_id, following, stream)

    run(tmp_path, test, durability)


@levels
def test_metadata_is_written_or_refused(tmp_path: Path, durability: Level) -> None:
    async def test(hall: Hall) -> None:
        async def write(mode: ops.MetaMode, document: bytes, stream: str = STREAM) -> Error | None:
            answer: asyncio.Future[Answer] = hall.loop.create_future()
            op = ops.Meta(SOURCE, stream, mode, False, document)
            hall.ingest.write_meta(hall.producer, op, answer.set_result)
            return (await answer).error

        assert isinstance(await write(ops.MetaMode.REPLACE, b"{}"), Error)
        assert await write(ops.MetaMode.INSERT, b'{"a":1}') is None
        assert isinstance(await write(ops.MetaMode.INSERT, b"{}"), Error)
        assert await write(ops.MetaMode.UPDATE, b'{"b":2}') is None
        assert await write(ops.MetaMode.INSERT, b"{}", "") is None
        assert hall.catalog.meta(BT, SOURCE, "") == b"{}"
        with pytest.raises(BadMetadata):
            await write(ops.MetaMode.INSERT, b"[]")

    run(tmp_path, test, durability)


def test_a_fault_while_recording_is_answered(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        apply = hall.catalog.apply

        def breaks(beamtime: str, ops: Sequence[Op]) -> list[Result]:
            raise ZeroDivisionError

        hall.catalog.apply = breaks  # type: ignore[method-assign]
        for mode in (CACHE_ONLY, DEFAULT):
            answer = await hall.send(message(1, "processed/a", mode), b"a")
            assert isinstance(answer.error, StorageError)
        hall.catalog.apply = apply  # type: ignore[method-assign]
        assert await hall.send(message(1, "processed/a"), b"a") == Answer(1)
        other = await hall.send(message(1, "processed/a"), b"b")
        assert isinstance(other.error, IdConflict)

    run(tmp_path, test)
