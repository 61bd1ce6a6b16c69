"""All operations on one beamtime, in transactions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from beamstream.store.catalog.interface import (
    Ack,
    AlreadyAcked,
    Claim,
    Conflicted,
    DefineRun,
    DeleteGroup,
    DeleteStream,
    Expire,
    Finish,
    Mark,
    Meta,
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
from beamstream.store.catalog.sqlite_documents import Documents
from beamstream.store.catalog.sqlite_file import BeamtimeFile, translate
from beamstream.store.catalog.sqlite_groups import Groups
from beamstream.store.catalog.sqlite_puts import Puts
from beamstream.store.catalog.sqlite_results import Results
from beamstream.store.catalog.sqlite_schema import STREAM_TABLES

_FAILURES = (Conflicted, Refused, AlreadyAcked)


class _UnitFailed(Exception):
    """A unit failed in a transaction without savepoints."""


class Writer:
    """The operations on one beamtime."""

    def __init__(self, file: BeamtimeFile) -> None:
        self.file = file
        self.lock = threading.Lock()
        self.closed = False
        self._careful = False
        self._db = file.writer
        self._groups = Groups(file.writer)
        self._streams = self._groups.streams
        documents = Documents(file.writer, self._streams)
        results = Results(file.writer, self._streams)
        puts = Puts(file.writer, self._streams, results)
        self._do: dict[type, Callable[[Any], Result]] = {
            Put: puts.put,
            PutMany: Batches(file.writer, self._streams, puts, results).put_many,
            Skip: self._streams.skip,
            Finish: self._streams.finish,
            Meta: documents.meta,
            DefineRun: documents.define_run,
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
        # Units hardly ever fail. So they are tried without savepoints, each of which would have
        # all that is in memory written first; if one fails, all is done again with them.
        try:
            return self._transaction(ops)
        except _UnitFailed:
            self._careful = True
            try:
                return self._transaction(ops)
            finally:
                self._careful = False

    def _transaction(self, ops: Sequence[Op]) -> list[Result]:
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

    def _write_back(self) -> None:
        self._streams.write_back()
        self._groups.write_back()

    def _forget(self) -> None:
        self._streams.forget()
        self._groups.forget()

    def _commit(self) -> None:
        self._write_back()
        self._db.execute("COMMIT")

    def _roll_back(self, error: BaseException) -> None:
        """Undo the transaction; raises the error of ours for one of SQLite's."""
        file = self.file
        self._forget()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, apsw.IOError):
            raise file.fail(error) from error
        if isinstance(error, apsw.Error):
            raise translate(error, file.path) from error

    def _unit(self, op: Unit) -> Result:
        if self._careful:
            # Everything in memory goes to the database first: then rolling back is forgetting.
            self._write_back()
            self._db.execute("SAVEPOINT unit")
        results = tuple([self._do[type(part)](part) for part in op.ops])
        failed = _failed(results)
        if self._careful:
            if failed:
                self._forget()
                self._db.execute("ROLLBACK TO unit")
            self._db.execute("RELEASE unit")
        elif failed:
            raise _UnitFailed
        return results

    def _expire(self, op: Expire) -> Result:
        self._streams.producers.expire(op.before_ns)
        return self._groups.expire(op)


def _failed(results: tuple[Result, ...]) -> bool:
    return any(
        _failed(result)
        if isinstance(result, tuple)
        else isinstance(result, _FAILURES)
        or (isinstance(result, StoredMany) and bool(result.failures))
        for result in results
    )
