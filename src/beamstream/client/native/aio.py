"""The client for asyncio: the same connection and the same threads, awaited in place of waited for.

Questions are asked in threads; sending and receiving wake the event loop when something has come.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from beamstream.client.native import hub as sync
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.events import HeaderText
from beamstream.client.native.group import Group
from beamstream.client.native.incoming import Told
from beamstream.client.native.messages import Batch, End
from beamstream.client.native.origins import Origin
from beamstream.client.native.outgoing import SMALL_NBYTES
from beamstream.client.native.packing import Meta
from beamstream.client.native.receipts import Receipt
from beamstream.client.native.stream import Found, Source, Stream, Streams
from beamstream.client.native.subscription import Event, Item, Subscription
from beamstream.client.native.writer import Writer
from beamstream.errors import TimedOut
from beamstream.wire.native import calls

P = ParamSpec("P")
T = TypeVar("T")
_END: Final = object()


def aconnect(url: str = "", **how: Any) -> AsyncHub:
    """Connect to a node from asyncio: ``async with aconnect(…) as hub``, or ``await`` it.

    Parameters as for `connect`.
    """
    return AsyncHub(functools.partial(sync.connect, url, **how))


class AsyncHub:
    """A connection to a node; see `Hub`, whose methods it has as coroutines."""

    def __init__(self, connect: Callable[[], sync.Hub]) -> None:
        self._connect = connect
        self._hub: sync.Hub | None = None

    async def _open(self) -> Self:
        if self._hub is None:
            self._hub = await asyncio.to_thread(self._connect)
        return self

    def __await__(self) -> Iterator[Any]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(30.0 if kind is None else 0.0)

    async def close(self, timeout: float | None = 30.0) -> None:
        """End the connection, when what was sent has its receipts."""
        if self._hub is not None:
            await asyncio.to_thread(self._hub.close, timeout)

    @property
    def sync(self) -> sync.Hub:
        """The same connection for threads."""
        if self._hub is None:
            raise RuntimeError("not connected: `async with aconnect(…) as hub`")
        return self._hub

    @property
    def beamtime(self) -> str:
        return self.sync.beamtime

    def source(self, name: str) -> AsyncSource:
        """A data source, whether it exists or not."""
        return AsyncSource(self.sync.source(name))

    def stream(self, text: str) -> AsyncStream:
        """A stream by its address, ``source/stream``."""
        return AsyncStream(self.sync.stream(text))

    def ask(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Any method of the synchronous client, awaited: ``await hub.ask(hub.sync.info)``."""
        return asyncio.to_thread(method, *args, **kwargs)

    def sources(self) -> Awaitable[list[str]]:
        """Names of all sources."""
        return self.ask(self.sync.sources)

    def streams(self, pattern: str = "*") -> Awaitable[list[Any]]:
        """Streams of all sources whose names match."""
        return self.ask(self.sync.streams, pattern)

    def define_run(self, document: Mapping[str, Any]) -> Awaitable[calls.RunRow]:
        """Write down what makes results; see `Hub.define_run`."""
        return self.ask(self.sync.define_run, document)

    def runs(self, limit: int = 100) -> Awaitable[list[calls.RunRow]]:
        """Runs, newest first."""
        return self.ask(self.sync.runs, limit)

    def info(self) -> Awaitable[Any]:
        """How the node is."""
        return self.ask(self.sync.info)


class AsyncSource:
    """A data source; see `Source`."""

    def __init__(self, source: Source) -> None:
        self.sync = source
        self.name = source.name

    def stream(self, name: str = "default") -> AsyncStream:
        """A stream of it, whether it exists or not."""
        return AsyncStream(self.sync.stream(name))

    def group(self, name: str = "", *, pattern: str = "*", **how: Any) -> AsyncGroup:
        """A group over all streams of it that match; see `Stream.group`."""
        streams: Streams = self.sync.streams(pattern)
        return AsyncGroup(streams.group(name, **how))


