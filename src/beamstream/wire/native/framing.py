"""Heads of frames: 16 bytes that say what follows and how long it is.

A frame is a head, a header (a MessagePack array) and a body (payloads, back to back). The head is
little endian: kind (u16), flags (u16, 0 for now), nbytes of the header (u32), of the body (u64).
"""

from __future__ import annotations

import struct
from typing import Final

from beamstream import limits
from beamstream.errors import RemoteProtocolError, TooLarge

HEAD: Final = struct.Struct("<HHIQ")
HEAD_NBYTES: Final = HEAD.size


def pack_head(kind: int, header_nbytes: int, body_nbytes: int = 0) -> bytes:
    """The head of a frame.

    >>> unpack_head(pack_head(3, 20, 1000))
    (3, 20, 1000)
    """
    return HEAD.pack(kind, 0, header_nbytes, body_nbytes)


def unpack_head(buffer: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int, int]:
    """Kind, nbytes of the header and nbytes of the body, checked against the limits.

    Raises
    ------
    RemoteProtocolError : flags that nobody has defined, or a header longer than any can be.
    TooLarge : a body larger than the largest payload.
    """
    kind, flags, header_nbytes, body_nbytes = HEAD.unpack_from(buffer, offset)
    if flags:
        raise RemoteProtocolError(f"a frame of kind {kind} has unknown flags {flags:#x}")
    if header_nbytes > limits.NATIVE_HEADER_NBYTES_MAX:
        raise RemoteProtocolError(f"a frame of kind {kind} has a header of {header_nbytes} bytes")
    if body_nbytes > limits.PAYLOAD_NBYTES_MAX:
        raise TooLarge(f"a frame of kind {kind} has a body of {body_nbytes} bytes")
    return kind, header_nbytes, body_nbytes
