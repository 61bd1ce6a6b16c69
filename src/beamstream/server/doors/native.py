"""The native door: one connection of a client, TCP or Unix socket (docs/reference/native-protocol).

`native_reading` cuts frames, `native_sending` sends them, `native_calls` answers questions; what
puts and subscriptions mean, `server.puts` and `server.subscriptions` know. Here are the socket, its
back-pressure, its deadlines, and who the client is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import structlog

from beamstream import limits
from beamstream._version import __version__
from beamstream.errors import (
    BadToken,
    CacheFull,
    ConnectionLost,
    Error,
    NotAllowed,
    NotFound,
    ProtocolError,
    RemoteProtocolError,
    TooLarge,
    TooMany,
)
from beamstream.model import Dataset, Who
from beamstream.server.auth import Grant
from beamstream.server.beamtimes import AUTO, BeamtimeFolders
from beamstream.server.blocks import Block
from beamstream.server.doors.admission import Admission
from beamstream.server.doors.native_channels import Channels
from beamstream.server.doors.native_outlet import Loads
from beamstream.server.doors.native_reading import Done, FrameReader, Header, LongHeader
from beamstream.server.doors.native_sending import Sender
from beamstream.server.doors.services import Services
from beamstream.server.doors.sockets import keep_alive
from beamstream.server.ingest import Wait
from beamstream.server.messages import Producer
from beamstream.server.put_jobs import Job
from beamstream.server.streams import View
from beamstream.store.cache import Slot
from beamstream.wire.native import frames

log = structlog.get_logger("native")


class NativeConnection(asyncio.BufferedProtocol):
    """One client's connection; for subscriptions it is an `Outlet`."""

    def __init__(self, services: Services, admission: Admission) -> None:
        self.services = services
        self._loop = services.loop
        self._admission = admission
        self._reader = FrameReader()
        self.sender = Sender(
            services.loop, services.cache, services.payloads, services.room, self._drained
        )
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._address = ""
        self._member = ""
        self._closed = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._sent_nbytes = 0
        self._seen_nbytes = 0
        self._stalled_at = -1
        self._paused: set[str] = set()
        self._going_on = False
        # Of the client, once it is known.
        self.session = b""
        self.who = Who()
        self.beamtime = ""
        self.grant: Grant | None = None
        self._arenas = ""
        self._hello: frames.Hello | None = None
        self._meant_at = 0.0
        self._channels: Channels | None = None
        self._loads: Loads | None = None
        # Of the frame that is being received.
        self._header_slot: Slot | None = None
        self._job: Job | None = None
        self._waits: Callable[[], bool] | None = None
        self._waiting_until = 0.0
        self._waiting_put: frames.Put | None = None

    # ------------------------------------------------------------------ the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        keep_alive(transport)
        peer = self._transport.get_extra_info("peername")
        self._address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        if not self._admission.enter(self):
            log.warning("too many connections", peer=self._address)
            self._transport.abort()
            return
        self.sender.connected(self._transport)
        self._deadline = self._loop.call_later(limits.LOGIN_SECONDS_MAX, self._login_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._admission.leave(self, self._member)
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        self.services.ingest.give_up(self._resume)
        job, self._job = self._job, None
        if job is not None:
            job.abort()
        self._release_header()
        if self._loads is not None:
            self._loads.close()
        if self._channels is not None:
            self._channels.close()
        if self._arenas:
            self.services.shared.left(self.session)
        self.sender.closed()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.want()

    def buffer_updated(self, nbytes: int) -> None:
        self._seen_nbytes += nbytes
        self._reader.got(nbytes)
        self._go_on()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._stalled is None:
            self._sent_nbytes = self.sender.sent_nbytes
            self._stalled = self._loop.call_later(limits.STALL_SECONDS_MAX, self._check_progress)
        if self.sender.queued_nbytes > 2 * limits.NATIVE_QUEUE_NBYTES_MAX:
            # Who asks without reading the answers is asked to read first.
            self.pause("queue")

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self.sender.drained()

    def _drained(self) -> None:
        self.unpause("queue")
        if self._channels is not None and not self._closed:
            self.services.subscriptions.resume(self)

    # ------------------------------------------------------------------ frames

    def _go_on(self) -> None:
        if self._going_on:
            return
        self._going_on = True
        reader = self._reader
        try:
            while not (self._paused or self._closed):
                event = reader.next()
                match event:
                    case None:
                        break
                    case Header():
                        self._header(event)
                    case LongHeader():
                        self._decide(partial(self._take_header, event.nbytes))
                    case Done.TAKEN:
                        job, self._job = self._job, None
                        if job is not None:
                            job.complete()
                    case Done.FILLED:
                        assert self._job is not None
                        self.pause("memory")
                        self._job.filled(self._next_memory)
                    case _:
                        pass
        except ProtocolError as error:
            self.goodbye(error)
        except TooLarge as error:
            self.goodbye(error)
        finally:
            self._going_on = False

    def _header(self, event: Header) -> None:
        try:
            frame = self._decoded(event)
        finally:
            self._release_header()
        if frame is None:
            return
        if isinstance(frame, frames.Put):
            if self._channels is None:
                raise RemoteProtocolError("the first frame is not Hello")
            self._decide(partial(self._put, frame, event.body_nbytes))
            return
        if event.body_nbytes:
            self._reader.drop()
        if self._channels is None:
            if not isinstance(frame, frames.Hello):
                raise RemoteProtocolError("the first frame is not Hello")
            self._login(frame)
        elif isinstance(frame, frames.Ping):
            self.sender.send(frames.Pong(frame.number, time.time_ns()))
        else:
            self._channels.take(frame)

    def _decoded(self, event: Header) -> frames.Frame | None:
        if event.kind not in frames.KINDS and self._channels is not None:
            # A later version may know it: the framing tells where the next one begins.
            if event.body_nbytes:
                self._reader.drop()
            error = RemoteProtocolError(f"frames of kind {event.kind} are not known")
            self.sender.send(frames.Failed(0, 0, 0, error.code, error.message))
            return None
        return frames.decode(event.kind, event.header)

    # ------------------------------------------------------------------ memory for what comes

    def _decide(self, attempt: Callable[[], bool]) -> None:
        """Say where a body goes, now or when there is room."""
        if attempt():
            self._waits = None
            self._waiting_until = 0.0
            return
        if self._waits is None:
            self._waiting_until = self._loop.time() + limits.CACHE_WAIT_SECONDS_MAX
            self._loop.call_at(self._waiting_until, self._waited_long)
        self._waits = attempt
        self.pause("room")

    def _resume(self) -> None:
        """There may be room now."""
        attempt = self._waits
        if self._closed or attempt is None:
            return
        try:
            done = attempt()
        except (ProtocolError, TooLarge) as error:
            self.goodbye(error)
            return
        if done:
            self._waits = None
            self._waiting_until = 0.0
            self.unpause("room")

    def _waited_long(self) -> None:
        if not self._waiting_until or self._loop.time() < self._waiting_until or self._closed:
            return
        self._waits, self._waiting_until = None, 0.0
        self.services.ingest.give_up(self._resume)
        error = CacheFull(f"no room in the cache for {limits.CACHE_WAIT_SECONDS_MAX:g} s")
        put, self._waiting_put = self._waiting_put, None
        if put is None or self._channels is None:
            self.goodbye(error, retry=True)
            return
        self._channels.refuse_put(put, error)
        self._reader.drop()
        self.unpause("room")

    def _take_header(self, nbytes: int) -> bool:
        cache = self.services.cache
        if nbytes > cache.payload_nbytes_max:
            raise TooLarge(f"a header of {nbytes} bytes is larger than what the cache takes")
        slot = self.services.ingest.allocate(self.beamtime, nbytes, self._resume)
        if isinstance(slot, Wait):
            return False
        self._header_slot = slot
        self._reader.take(cache.view(slot))
        return True

    def _release_header(self) -> None:
        slot, self._header_slot = self._header_slot, None
        if slot is not None:
            self.services.ingest.drop(slot)

    def _put(self, frame: frames.Put, body_nbytes: int) -> bool:
        """Take a put, or refuse it; False when there is no room just now."""
        assert self._channels is not None
        self._waiting_put = None
        try:
            job = self._channels.begin_put(frame, body_nbytes, self._resume)
        except Error as error:
            self.services.stats.refused += frame.count
            self._channels.refuse_put(frame, error)
            if body_nbytes:
                self._reader.drop()
            return True
        if isinstance(job, Wait):
            self._waiting_put = frame
            return False
        if job.memory is None or not body_nbytes:
            job.complete()
        else:
            self._job = job
            self._reader.take(job.memory)
        return True

    def _next_memory(self, memory: memoryview) -> None:
        if not self._closed:
            self._reader.take(memory)
            self.unpause("memory")

    # ------------------------------------------------------------------ login

    def _login(self, hello: frames.Hello) -> None:
        if hello.magic != frames.MAGIC:
            raise RemoteProtocolError("this is not the protocol of Beamstream")
        if hello.version < 1:
            raise RemoteProtocolError(f"version {hello.version} of the protocol is not known")
        if len(hello.session) != limits.SESSION_NBYTES:
            raise RemoteProtocolError("the number of a session has 16 bytes")
        try:
            grant = self.services.authorizer.grant(hello.token)
            for name in (hello.instance, hello.step):
                self.services.check_name(name)
        except Error as error:
            self.goodbye(error)
            return
        self._hello = hello
        self.pause("login")
        self.services.in_thread(
            partial(self._find_beamtime, hello, grant), partial(self._enter, hello, grant)
        )

    def _find_beamtime(
        self, hello: frames.Hello, grant: Grant
    ) -> tuple[str, BeamtimeFolders | None]:
        """In a thread."""
        services = self.services
        beamtime = services.beamtimes.meant(hello.beamtime or AUTO, AUTO, grant)
        folders = None
        if grant.kind == "nd" and beamtime not in services.catalog.beamtimes():
            # Who may see everything looks, and makes nothing.
            if hello.beamtime:
                raise NotFound(f"there are no records of beamtime {beamtime!r}")
        elif grant.access & {"write", "writeraw"}:
            folders = services.beamtimes.folders(beamtime)
            services.make_records(beamtime)
        else:
            services.open_records(beamtime)
        return beamtime, folders

    def _enter(
        self,
        hello: frames.Hello,
        grant: Grant,
        found: tuple[str, BeamtimeFolders | None] | Error,
    ) -> None:
        if self._closed:
            return
        if isinstance(found, Error):
            self.goodbye(found)
            return
        member = f"{grant.token_id} {hello.instance}"
        if not self._admission.join(member):
            self.goodbye(TooMany("too many connections of one instance"), retry=True)
            return
        self._member = member
        self.beamtime, folders = found
        self.grant = grant
        self.session = hello.session
        self.who = Who(hello.instance, hello.step, self._address, grant.token_id)
        self._arenas = self.services.shared.greet(
            hello.session, hello.machine, self.beamtime, grant.access
        )
        self._meant_at = self._loop.time()
        self._loads = Loads(self.services, self.sender, self.beamtime)
        producer = Producer(folders, "", False, self.who) if folders is not None else None
        self._channels = Channels(self, grant, producer, self._loads)
        self._reader.header_nbytes_max = limits.NATIVE_HEADER_NBYTES_MAX
        self._reader.body_nbytes_max = limits.PAYLOAD_NBYTES_MAX
        if self._deadline is not None:
            self._deadline.cancel()
        self._watch()
        self.sender.send(self._welcome())
        self.sender.flush()
        self.unpause("login")

    def _welcome(self) -> frames.Welcome:
        puts, cache = self.services.puts, self.services.cache
        assert self.grant is not None
        return frames.Welcome(
            version=frames.VERSION,
            node=puts.node,
            boot=puts.boot,
            software=f"Beamstream {__version__}",
            beamtime=self.beamtime,
            access=tuple(sorted(self.grant.access)),
            level=puts.durability,
            window_nbytes=limits.NATIVE_WINDOW_NBYTES,
            batch_max=limits.NATIVE_BATCH_MAX,
            payload_nbytes_max=limits.PAYLOAD_NBYTES_MAX,
            cache_payload_nbytes_max=cache.payload_nbytes_max,
            arenas=self._arenas,
            shared_nbytes_max=self.services.shared.session_nbytes_max if self._arenas else 0,
        )

    def check_grant(self) -> None:
        """Called every second: end the connection of a token that has ended, or moved on."""
        grant, hello = self.grant, self._hello
        if grant is None or hello is None or self._closed:
            return
        if not grant.valid:
            self.goodbye(BadToken("the token has expired or was revoked"))
            return
        now = self._loop.time()
        asked = hello.beamtime in ("", AUTO) and grant.kind == "bl"
        if asked and now - self._meant_at >= limits.MEANT_SECONDS:
            self._meant_at = now
            self.services.in_thread(
                partial(self.services.beamtimes.meant, AUTO, AUTO, grant), self._is_meant
            )

    def _is_meant(self, beamtime: str | Error) -> None:
        if not self._closed and beamtime != self.beamtime:
            self.goodbye(NotAllowed("the beamline has another beamtime now"), retry=True)

    @property
    def client(self) -> tuple[str, Who] | None:
        """Beamtime and who it is, once that is known."""
        return (self.beamtime, self.who) if self.grant is not None else None

    # ------------------------------------------------------------------ an outlet

    @property
    def writable(self) -> bool:
        return not self._closed and self.sender.writable

    def stream_opened(self, frame: frames.StreamOpened) -> None:
        self._in_order(frame.channel, frame)

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
        if self._loads is not None:
            shares = self.session if shared else b""
            self._loads.deliver(
                channel, ref, tag, view, block, lo, hi, deliveries, payloads, shares
            )

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
        if self._loads is not None:
            shares = self.session if shared else b""
            self._loads.deliver_datasets(
                channel, ref, tag, view, datasets, deliveries, payloads, shares
            )

    def gap(self, frame: frames.Gap) -> None:
        self._in_order(frame.channel, frame)

    def end(self, frame: frames.End) -> None:
        self._in_order(frame.channel, frame)

    def header(self, frame: frames.Header) -> None:
        self._in_order(frame.channel, frame)

    def settled(self, frame: frames.Settled) -> None:
        self._in_order(frame.channel, frame)

    def failed(self, channel: int, error: Error) -> None:
        self._in_order(channel, frames.Failed(channel, 0, 0, error.code, error.message, error.hint))

    def _in_order(self, channel: int, frame: frames.Frame) -> None:
        if self._loads is not None:
            self._loads.frame(channel, frame)

    # ------------------------------------------------------------------ ending

    def stop(self) -> None:
        """The node stops: nothing new is taken; what was received is answered."""
        self.pause("stopping")
        job, self._job = self._job, None
        if job is not None:
            job.abort()
        if self._channels is None:
            self._transport.close()

    def finish(self) -> None:
        """All that was under way has been answered."""
        self.goodbye(ConnectionLost("the node stops"), retry=True)

    def goodbye(self, error: Error, *, retry: bool = False) -> None:
        """Say why, and close."""
        if self._closed or self._transport.is_closing():
            return
        if not retry:
            self.services.stats.failed(error)
            log.warning("connection dropped", peer=self._address, reason=error.message)
        if self._channels is not None:
            self._channels.flush_receipts()
        self.sender.send(frames.Goodbye(error.code, error.message, error.hint, retry))
        self.sender.flush()
        self.pause("closing")
        self._transport.close()
        # Closing waits for the peer to read, but not for ever.
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(limits.STALL_SECONDS_MAX, self._transport.abort)

    # ------------------------------------------------------------------ reading or not

    def pause(self, reason: str) -> None:
        """Stop reading until `unpause` with the same reason."""
        if not self._paused and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused.add(reason)

    def unpause(self, reason: str) -> None:
        if reason in self._paused:
            self._paused.discard(reason)
            if not self._paused and not self._closed and not self._transport.is_closing():
                self._go_on()
                if not self._paused:
                    with contextlib.suppress(RuntimeError):
                        self._transport.resume_reading()

    # ------------------------------------------------------------------ deadlines

    def _login_is_late(self) -> None:
        log.warning("no login", peer=self._address)
        self._transport.abort()

    def _watch(self) -> None:
        """Cut off a peer that stops in the middle of a frame; idle ones may stay for ever."""
        owes = not (self._reader.idle or self._paused)
        if owes and self._seen_nbytes == self._stalled_at:
            log.warning("peer stopped in the middle of a frame", peer=self._address)
            self._transport.abort()
            return
        self._stalled_at = self._seen_nbytes if owes else -1
        self._deadline = self._loop.call_later(limits.STALL_SECONDS_MAX / 2, self._watch)

    def _check_progress(self) -> None:
        sent = self.sender.sent_nbytes
        if sent <= self._sent_nbytes:
            log.warning("reader stopped reading", peer=self._address)
            self._transport.abort()
            return
        self._sent_nbytes = sent
        self._stalled = self._loop.call_later(limits.STALL_SECONDS_MAX, self._check_progress)
