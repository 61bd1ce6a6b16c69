"""Subscriptions with all that they stand on, and clients that write down what they are sent."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from beamstream.errors import Error
from beamstream.model import Dataset, Record, Who
from beamstream.server.blocks import Block
from beamstream.server.commits import Commits
from beamstream.server.delivery import Deliveries
from beamstream.server.settling import Settling
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams, View
from beamstream.server.subscriptions import Hall, Subscriptions
from beamstream.store import catalog as ops
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.wire.native.frames import (
    Ack,
    Credit,
    End,
    Gap,
    Header,
    Nack,
    Settle,
    Settled,
    StreamOpened,
    Subscribe,
)

BT, SOURCE, STREAM, GROUP = "bt1", "det", "scan1", "g"


class Alarm:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Turns:
    """The event loop, with timers that ring when the test moves the clock."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = 1000.0
        self.waiting = 0
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._number = itertools.count()

    def call_soon(self, callback: Callable[..., Any], /, *arguments: Any) -> object:
        self.waiting += 1

        def call() -> None:
            self.waiting -= 1
            callback(*arguments)

        return self.loop.call_soon(call)

    def call_later(self, delay: float, callback: Callable[..., Any], /, *arguments: Any) -> Alarm:
        alarm = Alarm(lambda: callback(*arguments))
        heapq.heappush(self._alarms, (self.now + delay, next(self._number), alarm))
        return alarm

    async def settle(self) -> None:
        """Until nobody wants another turn."""
        while self.waiting:
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        await self.settle()
        while self._alarms and self._alarms[0][0] <= end:
            at, _, alarm = heapq.heappop(self._alarms)
            self.now = max(self.now, at)
            if not alarm.cancelled:
                alarm.call()
            await self.settle()
        self.now = end


class Got:
    """One delivery as a client got it."""

    def __init__(
        self,
        channel: int,
        ref: int,
        tag: int,
        stream: str,
        seqs: list[int],
        ids: list[int],
        deliveries: tuple[int, ...] | None,
        items: list[Record] | list[Dataset],
    ) -> None:
        self.channel = channel
        self.ref = ref
        self.tag = tag
        self.stream = stream
        self.seqs = seqs
        self.ids = ids
        self.deliveries = deliveries
        self.items = items


