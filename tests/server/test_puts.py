"""What native puts mean: real cache, catalog and segments on an event loop, without sockets."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import xxhash
from hall import BT, SOURCE, STREAM, Hall, open_below
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamstream.errors import BadMetadata, Error, NoSpace, TooLarge
from beamstream.model import Level, Place, Record, check_metadata
from beamstream.server import put_runs
from beamstream.server.beamtimes import Beamtimes
from beamstream.server.commits import Commits
from beamstream.server.ingest import Ingest, Wait
from beamstream.server.payloads import Payloads
from beamstream.server.put_checks import check_metas
from beamstream.server.puts import Job, Puts, Writer
from beamstream.server.segment_logs import SegmentLogs
from beamstream.settings import Settings
from beamstream.store.registry import Registry
from beamstream.wire.native import frames

LEVELS = pytest.mark.parametrize("level", list(Level))


class Desk:
    """Puts of one node, and what they were answered."""

    def __init__(self, hall: Hall, folder: Path) -> None:
        self.hall = hall
        hall.ingest.close()
        hall.commits.close()
        self.logs = SegmentLogs(folder / "segments", lambda beamtime, segment: 0)
        hall.commits = Commits(hall.catalog, hall.loop, lambda beamtime: [], self.logs.prepare)
        hall.ingest = Ingest(
            loop=hall.loop, streams=hall.streams, commits=hall.commits, cache=hall.cache,
            roots=hall.roots, stats=hall.stats, threads=hall.threads, durability=Level.DISK,
            node=1, boot=1,
        )  # fmt: skip
        self.registry = Registry(folder / "node.db")
        self.payloads = Payloads(
            cache=hall.cache,
            streams=hall.streams,
            roots=hall.roots,
            beamtimes=Beamtimes(Settings(data=folder), self.registry),
            logs=self.logs,
        )
        self.puts = Puts(
            loop=hall.loop, streams=hall.streams, commits=hall.commits, cache=hall.cache,
            payloads=self.payloads, ingest=hall.ingest, stats=hall.stats, threads=hall.threads,
            durability=Level.DISK, node=1, boot=1,
        )  # fmt: skip
        self.answers: list[frames.Receipt | frames.Failed] = []
        self._changed = asyncio.Event()

    def receipt(self, frame: frames.Receipt) -> None:
        self.answers.append(frame)
        self._changed.set()

    def refused(self, frame: frames.Failed) -> None:
        self.answers.append(frame)
        self._changed.set()

    def writer(self, level: int, sender: bytes = bytes(range(16))) -> Writer:
        opened = frames.OpenWriter(1, SOURCE, STREAM, sender, level)
        return self.puts.open(opened, self.hall.producer, self)

    def begin(self, writer: Writer, payloads: list[bytes], sequence: int, **more: object) -> Job:
        frame = put(payloads, sequence, **more)
        job = self.puts.begin(writer, frame, sum(frame.sizes), lambda: None)
        assert not isinstance(job, Wait)
        if job.memory is not None:
            job.memory[:] = b"".join(payloads)
        return job

    async def messages(self, count: int) -> list[frames.Receipt | frames.Failed]:
        """Wait until so many messages are answered; the answers by sequence."""
        while sum(answer.count for answer in self.answers) < count:
            self._changed.clear()
            await self._changed.wait()
        return sorted(self.answers, key=lambda answer: answer.sequence)

    def read(self, id: int) -> bytes:
        """By the record, from memory or from disk."""
        record = self.hall.streams.item_by_id(self.hall.view, id)
        assert isinstance(record, Record)
        spot = self.payloads.find(self.hall.view, record)
        if spot is not None:
            return bytes(self.payloads.view(spot))
        return self.payloads.read(self.hall.view, record)

    def forget_memory(self) -> None:
        """Fill the cache with something else."""
        for _ in range(64):
            slot = self.hall.cache.allocate(BT, self.hall.cache.payload_nbytes_max)
            assert slot is not None
            self.hall.cache.unpin(slot)


def put(payloads: list[bytes], sequence: int = 1, **more: object) -> frames.Put:
    digests = b"".join(map(xxhash.xxh3_128_digest, payloads))
    said = {"digests": digests, **more}
    sizes = tuple(map(len, payloads))
    return frames.Put(1, sequence, len(payloads), sizes, **said)  # type: ignore[arg-type]


def run(folder: Path, test: Callable[[Desk], Awaitable[None]]) -> None:
    async def main() -> None:
        hall = Hall(folder, Level.DISK, 4)
        desk = Desk(hall, folder)
        try:
            async with asyncio.timeout(60):
                await test(desk)
            assert desk.puts.under_way == 0
            hall.nothing_left()
        finally:
            hall.close()
            desk.logs.close()
            desk.registry.close()

    asyncio.run(main())
    gc.collect()
    assert open_below(folder) == []


@LEVELS
def test_a_run_is_where_its_level_says(tmp_path: Path, level: Level) -> None:
    async def test(desk: Desk) -> None:
        payloads = [b"x" * k for k in range(1, 50)]
        desk.begin(desk.writer(level), payloads, 1).complete()
        (receipt,) = await desk.messages(49)
        assert isinstance(receipt, frames.Receipt)
        assert (receipt.id, receipt.seq, receipt.level) == (1, 1, level)
        record = desk.hall.record(30)
        assert record.place == (Place.CACHE if level == Level.CACHE else Place.SEGMENT)
        assert (record.level, record.size) == (level, 30)
        assert [desk.read(id) for id in range(1, 50)] == payloads
        assert desk.hall.stats.messages_in == 49
        desk.forget_memory()
        if level == Level.CACHE:
            with pytest.raises(Error, match="has left it"):
                desk.read(7)
        else:
            assert [desk.read(id) for id in range(1, 50)] == payloads

    run(tmp_path, test)


def test_puts_end_in_the_order_in_which_they_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is hashed in a thread or written as a file on the way."""
    monkeypatch.setattr(put_runs, "_HASH_INLINE_NBYTES", 1000)

    async def test(desk: Desk) -> None:
        writer = desk.writer(Level.CACHE)
        large = bytes(50_000)
        jobs = [
            desk.begin(writer, [b"first"], 1),
            desk.begin(writer, [large], 2, digests=bytes(16)),
            desk.begin(writer, [b"file"], 3, name="processed/a"),
            desk.begin(writer, [b"last"] * 3, 4),
        ]
        for job in reversed(jobs):
            job.complete()
        answers = await desk.messages(6)
        assert [(answer.sequence, answer.id) for answer in answers] == [  # type: ignore[union-attr]
            (1, 1), (2, 2), (3, 3), (4, 4),
        ]  # fmt: skip
        assert desk.hall.record(2).digest == xxhash.xxh3_128_digest(large)

    run(tmp_path, test)


