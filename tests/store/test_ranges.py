from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from beamstream.store.ranges import RangeSet

numbers = st.integers(0, 40)
pairs = st.tuples(numbers, numbers)


def members(ranges: RangeSet) -> set[int]:
    return {number for lo, hi in ranges for number in range(lo, hi)}


class AgainstASet(RuleBasedStateMachine):
    """Every operation does to the ranges what it does to a plain set of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = RangeSet()
        self.plain: set[int] = set()

    @rule(pair=pairs)
    def add(self, pair: tuple[int, int]) -> None:
        new = set(range(*pair)) - self.plain
        assert self.ranges.add(*pair) == len(new)
        self.plain |= new

    @rule(pair=pairs)
    def remove(self, pair: tuple[int, int]) -> None:
        gone = set(range(*pair)) & self.plain
        assert self.ranges.remove(*pair) == len(gone)
        self.plain -= gone

    @rule(pair=pairs)
    def ask(self, pair: tuple[int, int]) -> None:
        lo, hi = pair
        window = set(range(lo, hi))
        assert self.ranges.overlaps(lo, hi) == bool(window & self.plain)
        assert self.ranges.covers(lo, hi) == (window <= self.plain)
        assert self.ranges.count_in(lo, hi) == len(window & self.plain)
        assert members(RangeSet(self.ranges.within(lo, hi))) == window & self.plain
        assert members(RangeSet(self.ranges.gaps(lo, hi))) == window - self.plain
        assert (lo in self.ranges) == (lo in self.plain)
        assert self.ranges.first_gap(lo) == next(n for n in range(lo, 100) if n not in self.plain)

    @rule(others=st.lists(pairs, max_size=5))
    def combine(self, others: list[tuple[int, int]]) -> None:
        other = RangeSet(others)
        plain = members(other)
        assert members(self.ranges | other) == self.plain | plain
        assert members(self.ranges - other) == self.plain - plain
        assert members(self.ranges & other) == self.plain & plain
        assert RangeSet.from_tuple(reversed(self.ranges.to_tuple())) == self.ranges

    @invariant()
    def same(self) -> None:
        assert members(self.ranges) == self.plain
        assert len(self.ranges) == len(self.plain)
        bounds = [bound for pair in self.ranges for bound in pair]
        assert bounds == sorted(set(bounds))
        assert self.ranges.range_count == len(self.ranges.to_tuple())


AgainstASet.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAgainstASet = AgainstASet.TestCase


def test_the_largest_numbers() -> None:
    everything = RangeSet([(1, 2**63)])
    assert len(everything) == 2**63 - 1
    assert everything.remove(2**62, 2**62 + 1) == 1
    assert everything.to_tuple() == ((1, 2**62), (2**62 + 1, 2**63))
    assert everything.first_gap(5) == 2**62


@given(pairs)
def test_an_empty_range_changes_nothing(pair: tuple[int, int]) -> None:
    lo, hi = max(pair), min(pair)
    ranges = RangeSet([(3, 9)])
    assert ranges.add(lo, hi) == 0
    assert ranges.remove(lo, hi) == 0
    assert ranges == RangeSet([(3, 9)])
    assert not ranges.overlaps(lo, hi)


def test_a_copy_is_independent() -> None:
    ranges = RangeSet([(1, 3)])
    other = ranges.copy()
    other.clear()
    assert ranges.to_tuple() == ((1, 3),)
    assert len(other) == 0
    assert not other


def test_it_is_no_key_of_a_dict() -> None:
    with pytest.raises(TypeError):
        hash(RangeSet())
