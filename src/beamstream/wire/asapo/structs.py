"""The fixed structs of ASAPO's receiver and data server: requests of 2120 bytes, replies of 1028.

Protocol sections 5.1 to 5.4 and 7. Little endian, C layout of x86-64. Both directions are here: a
server unpacks requests and packs replies, a client the reverse.
"""

from __future__ import annotations

import enum
import functools
import re
import struct
from typing import Final

import msgspec

from beamstream.errors import BadName, LocalProtocolError, RemoteProtocolError

REQUEST_NBYTES: Final = 2120
REPLY_NBYTES: Final = 1028

Buffer = bytes | bytearray | memoryview
"""Bytes, or a view of single bytes."""

# The op code is one byte; the seven after it, and the six at the end, are rubbish.
_REQUEST: Final = struct.Struct("<B7x6Q1024s1024s10s6x")
_REPLY: Final = struct.Struct("<BxH1024s")
_TEXT_NBYTES_MAX: Final = 1023
_VERSION_NBYTES_MAX: Final = 9


class OpCode(enum.IntEnum):
    """What a request asks for."""

    UNKNOWN = 1
    TRANSFER_DATA = 2
    TRANSFER_DATASET_DATA = 3
    STREAM_INFO = 4
    LAST_STREAM = 5
    GET_BUFFER_DATA = 6
    AUTHORIZE = 7
    TRANSFER_METADATA = 8
    DELETE_STREAM = 9
    GET_META = 10
    COUNT = 11
    PERSIST_STREAM = 12


class Code(enum.IntEnum):
    """How a request ended, and thereby what the client does next (protocol section 5.4)."""

    SUCCESS = 0
    REAUTHORIZE = 1
    WARNING = 2
    WRONG_REQUEST = 3
    NOT_SUPPORTED = 4
    NO_DATA = 5
    AUTHORIZATION_ERROR = 6
    INTERNAL_ERROR = 65535


class IngestMode(enum.IntFlag):
    """What is to be done with a message: `Request.custom[0]` of a put."""

    TRANSFER_DATA = 1
    METADATA_ONLY = 2
    STORE_IN_FILESYSTEM = 4
    STORE_IN_DATABASE = 8
    WRITE_RAW_OFFLINE = 16


DEFAULT_INGEST_MODE: Final = 13
CACHE_ONLY_INGEST_MODE: Final = 9


class Request(msgspec.Struct, frozen=True, gc=False):
    """Header of a request.

    Parameters
    ----------
    op : what is asked; an `OpCode`, or any other byte.
    id : of the message; of the cached payload (`buf_id`) for `GET_BUFFER_DATA`.
    data_size : nbytes of the payload; see `payload_nbytes` for whether it follows.
    meta_size : nbytes of metadata (or credentials) that follow the header.
    custom : meaning depends on `op`; rubbish for `AUTHORIZE` and `GET_BUFFER_DATA`.
    path, stream, version : up to the first NUL.
    """

    op: int
    id: int
    data_size: int
    meta_size: int
    custom: tuple[int, int, int]
    path: str
    stream: str
    version: str


class Reply(msgspec.Struct, frozen=True, gc=False):
    """Answer to a request: `code` is a `Code` or any other number."""

    op: int
    code: int
    text: str


def unpack_request(buffer: Buffer) -> Request:
    """Return the header that `buffer` begins with.

    Raises
    ------
    RemoteProtocolError : fewer than 2120 bytes, or text that is not UTF-8.

    >>> unpack_request(pack_request(OpCode.TRANSFER_DATA, 1, 5, 8, (13, 0, 0), "a/b", "s1")).path
    'a/b'
    """
    if len(buffer) < REQUEST_NBYTES:
        raise RemoteProtocolError(f"a request of {len(buffer)} bytes, {REQUEST_NBYTES} expected")
    op, data_id, data_size, meta_size, c0, c1, c2, path, stream, version = _REQUEST.unpack_from(
        buffer
    )
    return Request(
        op,
        data_id,
        data_size,
        meta_size,
        (c0, c1, c2),
        _text(path, "path") if path[0] else "",
        _text(stream, "stream name") if stream[0] else "",
        _text(version, "version"),
    )


def _text(field: bytes, what: str) -> str:
    end = field.find(0)
    raw = field[:end] if end >= 0 else field
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        if end < 0 and error.end == len(raw) and error.reason == "unexpected end of data":
            reason = f"fills the field of {len(raw)} bytes and ends within a character: it was cut"
        else:
            reason = f"is not UTF-8 at byte {error.start}"
        raise RemoteProtocolError(
            f"the {what} {raw[:40]!r}… of a request {reason}", hint="use a shorter, UTF-8 name"
        ) from None


