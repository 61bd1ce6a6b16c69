"""What the demo counts: rates, delays and lags, within bounded memory however long it runs."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

WINDOW_SECONDS: Final = 5.0
"""Live rates and delays are those of the last seconds."""

_STEPS_PER_OCTAVE: Final = 16
_BUCKETS: Final = 27 * _STEPS_PER_OCTAVE
_RECENT_DELAYS_MAX: Final = 20_000


class Histogram:
    """Delays in buckets that are 4 % wide, from 1 µs to about two minutes.

    >>> histogram = Histogram()
    >>> histogram.add([2.0] * 98 + [50.0] * 2)
    >>> 1.9 < histogram.quantile(0.5) < 2.1, 48 < histogram.quantile(0.99) < 52
    (True, True)
    """

    def __init__(self) -> None:
        self.count = 0
        self._counts = [0] * _BUCKETS

    def add(self, delays_ms: Iterable[float]) -> None:
        for delay_ms in delays_ms:
            octaves = math.log2(max(delay_ms, 0.001) / 0.001)
            self._counts[min(int(octaves * _STEPS_PER_OCTAVE), _BUCKETS - 1)] += 1
            self.count += 1

    def quantile(self, share: float) -> float:
        """Delay, ms, that `share` of all stay below; NaN when there are none."""
        if not self.count:
            return math.nan
        sums = itertools.accumulate(self._counts)
        bucket = next(i for i, below in enumerate(sums) if below >= share * self.count)
        return float(0.001 * 2 ** ((bucket + 0.5) / _STEPS_PER_OCTAVE))


class Figures:
    """One row of the table: a producer or a group.

    Parameters
    ----------
    name : shown in the table.
    begin_s : when counting begins, on any clock that all calls use.
    """

    def __init__(self, name: str, begin_s: float) -> None:
        self.name = name
        self.frames = 0
        self.nbytes = 0
        self.last_id = 0
        self.lag = 0
        self.lost = 0
        self.damaged = 0
        self.delays = Histogram()
        self._begin_s = begin_s
        self._recent: deque[tuple[float, int, int]] = deque([(begin_s, 0, 0)])
        self._recent_delays: deque[tuple[float, float]] = deque(maxlen=_RECENT_DELAYS_MAX)

    def add(
        self, now_s: float, frames: int, nbytes: int, last_id: int, delays_ms: Iterable[float] = ()
    ) -> None:
        """Count `frames` more of `nbytes` in all; `last_id` is the newest one's id."""
        self.frames += frames
        self.nbytes += nbytes
        self.last_id = max(self.last_id, last_id)
        delays_ms = list(delays_ms)
        self.delays.add(delays_ms)
        self._recent_delays.extend((now_s, delay_ms) for delay_ms in delays_ms)
        self._recent.append((now_s, self.frames, self.nbytes))
        while len(self._recent) > 2 and self._recent[0][0] < now_s - WINDOW_SECONDS:
            self._recent.popleft()
        while self._recent_delays and self._recent_delays[0][0] < now_s - WINDOW_SECONDS:
            self._recent_delays.popleft()

    def rates(self) -> tuple[float, float]:
        """Frames and bytes per second within the last seconds."""
        (then_s, frames, nbytes), (now_s, frames_now, nbytes_now) = (
            self._recent[0],
            self._recent[-1],
        )
        elapsed_s = max(now_s - then_s, 1e-9)
        return (frames_now - frames) / elapsed_s, (nbytes_now - nbytes) / elapsed_s

    def recent_quantiles(self) -> tuple[float, float]:
        """p50 and p99 of the delays within the last seconds, ms; NaN when there are none."""
        delays = sorted(delay_ms for _, delay_ms in self._recent_delays)
        if not delays:
            return math.nan, math.nan
        last = len(delays) - 1
        return delays[round(0.5 * last)], delays[round(0.99 * last)]

    def document(self, end_s: float) -> dict[str, Any]:
        """All figures over the whole run, fit for JSON."""
        elapsed_s = max(end_s - self._begin_s, 1e-9)
        document: dict[str, Any] = {
            "frames": self.frames,
            "frames_per_s": round(self.frames / elapsed_s, 2),
            "mb_per_s": round(self.nbytes / elapsed_s / 1e6, 2),
        }
        if self.delays.count:
            document["delay_ms_p50"] = round(self.delays.quantile(0.5), 3)
            document["delay_ms_p99"] = round(self.delays.quantile(0.99), 3)
        return document
