"""All operations on one beamtime, in transactions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from beamstream.errors import BadMetadata, Conflict, NotFound, TooLarge
from beamstream.limits import STREAM_META_NBYTES_MAX
from beamstream.store.catalog.documents import merged
from beamstream.store.catalog.interface import (
    Ack,
    AlreadyAcked,
    Claim,
    Conflicted,
    DeleteGroup,
    DeleteStream,
    Done,
    Expire,
    Finish,
    Mark,
    Meta,
    MetaMode,
    Nack,
    Op,
    Persist,
    Put,
    PutMany,
    Refused,
    Release,
    Renew,
    Result,
    Seek,
    Skip,
    StoredMany,
    Unit,
)
from beamstream.store.catalog.sqlite_batches import Batches
from beamstream.store.catalog.sqlite_file import BeamtimeFile, translate
from beamstream.store.catalog.sqlite_groups import Groups
from beamstream.store.catalog.sqlite_puts import Puts
from beamstream.store.catalog.sqlite_schema import STREAM_TABLES

_FAILURES = (Conflicted, Refused, AlreadyAcked)


class Writer:
    """The operations on one beamtime."""

    def __init__(self, file: BeamtimeFile) -> None:
        self.file = file
        self.lock = threading.Lock()
        self.closed = False
        self._db = file.writer
        self._groups = Groups(file.writer)
        self._streams = self._groups.streams
        puts = Puts(file.writer, self._streams)
        self._do: dict[type, Callable[[Any], Result]] = {
            Put: puts.put,
            PutMany: Batches(file.writer, self._streams, puts).put_many,
            Skip: self._streams.skip,
            Finish: self._streams.finish,
            Meta: self._meta,
            Persist: self._streams.persist,
            DeleteStream: self._streams.delete,
            Claim: self._groups.claim,
            Renew: self._groups.renew,
            Release: self._groups.release,
            Mark: self._groups.mark,
            Ack: self._groups.ack,
            Nack: self._groups.nack,
            Seek: self._groups.seek,
            DeleteGroup: self._groups.delete,
            Expire: self._expire,
            Unit: self._unit,
        }

    def apply(self, ops: Sequence[Op]) -> list[Result]:
        do = self._do
        try:
            self._begin()
            results = [do[type(op)](op) for op in ops]
            self._commit()
        except BaseException as error:
            self._roll_back(error)
            raise
        return results

    def purge(self, limit: int) -> bool:
        """Remove up to some `limit` rows of deleted streams; whether there may be more."""
        try:
            self._begin()
            more = self._purge(limit)
            self._commit()
        except BaseException as error:
            self._roll_back(error)
            raise
        return more

    def _purge(self, limit: int) -> bool:
        dead = self._db.execute("SELECT no FROM stream WHERE dead LIMIT 1").fetchone()
        if dead is None:
            return False
        for table, order in STREAM_TABLES:
            self._db.execute(
                f"DELETE FROM {table} WHERE stream_no = ?1 AND ({order}) IN (SELECT {order} "  # noqa: S608
                f"FROM {table} WHERE stream_no = ?1 ORDER BY {order} LIMIT ?2)",
                (dead[0], limit),
            )
            limit -= self._db.changes()
            if limit <= 0:
                return True
        self._db.execute("DELETE FROM stream WHERE no = ?", dead)
        return True

    def _begin(self) -> None:
        if self.file.failed is not None:
            raise self.file.failed
        self._db.execute("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        self._streams.write_back()
        self._db.execute("COMMIT")

    def _roll_back(self, error: BaseException) -> None:
        """Undo the transaction; raises the error of ours for one of SQLite's."""
        file = self.file
        self._streams.forget()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, apsw.IOError):
            raise file.fail(error) from error
        if isinstance(error, apsw.Error):
            raise translate(error, file.path) from error

    def _unit(self, op: Unit) -> Result:
        # Everything in memory goes to the database first: then rolling back is forgetting.
        self._streams.write_back()
        self._db.execute("SAVEPOINT unit")
        results = tuple([self._do[type(part)](part) for part in op.ops])
        self._streams.write_back()
        if _failed(results):
            self._streams.forget()
            self._db.execute("ROLLBACK TO unit")
        self._db.execute("RELEASE unit")
        return results

    def _expire(self, op: Expire) -> Result:
        self._streams.producers.expire(op.before_ns)
        return self._groups.expire(op)

    def _meta(self, op: Meta) -> Result:
        found = self._db.execute(
            "SELECT document FROM meta WHERE source = ? AND stream = ?", (op.source, op.stream)
        ).fetchone()
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
                document = merged(found[0], document)
            except BadMetadata as error:
                return Refused(error)
        if len(document) > STREAM_META_NBYTES_MAX:
            return Refused(
                TooLarge(
                    f"metadata of {of} would have {len(document)} bytes, "
                    f"{STREAM_META_NBYTES_MAX} are allowed"
                )
            )
        self._db.execute(
            "INSERT OR REPLACE INTO meta (source, stream, document) VALUES (?, ?, ?)",
            (op.source, op.stream, document),
        )
        row = self._streams.find(op.source, op.stream) if op.stream else None
        return Done(row.info if row else None)


def _failed(results: tuple[Result, ...]) -> bool:
    return any(
        _failed(result)
        if isinstance(result, tuple)
        else isinstance(result, _FAILURES)
        or (isinstance(result, StoredMany) and bool(result.failures))
        for result in results
    )
