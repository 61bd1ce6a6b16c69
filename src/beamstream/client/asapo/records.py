"""ASAPO's documents as a client reads them: message records, datasets, streams, no-data answers."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from beamstream import limits
from beamstream.client.asapo.errors import EndReached, Finished, Missing
from beamstream.errors import EndOfStream, RemoteProtocolError
from beamstream.wire.asapo.bodies import NO_NEXT
from beamstream.wire.asapo.reading import read_no_data

T = TypeVar("T")


class Message(msgspec.Struct, rename={"id": "_id"}, kw_only=True):
    """A message: its record, and its payload if that was asked for.

    Parameters
    ----------
    id : within its stream (of the dataset, for a part of one).
    time_id : number of its arrival within the stream.
    size : nbytes of the payload.
    name : path as the producer gave it.
    timestamp_ns : ingestion, nanoseconds since 1970 UTC.
    meta : user metadata.
    substream : 0 for a single message, 1 … for a part of a dataset.
    mode : ingest mode; 0 when the server does not tell.
    source, buf_id : where the payload can be had, for as long as it is in the server's memory.
    data : the payload; None when it was not asked for or there is none.
    """

    id: int
    size: int
    name: str
    timestamp_ns: int = msgspec.field(name="timestamp")
    meta: dict[str, Any]
    substream: int = msgspec.field(name="dataset_substream")
    source: str
    buf_id: int
    time_id: int = 0
    stream: str = ""
    mode: int = msgspec.field(name="ingest_mode", default=0)
    data: memoryview | None = msgspec.field(name="·data·", default=None)

    def __repr__(self) -> str:
        return f"<Message {self.id} of {self.stream!r}: {self.name!r}, {self.size} bytes>"


class Dataset(msgspec.Struct, rename={"id": "_id", "parts": "messages"}, kw_only=True):
    """Messages of one id from several substreams; `expected` of them make it complete."""

    id: int
    expected: int = msgspec.field(name="dataset_size")
    parts: list[Message] = []

    @property
    def complete(self) -> bool:
        return len(self.parts) >= self.expected


class Stream(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of a stream. Times in nanoseconds since 1970 UTC."""

    name: str
    last_id: int
    created_ns: int = msgspec.field(name="timestampCreated")
    last_ns: int = msgspec.field(name="timestampLast")
    finished: bool
    next_stream: str


class _Streams(msgspec.Struct):
    streams: list[Stream]


class _Protocol(msgspec.Struct):
    info: str = msgspec.field(name="versionInfo")


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself: `software`, and whether it `supports` this protocol."""

    software: str = msgspec.field(name="softwareVersion")
    protocol: _Protocol = msgspec.field(name="clientProtocol")
    supported: str = msgspec.field(name="clientSupported")

    @property
    def supports(self) -> bool:
        return self.supported == "yes"


_MESSAGE: Final = msgspec.json.Decoder(Message)
_MESSAGES: Final = msgspec.json.Decoder(list[Message])
_DATASET: Final = msgspec.json.Decoder(Dataset)


def read_message(body: bytes) -> Message:
    """Read one record. Raises `RemoteProtocolError`, like all functions of this module."""
    return _checked(_decode(_MESSAGE, body))


def read_messages(body: bytes) -> list[Message]:
    return [_checked(message) for message in _decode(_MESSAGES, body)]


def read_dataset(body: bytes) -> Dataset:
    dataset = _decode(_DATASET, body)
    if len(dataset.parts) > limits.DATASET_SIZE_MAX:
        raise RemoteProtocolError(f"the server answers with {len(dataset.parts)} parts")
    for part in dataset.parts:
        _checked(part)
    return dataset


def read_streams(body: bytes) -> list[Stream]:
    return _read(_Streams, body).streams


def read_version(body: bytes) -> Version:
    return _read(Version, body)


def read_object(body: bytes) -> dict[str, Any]:
    return _read(dict[str, Any], body)


def no_data_error(body: bytes, what: str) -> EndOfStream | Missing | None:
    """Return the error that an answer of status 409 stands for; None if it is no such answer.

    >>> no_data_error(b'{"op":"get_record_by_id","id":3,"id_max":3,"next_stream":""}', "scan1")
    EndReached('scan1: nothing after id 3')
    """
    if b"get_record_by_id" not in body:
        return None
    found = read_no_data(body)
    if found.id < found.id_max:
        return Missing(
            f"{what}: message {found.id} is not there, the largest id is {found.id_max}",
            id=found.id,
            id_max=found.id_max,
        )
    if found.next_stream:
        following = "" if found.next_stream == NO_NEXT else found.next_stream
        return Finished(
            f"{what}: finished, the last id is {found.id_max}",
            id_max=found.id_max,
            next_stream=following,
        )
    return EndReached(f"{what}: nothing after id {found.id_max}", id_max=found.id_max)


def _read(kind: type[T], body: bytes) -> T:
    return _decode(msgspec.json.Decoder(kind), body)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(
            f"the server's answer is not what belongs here ({error}): {body[:200]!r}"
        ) from None


def _checked(message: Message) -> Message:
    if not 0 <= message.size < 2**64 or not -(2**63) <= message.buf_id < 2**64:
        raise RemoteProtocolError(
            f"the server's record of message {message.id} has size {message.size} "
            f"and buf_id {message.buf_id}"
        )
    message.data = None
    return message
