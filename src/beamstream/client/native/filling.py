"""Filling memory of the node: getting a piece, copying into it, giving it back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

import xxhash

from beamstream import limits
from beamstream.client.native.arenas import known_digest
from beamstream.client.native.lending import Piece
from beamstream.client.native.outgoing import Buffer, Outgoing
from beamstream.errors import Error
from beamstream.wire.native.batches import Place

if TYPE_CHECKING:
    from beamstream.client.native.link import Link

CHUNK_NBYTES: Final = 256 * limits.KIB
"""Copied and hashed in pieces that stay in the processor's cache in between."""


class Filling:
    """Memory of the node for one message: `view`, writable."""

    __slots__ = ("_link", "piece", "view")

    def __init__(self, link: Link, piece: Piece, view: memoryview) -> None:
        self._link = link
        self.piece = piece
        self.view = view

    @property
    def place(self) -> Place:
        grant = self.piece.grant
        return Place(grant.arena, grant.offset, grant.generation)

    def give_back(self) -> None:
        """It is not sent after all."""
        with self._link.lock:
            self._link.session.say(*self._link.session.lending.give_back(self.piece))

    def copy_in(self, buffer: Buffer) -> bytes:
        """Copy `buffer`, which fills it, and return its digest."""
        source, view = memoryview(buffer), self.view
        known = known_digest(buffer)
        if known is not None:
            # Handed on as it came. Should it be damaged, its next readers notice.
            view[:] = source
            return known
        hasher = xxhash.xxh3_128()
        for at in range(0, len(source), CHUNK_NBYTES):
            chunk = view[at : at + CHUNK_NBYTES]
            chunk[:] = source[at : at + CHUNK_NBYTES]
            hasher.update(chunk)
        return hasher.digest()

    def digest(self) -> bytes:
        """Of what it was filled with."""
        return xxhash.xxh3_128_digest(self.view)


def obtain(
    link: Link, changed: threading.Condition, out: Outgoing, nbytes: int, timeout_s: float | None
) -> Filling | None:
    """Memory for a message of `nbytes`, waiting for it if need be; None: the socket is the way.

    Raises
    ------
    TimedOut : the node has had none for so long.
    """
    lending, channel = link.session.lending, out.opening.channel
    if not lending.enabled:
        return None
    with link.lock:
        now = time.monotonic()
        link.session.say(*lending.want(channel, nbytes, now))
        piece = lending.take(channel, nbytes)
    if piece is None and lending.usable(channel, now):
        link.pump(all_of_it=True)
        with link.lock:
            piece = _await(link, changed, out, nbytes, timeout_s)
    return _mapped(link, piece, nbytes) if piece is not None else None


def _await(
    link: Link, changed: threading.Condition, out: Outgoing, nbytes: int, timeout_s: float | None
) -> Piece | None:
    lending, channel = link.session.lending, out.opening.channel
    found: list[Piece] = []

    def ready() -> bool:
        piece = lending.take(channel, nbytes)
        if piece is not None:
            found.append(piece)
            return True
        now = time.monotonic()
        # The connection may have broken meanwhile, and what was asked for with it.
        asked = lending.want(channel, nbytes, now)
        if asked:
            link.session.say(*asked)
            link.wake()
        return out.error is not None or not lending.usable(channel, now)

    link.wait(changed, ready, timeout_s, "the node has had no memory for the next message")
    return found[0] if found else None


def _mapped(link: Link, piece: Piece, nbytes: int) -> Filling | None:
    line, grant = link.line, piece.grant
    try:
        if line is not None:
            return Filling(link, piece, line.writable(grant.arena, grant.offset, nbytes))
    except (OSError, ValueError, Error):
        # Not to be mapped here: the socket takes everything.
        pass
    with link.lock:
        link.session.say(*link.session.lending.give_back(piece))
        link.session.lending.refuse(grant.channel)
    return None
