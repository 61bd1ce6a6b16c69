"""Payloads as files, as their producers named them: never replaced, never seen half written.

A payload is written to ``.part-<uuid>`` in its final folder, synced if its level asks for it, and
renamed without replacing. If the name is taken by a file with the same bytes, that file is adopted
(a producer sends again after a crash); other bytes are a `NameConflict`. The folder itself is
synced by the caller, once for many files.

All functions block; they run in threads.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

from beamstream.errors import BadName, Corrupt, DataLost, NameConflict, NoSpace, StorageError
from beamstream.model import PART_PREFIX
from beamstream.store.beneath import make_folders, open_beneath, rename_new, sync_path

CHUNK_NBYTES = 1 << 20
_PART = re.compile(re.escape(PART_PREFIX) + "[0-9a-f]{32}")


def digest_of(data: memoryview | bytes) -> bytes:
    """The one checksum of a payload: XXH3-128, 16 bytes, big endian."""
    return xxhash.xxh3_128_digest(data)


def storage_error(error: OSError, what: str) -> StorageError:
    """The error of ours for one of the system's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for {what}", hint="free some space; sending again will work")
    return StorageError(f"{what}: {error.strerror or error}")


class OpenFolder:
    """A folder kept open; closed when nobody refers to it any more."""

    __slots__ = ("fd", "identity", "opened_at")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.opened_at = time.monotonic()
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)

    def __del__(self) -> None:
        os.close(self.fd)


