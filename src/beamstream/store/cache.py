"""Payloads in memory: slots in arenas, pins, shares, eviction. Pure bookkeeping, no I/O.

The cache is made of arenas, each of one beamtime at a time. Within a beamtime payloads lie in the
order of their arrival, round and round through its arenas like in a ring: room for a new one is
made by forgetting the oldest ahead of the cursor. A slot that is pinned (being received, written
to disk, or sent) is stepped over, never reused. A beamtime takes free arenas first; when there are
none it takes one from a beamtime that has more than its share, and otherwise forgets its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from beamstream import limits
from beamstream.store.rings import ALIGNMENT, Arena, Key, Ring, Slot, aligned
from beamstream.store.shares import Shares

__all__ = ["ALIGNMENT", "Cache", "Key", "Loan", "Renewal", "Slot"]

Loan = Ring


class Renewal(msgspec.Struct, frozen=True):
    """Other memory is wanted for an arena.

    Parameters
    ----------
    index : of the arena.
    old, new : ids of its memory until now, and of the one that is to be made.
    kept : (offset, nbytes) of what readers of the old memory still look at; the rest of it may go.
    """

    index: int
    old: int
    new: int
    kept: tuple[tuple[int, int], ...]


class _Retired:
    """Memory that is not an arena's any more; readers hold parts of it."""

    __slots__ = ("beamtime", "slots")

    def __init__(self, beamtime: str, slots: int) -> None:
        self.beamtime = beamtime
        self.slots = slots


