"""Rates and quantiles of the last seconds, from counters that only grow. Pure.

Nodes count; here differences are taken. A counter that became smaller was begun anew by a restart
of its node: what it shows now came since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

BUCKETS_PER_OCTAVE: Final = 4
"""Delays lie in buckets whose borders are 2^(1/4) apart, from 1 µs on (`server.stats`)."""


class Sample(NamedTuple):
    """Counters at a time, in seconds of one clock."""

    at_s: float
    values: tuple[float, ...]


class Window:
    """Counters of the last `seconds`, and one sample before, so that rates begin at once.

    >>> window = Window(10.0)
    >>> for second in range(20):
    ...     window.add(float(second), (100.0 * second,))
    >>> window.rates()
    (100.0,)
    """

    __slots__ = ("_samples", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._samples: deque[Sample] = deque()

    def add(self, at_s: float, values: Sequence[float]) -> None:
        """Take what the counters show now."""
        samples = self._samples
        new = Sample(at_s, tuple(values))
        if samples and any(
            value < before for value, before in zip(new.values, samples[-1].values, strict=False)
        ):
            samples.clear()
        samples.append(new)
        while len(samples) > 2 and samples[1].at_s <= at_s - self._seconds:
            samples.popleft()

    def rates(self) -> tuple[float, ...]:
        """By how much each counter grew per second; zeros before there are two samples."""
        if not self._samples:
            return ()
        first, last = self._samples[0], self._samples[-1]
        elapsed = last.at_s - first.at_s
        if elapsed <= 0:
            return (0.0,) * len(last.values)
        return tuple(
            (value - before) / elapsed
            for value, before in zip(last.values, first.values, strict=True)
        )

    def grown(self) -> tuple[float, ...]:
        """By how much each counter grew within the window."""
        if not self._samples:
            return ()
        first, last = self._samples[0], self._samples[-1]
        return tuple(
            value - before for value, before in zip(last.values, first.values, strict=True)
        )


def quantile_ns(counts: Sequence[float], share: float, first: int = 0) -> float | None:
    """The delay, ns, that `share` of all counted ones stay below; None when none is counted.

    Parameters
    ----------
    counts : of buckets `first`, `first` + 1 …

    >>> quantile_ns([0.0] * 39 + [10.0], 0.5)
    960000.0
    """
    total = sum(counts)
    if total <= 0:
        return None
    seen = 0.0
    for at, count in enumerate(counts, first):
        if not count:
            continue
        if seen + count >= share * total:
            octave, quarter = divmod(at, BUCKETS_PER_OCTAVE)
            low = (1 << octave) * (1 + quarter / 4)
            # Within a bucket delays are taken to lie evenly.
            inside = (share * total - seen) / count
            return (low + inside * (1 << octave) / 4) * 1000
        seen += count
    return None


class Trend:
    """Whether a lag grows, from its values of the last seconds.

    >>> trend = Trend(10.0)
    >>> for second in range(10):
    ...     trend.add(float(second), 5.0 * second)
    >>> trend.word()
    'losing'
    """

    __slots__ = ("_samples", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, at_s: float, lag: float) -> None:
        self._samples.append((at_s, lag))
        while self._samples[0][0] < at_s - self._seconds:
            self._samples.popleft()

    def slope(self) -> float:
        """Messages per second by which the lag grows: a line through all samples."""
        count = len(self._samples)
        if count < 3:
            return 0.0
        mean_t = sum(at for at, _ in self._samples) / count
        mean_lag = sum(lag for _, lag in self._samples) / count
        spread = sum((at - mean_t) ** 2 for at, _ in self._samples)
        if spread <= 0:
            return 0.0
        return sum((at - mean_t) * (lag - mean_lag) for at, lag in self._samples) / spread

    def word(self) -> str:
        """ "losing", "gaining", "steady", or "idle" when there is no lag at all."""
        if not self._samples or all(lag == 0 for _, lag in self._samples):
            return "idle"
        slope, newest = self.slope(), self._samples[-1][1]
        # What grows by less than a tenth of itself within the window is as good as steady.
        if abs(slope) * self._seconds <= max(0.1 * newest, 1.0):
            return "steady"
        return "losing" if slope > 0 else "gaining"