class Client:
    """An outlet that writes down what it is sent."""

    def __init__(self, stage: Stage, name: str = "c", session: bytes = b"") -> None:
        self.stage = stage
        self.session = session or name.encode().ljust(16, b"-")
        self.who = Who(instance=name)
        self.beamtime = BT
        self.writable = True
        self.got: list[Got] = []
        self.told: list[StreamOpened | Gap | End | Header | Settled] = []
        self.errors: list[tuple[int, Error]] = []

    def stream_opened(self, frame: StreamOpened) -> None:
        self.told.append(frame)

    def deliver(
        self,
        channel: int,
        ref: int,
        tag: int,
        view: View,
        block: Block,
        lo: int,
        hi: int,
        deliveries: tuple[int, ...] | None,
        payloads: bool,
        shared: bool,
    ) -> None:
        assert 0 <= lo < hi <= block.count
        seqs = list(range(block.seq + lo, block.seq + hi))
        records = [block.record(index) for index in range(lo, hi)]
        assert [record.seq for record in records] == seqs
        ids = list(block.ids[lo:hi])
        self.got.append(Got(channel, ref, tag, view.name, seqs, ids, deliveries, records))

    def deliver_datasets(
        self,
        channel: int,
        ref: int,
        tag: int,
        view: View,
        datasets: Sequence[Dataset],
        deliveries: tuple[int, ...] | None,
        payloads: bool,
        shared: bool,
    ) -> None:
        seqs = [item.seq for item in datasets]
        ids = [item.id for item in datasets]
        self.got.append(Got(channel, ref, tag, view.name, seqs, ids, deliveries, list(datasets)))

    def gap(self, frame: Gap) -> None:
        self.told.append(frame)

    def end(self, frame: End) -> None:
        self.told.append(frame)

    def header(self, frame: Header) -> None:
        self.told.append(frame)

    def settled(self, frame: Settled) -> None:
        self.told.append(frame)

    def failed(self, channel: int, error: Error) -> None:
        self.errors.append((channel, error))

    # ------------------------------------------------------------------ what a test does

    def subscribe(self, channel: int = 1, **more: Any) -> None:
        words: dict[str, Any] = {
            "stream": STREAM,
            "group": GROUP,
            "credit_messages": 1000,
            "batch_max": 100,
        }
        words |= {"credit_nbytes": 10**6}
        self.stage.subscriptions.open(
            self, Subscribe(channel, more.pop("source", SOURCE), **(words | more))
        )

    def credit(self, messages: int, nbytes: int = 0, channel: int = 1) -> None:
        self.stage.subscriptions.credit(self, Credit(channel, messages, nbytes))

    async def ack(self, got: Got, *ranges: tuple[int, int]) -> Error | None:
        ranges = ranges or ((got.seqs[0], got.seqs[-1] + 1),)
        answer: asyncio.Future[Error | None] = asyncio.get_running_loop().create_future()
        frame = Ack(got.channel, got.ref, got.tag, ranges, 1)
        self.stage.subscriptions.ack(self, frame, answer.set_result)
        outcome = await answer
        await self.stage.turns.settle()
        return outcome

    async def nack(
        self, got: Got, *ranges: tuple[int, int], delay_s: float = 0.0, counted: bool = True
    ) -> Error | None:
        ranges = ranges or ((got.seqs[0], got.seqs[-1] + 1),)
        outcomes: list[Error | None] = []
        frame = Nack(got.channel, got.ref, got.tag, ranges, delay_s, counted)
        self.stage.subscriptions.nack(self, frame, outcomes.append)
        await self.stage.turns.settle()
        (outcome,) = outcomes
        return outcome

    def settle(self, got: Got, *ranges: tuple[int, int], dead: bool = False) -> Settling:
        ranges = ranges or ((got.seqs[0], got.seqs[-1] + 1),)
        frame = Settle(got.channel, got.ref, got.tag, ranges, dead)
        return self.stage.subscriptions.settle(self, (frame,))

    @property
    def ids(self) -> list[int]:
        return [id for got in self.got for id in got.ids]

    @property
    def runs(self) -> list[list[int]]:
        return [got.ids for got in self.got]

    @property
    def ends(self) -> list[End]:
        return [frame for frame in self.told if isinstance(frame, End)]

    @property
    def gaps(self) -> list[tuple[int, int]]:
        return [(frame.lo, frame.hi) for frame in self.told if isinstance(frame, Gap)]

    @property
    def settled_seqs(self) -> list[int]:
        return [frame.seq for frame in self.told if isinstance(frame, Settled)]

    @property
    def header_frames(self) -> list[tuple[int, int, bytes]]:
        found = [frame for frame in self.told if isinstance(frame, Header)]
        return [(frame.ref, frame.version, frame.document) for frame in found]

    @property
    def opened(self) -> list[StreamOpened]:
        return [frame for frame in self.told if isinstance(frame, StreamOpened)]

    def take(self) -> list[Got]:
        got, self.got = self.got, []
        return got


