"""What users hand over, as the bytes that are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from beamstream import limits
from beamstream.errors import BadInput, BadMetadata, TooLarge
from beamstream.model import check_metadata

Payload = bytes | bytearray | memoryview | npt.NDArray[Any]


def as_bytes(data: Payload | None) -> memoryview | bytes:
    """Return a view of `data` as single bytes, without a copy.

    >>> len(as_bytes(np.zeros((2, 3), np.uint16)))
    12
    """
    if data is None:
        return b""
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous or data.dtype.hasobject:
            raise BadInput(
                f"an array of shape {data.shape} and dtype {data.dtype} does not lie in one piece",
                hint="send numpy.ascontiguousarray(array)",
            )
        view = data.reshape(-1).view(np.uint8).data if data.size else memoryview(b"")
    else:
        try:
            whole = memoryview(data)
            view = whole.cast("B") if whole.nbytes else memoryview(b"")
        except TypeError as error:
            raise BadInput(f"data of type {type(data).__name__} cannot be sent: {error}") from None
    if len(view) > limits.PAYLOAD_NBYTES_MAX:
        raise TooLarge(
            f"a payload of {len(view)} bytes, {limits.PAYLOAD_NBYTES_MAX} are allowed",
            hint="send it in parts",
        )
    return view


def encode_meta(
    meta: Mapping[str, Any] | bytes | str | None, nbytes_max: int = limits.META_NBYTES_MAX
) -> bytes:
    """Return metadata as JSON text; numbers and arrays of numpy are allowed in a mapping.

    >>> encode_meta({"a": np.float32(0.5)})
    b'{"a":0.5}'
    """
    if meta is None:
        return b""
    if isinstance(meta, bytes):
        text = meta
    elif isinstance(meta, str):
        text = meta.encode()
    else:
        try:
            text = json.dumps(
                meta, allow_nan=False, separators=(",", ":"), ensure_ascii=False, default=_plain
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise BadMetadata(f"metadata cannot be written as JSON: {error}") from None
    return check_metadata(text, nbytes_max)


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
