"""JSON documents compared and merged, without a loss of digits."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from beamstream.errors import BadMetadata

_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.encode


def same_json(a: bytes, b: bytes) -> bool:
    """Whether two texts are the same JSON: order of keys and spelling do not count, types do.

    >>> same_json(b'{"a": 1, "b": 2}', b'{"b":2,"a":1.0}'), same_json(b'{"a":1}', b'{"a":true}')
    (True, False)
    """
    if a == b:
        return True
    try:
        return _same(msgspec.json.decode(a), msgspec.json.decode(b))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    # For Python True == 1.
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def fingerprint(document: bytes) -> bytes:
    """32 bytes that are alike for one JSON object however its keys are ordered and it is spaced.

    Raises `BadMetadata` if it is not an object.

    >>> fingerprint(b'{"a": 1, "b": 2}') == fingerprint(b'{"b":2,"a":1}')
    True
    """
    try:
        parsed = msgspec.json.decode(document, type=dict[str, Any])
        return hashlib.sha256(msgspec.json.encode(parsed, order="sorted")).digest()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMetadata(f"the document of a run is not a JSON object: {error}") from None


def merged(old: bytes, new: bytes) -> bytes:
    """`old` with the keys of `new`: objects are merged deeply, anything else is replaced.

    Raises `BadMetadata` if one of them is not an object.

    >>> merged(b'{"a": {"x": 1, "y": 2}, "b": [1]}', b'{"a": {"y": 3}, "b": []}')
    b'{"a":{"x":1,"y":3},"b":[]}'
    """
    try:
        return _encode(_merged(_objects.decode(old), _objects.decode(new)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMetadata(f"metadata cannot be merged: {error}") from None


def _merged(old: dict[str, msgspec.Raw], new: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    for key, value in new.items():
        there = old.get(key)
        if there is not None and bytes(there)[:1] == b"{" == bytes(value)[:1]:
            value = msgspec.Raw(_encode(_merged(_objects.decode(there), _objects.decode(value))))
        old[key] = value
    return old