class AsyncStream:
    """A stream; see `Stream`. What it has not, `sync` has, to be called by `AsyncHub.ask`."""

    def __init__(self, stream: Stream) -> None:
        self.sync = stream
        self.source = stream.source
        self.name = stream.name

    def __repr__(self) -> str:
        return f"<AsyncStream {self.source}/{self.name}>"

    def writer(self, **how: Any) -> AsyncWriter:
        """Write into it: ``async with stream.writer() as w``; see `Stream.writer`."""
        return AsyncWriter(functools.partial(self.sync.writer, **how))

    def group(self, name: str = "", **how: Any) -> AsyncGroup:
        """Read it as a group; see `Stream.group`."""
        return AsyncGroup(self.sync.group(name, **how))

    def get(self, id: int) -> Awaitable[Found]:
        """A message by its id; -1 is the last one."""
        return asyncio.to_thread(self.sync.__getitem__, id)

    async def messages(self, lo: int = 1, hi: int | None = None) -> AsyncIterator[Found]:
        """Messages with `lo` ≤ id < `hi`, as far as they are there."""
        found = await asyncio.to_thread(self.sync.__getitem__, slice(lo, hi))
        while True:
            message: Any = await asyncio.to_thread(next, found, _END)
            if message is _END:
                return
            yield message

    def origin(self, id: int) -> Awaitable[calls.OriginRow | None]:
        """What message `id` was made of."""
        return asyncio.to_thread(self.sync.origin, id)

    def info(self) -> Awaitable[Any]:
        """What the node knows of it; None if it does not exist."""
        return asyncio.to_thread(self.sync.info)

    def meta(self) -> Awaitable[dict[str, Any] | None]:
        """Metadata of the stream."""
        return asyncio.to_thread(lambda: self.sync.meta)

    def set_meta(self, meta: Meta, *, mode: str = "replace") -> Awaitable[None]:
        """Write metadata of the stream."""
        return asyncio.to_thread(self.sync.set_meta, meta, mode=mode)

    def search(self, query: str, limit: int = 1000) -> Awaitable[list[Found]]:
        """Messages whose metadata match, without payloads."""
        return asyncio.to_thread(self.sync.search, query, limit)

    def finish(self, last_id: int | None = None, *, next_stream: str = "") -> Awaitable[int]:
        """Say that nothing comes after `last_id`."""
        return asyncio.to_thread(self.sync.finish, last_id, next_stream=next_stream)


class AsyncWriter:
    """Writes messages; see `Writer`. Leaving ``async with`` waits for receipts and finishes."""

    def __init__(self, make: Callable[[], Writer]) -> None:
        self._make = make
        self._writer: Writer | None = None

    async def __aenter__(self) -> Self:
        self._writer = await asyncio.to_thread(self._make)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.sync.__exit__, kind, error, traceback)

    @property
    def sync(self) -> Writer:
        if self._writer is None:
            raise RuntimeError("not open: `async with stream.writer() as w`")
        return self._writer

    async def send(self, value: Any, meta: Meta | None = None, **how: Any) -> Receipt:
        """Send one message: returns when it is on its way; ``await receipt`` when it is stored.

        Parameters as for `Writer.send`.
        """
        writer = self.sync
        nbytes = getattr(value, "nbytes", None)
        nbytes = len(value) if nbytes is None and isinstance(value, bytes | bytearray) else nbytes
        # What is large, or has to wait for room, would hold up the event loop.
        if nbytes is None or nbytes >= SMALL_NBYTES or how or not writer.has_room(nbytes):
            return await asyncio.to_thread(writer.send, value, meta, **how)
        return writer.send_later(value, meta)

    async def send_many(
        self,
        values: Sequence[Any],
        metas: Sequence[Meta] | None = None,
        ids: Sequence[int] | None = None,
    ) -> Receipt:
        """Send many messages, fast; see `Writer.send_many`."""
        return await asyncio.to_thread(self.sync.send_many, values, metas, ids)

    async def publish(
        self,
        values: Sequence[Any],
        metas: Sequence[Meta | None] | None = None,
        *,
        made: Origin,
        **how: Any,
    ) -> Receipt:
        """Send results, and settle what they were made of; see `Writer.publish`."""
        return await asyncio.to_thread(self.sync.publish, values, metas, made=made, **how)

    def skip(self, ids: Any) -> Awaitable[None]:
        """Say that these ids will never come."""
        return asyncio.to_thread(self.sync.skip, ids)

    def flush(self, timeout: float | None = None) -> Awaitable[None]:
        """Wait until all that was sent has its receipt; raises what has failed."""
        return asyncio.to_thread(self.sync.flush, timeout)

    def close(self, *, finish: bool | None = None) -> Awaitable[None]:
        """Wait for all receipts, and finish the stream."""
        return asyncio.to_thread(self.sync.close, finish=finish)


