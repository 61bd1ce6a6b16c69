"""What is a JSON document in a beamtime's file: metadata with its versions, and runs."""

from __future__ import annotations

from typing import Any

import apsw

from beamstream.errors import BadMetadata, Conflict, NotFound, TooLarge
from beamstream.limits import HEADER_VERSIONS_MAX, ID_MAX, RUN_NBYTES_MAX, STREAM_META_NBYTES_MAX
from beamstream.model import Header, Run
from beamstream.store.catalog.documents import fingerprint, merged, same_json
from beamstream.store.catalog.interface import (
    DefineRun,
    Done,
    Meta,
    MetaMode,
    Refused,
    Result,
)
from beamstream.store.catalog.sqlite_streams import Streams

_NEWEST = "SELECT version, document, changed_ns FROM meta WHERE source = ? AND stream = ?"
_EARLIER = (
    "SELECT version, document, changed_ns FROM meta_version "
    "WHERE source = ? AND stream = ? AND version = ?"
)
_KEEP = (
    "INSERT INTO meta_version (source, stream, version, document, changed_ns) "
    "SELECT source, stream, version, document, changed_ns FROM meta "
    "WHERE source = ? AND stream = ?"
)
_LET_GO = "DELETE FROM meta_version WHERE source = ? AND stream = ? AND version <= ?"
_WRITE = (
    "INSERT OR REPLACE INTO meta (source, stream, version, document, changed_ns) "
    "VALUES (?, ?, ?, ?, ?)"
)


class Documents:
    """Metadata and runs of one beamtime, as the transaction that is open sees them."""

    def __init__(self, connection: apsw.Connection, streams: Streams) -> None:
        self._db = connection
        self._streams = streams

    def meta(self, op: Meta) -> Result:
        key = (op.source, op.stream)
        found: Any = self._db.execute(_NEWEST, key).fetchone()
        of = f"stream {op.stream!r}" if op.stream else "the beamtime"
        document = op.document
        if op.mode is MetaMode.INSERT:
            if found:
                return Refused(
                    Conflict(f"{of} of source {op.source!r} has metadata", hint="replace or update")
                )
        elif not found and not op.upsert:
            return Refused(NotFound(f"{of} of source {op.source!r} has no metadata to change"))
        elif found and op.mode is MetaMode.UPDATE:
            try:
                document = merged(found[1], document)
            except BadMetadata as error:
                return Refused(error)
        if len(document) > STREAM_META_NBYTES_MAX:
            return Refused(
                TooLarge(
                    f"metadata of {of} would have {len(document)} bytes, "
                    f"{STREAM_META_NBYTES_MAX} are allowed"
                )
            )
        if not found or not same_json(found[1], document):
            version = found[0] + 1 if found else 1
            if found:
                self._db.execute(_KEEP, key)
                self._db.execute(_LET_GO, (*key, version - HEADER_VERSIONS_MAX))
            self._db.execute(_WRITE, (*key, version, document, op.changed_ns))
        row = self._streams.find(*key) if op.stream else None
        return Done(row.info if row else None)

    def define_run(self, op: DefineRun) -> Result:
        if len(op.document) > RUN_NBYTES_MAX:
            return Refused(
                TooLarge(
                    f"the document of a run has {len(op.document)} bytes, "
                    f"{RUN_NBYTES_MAX} are allowed"
                )
            )
        try:
            digest = fingerprint(op.document)
        except BadMetadata as error:
            return Refused(error)
        there: Any = self._db.execute(
            "SELECT no, document, created_ns FROM run WHERE digest = ?", (digest,)
        ).fetchone()
        if there is None:
            there = self._db.execute(
                "INSERT INTO run (digest, document, created_ns) VALUES (?, ?, ?) "
                "RETURNING no, document, created_ns",
                (digest, op.document, op.created_ns),
            ).fetchone()
        return Run(*there)


# ------------------------------------------------------------------------------- reads


def meta(db: apsw.Connection, source: str, name: str) -> bytes | None:
    row = db.execute(
        "SELECT document FROM meta WHERE source = ? AND stream = ?", (source, name)
    ).fetchone()
    return None if row is None else row[0]


def header(db: apsw.Connection, source: str, name: str, version: int) -> Header | None:
    row: Any = db.execute(_NEWEST, (source, name)).fetchone()
    if row is not None and version not in (0, row[0]):
        row = db.execute(_EARLIER, (source, name, min(max(version, 0), ID_MAX))).fetchone()
    return None if row is None else Header(*row)


def run(db: apsw.Connection, no: int) -> Run | None:
    row: Any = db.execute(
        "SELECT no, document, created_ns FROM run WHERE no = ?", (min(max(no, 0), ID_MAX),)
    ).fetchone()
    return None if row is None else Run(*row)


def runs(db: apsw.Connection, before: int, limit: int) -> list[Run]:
    end = before if 0 < before <= ID_MAX else ID_MAX
    rows = db.execute(
        "SELECT no, document, created_ns FROM run WHERE no < ? ORDER BY no DESC LIMIT ?",
        (end, min(max(limit, 0), ID_MAX)),
    )
    return [Run(*row) for row in rows]
