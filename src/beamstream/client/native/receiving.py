"""Frames out of a connection: small bodies through a staging buffer, large ones direct."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import xxhash

from beamstream import limits
from beamstream.client.native.buffers import Buffers
from beamstream.client.native.transport import Transport
from beamstream.errors import Corrupt, Error, RemoteProtocolError
from beamstream.wire.native import frames
from beamstream.wire.native.batches import DIGEST_NBYTES, NO_DIGEST, Batch
from beamstream.wire.native.frames import Deliver, Frame
from beamstream.wire.native.framing import HEAD_NBYTES, unpack_head

STAGING_NBYTES: Final = 128 * limits.KIB
DIRECT_NBYTES_MIN: Final = 64 * limits.KIB
CHUNK_NBYTES: Final = 1 * limits.MIB
"""A large payload is hashed in pieces, while they are in the processor's cache."""

_digest: Final = xxhash.xxh3_128_digest
Arrival = tuple[Frame, memoryview, dict[int, Error]]


class Receiver:
    """Reads frames; raises `OSError` of the socket and `RemoteProtocolError` of the content."""

    def __init__(self, transport: Transport, buffers: Buffers, *, verify: bool) -> None:
        self._transport = transport
        self._buffers = buffers
        self._verify = verify
        self._staging = memoryview(bytearray(STAGING_NBYTES))
        self._start = 0
        self._end = 0

    def next(self) -> Arrival | None:
        """The next frame, its body, and what is wrong with its payloads; None at the end."""
        if not self._fill(HEAD_NBYTES):
            return None
        kind, header_nbytes, body_nbytes = unpack_head(self._staging, self._start)
        self._start += HEAD_NBYTES
        header = self._take(header_nbytes)
        if header is None:
            return None
        try:
            frame = frames.decode(kind, header)
        except RemoteProtocolError:
            if kind in frames.KINDS:
                raise
            # A later version's: its length is known, so it is passed over.
            body = self._take(body_nbytes)
            return None if body is None else self.next()
        if isinstance(frame, Deliver):
            return self._deliver(frame, body_nbytes)
        body = self._take(body_nbytes) if body_nbytes else _NOTHING
        return None if body is None else (frame, body, {})

    # ------------------------------------------------------------------ payloads

    def _deliver(self, frame: Deliver, nbytes: int) -> Arrival | None:
        batch = frame.batch
        check(batch)
        if nbytes != batch.body_nbytes():
            raise RemoteProtocolError(
                f"{batch.count} messages of {batch.body_nbytes()} bytes came with {nbytes}"
            )
        single = self._verify and batch.count == 1 and nbytes >= 2 * DIRECT_NBYTES_MIN
        hasher = xxhash.xxh3_128() if single else None
        body = self._take(nbytes, hasher) if nbytes else _NOTHING
        if body is None:
            return None
        damaged: dict[int, Error] = {}
        if hasher is not None:
            if batch.digests not in (hasher.digest(), NO_DIGEST):
                damaged[0] = _corrupt(batch, 0)
        elif self._verify and nbytes:
            damaged = find_damage(batch, body)
        return frame, body, damaged

    # ------------------------------------------------------------------ bytes

    def _fill(self, nbytes: int) -> bool:
        """Have at least `nbytes` in the staging buffer; False at the end of the connection."""
        if self._end - self._start >= nbytes:
            return True
        if self._start:
            rest = self._end - self._start
            # A copy through bytes: the two ranges may overlap.
            self._staging[:rest] = bytes(self._staging[self._start : self._end])
            self._start, self._end = 0, rest
        while self._end < nbytes:
            received = self._transport.receive(self._staging[self._end :])
            if not received:
                return False
            self._end += received
        return True

    def _take(self, nbytes: int, hasher: xxhash.xxh3_128 | None = None) -> memoryview | None:
        """The next `nbytes` in memory of their own; None if the connection ends before."""
        if nbytes < DIRECT_NBYTES_MIN:
            if not self._fill(nbytes):
                return None
            taken = bytes(self._staging[self._start : self._start + nbytes])
            self._start += nbytes
            return memoryview(taken)
        body = self._buffers.get(nbytes)
        have = min(self._end - self._start, nbytes)
        body[:have] = self._staging[self._start : self._start + have]
        self._start += have
        if hasher is not None:
            hasher.update(body[:have])
        while have < nbytes:
            piece = body[have : have + CHUNK_NBYTES] if hasher is not None else body[have:]
            received = self._transport.receive(piece, whole=True)
            if not received:
                return None
            if hasher is not None:
                hasher.update(piece[:received])
            have += received
        return body.toreadonly()


_NOTHING: Final = memoryview(b"")


def check(batch: Batch) -> None:
    """Raise `RemoteProtocolError` unless all columns of `batch` have as many entries as it says."""
    count = batch.count
    if not 1 <= count <= limits.NATIVE_BATCH_MAX or len(batch.sizes) != count:
        raise RemoteProtocolError(f"a batch of {count} messages has {len(batch.sizes)} sizes")
    if len(batch.digests) not in (0, DIGEST_NBYTES * count) or min(batch.sizes) < 0:
        raise RemoteProtocolError(f"a batch of {count} messages has broken sizes or digests")
    for column in (
        batch.seqs,
        batch.ids,
        batch.metas,
        batch.infos,
        batch.names,
        batch.deliveries if batch.datasets is None else None,
        batch.substreams,
        batch.timestamps_ns,
        batch.places,
    ):
        if isinstance(column, tuple) and len(column) != count:
            raise RemoteProtocolError(f"a batch of {count} messages has a column of {len(column)}")
    if any(not 0 <= lost.index < count for lost in batch.lost):
        raise RemoteProtocolError(f"a batch of {count} messages names others as lost")
    if batch.datasets is not None and sum(part.present for part in batch.datasets) != count:
        raise RemoteProtocolError(f"the datasets of a batch do not have its {count} parts")


def find_damage(batch: Batch, body: memoryview) -> dict[int, Error]:
    """Which payloads are not those that were sent, by index.

    >>> batch = Batch(1, 1, 1, (1,), bytes(15) + b"x", 0)
    >>> find_damage(batch, memoryview(b"a"))[0].code
    'E503'
    """
    if not batch.digests:
        return {}
    offsets = batch.offsets()
    found = [_digest(body[lo:hi]) for lo, hi in pairwise(offsets)]
    if b"".join(found) == batch.digests:
        return {}
    lost = {gone.index for gone in batch.lost}
    damaged: dict[int, Error] = {}
    for index, digest in enumerate(found):
        sent = batch.digests[index * DIGEST_NBYTES : (index + 1) * DIGEST_NBYTES]
        if sent not in (digest, NO_DIGEST) and index not in lost and batch.sizes[index]:
            damaged[index] = _corrupt(batch, index)
    return damaged


def _corrupt(batch: Batch, index: int) -> Error:
    id = batch.ids[index] if batch.ids is not None else batch.id + index
    return Corrupt(
        f"message {id}: its {batch.sizes[index]} bytes are not those that were sent",
        hint="fetch it again by its id; if that fails, too, `beamstream stream verify` says more",
    )
