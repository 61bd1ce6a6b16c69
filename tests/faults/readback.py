"""Read back all that a node has, as readers would, into a snapshot for the checker."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asapo_consumer

from beamstream.store.files import digest_of
from beamstream.testing.checker import SeenRecord, Snapshot, walk
from beamstream.testing.node import NodeProcess

from .actors import official_consumer
from .raw import BEAMTIME, RawConsumer, Target


def files_folder(node: NodeProcess) -> Path:
    return node.data / "beamtimes" / BEAMTIME


def read_back(node: NodeProcess, streams: Iterable[str]) -> Snapshot:
    """Every message of the streams by its id with its payload, and every file of the beamtime."""
    target = Target(node)
    snapshot = Snapshot(files=walk(files_folder(node)))
    consumer = official_consumer(target, 2000)
    with RawConsumer(target) as raw:
        for stream in streams:
            snapshot.records += _read_stream(consumer, raw, stream)
    return snapshot


def _read_stream(consumer: Any, raw: RawConsumer, stream: str) -> list[SeenRecord]:
    count = raw.size(stream)
    records: list[SeenRecord] = []
    status, answer = raw.by_id(stream, 2**62)
    assert status == 409, answer
    for id in range(1, int(answer["id_max"]) + 1):
        status, record = raw.by_id(stream, id)
        if status == 409:
            continue
        assert status == 200, record
        records.append(_read_payload(consumer, stream, record))
    # What the stream says it has beyond these is nothing that was sent.
    records += [SeenRecord(stream, 0, 0, None)] * (count - len(records))
    return records


def _read_payload(consumer: Any, stream: str, record: dict[str, Any]) -> SeenRecord:
    digest, error = b"", ""
    try:
        digest = digest_of(consumer.retrieve_data(record).tobytes())
    except asapo_consumer.AsapoDataNotInCacheError:
        error = "DataLost"
    except asapo_consumer.AsapoConsumerError as wrong:
        error = _code(str(wrong)) or f"{type(wrong).__name__}: {wrong}"
    return SeenRecord(stream, record["_id"], record["size"], record["meta"], digest, error)


def _code(text: str) -> str:
    """What the node said about a payload it could not give."""
    if "damaged" in text or "shorter than what was stored" in text:
        return "Corrupt"
    if "cannot be read" in text or "no such file" in text.lower():
        return "DataLost"
    return ""
