"""Segments as bytes: header, entries and marks, their checksums, and looking through them.

Little endian. A segment is a header of 64 bytes, then entries one after the other, each at a
multiple of 8::

    segment   magic 8 | version u32 | header nbytes u32 | number u64 | id 16 | 0 x 16 | checksum u64
    entry     tag 8 | own offset u64 | body nbytes u64 | payloads u64 | checksum of the body u64
              | checksum of these 40 bytes u64 | body | zeros up to a multiple of 8
    mark      an entry of 0 payloads: all that stands before it was synced

The id is random. Its first half is the tag that every entry begins with, its second half the seed
of their checksums: what is left over from another file, or was put into a payload by somebody who
wants to be taken for an entry, is none. Checksums are XXH3-64. A header in the right place with the
right checksum is believed; its body is checked against the checksum that it names.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import xxhash

from beamstream import limits
from beamstream.errors import StoreTooNew

VERSION: Final = 1
ID_NBYTES: Final = 16
SCAN_NBYTES: Final = 1 << 20
"""What is looked at together: it stays in the processor's cache between being read and hashed."""

_MAGIC: Final = b"BEAMSEG\n"
_SEGMENT: Final = struct.Struct("<8sIIQ16s16x")
_ENTRY: Final = struct.Struct("<8sQQQQ")
_CHECKSUM: Final = struct.Struct("<Q")
HEADER_NBYTES: Final = _SEGMENT.size + _CHECKSUM.size
ENTRY_NBYTES: Final = _ENTRY.size + _CHECKSUM.size
ALIGNMENT: Final = 8

Buffer = bytes | bytearray | memoryview
Reader = Callable[[int, int], memoryview]
"""``read(offset, nbytes)``: these bytes of the file, or what there is of them; at most
`SCAN_NBYTES`, and valid until the next call."""


class Head(NamedTuple):
    """What the header of a segment says."""

    number: int
    tag: bytes
    seed: int


class Entry(NamedTuple):
    """What the header of an entry says."""

    nbytes: int
    payloads: int
    checksum: int


class Region(NamedTuple):
    """Bytes of a file from `offset` on."""

    offset: int
    nbytes: int


class Scan(NamedTuple):
    """What is in a segment.

    Parameters
    ----------
    end : where the last whole entry ends; what stands behind it is torn.
    entries : how many are whole, marks included.
    damaged : what is not whole although an entry that is whole follows; at most
        `limits.SEGMENT_DAMAGES_LISTED_MAX`.
    damages : how many of them there are.
    """

    end: int
    entries: int
    damaged: tuple[Region, ...]
    damages: int


def padded(nbytes: int) -> int:
    """`nbytes` rounded up to a multiple of 8.

    >>> padded(0), padded(1), padded(8)
    (0, 8, 8)
    """
    return nbytes + -nbytes % ALIGNMENT


def pack_header(number: int, id: bytes) -> bytes:
    """The first 64 bytes of a segment; `id` are 16 random bytes.

    >>> header = pack_header(7, bytes(range(16)))
    >>> parse_header(header).number, parse_header(bytes(64))
    (7, None)
    """
    head = _SEGMENT.pack(_MAGIC, VERSION, HEADER_NBYTES, number, id)
    return head + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(head))


def parse_header(data: Buffer) -> Head | None:
    """What the first 64 bytes of a segment say; None if they are not a header.

    Raises
    ------
    StoreTooNew : they are one of a later version.
    """
    if len(data) < HEADER_NBYTES:
        return None
    magic, version, _, number, id = _SEGMENT.unpack_from(data)
    [checksum] = _CHECKSUM.unpack_from(data, _SEGMENT.size)
    if magic != _MAGIC or checksum != xxhash.xxh3_64_intdigest(data[: _SEGMENT.size]):
        return None
    if version != VERSION:
        raise StoreTooNew(
            f"segment {number} has version {version}, this program knows {VERSION}",
            hint="use the newer version of beamstream",
        )
    return head_of(number, id)


def head_of(number: int, id: bytes) -> Head:
    """The header of segment `number` with this id, as `parse_header` gives it."""
    return Head(number, bytes(id[:8]), int.from_bytes(id[8:], "little"))