def pack_request(
    op: int,
    data_id: int = 0,
    data_size: int = 0,
    meta_size: int = 0,
    custom: tuple[int, int, int] = (0, 0, 0),
    path: str = "",
    stream: str = "",
    version: str = "v0.7",
) -> bytes:
    """Return the 2120 bytes of a request's header.

    Raises
    ------
    BadName : a text with NUL, with lone surrogates, or too long for its field.
    LocalProtocolError : a number that does not fit into its field.

    >>> len(pack_request(OpCode.AUTHORIZE, meta_size=244))
    2120
    """
    texts = (
        _field(path, "path", _TEXT_NBYTES_MAX),
        _field(stream, "stream name", _TEXT_NBYTES_MAX),
        _field(version, "version", _VERSION_NBYTES_MAX),
    )
    try:
        return _REQUEST.pack(op, data_id, data_size, meta_size, *custom, *texts)
    except struct.error as error:
        raise LocalProtocolError(
            f"a request that cannot be sent (op {op}, id {id}): {error}"
        ) from None


def _field(text: str, what: str, nbytes_max: int) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise BadName(f"the {what} {text[:80]!r} is not valid Unicode") from None
    if len(raw) > nbytes_max:
        raise BadName(f"the {what} {text[:80]!r}… has {len(raw)} bytes, {nbytes_max} are allowed")
    if 0 in raw:
        raise BadName(f"the {what} {text[:80]!r} has a NUL")
    return raw


_PUTS: Final = (2, 3)
# A plain integer: the operators of flags make objects.
_HAS_DATA: Final = int(IngestMode.TRANSFER_DATA)


def payload_nbytes(request: Request) -> int:
    """Return how many bytes of data follow the header and the metadata.

    >>> payload_nbytes(Request(2, 1, 5, 0, (2, 0, 0), "a", "s", "v0.7"))  # metadata only
    0
    """
    if request.op in _PUTS:
        return request.data_size if request.custom[0] & _HAS_DATA else 0
    return request.data_size if request.op == OpCode.TRANSFER_METADATA else 0


_SUCCESS: Final = tuple(_REPLY.pack(op, 0, b"") for op in range(16))


def pack_reply(op: int, code: int, text: str = "") -> bytes:
    """Return the 1028 bytes of a reply; `text` is cut at 1023 bytes, between characters.

    >>> pack_reply(2, Code.WARNING, "ignoring duplicate record for id 1")[:6]
    b'\\x02\\x00\\x02\\x00ig'
    """
    if not text and not code and 0 <= op < 16:
        return _SUCCESS[op]
    raw = text.encode("utf-8", "replace")
    if len(raw) > _TEXT_NBYTES_MAX:
        raw = raw[:_TEXT_NBYTES_MAX].decode("utf-8", "ignore").encode()
    try:
        return _REPLY.pack(op, code, raw)
    except struct.error as error:
        raise LocalProtocolError(
            f"a reply that cannot be sent (op {op}, code {code}): {error}"
        ) from None


def unpack_reply(buffer: Buffer) -> Reply:
    """Return the reply that `buffer` begins with.

    Raises
    ------
    RemoteProtocolError : fewer than 1028 bytes.

    >>> unpack_reply(pack_reply(2, 3, "no")).text
    'no'
    """
    if len(buffer) < REPLY_NBYTES:
        raise RemoteProtocolError(f"a reply of {len(buffer)} bytes, {REPLY_NBYTES} expected")
    op, code, text = _REPLY.unpack_from(buffer)
    return Reply(op, code, text.partition(b"\0")[0].decode("utf-8", "replace"))


_VERSION: Final = re.compile(r"v([0-9]{1,4})\.([0-9]{1,4})")


@functools.lru_cache(maxsize=64)
def parse_version(text: str) -> tuple[int, int]:
    """Return (major, minor).

    Raises
    ------
    RemoteProtocolError : anything but ``v``, a number, a dot and a number.

    >>> parse_version("v0.7")
    (0, 7)
    """
    found = _VERSION.fullmatch(text)
    if not found:
        raise RemoteProtocolError(f"version {text[:40]!r} is not of the form 'v0.7'")
    return int(found[1]), int(found[2])
