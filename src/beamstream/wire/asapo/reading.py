"""What a client makes of the JSON documents that ASAPO's services answer.

All `read_…` functions raise `RemoteProtocolError` when a needed key is missing or has the wrong
type; unknown keys are ignored. Protocol sections 3 and 6.3 to 6.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NotRequired, TypedDict, TypeVar

import msgspec

from beamstream.errors import RemoteProtocolError


class MessageDocument(TypedDict):
    """A message record as its reader sees it."""

    _id: int
    size: int
    name: str
    timestamp: int
    source: str
    buf_id: int
    dataset_substream: int
    meta: dict[str, Any]
    ib_source: NotRequired[str]
    stream: NotRequired[str]
    ingest_mode: NotRequired[int]
    time_id: NotRequired[int]


class DatasetDocument(TypedDict):
    """A dataset record; `dataset_size` is the number of parts that make it complete."""

    _id: int
    dataset_size: int
    messages: list[MessageDocument]


class StreamDocument(TypedDict):
    """What a reader is told of a stream; times in ns since 1970 UTC."""

    lastId: int
    name: str
    timestampCreated: int
    timestampLast: int
    finished: bool
    nextStream: str


class NoData(msgspec.Struct, frozen=True, gc=False):
    """Body of a 409: nothing at `id`, the largest there is `id_max`."""

    id: int
    id_max: int
    next_stream: str


class Receivers(msgspec.Struct, frozen=True, gc=False):
    """Where a producer may connect to, and how often."""

    max_connections: int = msgspec.field(name="MaxConnections")
    uris: list[str] = msgspec.field(name="Uris")


class _DatasetIn(msgspec.Struct, gc=False, rename={"id": "_id"}):
    id: int
    dataset_size: int | None = None
    size: int | None = None
    messages: list[MessageDocument] = []


class _Size(msgspec.Struct):
    size: int


class _FileSize(msgspec.Struct):
    file_size: int


class _Unacknowledged(msgspec.Struct):
    unacknowledged: list[int]


class _LastAck(msgspec.Struct):
    lastAckId: int  # noqa: N815


class _Streams(msgspec.Struct):
    streams: list[StreamDocument]


class _Sources(msgspec.Struct):
    sources: list[str]


_T = TypeVar("_T")
_U64_MASK: Final = 2**64 - 1


def _decoder(type_: type[_T]) -> Callable[[bytes], _T]:
    decode = msgspec.json.Decoder(type_).decode

    def read(body: bytes) -> _T:
        try:
            return decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteProtocolError(f"malformed response {body[:200]!r}: {error}") from None

    return read


_record: Final = _decoder(MessageDocument)
_records: Final = _decoder(list[MessageDocument])
_dataset: Final = _decoder(_DatasetIn)
_streams: Final = _decoder(_Streams)
_sources: Final = _decoder(_Sources)
_size: Final = _decoder(_Size)
_file_size: Final = _decoder(_FileSize)
_unacknowledged: Final = _decoder(_Unacknowledged)
_last_ack: Final = _decoder(_LastAck)
_version: Final = _decoder(dict[str, Any])

read_no_data: Final = _decoder(NoData)
"""Body of a 409 -> `NoData`."""

read_receivers: Final = _decoder(Receivers)
"""Reply of receiver discovery -> `Receivers`."""


def _positive(record: MessageDocument) -> MessageDocument:
    """The original's `buf_id` may look negative: the same 64 bits are meant."""
    record["buf_id"] &= _U64_MASK
    return record


def read_record(body: bytes) -> MessageDocument:
    """Return a message record; its `buf_id` is 0 … 2^64 - 1.

    Raises
    ------
    RemoteProtocolError : a needed key is missing or has the wrong type.
    """
    return _positive(_record(body))


def read_records(body: bytes) -> list[MessageDocument]:
    return [_positive(record) for record in _records(body)]


def read_dataset(body: bytes) -> DatasetDocument:
    """Return a dataset record, of servers of either generation."""
    found = _dataset(body)
    expected = found.size if found.dataset_size is None else found.dataset_size
    if expected is None:
        raise RemoteProtocolError(f"malformed response {body[:200]!r}: no dataset_size")
    messages = [_positive(record) for record in found.messages]
    return {"_id": found.id, "dataset_size": expected, "messages": messages}


def read_streams(body: bytes) -> list[StreamDocument]:
    return _streams(body).streams


def read_sources(body: bytes) -> list[str]:
    return _sources(body).sources


def read_size(body: bytes) -> int:
    return _size(body).size


def read_file_size(body: bytes) -> int:
    return _file_size(body).file_size


def read_nacks(body: bytes) -> list[int]:
    return _unacknowledged(body).unacknowledged


def read_last_ack(body: bytes) -> int:
    return _last_ack(body).lastAckId


def read_version(body: bytes) -> dict[str, Any]:
    return _version(body)
