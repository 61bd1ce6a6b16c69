"""What the doors of a node share: the meaning of requests, and who may make them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from beamstream import limits
from beamstream.errors import Error
from beamstream.model import StreamInfo, check_label
from beamstream.server.auth import Authorizer
from beamstream.server.beamtimes import Beamtimes
from beamstream.server.copies import Copies
from beamstream.server.delivery import Deliveries
from beamstream.server.doors.relay import Relay
from beamstream.server.ingest import Ingest
from beamstream.server.joins import Joins
from beamstream.server.payloads import Payloads
from beamstream.server.puts import Puts
from beamstream.server.reads import Reads
from beamstream.server.roots import Roots
from beamstream.server.sampling import Sampling
from beamstream.server.segment_logs import SegmentLogs
from beamstream.server.shared import SharedMemory
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams, View
from beamstream.server.subscriptions import Subscriptions
from beamstream.store import catalog as ops
from beamstream.store.cache import Cache
from beamstream.store.catalog import Catalog

T = TypeVar("T")


class Services:
    """Built once by the node, handed to every door.

    Parameters
    ----------
    advertise : host that clients are told instead of the one they asked; empty for none.
    """

    no_stream = StreamInfo(no=0, source="", name="")

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        authorizer: Authorizer,
        beamtimes: Beamtimes,
        catalog: Catalog,
        cache: Cache,
        streams: Streams,
        ingest: Ingest,
        deliveries: Deliveries,
        reads: Reads,
        roots: Roots,
        stats: Stats,
        threads: Executor,
        advertise: str,
        payloads: Payloads,
        logs: SegmentLogs,
        puts: Puts,
        subscriptions: Subscriptions,
        joins: Joins,
        copies: Copies,
        shared: SharedMemory,
        disk_free: Callable[[], int],
        connections: Callable[[], int],
    ) -> None:
        self.loop = loop
        self.authorizer = authorizer
        self.beamtimes = beamtimes
        self.catalog = catalog
        self.cache = cache
        self.streams = streams
        self.ingest = ingest
        self.deliveries = deliveries
        self.reads = reads
        self.roots = roots
        self.stats = stats
        self.threads = threads
        self.advertise = advertise
        self.payloads = payloads
        self.logs = logs
        self.puts = puts
        self.subscriptions = subscriptions
        self.joins = joins
        self.copies = copies
        self.shared = shared
        self.disk_free = disk_free
        self.connections = connections
        self.searches = asyncio.Semaphore(limits.QUERIES_AT_ONCE_MAX)
        self.began = loop.time()
        self.unix = ""
        """Path of the Unix socket of the native door; empty while there is none."""
        self.tls = False
        self.relay: Relay
        """To the monitor; made by the node."""
        self.sampling: Sampling
        self.stopping = False
        self.opened: set[str] = set()
        """Beamtimes whose records have been opened; opening waits for the disk."""
        self.ports: dict[str, int] = {}
        """Name of a door -> its port, once it listens."""

    def address(self, door: str, local_host: str) -> str:
        """Where a client that reached this node at `local_host` finds a door."""
        host, port = self.advertise or local_host, self.ports[door]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @staticmethod
    def check_name(name: str) -> None:
        """Raise `BadName` if a source, instance or step cannot be called so; empty is none."""
        if name:
            check_label("source, instance or step", name)

    @staticmethod
    def check_stream(stream: str) -> None:
        check_label("stream", stream)

    def make_records(self, beamtime: str) -> None:
        """Make or open the records of a beamtime; in a thread."""
        self.catalog.apply(beamtime, ())
        self.logs.recover(beamtime)
        self.opened.add(beamtime)

    def open_records(self, beamtime: str) -> None:
        """Open the records of a beamtime; in a thread."""
        self.catalog.stream(beamtime, "", "")
        self.logs.recover(beamtime)
        self.opened.add(beamtime)

    def in_thread(self, work: Callable[[], T], done: Callable[[T | Error], None]) -> None:
        """Do what may wait for a file system in a thread; `done` is called on the loop."""

        def run() -> None:
            result: T | Error
            try:
                result = work()
            except Error as error:
                result = error
            self.loop.call_soon_threadsafe(done, result)

        self.threads.submit(run)

    def delete_stream(
        self, view: View, *, with_meta: bool, done: Callable[[Error | None], None]
    ) -> None:
        """Delete a stream; `done` with NotFound if there is none."""

        def ended(outcome: Sequence[ops.Result] | Error) -> None:
            view.busy -= 1
            view.deleting = False
            result = outcome if isinstance(outcome, Error) else outcome[0]
            if isinstance(result, Error):
                done(result)
            elif isinstance(result, ops.Refused):
                done(result.error)
            else:
                self.streams.forget(view)
                done(None)

        view.busy += 1
        view.deleting = True
        op = ops.DeleteStream(view.source, view.name, with_meta)
        self.ingest.submit_safe(view.beamtime, (op,), ended)

    def persist(self, view: View, done: Callable[[Error | None], None]) -> None:
        """Keep a stream when others are purged."""

        def ended(outcome: Sequence[ops.Result] | Error) -> None:
            view.busy -= 1
            result = outcome if isinstance(outcome, Error) else outcome[0]
            if isinstance(result, ops.Refused):
                result = result.error
            view.persistent = view.persistent or not isinstance(result, Error)
            done(result if isinstance(result, Error) else None)

        view.busy += 1
        self.ingest.submit_safe(view.beamtime, (ops.Persist(view.source, view.name),), ended)

    def room(self) -> None:
        """A payload was unpinned: producers may be waiting for its memory."""
        self.ingest.room()
