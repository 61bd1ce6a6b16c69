"""Values as payloads with metadata and digest, ready to be put."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import xxhash

from beamstream import limits
from beamstream.client.native.outgoing import SMALL_NBYTES, Buffer
from beamstream.errors import BadMetadata, StorageError, TooLarge
from beamstream.model import check_metadata
from beamstream.wire import payload

Meta = Mapping[str, Any] | bytes | str
digest: Final = xxhash.xxh3_128_digest
NO_DIGEST: Final = digest(b"")
_encode_json: Final = msgspec.json.Encoder().encode
_pack_info: Final = functools.lru_cache(maxsize=256)(payload.pack_info)


class Packed(NamedTuple):
    """A payload: `buffer`, its `info`, and the `name` it brings along (of a file)."""

    buffer: Buffer
    info: bytes
    name: str


def pack(value: object, codec: str = "raw") -> Packed:
    """Return `value` as a payload; small ones are copied, large ones are not.

    Parameters
    ----------
    value : ndarray, bytes-like, or the path of a file.

    Raises
    ------
    BadInput, TooLarge : it cannot be sent.
    StorageError : the file cannot be read.
    """
    if type(value) is bytes and codec == "raw":
        return Packed(value, b"", "")
    if isinstance(value, os.PathLike):
        return _pack_file(Path(value))
    encoded = payload.encode(value, codec)
    [view] = encoded.buffers
    info = _pack_info(encoded.info) if encoded.kind == "array" else b""
    return Packed(bytes(view) if encoded.nbytes < SMALL_NBYTES else view, info, "")


def _pack_file(path: Path) -> Packed:
    try:
        nbytes = path.stat().st_size
        if nbytes > limits.PAYLOAD_NBYTES_MAX:
            raise TooLarge(f"file {path} has {nbytes} bytes, {limits.PAYLOAD_NBYTES_MAX} may be")
        return Packed(path.read_bytes(), b"", path.name)
    except OSError as error:
        raise StorageError(f"file {path} cannot be read: {error.strerror or error}") from None


def pack_meta(meta: Meta | None, nbytes_max: int = limits.META_NBYTES_MAX) -> bytes:
    """Return metadata as JSON; empty when there is none.

    Raises
    ------
    BadMetadata : not an object that JSON can hold.
    TooLarge : too long.

    >>> pack_meta({"energy_eV": 12400})
    b'{"energy_eV":12400}'
    """
    if not meta:
        return b""
    if isinstance(meta, str):
        return check_metadata(meta.encode(), nbytes_max)
    if isinstance(meta, bytes | bytearray | memoryview):
        return check_metadata(bytes(meta), nbytes_max)
    try:
        text = _encode_json(meta)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError):
        try:
            text = msgspec.json.encode(meta, enc_hook=_plain)
        except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise BadMetadata(f"metadata cannot be written as JSON: {error}") from None
    if len(text) > nbytes_max:
        raise TooLarge(f"metadata has {len(text)} bytes, {nbytes_max} are allowed")
    return text


def _plain(value: Any) -> Any:
    """Numbers and small arrays of numpy, which detectors' metadata are full of."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a {type(value).__name__} is nothing that JSON knows")


def digests_of(sizes: Sequence[int], buffers: Sequence[Buffer]) -> bytes | None:
    """Digests of payloads that lie in `buffers`; None when nobody can have changed them.

    >>> digests_of((1, 1), [bytearray(b"ab")]) == digest(b"a") + digest(b"b")
    True
    """
    if all(isinstance(buffer, bytes) for buffer in buffers):
        return None
    found: list[bytes] = []
    if len(buffers) == len(sizes):
        found = [digest(buffer) for buffer in buffers]
    else:
        view, start = memoryview(buffers[0]), 0
        for size in sizes:
            found.append(digest(view[start : start + size]))
            start += size
    return b"".join(found)
