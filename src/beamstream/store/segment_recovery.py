"""What the last run has left of a beamtime's segments: looked at before anything is appended.

Only segments that were not closed cleanly are read through, the newest first. What was being
written when the process or the machine stopped is cut off; what was damaged otherwise is reported
and left alone, because the messages beside the damage can still be read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from beamstream.errors import StorageError
from beamstream.store.segment_files import OPEN_FLAGS, name_of, write_mark
from beamstream.store.segment_format import (
    ENTRY_NBYTES,
    HEADER_NBYTES,
    SCAN_NBYTES,
    Head,
    Scan,
    ends_with_mark,
    padded,
    parse_header,
    scan,
)

Referenced = Callable[[int], int]
"""How far into a segment the records of its beamtime reach: where the last payload ends, 0 if there
is none."""


class Torn(NamedTuple):
    """The end of a segment (or all of it) that was cut off: nothing in it was ever recorded."""

    segment: int
    nbytes: int


class Damaged(NamedTuple):
    """Bytes of a segment that are not as they were written; reading messages there fails."""

    segment: int
    offset: int
    nbytes: int


class Recovery(NamedTuple):
    """What was found when a beamtime's segments were opened.

    Parameters
    ----------
    scanned_nbytes : how much had to be read.
    torn : what was cut off.
    damaged : what is damaged (up to `limits.SEGMENT_DAMAGES_LISTED_MAX` for each segment).
    """

    scanned_nbytes: int = 0
    torn: tuple[Torn, ...] = ()
    damaged: tuple[Damaged, ...] = ()


class Clean(NamedTuple):
    """A segment that was closed cleanly: its header, and where the next entry goes."""

    head: Head
    end: int


def recover(
    folder: int, numbers: list[int], referenced: Referenced
) -> tuple[Recovery, Clean | None]:
    """Bring the segments of a folder in order; what was found, and the newest one if it is clean.

    Raises
    ------
    StoreTooNew : a segment is of a later version.
    OSError : the disk does not do it.
    """
    newest: Clean | None = None
    unclean: list[int] = []
    for number in reversed(numbers):
        clean = _clean(folder, number)
        if clean is not None:
            newest = None if unclean else clean
            break
        unclean.append(number)
    # The oldest first: a mark says of the segments before as well that they were synced.
    found = [_repair(folder, number, referenced) for number in reversed(unclean)]
    report = Recovery(
        sum(one.scanned_nbytes for one in found),
        tuple(torn for one in found for torn in one.torn),
        tuple(damage for one in found for damage in one.damaged),
    )
    return report, newest


def _clean(folder: int, number: int) -> Clean | None:
    fd = os.open(name_of(number), os.O_RDONLY | OPEN_FLAGS, dir_fd=folder)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"segment {number} is not a regular file", hint="move it away")
        head = parse_header(os.pread(fd, HEADER_NBYTES, 0))
        if head is None or head.number != number or status.st_size < HEADER_NBYTES + ENTRY_NBYTES:
            return None
        end = status.st_size
        last = os.pread(fd, ENTRY_NBYTES, end - ENTRY_NBYTES)
        return Clean(head, end) if ends_with_mark(head, end, last) else None
    finally:
        os.close(fd)


def _repair(folder: int, number: int, referenced: Referenced) -> Recovery:
    name = name_of(number)
    fd = os.open(name, os.O_RDWR | OPEN_FLAGS, dir_fd=folder)
    try:
        nbytes = os.fstat(fd).st_size
        head = parse_header(os.pread(fd, HEADER_NBYTES, 0))
        if nbytes <= HEADER_NBYTES or (head is None and not referenced(number)):
            # It was just being made. One without a header that records speak of is damaged.
            os.unlink(name, dir_fd=folder)
            return Recovery(nbytes, (Torn(number, nbytes),) if nbytes > HEADER_NBYTES else ())
        if head is None or head.number != number:
            os.fsync(fd)
            return Recovery(0, (), (Damaged(number, 0, nbytes),))
        return _settle(fd, head, scan(head, _Window(fd), nbytes), nbytes, referenced)
    finally:
        os.close(fd)


def _settle(fd: int, head: Head, found: Scan, nbytes: int, referenced: Referenced) -> Recovery:
    """Cut off what is torn, sync what stays, and mark it as looked at."""
    number = head.number
    damaged = [Damaged(number, *region) for region in found.damaged]
    torn: tuple[Torn, ...] = ()
    keep = found.end
    if keep < nbytes:
        # Records tell a torn end from damage: what they speak of was whole once.
        keep = max(keep, min(referenced(number), nbytes))
    if keep > found.end:
        damaged.append(Damaged(number, found.end, keep - found.end))
    if keep < nbytes:
        torn = (Torn(number, nbytes - keep),)
        os.ftruncate(fd, keep)
    os.fsync(fd)
    write_mark(fd, head, padded(keep))
    os.fdatasync(fd)
    return Recovery(nbytes, torn, tuple(damaged))


class _Window:
    """A piece of a file in memory, which moves along as it is read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._memory = memoryview(bytearray(2 * SCAN_NBYTES))
        self._base = 0
        self._nbytes = 0

    def __call__(self, offset: int, nbytes: int) -> memoryview:
        start = offset - self._base
        if start < 0 or start + nbytes > self._nbytes:
            self._move(offset)
            start = 0
        return self._memory[start : min(start + nbytes, self._nbytes)]

    def _move(self, offset: int) -> None:
        self._base, self._nbytes = offset, 0
        while self._nbytes < len(self._memory):
            rest = self._memory[self._nbytes :]
            count = os.preadv(self._fd, [rest], offset + self._nbytes)
            if not count:
                break
            self._nbytes += count
