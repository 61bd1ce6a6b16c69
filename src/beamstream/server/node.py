"""A node: everything built, started, and stopped again. The only place that knows it all."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog
import uvloop

from beamstream import limits
from beamstream._version import __version__
from beamstream.errors import BadSetting, Error, StorageError
from beamstream.model import Level
from beamstream.server import logs, recovery
from beamstream.server.auth import Authorizer
from beamstream.server.beamtimes import Beamtimes
from beamstream.server.commits import Commits, Maintenance
from beamstream.server.copies import Copies
from beamstream.server.delivery import Deliveries
from beamstream.server.doors.admission import Admission
from beamstream.server.doors.arenas import ArenaDoor
from beamstream.server.doors.asapo_data import DataConnection
from beamstream.server.doors.asapo_ingest import IngestConnection
from beamstream.server.doors.front import FrontHandler
from beamstream.server.doors.http import HttpConnection
from beamstream.server.doors.native import NativeConnection
from beamstream.server.doors.relay import Relay
from beamstream.server.doors.services import Services
from beamstream.server.doors.sockets import allow_many_descriptors
from beamstream.server.ingest import Ingest
from beamstream.server.joins import Joins
from beamstream.server.monitor_process import MonitorProcess
from beamstream.server.payloads import Payloads
from beamstream.server.puts import Puts
from beamstream.server.reads import Reads
from beamstream.server.renewing import Renewing
from beamstream.server.roots import Roots
from beamstream.server.sampling import Sampling
from beamstream.server.segment_logs import SegmentLogs
from beamstream.server.shared import SharedMemory, this_machine
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams
from beamstream.server.subscriptions import Hall, Subscriptions
from beamstream.settings import Address, Settings
from beamstream.store.arenas import Arenas
from beamstream.store.cache import Cache
from beamstream.store.catalog import Catalog, Op
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.store.folder import DataFolder
from beamstream.store.registry import Registry

log = structlog.get_logger("node")

_SWITCH_INTERVAL_S = 0.0005
"""Threads that come back from a system call get their turn soon, not after Python's 5 ms."""

_DOORS = ("http", "ingest", "data", "native")
_WRITE_BEHIND_S = 0.1
_REFRESH_S = 1.0

OnReady = Callable[[Settings], None]


