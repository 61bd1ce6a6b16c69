"""JSON documents that ASAPO's services answer, as bytes.

Protocol sections 3, 6.3 to 6.7 and 8. Every key that any official client needs is always there:
also `size` beside `dataset_size`, so that clients of both generations are served. How a client
reads them (`reading`) and what it sends (`bodies`) can be had from here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from beamstream._version import __version__
from beamstream.model import NO_META, Dataset, Record, StreamInfo
from beamstream.wire.asapo.bodies import (
    FINISH_NAME,
    NO_NEXT,
    AckRequest,
    DeleteRequest,
    FolderRequest,
    TransferRequest,
    ack_request,
    delete_flags,
    delete_request,
    finish_meta,
    folder_request,
    meta_mode,
    meta_target,
    nack_request,
    parse_ack_request,
    parse_delete_request,
    parse_finish_meta,
    parse_folder_request,
    parse_introspect_request,
    parse_transfer_request,
    transfer_request,
)
from beamstream.wire.asapo.reading import (
    DatasetDocument,
    MessageDocument,
    NoData,
    Receivers,
    StreamDocument,
    read_dataset,
    read_file_size,
    read_last_ack,
    read_nacks,
    read_no_data,
    read_receivers,
    read_record,
    read_records,
    read_size,
    read_sources,
    read_streams,
    read_version,
)
from beamstream.wire.asapo.routes import SUPPORTED_PROTOCOLS

__all__ = [
    "FINISH_NAME",
    "NO_NEXT",
    "AckRequest",
    "DatasetDocument",
    "DeleteRequest",
    "FolderRequest",
    "MessageDocument",
    "NoData",
    "Receivers",
    "StreamDocument",
    "TransferRequest",
    "ack_request",
    "dataset_record",
    "delete_flags",
    "delete_request",
    "file_size",
    "finish_meta",
    "folder_request",
    "last_ack",
    "message_record",
    "meta_mode",
    "meta_target",
    "nack_request",
    "nacks",
    "no_data",
    "parse_ack_request",
    "parse_delete_request",
    "parse_finish_meta",
    "parse_folder_request",
    "parse_introspect_request",
    "parse_transfer_request",
    "read_dataset",
    "read_file_size",
    "read_last_ack",
    "read_nacks",
    "read_no_data",
    "read_receivers",
    "read_record",
    "read_records",
    "read_size",
    "read_sources",
    "read_streams",
    "read_version",
    "receivers",
    "record_list",
    "size",
    "source_list",
    "stream_document",
    "stream_list",
    "transfer_request",
    "version",
]

_encoder: Final = msgspec.json.Encoder()
_encode: Final = _encoder.encode

Addresses = Callable[[Record], int]
"""Gives the `buf_id` of a record's payload, 0 when it is not in memory."""


# ------------------------------------------------------------------------------- records


class _Message(msgspec.Struct, gc=False, rename={"id": "_id"}):
    id: int
    time_id: int
    size: int
    name: str
    timestamp: int
    source: str
    ib_source: str
    buf_id: int
    stream: str
    dataset_substream: int
    ingest_mode: int
    meta: msgspec.Raw


class _Dataset(msgspec.Struct, gc=False, rename={"id": "_id"}):
    id: int
    time_id: int
    size: int
    dataset_size: int
    timestamp: int
    messages: list[_Message]


_NO_META: Final = msgspec.Raw(NO_META)


def _message(record: Record, stream: str, source: str, buf_id: int) -> _Message:
    return _Message(
        record.id,
        record.seq,
        record.size,
        record.name,
        record.timestamp_ns,
        source,
        "",
        buf_id,
        stream,
        record.substream,
        record.mode,
        msgspec.Raw(record.meta) if record.meta else _NO_META,
    )


def message_record(record: Record, stream: str, source: str, buf_id: int) -> bytes:
    """Return the document of one message.

    Parameters
    ----------
    source : ``host:port`` of the data server that has the payload.
    buf_id : address of the payload there, 0 when it is not in memory.
    """
    return _encode(_message(record, stream, source, buf_id))


