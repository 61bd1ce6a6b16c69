"""How many workers a step is to have, from how far it is behind; pure."""

from __future__ import annotations

from typing import Final

from beamstream.worker.pipelines.pipeline_file import Replicas

SAMPLES: Final = 2
"""Looks in a row that find the step behind, before it gets more: one may be a hiccup."""

HOLD_S: Final = 5.0
"""After a change, until what it has done can be seen: a new worker needs seconds to begin."""

DOUBLE: Final = 4.0
"""So many times the wanted lag is far behind: twice as many workers, not one more."""

IDLE_S: Final = 30.0
IDLE_PART: Final = 0.25
"""After so long below this part of the wanted lag there is one worker less."""


class Scaler:
    """Keeps the lag of a step below `replicas.lag_s`, with as few workers as that takes.

    >>> scaler = Scaler(Replicas(1, 8, 2.0))
    >>> [scaler.observe(at, 3.0) for at in (0.0, 1.0, 2.0, 8.0, 9.0)]
    [1, 2, 2, 2, 3]
    """

    def __init__(self, replicas: Replicas) -> None:
        self.wanted = replicas.min
        self._replicas = replicas
        self._behind = 0
        self._hold_until_s = float("-inf")
        self._quiet_since_s: float | None = None

    def observe(self, now_s: float, lag_s: float) -> int:
        """How many workers there are to be, now that the oldest open input has waited `lag_s`."""
        wanted_lag_s = self._replicas.lag_s
        if lag_s >= IDLE_PART * wanted_lag_s:
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = now_s
        if now_s < self._hold_until_s:
            return self.wanted
        self._behind = self._behind + 1 if lag_s > wanted_lag_s else 0
        if self._behind >= SAMPLES:
            more = self.wanted if lag_s > DOUBLE * wanted_lag_s else 1
            self._change(self.wanted + more, now_s)
        elif self._quiet_since_s is not None and now_s - self._quiet_since_s >= IDLE_S:
            self._change(self.wanted - 1, now_s)
        return self.wanted

    def _change(self, wanted: int, now_s: float) -> None:
        self.wanted = min(max(wanted, self._replicas.min), self._replicas.max)
        self._behind = 0
        self._quiet_since_s = None
        self._hold_until_s = now_s + HOLD_S
