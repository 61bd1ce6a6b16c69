"""Read back all that a node has, as readers would, into a snapshot for the checker."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from beamstream.testing.checker import SeenRecord, Snapshot, walk
from beamstream.testing.node import NodeProcess

from .official import Official
from .raw import BEAMTIME, RawConsumer, Target


def files_folder(node: NodeProcess) -> Path:
    return node.data / "beamtimes" / BEAMTIME


def read_back(node: NodeProcess, streams: Iterable[str]) -> Snapshot:
    """Every message of the streams by its id with its payload, and every file of the beamtime."""
    target = Target(node)
    snapshot = Snapshot(files=walk(files_folder(node)))
    with RawConsumer(target) as raw, Official("consumer", target, 2000) as consumer:
        for stream in streams:
            snapshot.records += _read_stream(consumer, raw, stream)
    return snapshot


def _read_stream(consumer: Official, raw: RawConsumer, stream: str) -> list[SeenRecord]:
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


def _read_payload(consumer: Official, stream: str, record: dict[str, Any]) -> SeenRecord:
    answer = consumer(do="read", record=record)
    digest, error = bytes.fromhex(answer.get("digest", "")), answer.get("error", "")
    if error == "AsapoDataNotInCacheError":
        error = "DataLost"
    elif error:
        error = _code(answer["text"]) or f"{error}: {answer['text']}"
    return SeenRecord(stream, record["_id"], record["size"], record["meta"], digest, error)


def _code(text: str) -> str:
    """What the node said about a payload it could not give."""
    if "damaged" in text or "shorter than what was stored" in text:
        return "Corrupt"
    if "cannot be read" in text or "no such file" in text.lower():
        return "DataLost"
    return ""