class Stage:
    """A node's insides around subscriptions; `restart` is a crash and a start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.turns = Turns()
        self.catalog = SqliteCatalog(folder)
        self.boot = 0
        self.start()

    def start(self) -> None:
        self.boot += 1
        self.streams = Streams(self.catalog)
        self.stats = Stats()
        self.commits = Commits(self.catalog, asyncio.get_running_loop(), self.marks)
        self.deliveries = Deliveries(
            self.catalog, self.streams, self.commits, self.stats, syncs=True,
            clock=lambda: self.turns.now, boot=self.boot,
        )  # fmt: skip
        self.hall = Hall(
            self.turns, self.catalog, self.streams, self.deliveries, self.stats, self.wall_ns
        )
        self.subscriptions = Subscriptions(self.hall)

    def wall_ns(self) -> int:
        return int(self.turns.now * 1e9)

    def marks(self, beamtime: str) -> list[ops.Op]:
        return self.deliveries.write_behind(beamtime)

    async def restart(self) -> None:
        await self.turns.settle()
        self.commits.close()
        self.catalog.close()
        self.catalog = SqliteCatalog(self.folder)
        self.start()

    def view(self, stream: str = STREAM) -> View:
        return self.streams.view(BT, SOURCE, stream)

    def put(
        self, *ids: int, count: int = 0, stream: str = STREAM, size: int = 10, meta: bytes = b""
    ) -> Block:
        """Store messages of these ids (or `count` automatic ones), and show them together."""
        number = count or len(ids)
        view = self.view(stream)
        now_ns = self.wall_ns()
        op = ops.PutMany(
            SOURCE, stream, 0, ids or None, (size,) * number, bytes(16 * number),
            (meta,) * number if meta else None, b"", None, now_ns, now_ns,
            mode=0, level=0, place=1,
        )  # fmt: skip
        (stored,) = self.catalog.apply(BT, [op])
        assert isinstance(stored, ops.StoredMany), stored
        block = Block(
            seq=stored.seq,
            ids=stored.ids or range(stored.id, stored.id + number),
            sizes=op.sizes,
            digests=op.digests,
            metas=op.metas,
            timestamp_ns=now_ns,
            arrived_ns=now_ns,
            place=1,
        )
        self.streams.show_block(view, stored.stream, block, lambda error: None)
        return block

    def part(
        self, id: int, substream: int, expected: int, *, stream: str = STREAM, size: int = 10
    ) -> None:
        now_ns, view = self.wall_ns(), self.view(stream)
        op = ops.Put(
            SOURCE, stream, id, f"f{id}", size, bytes(16), b"{}", now_ns, now_ns,
            mode=0, level=0, place=1, substream=substream, expected=expected,
        )  # fmt: skip
        (stored,) = self.catalog.apply(BT, [op])
        assert isinstance(stored, ops.Stored), stored
        record = Record(
            stored.seq, stored.id, substream, op.name, size, op.digest, op.meta, now_ns, now_ns,
            0, 0, 1, 0,
        )  # fmt: skip
        self.streams.show(view, stored.stream, stored.seq, stored.id, record, lambda error: None)

    def skip(self, lo: int, hi: int, *, stream: str = STREAM) -> None:
        view = self.view(stream)
        (stored,) = self.catalog.apply(BT, [ops.Skip(SOURCE, stream, lo, hi, self.wall_ns())])
        assert isinstance(stored, ops.Stored), stored
        self.streams.show(
            view, stored.stream, stored.seq, hi - 1, None, lambda error: None, hi - lo
        )

    def finish(self, last_id: int, *, stream: str = STREAM, next_stream: str = "") -> None:
        view = self.view(stream)
        op = ops.Finish(SOURCE, stream, last_id, next_stream, self.wall_ns())
        (done,) = self.catalog.apply(BT, [op])
        assert isinstance(done, ops.Done), done
        assert done.stream is not None
        self.streams.show_finish(view, done.stream, self.wall_ns())

    def meta(self, document: bytes, *, stream: str = STREAM) -> None:
        """Write the metadata of a stream."""
        op = ops.Meta(SOURCE, stream, ops.MetaMode.REPLACE, True, document, self.wall_ns())
        (done,) = self.catalog.apply(BT, [op])
        assert isinstance(done, ops.Done), done
        self.streams.header_changed(BT, SOURCE, stream)

    async def store(self, settling: Settling, *more: ops.Op) -> bool:
        """Write what is settled, with something else, as one unit; whether that was possible."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        unit = ops.Unit((*more, *settling.ops))
        self.commits.submit(BT, [unit], outcome.set_result)
        (results,) = await outcome
        stored = not any(isinstance(result, ops.Refused | ops.Conflicted) for result in results)
        if stored:
            settling.done()
        else:
            settling.undo()
        await self.turns.settle()
        return stored

    def delete(self, stream: str = STREAM) -> None:
        self.catalog.apply(BT, [ops.DeleteStream(SOURCE, stream)])
        self.streams.forget(self.view(stream))

    def close(self) -> None:
        self.commits.close()
        self.catalog.close()


def run(folder: Path, test: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        stage = Stage(folder)
        try:
            async with asyncio.timeout(60):
                await test(stage)
        finally:
            stage.close()

    asyncio.run(main())