def run(settings: Settings, on_ready: OnReady = lambda settings: None) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit status of the process.

    `on_ready` is called with the real addresses once all doors are open.

    Raises
    ------
    StoreInUse : another node runs on the folder.
    BadSetting : the cache does not fit, or an address cannot be listened at.
    """
    logs.configure(settings.log)
    os.umask(0o027)
    allow_many_descriptors()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    folder = DataFolder(settings.data, create=True)
    with folder.locked():
        arenas = Arenas(settings.cache_nbytes, _arena_count(settings))
        try:
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(Node(settings, folder, arenas).serve(on_ready))
            finally:
                arenas.close()
        except KeyboardInterrupt:
            return 130
    return 0


def _arena_count(settings: Settings) -> int:
    return max(1, min(64, round(1 / settings.cache_share)))


class Node:
    """One node on one data folder."""

    def __init__(self, settings: Settings, folder: DataFolder, arenas: Arenas) -> None:
        self._settings = settings
        self._folder = folder
        self._arenas = arenas
        self._admissions = {name: Admission() for name in _DOORS}
        self._servers: list[asyncio.Server] = []
        self._arena_door: ArenaDoor | None = None

    async def serve(self, on_ready: OnReady) -> None:
        """Start, tell `on_ready`, and stop at a signal."""
        self._build(asyncio.get_running_loop())
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop.set)
        try:
            settings = await self._open_doors()
            upkeep = [
                self._loop.create_task(self._write_behind()),
                self._loop.create_task(self._refresh()),
            ]
            self._threads.submit(
                recovery.list_orphans, self._recovered, self._journal, self._catalog, self._began_ns
            )
            monitor = self._start_monitor(settings)
            log.info("ready", version=__version__, boot=self._boot, data=str(self._folder.path))
            await asyncio.to_thread(on_ready, settings)
            await stop.wait()
            log.info("stopping")
            for task in upkeep:
                task.cancel()
            if monitor is not None:
                await monitor.stop()
            await self._drain()
        finally:
            self._close()
        log.info("stopped", summary=list(self._stats.lines()))

    # ------------------------------------------------------------------ building

    def _build(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._build_stores()
        self._build_planes()
        self._build_services()

    def _build_stores(self) -> None:
        """What is kept: records, files, payloads in memory."""
        loop, folder = self._loop, self._folder
        self._began_ns = time.time_ns()
        self._registry = Registry(folder.node_db)
        self._boot = self._registry.new_boot(time.time_ns(), __version__)
        self._catalog: Catalog = SqliteCatalog(folder.catalog)
        journal = folder.path / "folders.journal"
        self._recovered = recovery.clean_up(journal)
        self._journal = journal
        self._roots = Roots(journal)
        self._renewing = Renewing(loop, self._arenas)
        self._cache = Cache(
            self._arenas.views,
            _BufIds(),
            on_renew=self._renewing.renew,
            on_retired=self._renewing.forget,
        )
        self._threads = ThreadPoolExecutor(limits.FILE_THREADS, "files")
        self._logs = SegmentLogs(folder.segments, self._catalog.segment_end)

    def _build_planes(self) -> None:
        """What decides: the one way into the catalog, what is visible, who is handed what."""
        loop, settings = self._loop, self._settings
        self._stats = Stats()
        self._streams = Streams(self._catalog)
        self._commits = Commits(self._catalog, loop, self._marks, self._logs.prepare)
        self._maintenance = Maintenance(self._catalog, self._commits)
        self._deliveries = Deliveries(
            self._catalog,
            self._streams,
            self._commits,
            self._stats,
            syncs=settings.durability >= Level.DISK,
            boot=self._boot,
        )
        self._beamtimes = Beamtimes(settings, self._registry)
        self._payloads = Payloads(
            cache=self._cache,
            streams=self._streams,
            roots=self._roots,
            beamtimes=self._beamtimes,
            logs=self._logs,
        )
        self._ingest = Ingest(
            loop=loop,
            streams=self._streams,
            commits=self._commits,
            cache=self._cache,
            roots=self._roots,
            stats=self._stats,
            threads=self._threads,
            durability=settings.durability,
            node=self._registry.node_id,
            boot=self._boot,
        )
        self._shared = SharedMemory(
            cache=self._cache,
            room=self._ingest.room,
            wait=self._ingest.wait_for_room,
            later=loop.call_later,
            machine=this_machine(),
        )
        self._renewing.connect(self._cache, self._ingest.room, self._shared.retired)

    def _build_services(self) -> None:
        """What doors are handed."""
        loop, settings, folder = self._loop, self._settings, self._folder
        puts = Puts(
            loop=loop,
            streams=self._streams,
            commits=self._commits,
            cache=self._cache,
            payloads=self._payloads,
            ingest=self._ingest,
            stats=self._stats,
            threads=self._threads,
            durability=settings.durability,
            node=self._registry.node_id,
            boot=self._boot,
        )
        hall = Hall(loop, self._catalog, self._streams, self._deliveries, self._stats)
        subscriptions = Subscriptions(hall)
        self._services = Services(
            loop=loop,
            authorizer=Authorizer(self._registry, folder.key, time.time),
            beamtimes=self._beamtimes,
            catalog=self._catalog,
            cache=self._cache,
            streams=self._streams,
            ingest=self._ingest,
            deliveries=self._deliveries,
            reads=Reads(self._catalog, self._streams, self._payloads),
            roots=self._roots,
            stats=self._stats,
            threads=self._threads,
            advertise=settings.advertise,
            payloads=self._payloads,
            logs=self._logs,
            puts=puts,
            subscriptions=subscriptions,
            joins=Joins(hall, self._commits, subscriptions, settings.durability),
            copies=Copies(self._streams, self._commits, settings.durability),
            shared=self._shared,
            disk_free=lambda: folder.nbytes_free,
            connections=lambda: sum(map(len, self._admissions.values())),
        )

        self._services.relay = Relay(loop, folder.monitor_socket)
        self._services.sampling = Sampling(
            stats=self._stats,
            streams=self._streams,
            cache=self._cache,
            doors=self._admissions,
            disk=folder.disk_nbytes,
            beamtimes=self._catalog.beamtimes,
            members=subscriptions.members,
            clock=loop.time,
            node=self._registry.node_id,
            boot=self._boot,
        )

    def _marks(self, beamtime: str) -> list[Op]:
        return self._deliveries.write_behind(beamtime)

    # ------------------------------------------------------------------ doors

    async def _open_doors(self) -> Settings:
        services, settings = self._services, self._settings
        admissions = self._admissions
        tls = _tls(settings)
        services.tls = tls is not None
        ingest = await self._listen(
            lambda: IngestConnection(services, admissions["ingest"]), settings.ingest
        )
        data = await self._listen(
            lambda: DataConnection(services, admissions["data"]), settings.data_port
        )
        http = await self._listen(
            lambda: HttpConnection(
                self._loop, lambda: FrontHandler(services, services.searches), admissions["http"]
            ),
            settings.http,
            tls,
        )
        native = await self._listen(
            lambda: NativeConnection(services, admissions["native"]), settings.native, tls
        )
        await self._listen_unix(lambda: NativeConnection(services, admissions["native"]))
        self._share_memory()
        services.ports.update(
            ingest=ingest.port, data=data.port, http=http.port, native=native.port
        )
        return msgspec.structs.replace(
            settings, http=http, ingest=ingest, data_port=data, native=native
        )

    async def _listen_unix(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """The native door for programs of the same user on this machine."""
        path = self._folder.native_socket
        try:
            path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(str(path))
                # Nobody can connect before this: it does not listen yet.
                path.chmod(0o600)
                server = await self._loop.create_unix_server(
                    make, sock=listener, backlog=limits.BACKLOG
                )
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            # A path of more than 107 bytes, or a file system without sockets.
            log.warning("no Unix socket", path=str(path), reason=error.strerror or str(error))
            return
        self._servers.append(server)
        self._services.unix = str(path)

    def _share_memory(self) -> None:
        """The socket that hands out the cache's memory to clients on this machine."""
        path = self._folder.arenas_socket
        self._arena_door = ArenaDoor(self._loop, self._shared, self._arenas, path)
        try:
            self._arena_door.open()
            self._shared.path = str(path)
        except BadSetting as error:
            log.warning("no shared memory", reason=error.message)

    async def _listen(
        self,
        make: Callable[[], asyncio.BaseProtocol],
        address: Address,
        tls: ssl.SSLContext | None = None,
    ) -> Address:
        """Open a door; return where it really listens."""
        try:
            listener = _bound(address)
            server = await self._loop.create_server(
                make, sock=listener, backlog=limits.BACKLOG, ssl=tls
            )
        except OSError as error:
            raise BadSetting(
                f"cannot listen at {address}: {error.strerror or error}",
                hint="another program may listen there: choose another port, or 0 for any",
            ) from None
        self._servers.append(server)
        host, port = listener.getsockname()[:2]
        return Address(host, port)

    def _start_monitor(self, settings: Settings) -> MonitorProcess | None:
        """The process behind the page, which logs in with a secret of its own."""
        if not settings.monitor:
            return None
        services, folder = self._services, self._folder
        secret = secrets.token_urlsafe(32)
        services.authorizer.trust(secret)
        job = {
            "name": socket.gethostname(),
            "url": f"unix:{services.unix}" if services.unix else f"tcp://{settings.native}",
            "token": secret,
            "socket": str(folder.monitor_socket),
            "data": str(folder.path),
            "secure": services.tls,
        }
        monitor = MonitorProcess(self._loop, job)
        monitor.start()
        return monitor

    # ------------------------------------------------------------------ upkeep

    async def _write_behind(self) -> None:
        """Positions go with the next commit; where none comes, after a moment."""
        while True:
            await asyncio.sleep(_WRITE_BEHIND_S)
            for beamtime in self._deliveries.dirty_beamtimes():
                self._commits.submit(beamtime, (), _no_answer)

    async def _refresh(self) -> None:
        """Notice what the command line has changed: revoked tokens, opened beamtimes."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                self._services.authorizer.refresh(time.time())
            except StorageError as error:
                log.error("tokens cannot be checked; nobody is let in", reason=str(error))
            for connection in self._admissions["native"]:
                assert isinstance(connection, NativeConnection)
                connection.check_grant()
            self._cache.unblock()

    # ------------------------------------------------------------------ stopping

    async def _drain(self) -> None:
        """Finish what has been received, take nothing new."""
        self._services.stopping = True
        self._services.relay.close()
        for server in self._servers:
            server.close()
        for admission in self._admissions.values():
            admission.stop()
        deadline = self._loop.time() + limits.DRAIN_SECONDS_MAX
        http, native = self._admissions["http"], self._admissions["native"]
        ingest, puts = self._services.ingest, self._services.puts
        while ingest.under_way or puts.under_way or len(http):
            if self._loop.time() > deadline:
                log.warning("requests under way are given up", connections=len(http))
                break
            await asyncio.sleep(0.01)
        for connection in native:
            assert isinstance(connection, NativeConnection)
            connection.finish()
        while len(native) and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
        self._commits.flush()
        for beamtime in self._deliveries.dirty_beamtimes():
            marks = self._deliveries.write_behind(beamtime, at_once=True)
            self._commits.submit(beamtime, marks, _no_answer)
        self._commits.flush()

    def _close(self) -> None:
        self._services.ingest.close()
        if self._arena_door is not None:
            self._arena_door.close()
        self._renewing.close()
        self._threads.shutdown()
        self._roots.forget_notes()
        self._maintenance.close()
        self._commits.close()
        self._logs.close()
        self._folder.native_socket.unlink(missing_ok=True)
        for beamtime in self._catalog.opened():
            try:
                self._catalog.sync(beamtime)
            except Error as error:
                log.error("records could not be synced", beamtime=beamtime, reason=str(error))
        self._catalog.close()
        self._roots.close()
        self._registry.close()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """What the doors http and native need to speak TLS; None if they speak in clear.

    Raises
    ------
    BadSetting : certificate or key cannot be used.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(
            f"the certificate {settings.tls_cert} cannot be used: {error}",
            hint="tls_cert and tls_key are PEM files that belong together",
        ) from None
    return context


def _bound(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
    except BaseException:
        listener.close()
        raise
    return listener


class _BufIds:
    """Addresses that nobody can guess: 63 random bits, never 0; randomness is asked for by 4 kB."""

    def __init__(self) -> None:
        self._random: list[int] = []

    def __call__(self) -> int:
        if not self._random:
            self._random = [number >> 1 or 1 for number in array("Q", secrets.token_bytes(4096))]
        return self._random.pop()


def _no_answer(outcome: object) -> None:
    return None