def dataset_record(dataset: Dataset, stream: str, addresses: Addresses, source: str) -> bytes:
    """Return the document of a dataset with the parts it has."""
    parts = dataset.parts
    return _encode(
        _Dataset(
            dataset.id,
            dataset.seq,
            dataset.expected,
            dataset.expected,
            min((part.timestamp_ns for part in parts), default=0),
            [_message(part, stream, source, addresses(part)) for part in parts],
        )
    )


def record_list(records: Iterable[Record], stream: str, addresses: Addresses, source: str) -> bytes:
    """Return the answer to a search: an array of messages."""
    return _encode([_message(record, stream, source, addresses(record)) for record in records])


def no_data(id: int, id_max: int, next_stream: str) -> bytes:  # noqa: A002
    """Return the body of a 409: `id` is asked for or reached, `id_max` the largest there is.

    >>> no_data(1, 1, "nx")
    b'{"op":"get_record_by_id","id":1,"id_max":1,"next_stream":"nx"}'
    """
    return b'{"op":"get_record_by_id","id":%d,"id_max":%d,"next_stream":%b}' % (
        id,
        id_max,
        _encode(next_stream),
    )


# ------------------------------------------------------------------ streams and numbers


def _stream(info: StreamInfo) -> dict[str, Any]:
    return {
        "lastId": info.last_id if info.finished else info.max_id,
        "name": info.name,
        "timestampCreated": info.created_ns,
        "timestampLast": info.last_ns,
        "finished": info.finished,
        "nextStream": info.next_stream,
    }


def stream_document(info: StreamInfo) -> bytes:
    """Return what is known of one stream; all six keys are needed by the clients.

    >>> stream_document(StreamInfo(1, "src1", "s1", max_id=7))[:24]
    b'{"lastId":7,"name":"s1",'
    """
    return _encode(_stream(info))


def stream_list(infos: Iterable[StreamInfo]) -> bytes:
    return _encode({"streams": [_stream(info) for info in infos]})


def source_list(sources: Iterable[str]) -> bytes:
    return _encode({"sources": list(sources)})


def size(count: int) -> bytes:
    return b'{"size":%d}' % count


def nacks(ids: Iterable[int]) -> bytes:
    return _encode({"unacknowledged": list(ids)})


def last_ack(id: int) -> bytes:  # noqa: A002
    """Return the answer to `lastack`; 0 for none."""
    return b'{"lastAckId":%d}' % id


def file_size(nbytes: int) -> bytes:
    return b'{"file_size":%d}' % nbytes


# ----------------------------------------------------------------------------- discovery


def introspection(subject: str, access: Sequence[str]) -> bytes:
    """Return what a token is for and what it allows."""
    return _encode({"Sub": subject, "AccessTypes": list(access)})


def receivers(max_connections: int, uris: Sequence[str]) -> bytes:
    """Return the list of receivers; a producer hangs if it may open no connection.

    >>> receivers(32, ["127.0.0.1:8401"])
    b'{"MaxConnections":32,"Uris":["127.0.0.1:8401"]}'
    """
    return _encode({"MaxConnections": max_connections, "Uris": list(uris)})


def _services(client: str, protocol: str) -> dict[str, str]:
    if client == "producer":
        return {"Discovery": "v0.1", "Receiver": protocol}
    return {
        "Authorizer": "v0.2",
        "Broker": protocol,
        "Data cache service": "v0.1",
        "Discovery": "v0.1",
        "File Transfer": "v0.2",
    }


def version(client: str, protocol: str) -> bytes:
    """Return what discovery says to a `client` ("consumer", "producer") of `protocol`.

    Without a known client it tells the software's version only, as the original does.
    """
    known = client in ("consumer", "producer")
    current = [
        {"versionInfo": f"{name} (current)", "microservicesApi": _services(client, name)}
        for name in SUPPORTED_PROTOCOLS
    ]
    supported = known and protocol in SUPPORTED_PROTOCOLS
    if supported:
        own: dict[str, Any] = current[SUPPORTED_PROTOCOLS.index(protocol)]
    else:
        text = f"{protocol} (unknown protocol)" if known and protocol else ""
        own = {"versionInfo": text, "microservicesApi": None}
    return _encode(
        {
            "softwareVersion": f"Beamstream {__version__}",
            "clientProtocol": own,
            "clientSupported": ("yes" if supported else "no") if known and protocol else "",
            "supportedProtocols": current if known else None,
        }
    )
