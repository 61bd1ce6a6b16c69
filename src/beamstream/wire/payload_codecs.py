"""Compression of arrays by name: raw, zstd, lz4, bslz4.

The bytes of each codec are those that the HDF5 filter of the same name makes (zstd 32015, lz4
32004, bitshuffle-LZ4 32008), so they can be written into files as chunks without being unpacked.
A declared size is held against what the packed bytes can possibly give before memory is
allocated, and no more than it is ever written.
"""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from beamstream.errors import BadInput, Error

RAW: Final = "raw"

LZ4_HEADER: Final = struct.Struct(">QI")
"""nbytes of the whole, nbytes of a block; as LZ4 and bitshuffle of HDF5 have it."""

_LENGTH: Final = struct.Struct(">I")
_LZ4_BLOCK_NBYTES: Final = 1 << 20
_LZ4_BLOCK_NBYTES_MAX: Final = 0x7E000000
_ZSTD_UNKNOWN_SIZE: Final = 2**64 - 1
# Level 1 packs detector frames about as well as 3, at twice the rate.
_ZSTD_LEVEL: Final = 1
_DEFLATE_LEVEL: Final = 4


class Codec(msgspec.Struct, frozen=True):
    """How to pack and unpack, and how many bytes one packed byte can become at most.

    ``pack(flat, itemsize)`` takes the bytes of an array, ``unpack(packed, nbytes, itemsize)``
    returns exactly `nbytes` bytes or raises `BadInput`.
    """

    pack: Callable[[memoryview, int], bytes]
    unpack: Callable[[memoryview, int, int], Any]
    ratio_max: int