def checksum_of(body: Iterable[Buffer]) -> int:
    """Checksum of the body that consists of these pieces."""
    hasher = xxhash.xxh3_64()
    for piece in body:
        hasher.update(piece)
    return hasher.intdigest()


def pack_entry(head: Head, offset: int, entry: Entry) -> bytes:
    """The header of an entry that stands at `offset` of its file."""
    packed = _ENTRY.pack(head.tag, offset, entry.nbytes, entry.payloads, entry.checksum)
    return packed + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(packed, head.seed))


def parse_entry(head: Head, offset: int, data: Buffer) -> Entry | None:
    """The entry whose header stands at `offset`; None if there is none.

    >>> head = head_of(1, bytes(range(16)))
    >>> packed = pack_entry(head, 64, Entry(3, 1, checksum_of([b"abc"])))
    >>> parse_entry(head, 64, packed) == Entry(3, 1, checksum_of([b"abc"]))
    True
    >>> parse_entry(head, 72, packed) is None
    True
    """
    if len(data) < ENTRY_NBYTES:
        return None
    tag, at, nbytes, payloads, checksum = _ENTRY.unpack_from(data)
    if tag != head.tag or at != offset:
        return None
    [own] = _CHECKSUM.unpack_from(data, _ENTRY.size)
    if own != xxhash.xxh3_64_intdigest(data[: _ENTRY.size], head.seed):
        return None
    return Entry(nbytes, payloads, checksum)


def pack_mark(head: Head, offset: int) -> bytes:
    """An entry that says: what stands before it was synced."""
    return pack_entry(head, offset, Entry(0, 0, checksum_of(())))


def ends_with_mark(head: Head, nbytes: int, last: Buffer) -> bool:
    """Whether a file of `nbytes`, of which these are the `last` 48, was closed cleanly."""
    entry = parse_entry(head, nbytes - ENTRY_NBYTES, last)
    return entry is not None and entry.payloads == 0


def scan(head: Head, read: Reader, nbytes: int) -> Scan:
    """Look through a file of `nbytes` for entries that are whole.

    Where there is none, the next one is looked for: damage in the middle is not an end.
    """
    at = end = HEADER_NBYTES
    entries = damages = 0
    bad_from = -1
    damaged: list[Region] = []
    while at + ENTRY_NBYTES <= nbytes:
        entry = parse_entry(head, at, read(at, ENTRY_NBYTES))
        body = at + ENTRY_NBYTES
        if entry is not None and body + entry.nbytes > nbytes:
            entry = None
        if entry is not None and entry.checksum == _checksum_at(read, body, entry.nbytes):
            if bad_from >= 0:
                damages += 1
                if damages <= limits.SEGMENT_DAMAGES_LISTED_MAX:
                    damaged.append(Region(bad_from, at - bad_from))
                bad_from = -1
            entries += 1
            at = body + padded(entry.nbytes)
            end = min(at, nbytes)
            continue
        if bad_from < 0:
            bad_from = at
        if entry is not None:
            at = body + padded(entry.nbytes)
        else:
            at = _next_entry(head, read, at + ALIGNMENT, nbytes)
    return Scan(end, entries, tuple(damaged), damages)


def _checksum_at(read: Reader, offset: int, nbytes: int) -> int:
    if nbytes <= SCAN_NBYTES:
        return xxhash.xxh3_64_intdigest(read(offset, nbytes))
    stop = offset + nbytes
    return checksum_of(
        read(at, min(SCAN_NBYTES, stop - at)) for at in range(offset, stop, SCAN_NBYTES)
    )


def _next_entry(head: Head, read: Reader, start: int, nbytes: int) -> int:
    """Where the next header of an entry stands, from `start` on; `nbytes` if nowhere."""
    # Pieces begin at multiples of 8, and so do entries: no tag is cut in two.
    for base in range(start, nbytes, SCAN_NBYTES):
        piece = bytes(read(base, min(SCAN_NBYTES, nbytes - base)))
        found = piece.find(head.tag)
        while found >= 0:
            at = base + found
            if found % ALIGNMENT == 0 and parse_entry(head, at, read(at, ENTRY_NBYTES)):
                return at
            found = piece.find(head.tag, found + 1)
    return nbytes
