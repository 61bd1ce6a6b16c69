"""Sets of integers kept as half-open ranges: positions, acknowledgements, claims, gaps."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges, ascending, disjoint, not touching."""


class RangeSet:
    """A set of integers, stored as ascending half-open ranges that neither overlap nor touch.

    Finding costs O(log n) in the number of ranges; numbers added at the end cost the same however
    many there are. Ranges given with ``hi <= lo`` are empty. Iteration yields ``(lo, hi)``;
    ``len`` counts integers.

    >>> acked = RangeSet([(1, 4)])
    >>> acked.add(3, 8)
    4
    >>> acked.remove(5, 6)
    1
    >>> acked
    RangeSet([(1, 5), (6, 8)])
    >>> 5 in acked, acked.first_gap(2), len(acked)
    (False, 5, 6)
    """

    # The bounds lie in one ascending list lo, hi, lo, hi …: a number is inside exactly when an odd
    # number of bounds is not above it, so every question is one bisection and a parity.
    __slots__ = ("_bounds", "_count")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._bounds: list[int] = []
        self._count = 0
        for lo, hi in ranges:
            self.add(lo, hi)

    def add(self, lo: int, hi: int) -> int:
        """Add the integers of [lo, hi) and return how many of them were new."""
        bounds = self._bounds
        if hi <= lo:
            return 0
        if not bounds or lo > bounds[-1]:
            bounds += (lo, hi)
            new = hi - lo
        elif lo == bounds[-1]:
            bounds[-1] = hi
            new = hi - lo
        else:
            new = hi - lo - self.count_in(lo, hi)
            if not new:
                return 0
            i, j = bisect_left(bounds, lo), bisect_right(bounds, hi)
            bounds[i:j] = (() if i & 1 else (lo,)) + (() if j & 1 else (hi,))
        self._count += new
        return new

    def remove(self, lo: int, hi: int) -> int:
        """Remove the integers of [lo, hi) and return how many of them were there."""
        gone = self.count_in(lo, hi)
        if gone:
            bounds = self._bounds
            i, j = bisect_left(bounds, lo), bisect_right(bounds, hi)
            bounds[i:j] = ((lo,) if i & 1 else ()) + ((hi,) if j & 1 else ())
            self._count -= gone
        return gone

    def contains(self, number: int) -> bool:
        return bool(bisect_right(self._bounds, number) & 1)

    __contains__ = contains

    def overlaps(self, lo: int, hi: int) -> bool:
        """Whether any integer of [lo, hi) is in the set."""
        if hi <= lo:
            return False
        i = bisect_right(self._bounds, lo)
        return bool(i & 1) or (i < len(self._bounds) and self._bounds[i] < hi)

    def covers(self, lo: int, hi: int) -> bool:
        """Whether all integers of [lo, hi) are in the set."""
        if hi <= lo:
            return True
        i = bisect_right(self._bounds, lo)
        return bool(i & 1) and hi <= self._bounds[i]

    def count_in(self, lo: int, hi: int) -> int:
        """How many integers of [lo, hi) are in the set."""
        return sum(b - a for a, b in self.within(lo, hi))

    def first_gap(self, start: int) -> int:
        """The smallest integer from `start` on that is not in the set."""
        i = bisect_right(self._bounds, start)
        return self._bounds[i] if i & 1 else start

    def within(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """The ranges of the set, clipped to [lo, hi)."""
        bounds = self._bounds
        i = bisect_right(bounds, lo) & ~1
        while i < len(bounds) and bounds[i] < hi:
            a, b = bounds[i], bounds[i + 1]
            a, b = (a if a > lo else lo), (b if b < hi else hi)
            if a < b:
                yield a, b
            i += 2

    def gaps(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """The ranges of [lo, hi) that are not in the set."""
        for a, b in self.within(lo, hi):
            if lo < a:
                yield lo, a
            lo = b
        if lo < hi:
            yield lo, hi

    def to_tuple(self) -> Ranges:
        bounds = self._bounds
        return tuple(zip(bounds[::2], bounds[1::2], strict=True))

    @classmethod
    def from_tuple(cls, ranges: Iterable[tuple[int, int]]) -> RangeSet:
        return cls(ranges)

    def union(self, other: Iterable[tuple[int, int]]) -> RangeSet:
        result = self.copy()
        for lo, hi in other:
            result.add(lo, hi)
        return result

    def difference(self, other: Iterable[tuple[int, int]]) -> RangeSet:
        result = self.copy()
        for lo, hi in other:
            result.remove(lo, hi)
        return result

    def intersection(self, other: Iterable[tuple[int, int]]) -> RangeSet:
        return RangeSet(part for lo, hi in other for part in self.within(lo, hi))

    __or__ = union
    __sub__ = difference
    __and__ = intersection

    def copy(self) -> RangeSet:
        result = RangeSet()
        result._bounds = self._bounds.copy()
        result._count = self._count
        return result

    def clear(self) -> None:
        self._bounds.clear()
        self._count = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        bounds = self._bounds
        return zip(bounds[::2], bounds[1::2], strict=True)

    def __len__(self) -> int:
        return self._count

    @property
    def range_count(self) -> int:
        """How many ranges the set is made of: what it costs to keep."""
        return len(self._bounds) // 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._bounds == other._bounds

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"
