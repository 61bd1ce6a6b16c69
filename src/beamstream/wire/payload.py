"""Arrays and bytes as payloads: what travels, and the short description that goes with it.

An array is sent as its own memory, in C order, without a copy; its reader gets a read-only view
of the buffer it was received into. With a codec it is packed on one side and unpacked on the other.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
import numpy as np

from beamstream import limits
from beamstream.errors import BadInput
from beamstream.wire import payload_codecs
from beamstream.wire.payload_dtype import check_nbytes, check_shape, format_dtype, parse_dtype

Kind = Literal["array", "bytes"]
Buffer = bytes | bytearray | memoryview


class ArrayInfo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What turns a payload back into an array; travels beside it, packed into some ten bytes.

    Parameters
    ----------
    dtype : as `beamstream.wire.payload_dtype` writes it.
    shape : lengths, C order; () for a single number.
    codec : how the payload is packed: "raw", "zstd", "lz4", "bslz4".
    """

    dtype: str
    shape: tuple[int, ...]
    codec: str = payload_codecs.RAW


class Encoded(msgspec.Struct, frozen=True):
    """A payload that is ready to be sent.

    Parameters
    ----------
    kind : "array", or "bytes" for what needs no description.
    dtype, shape, codec : as in `ArrayInfo`; of bytes empty, (nbytes,) and "raw".
    buffers : the payload, read-only, in order; each a flat view of bytes.
    nbytes : how many bytes travel.
    raw_nbytes : how many they are unpacked.
    """

    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    codec: str
    buffers: tuple[memoryview, ...]
    nbytes: int
    raw_nbytes: int

    @property
    def info(self) -> ArrayInfo | None:
        """The description that travels with an array; None for bytes."""
        if self.kind == "bytes":
            return None
        return ArrayInfo(self.dtype, self.shape, self.codec)


def encode(value: object, codec: str = payload_codecs.RAW) -> Encoded:
    """Return `value` as a payload.

    Parameters
    ----------
    value : an ndarray, a numpy scalar, or anything bytes-like. An array in C order is not copied:
        do not change it before it is sent.
    codec : "raw", "zstd", "lz4" or "bslz4", for arrays. What does not become smaller is sent raw.

    Raises
    ------
    BadInput : not an array or bytes; a dtype that cannot be sent; no such codec.
    TooLarge : more than `limits.PAYLOAD_NBYTES_MAX`.
    Error : the codec's library is not installed.

    >>> encoded = encode(np.zeros((2, 3), "<u2"))
    >>> encoded.info, encoded.nbytes
    (ArrayInfo(dtype='<u2', shape=(2, 3), codec='raw'), 12)
    """
    how = payload_codecs.codec(codec)
    # numpy's own bytes are both, and an array is what keeps their length.
    if isinstance(value, np.ndarray | np.generic):
        return _encode_array(value, codec, how)
    if isinstance(value, bytes | bytearray | memoryview):
        return _encode_bytes(memoryview(value), codec)
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        raise BadInput(
            f"a {type(value).__name__} is neither an array nor bytes",
            hint="numpy.asarray(value) for numbers, text.encode() for text",
        ) from None
    return _encode_bytes(view, codec)


def _encode_array(value: np.ndarray[Any, Any] | np.generic, codec: str, how: Any) -> Encoded:
    if isinstance(value, np.ma.MaskedArray):
        raise BadInput(
            "a masked array would lose its mask",
            hint="send array.filled(value), or data and mask as fields of one dtype",
        )
    array = np.asarray(value)
    dtype = format_dtype(array.dtype)
    shape = check_shape(array.shape)
    nbytes = check_nbytes(array.dtype, shape, limits.PAYLOAD_NBYTES_MAX)
    if array.dtype.names:
        # Fields are copied one by one, which leaves what is between them to chance.
        array = array.view(f"V{array.dtype.itemsize}")
    flat = np.asarray(array, order="C").reshape(-1).view(np.uint8).data.toreadonly()
    if codec != payload_codecs.RAW and nbytes:
        packed = how.pack(flat, array.dtype.itemsize)
        if len(packed) < nbytes:
            view = memoryview(packed)
            return Encoded("array", dtype, shape, codec, (view,), len(packed), nbytes)
    return Encoded("array", dtype, shape, payload_codecs.RAW, (flat,), nbytes, nbytes)


def _encode_bytes(view: memoryview, codec: str) -> Encoded:
    if codec != payload_codecs.RAW:
        raise BadInput(
            f"bytes are sent as they are, not by the codec {codec!r}",
            hint="numpy.frombuffer(data, 'u1') is an array of them",
        )
    if view.nbytes > limits.PAYLOAD_NBYTES_MAX:
        check_nbytes(np.dtype("u1"), (view.nbytes,), limits.PAYLOAD_NBYTES_MAX)
    flat = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    nbytes = len(flat)
    raw = payload_codecs.RAW
    return Encoded("bytes", "", (nbytes,), raw, (flat.toreadonly(),), nbytes, nbytes)


def decode(
    info: ArrayInfo | Encoded, buffer: Buffer, *, nbytes_max: int = limits.ARRAY_NBYTES_MAX
) -> np.ndarray[Any, Any]:
    """Return the array in `buffer`, read-only; of a raw payload a view of it.

    The description is taken as hostile: nothing is allocated before it is found to fit the
    buffer, and never more than `nbytes_max`.

    Raises
    ------
    BadInput : description and payload do not fit.
    TooLarge : the array has more than `nbytes_max` bytes.
    Error : the codec's library is not installed.

    >>> decode(ArrayInfo("<u2", (2,)), b"\\x01\\x00\\x02\\x00")
    array([1, 2], dtype=uint16)
    """
    dtype = parse_dtype(info.dtype)
    shape = check_shape(info.shape)
    nbytes = check_nbytes(dtype, shape, nbytes_max)
    flat = memoryview(buffer)
    if flat.ndim != 1 or flat.format != "B":
        flat = flat.cast("B")
    plain = payload_codecs.unpack(info.codec, flat, nbytes, dtype.itemsize)
    return as_array(plain, dtype, shape)


def as_array(
    plain: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"] = "C"
) -> np.ndarray[Any, Any]:
    """Return a read-only view of the buffer `plain`, whose size has been checked."""
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, buffer=plain, order=order)
    array.flags.writeable = False
    return array


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(ArrayInfo)


def pack_info(info: ArrayInfo | None) -> bytes:
    """Return the description as bytes; empty when there is none.

    >>> pack_info(ArrayInfo("<u2", (512, 1028)))
    b'\\x93\\xa3<u2\\x92\\xcd\\x02\\x00\\xcd\\x04\\x04\\xa3raw'
    """
    return b"" if info is None else _ENCODER.encode(info)


def unpack_info(packed: Buffer) -> ArrayInfo | None:
    """Return the description in `packed`, None when it is empty.

    What it says is checked by `decode`.

    Raises
    ------
    BadInput : this is not a description.

    >>> unpack_info(pack_info(ArrayInfo("<u2", (512, 1028), "bslz4")))
    ArrayInfo(dtype='<u2', shape=(512, 1028), codec='bslz4')
    """
    if not packed:
        return None
    if len(packed) > 2 * limits.ARRAY_DTYPE_NBYTES_MAX:
        raise BadInput(f"the description of an array has {len(packed)} bytes")
    try:
        return _DECODER.decode(packed)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadInput(f"the description of an array is not understood: {error}") from None
