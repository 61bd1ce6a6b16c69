"""Memory of the node that this session's writers may fill: asked for ahead, used once. Pure.

A piece that is being filled, or was put and has no receipt, must not be filled by anybody else.
The node sees to that within one connection. After a broken one it has forgotten what it had
granted: then nothing new is asked for before all such pieces are done with.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from beamstream import limits
from beamstream.wire.native.frames import Frame, Grant, ReturnMemory, WantMemory

AHEAD_NBYTES: Final = 32 * limits.MIB
AHEAD_MIN: Final = 2
AHEAD_MAX: Final = limits.SHARED_GRANTS_MAX // 2
DENIED_S: Final = 1.0
"""Refused memory is asked for again after this long."""


class Piece:
    """Memory that is being filled, or was put and has no receipt."""

    __slots__ = ("_lending", "grant", "stale")

    def __init__(self, lending: Lending, grant: Grant) -> None:
        self._lending = lending
        self.grant = grant
        self.stale = False
        """The node has forgotten it: what is in it can only be sent by the socket."""

    def release(self) -> None:
        """It is not looked at any more."""
        self._lending._release(self)


class _Channel:
    __slots__ = ("ahead", "asked", "denied_until", "grants", "size")

    def __init__(self) -> None:
        self.grants: deque[Grant] = deque()
        self.asked = 0
        self.size = 0
        self.ahead = AHEAD_MIN
        self.denied_until = 0.0


class Lending:
    """Grants of one session.

    >>> lending = Lending()
    >>> lending.enabled = True
    >>> [frame.nbytes for frame in lending.want(1, 20 << 20, 0.0)]
    [20971520, 20971520]
    >>> lending.granted(Grant(1, 5, 0, 20 << 20, 77), 0.0)
    []
    >>> lending.take(1, 20 << 20).grant.generation
    77
    """

    def __init__(self) -> None:
        self.enabled = False
        """Whether there is memory to be had."""
        self.ahead_nbytes = AHEAD_NBYTES
        """What is asked for ahead at most."""
        self._channels: dict[int, _Channel] = {}
        self._pieces: set[Piece] = set()
        self._stale = 0

    def usable(self, channel: int, now: float) -> bool:
        """Whether a writer may hope for memory."""
        if not self.enabled or self._stale:
            return False
        found = self._channels.get(channel)
        return found is None or now >= found.denied_until

    def want(self, channel: int, nbytes: int, now: float) -> list[Frame]:
        """What to send so that there will be enough pieces of `nbytes`; nothing if not `usable`."""
        if not self.usable(channel, now):
            return []
        found = self._channels.setdefault(channel, _Channel())
        frames: list[Frame] = []
        if not found.size // 2 <= nbytes <= found.size:
            if found.grants:
                unfit = tuple(grant.generation for grant in found.grants)
                frames.append(ReturnMemory(channel, unfit))
                found.grants.clear()
            # Sizes that vary, of compressed frames say, mostly grow by a little.
            found.size = nbytes if not found.size else nbytes + nbytes // 8
            found.ahead = AHEAD_MIN
        missing = found.ahead - len(found.grants) - found.asked
        # Several questions at a time are cheaper than one with each message.
        if 2 * missing < found.ahead:
            return frames
        # More and more, as long as it is used: what is granted in vain is lost to others.
        most = min(AHEAD_MAX, self.ahead_nbytes // found.size)
        found.ahead = max(AHEAD_MIN, min(2 * found.ahead, most))
        for _ in range(missing):
            frames.append(WantMemory(channel, found.size))
            found.asked += 1
        return frames

    def granted(self, grant: Grant, now: float) -> list[Frame]:
        """The node has answered; return what to send in turn."""
        found = self._channels.get(grant.channel)
        if found is None:
            return [ReturnMemory(grant.channel, (grant.generation,))] if grant.nbytes else []
        found.asked = max(0, found.asked - 1)
        if not grant.nbytes:
            found.denied_until = now + DENIED_S
            return []
        if not found.size <= grant.nbytes <= 2 * found.size:
            found.asked += 1
            return [
                ReturnMemory(grant.channel, (grant.generation,)),
                WantMemory(grant.channel, found.size),
            ]
        found.grants.append(grant)
        return []

    def take(self, channel: int, nbytes: int) -> Piece | None:
        """A piece for `nbytes`, if there is one."""
        found = self._channels.get(channel)
        if found is None or self._stale:
            return None
        for index, grant in enumerate(found.grants):
            if grant.nbytes >= nbytes:
                del found.grants[index]
                piece = Piece(self, grant)
                self._pieces.add(piece)
                return piece
        return None

    def give_back(self, piece: Piece) -> list[Frame]:
        """A piece is not put after all."""
        piece.release()
        if piece.stale:
            return []
        return [ReturnMemory(piece.grant.channel, (piece.grant.generation,))]

    def lost(self) -> None:
        """The connection is gone, and with it what was granted."""
        self.enabled = False
        self._channels.clear()
        for piece in self._pieces:
            self._stale += not piece.stale
            piece.stale = True

    def refuse(self, channel: int) -> None:
        """Nothing that is granted can be used."""
        self._channels.setdefault(channel, _Channel()).denied_until = math.inf

    def close(self, channel: int) -> None:
        """A writer has ended; the node takes back what it has."""
        self._channels.pop(channel, None)

    def _release(self, piece: Piece) -> None:
        if piece in self._pieces:
            self._pieces.discard(piece)
            self._stale -= piece.stale
