"""HDF5 files in memory as payloads, as ASAPO's programs write and read them.

Parsing is libhdf5's. What is asked of it first is whether the dataset may be read: one that lies in
other files, or that is larger than its reader allows, is refused. So are compressions whose code
believes what a chunk says of itself; LZ4 and bitshuffle-LZ4 are such, and are unpacked by
`payload_codecs`, which does not. libhdf5 itself is not made for hostile files: a program that must
outlive them reads them in a process of its own.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Any, Final

import numpy as np

from beamstream import limits
from beamstream.errors import BadInput, Error, NotFound, TooLarge
from beamstream.wire.payload import Buffer
from beamstream.wire.payload_codecs import library, unpack
from beamstream.wire.payload_dtype import check_nbytes, format_dtype

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
DATASET: Final = "ndarray"
"""Name under which ASAPO's workers write their array."""

_HOPS_MAX: Final = 8
# More than any filter can unpack a byte into: a small file cannot claim a large array.
_RATIO_MAX: Final = 1 << 15
_NX_CLASS: Final = re.compile(r":NX\w+")
_LZ4: Final = 32004
_BITSHUFFLE: Final = 32008
_BITSHUFFLE_LZ4: Final = 2
_FILTERS: Final = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32001: "blosc", 32015: "zstd"}
"""Those that libhdf5 may run on bytes from strangers."""

_COMPRESSIONS: Final = ("gzip", "lz4", "bslz4", "zstd", "blosc")


def write_hdf5(array: np.ndarray[Any, Any], compression: str | None = None) -> bytes:
    """Return an HDF5 file with `array` as the dataset ``ndarray``.

    Parameters
    ----------
    compression : "gzip" (which every reader has), "lz4", "bslz4", "zstd" or "blosc" (which ASAPO's
        workers use); None for none.

    Raises
    ------
    BadInput : a dtype that HDF5 does not have, or no such compression.
    TooLarge : more than `limits.PAYLOAD_NBYTES_MAX`.
    Error : h5py or hdf5plugin is not installed.
    """
    h5py = library("h5py", "writing HDF5")
    if compression not in (None, *_COMPRESSIONS):
        raise BadInput(
            f"there is no HDF5 compression {str(compression)[:40]!r}",
            hint=f"one of {', '.join(_COMPRESSIONS)}, or None",
        )
    format_dtype(array.dtype)
    nbytes = check_nbytes(array.dtype, array.shape, limits.PAYLOAD_NBYTES_MAX)
    options: dict[str, Any] = {}
    if compression and array.ndim and nbytes:
        one_chunk = nbytes <= limits.BITSHUFFLE_NBYTES_MAX
        options = {"chunks": array.shape if one_chunk else True, **_filter(compression)}
    try:
        with h5py.File.in_memory() as file:
            file.create_dataset(DATASET, data=array, **options)
            file.flush()
            image: bytes = file.id.get_file_image()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise BadInput(
            f"an array of dtype {str(array.dtype)[:80]!r} cannot be written as HDF5: {error}"
        ) from None
    return image


def _filter(compression: str) -> Any:
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 4}
    plugin = library("hdf5plugin", f"HDF5 with {compression!r}")
    match compression:
        case "lz4":
            return plugin.LZ4()
        case "bslz4":
            return plugin.Bitshuffle(cname="lz4")
        case "zstd":
            return plugin.Zstd(clevel=1)
        case _:
            return plugin.Blosc(cname="lz4")


def read_hdf5(
    buffer: Buffer, dataset: str | None = None, *, nbytes_max: int = limits.ARRAY_NBYTES_MAX
) -> np.ndarray[Any, Any]:
    """Return one dataset of the HDF5 file in `buffer`, read-only.

    Parameters
    ----------
    dataset : its path; without one ``ndarray``, else what NeXus' ``default`` and ``signal`` point
        to, else the only dataset of numbers, else the only one of several dimensions.

    Raises
    ------
    BadInput : not HDF5, damaged, no array of numbers, links into other files.
    NotFound : no such dataset, or several that could be meant; the text lists them.
    TooLarge : it has more than `nbytes_max` bytes.
    Error : h5py is not installed, or the plugin of the file's compression.
    """
    h5py = library("h5py", "reading HDF5")
    try:
        # Importing it is what makes h5py know its filters; without it, gzip still works.
        library("hdf5plugin", "compressed HDF5")
    except Error:
        pass
    try:
        flat = memoryview(buffer).cast("B")
        with h5py.File.in_memory(flat) as file:
            found = _resolve(h5py, file, dataset, _HOPS_MAX) if dataset else _meant(h5py, file)
            return _read(h5py, found, len(flat), nbytes_max)
    except Error:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        raise BadInput(
            f"payload is not an HDF5 file that can be read: {str(error)[:200]}",
            hint="for compressed ones: pip install 'beamstream[codecs]'",
        ) from None


