"""The cache against a model: what lies where, what is held, who gives to whom."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamstream.store.cache import ALIGNMENT, Cache, Slot

ARENA = 1024
BEAMTIMES = ["bt1", "bt2", "bt3"]


def make(arenas: int = 4, arena: int = ARENA, slots_max: int = 1000) -> Cache:
    memory = [memoryview(bytearray(arena)) for _ in range(arenas)]
    return Cache(memory, itertools.count(1).__next__, slots_max)


def held(cache: Cache, beamtime: str, nbytes: int) -> Slot:
    slot = cache.allocate(beamtime, nbytes)
    assert slot is not None
    return slot


def stored(cache: Cache, beamtime: str, nbytes: int, key: object) -> Slot:
    """A payload that is there for readers and that nobody holds."""
    slot = held(cache, beamtime, nbytes)
    cache.publish(slot, key)
    cache.unpin(slot)
    return slot


class Held:
    """What the model knows of a slot: whose it is, what was written into it, how often pinned."""

    def __init__(self, beamtime: str, payload: bytes, generation: int) -> None:
        self.beamtime = beamtime
        self.payload = payload
        self.generation = generation
        self.pins = 1
        self.key: int | None = None
        self.buf_id = 0


class AgainstAModel(RuleBasedStateMachine):
    SLOTS_MAX = 24

    def __init__(self) -> None:
        super().__init__()
        self.cache = make(arenas=5, slots_max=self.SLOTS_MAX)
        self.slots: dict[Slot, Held] = {}
        self.numbers = itertools.count(1)

    def alive(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.alive]

    def pinned(self) -> list[Slot]:
        return [slot for slot, model in self.slots.items() if model.pins]

    # ------------------------------------------------------------------ what may happen

    @rule(
        beamtime=st.sampled_from(BEAMTIMES),
        nbytes=st.one_of(st.integers(1, 90), st.integers(200, ARENA)),
    )
    def allocate(self, beamtime: str, nbytes: int) -> None:
        slot = self.cache.allocate(beamtime, nbytes)
        if slot is None:
            self.nothing_could_go(beamtime, nbytes)
            return
        assert slot not in self.slots
        assert slot.nbytes == nbytes
        assert slot.offset % ALIGNMENT == 0
        assert slot.generation not in {model.generation for model in self.slots.values()}
        number = next(self.numbers)
        payload = bytes((number * 31 + at) % 256 for at in range(nbytes))
        self.cache.view(slot)[:] = payload
        self.slots[slot] = Held(beamtime, payload, slot.generation)

    def nothing_could_go(self, beamtime: str, nbytes: int) -> None:
        """No room: then all that may be forgotten is pinned, or too little lies between pins."""
        pinned = self.pinned()
        if len(self.alive()) >= self.SLOTS_MAX:
            assert len(pinned) == len(self.alive())
            return
        rings = {name: ring.arenas for name, ring in self.cache._shares.rings.items()}
        mine = rings.get(beamtime, [])
        for arena in mine:
            start = 0
            for slot in sorted(
                (slot for slot in pinned if slot.arena is arena), key=lambda slot: slot.offset
            ):
                assert slot.offset - start < nbytes
                start = (slot.offset + slot.nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
            assert arena.nbytes - start < nbytes
        assert not self.cache._shares.free
        active = sum(1 for name, arenas in rings.items() if arenas or name == beamtime)
        share = max(1, self.cache._shares.count // active)
        if len(mine) < share:
            in_use = {id(slot.arena) for slot in pinned}
            for name, arenas in rings.items():
                if name != beamtime and (len(arenas) > share or not mine):
                    assert all(id(arena) in in_use for arena in arenas)

    @precondition(lambda self: self.pinned())
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.pinned()))
        key = data.draw(st.integers(1, 8))
        if self.slots[slot].buf_id:
            return
        for model in self.slots.values():
            if model.key == key:
                model.key = None
        self.cache.publish(slot, key)
        model = self.slots[slot]
        model.key, model.buf_id = key, slot.buf_id
        assert slot.buf_id > 0

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.alive()))
        self.cache.pin(slot)
        self.slots[slot].pins += 1

    @precondition(lambda self: self.pinned())
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.pinned()))
        self.cache.unpin(slot)
        self.slots[slot].pins -= 1

    @precondition(lambda self: self.pinned())
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.pinned()))
        if self.slots[slot].buf_id:
            return
        self.cache.discard(slot)
        self.slots[slot].pins -= 1

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def slots_never_overlap(self) -> None:
        by_arena: dict[int, list[Slot]] = {}
        for slot in self.alive():
            by_arena.setdefault(id(slot.arena), []).append(slot)
        for slots in by_arena.values():
            assert len({self.slots[slot].beamtime for slot in slots}) == 1
            slots.sort(key=lambda slot: slot.offset)
            for one, two in itertools.pairwise(slots):
                assert one.offset + one.nbytes <= two.offset
            assert slots[-1].arena is not None
            assert slots[-1].offset + slots[-1].nbytes <= slots[-1].arena.nbytes

    @invariant()
    def what_lives_has_its_bytes(self) -> None:
        for slot, model in self.slots.items():
            if model.pins:
                assert slot.alive
            if slot.alive:
                assert bytes(self.cache.view(slot)) == model.payload

    @invariant()
    def numbers_are_exact(self) -> None:
        assert self.cache.slots == len(self.alive()) <= self.SLOTS_MAX
        assert self.cache.pinned_nbytes == sum(slot.nbytes for slot in self.pinned())
        assert self.cache.slots + self.cache.evicted == len(self.slots)
        used = sum(self.cache.used_nbytes(beamtime) for beamtime in BEAMTIMES)
        assert used + len(self.cache._shares.free) * ARENA == self.cache.nbytes

    @invariant()
    def found_is_what_was_published_last(self) -> None:
        published = {m.key: slot for slot, m in self.slots.items() if m.key and slot.alive}
        for key in range(1, 9):
            assert self.cache.find(key) is published.get(key)
        for slot, model in self.slots.items():
            if model.buf_id:
                there = slot if slot.alive and model.key else None
                assert self.cache.by_buf_id(model.buf_id) is there


AgainstAModel.TestCase.settings = settings(
    max_examples=80, stateful_step_count=60, deadline=None, print_blob=True
)
TestAgainstAModel = AgainstAModel.TestCase


def test_the_oldest_payload_goes_first() -> None:
    cache = make(arenas=2, arena=256)
    for number in range(8):
        stored(cache, "bt", 64, number)
    assert all(cache.find(number) for number in range(8))
    stored(cache, "bt", 64, 8)
    stored(cache, "bt", 64, 9)
    assert [number for number in range(10) if cache.find(number) is None] == [0, 1]


def test_a_pinned_payload_is_stepped_over_as_often_as_need_be() -> None:
    cache = make(arenas=1, arena=512)
    keep = held(cache, "bt", 64)
    cache.view(keep)[:] = b"k" * 64
    cache.publish(keep, "keep")
    for number in range(50):
        slot = stored(cache, "bt", 64, number)
        cache.view(slot)[:] = bytes([number]) * 64
    assert bytes(cache.view(keep)) == b"k" * 64
    assert cache.find("keep") is keep


def test_a_greedy_beamtime_gives_what_is_above_its_share() -> None:
    cache = make(arenas=8)
    for number in range(8):
        stored(cache, "greedy", ARENA, ("greedy", number))
    assert cache.used_nbytes("greedy") == 8 * ARENA
    for number in range(12):
        stored(cache, "small", ARENA, ("small", number))
        stored(cache, "greedy", ARENA, ("greedy", number))
    assert cache.used_nbytes("small") == 4 * ARENA
    assert cache.used_nbytes("greedy") == 4 * ARENA
    assert [number for number in range(12) if cache.find(("small", number))] == [8, 9, 10, 11]


def test_more_beamtimes_than_arenas_take_turns() -> None:
    cache = make(arenas=2)
    for number in range(30):
        slot = stored(cache, f"bt{number % 5}", 100, number)
        assert cache.find(number) is slot


def test_without_an_arena_a_beamtime_takes_one_that_nobody_holds() -> None:
    cache = make(arenas=3)
    keep = [held(cache, "holder", ARENA), held(cache, "holder", ARENA)]
    stored(cache, "idle", ARENA, "idle")
    assert cache.allocate("new", 10) is not None
    assert cache.find("idle") is None
    assert all(slot.alive for slot in keep)


def test_nothing_is_given_while_all_is_held() -> None:
    cache = make(arenas=2)
    slots = [held(cache, "bt", ARENA) for _ in range(2)]
    assert cache.allocate("bt", 1) is None
    assert cache.allocate("other", 1) is None
    cache.unpin(slots[0])
    assert cache.allocate("other", 1) is not None


def test_the_number_of_slots_is_bounded_and_shared() -> None:
    cache = make(arenas=4, slots_max=6)
    for number in range(6):
        stored(cache, "greedy", 1, ("greedy", number))
    for number in range(9):
        stored(cache, "small", 1, ("small", number))
        stored(cache, "greedy", 1, ("greedy", 6 + number))
        assert cache.slots == 6
    assert sum(cache.find(("small", number)) is not None for number in range(9)) == 3
    pinned = [cache.find(("small", number)) for number in range(9)]
    pinned += [cache.find(("greedy", number)) for number in range(15)]
    for slot in pinned:
        if slot is not None:
            cache.pin(slot)
    assert cache.allocate("small", 1) is None
    assert cache.allocate("new", 1) is None


def test_a_discarded_slot_is_used_again_at_once() -> None:
    cache = make(arenas=1)
    first = held(cache, "bt", 700)
    cache.discard(first)
    assert not first.alive
    second = held(cache, "bt", 700)
    assert second.offset == first.offset
    assert second.generation != first.generation
    small = held(cache, "bt", 64)
    cache.discard(small)
    assert held(cache, "bt", 64).offset == small.offset
    cache.discard(second)
    assert second.alive, "it lies behind another one and goes when its turn comes"
    assert held(cache, "bt", 700).alive
    assert not second.alive


def test_wrong_use_is_noticed() -> None:
    cache = make(arenas=1)
    slot = held(cache, "bt", 10)
    cache.discard(slot)
    with pytest.raises(AssertionError, match="given away"):
        cache.view(slot)
    with pytest.raises(AssertionError, match="more often"):
        cache.unpin(slot)


def test_a_cache_without_memory_takes_nothing() -> None:
    cache = Cache([], itertools.count(1).__next__)
    assert cache.allocate("bt", 1) is None
    assert (cache.payload_nbytes_max, cache.used_nbytes("bt"), cache.used_nbytes("no")) == (0, 0, 0)
