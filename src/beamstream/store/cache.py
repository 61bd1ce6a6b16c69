"""Payloads in memory: slots in arenas, pins, shares, eviction. Pure bookkeeping, no I/O.

The cache is made of arenas, each of one beamtime at a time. Within a beamtime payloads lie in the
order of their arrival, round and round through its arenas like in a ring: room for a new one is
made by forgetting the oldest ahead of the cursor. A slot that is pinned (being received, written
to disk, or sent) is stepped over, never reused. A beamtime takes free arenas first; when there are
none it takes one from a beamtime that has more than its share, and otherwise forgets its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

from beamstream import limits

ALIGNMENT = 64
"""Slots begin on cache lines, so that numpy views of them are aligned for every dtype."""

Key = Hashable


class Slot:
    """A stretch of an arena that holds one payload.

    `pins` counts the holds on it; while there is one, its bytes do not change hands. `generation`
    differs for every use of a stretch of memory. `buf_id` is the address handed to readers.
    """

    __slots__ = ("arena", "buf_id", "generation", "key", "nbytes", "offset", "pins")

    def __init__(self, arena: _Arena, offset: int, nbytes: int, generation: int) -> None:
        self.arena: _Arena | None = arena
        self.offset = offset
        self.nbytes = nbytes
        self.generation = generation
        self.pins = 1
        self.key: Key | None = None
        self.buf_id = 0

    @property
    def alive(self) -> bool:
        """False once the memory has been given to somebody else."""
        return self.arena is not None


class _Arena:
    __slots__ = ("cursor", "index", "memory", "nbytes", "slots")

    def __init__(self, index: int, memory: memoryview) -> None:
        self.index = index
        self.memory = memory
        self.nbytes = memory.nbytes
        self.cursor = 0
        self.slots: deque[Slot] = deque()
        """Live slots, in cyclic order from the cursor: the first is the next one ahead."""


class _Ring:
    """The arenas of one beamtime, in the order in which the cursor visits them."""

    __slots__ = ("arenas", "current")

    def __init__(self) -> None:
        self.arenas: list[_Arena] = []
        self.current = 0

    def slots(self) -> int:
        return sum(len(arena.slots) for arena in self.arenas)


class Cache:
    """Slots for payloads.

    Parameters
    ----------
    arenas : writable memory, one view each.
    new_buf_id : makes an address for readers: unguessable, not 0, unique.
    slots_max : payloads at once.

    >>> cache = Cache([memoryview(bytearray(1024))], new_buf_id=iter(range(1, 9)).__next__)
    >>> slot = cache.allocate("bt1", 5)
    >>> cache.view(slot)[:] = b"hello"
    >>> cache.publish(slot, ("bt1", 1, 1, 0)); cache.unpin(slot)
    >>> bytes(cache.view(cache.find(("bt1", 1, 1, 0))))
    b'hello'
    """

    def __init__(
        self,
        arenas: Sequence[memoryview],
        new_buf_id: Callable[[], int],
        slots_max: int = limits.SLOTS_MAX,
    ) -> None:
        self._free = [_Arena(index, memory) for index, memory in enumerate(arenas)][::-1]
        self._count = len(arenas)
        self._rings: dict[str, _Ring] = {}
        self._by_key: dict[Key, Slot] = {}
        self._by_buf_id: dict[int, Slot] = {}
        self._new_buf_id = new_buf_id
        self._generation = 0
        self._slots_max = slots_max
        self.nbytes = sum(memory.nbytes for memory in arenas)
        self.payload_nbytes_max = min((memory.nbytes for memory in arenas), default=0)
        self.slots = 0
        self.evicted = 0
        self.pinned_nbytes = 0

    def allocate(self, beamtime: str, nbytes: int) -> Slot | None:
        """Return a slot of exactly `nbytes`, pinned once; None when all that may go is pinned.

        `nbytes` must be positive and at most `payload_nbytes_max`.
        """
        ring = self._rings.get(beamtime)
        if ring is None:
            ring = self._rings[beamtime] = _Ring()
        if not ring.arenas and not self._acquire(beamtime, ring):
            return None
        if self.slots >= self._slots_max and not self._evict_any():
            return None
        # Every arena of the ring is visited once, the current one twice: before and behind its
        # cursor. One more visit for an arena taken on the way.
        for _ in range(len(ring.arenas) + 2):
            arena = ring.arenas[ring.current]
            offset = self._sweep(arena, nbytes)
            if offset >= 0:
                return self._place(arena, offset, nbytes)
            arena.cursor = 0
            ring.current += 1
            if ring.current == len(ring.arenas) and not self._acquire(beamtime, ring):
                ring.current = 0
        return None

    def view(self, slot: Slot) -> memoryview:
        """The memory of a slot; valid while it is pinned."""
        arena = slot.arena
        assert arena is not None, "a slot is used after it was given away"
        return arena.memory[slot.offset : slot.offset + slot.nbytes]

    def publish(self, slot: Slot, key: Key) -> None:
        """Let readers find the slot under `key`; one that was there before is forgotten."""
        old = self._by_key.get(key)
        if old is not None and old is not slot:
            self._unlink(old)
        slot.key = key
        slot.buf_id = self._new_buf_id()
        self._by_key[key] = slot
        self._by_buf_id[slot.buf_id] = slot

    def find(self, key: Key) -> Slot | None:
        return self._by_key.get(key)

    def by_buf_id(self, buf_id: int) -> Slot | None:
        return self._by_buf_id.get(buf_id)

    def pin(self, slot: Slot) -> None:
        if slot.pins == 0:
            self.pinned_nbytes += slot.nbytes
        slot.pins += 1

    def unpin(self, slot: Slot) -> None:
        assert slot.pins > 0, "a slot is unpinned more often than pinned"
        slot.pins -= 1
        if slot.pins == 0:
            self.pinned_nbytes -= slot.nbytes

    def discard(self, slot: Slot) -> None:
        """Unpin a slot that was never published; its memory is used again at once if possible."""
        self.unpin(slot)
        arena = slot.arena
        if (
            slot.pins == 0
            and slot.key is None
            and arena is not None
            and arena.slots
            and arena.slots[-1] is slot
        ):
            arena.slots.pop()
            arena.cursor = slot.offset
            self._forget(slot)

    def used_nbytes(self, beamtime: str) -> int:
        """Arenas of a beamtime, in bytes."""
        ring = self._rings.get(beamtime)
        return sum(arena.nbytes for arena in ring.arenas) if ring else 0

    # ------------------------------------------------------------------ the ring

    def _sweep(self, arena: _Arena, nbytes: int) -> int:
        """Find room ahead of the cursor, forgetting what may be forgotten; -1 at the end."""
        start, slots = arena.cursor, arena.slots
        while True:
            ahead = slots[0] if slots and slots[0].offset >= start else None
            end = ahead.offset if ahead is not None else arena.nbytes
            if end - start >= nbytes:
                return start
            if ahead is None:
                return -1
            slots.popleft()
            if ahead.pins:
                slots.append(ahead)
                start = _aligned(ahead.offset + ahead.nbytes)
            else:
                self._forget(ahead)

    def _place(self, arena: _Arena, offset: int, nbytes: int) -> Slot:
        self._generation += 1
        slot = Slot(arena, offset, nbytes, self._generation)
        arena.slots.append(slot)
        arena.cursor = _aligned(offset + nbytes)
        self.slots += 1
        self.pinned_nbytes += nbytes
        return slot

    def _evict_any(self) -> bool:
        """Forget one slot, of the beamtime that has the most of them if possible."""
        rings = sorted(self._rings.values(), key=_Ring.slots, reverse=True)
        return any(self._evict_oldest(ring) for ring in rings)

    def _evict_oldest(self, ring: _Ring) -> bool:
        """Forget one slot: the first unpinned from just ahead of the cursor on."""
        order = ring.arenas[ring.current + 1 :] + ring.arenas[: ring.current + 1]
        for arena in order:
            for index, slot in enumerate(arena.slots):
                if not slot.pins:
                    del arena.slots[index]
                    self._forget(slot)
                    return True
        return False

    def _forget(self, slot: Slot) -> None:
        self._unlink(slot)
        slot.arena = None
        self.slots -= 1
        self.evicted += 1

    def _unlink(self, slot: Slot) -> None:
        if slot.key is not None:
            if self._by_key.get(slot.key) is slot:
                del self._by_key[slot.key]
            del self._by_buf_id[slot.buf_id]
            slot.key = None

    # ------------------------------------------------------------------ shares

    def _acquire(self, beamtime: str, ring: _Ring) -> bool:
        """Give the ring another arena, behind its last one."""
        if self._free:
            ring.arenas.append(self._free.pop())
            return True
        active = sum(1 for other in self._rings.values() if other.arenas or other is ring)
        share = max(1, self._count // active)
        if len(ring.arenas) >= share:
            return False
        # The richest first; one without any arena takes even from those that have only their share.
        least = share if ring.arenas else 0
        givers = [other for other in self._rings.values() if len(other.arenas) > least]
        givers.sort(key=lambda other: len(other.arenas), reverse=True)
        arena = next(filter(None, map(self._give_up, givers)), None)
        if arena is None:
            return False
        ring.arenas.append(arena)
        for name in [name for name, other in self._rings.items() if not other.arenas]:
            if name != beamtime:
                del self._rings[name]
        return True

    def _give_up(self, ring: _Ring) -> _Arena | None:
        """Take the arena with the oldest payloads that nobody holds from a ring."""
        order = ring.arenas[ring.current + 1 :] + ring.arenas[: ring.current + 1]
        for arena in order:
            if not any(slot.pins for slot in arena.slots):
                for slot in arena.slots:
                    self._forget(slot)
                arena.slots.clear()
                arena.cursor = 0
                current = ring.arenas[ring.current % len(ring.arenas)]
                ring.arenas.remove(arena)
                ring.current = ring.arenas.index(current) if current in ring.arenas else 0
                return arena
        return None


def _aligned(offset: int) -> int:
    return (offset + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
