"""Bitshuffle with LZ4 as detectors and the HDF5 filter 32008 have it, done by that very filter.

The filter trusts the lengths inside a chunk, so they are all checked here before it sees them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from beamstream import limits
from beamstream.errors import BadInput, TooLarge
from beamstream.wire.payload_codecs import (
    LZ4_HEADER,
    broken,
    library,
    lz4_block,
    lz4_block_nbytes,
)

_NAME: Final = "bslz4"
_LENGTH_NBYTES: Final = 4
_BLOCK_NBYTES_MAX: Final = 1 << 24


def pack(flat: memoryview, itemsize: int) -> bytes:
    """Return the chunk: 8 bytes nbytes, 4 bytes nbytes of a block (big endian), then blocks."""
    h5py, filter = _libraries(len(flat))
    items = np.frombuffer(flat, _item(itemsize))
    with h5py.File.in_memory() as file:
        data = file.create_dataset("a", data=items, chunks=items.shape, **filter)
        mask, chunk = data.id.read_direct_chunk((0,))
    if mask:
        raise BadInput("the bitshuffle filter has refused the array", hint="use another codec")
    return bytes(chunk)


def unpack(packed: memoryview, nbytes: int, itemsize: int) -> Any:
    """Return the `nbytes` bytes of the array in the chunk `packed`.

    Raises
    ------
    BadInput : this is no such chunk.
    """
    _check_blocks(packed, nbytes, itemsize)
    h5py, filter = _libraries(nbytes)
    items = np.empty(nbytes // itemsize, _item(itemsize))
    with h5py.File.in_memory() as file:
        data = file.create_dataset(
            "a", shape=items.shape, dtype=items.dtype, chunks=items.shape, **filter
        )
        data.id.write_direct_chunk((0,), packed)
        try:
            data.read_direct(items)
        except OSError as error:
            raise broken(_NAME, error) from None
    return items.view(np.uint8)


def _libraries(nbytes: int) -> tuple[Any, Any]:
    if nbytes > limits.BITSHUFFLE_NBYTES_MAX:
        raise TooLarge(
            f"an array of {nbytes} bytes does not fit into one chunk of bitshuffle-LZ4",
            hint="use codec='lz4' or 'zstd'",
        )
    h5py = library("h5py", f"the codec {_NAME!r}")
    return h5py, library("hdf5plugin", f"the codec {_NAME!r}").Bitshuffle(cname="lz4")


def _item(itemsize: int) -> np.dtype[Any]:
    """Bitshuffle looks at the size of an item only; numbers are what HDF5 is quickest with."""
    return np.dtype(f"<u{itemsize}" if itemsize in (1, 2, 4, 8) else f"|V{itemsize}")


def _check_blocks(packed: memoryview, nbytes: int, itemsize: int) -> None:
    """The blocks must be as many as the size says, and end where the buffer ends."""
    block_nbytes = lz4_block_nbytes(_NAME, packed, nbytes)
    # Bits are transposed in groups of eight items; up to seven items are left over as they are.
    group_nbytes = 8 * itemsize
    if block_nbytes % group_nbytes or not 0 < block_nbytes <= max(_BLOCK_NBYTES_MAX, group_nbytes):
        raise broken(_NAME, f"blocks of {block_nbytes} bytes, items of {itemsize}")
    if nbytes % itemsize:
        raise broken(_NAME, f"{nbytes} bytes are no whole number of items of {itemsize}")
    count, rest = divmod(nbytes, block_nbytes)
    position = LZ4_HEADER.size
    for _ in range(count + (rest >= group_nbytes)):
        position += _LENGTH_NBYTES + len(lz4_block(_NAME, packed, position))
    if position + rest % group_nbytes != len(packed):
        raise broken(_NAME, f"its blocks end at {position} of {len(packed)} bytes")
