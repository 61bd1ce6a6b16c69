"""Group commit: what arrives together is recorded together, and answered at its level.

Operations that need no disk (levels `cache` and `os`: their transaction is in the kernel's hands
when `apply` returns) are applied on the event loop, all that one turn of it has collected in one
transaction. Operations that need the disk go to one thread, which syncs folders, applies, syncs
the log, and begins again with what has come meanwhile. Neither waits for a timer; the loop never
waits for a disk, and never for the thread: if that holds the catalog just now, the loop's batch
goes a moment later.

What has to be written before its record, but needs no file of its own (`Prepare`), is written by
that thread: all that has come meanwhile in one go.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from beamstream import limits
from beamstream.errors import Error, StorageError
from beamstream.store.catalog import Catalog, Expire, Op, Result
from beamstream.store.files import OpenFolder, sync_folders

log = structlog.get_logger("commits")

_TURNS_MAX = 8
"""Turns of the loop that a commit waits at most for more to come."""

Done = Callable[[Sequence[Result] | Error], None]
"""Called on the event loop with one result per operation, or with what prevented them all."""


class Batch:
    """Operations of one caller, with what must be synced before them.

    `syncs` is False for those that need the thread, but not the disk.
    """

    __slots__ = ("beamtime", "done", "folders", "ops", "outcome", "syncs")

    def __init__(
        self,
        beamtime: str,
        ops: Sequence[Op],
        done: Done,
        folders: Sequence[OpenFolder] = (),
        *,
        syncs: bool = True,
    ) -> None:
        self.beamtime = beamtime
        self.ops = ops
        self.done = done
        self.folders = folders
        self.syncs = syncs
        self.outcome: Sequence[Result] | Error = ()

    @property
    def failed(self) -> bool:
        return isinstance(self.outcome, Error)


class Prepared(Batch):
    """A batch whose operations are known only when its bytes have been written.

    Parameters
    ----------
    body : what is to be written.
    placed : called in the thread with (segment, position) of its first byte; the operations.
    """

    __slots__ = ("body", "placed")

    def __init__(
        self,
        beamtime: str,
        body: memoryview,
        placed: Callable[[int, int], Sequence[Op]],
        done: Done,
        *,
        syncs: bool,
    ) -> None:
        super().__init__(beamtime, (), done, syncs=syncs)
        self.body = body
        self.placed = placed


Prepare = Callable[[str, list[Prepared]], None]
"""In the thread: write what these batches of one beamtime need, synced if one of them `syncs`, and
give each its operations, or the error as its outcome."""


class Commits:
    """The one way into the catalog.

    Parameters
    ----------
    catalog : behind it.
    write_behind : returns operations of a beamtime that may go with any commit.
    prepare : writes what `submit_prepared` was given.
    """

    def __init__(
        self,
        catalog: Catalog,
        loop: asyncio.AbstractEventLoop,
        write_behind: Callable[[str], list[Op]],
        prepare: Prepare | None = None,
    ) -> None:
        self._prepare = prepare
        self._catalog = catalog
        self._loop = loop
        self._write_behind = write_behind
        self._lock = threading.Lock()
        self._blocked = False
        self._open: dict[str, list[Batch]] = {}
        self._scheduled = False
        self._turns = 0
        self._grows = False
        self._wanted = threading.Condition()
        self._synced: list[Batch] = []
        self._closing = False
        self._chores: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)
        self._thread.start()

    def submit(self, beamtime: str, ops: Sequence[Op], done: Done) -> None:
        """Apply with the next commit; `done` when a killed process would not lose it."""
        self._open.setdefault(beamtime, []).append(Batch(beamtime, ops, done, []))
        self._grows = True
        if not self._scheduled:
            self._scheduled = True
            self._turns = 0
            self._loop.call_soon(self._turn)

    def submit_synced(
        self, beamtime: str, ops: Sequence[Op], done: Done, folders: Iterable[OpenFolder] = ()
    ) -> None:
        """Sync folders, apply, sync the log; `done` when a power cut would not lose it.

        May be called from any thread.
        """
        self.submit_all_synced([Batch(beamtime, ops, done, list(folders))])

    def submit_all_synced(self, batches: Sequence[Batch]) -> None:
        """As `submit_synced`, for what several callers have at the same time."""
        with self._wanted:
            self._synced.extend(batches)
            self._wanted.notify()

    def submit_prepared(self, batch: Prepared) -> None:
        """Write the bytes of a batch, then apply it; `done` when it has its level."""
        self.submit_all_synced((batch,))

    def between(self, chore: Callable[[], object]) -> None:
        """Do something between two commits, in the thread; may be called from any thread."""
        with self._wanted:
            self._chores.append(chore)
            self._wanted.notify()

    def flush(self) -> None:
        """Apply what is waiting on the loop now."""
        with self._lock:
            batches = self._apply_open()
        _deliver(batches)

    def close(self) -> None:
        """Finish everything that was submitted; nothing may be submitted any more."""
        self.flush()
        with self._wanted:
            self._closing = True
            self._wanted.notify()
        self._thread.join()

    # ------------------------------------------------------------------ on the loop

    def _turn(self) -> None:
        """Commit, unless the last turn of the loop has brought more: then there may be still more.

        A transaction costs as much as some messages; on an idle loop a turn costs nothing.
        """
        self._turns += 1
        if self._grows and self._turns < _TURNS_MAX:
            self._grows = False
            self._loop.call_soon(self._turn)
        else:
            self._flush()

    def _flush(self) -> None:
        self._scheduled = False
        if not self._lock.acquire(blocking=False):
            # The thread calls again when it lets the catalog go.
            self._blocked = True
            if not self._lock.acquire(blocking=False):
                return
            self._blocked = False
        try:
            batches = self._apply_open()
        finally:
            self._lock.release()
        _deliver(batches)

    def _apply_open(self) -> list[Batch]:
        waiting, self._open = self._open, {}
        for beamtime, batches in waiting.items():
            self._apply(beamtime, batches, self._write_behind(beamtime))
        return [batch for batches in waiting.values() for batch in batches]

    def _apply(self, beamtime: str, batches: list[Batch], extra: Sequence[Op] = ()) -> None:
        ops = [op for batch in batches for op in batch.ops]
        ops.extend(extra)
        if not ops:
            return
        try:
            results = self._catalog.apply(beamtime, ops)
        except Exception as error:
            outcome = error if isinstance(error, Error) else _unexpected()
            for batch in batches:
                batch.outcome = outcome
            return
        if len(batches) == 1:
            batches[0].outcome = results[: len(batches[0].ops)]
            return
        start = 0
        for batch in batches:
            end = start + len(batch.ops)
            batch.outcome = results[start:end]
            start = end

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not (self._synced or self._chores or self._closing):
                    self._wanted.wait()
                batches, self._synced = self._synced, []
                chores, self._chores = self._chores, []
                if self._closing and not batches:
                    return
            if batches:
                self._commit_or_tell(batches)
            for chore in chores:
                self._do(chore)

    def _commit_or_tell(self, batches: list[Batch]) -> None:
        """Whatever goes wrong, everybody gets an answer and the thread lives on."""
        try:
            self._commit(batches)
        except Exception:
            outcome = _unexpected()
            for batch in batches:
                batch.outcome = outcome
            self._let_go()
            self._loop.call_soon_threadsafe(_deliver, batches)

    def _commit(self, batches: list[Batch]) -> None:
        good = self._write_prepared(self._sync_folders(batches))
        by_beamtime: dict[str, list[Batch]] = {}
        for batch in good:
            by_beamtime.setdefault(batch.beamtime, []).append(batch)
        with self._lock:
            for beamtime, group in by_beamtime.items():
                self._apply(beamtime, group)
        self._let_go()
        quick = [batch for batch in good if not batch.syncs]
        if quick:
            self._loop.call_soon_threadsafe(_deliver, quick)
        for beamtime, group in by_beamtime.items():
            synced = [batch for batch in group if batch.syncs]
            if not synced:
                continue
            try:
                self._catalog.sync(beamtime)
            except Error as error:
                for batch in synced:
                    batch.outcome = error
        rest = [batch for batch in batches if batch.syncs or (batch.failed and batch not in quick)]
        self._loop.call_soon_threadsafe(_deliver, rest)

    def _sync_folders(self, batches: list[Batch]) -> list[Batch]:
        folders = [folder for batch in batches for folder in batch.folders]
        if folders:
            try:
                sync_folders(folders)
            except StorageError as error:
                for batch in batches:
                    if batch.folders:
                        batch.outcome = error
                return [batch for batch in batches if not batch.folders]
        return batches

    def _write_prepared(self, batches: list[Batch]) -> list[Batch]:
        waiting: dict[str, list[Prepared]] = {}
        for batch in batches:
            if isinstance(batch, Prepared):
                waiting.setdefault(batch.beamtime, []).append(batch)
        if not waiting:
            return batches
        assert self._prepare is not None
        for beamtime, group in waiting.items():
            self._prepare(beamtime, group)
        return [batch for batch in batches if not batch.failed]

    def _do(self, chore: Callable[[], object]) -> None:
        try:
            with self._lock:
                chore()
        except Error as error:
            # Upkeep that fails loses nothing; the next round tries again.
            log.warning("upkeep of a catalog failed", reason=str(error))
        except Exception:
            log.exception("unexpected: upkeep of a catalog failed")
        self._let_go()

    def _let_go(self) -> None:
        if self._blocked:
            self._blocked = False
            self._loop.call_soon_threadsafe(self._flush)


def _deliver(batches: list[Batch]) -> None:
    for batch in batches:
        try:
            batch.done(batch.outcome)
        except Exception:
            # The others' answers must not be lost with this one.
            log.exception("unexpected: an answer failed")


def _unexpected() -> StorageError:
    """Called while an exception is handled that is a fault of ours."""
    log.exception("unexpected: a commit failed")
    return StorageError("the record could not be written; see the node's log")


class Maintenance:
    """Keeps the catalogs in shape, from a thread of its own: logs short, nothing dead inside."""

    def __init__(self, catalog: Catalog, commits: Commits, period_s: float = 1.0) -> None:
        self._catalog = catalog
        self._commits = commits
        self._period_s = period_s
        self._stop = threading.Event()
        self._expired_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            for beamtime in self._catalog.opened():
                try:
                    self.look_after(beamtime, time.time())
                except Error as error:
                    log.warning("upkeep of a catalog failed", beamtime=beamtime, reason=str(error))
                except Exception:
                    log.exception("unexpected: upkeep of a catalog failed", beamtime=beamtime)

    def look_after(self, beamtime: str, now: float) -> None:
        """One round: copy a long log, begin it anew, remove deleted streams, expire groups."""
        nbytes = self._catalog.wal_nbytes(beamtime)
        if nbytes > limits.WAL_CHECKPOINT_NBYTES:
            self._catalog.checkpoint(beamtime)
        if nbytes > limits.WAL_RESTART_NBYTES:
            self._commits.between(lambda: self._catalog.restart_wal(beamtime))
        self._commits.between(lambda: self._catalog.purge(beamtime, limits.PURGE_ROWS))
        if now - self._expired_at.get(beamtime, 0.0) > limits.EXPIRE_SECONDS:
            self._expired_at[beamtime] = now
            before_ns = int((now - limits.GROUP_IDLE_DAYS * 86_400) * 1e9)
            self._commits.between(lambda: self._catalog.apply(beamtime, [Expire(before_ns)]))
