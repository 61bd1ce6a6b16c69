"""What becomes of measurements: rates of clients, percentiles of delays. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True)
class Done:
    """What one client did.

    Parameters
    ----------
    begin_s, end_s : monotonic clock of this machine.
    delays_s : of some messages.
    lost : messages whose payload could not be had.
    """

    count: int
    nbytes: int
    begin_s: float
    end_s: float
    delays_s: list[float] = field(default_factory=list)
    lost: int = 0

    @property
    def rate_hz(self) -> float:
        return self.count / max(self.end_s - self.begin_s, 1e-9)


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50), percentile([1.0, 2.0, 3.0, 4.0], 99)
    (2.0, 4.0)
    """
    rank = math.ceil(percent / 100 * len(sorted_values))
    return sorted_values[min(max(rank, 1), len(sorted_values)) - 1]


def summary(clients: Sequence[Done]) -> dict[str, Any]:
    """All clients together: from the first beginning to the last end.

    >>> both = summary([Done(10, 1000, 0.0, 1.0), Done(30, 3000, 0.0, 2.0)])
    >>> both["rate_hz"], both["nbytes_per_s"], both["clients"]["rates_hz"]
    (20.0, 2000.0, [10.0, 15.0])
    """
    seconds = max(one.end_s for one in clients) - min(one.begin_s for one in clients)
    seconds = max(seconds, 1e-9)
    rates = [one.rate_hz for one in clients]
    return {
        "messages": sum(one.count for one in clients),
        "nbytes": sum(one.nbytes for one in clients),
        "lost": sum(one.lost for one in clients),
        "seconds": seconds,
        "rate_hz": sum(one.count for one in clients) / seconds,
        "nbytes_per_s": sum(one.nbytes for one in clients) / seconds,
        "clients": {
            "rates_hz": rates,
            "min": min(rates),
            "avg": statistics.fmean(rates),
            "max": max(rates),
            "stddev": statistics.pstdev(rates),
        },
        "delays": delays([delay for one in clients for delay in one.delays_s]),
    }


def delays(seconds: Sequence[float]) -> dict[str, float] | None:
    """Percentiles in milliseconds; None without a measurement.

    >>> delays([0.001, 0.002])["p50_ms"]
    1.0
    """
    if not seconds:
        return None
    ordered = sorted(seconds)
    found = {f"p{percent:g}_ms": percentile(ordered, percent) * 1e3 for percent in PERCENTILES}
    return found | {
        "min_ms": ordered[0] * 1e3,
        "max_ms": ordered[-1] * 1e3,
        "mean_ms": statistics.fmean(ordered) * 1e3,
        "stddev_ms": statistics.pstdev(ordered) * 1e3,
        "count": len(ordered),
    }
