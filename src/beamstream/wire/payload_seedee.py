"""seedee 1.0: the format in which ASAPO's programs send arrays.

The payload is what a chunk of HDF5 would hold (plain, LZ4, bitshuffle-LZ4 or deflate); its
description is JSON, by convention a string under ``_data_format`` in the metadata of the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from beamstream import limits
from beamstream.errors import BadInput, TooLarge
from beamstream.wire import payload_codecs
from beamstream.wire.payload import Buffer, as_array, encode
from beamstream.wire.payload_dtype import check_nbytes, check_shape, from_descr, parse_dtype

META_KEY: Final = "_data_format"

_KINDS: Final = "biufc"
_NUMBERS: Final = {"raw": 0, "deflate": 1, "lz4": 32004, "bslz4": 32008}
_CODECS: Final = {number: codec for codec, number in _NUMBERS.items()}
# What its own library writes: the level, the block size (0: usual), the kind of compression.
_OPTIONS: Final = {"raw": None, "deflate": [4], "lz4": [0], "bslz4": [0, 2]}
_TEXT_NBYTES_MAX: Final = 16 * limits.KIB


class _Array(msgspec.Struct):
    byteorder: int
    datatype: int
    itemsize: int
    ndims: int
    shape: list[int]
    size: int
    stride: list[int] | None = None


class _Format(msgspec.Struct):
    array: _Array
    compression: int
    compression_opts: list[int] | None
    data_format: str
    protocol: str
    version_major: int
    version_minor: int


def has_seedee(meta: Mapping[str, Any]) -> bool:
    """Return whether the metadata says that the payload is seedee."""
    text = meta.get(META_KEY)
    return isinstance(text, str) and '"seedee"' in text


def write_seedee(
    array: np.ndarray[Any, Any], codec: str = "raw"
) -> tuple[memoryview, dict[str, str]]:
    """Return payload and metadata that seedee's readers understand.

    Parameters
    ----------
    codec : "raw", "lz4", "bslz4" or "deflate".

    Raises
    ------
    BadInput : dtypes and codecs that the format does not have.
    TooLarge : more than 1 GiB.

    >>> payload, meta = write_seedee(np.zeros((2, 3), "<u2"))
    >>> read_seedee(payload, meta).shape
    (2, 3)
    """
    if codec not in _NUMBERS:
        raise BadInput(
            f"seedee has no codec {str(codec)[:40]!r}", hint=f"one of {', '.join(_NUMBERS)}"
        )
    if array.dtype.kind not in _KINDS:
        raise BadInput(f"seedee has no dtype {str(array.dtype)[:80]!r}", hint="send numbers")
    if array.nbytes > limits.SEEDEE_NBYTES_MAX:
        raise TooLarge(
            f"an array of {array.nbytes} bytes is too large for seedee", hint="send it in parts"
        )
    encoded = encode(array)
    payload, codec = _pack(encoded.buffers[0], array.dtype.itemsize, codec)
    form = _Format(
        array=_Array(
            byteorder=ord(">" if encoded.dtype[0] == ">" else "<"),
            datatype=ord(array.dtype.kind),
            itemsize=array.dtype.itemsize,
            ndims=array.ndim,
            shape=list(array.shape),
            size=encoded.raw_nbytes,
        ),
        compression=_NUMBERS[codec],
        compression_opts=_OPTIONS[codec],
        data_format="hdf5_chunk",
        protocol="seedee",
        version_major=1,
        version_minor=0,
    )
    return payload, {META_KEY: msgspec.json.encode(form).decode()}


def _pack(flat: memoryview, itemsize: int, codec: str) -> tuple[memoryview, str]:
    """Return what is sent, and by which codec: raw if that is not larger."""
    if codec != payload_codecs.RAW and len(flat):
        if codec == "lz4":
            # Its library unpacks the first of several blocks only (0.3.2).
            packed = payload_codecs.pack_lz4(flat, limits.SEEDEE_NBYTES_MAX)
        else:
            packed = payload_codecs.codec(codec).pack(flat, itemsize)
        if len(packed) < len(flat):
            return memoryview(packed), codec
    return flat, payload_codecs.RAW


def read_seedee(
    buffer: Buffer,
    meta: Mapping[str, Any] | str,
    *,
    nbytes_max: int = limits.ARRAY_NBYTES_MAX,
) -> np.ndarray[Any, Any]:
    """Return the array in `buffer`, read-only; if it is not packed, a view of it.

    Parameters
    ----------
    meta : metadata of the message, or the description itself as text.

    Raises
    ------
    BadInput : this is not seedee, or does not fit the payload.
    TooLarge : the array has more than `nbytes_max` bytes.
    Error : the codec's library is not installed.
    """
    form = _parse(meta if isinstance(meta, str) else meta.get(META_KEY))
    array = form.array
    codec = _CODECS.get(form.compression)
    if form.protocol != "seedee" or form.data_format != "hdf5_chunk" or form.version_major != 1:
        raise BadInput(
            f"payload is {form.protocol[:40]!r} {form.data_format[:40]!r} version "
            f"{form.version_major}, not seedee 'hdf5_chunk' version 1"
        )
    if codec is None:
        raise BadInput(f"seedee compression {form.compression} is not known")
    kind, order = chr(array.datatype & 0x7F), chr(array.byteorder & 0x7F)
    if kind not in _KINDS or order not in "<>=|":
        raise BadInput(
            f"seedee datatype {array.datatype}, byteorder {array.byteorder} is not known"
        )
    dtype = from_descr(f"{'>' if order == '>' else '<'}{kind}{array.itemsize}")
    shape = check_shape(array.shape)
    nbytes = check_nbytes(dtype, shape, nbytes_max)
    if array.stride is not None and array.stride != _strides(shape, dtype.itemsize):
        raise BadInput("seedee array is not in C order")
    if array.ndims != len(shape) or array.size != nbytes:
        raise BadInput(
            f"seedee says {array.size} bytes in {array.ndims} dimensions, shape {shape} of "
            f"{dtype.str!r} has {nbytes}"
        )
    plain = payload_codecs.unpack(codec, memoryview(buffer).cast("B"), nbytes, dtype.itemsize)
    return as_array(plain, parse_dtype(dtype.str), shape)


def _parse(text: object) -> _Format:
    if not isinstance(text, str):
        raise BadInput(f"metadata has no {META_KEY!r}, the description that seedee needs")
    if len(text) > _TEXT_NBYTES_MAX:
        raise TooLarge(f"a seedee description of {len(text)} characters is refused")
    try:
        return msgspec.json.decode(text, type=_Format)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise BadInput(f"{META_KEY!r} is not the description of an array: {error}") from None


def _strides(shape: tuple[int, ...], itemsize: int) -> list[int]:
    strides = []
    for length in reversed(shape):
        strides.append(itemsize)
        itemsize *= length
    return strides[::-1]
