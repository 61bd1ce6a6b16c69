"""Writes payloads into their files, in threads.

Small payloads share two threads that take all that are waiting at once: handing each to a thread
of its own would cost more than writing it. Large ones are written side by side; larger than what
the cache takes, they are written as they come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import structlog
import xxhash

from beamstream import limits
from beamstream.errors import Error, StorageError
from beamstream.server.roots import Roots
from beamstream.store.files import CHUNK_NBYTES, NewFile, OpenFolder, write_file

if TYPE_CHECKING:
    from beamstream.server.ingest import Ingest, Put

log = structlog.get_logger("files")

_SMALL_NBYTES = 256 * limits.KIB
_BATCH_MAX = 64
_SMALL_THREADS = 2
"""While one waits for the disk, another can go on; more only get in each other's way."""


class FileWriters:
    """The threads that write files for `ingest`; `sync` says whether each is synced."""

    def __init__(self, ingest: Ingest, roots: Roots, threads: Executor, *, sync: bool) -> None:
        self._ingest = ingest
        self.roots = roots
        self.threads = threads
        self.sync = sync
        self._wanted = threading.Condition()
        self._small: list[Put] = []
        self._closing = False
        self._running = [
            threading.Thread(target=self._run, name="small files", daemon=True)
            for _ in range(_SMALL_THREADS)
        ]
        for thread in self._running:
            thread.start()

    def write(self, put: Put) -> None:
        """Write the payload of a message; `ingest.written` or `ingest.failed` is called."""
        assert put.memory is not None
        if put.memory.nbytes > _SMALL_NBYTES:
            self.threads.submit(self._write_all, [put])
            return
        with self._wanted:
            self._small.append(put)
            self._wanted.notify()

    def stream(self, put: Put, window: memoryview, nbytes: int) -> StreamedFile:
        return StreamedFile(self, self._ingest, put, window, nbytes)

    def close(self) -> None:
        """Write what is waiting, and end."""
        with self._wanted:
            self._closing = True
            self._wanted.notify_all()
        for thread in self._running:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not (self._small or self._closing):
                    self._wanted.wait()
                count = min(-(-len(self._small) // _SMALL_THREADS), _BATCH_MAX)
                puts, self._small = self._small[:count], self._small[count:]
                if self._closing and not puts:
                    return
                if self._small:
                    self._wanted.notify()
            self._write_all(puts)

    def _write_all(self, puts: list[Put]) -> None:
        """In a thread."""
        written: list[tuple[Put, bytes, OpenFolder]] = []
        for put in puts:
            assert put.memory is not None
            name = put.message.name
            try:
                root = self.roots.folder(put.producer.folders, put.root, name)
                written.append((put, *write_file(root, name, put.memory, sync=self.sync)))
            except Error as error:
                self._ingest.failed(put, error)
            except Exception:
                # Whatever goes wrong, the producer gets an answer and the thread lives on.
                log.exception("unexpected: a file could not be written", name=name)
                self._ingest.failed(put, StorageError(f"file {name!r} could not be written"))
        if written:
            self._ingest.written(written)


class StreamedFile:
    """A payload larger than the cache takes: it goes to its file as it comes.

    Two halves of one slot take turns: one is received into while the other is written.
    """

    WINDOW_NBYTES = 2 * CHUNK_NBYTES

    def __init__(
        self, writers: FileWriters, ingest: Ingest, put: Put, window: memoryview, nbytes: int
    ) -> None:
        self._writers = writers
        self._ingest = ingest
        self._loop = ingest.loop
        self._put = put
        half = window.nbytes // 2
        self._halves = (window[:half], window[half : 2 * half])
        self._turn = 0
        self._nbytes = nbytes
        self._given = 0
        self._current: memoryview | None = None
        self._writing = False
        self._more: Callable[[memoryview], None] | None = None
        self._file: NewFile | None = None
        self._hasher = xxhash.xxh3_128()
        self._error: Error | None = None
        self._finished = False
        self._aborted = False

    def first(self) -> memoryview:
        return self._next_half()

    def filled(self, more: Callable[[memoryview], None]) -> None:
        self._more = more
        self._hand_over()

    def finish(self) -> None:
        self._finished = True
        self._hand_over()

    def abort(self) -> None:
        self._aborted = True
        if not self._writing:
            self._abandon()

    def _abandon(self) -> None:
        self._writers.threads.submit(self._remove)
        self._ingest.release(self._put)

    def _next_half(self) -> memoryview:
        half = self._halves[self._turn]
        self._turn = 1 - self._turn
        size = min(half.nbytes, self._nbytes - self._given)
        self._given += size
        self._current = half[:size]
        return self._current

    def _hand_over(self) -> None:
        """Write what was received; meanwhile the other half is received into."""
        if self._writing or self._current is None:
            return
        full, self._current = self._current, None
        self._writing = True
        last = self._finished
        self._writers.threads.submit(self._write, full, last)
        if self._more is not None and not last:
            more, self._more = self._more, None
            more(self._next_half())

    def _write(self, full: memoryview, last: bool) -> None:
        """In a thread."""
        put = self._put
        try:
            if self._error is None and not put.existing:
                if self._file is None:
                    root = self._writers.roots.folder(
                        put.producer.folders, put.root, put.message.name
                    )
                    self._file = NewFile(root, put.message.name, sync=self._writers.sync)
                self._file.write(full)
            self._hasher.update(full)
            if last:
                self._commit()
                return
        except Exception as error:
            self._error = error if isinstance(error, Error) else self._unexpected()
            if last:
                self._remove()
                self._ingest.failed(put, self._error)
                return
        self._loop.call_soon_threadsafe(self._written)

    def _unexpected(self) -> StorageError:
        """Called while an exception is handled that is a fault of ours."""
        name = self._put.message.name
        log.exception("unexpected: a file could not be written", name=name)
        return StorageError(f"file {name!r} could not be written")

    def _commit(self) -> None:
        digest = self._hasher.digest()
        if self._error is not None:
            self._remove()
            self._ingest.failed(self._put, self._error)
        elif self._file is None:
            self._ingest.hashed(self._put, digest)
        else:
            file, self._file = self._file, None
            self._ingest.written([(self._put, digest, file.commit(digest, self._nbytes))])

    def _written(self) -> None:
        self._writing = False
        if self._aborted:
            self._abandon()
        elif self._more is not None or self._finished:
            self._hand_over()

    def _remove(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.abort()
