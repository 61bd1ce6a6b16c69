"""The rows of the benchmark: what is measured, and what the original reached there."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

KB: Final = 1_000
MB: Final = 1_000_000
SIZES: Final = (1 * KB, 100 * KB, 1 * MB, 4 * MB, 16 * MB)
WAIT_SIZES: Final = SIZES[:4]
THREADS: Final = (1, 2, 4)
WAIT_RATE: Final = 100.0

ORIGINAL_RAW_MB_S: Final = 2_200.0
"""A raw loopback stream, one connection, on the machine of the original's figures."""

_ORIGINAL_THREADS: Final = 4
_ORIGINAL_CACHE: Final = dict(zip(SIZES, (3_900.0, 3_200.0, 1_800.0, 610.0, 200.0), strict=True))
_ORIGINAL_FILES: Final = dict(zip(SIZES, (1_950.0, 1_640.0, 620.0, 300.0, 56.0), strict=True))
_ORIGINAL_NEXT: Final = {False: 1_000.0, True: 670.0}
_ORIGINAL_WAIT: Final = dict(
    zip(WAIT_SIZES, ((55.0, 107.0), (55.0, 107.0), (56.0, 107.0), (60.0, 113.0)), strict=True)
)
"""ASAPO (C++ receiver, Go broker, MongoDB) on 2 cores: messages/s; p50 and p99 in ms."""


class Kind(enum.StrEnum):
    """What a row measures."""

    RAW_STREAM = "raw stream"
    RAW_REPLY = "raw reply"
    RAW_WAIT = "raw wait"
    FILES = "bare files"
    PUT = "put"
    NEXT = "next"
    WAIT = "wait"

    @property
    def needs_node(self) -> bool:
        return self in (Kind.PUT, Kind.NEXT, Kind.WAIT)

    @property
    def is_delay(self) -> bool:
        return self in (Kind.RAW_WAIT, Kind.WAIT)


class Mode(enum.StrEnum):
    """How messages are put: cache-only (ingest mode 9), or mode 13 at a durability level."""

    CACHE = "cache"
    OS = "os"
    DISK = "disk"

    @property
    def durability(self) -> str:
        """Of the node that this mode is measured on; cache-only does not depend on it."""
        return "os" if self is Mode.OS else "disk"


@dataclass(frozen=True)
class Load:
    """Another source that is written, cache-only, while a row is measured.

    Parameters
    ----------
    rate : messages per second; 0 for as fast as it goes.
    """

    size: int
    rate: float

    def __str__(self) -> str:
        return (
            f"{show_size(self.size)} at {self.rate:.0f}/s"
            if self.rate
            else (f"{show_size(self.size)} flat out")
        )


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    size : nbytes of a payload.
    peers : connections, threads of the producer, or consumers.
    with_data : `NEXT` fetches payloads as well.
    """

    kind: Kind
    size: int
    peers: int = 1
    mode: Mode = Mode.CACHE
    with_data: bool = False
    load: Load | None = None

    @property
    def name(self) -> str:
        size = show_size(self.size)
        match self.kind:
            case Kind.PUT:
                return f"put {self.mode} {size} x{self.peers}"
            case Kind.NEXT:
                what = f"data {size}" if self.with_data else "metadata"
                beside = f"beside {self.load}" if self.load else "idle"
                return f"next {what} x{self.peers} {beside}"
            case Kind.WAIT | Kind.RAW_WAIT:
                return f"{self.kind} {size} at {WAIT_RATE:.0f}/s"
        return f"{self.kind} {size} x{self.peers}"

    @property
    def durability(self) -> str:
        """Of the node this row needs; empty if it needs none."""
        if not self.kind.needs_node:
            return ""
        return self.mode.durability if self.kind is Kind.PUT else "disk"

    @property
    def original(self) -> tuple[float, ...]:
        """The original's rate, or p50 and p99 in ms; empty if it is not known."""
        match self.kind:
            case Kind.PUT if self.peers == _ORIGINAL_THREADS and self.mode is Mode.CACHE:
                return (_ORIGINAL_CACHE[self.size],)
            case Kind.PUT if self.peers == _ORIGINAL_THREADS:
                return (_ORIGINAL_FILES[self.size],)
            case Kind.NEXT:
                return (_ORIGINAL_NEXT[self.with_data],)
            case Kind.WAIT:
                return _ORIGINAL_WAIT[self.size]
        return ()

    @property
    def raw(self) -> Row:
        """What this row is a share of: the same by bare sockets with as many connections."""
        match self.kind:
            case Kind.PUT:
                return Row(Kind.RAW_STREAM, self.size, self.peers)
            case Kind.NEXT:
                return Row(Kind.RAW_REPLY, self.size, self.peers)
            case Kind.WAIT:
                return Row(Kind.RAW_WAIT, self.size)
        return self

    @property
    def raw_single(self) -> Row:
        """The raw stream by one connection, as known of the original's machine."""
        return Row(Kind.RAW_STREAM, self.size, 1)

    @property
    def files(self) -> Row:
        """The bare file operations of as many threads."""
        return Row(Kind.FILES, self.size, self.peers)

    @property
    def references(self) -> tuple[Row, ...]:
        """Rows that must be measured for this one to mean something."""
        if self.kind is not Kind.PUT:
            return (self.raw,)
        stored = (self.files,) if self.mode is not Mode.CACHE else ()
        return (self.raw_single, self.raw, Row(Kind.RAW_REPLY, self.size, self.peers), *stored)


