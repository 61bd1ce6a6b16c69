"""Records, datasets and streams as the dicts that programs of ASAPO know."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from beamstream.client.asapo.records import Dataset, Message, Stream
from beamstream.errors import BadInput

_UNKNOWN_STREAM: Final = "unknownStream"
_NEEDED: Final = (
    "_id", "size", "name", "timestamp", "source", "buf_id", "dataset_substream", "meta",
)  # fmt: skip
_OPTIONAL: Final = ("stream", "ingest_mode")


def record_dict(message: Message) -> dict[str, Any]:
    """Return a record with all its keys. As in the official module, `time_id` is always 0."""
    return {
        "_id": message.id,
        "time_id": 0,
        "size": message.size,
        "name": message.name,
        "timestamp": message.timestamp_ns,
        "source": message.source,
        "ib_source": "",
        "buf_id": message.buf_id & (2**64 - 1),
        "stream": message.stream or _UNKNOWN_STREAM,
        "dataset_substream": message.substream,
        "ingest_mode": message.mode,
        "meta": message.meta,
    }


def dataset_dict(dataset: Dataset) -> dict[str, Any]:
    """Return a dataset with the records of its parts."""
    return {
        "id": dataset.id,
        "expected_size": dataset.expected,
        "content": [record_dict(part) for part in dataset.parts],
    }


def stream_dict(stream: Stream | None) -> dict[str, Any]:
    """Return what is known of a stream; of one that does not exist nothing.

    >>> stream_dict(None)["lastId"]
    0
    """
    if stream is None:
        stream = Stream(name="", last_id=0, created_ns=0, last_ns=0, finished=False, next_stream="")
    return {
        "lastId": stream.last_id,
        "name": stream.name,
        "timestampCreated": stream.created_ns,
        "timestampLast": stream.last_ns,
        "finished": stream.finished,
        "nextStream": stream.next_stream,
    }


def read_record(record: Any) -> Message:
    """Return the message that `record`, a dict from a consumer, stands for.

    Raises
    ------
    BadInput : a key is missing or has a value of another type.
    """
    try:
        known = {key: record[key] for key in _NEEDED}
        known |= {key: record[key] for key in _OPTIONAL if key in record}
        message = msgspec.convert(known, Message)
    except (TypeError, KeyError, IndexError, msgspec.ValidationError) as error:
        raise BadInput(f"wrong metadata: {error}", hint="hand over a consumer's record") from None
    if message.size < 0 or not -(2**63) <= message.buf_id < 2**64:
        raise BadInput(f"wrong metadata: size {message.size}, buf_id {message.buf_id}")
    return message