class AsyncGroup:
    """Readers that share a position; see `Group`. ``async for message in group``."""

    def __init__(self, group: Group) -> None:
        self.sync = group
        self.end: End | None = None
        """Why the last iteration ended."""

    async def __aiter__(self) -> AsyncIterator[Item]:
        async with AsyncSubscription(self.sync) as member:
            while (item := await member.take()) is not None:
                yield item
            self.end = member.end

    async def batches(self) -> AsyncIterator[Batch]:
        """Whole runs of messages."""
        async with AsyncSubscription(self.sync) as member:
            while (batch := await member.take_batch()) is not None:
                yield batch
            self.end = member.end

    def subscribe(self) -> AsyncSubscription:
        """Become a member: ``async with group.subscribe() as member``."""
        return AsyncSubscription(self.sync)

    def info(self) -> Awaitable[Any]:
        """Position, lag and members."""
        return asyncio.to_thread(self.sync.info)

    def seek(self, to: Any) -> Awaitable[Any]:
        """Go elsewhere, for all members."""
        return asyncio.to_thread(self.sync.seek, to)


class AsyncSubscription:
    """A member of a group; see `Subscription`."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._member: Subscription | None = None
        self._came = asyncio.Event()
        self._told = False

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def came() -> None:
            # Called with the lock held, for each arrival: one call of the loop for many.
            if not self._told:
                self._told = True
                loop.call_soon_threadsafe(self._came.set)

        self._member = self._group.subscribe(came)
        return self

    async def __aexit__(self, *gone: object) -> None:
        self.sync.close()

    @property
    def sync(self) -> Subscription:
        if self._member is None:
            raise RuntimeError("not a member: `async with group.subscribe() as member`")
        return self._member

    @property
    def end(self) -> End | None:
        """Why nothing more comes."""
        return self.sync.end

    async def __aiter__(self) -> AsyncIterator[Item]:
        while (item := await self.take()) is not None:
            yield item

    async def take(self, timeout: float | None = None) -> Item | None:
        """The next message, None at the `end`; see `Subscription.take`."""
        item: Item | None = await self._wait(self.sync.poll, timeout)
        return item

    async def take_batch(self) -> Batch | None:
        """The next run of messages, None at the `end`."""
        batch: Batch | None = await self._wait(self.sync.poll_batch, None)
        return batch

    async def next_event(self, timeout: float | None = None) -> Event | None:
        """The next thing that happens; see `Subscription.next_event`."""
        told: Arrived | Told | None = await self._wait(self.sync.poll_event, timeout, silent=True)
        if isinstance(told, HeaderText) and told.version and not told.document:
            return await asyncio.to_thread(self.sync.look, told)
        return None if told is None else self.sync.look(told)

    async def _wait(
        self, poll: Callable[[], Any], timeout: float | None, *, silent: bool = False
    ) -> Any:
        member = self.sync
        began = time.monotonic()
        limit = self._group.timeout if timeout is None else timeout
        until = None if limit is None else began + limit
        hurry = False
        while True:
            # Anything that comes from here on sets the event again.
            self._came.clear()
            self._told = False
            over = member.over
            item = poll()
            if item is not None:
                return item
            if over or member.end is not None:
                if member.end is None:
                    member.finish()
                return None
            member.prepare(all_of_it=hurry)
            try:
                hurry = False
                async with asyncio.timeout(member.pause(began, until)):
                    await self._came.wait()
            except TimeoutError:
                hurry = True
                if member.timed_out(until):
                    if timeout is not None:
                        member.end = None
                        if silent:
                            return None
                        text = f"nothing came within {timeout:g} s"
                        raise TimedOut(text) from None
                    return None
                if member.doubtful(began):
                    await asyncio.to_thread(member.warn)