class RootFolder:
    """A folder below which payload files of one beamtime lie, kept open, and folders in it.

    A folder below is opened anew after a second: somebody may have moved it away.
    """

    _KEEP_S = 1.0
    _KEEP_MAX = 64
    _SYNCED_MAX = 10_000

    def __init__(self, path: Path) -> None:
        self.path = path
        self._below: dict[str, OpenFolder] = {}
        self._synced: set[str] = set()
        try:
            path.mkdir(parents=True, exist_ok=True)
            sync_path(path)
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(error, f"folder {path}") from error

    def folder(self, below: str, *, sync: bool, fresh: bool = False) -> OpenFolder:
        """The folder `below` this one, made if need be; raises OSError."""
        found = self._below.get(below)
        if found is not None and not fresh and time.monotonic() - found.opened_at < self._KEEP_S:
            return found
        if not below:
            fd = os.dup(self.fd)
        else:
            try:
                fd = open_beneath(self.fd, below, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                fd = make_folders(self.fd, below, sync=sync)
        found = OpenFolder(fd)
        if sync and below not in self._synced:
            self._sync_chain(below)
        if len(self._below) >= self._KEEP_MAX:
            self._below.clear()
        self._below[below] = found
        return found

    def _sync_chain(self, below: str) -> None:
        """Sync the names of the folders that lead to `below`.

        Whoever made them, a node that was killed or a thread just now, may not have done so yet.
        """
        os.fsync(self.fd)
        parts = below.split("/")
        for count in range(1, len(parts)):
            fd = open_beneath(self.fd, "/".join(parts[:count]), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        if len(self._synced) >= self._SYNCED_MAX:
            self._synced.clear()
        self._synced.add(below)

    def close(self) -> None:
        self._below.clear()
        os.close(self.fd)


class _PartNames:
    """Names of files being written: unique, as a UUID each, without asking for randomness."""

    def __init__(self) -> None:
        self._prefix = PART_PREFIX + uuid.uuid4().hex[:16]
        self._numbers = itertools.count()

    def __call__(self) -> str:
        return f"{self._prefix}{next(self._numbers):016x}"


_part_name = _PartNames()


class NewFile:
    """A file that is being written; under its final name only after `commit`.

    Raises
    ------
    BadName : the path leads through a link or a file.
    NoSpace, StorageError : from every method.
    """

    def __init__(self, root: RootFolder, name: str, *, sync: bool) -> None:
        self.name = name
        self._sync = sync
        self._what = f"file {name!r}"
        self._part = _part_name()
        self._fd = -1
        below, _, self._base = name.rpartition("/")
        try:
            try:
                self._begin(root.folder(below, sync=sync))
            except FileNotFoundError:
                # The folder that was kept open has been removed.
                self._begin(root.folder(below, sync=sync, fresh=True))
        except OSError as error:
            raise self._translate(error) from error

    def _begin(self, folder: OpenFolder) -> None:
        self._folder = folder
        self._fd = os.open(
            self._part,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o644,
            dir_fd=folder.fd,
        )

    def write(self, data: memoryview) -> None:
        done = 0
        try:
            while done < data.nbytes:
                done += os.write(self._fd, data[done:] if done else data)
        except OSError as error:
            raise self._translate(error) from error

    def commit(self, digest: bytes, nbytes: int) -> OpenFolder:
        """Give the file its name; return its folder, to be synced.

        Raises
        ------
        NameConflict : the name is taken by a file with other bytes.
        """
        try:
            if self._sync:
                os.fdatasync(self._fd)
            try:
                rename_new(self._folder.fd, self._part, self._base)
            except FileExistsError:
                self._adopt(digest, nbytes)
            fd, self._fd = self._fd, -1
            os.close(fd)
        except OSError as error:
            self.abort()
            raise self._translate(error) from error
        except BaseException:
            self.abort()
            raise
        return self._folder

    def abort(self) -> None:
        """Remove what was written."""
        try:
            os.unlink(self._part, dir_fd=self._folder.fd)
        except OSError:
            pass
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _adopt(self, digest: bytes, nbytes: int) -> None:
        fd = open_beneath(self._folder.fd, self._base, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            same = (
                stat.S_ISREG(status.st_mode)
                and status.st_size == nbytes
                and _digest_of_fd(fd) == digest
            )
            if same and self._sync:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        if not same:
            raise NameConflict(
                f"{self._what} exists with other content",
                hint="files are never replaced: use another name",
            )
        os.unlink(self._part, dir_fd=self._folder.fd)

    def _translate(self, error: OSError) -> StorageError | BadName:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
            return BadName(
                f"{self._what} leads through a link or a file", hint="use another folder name"
            )
        if error.errno == errno.ENAMETOOLONG:
            return BadName(f"{self._what} has a component that is too long")
        return storage_error(error, self._what)


def write_file(
    root: RootFolder, name: str, data: memoryview, *, sync: bool
) -> tuple[bytes, OpenFolder]:
    """Write one payload; return its digest and its folder (see `NewFile.commit`)."""
    file = NewFile(root, name, sync=sync)
    try:
        # In pieces that stay in the processor's cache between being hashed and being copied.
        hasher = xxhash.xxh3_128()
        for start in range(0, data.nbytes, CHUNK_NBYTES):
            piece = data[start : start + CHUNK_NBYTES]
            hasher.update(piece)
            file.write(piece)
    except BaseException:
        file.abort()
        raise
    digest = hasher.digest()
    return digest, file.commit(digest, data.nbytes)


class StoredFile:
    """An existing payload file, open for reading.

    Raises
    ------
    DataLost : it is not there (any more), or not a regular file.
    """

    def __init__(self, root: RootFolder, name: str) -> None:
        self._what = f"file {name!r}"
        try:
            self.fd = open_beneath(root.fd, name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise DataLost(f"{self._what} cannot be read: {error.strerror}") from error
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise DataLost(f"{self._what} is not a regular file")
        self.nbytes = status.st_size

    def read_into(self, memory: memoryview) -> None:
        """Fill `memory` from the beginning of the file."""
        self.read_piece(memory, 0)

    def read_piece(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset` of the file on."""
        fill(self.fd, memory, offset, self._what)

    def verify(self, digest: bytes, nbytes: int) -> None:
        """Raise `Corrupt` unless the file has these bytes."""
        try:
            same = self.nbytes == nbytes and _digest_of_fd(self.fd) == digest
        except OSError as error:
            raise storage_error(error, self._what) from error
        if not same:
            raise damaged(self._what)

    def close(self) -> None:
        os.close(self.fd)


def damaged(what: str) -> Corrupt:
    return Corrupt(
        f"{what} is damaged: its bytes are not those that were sent",
        hint="restore the file from a copy; other messages are not affected",
    )


def fill(fd: int, memory: memoryview, offset: int, what: str) -> None:
    """Fill `memory` from `offset` of a file on.

    Raises
    ------
    Corrupt : the file ends before.
    StorageError : it cannot be read.
    """
    done = 0
    try:
        while done < memory.nbytes:
            count = os.preadv(fd, [memory[done:]], offset + done)
            if not count:
                raise Corrupt(f"{what} is shorter than what was stored")
            done += count
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, what) from error


def _digest_of_fd(fd: int) -> bytes:
    hasher = xxhash.xxh3_128()
    buffer = bytearray(CHUNK_NBYTES)
    view = memoryview(buffer)
    offset = 0
    while count := os.preadv(fd, [buffer], offset):
        hasher.update(view[:count])
        offset += count
    return hasher.digest()


def sync_folders(folders: Iterable[OpenFolder]) -> None:
    """Sync each folder once."""
    try:
        for folder in {folder.identity: folder for folder in folders}.values():
            os.fsync(folder.fd)
    except OSError as error:
        raise storage_error(error, "syncing a folder") from error


def remove_parts(folder: Path) -> int:
    """Remove what unfinished writes left in a folder; return how many there were.

    The folder is synced in any case: a write that was just renamed would be unfinished again after
    a power cut.
    """
    count = 0
    for path in _entries(folder):
        if _PART.fullmatch(path.name) and path.is_file(follow_symlinks=False):
            os.unlink(path)
            count += 1
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return count
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return count


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
