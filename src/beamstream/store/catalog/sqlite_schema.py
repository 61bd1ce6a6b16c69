"""Tables of one beamtime's file, and how older files become current ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw

from beamstream.errors import Corrupt, StoreTooNew

# "beam" in ASCII: `file` and a careful opener can tell these databases from others.
APPLICATION_ID: Final = 0x6265616D

_FIRST: Final = """
CREATE TABLE stream (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    name TEXT NOT NULL,
    dead INTEGER NOT NULL DEFAULT 0,
    last_seq INTEGER NOT NULL DEFAULT 0,
    ready_seq INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    max_id INTEGER NOT NULL DEFAULT 0,
    created_ns INTEGER NOT NULL DEFAULT 0,
    last_ns INTEGER NOT NULL DEFAULT 0,
    last_id INTEGER NOT NULL DEFAULT -1,
    next_stream TEXT NOT NULL DEFAULT '',
    datasets INTEGER NOT NULL DEFAULT 0,
    in_order INTEGER NOT NULL DEFAULT 1,
    persistent INTEGER NOT NULL DEFAULT 0,
    top_id INTEGER NOT NULL DEFAULT 0,
    UNIQUE (source, name, dead)
);
CREATE TABLE message (
    stream_no INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id INTEGER NOT NULL,
    substream INTEGER NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL,
    meta BLOB NOT NULL,
    timestamp_ns INTEGER NOT NULL,
    arrived_ns INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    level INTEGER NOT NULL,
    place INTEGER NOT NULL,
    root INTEGER NOT NULL,
    node INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    run INTEGER NOT NULL,
    input_source TEXT,
    input_stream TEXT,
    input_seq INTEGER,
    result_k INTEGER
);
CREATE UNIQUE INDEX message_seq ON message (stream_no, seq, substream);
CREATE UNIQUE INDEX message_id ON message (stream_no, id, substream);
CREATE INDEX message_file ON message (name) WHERE place = 2;
CREATE TABLE dataset (
    stream_no INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id INTEGER NOT NULL,
    expected INTEGER NOT NULL,
    present INTEGER NOT NULL,
    ready_seq INTEGER NOT NULL,
    PRIMARY KEY (stream_no, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX dataset_id ON dataset (stream_no, id);
CREATE INDEX dataset_ready ON dataset (stream_no, id) WHERE ready_seq > 0;
CREATE TABLE skip (
    stream_no INTEGER NOT NULL,
    lo INTEGER NOT NULL,
    last INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (stream_no, lo)
) WITHOUT ROWID;
CREATE TABLE meta (
    source TEXT NOT NULL,
    stream TEXT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (source, stream)
) WITHOUT ROWID;
CREATE TABLE reader_group (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    last_used_ns INTEGER NOT NULL
);
CREATE TABLE group_stream (
    stream_no INTEGER NOT NULL,
    group_no INTEGER NOT NULL,
    id_position INTEGER NOT NULL,
    PRIMARY KEY (stream_no, group_no)
) WITHOUT ROWID;
CREATE INDEX group_stream_group ON group_stream (group_no);
CREATE TABLE group_range (
    stream_no INTEGER NOT NULL,
    group_no INTEGER NOT NULL,
    lo INTEGER NOT NULL,
    hi INTEGER NOT NULL,
    state INTEGER NOT NULL,
    PRIMARY KEY (stream_no, group_no, lo)
) WITHOUT ROWID;
CREATE TABLE group_claim (
    stream_no INTEGER NOT NULL,
    group_no INTEGER NOT NULL,
    lo INTEGER NOT NULL,
    hi INTEGER NOT NULL,
    owner TEXT NOT NULL,
    until_ns INTEGER NOT NULL,
    PRIMARY KEY (stream_no, group_no, lo)
) WITHOUT ROWID;
CREATE INDEX group_claim_owner ON group_claim (owner);
CREATE TABLE early_ack (
    stream_no INTEGER NOT NULL,
    group_no INTEGER NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (stream_no, group_no, id)
) WITHOUT ROWID;
CREATE INDEX early_ack_id ON early_ack (stream_no, id);
CREATE TABLE delivery_count (
    stream_no INTEGER NOT NULL,
    group_no INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (stream_no, group_no, seq)
) WITHOUT ROWID;
"""

# Columns with a constant default cost nothing, however many rows there are.
_SECOND: Final = """
ALTER TABLE message ADD COLUMN segment INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN position INTEGER NOT NULL DEFAULT 0;
ALTER TABLE message ADD COLUMN info BLOB NOT NULL DEFAULT x'';
CREATE TABLE producer_run (
    stream_no INTEGER NOT NULL,
    producer BLOB NOT NULL,
    lo INTEGER NOT NULL,
    hi INTEGER NOT NULL,
    id INTEGER NOT NULL,
    used_ns INTEGER NOT NULL,
    PRIMARY KEY (stream_no, producer, lo)
) WITHOUT ROWID;
"""

# Existing metadata become the first of their versions. What is no result is not in the index.
_THIRD: Final = """
ALTER TABLE message ADD COLUMN span BLOB NOT NULL DEFAULT x'';
CREATE INDEX message_result ON message (stream_no, input_seq, result_k)
    WHERE result_k IS NOT NULL;
CREATE TABLE run (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    document BLOB NOT NULL,
    created_ns INTEGER NOT NULL
);
ALTER TABLE meta ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE meta ADD COLUMN changed_ns INTEGER NOT NULL DEFAULT 0;
CREATE TABLE meta_version (
    source TEXT NOT NULL,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    document BLOB NOT NULL,
    changed_ns INTEGER NOT NULL,
    PRIMARY KEY (source, stream, version)
) WITHOUT ROWID;
"""


def _create(connection: apsw.Connection) -> None:
    connection.execute(_FIRST)
    connection.pragma("application_id", APPLICATION_ID)


def _add_segments_and_producers(connection: apsw.Connection) -> None:
    connection.execute(_SECOND)


def _add_results_runs_and_versions(connection: apsw.Connection) -> None:
    connection.execute(_THIRD)


Migration = Callable[[apsw.Connection], None]

MIGRATIONS: Final[tuple[Migration, ...]] = (
    _create,
    _add_segments_and_producers,
    _add_results_runs_and_versions,
)
"""The n-th function turns a file of version n into one of version n + 1; only ever appended to."""

VERSION: Final = len(MIGRATIONS)

STREAM_TABLES: Final = (
    ("message", "seq"),
    ("dataset", "seq"),
    ("skip", "lo"),
    ("group_range", "group_no, lo"),
    ("group_claim", "group_no, lo"),
    ("early_ack", "group_no, id"),
    ("delivery_count", "group_no, seq"),
    ("group_stream", "group_no"),
    ("producer_run", "producer, lo"),
)
"""Tables whose rows belong to a stream by `stream_no`, and the rest of their keys."""


def migrate(connection: apsw.Connection, name: str) -> None:
    """Bring the file behind `connection` to `VERSION`, in one transaction.

    Raises
    ------
    StoreTooNew : a newer version of Beamstream has written it; it is left as it is.
    Corrupt : it is a database, but none of ours.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.pragma("user_version"))
        if version > VERSION:
            raise StoreTooNew(
                f"{name} was written by a newer Beamstream (format {version}, this one knows "
                f"{VERSION})",
                hint="start the newer version again; nothing was changed",
            )
        foreign = connection.execute("SELECT count(*) FROM sqlite_schema").get
        if version == 0 and foreign:
            raise Corrupt(f"{name} is a database of some other program; nothing was changed")
        if version and connection.pragma("application_id") != APPLICATION_ID:
            raise Corrupt(f"{name} is a database of some other program; nothing was changed")
        for step in MIGRATIONS[version:]:
            step(connection)
        if version != VERSION:
            connection.pragma("user_version", VERSION)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