def all_rows() -> list[Row]:
    """Return every row, in the order of the table.

    >>> names = [row.name for row in all_rows()]
    >>> len(names) == len(set(names))
    True
    >>> names[0], names[-1]
    ('raw stream 1 kB x1', 'wait 4 MB at 100/s')
    """
    grid = [(size, threads) for size in SIZES for threads in THREADS]
    rows = [Row(kind, *at) for kind in (Kind.RAW_STREAM, Kind.RAW_REPLY) for at in grid]
    rows += [Row(Kind.RAW_WAIT, size) for size in WAIT_SIZES]
    rows += [Row(Kind.FILES, *at) for at in grid]
    rows += [Row(Kind.PUT, *at, mode=mode) for mode in Mode for at in grid]
    loads = (None, Load(KB, 2_000), Load(MB, 200), Load(KB, 0), Load(MB, 0))
    rows += [Row(Kind.NEXT, KB, 2, load=load) for load in loads]
    # Megabytes flat out push the payloads that are read out of the cache within a second.
    rows += [Row(Kind.NEXT, KB, 1, with_data=True, load=load) for load in loads[:-1]]
    rows += [Row(Kind.WAIT, size) for size in WAIT_SIZES]
    return rows


def chosen_rows(pattern: str) -> list[Row]:
    """Return the rows whose name has `pattern` (a regular expression), and what they refer to.

    >>> [row.name for row in chosen_rows("^put cache 1 MB x1")]
    ['raw stream 1 MB x1', 'raw reply 1 MB x1', 'put cache 1 MB x1']
    """
    rows = all_rows()
    found = {row for row in rows if re.search(pattern, row.name)}
    wanted = found | {reference for row in found for reference in row.references}
    return [row for row in rows if row in wanted]


def in_order_of_measuring(rows: list[Row]) -> list[Row]:
    """Return `rows` so that raw rows come right before those that are a share of them.

    Rows of one node come together, the one with durability ``disk`` first.
    """
    kinds = list(Kind)

    def key(row: Row) -> tuple[bool, bool, int, int, int, str]:
        grid = row.kind not in (Kind.NEXT, Kind.WAIT, Kind.RAW_WAIT)
        place = (row.size, row.peers) if grid else (0, 0)
        return (row.durability == "os", not grid, *place, kinds.index(row.kind), row.name)

    return sorted(rows, key=key)


def show_size(nbytes: int) -> str:
    """Return a size as people say it.

    >>> show_size(1_000), show_size(100_000), show_size(16_000_000)
    ('1 kB', '100 kB', '16 MB')
    """
    return f"{nbytes // MB} MB" if nbytes >= MB else f"{nbytes // KB} kB"
