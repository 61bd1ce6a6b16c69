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

from beamstream.errors import BadMetadata, Error, NoSpace, StaleLease, TooLarge
from beamstream.model import Level, Place, Record, check_metadata
from beamstream.server import put_runs
from beamstream.server.beamtimes import Beamtimes
from beamstream.server.commits import Commits
from beamstream.server.ingest import Ingest, Wait
from beamstream.server.payloads import Payloads
from beamstream.server.put_checks import check_metas
from beamstream.server.put_jobs import Job, Writer
from beamstream.server.puts import Puts
from beamstream.server.segment_logs import SegmentLogs
from beamstream.settings import Settings
from beamstream.store import catalog as ops
from beamstream.store.cache import Slot
from beamstream.store.registry import Registry
from beamstream.wire.native import batches, frames

LEVELS = pytest.mark.parametrize("level", list(Level))


class Settled:
    """An input that is settled with a result, and what became of it."""

    def __init__(self, settles: tuple[frames.Settle, ...]) -> None:
        self.ended = ""
        ranges = settles[0].ranges
        self.ops: tuple[ops.Op, ...] = (ops.Ack("g", "in", "t", ranges),)

    def done(self) -> None:
        assert not self.ended
        self.ended = "done"

    def undo(self) -> None:
        assert not self.ended
        self.ended = "undone"


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
        given = ops.PutMany("in", "t", 0, None, (0,) * 99, b"", None, b"", None, 1, 1, 10, 0, 0)
        hall.catalog.apply(BT, [given])
        self.answers: list[frames.Receipt | frames.Failed] = []
        self.settled: list[Settled] = []
        self.stale = False
        self._changed = asyncio.Event()

    def receipt(self, frame: frames.Receipt) -> None:
        self.answers.append(frame)
        self._changed.set()

    def refused(self, frame: frames.Failed) -> None:
        self.answers.append(frame)
        self._changed.set()

    def settle(self, settles: tuple[frames.Settle, ...]) -> Settled:
        if self.stale:
            raise StaleLease("the lease has ended")
        self.settled.append(Settled(settles))
        return self.settled[-1]

    def acked(self) -> list[tuple[int, int]]:
        group = self.hall.catalog.group(BT, "g", "in", "t")
        return [] if group is None else list(group.acked)

    def writer(self, level: int, sender: bytes = bytes(range(16))) -> Writer:
        opened = frames.OpenWriter(1, SOURCE, STREAM, sender, level)
        return self.puts.open(opened, self.hall.producer, self)

    def begin(self, writer: Writer, payloads: list[bytes], sequence: int, **more: object) -> Job:
        granted = more.pop("granted", None)
        assert granted is None or isinstance(granted, Slot)
        frame = put(payloads, sequence, **more)
        job = self.puts.begin(writer, frame, sum(frame.sizes), lambda: None, granted)
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


def made(*seqs: int, **more: object) -> frames.Made:
    """Results of these inputs, which are settled with them."""
    ranges = tuple((seq, seq + 1) for seq in sorted(set(seqs)))
    settles = (frames.Settle(9, 0, 1, ranges),)
    return frames.Made(3, "in", "t", seqs, settles=settles, **more)  # type: ignore[arg-type]


@LEVELS
def test_results_in_granted_memory(tmp_path: Path, level: int) -> None:
    """They are settled when it is their turn, not when they come."""

    async def test(desk: Desk) -> None:
        writer = desk.writer(level)
        slot = desk.hall.cache.allocate(BT, 5_000)
        assert slot is not None
        place = batches.Place(0, 0, 0)
        first = desk.begin(writer, [b"first"], 1, made=made(4))
        job = desk.begin(writer, [b"x" * 5_000], 2, made=made(5), granted=slot, place=place)
        job.complete()
        assert desk.settled == []
        first.complete()
        assert [settled.ended for settled in desk.settled] == ["", ""]
        await desk.messages(2)
        assert [settled.ended for settled in desk.settled] == ["done", "done"]
        assert desk.acked() == [(4, 6)]
        assert desk.read(2) == b"x" * 5_000
        (record,) = desk.hall.catalog.items_by_id(BT, desk.hall.view.no, 2, 3, 1)
        assert isinstance(record, Record)
        assert (record.run, record.input_source, record.input_seq, record.result_k) == (
            3, "in", 5, 0,
        )  # fmt: skip
        assert desk.hall.record(2).run == 3

    run(tmp_path, test)


