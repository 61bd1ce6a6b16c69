"""Marks: where a page of a list has ended, for asking for the next one. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from beamstream.errors import BadInput
from beamstream.wire.native.calls import StreamRow


def place_of(row: StreamRow) -> tuple[int, str, str]:
    """Where a stream stands in a list: the newest first."""
    return -row.created_ns, row.source, row.stream


def seal(value: object) -> str:
    """A mark as text that stands in an address.

    >>> open_mark(seal((7, "a", "b")), tuple[int, str, str])
    (7, 'a', 'b')
    """
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


def open_mark(text: str, kind: Any) -> Any:
    """What `seal` has made; None of an empty text.

    Raises
    ------
    BadInput : it is none.
    """
    if not text:
        return None
    try:
        document = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.json.decode(document, type=kind)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise BadInput("`after` is not what a page before has said") from None