def _read(h5py: Any, found: Any, image_nbytes: int, nbytes_max: int) -> np.ndarray[Any, Any]:
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise BadInput(f"HDF5 object {found.name!r} is not a dataset with data")
    if found.is_virtual or found.external:
        raise BadInput(
            f"HDF5 dataset {found.name!r} lies in other files, which are not in the message"
        )
    format_dtype(found.dtype)
    nbytes = check_nbytes(found.dtype, found.shape, nbytes_max)
    chunk_nbytes = found.dtype.itemsize * math.prod(found.chunks or ())
    if max(nbytes, chunk_nbytes) > min(nbytes_max, _RATIO_MAX * image_nbytes):
        raise TooLarge(
            f"HDF5 dataset {found.name!r} claims {max(nbytes, chunk_nbytes)} bytes "
            f"in a file of {image_nbytes}"
        )
    codec = _own_codec(found)
    array = _unpacked(h5py, found, codec) if codec else np.asarray(found[()])
    array.flags.writeable = False
    return array


def _own_codec(found: Any) -> str:
    """Return by which codec of ours its chunks are to be unpacked; empty for libhdf5's."""
    plist = found.id.get_create_plist()
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    numbers = [number for number, *_ in filters]
    if numbers == [_LZ4]:
        return "lz4"
    if numbers == [_BITSHUFFLE] and filters[0][2][4:5] == (_BITSHUFFLE_LZ4,):
        return "bslz4"
    for number in numbers:
        if number not in _FILTERS:
            raise BadInput(
                f"HDF5 dataset {found.name!r} is compressed by filter {number}, alone or with "
                "others, which is not read from messages",
                hint=f"write it with one of {', '.join(_COMPRESSIONS)}",
            )
    return ""


def _unpacked(h5py: Any, found: Any, codec: str) -> np.ndarray[Any, Any]:
    dtype = found.dtype
    if found.id.get_type() != h5py.h5t.py_create(dtype, logical=True):
        raise BadInput(f"HDF5 dataset {found.name!r} has numbers of an unusual kind")
    steps = [range(0, n, chunk) for n, chunk in zip(found.shape, found.chunks, strict=True)]
    if math.prod(len(step) for step in steps) > limits.HDF5_OBJECTS_MAX:
        raise TooLarge(
            f"HDF5 dataset {found.name!r} has more than {limits.HDF5_OBJECTS_MAX} chunks"
        )
    chunk_nbytes = dtype.itemsize * math.prod(found.chunks)
    array: np.ndarray[Any, Any] = np.zeros(found.shape, dtype)
    filled = found.id.get_create_plist().fill_value_defined() != h5py.h5d.FILL_VALUE_DEFAULT
    for start in itertools.product(*steps):
        if not found.id.get_chunk_info_by_coord(start).size:
            if filled:
                # Asking libhdf5 for the value of a damaged file has ended processes.
                raise BadInput(f"HDF5 dataset {found.name!r} lacks the chunk at {start}")
            continue
        mask, packed = found.id.read_direct_chunk(start)
        how = "raw" if mask else codec
        plain = unpack(how, memoryview(packed), chunk_nbytes, dtype.itemsize)
        chunk: np.ndarray[Any, Any] = np.ndarray(found.chunks, dtype, plain)
        place = array[tuple(slice(a, a + n) for a, n in zip(start, found.chunks, strict=True))]
        place[...] = chunk[tuple(slice(n) for n in place.shape)]
    return array


def _resolve(h5py: Any, node: Any, path: str, hops_left: int) -> Any:
    """Follow `path` by links within the file only."""
    if path.startswith("/"):
        node = node.file["/"]
    # LaVue and others write classes into paths: /entry:NXentry/data:NXdata
    for part in filter(None, _NX_CLASS.sub("", path).split("/")):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise NotFound(f"HDF5 payload has no dataset {path[:200]!r}: there is no {part!r}")
        if isinstance(link, h5py.ExternalLink) or hops_left == 0:
            raise BadInput(f"HDF5 link {part!r} of {path[:200]!r} leads out of the payload")
        if isinstance(link, h5py.SoftLink):
            node = _resolve(h5py, node, link.path, hops_left - 1)
        else:
            node = node[part]
    return node


def _meant(h5py: Any, file: Any) -> Any:
    if DATASET in file:
        return _resolve(h5py, file, DATASET, _HOPS_MAX)
    node = file["/"]
    for _ in range(_HOPS_MAX):
        for key in ("signal", "default"):
            name = node.attrs.get(key)
            if isinstance(name, str | bytes):
                node = _resolve(h5py, node, _text(name), _HOPS_MAX)
                break
        else:
            break
        if isinstance(node, h5py.Dataset):
            return node
    return _only(h5py, file)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _only(h5py: Any, file: Any) -> Any:
    seen = 0
    found: list[Any] = []

    def look(name: str, node: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > limits.HDF5_OBJECTS_MAX:
            raise TooLarge(
                f"HDF5 payload has more than {limits.HDF5_OBJECTS_MAX} objects",
                hint="name the dataset",
            )
        if isinstance(node, h5py.Dataset) and node.shape and node.dtype.kind in "biufc":
            found.append(node)

    file.visititems(look)
    images = [node for node in found if node.ndim > 1]
    for candidates in (found, images):
        if len(candidates) == 1:
            return candidates[0]
    names = ", ".join(node.name for node in (images or found)[:8])
    raise NotFound(
        f"HDF5 payload has {len(found)} datasets of numbers: {names[:400]}"
        if found
        else "HDF5 payload has no dataset of numbers",
        hint="name the one that is meant",
    )
