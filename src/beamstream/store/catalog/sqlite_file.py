"""One beamtime's database: its connections, its write-ahead log, and what a failing disk means."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from beamstream.errors import Corrupt, Error, NoSpace, NotFound, ReadOnly, StorageError
from beamstream.limits import MIB
from beamstream.store.catalog.sqlite_schema import APPLICATION_ID, migrate

PAGE_NBYTES: Final = 4096
_FRAME_NBYTES: Final = PAGE_NBYTES + 24
PASSIVE: Final = apsw.SQLITE_CHECKPOINT_PASSIVE
RESTART: Final = apsw.SQLITE_CHECKPOINT_RESTART
TRUNCATE: Final = apsw.SQLITE_CHECKPOINT_TRUNCATE

_BUSY_MS: Final = 5000
_RESTART_BUSY_MS: Final = 50
_IDLE_READERS_MAX: Final = 4
_READER_CACHE_KIB: Final = 1024
# What is kept of a log that had grown: overwriting it is cheaper to sync than appending.
WAL_KEPT_NBYTES: Final = 64 * MIB


class BeamtimeFile:
    """``<beamtime>.db`` with its write-ahead log.

    `writer` belongs to whoever applies. `reader()` may be used by any thread, and so may `sync`
    and `checkpoint`, at any time.

    Raises
    ------
    StoreTooNew, Corrupt, NoSpace, StorageError : the file cannot be used; it is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed: Error | None = None
        self._log_pages = 0
        self._idle: deque[apsw.Connection] = deque()
        self._closed = False
        self._descriptors = threading.Lock()
        self._checkpointing = threading.Lock()
        self._checkpointer: apsw.Connection | None = None
        with self.translated():
            self.writer = self._open_writer()
            self._log = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
        try:
            # What an earlier process left in the log is visible from now on, so it must be safe;
            # and a new file is nothing without its entry in the folder.
            self.sync()
            sync_folder(path.parent)
        except BaseException:
            self._close_all()
            raise

    # --------------------------------------------------------------------- connections

    def _open_writer(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        try:
            connection.pragma("page_size", PAGE_NBYTES)
            if connection.pragma("journal_mode", "wal") != "wal":
                raise StorageError(f"{self.path} cannot have a write-ahead log on this file system")
            connection.pragma("journal_size_limit", WAL_KEPT_NBYTES)
            self._set_up(connection)
            connection.pragma("synchronous", "normal")
            migrate(connection, str(self.path))
            connection.set_wal_hook(self._committed)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_other(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), flags)
        self._set_up(connection)
        connection.pragma("cache_size", -_READER_CACHE_KIB)
        return connection

    def _set_up(self, connection: apsw.Connection) -> None:
        connection.set_busy_timeout(_BUSY_MS)
        connection.pragma("mmap_size", 0)
        connection.pragma("wal_autocheckpoint", 0)
        connection.pragma("foreign_keys", False)
        connection.pragma("cell_size_check", True)
        # Else SQLite plans a statement anew whenever other values are bound: 10 µs for each read.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        # Closing must not write pages of a log whose sync has failed into the database: the
        # checkpoint at the end is our own, and only if all is well.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return 0

    @contextmanager
    def reader(self) -> Iterator[apsw.Connection]:
        """A connection for reading, for this thread alone until the block ends."""
        try:
            connection = self._idle.pop()
        except IndexError:
            with self.translated():
                connection = self._open_other(apsw.SQLITE_OPEN_READONLY)
        try:
            yield connection
        except apsw.Error as error:
            raise translate(error, self.path) from error
        finally:
            if self._closed or len(self._idle) >= _IDLE_READERS_MAX:
                connection.close()
            else:
                self._idle.append(connection)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Errors of SQLite and of the system as ours."""
        try:
            yield
        except (apsw.Error, OSError) as error:
            if isinstance(error, Error):
                raise
            raise translate(error, self.path) from error

    # ------------------------------------------------------------------------ the disk

    def sync(self) -> None:
        """Return when all that was committed before this call is on disk.

        Raises `ReadOnly` once it has failed, and for ever after: the kernel reports a lost page to
        one sync only, and a second one that succeeds says nothing about it.
        """
        if self.failed is not None:
            raise self.failed
        # A descriptor of its own, so that closing the file under a running sync does no harm. It
        # shares the place where the kernel remembers errors.
        with self._descriptors:
            if self._closed:
                return  # Closing has synced.
            log = os.dup(self._log)
        try:
            os.fdatasync(log)
        except OSError as error:
            raise self.fail(error) from error
        finally:
            os.close(log)
        if self.failed is not None:
            raise self.failed

    def fail(self, error: Exception) -> Error:
        """Refuse all writes from now on."""
        if self.failed is None:
            self.failed = ReadOnly(
                f"the records of beamtime {self.path.stem!r} could not be written to disk: {error}",
                hint="look at the disk, then restart the node; reading goes on",
            )
        return self.failed

    @property
    def wal_nbytes(self) -> int:
        return self._log_pages * _FRAME_NBYTES

    def checkpoint(self, mode: int) -> bool:
        """Copy pages from the log into the database; whether all of it has been copied.

        `PASSIVE` may run while others write and read. For `RESTART` nobody may write: the next
        write begins the log anew. `TRUNCATE` leaves an empty one behind.
        """
        with self._checkpointing:
            if self.failed is not None or self._closed:
                return False
            try:
                if self._checkpointer is None:
                    self._checkpointer = self._open_other(apsw.SQLITE_OPEN_READWRITE)
                    self._checkpointer.pragma("synchronous", "normal")
                self._checkpointer.set_busy_timeout(0 if mode == PASSIVE else _RESTART_BUSY_MS)
                pages, copied = self._checkpointer.wal_checkpoint(mode=mode)
                if mode == RESTART and pages == copied:
                    # The first write into a log begun anew waits for a sync of its header: here,
                    # in place of the next `apply`.
                    self._checkpointer.pragma("application_id", APPLICATION_ID)
            except (apsw.BusyError, apsw.LockedError):
                return False
            except apsw.FullError as error:
                raise translate(error, self.path) from error
            except apsw.Error as error:
                # It syncs the log and the database: what it could not sync is not safe.
                raise self.fail(error) from error
            done = pages == copied
            if done and mode != PASSIVE:
                self._log_pages = 0
            return done

    def close(self) -> None:
        """Bring all to disk, empty the log, and close. Raises what went wrong, when it is closed.

        A connection in use by a reader is closed when that reader is ready.
        """
        try:
            if self.failed is None:
                self.sync()
                self.checkpoint(TRUNCATE)
        finally:
            self._close_all()

    def _close_all(self) -> None:
        with self._checkpointing:
            with self._descriptors:
                if self._closed:
                    return
                self._closed = True
                os.close(self._log)
            if self._checkpointer is not None:
                self._checkpointer.close()
            while self._idle:
                self._idle.pop().close()
            self.writer.close()


def translate(error: Exception, path: Path) -> Error:
    """An error of SQLite, or of the system, as one of ours."""
    what = f"catalog {path}: {error}"
    if isinstance(error, apsw.FullError):
        return NoSpace(what, hint="the disk is full; nothing of this was recorded")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.FormatError):
        return Corrupt(what, hint="restore it from a copy; payload files are not touched")
    if isinstance(error, apsw.CantOpenError) and not path.exists():
        return NotFound(what)
    return StorageError(what)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