def library(name: str, purpose: str, extra: str = "codecs") -> Any:
    """Return the optional library `name`.

    Raises
    ------
    Error : it is not installed; the text says what to type.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Error(
            f"{purpose} needs the library {name.partition('.')[0]!r}, which cannot be imported "
            f"here: {error}",
            hint=f"pip install 'beamstream[{extra}]'",
        ) from None


def codec(name: str) -> Codec:
    """Return the codec of this name.

    Raises
    ------
    BadInput : there is none.
    """
    found = CODECS.get(name)
    if found is None:
        raise BadInput(f"there is no codec {str(name)[:40]!r}", hint=f"one of {', '.join(CODECS)}")
    return found


def unpack(name: str, packed: memoryview, nbytes: int, itemsize: int) -> Any:
    """Return the `nbytes` bytes that were packed by the codec `name`, as a buffer.

    Raises
    ------
    BadInput : these bytes are not that.
    Error : a library is missing.
    """
    how = codec(name)
    if name != RAW and nbytes > how.ratio_max * len(packed):
        raise BadInput(
            f"{len(packed)} bytes cannot be an array of {nbytes} bytes packed by {name!r}"
        )
    return how.unpack(packed, nbytes, itemsize)


def broken(name: str, why: object) -> BadInput:
    """Return the error of packed bytes that cannot be unpacked."""
    return BadInput(f"payload is not what the codec {name!r} makes: {str(why)[:200]}")


# --------------------------------------------------------------------------------- raw


def _pack_raw(flat: memoryview, itemsize: int) -> bytes:
    return flat.tobytes()


def _unpack_raw(packed: memoryview, nbytes: int, itemsize: int) -> Any:
    if len(packed) != nbytes:
        raise BadInput(f"payload has {len(packed)} bytes, its description says {nbytes}")
    return packed


# -------------------------------------------------------------------------------- zstd


def _pack_zstd(flat: memoryview, itemsize: int) -> bytes:
    zstandard = library("zstandard", "the codec 'zstd'")
    packed: bytes = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(flat)
    return packed


def _unpack_zstd(packed: memoryview, nbytes: int, itemsize: int) -> Any:
    zstandard = library("zstandard", "the codec 'zstd'")
    try:
        # The library allocates what the frame says, whatever the caller allows.
        said = zstandard.get_frame_parameters(packed).content_size
        if said not in (nbytes, _ZSTD_UNKNOWN_SIZE):
            raise broken("zstd", f"it has {said} bytes, its description says {nbytes}")
        plain = zstandard.ZstdDecompressor().decompress(
            packed, max_output_size=nbytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise broken("zstd", error) from None
    if len(plain) != nbytes:
        raise broken("zstd", f"it has {len(plain)} bytes, its description says {nbytes}")
    return plain


# --------------------------------------------------------------------------------- lz4


def _pack_lz4(flat: memoryview, itemsize: int) -> bytes:
    return pack_lz4(flat, _LZ4_BLOCK_NBYTES)


def pack_lz4(flat: memoryview, block_nbytes: int) -> bytes:
    """Return `flat` packed by LZ4 in blocks of `block_nbytes`."""
    compress = library("lz4.block", "the codec 'lz4'").compress
    block_nbytes = min(block_nbytes, len(flat))
    parts = [LZ4_HEADER.pack(len(flat), block_nbytes)]
    for start in range(0, len(flat), block_nbytes):
        block = flat[start : start + block_nbytes]
        packed = compress(block, store_size=False)
        if len(packed) >= len(block):
            packed = block
        parts += (_LENGTH.pack(len(packed)), packed)
    return b"".join(parts)


def _unpack_lz4(packed: memoryview, nbytes: int, itemsize: int) -> Any:
    block_lz4 = library("lz4.block", "the codec 'lz4'")
    block_nbytes = min(lz4_block_nbytes("lz4", packed, nbytes), nbytes)
    if block_nbytes > _LZ4_BLOCK_NBYTES_MAX:
        raise broken("lz4", f"blocks of {block_nbytes} bytes")
    plain = np.empty(nbytes, np.uint8).data
    position = LZ4_HEADER.size
    for start in range(0, nbytes, block_nbytes):
        block = lz4_block("lz4", packed, position)
        position += _LENGTH.size + len(block)
        size = min(block_nbytes, nbytes - start)
        if len(block) == size:
            plain[start : start + size] = block
            continue
        try:
            got = block_lz4.decompress(block, uncompressed_size=size)
        except block_lz4.LZ4BlockError as error:
            raise broken("lz4", error) from None
        if len(got) != size:
            raise broken("lz4", f"a block has {len(got)} bytes instead of {size}")
        plain[start : start + size] = got
    if position != len(packed):
        raise broken("lz4", f"{len(packed) - position} bytes too many")
    return plain


def lz4_block_nbytes(name: str, packed: memoryview, nbytes: int) -> int:
    """Return the block size of the header, whose nbytes must be `nbytes`."""
    if len(packed) < LZ4_HEADER.size:
        raise broken(name, f"{len(packed)} bytes are less than its header")
    said, block_nbytes = LZ4_HEADER.unpack_from(packed)
    if said != nbytes:
        raise broken(name, f"it has {said} bytes, its description says {nbytes}")
    if block_nbytes == 0:
        raise broken(name, "blocks of no bytes")
    return int(block_nbytes)


def lz4_block(name: str, packed: memoryview, position: int) -> memoryview:
    """Return the packed block whose length stands at `position`."""
    start = position + _LENGTH.size
    if start > len(packed):
        raise broken(name, "it ends within its blocks")
    (length,) = _LENGTH.unpack_from(packed, position)
    if length == 0 or start + length > len(packed):
        raise broken(name, f"a block of {length} bytes, {len(packed) - start} are left")
    return packed[start : start + length]


# ----------------------------------------------------------------------------- deflate


def _pack_deflate(flat: memoryview, itemsize: int) -> bytes:
    return zlib.compress(flat, _DEFLATE_LEVEL)


def _unpack_deflate(packed: memoryview, nbytes: int, itemsize: int) -> Any:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(packed, nbytes + 1)
    except zlib.error as error:
        raise broken("deflate", error) from None
    if len(plain) != nbytes or not stream.eof or stream.unused_data:
        raise broken("deflate", f"its description says {nbytes} bytes")
    return plain


# --------------------------------------------------------------------------- bitshuffle


def _pack_bslz4(flat: memoryview, itemsize: int) -> bytes:
    from beamstream.wire import payload_bitshuffle

    return payload_bitshuffle.pack(flat, itemsize)


def _unpack_bslz4(packed: memoryview, nbytes: int, itemsize: int) -> Any:
    from beamstream.wire import payload_bitshuffle

    return payload_bitshuffle.unpack(packed, nbytes, itemsize)


CODECS: Final = {
    RAW: Codec(_pack_raw, _unpack_raw, ratio_max=1),
    # A block of 128 KiB of one byte takes four bytes; 255 is what a byte of LZ4 adds to a match.
    "zstd": Codec(_pack_zstd, _unpack_zstd, ratio_max=1 << 15),
    "lz4": Codec(_pack_lz4, _unpack_lz4, ratio_max=255),
    "bslz4": Codec(_pack_bslz4, _unpack_bslz4, ratio_max=255),
    "deflate": Codec(_pack_deflate, _unpack_deflate, ratio_max=1032),
}
"""By name. ``deflate`` is zlib's, and for what others have packed: it is slow."""
