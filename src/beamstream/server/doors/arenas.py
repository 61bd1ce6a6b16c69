"""The second Unix socket: hands out the cache's memory, and is the life line of its readers.

Raw sockets, for descriptors cannot travel through a transport. A client that does not read is
not waited for; its life line stays, for it may be frozen and have views.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from beamstream import limits
from beamstream.errors import BadSetting, RemoteProtocolError
from beamstream.server.shared import Holder, SharedMemory
from beamstream.store.arenas import Arenas
from beamstream.wire.native import sharing

log = structlog.get_logger("arenas")

_PATH_NBYTES_MAX: Final = 107
_ANSWERS_MAX: Final = 256
"""Answers and notices that a client has not read; one with more is no client of ours."""


class ArenaDoor:
    """Listens at `path`, mode 0660."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        shared: SharedMemory,
        arenas: Arenas,
        path: Path,
    ) -> None:
        self.loop = loop
        self.shared = shared
        self.arenas = arenas
        self._path = path
        self._lines: set[LifeLine] = set()
        self._socket: socket.socket | None = None

    def __len__(self) -> int:
        return len(self._lines)

    def open(self) -> None:
        """Listen.

        Raises
        ------
        BadSetting : the socket cannot be made.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        self._socket = listener
        try:
            self._path.unlink(missing_ok=True)
            with_short_path(self._path, listener.bind)
            self._path.chmod(0o660)
            listener.listen(limits.BACKLOG)
        except OSError as error:
            listener.close()
            raise BadSetting(f"cannot listen at {self._path}: {error.strerror or error}") from None
        self.loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Close everything; clients keep the views that they have."""
        listener, self._socket = self._socket, None
        if listener is not None:
            self.loop.remove_reader(listener.fileno())
            listener.close()
            self._path.unlink(missing_ok=True)
        for line in tuple(self._lines):
            line.close()

    def _accept(self) -> None:
        if self._socket is None:
            return
        try:
            accepted, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors: look again in a moment, not at once and for ever.
            log.error("a client cannot be let in", reason=str(error))
            self.loop.remove_reader(self._socket.fileno())
            self.loop.call_later(1.0, self._listen_again)
            return
        accepted.setblocking(False)
        if len(self._lines) >= limits.CONNECTIONS_MAX:
            accepted.close()
            return
        self._lines.add(LifeLine(self, accepted))

    def _listen_again(self) -> None:
        if self._socket is not None:
            self.loop.add_reader(self._socket.fileno(), self._accept)

    def gone(self, line: LifeLine) -> None:
        self._lines.discard(line)


class LifeLine:
    """One client's connection."""

    def __init__(self, door: ArenaDoor, connected: socket.socket) -> None:
        self._door = door
        self._socket = connected
        self._holder: Holder | None = None
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._deadline = door.loop.call_later(limits.LOGIN_SECONDS_MAX, self.close)
        door.loop.add_reader(connected.fileno(), self._received)

    def close(self) -> None:
        """It is over: what the client held is given back."""
        if self._socket.fileno() < 0:
            return
        loop = self._door.loop
        self._deadline.cancel()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _, fd in self._unsent:
            _close(fd)
        self._unsent.clear()
        self._door.gone(self)
        holder, self._holder = self._holder, None
        if holder is not None:
            self._door.shared.detach(holder, self)

    def _received(self) -> None:
        try:
            packet = self._socket.recv(sharing.PACKET_NBYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
            return
        try:
            self._take(packet)
        except RemoteProtocolError as error:
            log.warning("connection dropped", reason=error.message)
            self.close()

    def _take(self, packet: bytes) -> None:
        shared = self._door.shared
        if self._holder is None:
            self._holder = shared.attach(sharing.unpack_session(packet), self)
            if self._holder is None:
                raise RemoteProtocolError("there is no such session")
            self._deadline.cancel()
            self._send(sharing.pack_answer(sharing.READY, 0))
            return
        request = sharing.unpack_request(packet)
        if isinstance(request, sharing.LetGo):
            shared.unpin(self._holder.session, request.pins)
        else:
            self._answer(self._holder, request)

    def _answer(self, holder: Holder, request: sharing.Ask) -> None:
        memory = request.arena
        if not self._door.shared.may_map(holder, memory, writable=request.writable):
            self._send(sharing.pack_answer(sharing.REFUSED, memory))
            return
        try:
            fd, nbytes = self._door.arenas.descriptor(memory, writable=request.writable)
        except OSError as error:
            log.error("a descriptor cannot be handed out", reason=str(error))
            self._send(sharing.pack_answer(sharing.REFUSED, memory))
            return
        self._send(sharing.pack_answer(sharing.GRANTED, memory, nbytes), fd)

    def retired(self, memory: int) -> None:
        self._send(sharing.pack_answer(sharing.RETIRED, memory))

    # ------------------------------------------------------------------ sending

    def _send(self, packet: bytes, fd: int = -1) -> None:
        if len(self._unsent) >= _ANSWERS_MAX:
            # What a frozen client has asked for is far less. Notices it can do without.
            _close(fd)
            return
        self._unsent.append((packet, fd))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            packet, fd = self._unsent[0]
            try:
                self._socket.sendmsg([packet], _rights(fd))
            except BlockingIOError:
                self._door.loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError:
                self._door.loop.call_soon(self.close)
                return
            self._unsent.popleft()
            _close(fd)
        self._door.loop.remove_writer(self._socket.fileno())


def _rights(fd: int) -> list[tuple[int, int, array.array[int]]]:
    if fd < 0:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def with_short_path(path: Path, use: Callable[[str], object]) -> None:
    """Call `use` with a name of a socket that is short enough, however deep its folder is."""
    if len(os.fsencode(path)) <= _PATH_NBYTES_MAX:
        use(str(path))
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
