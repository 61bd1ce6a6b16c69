"""What the monitor has: its nodes, their history, those who watch. Answers are made from it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import msgspec

from beamstream._version import __version__
from beamstream.errors import Denied, Error, NotFound, TooMany
from beamstream.monitor import documents as doc
from beamstream.monitor.feed import Feeds
from beamstream.monitor.history import History
from beamstream.monitor.hubs import Hubs
from beamstream.monitor.looking import Looking
from beamstream.monitor.notes import Notes
from beamstream.monitor.previewing import Previews
from beamstream.monitor.replays import Replays
from beamstream.monitor.roles import NOBODY, Access, Tokens, Visitor, visitor_of
from beamstream.monitor.sampler import Sampler

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.monitor.jobs import Job, NodeJob

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 12
WAITING_MAX: Final = 64
"""Questions that are being answered at once."""
WRITE_S: Final = 10.0
HISTORY_FILE: Final = "history.db"


class Pool:
    """Threads, and how many may wait for them."""

    def __init__(self, name: str, threads: int) -> None:
        self.threads = ThreadPoolExecutor(threads, name)
        self._waiting = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Call what blocks.

        Raises
        ------
        TooMany : many others wait.
        """
        if self._waiting >= WAITING_MAX:
            raise TooMany(f"{WAITING_MAX} questions are being answered", hint="try again soon")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, function)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)


class Node:
    """A node that is watched."""

    def __init__(self, job: NodeJob, history: History, pool: ThreadPoolExecutor) -> None:
        self.name = job.label
        self.hubs = Hubs(job)
        self.sampler = Sampler(self.name, self.hubs, history)
        self.previews = Previews(self.hubs, pool)
        self.tokens = Tokens(self._ask)

    def _ask(self, token: str) -> Access:
        """What the node says of a token; in a thread."""
        hub = self.hubs.connect("", token=token, patience_s=2.0, call_s=5.0)
        try:
            return Access(hub.beamtime, tuple(hub.access))
        finally:
            hub.close(0.0)


class Desk:
    """All of it.

    Raises
    ------
    StorageError : there is no room for its history.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._began_s = time.monotonic()
        # Apart, so that what is known already is told while a node lets questions wait.
        self._asks = Pool("ask", THREADS)
        self._own = Pool("own", 2)
        self._checks = Pool("token", 2)
        self._pictures = Pool("picture", 4)
        self._tasks: list[asyncio.Task[None]] = []
        self.history = History(Path(job.data) / HISTORY_FILE if job.data else None)
        self.notes = Notes()
        self.looking = Looking(self.notes)
        self.replays = Replays()
        self.nodes = {
            one.label: Node(one, self.history, self._pictures.threads) for one in job.watched
        }
        self.feeds = Feeds(self)

    # ------------------------------------------------------------------ life

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sample, feed and write, as long as it is entered."""
        works = [node.sampler.run() for node in self.nodes.values()]
        works += [self.feeds.run(), self._write()]
        self._tasks = [asyncio.create_task(work) for work in works]
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._close()

    async def _write(self) -> None:
        while True:
            await asyncio.to_thread(self.history.write, time.time())
            await asyncio.sleep(WRITE_S)

    async def _close(self) -> None:
        self.replays.close()
        for node in self.nodes.values():
            await node.previews.close()
        for pool in (self._asks, self._own, self._checks, self._pictures):
            pool.close()
        for node in self.nodes.values():
            await asyncio.to_thread(node.hubs.close)
            await asyncio.to_thread(node.sampler.close)
        await asyncio.to_thread(self.history.close)

    # ------------------------------------------------------------------ threads

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what takes a moment, and asks no node.

        Raises
        ------
        TooMany : many others wait.
        """
        return await self._own.run(lambda: function(*args, **kwargs))

    async def asking(self, node: Node, beamtime: str, function: Callable[[Hub], T]) -> T:
        """Ask a beamtime something.

        Raises
        ------
        TooMany : many others wait.
        """

        def ask() -> T:
            with node.hubs.use(beamtime) as hub:
                return function(hub)

        return await self._asks.run(ask)

    async def calling(self, function: Callable[[], T]) -> T:
        """Call what asks nodes in a way of its own."""
        return await self._asks.run(function)

    # ------------------------------------------------------------------ who, and which node

    def node(self, name: str) -> Node:
        """A node by its name; without a name the first one.

        Raises
        ------
        NotFound : there is none of that name.
        """
        if not name:
            return next(iter(self.nodes.values()))
        found = self.nodes.get(name)
        if found is None:
            raise NotFound(f"no node {name[:80]!r} is watched", hint=", ".join(self.nodes))
        return found

    async def visitor(self, node: Node, token: str, *, loopback: bool) -> Visitor:
        """What somebody may do at a node.

        Raises
        ------
        Error : the node cannot be asked about the token.
        """
        if not token:
            return visitor_of(None, loopback=loopback)
        try:
            access = await self._checks.run(lambda: node.tokens.access(token))
        except Denied:
            # A cookie outlives its token; whoever sits at the machine sees as much without.
            return visitor_of(None, loopback=True) if loopback else NOBODY
        return visitor_of(access, loopback=loopback)

    def beamtimes(self, node: Node, visitor: Visitor) -> list[str]:
        """Beamtimes that somebody may see."""
        there = node.sampler.beamtimes()
        if visitor.sees is None:
            return there
        return [name for name in there if name in visitor.sees] or sorted(visitor.sees)

    def beamtime(self, node: Node, visitor: Visitor, asked: str) -> str:
        """The beamtime that is meant; the first one that may be seen, if none is named.

        Raises
        ------
        Denied : it may not be seen.
        NotFound : there is none.
        """
        if asked:
            visitor.check_sees(asked)
            if asked not in self.beamtimes(node, visitor):
                # Asking the node for it would open it: nobody does that by looking.
                raise NotFound(f"node {node.name} has no beamtime {asked[:80]!r}")
            return asked
        found = self.beamtimes(node, visitor)
        if not found:
            raise NotFound(f"node {node.name} has no beamtime yet")
        return found[0]

    # ------------------------------------------------------------------ what there is to see

    def snapshot(self, node: Node, visitor: Visitor, beamtime: str) -> doc.Snapshot | None:
        """What somebody may see; in a thread."""

        def wanted(name: str) -> bool:
            return (not beamtime or name == beamtime) and visitor.may_see(name)

        found = node.sampler.snapshot(wanted)
        if found is None or visitor.sees is None:
            return found
        # The text of an error may name what is somebody else's.
        errors = tuple(msgspec.structs.replace(error, text="") for error in found.errors)
        return msgspec.structs.replace(found, errors=errors)

    def me(self, node: Node, visitor: Visitor) -> doc.Me:
        return doc.Me(
            role=visitor.role,
            beamtimes=tuple(self.beamtimes(node, visitor)) if visitor.somebody else (),
            nodes=tuple(self.nodes) if visitor.somebody else (),
            version=__version__,
            loopback=visitor.loopback,
        )

    def health(self) -> doc.MonitorHealth:
        return doc.MonitorHealth(
            version=__version__,
            up_s=time.monotonic() - self._began_s,
            feeds=len(self.feeds),
            previews=sum(len(node.previews) for node in self.nodes.values()),
            series=len(self.history),
            nodes=tuple(self._node_health()),
        )

    def _node_health(self) -> Iterator[doc.NodeHealth]:
        for node in self.nodes.values():
            error: Error | None = node.sampler.error
            yield doc.NodeHealth(
                name=node.name,
                stale_s=node.sampler.stale_s,
                error="" if error is None else error.code,
            )
