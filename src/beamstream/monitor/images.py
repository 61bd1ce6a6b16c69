"""Arrays of messages, within bounds: what a page asks for must not fill our memory."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from beamstream import limits
from beamstream.client.native import lookup
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.errors import NotFound, TooLarge
from beamstream.monitor import previews
from beamstream.wire import payload, payload_formats
from beamstream.wire.native import calls

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

IMAGE_NBYTES_MAX: Final = 64 * limits.MIB
DECODES_MAX: Final = 2
PX_MAX: Final = 4_096

Array = np.ndarray[Any, Any]
Window = tuple[int, int, int, int]

_decoding: Final = threading.BoundedSemaphore(DECODES_MAX)


def first_part(found: Message | DatasetMessage) -> Message:
    """The message itself, or the first part of a dataset.

    Raises
    ------
    NotFound : a dataset of which nothing has come.
    """
    if isinstance(found, Message):
        return found
    if not found.parts:
        raise NotFound(f"dataset {found.id} of stream {found.stream!r} has no part yet")
    return found.parts[0]


def describe(found: Message) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape as they travelled with it; empty where nothing did."""
    info = payload.unpack_info(_info(found))
    return ("", ()) if info is None else (info.dtype, info.shape)


def _info(found: Message) -> bytes:
    return found._columns.info(found._item)


def array_of(found: Message) -> Array:
    """The array of a message.

    Raises
    ------
    TooLarge : it has more bytes than a page is shown.
    BadInput : it is none. DataLost, Corrupt : it cannot be had.
    """
    info = payload.unpack_info(_info(found))
    if info is None:
        return payload_formats.read_array(
            found.meta, found.name, found.data, nbytes_max=IMAGE_NBYTES_MAX
        )
    return payload.decode(info, found.data, nbytes_max=IMAGE_NBYTES_MAX)


def picture(found: Message | DatasetMessage, px_max: int, window: Window | None = None) -> bytes:
    """A message as the page draws it; at most two are made at once.

    Raises
    ------
    TooLarge, BadInput, DataLost, Corrupt : there is nothing to draw.
    """
    one = first_part(found)
    if one.size > IMAGE_NBYTES_MAX:
        raise _too_large(one)
    with _decoding:
        return previews.picture(array_of(one), found.id, min(max(px_max, 1), PX_MAX), window)


def look(hub: Hub, source: str, stream: str, id: int) -> Message | DatasetMessage:
    """A message without its payload; id -1: the last one.

    Raises
    ------
    NotFound : there is none.
    """
    if id < 0:
        params: calls.Params = calls.FetchLast(source=source, stream=stream, payloads=False)
    else:
        params = calls.Fetch(
            source=source, stream=stream, lo=id, hi=id + 1, limit=1, payloads=False
        )
    fetched, body = hub._call_body(params)
    found = lookup.messages(source, stream, fetched, body, verify=False)
    if not found:
        raise NotFound(f"stream {stream!r} of source {source!r} has no message {id}")
    return found[0]


def fetch(hub: Hub, source: str, stream: str, id: int) -> Message | DatasetMessage:
    """A message with its payload, if that is not too large to be shown.

    Raises
    ------
    NotFound : there is none.
    TooLarge : it is larger.
    """
    found = look(hub, source, stream, id)
    parts = [found] if isinstance(found, Message) else found.parts
    for part in parts:
        dtype, shape = describe(part)
        # The payload of a dataset comes with that of its other parts.
        nbytes = max(sum(one.size for one in parts), math.prod(shape) if dtype else 0)
        if nbytes > IMAGE_NBYTES_MAX:
            raise _too_large(part)
    return hub.source(source).stream(stream)[found.id]


def _too_large(found: Message) -> TooLarge:
    return TooLarge(
        f"message {found.id} of stream {found.stream!r} has {found.size} bytes, "
        f"{IMAGE_NBYTES_MAX} are shown",
        hint=f"beamstream get '{found.source}/{found.stream}[{found.id}]' -o frame.npy",
    )
