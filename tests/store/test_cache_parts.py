"""Addresses of parts of slots."""

from __future__ import annotations

import itertools

from beamstream.store.cache import Cache


def made(slots_max: int = 100) -> Cache:
    return Cache([memoryview(bytearray(4096))], itertools.count(1).__next__, slots_max)


def test_a_part_is_found_as_long_as_its_slot() -> None:
    cache = made()
    slot = cache.allocate("bt", 1000)
    assert slot is not None
    cache.publish(slot, "key")
    first, second = cache.part(slot, 0, 100), cache.part(slot, 100, 50)
    assert first != second
    assert cache.part(slot, 100, 50) == second
    assert cache.addressed(first) == (slot, 0, 100)
    assert cache.addressed(second) == (slot, 100, 50)
    assert cache.addressed(slot.buf_id) == (slot, 0, 1000)
    assert cache.addressed(4711) is None
    cache.unpin(slot)
    other = cache.allocate("bt", 4000)
    assert other is not None
    assert not slot.alive
    assert cache.addressed(first) is None
    assert cache.addressed(second) is None


def test_addresses_of_parts_are_bounded() -> None:
    cache = made(slots_max=3)
    slot = cache.allocate("bt", 1000)
    assert slot is not None
    cache.publish(slot, "key")
    parts = [cache.part(slot, offset, 10) for offset in range(0, 50, 10)]
    assert [cache.addressed(part) is not None for part in parts] == [False, False, True, True, True]
    again = cache.part(slot, 0, 10)
    assert cache.addressed(again) == (slot, 0, 10)


def test_who_is_told_when_a_slot_cannot_be_found_any_more() -> None:
    cache = made()
    gone: list[object] = []
    cache.on_unlink = lambda key, slot: gone.append(key)
    for key in ("a", "b"):
        slot = cache.allocate("bt", 1000)
        assert slot is not None
        cache.publish(slot, key)
        cache.unpin(slot)
    again = cache.allocate("bt", 1000)
    assert again is not None
    cache.publish(again, "a")
    assert gone == ["a"]
    cache.unpin(again)
    assert cache.allocate("bt", 4000) is not None
    assert sorted(map(str, gone)) == ["a", "a", "b"]