@LEVELS
def test_a_stale_lease_holds_nobody_up(tmp_path: Path, level: int) -> None:
    async def test(desk: Desk) -> None:
        writer = desk.writer(level)
        desk.stale = True
        stale = [
            desk.begin(writer, [b"a"], 1, made=made(1)),
            desk.begin(writer, [b"file"], 2, name="processed/a", made=made(1)),
        ]
        large = put([bytes(40_000)], 3, name="processed/b", made=made(1))
        streamed = desk.puts.begin(writer, large, 40_000, lambda: None)
        assert not isinstance(streamed, Wait)
        plain = desk.begin(writer, [b"b"], 4)
        nbytes = 0
        while streamed.memory is not None and nbytes < 40_000:
            memory = streamed.memory
            nbytes += memory.nbytes
            if nbytes < 40_000:
                more: asyncio.Future[memoryview] = desk.hall.loop.create_future()
                streamed.filled(more.set_result)
                streamed.memory = await more
        for job in (plain, streamed, *stale):
            job.complete()
        answers = await desk.messages(4)
        codes = [getattr(answer, "code", "") for answer in answers]
        assert codes == ["E405", "E405", "E405", ""]
        assert desk.read(1) == b"b"
        await asyncio.gather(*(asyncio.to_thread(lambda: None) for _ in range(2)))
        desk.hall.threads.submit(lambda: None).result()
        assert not [path for path in desk.hall.files.rglob("*") if path.is_file()]

    run(tmp_path, test)


def test_a_full_disk_settles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(desk: Desk) -> None:
        writer = desk.writer(Level.OS)

        def full(folder: Path, nbytes: int) -> None:
            raise NoSpace("no space left")

        monkeypatch.setattr(desk.logs, "_check_space", full)
        desk.begin(writer, [b"a"], 1, made=made(1)).complete()
        (failed,) = await desk.messages(1)
        assert isinstance(failed, frames.Failed)
        assert (failed.code, desk.settled[0].ended, desk.acked()) == ("E501", "undone", [])
        monkeypatch.undo()
        desk.begin(writer, [b"a"], 1, made=made(1)).complete()
        await desk.messages(2)
        assert (desk.settled[1].ended, desk.acked()) == ("done", [(1, 2)])

    run(tmp_path, test)


batches_of_results = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), min_size=1, max_size=5),
        st.booleans(),
        st.integers(0, 2),
    ),
    max_size=8,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches_of_results)
def test_every_result_is_there_once(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[list[tuple[int, int]], bool, int]],
) -> None:
    """Whoever makes it again: the first one stays, its inputs are settled, or all is refused."""

    async def test(desk: Desk) -> None:
        there: dict[tuple[int, int], bytes] = {}
        blocked = desk.writer(0, bytes(16))
        desk.begin(blocked, [b"no result"], 1, id=10_000).complete()
        await desk.messages(1)
        answered, acked = 1, set[int]()
        for number, (keys, conflicts, level) in enumerate(runs):
            writer = desk.writer(level, bytes([number + 1] * 16))
            payloads = [b"%d %d of %d" % (*key, number) for key in keys]
            ids = tuple(1_000 * number + index + 1 for index in range(len(keys)))
            if conflicts:
                keys, payloads, ids = [*keys, (99, 0)], [*payloads, b"in the way"], (*ids, 10_000)
            told = made(*[seq for seq, _ in keys], ks=tuple(k for _, k in keys))
            desk.begin(writer, payloads, 1, ids=ids, made=told).complete()
            answered += len(keys)
            await desk.messages(answered)
            assert desk.settled[-1].ended == ("undone" if conflicts else "done")
            if not conflicts:
                acked |= {seq for seq, _ in keys}
                for key, payload in zip(keys, payloads, strict=True):
                    there.setdefault(key, payload)
        assert {seq for lo, hi in desk.acked() for seq in range(lo, hi)} == acked
        view = desk.hall.view
        items = desk.hall.catalog.items_by_id(BT, view.no, 1, 10_000, 1_000)
        found = {}
        for item in items:
            assert isinstance(item, Record)
            found[item.input_seq, item.result_k] = desk.read(item.id)
        assert found == there
        assert view.visible_seq == len(there) + 1

    run(tmp_path_factory.mktemp("results"), test)


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
