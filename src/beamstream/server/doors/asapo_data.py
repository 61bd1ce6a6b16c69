"""The ASAPO data door: payloads from the cache over TCP (protocol section 7).

The protocol has no login here: a payload's address is 63 random bits, told only to readers that
showed a token, and good as long as the payload is in the cache. A connection has one request at a
time; while a payload is being sent its slot is pinned, and a reader that stops reading is cut off.
"""

from __future__ import annotations

import asyncio
from typing import cast

import structlog

from beamstream import limits
from beamstream.errors import RemoteProtocolError
from beamstream.server.doors.admission import Admission
from beamstream.server.doors.services import Services
from beamstream.server.doors.sockets import keep_alive
from beamstream.store.cache import Slot
from beamstream.wire.asapo.structs import (
    REQUEST_NBYTES,
    Code,
    OpCode,
    Request,
    pack_reply,
    parse_version,
    unpack_request,
)

log = structlog.get_logger("data")

_NEWEST = (0, 1)


class DataConnection(asyncio.BufferedProtocol):
    """One consumer's connection to the cache."""

    def __init__(self, services: Services, admission: Admission) -> None:
        self._services = services
        self._loop = services.loop
        self._admission = admission
        self._buffer = memoryview(bytearray(2 * REQUEST_NBYTES))
        self._filled = 0
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._address = ""
        self._sending: Slot | None = None
        self._write_paused = False
        self._stalled: asyncio.TimerHandle | None = None
        self._left_nbytes = 0
        self._head: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        keep_alive(transport)
        # Zero: resume_writing is called when all of a payload has left.
        self._transport.set_write_buffer_limits(0, 0)
        peer = self._transport.get_extra_info("peername")
        self._address = f"{peer[0]}:{peer[1]}" if peer else "?"
        if not self._admission.enter(self):
            log.warning("too many connections", peer=self._address)
            self._transport.abort()
            return
        self._head = self._loop.call_later(limits.LOGIN_SECONDS_MAX, self._drop, "no request")

    def connection_lost(self, exc: Exception | None) -> None:
        self._admission.leave(self)
        for timer in (self._stalled, self._head):
            if timer is not None:
                timer.cancel()
        self._sent()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._go_on()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        self._sent()
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._go_on()

    def eof_received(self) -> bool:
        return False

    def stop(self) -> None:
        self._transport.close()

    # ------------------------------------------------------------------ requests

    def _go_on(self) -> None:
        while self._filled >= REQUEST_NBYTES and self._sending is None:
            try:
                request = unpack_request(self._buffer)
            except RemoteProtocolError as error:
                self._drop(str(error))
                return
            rest = self._filled - REQUEST_NBYTES
            if rest:
                self._buffer[:rest] = bytes(self._buffer[REQUEST_NBYTES : self._filled])
            self._filled = rest
            self._answer(request)
            if self._transport.is_closing():
                return
        self._watch_head()

    def _answer(self, request: Request) -> None:
        if request.op != OpCode.GET_BUFFER_DATA or request.meta_size:
            self._drop(f"operation {request.op} is not one of the data server")
            return
        try:
            newer = parse_version(request.version) > _NEWEST
        except RemoteProtocolError as error:
            self._drop(str(error))
            return
        if newer:
            self._transport.write(
                pack_reply(request.op, Code.NOT_SUPPORTED, "client version not supported")
            )
            return
        found = self._services.cache.addressed(request.id)
        stats = self._services.stats
        if found is None or found[2] != request.data_size:
            stats.cache_misses += 1
            self._transport.write(pack_reply(request.op, Code.NO_DATA))
            return
        stats.cache_hits += 1
        stats.nbytes_out += found[2]
        self._send(request, *found)

    def _send(self, request: Request, slot: Slot, offset: int, nbytes: int) -> None:
        cache = self._services.cache
        cache.pin(slot)
        self._sending = slot
        payload = cache.view(slot)[offset : offset + nbytes]
        self._transport.writelines((pack_reply(request.op, Code.SUCCESS), payload))
        if not self._write_paused and not self._transport.get_write_buffer_size():
            self._sent()
            return
        self._transport.pause_reading()
        self._left_nbytes = self._transport.get_write_buffer_size()
        self._stalled = self._loop.call_later(limits.STALL_SECONDS_MAX, self._check_progress)

    def _sent(self) -> None:
        slot, self._sending = self._sending, None
        if slot is not None:
            self._services.cache.unpin(slot)
            self._services.room()

    # ------------------------------------------------------------------ deadlines

    def _check_progress(self) -> None:
        left = self._transport.get_write_buffer_size()
        if left >= self._left_nbytes:
            log.warning("reader stopped reading", peer=self._address)
            self._transport.abort()
            return
        self._left_nbytes = left
        self._stalled = self._loop.call_later(limits.STALL_SECONDS_MAX, self._check_progress)

    def _watch_head(self) -> None:
        """Half a request must not stay half for ever, however slowly it grows."""
        half = self._filled and self._sending is None
        if half and self._head is None:
            self._head = self._loop.call_later(
                limits.STALL_SECONDS_MAX, self._drop, "half a request"
            )
        elif not half and self._head is not None:
            self._head.cancel()
            self._head = None

    def _drop(self, reason: str) -> None:
        log.warning("connection dropped", peer=self._address, reason=reason)
        self._transport.close()