def test_an_aborted_put_does_not_hold_up_others(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        writer = desk.writer(Level.DISK)
        first = desk.begin(writer, [b"never"], 1)
        second = desk.begin(writer, [b"comes"], 2)
        second.complete()
        first.abort()
        (receipt,) = await desk.messages(1)
        assert (receipt.sequence, desk.read(1)) == (2, b"comes")

    run(tmp_path, test)


def test_a_full_disk_is_told_and_goes_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(desk: Desk) -> None:
        writer = desk.writer(Level.OS)

        def full(folder: Path, nbytes: int) -> None:
            raise NoSpace("no space left")

        monkeypatch.setattr(desk.logs, "_check_space", full)
        desk.begin(writer, [b"a", b"b"], 1).complete()
        (failed,) = await desk.messages(2)
        assert isinstance(failed, frames.Failed)
        assert (failed.sequence, failed.count, failed.code) == (1, 2, "E501")
        monkeypatch.undo()
        desk.begin(writer, [b"a", b"b"], 1).complete()
        answers = await desk.messages(4)
        assert [type(answer) for answer in answers] == [frames.Failed, frames.Receipt]

    run(tmp_path, test)


def test_larger_than_the_cache_needs_a_name(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        nbytes = desk.hall.cache.payload_nbytes_max + 1
        with pytest.raises(TooLarge, match="a name"):
            desk.puts.begin(desk.writer(0), put([bytes(nbytes)]), nbytes, lambda: None)

    run(tmp_path, test)


sizes = st.lists(st.integers(0, 300), min_size=1, max_size=40)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(sizes, st.integers(0, 3), st.integers(0, 2)), max_size=6))
def test_every_payload_is_found(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[list[int], int, int]]
) -> None:
    """By its record, in memory and out of it, whatever was there before and failed between."""

    async def test(desk: Desk) -> None:
        expected: dict[int, bytes] = {}
        sequence = answered = 0
        for wanted, step, level in runs:
            payloads = [bytes([len(expected) % 251]) * size for size in wanted]
            top = max(expected, default=0)
            # Some begin below the top: ids that exist already are duplicates or conflicts.
            first = max(1, top + 1 - step)
            for id, payload in enumerate(payloads, first):
                expected.setdefault(id, payload)
            desk.begin(desk.writer(level), payloads, sequence + 1, id=first).complete()
            sequence += len(payloads)
            answered += len(payloads)
            await desk.messages(answered)
        levels = {id: desk.hall.record(id).level for id in expected}
        for id, payload in expected.items():
            if payload:
                assert desk.read(id) == payload
        desk.forget_memory()
        for id, payload in expected.items():
            if payload and levels[id]:
                assert desk.read(id) == payload

    run(tmp_path_factory.mktemp("runs"), test)


@given(
    st.lists(
        st.sampled_from(
            [b"{}", b'{"a":1}', b"{", b"[]", b"", b'{"a"\n:1}', b"{}\n{}", b'{"a":1', b'"b":2}',
             b'{"x":' * 40 + b"1" + b"}" * 40, b'{"a": NaN}', b"\xff", b" ", b'{"a":"{[{["}']
        ),
        min_size=1,
        max_size=6,
    )
)  # fmt: skip
def test_many_metadata_are_checked_as_each_would_be(metas: list[bytes]) -> None:
    def good(meta: bytes) -> bool:
        try:
            check_metadata(meta)
        except BadMetadata:
            return False
        return True

    if all(map(good, metas)):
        check_metas(tuple(metas))
    else:
        with pytest.raises(BadMetadata):
            check_metas(tuple(metas))
