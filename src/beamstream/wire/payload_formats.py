"""Arrays in payloads that carry no description of ours: what others send, told apart and read."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from beamstream import limits
from beamstream.errors import BadInput, TooLarge
from beamstream.wire.payload import ArrayInfo, Buffer, as_array, decode
from beamstream.wire.payload_codecs import library
from beamstream.wire.payload_dtype import check_nbytes, check_shape, format_dtype, from_descr
from beamstream.wire.payload_hdf5 import SIGNATURE, read_hdf5
from beamstream.wire.payload_seedee import has_seedee, read_seedee

_NPY: Final = b"\x93NUMPY"
_SIGNATURES: Final = (
    (SIGNATURE, "hdf5"),
    (_NPY, "npy"),
    (b"###CBF", "cbf"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
_DTYPE_NAME: Final = re.compile(r"(?:bool|u?int(?:8|16|32|64)|float(?:16|32|64)|complex(?:64|128))")
_DECTRIS: Final = re.compile(r"bs(8|16|32|64)-lz4<?")
_NPY_HEADER_NBYTES_MAX: Final = 16 * limits.KIB
_CBF_LENGTH: Final = re.compile(rb"X-Binary-Size-[A-Za-z]+-Dimension:\s*(\d{1,9})\s")


def sniff(meta: Mapping[str, Any], name: str, buffer: Buffer) -> str:
    """Return what kind of array a message without description holds; "" if that is unknown.

    Parameters
    ----------
    meta, name : metadata and name of the message.
    buffer : its payload.

    Returns
    -------
    "seedee" by ``_data_format`` in the metadata; "dectris" by its ``info`` (bitshuffle-LZ4 chunks
    as they come from the detector); "hdf5", "npy", "cbf", "tiff" by their first bytes; "plain" by
    ``shape`` and ``dtype`` in the metadata.

    >>> sniff({}, "a.h5", b"\\x89HDF\\r\\n\\x1a\\n....")
    'hdf5'
    >>> sniff({"shape": [2, 2], "dtype": "uint8"}, "a.numpy", b"....")
    'plain'
    """
    if has_seedee(meta):
        return "seedee"
    head = bytes(memoryview(buffer).cast("B")[:8])
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    info = meta.get("info")
    if isinstance(info, dict) and isinstance(info.get("encoding"), str) and "shape" in info:
        return "dectris"
    if isinstance(meta.get("shape"), list | tuple) and isinstance(meta.get("dtype"), str):
        return "plain"
    return ""


def read_array(
    meta: Mapping[str, Any],
    name: str,
    buffer: Buffer,
    *,
    dataset: str | None = None,
    nbytes_max: int = limits.ARRAY_NBYTES_MAX,
) -> np.ndarray[Any, Any]:
    """Return the array in a message without description, read-only.

    Parameters
    ----------
    dataset : path within HDF5; else ``nexus_path`` of the metadata, else what `read_hdf5` finds.

    Raises
    ------
    BadInput : no array is known to be in there, or it is damaged.
    NotFound : HDF5 without that dataset.
    TooLarge : the array has more than `nbytes_max` bytes.
    Error : a library is missing; the text says which.

    >>> read_array({"shape": [2], "dtype": "uint8"}, "a.numpy", b"ab")
    array([97, 98], dtype=uint8)
    """
    match sniff(meta, name, buffer):
        case "seedee":
            return read_seedee(buffer, meta, nbytes_max=nbytes_max)
        case "dectris":
            return _read_dectris(meta["info"], buffer, nbytes_max)
        case "plain":
            return _read_plain(meta["dtype"], meta["shape"], "raw", buffer, nbytes_max)
        case "hdf5":
            path = dataset or meta.get("nexus_path")
            return read_hdf5(buffer, path if isinstance(path, str) else None, nbytes_max=nbytes_max)
        case "npy":
            return read_npy(buffer, nbytes_max=nbytes_max)
        case "cbf":
            return _read_cbf(buffer, nbytes_max)
        case "tiff":
            return _read_tiff(buffer, nbytes_max)
        case _:
            raise BadInput(
                f"message {name[:200]!r} has {len(buffer)} bytes of unknown kind, not an array",
                hint="its payload is there as bytes",
            )


def _read_plain(
    dtype: str, shape: Any, codec: str, buffer: Buffer, nbytes_max: int
) -> np.ndarray[Any, Any]:
    text = (
        format_dtype(np.dtype(dtype).newbyteorder("<")) if _DTYPE_NAME.fullmatch(dtype) else dtype
    )
    info = ArrayInfo(text, check_shape(shape), codec)
    return decode(info, buffer, nbytes_max=nbytes_max)


def _read_dectris(info: dict[str, Any], buffer: Buffer, nbytes_max: int) -> np.ndarray[Any, Any]:
    """Simplon's image header: shape is (x, y), and the encoding says how the chunk is packed."""
    encoding, dtype, shape = info["encoding"], info.get("type"), info["shape"]
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise BadInput("the detector's image header has no type or shape")
    if encoding in ("", "<"):
        codec = "raw"
    elif _DECTRIS.fullmatch(encoding):
        codec = "bslz4"
    else:
        raise BadInput(f"the detector's encoding {encoding[:40]!r} is not known")
    return _read_plain(dtype, shape[::-1], codec, buffer, nbytes_max)


