"""A fresh reader looks at all that is there: by id, and once more as a group of its own."""

from __future__ import annotations

from collections.abc import Iterable

import beamstream as bs
from beamstream.store.files import digest_of
from beamstream.testing.checker import SeenRecord, Snapshot, walk
from beamstream.testing.node import NodeProcess

from . import told

_GROUP_S = 20.0


def read_back(node: NodeProcess, streams: Iterable[str]) -> Snapshot:
    """Every message with its payload, and every file of the beamtime."""
    snapshot = Snapshot(files=walk(node.data / "beamtimes" / told.BEAMTIME))
    token = node.token(told.BEAMTIME, "read,write")
    with bs.connect(node.endpoint, beamtime=told.BEAMTIME, token=token) as hub:
        for name in streams:
            stream = hub.source(told.SOURCE).stream(name)
            records = [_seen(message) for message in stream]
            assert len(records) == len(stream), f"{name}: {len(records)} of {len(stream)}"
            group = stream.group("", ack="none", mode="ordered", gaps="skip", timeout=_GROUP_S)
            read = [_seen(message) for message in group]
            assert group.end is not None
            assert group.end.reason == "finished", f"{name}: {group.end}"
            assert read == records, f"{name}: reading as a group and by id differ"
            snapshot.records += records
    return snapshot


def _seen(message: object) -> SeenRecord:
    assert isinstance(message, bs.Message), message
    digest, error = b"", ""
    try:
        digest = digest_of(message.data)
    except bs.errors.StorageError as failed:
        error = type(failed).__name__
    return SeenRecord(message.stream, message.id, message.size, message.meta, digest, error)
