"""Sorted lists of half-open ranges of numbers, as leases and acknowledgements use them; pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

Spans = list[tuple[int, int]]
"""Half-open ranges, ascending, disjoint, not touching."""


def merged(spans: Iterable[tuple[int, int]]) -> Spans:
    """Any ranges as spans; empty ones are left out.

    >>> merged([(5, 7), (1, 2), (2, 5), (9, 9)])
    [(1, 7)]
    """
    found: Spans = []
    for lo, hi in sorted(spans):
        if lo >= hi:
            continue
        if found and lo <= found[-1][1]:
            found[-1] = (found[-1][0], max(hi, found[-1][1]))
        else:
            found.append((lo, hi))
    return found


def of_numbers(numbers: Iterable[int]) -> Spans:
    """Numbers as spans.

    >>> of_numbers([3, 1, 2, 7])
    [(1, 4), (7, 8)]
    """
    return merged((number, number + 1) for number in numbers)


def without(spans: Spans, others: Spans) -> Spans:
    """What is in `spans` and not in `others`.

    >>> without([(1, 10)], [(3, 4), (8, 20)])
    [(1, 3), (4, 8)]
    """
    found: Spans = []
    for lo, hi in spans:
        start = lo
        for gone_lo, gone_hi in others[_first(others, lo) :]:
            if gone_lo >= hi:
                break
            if gone_lo > start:
                found.append((start, gone_lo))
            start = max(start, gone_hi)
        if start < hi:
            found.append((start, hi))
    return found


def common(spans: Spans, others: Spans) -> Spans:
    """What is in both.

    >>> common([(1, 10)], [(3, 4), (8, 20)])
    [(3, 4), (8, 10)]
    """
    return without(spans, without(spans, others))


def length(spans: Iterable[tuple[int, int]]) -> int:
    """How many numbers there are.

    >>> length([(1, 3), (7, 8)])
    3
    """
    return sum(hi - lo for lo, hi in spans)


def _first(spans: Spans, number: int) -> int:
    """Index of the first span that reaches beyond `number`."""
    index = bisect_right(spans, (number, number))
    return index - 1 if index and spans[index - 1][1] > number else index
