"""Segments as files: their names, writing to them, and one payload in them, open for reading."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import xxhash

from beamstream import limits
from beamstream.errors import BadInput, Corrupt, DataLost, StorageError, TooLarge
from beamstream.store.files import CHUNK_NBYTES, digest_of, fill, storage_error
from beamstream.store.segment_format import Buffer, Head, pack_mark

OPEN_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NAME: Final = re.compile(r"[0-9]{8,18}\.seg")
_IOV_MAX: Final = os.sysconf("SC_IOV_MAX")
_JOIN_NBYTES_MAX: Final = 4 * limits.MIB
"""Up to this size one write of joined payloads is cheaper than one of many pieces."""


def name_of(number: int) -> str:
    """File name of a segment.

    >>> name_of(7)
    '00000007.seg'
    """
    return f"{number:08d}.seg"


def numbers_in(folder: int) -> list[int]:
    """Numbers of the segments in a folder, ascending; raises OSError."""
    names = (name for name in os.listdir(folder) if _NAME.fullmatch(name))
    return sorted(int(name[:-4]) for name in names if name == name_of(int(name[:-4])))


def pieces_of(body: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """Payloads as pieces to write (one, where that is cheap), and how many bytes they have.

    Raises
    ------
    BadInput, TooLarge : they cannot be an entry.
    """
    nbytes = sum(map(len, body))
    if not body:
        raise BadInput("an entry of a segment needs a payload")
    if nbytes > limits.PAYLOAD_NBYTES_MAX:
        raise TooLarge(
            f"{len(body)} payloads of {nbytes} bytes in one entry of a segment, "
            f"{limits.PAYLOAD_NBYTES_MAX} are allowed",
            hint="append them in parts",
        )
    pieces: list[Buffer]
    if nbytes <= _JOIN_NBYTES_MAX and len(body) > 1:
        pieces = [b"".join(body)]
    else:
        pieces = [memoryview(payload).cast("B") for payload in body]
    if sum(map(len, pieces)) != nbytes:
        raise BadInput("payloads of a segment must be bytes or memoryviews of bytes")
    return pieces, nbytes


def write_all(fd: int, pieces: Sequence[Buffer], offset: int) -> None:
    """Write the pieces one after the other from `offset` on; raises OSError."""
    for start in range(0, len(pieces), _IOV_MAX):
        group = pieces[start : start + _IOV_MAX]
        nbytes = sum(map(len, group))
        done = os.pwritev(fd, group, offset)
        offset += nbytes
        if done < nbytes:
            _write_rest(fd, group, done, offset - nbytes)


def _write_rest(fd: int, pieces: Sequence[Buffer], done: int, offset: int) -> None:
    """Write what is left of the pieces when `done` bytes of them stand at `offset`."""
    for piece in pieces:
        view = memoryview(piece).cast("B")
        skip = min(done, len(view))
        done -= skip
        offset += skip
        view = view[skip:]
        while view:
            count = os.pwrite(fd, view, offset)
            if not count:
                raise OSError(errno.EIO, "the disk takes nothing")
            offset += count
            view = view[count:]


def write_mark(fd: int, head: Head, offset: int) -> None:
    """Write down that all before `offset` was synced; raises OSError.

    A full disk does not matter: without the mark, the segment is read through at the next start.
    """
    try:
        os.pwrite(fd, pack_mark(head, offset), offset)
    except OSError as error:
        if error.errno not in FULL:
            raise


class OpenFile:
    """A file kept open; closed when nobody refers to it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class StoredSlice:
    """`nbytes` of a segment from `offset` on.

    It has the methods of `StoredFile`, so that whoever serves payloads need not know which it is.

    Raises
    ------
    DataLost : the segment ends before.
    """

    __slots__ = ("_file", "_what", "nbytes", "offset")

    def __init__(self, file: OpenFile, segment: int, offset: int, nbytes: int) -> None:
        self._file = file
        self._what = f"segment {segment}, {nbytes} bytes at {offset}"
        self.offset = offset
        self.nbytes = nbytes
        # Before any memory is asked for: a record with a wrong size must not cost any.
        if offset < 0 or nbytes < 0 or offset + nbytes > os.fstat(file.fd).st_size:
            raise DataLost(
                f"{self._what}: the segment ends before",
                hint="it was lost when the machine stopped; messages at level 'disk' are not",
            )

    @property
    def fd(self) -> int:
        """Of the whole segment, valid as long as this object."""
        return self._file.fd

    def read(self, digest: bytes) -> bytes:
        """All of it; `Corrupt` unless it has this digest."""
        try:
            data = os.pread(self.fd, self.nbytes, self.offset)
        except OSError as error:
            raise storage_error(error, self._what) from error
        if len(data) != self.nbytes:
            # The kernel reads no more than 2 GiB at once.
            memory = bytearray(self.nbytes)
            self.read_into(memoryview(memory))
            data = bytes(memory)
        if digest_of(data) != digest:
            raise self.damaged()
        return data

    def read_into(self, memory: memoryview) -> None:
        """Fill `memory` from the beginning of the slice."""
        self.read_piece(memory, 0)

    def read_piece(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset` of the slice on."""
        if offset + memory.nbytes > self.nbytes:
            raise Corrupt(f"{self._what} is shorter than what was stored")
        fill(self.fd, memory, self.offset + offset, self._what)

    def verify(self, digest: bytes, nbytes: int) -> None:
        """Raise `Corrupt` unless these are the bytes."""
        hasher = xxhash.xxh3_128()
        buffer = memoryview(bytearray(min(CHUNK_NBYTES, self.nbytes)))
        for offset in range(0, self.nbytes, CHUNK_NBYTES):
            piece = buffer[: min(CHUNK_NBYTES, self.nbytes - offset)]
            self.read_piece(piece, offset)
            hasher.update(piece)
        if nbytes != self.nbytes or hasher.digest() != digest:
            raise self.damaged()

    def damaged(self) -> Corrupt:
        return Corrupt(
            f"{self._what}: damaged, its bytes are not those that were sent",
            hint="restore the segment from a copy; other messages are not affected",
        )

    def close(self) -> None:
        """For the face of `StoredFile`: the segment stays open for others."""


class Readers:
    """Segments of a folder open for reading: at most `limits.SEGMENTS_READ_MAX`; any thread."""

    def __init__(self, folder: OpenFile, path: Path) -> None:
        self._folder = folder
        self._path = path
        self._lock = threading.Lock()
        self._open: dict[int, OpenFile] = {}
        self._closed = False

    def slice(self, segment: int, offset: int, nbytes: int) -> StoredSlice:
        return StoredSlice(self._reader(segment), segment, offset, nbytes)

    def forget(self, segment: int) -> None:
        with self._lock:
            self._open.pop(segment, None)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._open.clear()

    def _reader(self, number: int) -> OpenFile:
        with self._lock:
            if self._closed:
                raise StorageError(f"the segments in {self._path} are closed")
            file = self._open.pop(number, None)
            if file is None:
                if len(self._open) >= limits.SEGMENTS_READ_MAX:
                    del self._open[next(iter(self._open))]
                file = self._open_one(number)
            # At the end: the first one is the one that was not used for longest.
            self._open[number] = file
            return file

    def _open_one(self, number: int) -> OpenFile:
        what = f"segment {number} in {self._path}"
        try:
            fd = os.open(name_of(number), os.O_RDONLY | OPEN_FLAGS, dir_fd=self._folder.fd)
        except FileNotFoundError:
            raise DataLost(f"{what} is not there", hint="restore it from a copy") from None
        except OSError as error:
            raise storage_error(error, what) from error
        file = OpenFile(fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Corrupt(f"{what} is not a regular file")
        return file
