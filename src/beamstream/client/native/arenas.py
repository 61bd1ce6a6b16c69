"""Memory of a node on this machine: the life line, maps of its arenas, views of payloads.

The life line is a socket of its own. As long as it is open, the node keeps what this process looks
at; so it is closed by the last view, not by the end of the session. Only on Linux.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from beamstream.client.native.outgoing import Buffer
from beamstream.errors import ConnectionLost, DataLost, Error, RemoteProtocolError
from beamstream.wire.native import sharing
from beamstream.wire.native.batches import DIGEST_NBYTES, NO_DIGEST, Place

ANSWER_S: Final = 5.0
UNPIN_S: Final = 0.01
"""Views that are gone are told to the node with the next frame, after this long at the latest."""
_PATH_NBYTES_MAX: Final = 107
_POPULATE: Final = getattr(mmap, "MAP_POPULATE", 0)
_AVAILABLE: Final = hasattr(socket, "AF_UNIX") and hasattr(socket, "SOCK_SEQPACKET") and _POPULATE


def machine(environ: Mapping[str, str]) -> str:
    """What tells this machine from others; empty when memory is not to be shared.

    >>> machine({"BEAMSTREAM_SHM": "0"})
    ''
    """
    if not _AVAILABLE or environ.get("BEAMSTREAM_SHM") == "0":
        return ""
    try:
        return sharing.machine_id(Path(sharing.BOOT_ID).read_bytes())
    except OSError:
        return ""


class Pinned(np.ndarray[Any, Any]):
    """Bytes of an arena. Every view of it, and every memoryview, keeps it alive.

    They are mapped read-only: `digests`, by (offset, nbytes) of the payloads in it, stay right.
    """

    digests: dict[tuple[int, int], bytes]


def known_digest(buffer: Buffer) -> bytes | None:
    """The digest of what is a whole payload, as it came, in memory of the node; None: not so."""
    base: object = buffer
    while isinstance(base, memoryview) or (
        isinstance(base, np.ndarray) and not isinstance(base, Pinned)
    ):
        base = base.obj if isinstance(base, memoryview) else base.base
    if not isinstance(base, Pinned):
        return None
    array = np.frombuffer(buffer, np.uint8)
    return base.digests.get((array.ctypes.data - base.ctypes.data, array.nbytes))


class LifeLine:
    """A session's access to the memory of its node. Any thread may use it.

    Parameters
    ----------
    connected : the second socket, connected.
    wake : called when there are pins to be told, with the time by which (monotonic seconds); by
        destructors, so it must not take locks.
    """

    def __init__(
        self,
        connected: socket.socket,
        session: bytes,
        wake: Callable[[float], None] = lambda at: None,
    ) -> None:
        self._socket = connected
        self._wake = wake
        self._lock = threading.Lock()
        self._maps: dict[tuple[int, bool], mmap.mmap] = {}
        self._alive: set[int] = set()
        self._gone: deque[int] = deque()
        self._gone_since = 0.0
        self._closing = False
        connected.settimeout(ANSWER_S)
        connected.send(sharing.pack_session(session))
        # What is asked for over the main connection from now on finds the life line in place.
        if not connected.recv(sharing.PACKET_NBYTES_MAX):
            raise ConnectionLost("the node does not know this session")

    @classmethod
    def connect(
        cls, path: str, session: bytes, wake: Callable[[float], None] = lambda at: None
    ) -> LifeLine | None:
        """Connect to the node's second socket; None when it is out of reach from here."""
        if not (path and _AVAILABLE):
            return None
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connected.settimeout(ANSWER_S)
        try:
            _connect(connected, path)
            return cls(connected, session, wake)
        except (OSError, Error):
            connected.close()
            return None

    # ------------------------------------------------------------------ looking

    def views(
        self, places: Sequence[Place], sizes: Sequence[int], digests: bytes = b""
    ) -> list[memoryview]:
        """The payloads at these places; the node keeps them until no view is left.

        Parameters
        ----------
        digests : of the payloads, back to back, for `known_digest`; empty: not known.

        Raises
        ------
        DataLost : they cannot be mapped; their pins are given back.
        """
        found: list[memoryview] = []
        start = 0
        while start < len(places):
            first, end = places[start], start + 1
            while end < len(places) and places[end].pin == first.pin:
                end += 1
            at = first.offset
            try:
                array = self._pinned(first, places[end - 1].offset + sizes[end - 1] - at)
            except (OSError, TypeError, ValueError, Error) as error:
                self._let_go({place.pin for place in places[start:]})
                raise DataLost(
                    f"memory of the node cannot be mapped: {error}",
                    hint="BEAMSTREAM_SHM=0 has payloads sent by the socket",
                ) from None
            whole = array.data
            for index in range(start, end):
                offset, size = places[index].offset - at, sizes[index]
                found.append(whole[offset : offset + size])
                digest = digests[index * DIGEST_NBYTES : (index + 1) * DIGEST_NBYTES]
                if digest and digest != NO_DIGEST:
                    array.digests[offset, size] = digest
            start = end
        return found

    def _pinned(self, place: Place, nbytes: int) -> Pinned:
        memory = self.map(place.arena, writable=False)
        array = np.ndarray.__new__(Pinned, (nbytes,), np.uint8, memory, place.offset)
        array.digests = {}
        self._alive.add(place.pin)
        weakref.finalize(array, self._let_go, (place.pin,)).atexit = False
        return array

    def _let_go(self, pins: Sequence[int] | set[int]) -> None:
        """No view of these is left. Called from destructors: it takes no lock."""
        self._alive.difference_update(pins)
        if self._closing:
            self._close_if_unused()
            return
        first = not self._gone
        self._gone.extend(pins)
        if first:
            self._gone_since = time.monotonic()
            self._wake(self._gone_since + UNPIN_S)

    def held(self) -> tuple[int, ...]:
        """Pins of all living views."""
        return tuple(self._alive.copy())

    def due_at(self) -> float | None:
        """When the node is to be told of pins (monotonic seconds); None: there are none."""
        return self._gone_since + UNPIN_S if self._gone else None

    def take_gone(self) -> tuple[int, ...]:
        """Pins that are to be told to the node, each once."""
        gone: list[int] = []
        with contextlib.suppress(IndexError):
            while True:
                gone.append(self._gone.popleft())
        return tuple(gone)

    # ------------------------------------------------------------------ maps

    def writable(self, arena: int, offset: int, nbytes: int) -> memoryview:
        """Granted memory, to be filled.

        Raises
        ------
        OSError, Error : it cannot be mapped.
        """
        memory = self.map(arena, writable=True)
        if not 0 <= offset <= offset + nbytes <= len(memory):
            raise RemoteProtocolError(f"granted memory of {nbytes} bytes is not within its arena")
        return memoryview(memory)[offset : offset + nbytes]

    def map(self, arena: int, *, writable: bool) -> mmap.mmap:
        """The map of an arena; made at the first use."""
        found = self._maps.get((arena, writable))
        if found is not None:
            return found
        with self._lock:
            found = self._maps.get((arena, writable))
            if found is None:
                found = self._maps[arena, writable] = self._mapped(arena, writable)
            return found

    def _mapped(self, arena: int, writable: bool) -> mmap.mmap:
        fd, nbytes = self._ask(arena, writable)
        prot = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        try:
            return mmap.mmap(fd, nbytes, flags=mmap.MAP_SHARED | _POPULATE, prot=prot)
        finally:
            os.close(fd)

    def _ask(self, arena: int, writable: bool) -> tuple[int, int]:
        self._socket.send(sharing.pack_ask(arena, writable=writable))
        while True:
            packet, fds, _, _ = socket.recv_fds(self._socket, sharing.PACKET_NBYTES_MAX, 1)
            if not packet:
                raise ConnectionLost("the node has closed the life line of shared memory")
            kind, memory, nbytes = sharing.unpack_answer(packet)
            if kind == sharing.RETIRED:
                # Views keep their map; without them it goes now.
                self._maps.pop((memory, False), None)
                self._maps.pop((memory, True), None)
            elif memory != arena:
                # The answer to a question that nobody waited for to the end.
                for fd in fds:
                    os.close(fd)
            elif kind == sharing.GRANTED and fds:
                return fds[0], nbytes
            else:
                raise DataLost(f"the node does not share arena {arena} with this session")

    # ------------------------------------------------------------------ ending

    @property
    def broken(self) -> bool:
        """Whether the node has closed it."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    def close(self) -> None:
        """The session is over: the life line ends with the last view."""
        self._closing = True
        gone = self.take_gone()
        with contextlib.suppress(OSError):
            for start in range(0, len(gone), sharing.PINS_AT_ONCE):
                self._socket.send(sharing.pack_unpin(gone[start : start + sharing.PINS_AT_ONCE]))
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._alive:
            self._socket.close()
            self._maps.clear()


def _connect(connected: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= _PATH_NBYTES_MAX:
        connected.connect(path)
        return
    # A name of a socket has to be short, however deep its folder is.
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connected.connect(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)
