"""The sending half of a native connection: frames in order, slots pinned until they have left.

Small frames of one turn of the event loop are sent together. Payloads of some size go to the
socket from where they lie; how much has left is told by the size of the socket's buffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from beamstream import limits
from beamstream.server.payloads import Payloads, Spot
from beamstream.store.cache import Cache, Slot
from beamstream.wire.native.frames import Frame, encode

_JOIN_NBYTES_MAX: Final = 64 * limits.KIB
"""Copying this much is cheaper than another piece in a system call."""

Piece = Spot | bytes | memoryview


class Sender:
    """Sends frames over one transport.

    Parameters
    ----------
    room : called when slots were unpinned.
    on_drained : called when the socket has taken all.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cache: Cache,
        payloads: Payloads,
        room: Callable[[], None],
        on_drained: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._cache = cache
        self._payloads = payloads
        self._room = room
        self._on_drained = on_drained
        self._transport: asyncio.Transport | None = None
        self._small: list[bytes] = []
        self._small_nbytes = 0
        self._scheduled = False
        self._given = 0
        self._pinned: deque[tuple[int, Slot]] = deque()
        self._exclusive = False
        self._turn = asyncio.Lock()
        self._behind: deque[tuple[Frame, Sequence[Piece]]] = deque()
        self._behind_nbytes = 0
        self._waiting: asyncio.Event | None = None

    def connected(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # Zero: `drained` is called when everything has left.
        transport.set_write_buffer_limits(0, 0)

    @property
    def queued_nbytes(self) -> int:
        """What waits for the peer to read."""
        if self._transport is None:
            return 0
        return self._transport.get_write_buffer_size() + self._small_nbytes + self._behind_nbytes

    @property
    def sent_nbytes(self) -> int:
        """What has left the node so far."""
        left = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._given - left

    @property
    def writable(self) -> bool:
        return (
            self._transport is not None
            and not self._exclusive
            and self.queued_nbytes <= limits.NATIVE_QUEUE_NBYTES_MAX
        )

    # ------------------------------------------------------------------ frames

    def send(self, frame: Frame, body: Sequence[Piece] = ()) -> None:
        """Send a frame; slots of the body are pinned until they have left."""
        if self._transport is None:
            return
        if self._exclusive:
            self._hold(frame, body)
            return
        nbytes = 0
        for piece in body:
            nbytes += piece.nbytes if not isinstance(piece, bytes) else len(piece)
        head = encode(frame, nbytes)
        if nbytes + len(head) <= _JOIN_NBYTES_MAX:
            self._small.append(head)
            if nbytes:
                self._small += [self._bytes(piece) for piece in body]
            self._small_nbytes += len(head) + nbytes
            if self._small_nbytes > _JOIN_NBYTES_MAX:
                self.flush()
            elif not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self.flush)
            return
        self._write_large(head, body, nbytes)

    def flush(self) -> None:
        """Hand over what was gathered in this turn of the loop."""
        self._scheduled = False
        if self._small and self._transport is not None:
            text = b"".join(self._small)
            self._small.clear()
            self._small_nbytes = 0
            self._given += len(text)
            self._transport.write(text)

    def _write_large(self, head: bytes, body: Sequence[Piece], nbytes: int) -> None:
        assert self._transport is not None
        small = b"".join([*self._small, head])
        self._small.clear()
        self._small_nbytes = 0
        self._given += len(small) + nbytes
        pieces: list[bytes | memoryview] = [small]
        for piece in body:
            if isinstance(piece, Spot):
                self._cache.pin(piece.slot)
                self._pinned.append((self._given, piece.slot))
                pieces.append(self._payloads.view(piece))
            else:
                pieces.append(piece)
        self._transport.writelines(pieces)
        self.release()

    def _bytes(self, piece: Piece) -> bytes:
        if isinstance(piece, bytes):
            return piece
        return bytes(self._payloads.view(piece) if isinstance(piece, Spot) else piece)

    # ------------------------------------------------------------------ what has left

    def release(self) -> None:
        """Unpin what has left the node."""
        if not self._pinned or self._transport is None:
            return
        left = self._given - self._transport.get_write_buffer_size()
        released = False
        while self._pinned and self._pinned[0][0] <= left:
            self._cache.unpin(self._pinned.popleft()[1])
            released = True
        if released:
            self._room()

    def drained(self) -> None:
        """The socket has taken all that it was given."""
        self.release()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.set()
        if not self._exclusive:
            self._on_drained()

    def closed(self) -> None:
        """The connection is gone: nothing is sent any more."""
        self._transport = None
        self._small.clear()
        self._small_nbytes = 0
        pinned, self._pinned = self._pinned, deque()
        behind, self._behind = self._behind, deque()
        for _, slot in pinned:
            self._cache.unpin(slot)
        for _, body in behind:
            for piece in body:
                if isinstance(piece, Spot):
                    self._cache.unpin(piece.slot)
        if pinned or behind:
            self._room()
        if self._waiting is not None:
            self._waiting.set()

    # ------------------------------------------------------------------ payloads in pieces

    async def until_drained(self) -> bool:
        """Wait until the socket has taken all; False if the connection is gone."""
        self.flush()
        while self._transport is not None and self._transport.get_write_buffer_size():
            self._waiting = self._waiting or asyncio.Event()
            await self._waiting.wait()
        return self._transport is not None

    async def until_writable(self) -> None:
        """Who does not read what was sent does not get more of it."""
        while self._transport is not None and not self.writable:
            if self._exclusive:
                async with self._turn:
                    pass
            else:
                await self.until_drained()

    async def begin(self, frame: Frame, body_nbytes: int) -> bool:
        """Send a frame whose body follows by `piece`; other frames wait until `end`.

        False if the connection is gone.
        """
        await self._turn.acquire()
        if self._transport is None:
            self._turn.release()
            return False
        self.flush()
        self._exclusive = True
        head = encode(frame, body_nbytes)
        self._given += len(head)
        self._transport.write(head)
        return True

    async def piece(self, piece: memoryview) -> bool:
        """Send the next piece of the body; return when it has left. False: nobody is there."""
        if self._transport is None:
            return False
        self._given += piece.nbytes
        self._transport.write(piece)
        return await self.until_drained()

    def end(self) -> None:
        """The body is complete: what waited behind it is sent."""
        self._exclusive = False
        self._turn.release()
        behind, self._behind = self._behind, deque()
        self._behind_nbytes = 0
        for frame, body in behind:
            self.send(frame, body)
            for piece in body:
                if isinstance(piece, Spot):
                    self._cache.unpin(piece.slot)
        if not self.queued_nbytes:
            self._on_drained()

    def abort(self) -> None:
        """What was begun cannot be ended: the client must notice."""
        if self._transport is not None:
            self._transport.abort()

    def _hold(self, frame: Frame, body: Sequence[Piece]) -> None:
        self._behind.append((frame, body))
        self._behind_nbytes += limits.KIB
        for piece in body:
            if isinstance(piece, Spot):
                self._cache.pin(piece.slot)
                self._behind_nbytes += piece.nbytes
            else:
                self._behind_nbytes += len(piece)
