"""Segments: the append-only log of a beamtime for messages without a name.

Many payloads are appended as one entry, one entry after the other, to one file after the other.
The catalog's records say where each payload lies and what its digest is; they are committed after
the append (for level `disk` after `sync`), so that no record speaks of bytes that are not there.
Bytes of which no record speaks do no harm.

All methods block and may be called from any thread; appends happen one at a time, a `sync` runs
beside them. There is one `Segments` for a folder at a time (the node holds the data folder's lock).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from beamstream import limits
from beamstream.errors import Error, NotFound, ReadOnly, StorageError
from beamstream.store.beneath import sync_path
from beamstream.store.files import digest_of, storage_error
from beamstream.store.segment_files import (
    FULL,
    OPEN_FLAGS,
    OpenFile,
    Readers,
    StoredSlice,
    name_of,
    numbers_in,
    pieces_of,
    write_all,
    write_mark,
)
from beamstream.store.segment_format import (
    ENTRY_NBYTES,
    HEADER_NBYTES,
    ID_NBYTES,
    Buffer,
    Entry,
    Head,
    checksum_of,
    head_of,
    pack_entry,
    pack_header,
    padded,
)
from beamstream.store.segment_recovery import Referenced, recover

_FOLDER_MODE: Final = 0o750
_FILE_MODE: Final = 0o600
_PASSING: Final = (*FULL, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EEXIST)
"""Nothing has broken: the disk is full, or files may not be larger or more. It may pass."""


class Location(NamedTuple):
    """Where the first byte of an appended body lies; the others follow without gaps."""

    segment: int
    offset: int


class SegmentFile(NamedTuple):
    number: int
    nbytes: int


class _Growing:
    """A segment that is appended to, or was since the last sync; `marked` is its end if clean."""

    __slots__ = ("end", "file", "head", "marked")

    def __init__(self, file: OpenFile, head: Head, end: int, marked: int = 0) -> None:
        self.file = file
        self.head = head
        self.end = end
        self.marked = marked


class Segments:
    """The log in `folder`, which is made if it is not there.

    Parameters
    ----------
    referenced : called for segments with a torn end: up to which byte the catalog's records reach
        into that segment, 0 if none does. Nothing before is cut off.
    rotate_nbytes : an entry that would make a segment larger begins the next one.

    Raises
    ------
    StoreTooNew : a segment was written by a later version.
    NoSpace, StorageError : the folder cannot be used.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     log = Segments(Path(parent) / "segments", referenced=lambda segment: 0)
    ...     place = log.append([b"first", b"second"])
    ...     log.sync()
    ...     log.read(place.segment, place.offset + 5, 6, digest_of(b"second"))
    ...     log.close()
    b'second'
    """

    def __init__(
        self,
        folder: Path,
        *,
        referenced: Referenced,
        rotate_nbytes: int = limits.SEGMENT_NBYTES,
    ) -> None:
        self.path = folder
        self.failed: Error | None = None
        self._rotate_nbytes = rotate_nbytes
        self._lock = threading.Lock()
        # Held for the whole of a sync, and always taken before the other one.
        self._syncing = threading.Lock()
        self._active: _Growing | None = None
        self._unsynced: dict[int, _Growing] = {}
        self._new_names = False
        self._closed = False
        with self._translated():
            folder.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            sync_path(folder)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._open_folder = OpenFile(os.open(folder, flags))
            self._open(referenced)
        self._readers = Readers(self._open_folder, folder)

    def _open(self, referenced: Referenced) -> None:
        numbers = numbers_in(self._folder)
        self._last = numbers[-1] if numbers else 0
        self.recovery, newest = recover(self._folder, numbers, referenced)
        os.fsync(self._folder)
        # A segment that was not closed cleanly is never appended to again: a record of bytes that
        # a power cut took away must not find others in their place.
        if newest is not None:
            fd = os.open(name_of(self._last), os.O_RDWR | OPEN_FLAGS, dir_fd=self._folder)
            self._active = _Growing(OpenFile(fd), newest.head, newest.end, newest.end)

    @property
    def _folder(self) -> int:
        return self._open_folder.fd

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, Error):
                raise
            raise storage_error(error, f"the segments in {self.path}") from error

    # ------------------------------------------------------------------------- appending

    def append(self, body: Sequence[Buffer]) -> Location:
        """Append payloads, back to back, as one entry; they are handed to the kernel.

        Memoryviews must be of bytes. All of it is there afterwards, or nothing.

        Raises
        ------
        BadInput, TooLarge : there is no payload, or more than `limits.PAYLOAD_NBYTES_MAX` in all.
        NoSpace : the disk is full; a later call may work.
        ReadOnly : the disk has failed, now or before.
        """
        pieces, nbytes = pieces_of(body)
        entry = Entry(nbytes, len(body), checksum_of(pieces))
        pieces.append(bytes(-nbytes % 8))
        if len(self._unsynced) >= limits.SEGMENTS_UNSYNCED_MAX:
            self.sync()
        with self._lock:
            self._check()
            growing = self._with_room(ENTRY_NBYTES + padded(nbytes))
            offset = growing.end
            pieces.insert(0, pack_entry(growing.head, offset, entry))
            try:
                write_all(growing.file.fd, pieces, offset)
            except BaseException as error:
                self._cut(growing)
                if isinstance(error, OSError):
                    raise self._write_error(error) from error
                raise
            growing.end += ENTRY_NBYTES + padded(nbytes)
            self._unsynced[growing.head.number] = growing
            return Location(growing.head.number, offset + ENTRY_NBYTES)

    def _with_room(self, nbytes: int) -> _Growing:
        """The segment to append `nbytes` to."""
        old = self._active
        if old is None:
            return self._begin()
        if old.end + nbytes <= self._rotate_nbytes or old.end == HEADER_NBYTES:
            return old
        new = self._begin()
        if old.end != old.marked:
            # For its mark, which the next sync writes.
            self._unsynced[old.head.number] = old
        return new

    def _begin(self) -> _Growing:
        self._last += 1
        number = self._last
        name = name_of(number)
        id = secrets.token_bytes(ID_NBYTES)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS
        try:
            file = OpenFile(os.open(name, flags, _FILE_MODE, dir_fd=self._folder))
            try:
                write_all(file.fd, [pack_header(number, id)], 0)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._folder)
                raise
        except OSError as error:
            raise self._write_error(error) from error
        self._new_names = True
        self._active = _Growing(file, head_of(number, id), HEADER_NBYTES)
        return self._active

    def _cut(self, growing: _Growing) -> None:
        """Remove what was written of an entry."""
        try:
            os.ftruncate(growing.file.fd, growing.end)
        except OSError as error:
            self._fail(error)

    def _write_error(self, error: OSError) -> Error:
        if self.failed is None and error.errno in _PASSING:
            return storage_error(error, f"segment {self._last} in {self.path}")
        return self._fail(error)

    # --------------------------------------------------------------------------- syncing

    def sync(self) -> None:
        """Return when all that was appended before this call is on disk (as it is when closed).

        Raises
        ------
        ReadOnly : it failed, now or before: nothing that waits for it may be called safe, ever.
            The kernel reports lost pages to one sync only; that a second one succeeds says nothing.
        """
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            if self.failed is not None:
                raise self.failed
            waiting = {growing: growing.end for growing in self._unsynced.values()}
            new_names, self._new_names = self._new_names, False
        try:
            for growing in waiting:
                os.fdatasync(growing.file.fd)
            if new_names:
                os.fsync(self._folder)
            for growing in self._synced(waiting):
                write_mark(growing.file.fd, growing.head, growing.end)
        except OSError as error:
            raise self._fail(error) from error
        if self.failed is not None:
            raise self.failed

    def _synced(self, waiting: dict[_Growing, int]) -> list[_Growing]:
        """Note what was synced; the segments that nothing is appended to any more."""
        with self._lock:
            whole = [growing for growing, end in waiting.items() if growing.end == end]
            for growing in whole:
                self._unsynced.pop(growing.head.number, None)
            return [growing for growing in whole if growing is not self._active]

    def _fail(self, error: Exception) -> Error:
        """Refuse all appends from now on."""
        if self.failed is None:
            self.failed = ReadOnly(
                f"the segments in {self.path} could not be written to disk: {error}",
                hint="look at the disk, then restart the node; reading goes on",
            )
        return self.failed

    def _check(self) -> None:
        if self.failed is not None:
            raise self.failed
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"the segments in {self.path} are closed")

    def close(self) -> None:
        """Bring all to disk, note that, and close. Raises what went wrong, when it is closed."""
        with self._syncing:
            with self._lock:
                if self._closed:
                    return
                # Nothing is appended from here on.
                self._closed = True
            try:
                if self.failed is None:
                    self._sync()
                    self._mark_active()
            finally:
                self._active = None
                self._unsynced.clear()
                self._readers.close()

    def _mark_active(self) -> None:
        growing = self._active
        if growing is None or growing.end == growing.marked:
            return
        try:
            write_mark(growing.file.fd, growing.head, growing.end)
            os.fdatasync(growing.file.fd)
        except OSError as error:
            raise self._fail(error) from error

    # --------------------------------------------------------------------------- reading

    def slice(self, segment: int, offset: int, nbytes: int) -> StoredSlice:
        """`nbytes` of a segment from `offset` on, open for reading; not verified.

        Raises
        ------
        DataLost : the segment is not there (any more), or ends before.
        """
        return self._readers.slice(segment, offset, nbytes)

    def read(self, segment: int, offset: int, nbytes: int, digest: bytes) -> bytes:
        """One payload, verified.

        Raises
        ------
        Corrupt : the bytes are not those that were sent.
        DataLost : the segment is not there (any more), or ends before.
        """
        return self.slice(segment, offset, nbytes).read(digest)

    def read_into(self, segment: int, offset: int, memory: memoryview, digest: bytes) -> None:
        """Fill `memory` with one payload, verified; raises as `read`."""
        found = self.slice(segment, offset, memory.nbytes)
        found.read_into(memory)
        if digest_of(memory) != digest:
            raise found.damaged()

    # ---------------------------------------------------------------------------- upkeep

    def list(self) -> list[SegmentFile]:
        """The segments that there are, oldest first."""
        with self._lock, self._translated():
            self._check_open()
            return [
                SegmentFile(number, self._nbytes(number)) for number in numbers_in(self._folder)
            ]

    def _nbytes(self, number: int) -> int:
        return os.stat(name_of(number), dir_fd=self._folder, follow_symlinks=False).st_size

    def drop(self, segment: int) -> None:
        """Remove a segment for good; reading from it is `DataLost` afterwards.

        A new segment is begun if it is the newest one, so that its number is not used again.

        Raises
        ------
        NotFound : there is no such segment.
        """
        with self._syncing, self._lock:
            self._check()
            with self._translated():
                if segment not in numbers_in(self._folder):
                    raise NotFound(f"there is no segment {segment} in {self.path}")
            if segment == self._last:
                self._begin()
            self._unsynced.pop(segment, None)
            self._readers.forget(segment)
            try:
                # The newer one is there for good before this one goes.
                os.fsync(self._folder)
                os.unlink(name_of(segment), dir_fd=self._folder)
                os.fsync(self._folder)
            except OSError as error:
                raise self._fail(error) from error
