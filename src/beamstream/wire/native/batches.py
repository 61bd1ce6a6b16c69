"""How messages are described on the wire: columns, not rows.

A `Batch` describes `count` messages, or the parts of whole datasets, in the order in which their
payloads lie in the body. What is the same for all is said once. Digests are XXH3-128, 16 bytes big
endian each, back to back. `infos` describe payloads (`beamstream.wire.payload`) and are opaque
here: one for all, or one each; empty for plain bytes.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated

import msgspec

from beamstream import limits
from beamstream.errors import RemoteProtocolError

_OF_A_BATCH = msgspec.Meta(max_length=limits.NATIVE_BATCH_MAX)
Numbers = Annotated[tuple[int, ...], _OF_A_BATCH]
Texts = Annotated[tuple[str, ...], _OF_A_BATCH]
Blobs = Annotated[tuple[bytes, ...], _OF_A_BATCH]
Ranges = Annotated[tuple[tuple[int, int], ...], _OF_A_BATCH]
"""Columns: longer ones are refused while they are read."""

DIGEST_NBYTES = 16
NO_DIGEST = bytes(DIGEST_NBYTES)


class Part(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One dataset of a batch: it owns the next `present` messages of the batch.

    `ready` says why it was handed out: complete, or as much as was asked for.
    """

    seq: int
    id: int
    expected: int
    present: int
    ready: bool = True


class Place(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a payload lies in shared memory. `pin` names the hold, to be released by the reader."""

    arena: int
    offset: int
    generation: int
    pin: int = 0


class Lost(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A payload of the batch that cannot be sent: it takes no bytes of the body."""

    index: int
    code: str
    message: str
    hint: str = ""


class Batch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Messages of one stream, as readers get them.

    Parameters
    ----------
    count : messages (of datasets: parts).
    seq, seqs : of the first, the others follow without holes; or of each.
    id, ids : the same for ids.
    sizes : nbytes of each payload, also of those that are not in the body.
    timestamps_ns : one for all, or one each; nanoseconds since 1970 UTC.
    metas : JSON objects as text; None when all are empty.
    names : paths; None when none has one.
    deliveries : how often each was handed to this group, this time included; None: all once.
    substreams, datasets : of datasets; None for single messages.
    places : where the payloads are in shared memory; then the body is empty.
    lost : payloads that are gone or damaged.
    payloads : False when only descriptions were asked for; then the body is empty.
    """

    count: int
    seq: int
    id: int
    sizes: Numbers
    digests: bytes
    timestamps_ns: int | Numbers
    seqs: Numbers | None = None
    ids: Numbers | None = None
    metas: Blobs | None = None
    infos: bytes | Blobs = b""
    names: Texts | None = None
    deliveries: Numbers | None = None
    substreams: Numbers | None = None
    datasets: tuple[Part, ...] | None = None
    places: tuple[Place, ...] | None = None
    lost: tuple[Lost, ...] = ()
    payloads: bool = True

    def body_nbytes(self) -> int:
        """What the body of this batch has to be long."""
        if not self.payloads or self.places is not None:
            return 0
        return sum(self.sizes) - sum(self.sizes[lost.index] for lost in self.lost)

    def offsets(self) -> list[int]:
        """Where each payload begins in the body (lost ones take no room), and the end."""
        if not self.lost:
            return list(accumulate(self.sizes, initial=0))
        lost = {gone.index for gone in self.lost}
        nbytes = (0 if index in lost else size for index, size in enumerate(self.sizes))
        return list(accumulate(nbytes, initial=0))


def check_columns(count: int, sizes: tuple[int, ...], digests: bytes, **columns: object) -> None:
    """Raise `RemoteProtocolError` unless every column has `count` entries.

    `columns` that are tuples are counted; anything else stands for all messages.

    >>> check_columns(2, (3, 4), bytes(32), metas=(b"{}", b"{}"), infos=b"")
    """
    if not 1 <= count <= limits.NATIVE_BATCH_MAX:
        raise RemoteProtocolError(f"a batch of {count} messages")
    if len(sizes) != count or len(digests) != DIGEST_NBYTES * count:
        raise RemoteProtocolError(f"a batch of {count} messages has {len(sizes)} sizes")
    if min(sizes) < 0:
        raise RemoteProtocolError("a batch has a payload of less than no bytes")
    for name, column in columns.items():
        if isinstance(column, tuple) and len(column) != count:
            raise RemoteProtocolError(f"a batch of {count} messages has {len(column)} {name}")
