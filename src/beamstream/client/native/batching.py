"""Many values as runs of messages that are one frame each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np

from beamstream import limits
from beamstream.client.native import packing
from beamstream.client.native.outgoing import (
    METAS_NBYTES,
    SMALL_NBYTES,
    Buffer,
    check_id,
    info_column,
    meta_column,
)
from beamstream.client.native.packing import Meta, digest, pack_meta
from beamstream.errors import BadInput, TooLarge
from beamstream.wire import payload
from beamstream.wire.native.frames import Put

RUN_NBYTES: Final = 1 * limits.MIB
"""A run is cut at this size: large enough that its costs do not matter, small enough to be passed
on while the next one is on its way."""

_NUMBERS: Final = "biufc"


class PackedMany(NamedTuple):
    """Columns; `whole` is one buffer that holds all payloads, or they are in `parts`."""

    sizes: Sequence[int]
    digests: list[bytes]
    infos: bytes | list[bytes]
    metas: tuple[bytes, ...] | None
    ids: Sequence[int] | None
    whole: memoryview | None
    parts: list[Buffer]


def pack_all(
    values: Sequence[Any] | np.ndarray[Any, Any],
    metas: Sequence[Meta | None] | None,
    ids: Sequence[int] | None,
    codec: str,
) -> PackedMany:
    """Return values with all that goes with them; raises `BadInput` if columns do not fit."""
    count = len(values)
    if not count:
        raise BadInput("there are no messages to send")
    for name, column in (("metas", metas), ("ids", ids)):
        if column is not None and len(column) != count:
            raise BadInput(f"{count} messages come with {len(column)} {name}")
    texts = meta_column([pack_meta(meta) for meta in metas]) if metas is not None else None
    if ids is not None:
        for id in (min(ids), max(ids)):
            check_id(id)
    if isinstance(values, np.ndarray) and values.ndim > 1 and codec == "raw":
        return _pack_array(values, texts, ids)
    together = _alike(values) if codec == "raw" else None
    if together is not None:
        return _pack_array(together, texts, ids)
    first = values[0]
    if type(first) is bytes and codec == "raw" and set(map(type, values)) == {bytes}:
        parts: list[Buffer] = list(values)
        infos: bytes | list[bytes] = b""
    else:
        packed = [packing.pack(value, codec) for value in values]
        parts = [one.buffer for one in packed]
        infos = [one.info for one in packed]
    sizes = list(map(len, parts))
    digests = [digest(part) for part in parts]
    return PackedMany(sizes, digests, infos, texts, ids, None, parts)


def _alike(values: Sequence[Any] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Small arrays of one dtype and shape, copied into one; None: they are something else."""
    first = values[0]
    if (
        type(first) is not np.ndarray
        or first.dtype.kind not in _NUMBERS
        or not first.dtype.isnative
    ):
        return None
    dtype, shape = first.dtype, first.shape
    if not 0 < first.nbytes < SMALL_NBYTES or not all(
        type(one) is np.ndarray and one.dtype == dtype and one.shape == shape for one in values
    ):
        return None
    together = np.empty((len(values), *shape), dtype)
    for index, one in enumerate(values):
        together[index] = one
    return together


def _pack_array(
    values: np.ndarray[Any, Any], metas: tuple[bytes, ...] | None, ids: Sequence[int] | None
) -> PackedMany:
    array = np.ascontiguousarray(values)
    info = payload.pack_info(payload.encode(array[0]).info)
    flat = array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")
    count = len(array)
    size = array.nbytes // count
    if size > limits.PAYLOAD_NBYTES_MAX:
        raise TooLarge(f"a frame of {size} bytes is larger than any message may be")
    digests = [digest(flat[start : start + size]) for start in range(0, count * size, size or 1)]
    if not size:
        digests = [packing.NO_DIGEST] * count
    return PackedMany([size] * count, digests, info, metas, ids, flat, [])


def cut(many: PackedMany, batch_max: int) -> Iterator[tuple[Put, list[Buffer], int]]:
    """Yield puts, the buffers of their payloads, and how many bytes these are."""
    count = len(many.sizes)
    ends = list(accumulate(many.sizes, initial=0))
    texts = list(accumulate(map(len, many.metas), initial=0)) if many.metas else [0] * (count + 1)
    lo = 0
    while lo < count:
        hi = lo + 1
        most = min(lo + batch_max, count)
        while (
            hi < most
            and ends[hi + 1] - ends[lo] <= RUN_NBYTES
            and texts[hi + 1] - texts[lo] <= METAS_NBYTES
        ):
            hi += 1
        yield _run(many, lo, hi, ends)
        lo = hi


def whole(many: PackedMany, more_nbytes: int = 0) -> tuple[Put, list[Buffer], int]:
    """All of it as one put, with `more_nbytes` in its header.

    Raises
    ------
    TooLarge : the header is too large for a frame.
    """
    infos = [many.infos] if isinstance(many.infos, bytes) else many.infos
    nbytes = sum(map(len, many.metas or ())) + sum(map(len, infos)) + more_nbytes
    if nbytes > limits.NATIVE_HEADER_NBYTES_MAX // 2:
        raise TooLarge(
            f"{len(many.sizes)} messages have metadata of {nbytes} bytes, "
            f"{limits.NATIVE_HEADER_NBYTES_MAX // 2} may go in one unit",
            hint="put what is large into payloads",
        )
    return _run(many, 0, len(many.sizes), list(accumulate(many.sizes, initial=0)))


def _run(many: PackedMany, lo: int, hi: int, ends: list[int]) -> tuple[Put, list[Buffer], int]:
    nbytes = ends[hi] - ends[lo]
    ids = many.ids[lo:hi] if many.ids is not None else None
    in_a_row = ids is not None and list(ids) == list(range(ids[0], ids[0] + len(ids)))
    infos = many.infos if isinstance(many.infos, bytes) else info_column(many.infos[lo:hi])
    put = Put(
        channel=0,
        sequence=0,
        count=hi - lo,
        sizes=tuple(many.sizes[lo:hi]),
        digests=b"".join(many.digests[lo:hi]),
        id=ids[0] if ids is not None and in_a_row else 0,
        ids=tuple(ids) if ids is not None and not in_a_row else None,
        metas=many.metas[lo:hi] if many.metas is not None else None,
        infos=infos,
    )
    if many.whole is None:
        parts = many.parts[lo:hi]
        if hi - lo > 1 and nbytes < SMALL_NBYTES * (hi - lo):
            parts = [b"".join(parts)]
        return put, parts, nbytes
    piece = many.whole[ends[lo] : ends[hi]]
    return put, [piece if nbytes >= SMALL_NBYTES else bytes(piece)], nbytes
