"""At what rate messages go out again: as fast as it goes, so many a second, or as they once came.

Pure: the clock and the times of messages come in as arguments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from beamstream.errors import BadInput

__all__ = ["MAX", "Pace", "Rate", "parse_rate"]

LATE_S: Final = 1.0
"""Who is later than this has lost the time: the rest does not come in a burst to make up for it."""

_RATE_HZ_MIN: Final = 1e-6
_RATE_HZ_MAX: Final = 1e9
_ORIGINAL: Final = re.compile(r"original(?:\s*[*x×]?\s*([0-9.]+))?")
_SECOND_NS: Final = 1_000_000_000


class Rate(msgspec.Struct, frozen=True):
    """How fast messages go out again.

    Parameters
    ----------
    hz : messages per second; 0: not by number.
    factor : so many times as fast as they once came, their pauses included; 0: not by time.

    >>> str(Rate(hz=100)), str(Rate(factor=2)), str(MAX)
    ('100/s', 'original*2', 'max')
    """

    hz: float = 0.0
    factor: float = 0.0

    @property
    def timed(self) -> bool:
        """Whether the times of messages matter."""
        return self.factor > 0

    def seconds(self, count: int, first_ns: int, last_ns: int) -> float | None:
        """How long `count` messages, which once came between two times, take; None: who knows.

        >>> Rate(hz=100).seconds(1000, 0, 0), Rate(factor=2).seconds(7, 0, 60_000_000_000)
        (10.0, 30.0)
        """
        if self.hz:
            return count / self.hz
        if self.factor:
            return max(last_ns - first_ns, 0) / _SECOND_NS / self.factor
        return None

    def __str__(self) -> str:
        if self.hz:
            return f"{self.hz:g}/s"
        if self.factor:
            return "original" if self.factor == 1 else f"original*{self.factor:g}"
        return "max"


MAX: Final = Rate()
"""As fast as it goes."""


def parse_rate(text: str) -> Rate:
    """Read a rate as it is typed.

    Raises
    ------
    BadInput : it is none.

    >>> parse_rate("100"), parse_rate("original*2"), parse_rate("max") == MAX
    (Rate(hz=100.0, factor=0.0), Rate(hz=0.0, factor=2.0), True)
    """
    said = text.strip().lower()
    if said == "max":
        return MAX
    original = _ORIGINAL.fullmatch(said)
    number = said.removesuffix("/s") if original is None else original[1] or "1"
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not _RATE_HZ_MIN <= value <= _RATE_HZ_MAX:
        raise BadInput(
            f"{text[:80]!r} is no rate", hint="100 (a second), original, original*2, max"
        )
    return Rate(hz=value) if original is None else Rate(factor=value)


class Pace:
    """When each message is due; messages are taken in the order in which they go out.

    Parameters
    ----------
    rate : how fast.

    >>> pace = Pace(Rate(hz=10))
    >>> pace.take(0.0, [1, 2, 3]), pace.take(0.25, [2, 3])
    ((1, 0.1), (2, 0.0))
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._due_s: float | None = None
        self._last_ns = 0

    def take(self, now_s: float, times_ns: Sequence[int]) -> tuple[int, float]:
        """Take those that are due now.

        Parameters
        ----------
        now_s : by a clock that never goes back, seconds.
        times_ns : when the next messages once came.

        Returns
        -------
        How many go out now, and seconds until the next one is due (0 when all are out).
        """
        if self.rate == MAX:
            return len(times_ns), 0.0
        for taken, time_ns in enumerate(times_ns):
            due_s = self._next_s(now_s, time_ns)
            if due_s > now_s:
                return taken, due_s - now_s
            # Small delays are made up for, a long one moves all that follows.
            self._due_s = due_s if now_s - due_s <= LATE_S else now_s
            self._last_ns = time_ns
        return len(times_ns), 0.0

    def _next_s(self, now_s: float, time_ns: int) -> float:
        if self._due_s is None:
            return now_s
        if self.rate.hz:
            return self._due_s + 1 / self.rate.hz
        # By id, times may go back: two processes wrote the stream.
        return self._due_s + max(time_ns - self._last_ns, 0) / _SECOND_NS / self.rate.factor