def read_npy(buffer: Buffer, *, nbytes_max: int = limits.ARRAY_NBYTES_MAX) -> np.ndarray[Any, Any]:
    """Return a read-only view of the array in a file of numpy's format; never a pickle.

    Raises
    ------
    BadInput : not that format, or Python objects.
    TooLarge : the array has more than `nbytes_max` bytes.
    """
    flat = memoryview(buffer).cast("B")
    signature, version = bytes(flat[:6]), bytes(flat[6:7])
    length_nbytes = 2 if version == b"\x01" else 4
    start = 8 + length_nbytes
    length = int.from_bytes(flat[8:start], "little")
    if signature != _NPY or version not in (b"\x01", b"\x02", b"\x03"):
        raise BadInput("payload is not a .npy file of version 1 to 3")
    if length > _NPY_HEADER_NBYTES_MAX or start + length > len(flat):
        raise BadInput(f"header of a .npy payload claims {length} bytes")
    try:
        header = ast.literal_eval(bytes(flat[start : start + length]).decode("utf-8").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise BadInput(f"header of a .npy payload is not understood: {error}") from None
    match header:
        case {"descr": descr, "fortran_order": bool(fortran), "shape": tuple(shape)}:
            dtype = from_descr(_lists(descr))
        case _:
            raise BadInput("header of a .npy payload is not understood")
    nbytes = check_nbytes(dtype, check_shape(shape), nbytes_max)
    plain = flat[start + length :]
    if len(plain) != nbytes:
        raise BadInput(f".npy payload has {len(plain)} bytes of data, its header says {nbytes}")
    return as_array(plain, dtype, shape, "F" if fortran else "C")


def _lists(descr: Any) -> Any:
    if isinstance(descr, list | tuple):
        return [_lists(part) for part in descr]
    return descr


def _read_cbf(buffer: Buffer, nbytes_max: int) -> np.ndarray[Any, Any]:
    header = bytes(memoryview(buffer).cast("B")[: 64 * limits.KIB])
    lengths = [int(length) for length in _CBF_LENGTH.findall(header)]
    # Each pixel takes a byte or more of the file, and eight while it is unpacked.
    nbytes = check_nbytes(np.dtype("i8"), check_shape(lengths), nbytes_max)
    if not lengths or nbytes > 8 * len(buffer):
        raise BadInput(f"CBF payload of {len(buffer)} bytes claims an image of {lengths} pixels")
    return _read_fabio("cbfimage", "CbfImage", buffer)


def _read_tiff(buffer: Buffer, nbytes_max: int) -> np.ndarray[Any, Any]:
    flat = memoryview(buffer).cast("B")
    nbytes = _tiff_nbytes(flat)
    if nbytes > nbytes_max:
        raise TooLarge(f"TIFF payload claims an image of {nbytes} bytes")
    if nbytes > 64 * len(flat):
        raise BadInput(f"TIFF payload of {len(flat)} bytes claims an image of {nbytes} bytes")
    return _read_fabio("tifimage", "TifImage", buffer)


def _tiff_nbytes(flat: memoryview) -> int:
    """nbytes of the first image, unpacked, as its directory says."""
    order: Any = "little" if bytes(flat[:1]) == b"I" else "big"
    start = int.from_bytes(flat[4:8], order)
    count = int.from_bytes(flat[start : start + 2], order)
    tags = {256: 0, 257: 0, 258: 8, 277: 1}
    for position in range(start + 2, start + 2 + 12 * count, 12):
        entry = flat[position : position + 12]
        if len(entry) < 12:
            raise BadInput("TIFF payload ends within its directory")
        tag, kind = int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)
        if tag in tags:
            # More than one value stands elsewhere in the file; bits per sample of colours do.
            single = int.from_bytes(entry[4:8], order) == 1
            width = 2 if kind == 3 else 4
            tags[tag] = int.from_bytes(entry[8 : 8 + width], order) if single else 64
    return (tags[256] * tags[257] * tags[258] * tags[277] + 7) // 8


def _read_fabio(module: str, name: str, buffer: Buffer) -> np.ndarray[Any, Any]:
    reader = getattr(library(f"fabio.{module}", "reading this image", "formats"), name)()
    try:
        image = reader.read(io.BytesIO(buffer))
        array = np.asarray(image.data)
    except Exception as error:
        # fabio's readers end in whatever their parsing runs into.
        raise BadInput(f"payload cannot be read as an image: {str(error)[:200]}") from None
    format_dtype(array.dtype)
    array.flags.writeable = False
    return array