class Cache:
    """Slots for payloads.

    Parameters
    ----------
    arenas : writable memory, one view each.
    new_buf_id : makes an address for readers: unguessable, not 0, unique.
    slots_max : payloads at once.
    on_renew : has other memory made for an arena; `renewed` is called with it, then or later.
        None: arenas keep their memory, and no client can map it.
    on_retired : the id of a memory whose last reader has let go.

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
        on_renew: Callable[[Renewal], None] | None = None,
        on_retired: Callable[[int], None] | None = None,
    ) -> None:
        made = [Arena(index, index + 1, memory) for index, memory in enumerate(arenas)]
        self._shares = Shares(made)
        self._last_id = len(made)
        self._by_id = {arena.id: arena for arena in made}
        self._retired: dict[int, _Retired] = {}
        self._on_renew = on_renew
        self._on_retired = on_retired
        self._by_key: dict[Key, Slot] = {}
        self._by_buf_id: dict[int, Slot] = {}
        self._by_part: dict[int, tuple[Slot, int, int]] = {}
        self._new_buf_id = new_buf_id
        self.on_unlink: Callable[[Key, Slot], None] | None = None
        """Called when a slot cannot be found under its key any more."""
        self._generation = 0
        self._slots_max = slots_max
        self.nbytes = sum(memory.nbytes for memory in arenas)
        self.payload_nbytes_max = min((memory.nbytes for memory in arenas), default=0)
        self.slots = 0
        self.evicted = 0
        self.pinned_nbytes = 0
        self.readers_nbytes = 0
        """What readers hold, also in memory that is not an arena's any more."""

    def allocate(self, beamtime: str, nbytes: int) -> Slot | None:
        """Return a slot of exactly `nbytes`, pinned once; None when all that may go is pinned.

        `nbytes` must be positive and at most `payload_nbytes_max`.
        """
        return self._allocate(self._shares.ring(beamtime), nbytes)

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

    def part(self, slot: Slot, offset: int, nbytes: int) -> int:
        """An address for readers of `nbytes` of a published slot from `offset` on.

        Good as long as the slot is, or until very many others have been asked for.
        """
        if slot.parts is None:
            slot.parts = {}
        buf_id = slot.parts.get(offset)
        if buf_id is None:
            if len(self._by_part) >= self._slots_max:
                oldest = next(iter(self._by_part))
                old, old_offset, _ = self._by_part.pop(oldest)
                if old.parts is not None:
                    old.parts.pop(old_offset, None)
            buf_id = slot.parts[offset] = self._new_buf_id()
            self._by_part[buf_id] = (slot, offset, nbytes)
        return buf_id

    def addressed(self, buf_id: int) -> tuple[Slot, int, int] | None:
        """Slot, offset and nbytes of what an address stands for, be it a slot or part of one."""
        slot = self._by_buf_id.get(buf_id)
        if slot is not None:
            return slot, 0, slot.nbytes
        return self._by_part.get(buf_id)

    def pin(self, slot: Slot) -> None:
        if slot.pins == 0:
            self.pinned_nbytes += slot.nbytes
        slot.pins += 1

    def unpin(self, slot: Slot) -> None:
        assert slot.pins > 0, "a slot is unpinned more often than pinned"
        slot.pins -= 1
        if slot.pins == 0:
            self.pinned_nbytes -= slot.nbytes
            if slot.arena is None:
                self._let_go(slot.memory)

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
        return sum(arena.nbytes for arena in self._shares.arenas_of(beamtime))

    def all_used_nbytes(self) -> int:
        """Arenas that beamtimes have, in bytes."""
        return sum(arena.nbytes for ring in self._shares.all() for arena in ring.arenas)

    def share_nbytes(self, beamtime: str) -> int:
        """What a beamtime may have while others want some, in bytes."""
        return self._shares.share(beamtime) * (self.nbytes // self._shares.count)

    # ------------------------------------------------------------------ shared with clients

    def export(self, memory: int, beamtime: str) -> bool:
        """Whether clients that may read `beamtime` may map the memory of this id, from now on."""
        arena = self._by_id.get(memory)
        if arena is None:
            retired = self._retired.get(memory)
            return retired is not None and retired.beamtime == beamtime
        if arena.ring is None or arena.ring.beamtime != beamtime or not arena.clean:
            return False
        arena.exported = arena.ready
        return arena.ready

    def pin_for_reader(self, slot: Slot) -> bool:
        """Pin a slot for a client that looks at it itself; False if its memory cannot be mapped.

        The client may keep it as long as it likes: if its memory is needed, the arena gets other
        memory, and the client has the old one.
        """
        arena = slot.arena
        if arena is None or self._on_renew is None:
            return False
        if not arena.clean:
            if arena.ring is not None:
                arena.ring.mapped = True
            return False
        if not slot.readers:
            self.readers_nbytes += slot.nbytes
        slot.readers += 1
        self.pin(slot)
        return True

    def unpin_for_reader(self, slot: Slot) -> None:
        assert slot.readers > 0, "a slot is given back by more readers than had it"
        slot.readers -= 1
        if not slot.readers:
            self.readers_nbytes -= slot.nbytes
        self.unpin(slot)

    def lend(self, beamtime: str) -> Loan | None:
        """Arenas for a client that writes into them itself; None when there are none for that."""
        if self._on_renew is None:
            return None
        loan = Ring(beamtime, lent=True)
        if not self._acquire(loan):
            return None
        self._shares.loans.append(loan)
        return loan

    def lent(self, loan: Loan, memory: int) -> bool:
        """Whether the memory of this id belongs to a loan; its client may write to it."""
        arena = self._by_id.get(memory)
        if arena is None or arena.ring is not loan or not arena.ready:
            return False
        arena.exported = True
        return True

    def allocate_lent(self, loan: Loan, nbytes: int) -> Slot | None:
        """As `allocate`, in lent arenas."""
        return self._allocate(loan, nbytes)

    def shrink(self, slot: Slot, nbytes: int) -> None:
        """A pinned slot is not filled up: it has `nbytes` from now on."""
        assert 0 < nbytes <= slot.nbytes
        assert slot.pins > slot.readers == 0
        self.pinned_nbytes -= slot.nbytes - nbytes
        slot.nbytes = nbytes

    def take_back(self, loan: Loan) -> None:
        """A client writes no more: its slots stay until their memory is needed.

        Then the arena gets other memory first, for the client may still have the old one.
        """
        self._shares.take_back(loan)

    def renewed(self, memory: int, view: memoryview | None) -> None:
        """Here is the memory that was to be made; None (not within `on_renew`): there is none."""
        arena = self._by_id[memory]
        if view is not None:
            arena.memory = view
            arena.ready = True
            return
        self.nbytes -= arena.nbytes
        self._shares.count -= 1
        del self._by_id[memory]
        if arena.ring is not None:
            arena.ring.remove(arena)

    def unblock(self) -> None:
        """Call now and then: where there was no room since the last call because readers hold
        parts of everything, an arena gets other memory."""
        for ring in tuple(self._shares.all()):
            if ring.failed and ring.patience:
                self._renew_under_readers(ring)
            ring.patience = ring.failed

    # ------------------------------------------------------------------ the ring

    def _allocate(self, ring: Ring, nbytes: int) -> Slot | None:
        slot = self._find_room(ring, nbytes)
        ring.failed = slot is None
        return slot

    def _find_room(self, ring: Ring, nbytes: int) -> Slot | None:
        if not ring.arenas and not self._acquire(ring):
            return None
        if self.slots >= self._slots_max and not self._evict_any():
            return None
        # Every arena of the ring is visited once, the current one twice: before and behind its
        # cursor. One more visit for an arena taken on the way.
        for _ in range(len(ring.arenas) + 2):
            arena = ring.arenas[ring.current]
            if arena.stale and (arena.foreign or not arena.cursor) and not arena.in_use:
                self._renew(arena)
            if not arena.ready:
                # There will be room in a moment: nothing else needs to go for it.
                return None
            if not arena.foreign:
                offset = self._sweep(arena, nbytes)
                if offset >= 0:
                    return self._place(arena, offset, nbytes)
            arena.cursor = 0
            ring.current += 1
            if ring.current == len(ring.arenas) and not self._acquire(ring):
                ring.current = 0
        return None

    def _sweep(self, arena: Arena, nbytes: int) -> int:
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
                start = aligned(ahead.offset + ahead.nbytes)
            else:
                self._forget(ahead)

    def _place(self, arena: Arena, offset: int, nbytes: int) -> Slot:
        self._generation += 1
        slot = Slot(arena, offset, nbytes, self._generation)
        arena.slots.append(slot)
        arena.cursor = aligned(offset + nbytes)
        self.slots += 1
        self.pinned_nbytes += nbytes
        return slot

    def _evict_any(self) -> bool:
        """Forget one slot, of the beamtime that has the most of them if possible."""
        rings = sorted(self._shares.all(), key=Ring.slots, reverse=True)
        return any(self._evict_oldest(ring) for ring in rings)

    def _evict_oldest(self, ring: Ring) -> bool:
        """Forget one slot: the first unpinned from just ahead of the cursor on."""
        for arena in ring.oldest_first():
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
            for buf_id in (slot.parts or {}).values():
                del self._by_part[buf_id]
            slot.parts = None
            key, slot.key = slot.key, None
            if self.on_unlink is not None:
                self.on_unlink(key, slot)

    # ------------------------------------------------------------------ changing hands

    def _acquire(self, ring: Ring) -> bool:
        """Give the ring another arena, behind its last one."""
        if not ring.ready:
            return False
        shares, under_readers = self._shares, self._on_renew is not None
        hand_over = shares.lend if ring.lent else shares.acquire
        arena = hand_over(ring, under_readers=under_readers)
        if arena is None:
            return False
        if arena.ring is not None:
            self._clear(arena, lent=ring.lent)
        ring.add(arena)
        return True

    def _clear(self, arena: Arena, *, lent: bool) -> None:
        """An arena changes hands: nothing that clients can see may become its new owner's."""
        if lent or arena.exported or arena.foreign or arena.pinned:
            self._renew(arena)
            return
        for slot in arena.slots:
            self._forget(slot)
        arena.slots.clear()
        arena.cursor = 0
        arena.clean = False

    def _renew(self, arena: Arena) -> None:
        """Have other memory made; readers that hold parts of the old one keep them."""
        assert self._on_renew is not None
        assert arena.ring is not None
        kept = [slot for slot in arena.slots if slot.pins]
        for slot in arena.slots:
            self._forget(slot)
        arena.slots.clear()
        old = arena.id
        if kept:
            self._retired[old] = _Retired(arena.ring.beamtime, len(kept))
        self._last_id += 1
        del self._by_id[old]
        arena.renew(self._last_id)
        self._by_id[arena.id] = arena
        parts = tuple((slot.offset, slot.nbytes) for slot in kept)
        self._on_renew(Renewal(arena.index, old, arena.id, parts))

    def _renew_under_readers(self, ring: Ring) -> None:
        if self._on_renew is None or not ring.ready:
            return
        able = [arena for arena in ring.arenas if arena.pinned and not arena.in_use]
        if able:
            self._renew(min(able, key=_pinned_nbytes))

    def _let_go(self, memory: int) -> None:
        """A slot that had outlived its arena is not held any more."""
        retired = self._retired[memory]
        retired.slots -= 1
        if not retired.slots:
            del self._retired[memory]
            if self._on_retired is not None:
                self._on_retired(memory)


def _pinned_nbytes(arena: Arena) -> int:
    return sum(slot.nbytes for slot in arena.slots if slot.pins)
