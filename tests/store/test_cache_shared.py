"""Arenas that clients map, read and write: nobody ever sees what is not meant for him.

Memory is real here: each id has its bytes for ever, as a client sees them that mapped it once.
"""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamstream.store.cache import Cache, Loan, Renewal, Slot

ARENA = 512
COUNT = 6
BEAMTIMES = ["bt1", "bt2", "bt3"]


class Memories:
    """Makes memory for arenas, and keeps all there ever was."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.by_id = {id: bytearray(ARENA) for id in range(1, COUNT + 1)}
        self.waiting: list[Renewal] = []
        self.retired: set[int] = set()
        self.at_once = at_once
        self.cache = Cache(
            [memoryview(memory) for memory in self.by_id.values()],
            itertools.count(1).__next__,
            on_renew=self.renew,
            on_retired=self.retired.add,
        )

    def renew(self, renewal: Renewal) -> None:
        old = self.by_id[renewal.old]
        kept = [(at, bytes(old[at : at + nbytes])) for at, nbytes in renewal.kept]
        old[:] = bytes(ARENA)
        for at, payload in kept:
            old[at : at + len(payload)] = payload
        assert renewal.new not in self.by_id
        self.waiting.append(renewal)
        if self.at_once:
            self.finish()

    def finish(self) -> None:
        renewal = self.waiting.pop(0)
        self.by_id[renewal.new] = bytearray(ARENA)
        self.cache.renewed(renewal.new, memoryview(self.by_id[renewal.new]))

    def seen(self, slot: Slot, memory: int) -> bytes:
        return bytes(self.by_id[memory][slot.offset : slot.offset + slot.nbytes])


class Held:
    """A slot as the model knows it."""

    def __init__(self, slot: Slot, beamtime: str, payload: bytes) -> None:
        self.slot = slot
        self.beamtime = beamtime
        self.payload = payload
        self.memory = slot.memory
        self.pins = 1
        self.readers = 0


class SharedWithClients(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memories = Memories(at_once=False)
        self.cache = self.memories.cache
        self.held: list[Held] = []
        self.loans: list[tuple[str, Loan]] = []
        self.wrote: dict[int, set[str]] = {}
        """Memory -> beamtimes of which it ever had bytes."""
        self.mapped: dict[int, str] = {}
        """Memory -> the beamtime whose clients have it mapped."""
        self.writers: dict[int, Loan] = {}
        """Memory -> the loan whose client can write to it, for ever."""
        self.numbers = itertools.count(1)

    def drawn(self, data: st.DataObject, *, pinned: bool) -> Held | None:
        able = [held for held in self.held if (held.pins if pinned else held.slot.alive)]
        return data.draw(st.sampled_from(able)) if able else None

    def write(self, slot: Slot | None, beamtime: str, loan: Loan | None) -> None:
        if slot is None:
            return
        assert self.writers.get(slot.memory, loan) is loan, "a client that is gone may write there"
        number = next(self.numbers)
        payload = bytes((number * 37 + at) % 255 + 1 for at in range(slot.nbytes))
        self.cache.view(slot)[:] = payload
        self.wrote.setdefault(slot.memory, set()).add(beamtime)
        self.held.append(Held(slot, beamtime, payload))

    # ------------------------------------------------------------------ what may happen

    @rule(beamtime=st.sampled_from(BEAMTIMES), nbytes=st.integers(1, 200))
    def allocate(self, beamtime: str, nbytes: int) -> None:
        self.write(self.cache.allocate(beamtime, nbytes), beamtime, None)

    @rule(beamtime=st.sampled_from(BEAMTIMES))
    def lend(self, beamtime: str) -> None:
        loan = self.cache.lend(beamtime)
        if loan is not None:
            self.loans.append((beamtime, loan))

    @precondition(lambda self: self.loans)
    @rule(data=st.data(), nbytes=st.integers(1, 300))
    def grant(self, data: st.DataObject, nbytes: int) -> None:
        beamtime, loan = data.draw(st.sampled_from(self.loans))
        slot = self.cache.allocate_lent(loan, nbytes)
        if slot is None:
            return
        assert self.cache.lent(loan, slot.memory)
        if slot.memory not in self.writers:
            assert not self.wrote.get(slot.memory), "what was lent was not empty"
            self.writers[slot.memory] = loan
        self.write(slot, beamtime, loan)

    @precondition(lambda self: self.loans)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.loans) - 1))
        self.cache.take_back(self.loans.pop(at)[1])

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        held = self.drawn(data, pinned=True)
        if held is not None and held.slot.alive and held.slot.key is None:
            self.cache.publish(held.slot, data.draw(st.integers(1, 12)))

    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        held = self.drawn(data, pinned=True)
        if held is not None and held.pins > held.readers:
            self.cache.unpin(held.slot)
            held.pins -= 1

    @rule(data=st.data(), maps=st.booleans())
    def read(self, data: st.DataObject, maps: bool) -> None:
        held = self.drawn(data, pinned=False)
        if held is None or not self.cache.pin_for_reader(held.slot):
            return
        held.pins += 1
        held.readers += 1
        if maps:
            self.map(held)

    @rule(data=st.data())
    def map_later(self, data: st.DataObject) -> None:
        held = self.drawn(data, pinned=True)
        if held is not None and held.readers:
            self.map(held)

    def map(self, held: Held) -> None:
        assert self.cache.export(held.memory, held.beamtime)
        assert self.mapped.setdefault(held.memory, held.beamtime) == held.beamtime

    @rule(data=st.data(), beamtime=st.sampled_from(BEAMTIMES))
    def map_any(self, data: st.DataObject, beamtime: str) -> None:
        """A client may ask for whatever it likes."""
        memory = data.draw(st.integers(0, max(self.memories.by_id) + 2))
        if self.cache.export(memory, beamtime):
            assert self.mapped.setdefault(memory, beamtime) == beamtime

    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        held = self.drawn(data, pinned=True)
        if held is not None and held.readers:
            self.cache.unpin_for_reader(held.slot)
            held.pins -= 1
            held.readers -= 1

    @rule()
    def unblock(self) -> None:
        self.cache.unblock()

    @precondition(lambda self: self.memories.waiting)
    @rule()
    def memory_is_there(self) -> None:
        self.memories.finish()

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def readers_see_what_they_were_given(self) -> None:
        for held in self.held:
            if held.pins and (held.slot.alive or held.readers):
                assert self.memories.seen(held.slot, held.memory) == held.payload
            if held.pins > held.readers:
                assert held.slot.alive

    @invariant()
    def nobody_maps_bytes_of_another_beamtime(self) -> None:
        for memory, beamtime in self.mapped.items():
            assert self.wrote.get(memory, set()) <= {beamtime}
        for memory, loan in self.writers.items():
            assert self.wrote.get(memory, set()) <= {loan.beamtime}

    @invariant()
    def numbers_are_exact(self) -> None:
        alive = [held for held in self.held if held.slot.alive]
        assert self.cache.slots == len(alive)
        assert self.cache.pinned_nbytes == sum(h.slot.nbytes for h in self.held if h.pins)
        assert self.cache.readers_nbytes == sum(h.slot.nbytes for h in self.held if h.readers)
        used = sum(self.cache.used_nbytes(beamtime) for beamtime in BEAMTIMES)
        assert used + len(self.cache._shares.free) * ARENA == self.cache.nbytes
        lent = sum(len(loan.arenas) for _, loan in self.loans)
        assert lent <= COUNT // 2

    @invariant()
    def old_memory_is_forgotten_with_its_last_reader(self) -> None:
        kept = {held.memory for held in self.held if held.readers and not held.slot.alive}
        assert set(self.cache._retired) == kept
        assert not kept & self.memories.retired


SharedWithClients.TestCase.settings = settings(
    max_examples=150, stateful_step_count=70, deadline=None, print_blob=True
)
TestSharedWithClients = SharedWithClients.TestCase


def filled(memories: Memories, beamtime: str, nbytes: int, key: object) -> Slot:
    slot = memories.cache.allocate(beamtime, nbytes)
    assert slot is not None
    memories.cache.view(slot)[:] = bytes([hash(key) % 255 + 1]) * nbytes
    memories.cache.publish(slot, key)
    memories.cache.unpin(slot)
    return slot


def test_a_frozen_reader_keeps_its_bytes_however_often_the_cache_cycles() -> None:
    memories = Memories()
    cache = memories.cache
    kept = filled(memories, "bt", 100, "kept")
    assert cache.pin_for_reader(kept)
    assert cache.export(kept.memory, "bt")
    before = memories.seen(kept, kept.memory)
    for number in range(200):
        filled(memories, "bt", 100, number)
    assert kept.alive, "it was stepped over"
    assert memories.seen(kept, kept.memory) == before


def test_readers_that_hold_a_bit_of_everything_stop_nobody() -> None:
    memories = Memories()
    cache = memories.cache
    slots = [filled(memories, "bt", 64, number) for number in range(COUNT * ARENA // 64)]
    kept = [slot for number, slot in enumerate(slots) if number % 4 == 0]
    for slot in kept:
        assert cache.pin_for_reader(slot)
    seen = [memories.seen(slot, slot.memory) for slot in kept]
    assert cache.allocate("bt", 300) is None
    assert cache.allocate("other", 1) is not None, "an arena is taken out of the readers' hands"
    cache.unblock()
    assert cache.allocate("bt", 300) is None, "readers are given some time"
    cache.unblock()
    assert cache.allocate("bt", 300) is not None
    assert [memories.seen(slot, slot.memory) for slot in kept] == seen
    for slot in kept:
        cache.unpin_for_reader(slot)
    assert len(memories.retired) == 2
    assert cache.readers_nbytes == 0


def test_what_another_beamtime_had_is_mapped_only_after_it_was_renewed() -> None:
    memories = Memories()
    cache = memories.cache
    for number in range(COUNT):
        filled(memories, "old", ARENA, number)
    slot = filled(memories, "new", 100, "new")
    assert bytes(memories.by_id[slot.memory]).count(0) == 0, "the old bytes are still there"
    assert not cache.pin_for_reader(slot)
    assert not cache.export(slot.memory, "new")
    for number in range(100):
        slot = filled(memories, "new", 100, number)
    assert cache.pin_for_reader(slot)
    assert cache.export(slot.memory, "new")


def test_what_a_writer_leaves_is_read_until_its_memory_is_needed() -> None:
    memories = Memories()
    cache = memories.cache
    filled(memories, "bt", 100, "own")
    loan = cache.lend("bt")
    assert loan is not None
    slot = cache.allocate_lent(loan, 200)
    assert slot is not None
    cache.shrink(slot, 150)
    cache.publish(slot, "lent")
    cache.unpin(slot)
    cache.take_back(loan)
    assert not cache.lent(loan, slot.memory)
    number = 0
    while cache.find("lent") is not None:
        assert filled(memories, "bt", 100, number).memory != slot.memory
        number += 1
    assert number >= (COUNT - 1) * (ARENA // 128)
    cycle = {filled(memories, "bt", 100, number).memory for number in range(100)}
    assert slot.memory not in cycle
    assert len(cycle) == COUNT


def test_half_of_the_arenas_at_most_are_lent_and_one_stays() -> None:
    memories = Memories()
    cache = memories.cache
    loans = [cache.lend("bt") for _ in range(COUNT)]
    assert [loan is not None for loan in loans] == [True] * (COUNT // 2) + [False] * (COUNT // 2)
    assert cache.allocate("bt", ARENA) is not None
    single = Cache([memoryview(bytearray(64))], iter(range(1, 9)).__next__, on_renew=print)
    assert single.lend("bt") is None


def test_without_memory_for_an_arena_there_is_one_less() -> None:
    memories = Memories(at_once=False)
    cache = memories.cache
    assert cache.allocate("bt", 10) is not None
    loans = [cache.lend("bt") for _ in range(3)]
    cache.take_back(next(loan for loan in loans if loan is not None))
    while not memories.waiting:
        slot = cache.allocate("bt", 100)
        if slot is not None:
            cache.unpin(slot)
    cache.renewed(memories.waiting.pop().new, None)
    assert cache.nbytes == (COUNT - 1) * ARENA
    assert filled(memories, "bt", ARENA, "more").alive
