"""Slots, the arenas that they lie in, and the rings of arenas of beamtimes. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

ALIGNMENT = 64
"""Slots begin on cache lines, so that numpy views of them are aligned for every dtype."""

NO_MEMORY: Final = memoryview(b"")

Key = Hashable


class Slot:
    """A stretch of an arena that holds one payload.

    `pins` counts the holds on it; while there is one, its bytes do not change hands. `readers` are
    those of the pins that clients have who look at the memory themselves, for as long as they like.
    `generation` differs for every use of a stretch of memory. `memory` is the id of the arena that
    it lies in. `buf_id` is the address handed to readers.
    """

    __slots__ = (
        "arena",
        "buf_id",
        "generation",
        "key",
        "memory",
        "nbytes",
        "offset",
        "parts",
        "pins",
        "readers",
    )

    def __init__(self, arena: Arena, offset: int, nbytes: int, generation: int) -> None:
        self.arena: Arena | None = arena
        self.memory = arena.id
        self.offset = offset
        self.nbytes = nbytes
        self.generation = generation
        self.pins = 1
        self.readers = 0
        self.key: Key | None = None
        self.buf_id = 0
        self.parts: dict[int, int] | None = None
        """Offset -> address of a part, for those that were asked for (`Cache.part`)."""

    @property
    def alive(self) -> bool:
        """False once the memory has been given to somebody else."""
        return self.arena is not None


class Arena:
    """One of the memories of the cache, of one beamtime at a time.

    Parameters
    ----------
    index : which of the arenas it is.
    id : of its memory; another memory has another id, which is larger than all before.

    Attributes
    ----------
    ring : where it is, or was last while it changes hands; None before its first use.
    ready : False while other memory is being made for it; then it has no slots.
    clean : nothing of another beamtime was ever in this memory.
    exported : clients may have mapped it.
    foreign : a client that is gone could write to it, and still might.
    slots : live ones, in cyclic order from the cursor: the first is the next one ahead.
    """

    __slots__ = (
        "clean",
        "cursor",
        "exported",
        "foreign",
        "id",
        "index",
        "memory",
        "nbytes",
        "ready",
        "ring",
        "slots",
    )

    def __init__(self, index: int, id: int, memory: memoryview) -> None:
        self.index = index
        self.nbytes = memory.nbytes
        self.ring: Ring | None = None
        self.slots: deque[Slot] = deque()
        self.cursor = 0
        self.renew(id)
        self.memory = memory
        self.ready = True

    def renew(self, id: int) -> None:
        """It is to have other memory, which is not there yet."""
        self.id = id
        self.memory = NO_MEMORY
        self.ready = False
        self.clean = True
        self.exported = self.foreign = False
        self.cursor = 0

    @property
    def stale(self) -> bool:
        """Better memory is to be made when the cursor comes by."""
        if self.foreign:
            return True
        return not self.clean and self.ring is not None and self.ring.mapped

    @property
    def pinned(self) -> bool:
        return any(slot.pins for slot in self.slots)

    @property
    def in_use(self) -> bool:
        """Whether the node itself works with some of it."""
        return any(slot.pins > slot.readers for slot in self.slots)


class Ring:
    """Arenas of a beamtime, in the order in which the cursor visits them.

    A beamtime has one for what comes by sockets, and one for each client that writes into the
    memory itself (`lent`).
    """

    __slots__ = ("arenas", "beamtime", "current", "failed", "lent", "mapped", "patience")

    def __init__(self, beamtime: str, *, lent: bool = False) -> None:
        self.beamtime = beamtime
        self.lent = lent
        self.arenas: list[Arena] = []
        self.current = 0
        self.mapped = False
        """Clients would map its arenas if they were clean."""
        self.failed = False
        """There was no room when it was asked for last."""
        self.patience = False
        """It had failed already a while ago."""

    def slots(self) -> int:
        return sum(len(arena.slots) for arena in self.arenas)

    @property
    def ready(self) -> bool:
        return all(arena.ready for arena in self.arenas)

    def add(self, arena: Arena) -> None:
        """Behind the last one."""
        arena.ring = self
        self.arenas.append(arena)

    def add_newest(self, arena: Arena) -> None:
        """Just behind the cursor, so that it is visited last."""
        arena.ring = self
        self.arenas.insert(self.current, arena)
        if len(self.arenas) > 1:
            self.current += 1

    def remove(self, arena: Arena) -> None:
        current = self.arenas[self.current % len(self.arenas)]
        self.arenas.remove(arena)
        self.current = self.arenas.index(current) if current in self.arenas else 0

    def oldest_first(self) -> list[Arena]:
        return self.arenas[self.current + 1 :] + self.arenas[: self.current + 1]


def aligned(offset: int) -> int:
    return (offset + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
