"""Which workers of a step run, are started again, or have to stop; pure.

::

    WAITING --due--> RUNNING --ended by itself--> WAITING (later and later) or gone (2, 4)
                     RUNNING --too many, closing--> STOPPING --ended--> gone

Somebody else starts and stops processes, and tells how they ended.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from beamstream.worker.jobs import REFUSED, STOPPED

BACKOFF_S: Final = 0.5
BACKOFF_S_MAX: Final = 30.0
GOOD_S: Final = 10.0
"""A worker that has run for so long is forgiven one of its failures: half the wait. After a minute
all are forgotten."""


class Start(NamedTuple):
    replica: int


class Stop(NamedTuple):
    replica: int


Action = Start | Stop


class Life(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"


class Verdict(enum.Enum):
    """What has become of a step; a new number of replicas makes it good again."""

    GOOD = "good"
    FAILED = "failed"
    STOPPED = "stopped"


class _Replica:
    __slots__ = ("backoff_s", "life", "since_s")

    def __init__(self, now_s: float) -> None:
        self.life = Life.WAITING
        self.since_s = now_s
        """When it was started; of one that waits: when it is due."""
        self.backoff_s = 0.0


class StepCare:
    """The workers of one step.

    Parameters
    ----------
    wanted : how many there are to be.

    >>> care = StepCare(1)
    >>> care.actions(0.0)
    [Start(replica=1)]
    >>> care.ended(1, -9, 1.0)
    >>> care.actions(1.0), care.actions(1.5)
    ([], [Start(replica=1)])
    """

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.verdict = Verdict.GOOD
        self.restarts = 0
        self._closing = False
        self._replicas: dict[int, _Replica] = {}

    # ------------------------------------------------------------------ what is asked for

    def scale(self, wanted: int, now_s: float) -> None:
        """Have so many from now on; a step that failed or stopped is tried again, at once."""
        self.wanted = wanted
        self.verdict = Verdict.GOOD
        for replica in self._replicas.values():
            if replica.life is Life.WAITING:
                replica.since_s, replica.backoff_s = now_s, 0.0

    def close(self) -> None:
        """Have none, and start none again."""
        self._closing = True

    # ------------------------------------------------------------------ what has happened

    def ended(self, number: int, status: int, now_s: float) -> None:
        """A worker has ended, with that exit status (negative: the signal)."""
        replica = self._replicas.get(number)
        if replica is None or replica.life is Life.WAITING:
            return
        if replica.life is Life.STOPPING or self._closing:
            del self._replicas[number]
        elif status in (REFUSED, STOPPED) or self.verdict is not Verdict.GOOD:
            del self._replicas[number]
            if status in (REFUSED, STOPPED):
                self.verdict = Verdict.FAILED if status == REFUSED else Verdict.STOPPED
        else:
            self.restarts += 1
            ran_s = max(now_s - replica.since_s, 0.0)
            forgiven = 2.0 ** -min(ran_s / GOOD_S, 10.0)
            backoff_s = 2 * replica.backoff_s * forgiven
            replica.backoff_s = min(max(backoff_s, BACKOFF_S), BACKOFF_S_MAX)
            replica.life = Life.WAITING
            replica.since_s = now_s + replica.backoff_s

    # ------------------------------------------------------------------ what is to be done

    def actions(self, now_s: float) -> list[Action]:
        """What has to be done now; it counts as done."""
        found: list[Action] = []
        kept = sorted(no for no, one in self._replicas.items() if one.life is not Life.STOPPING)
        for number in kept[self._target() :]:
            replica = self._replicas[number]
            if replica.life is Life.WAITING:
                del self._replicas[number]
            else:
                replica.life = Life.STOPPING
                found.append(Stop(number))
        if self.verdict is Verdict.GOOD:
            for _ in range(self._target() - len(kept)):
                self._replicas[self._free()] = _Replica(now_s)
        for number, replica in sorted(self._replicas.items()):
            if replica.life is Life.WAITING and replica.since_s <= now_s:
                replica.life, replica.since_s = Life.RUNNING, now_s
                found.append(Start(number))
        return found

    def due_s(self) -> float | None:
        """When the next worker is to be started again; None: none waits."""
        waiting = [one.since_s for one in self._replicas.values() if one.life is Life.WAITING]
        return min(waiting, default=None)

    # ------------------------------------------------------------------ looking

    def count(self, life: Life) -> int:
        return sum(one.life is life for one in self._replicas.values())

    @property
    def done(self) -> bool:
        """Whether no worker runs, and none will without being asked for."""
        return not self._replicas and (self._closing or self.verdict is not Verdict.GOOD)

    @property
    def state(self) -> str:
        """One word for people."""
        if self.verdict is not Verdict.GOOD:
            return str(self.verdict.value)
        if self._closing or (not self.wanted and self._replicas):
            return "stopping" if self._replicas else "ended"
        if not self.wanted:
            return "paused"
        if self.count(Life.WAITING):
            return "restarting"
        return "running" if self.count(Life.RUNNING) >= self.wanted else "starting"

    def _target(self) -> int:
        # One worker that says stop stops its step.
        return 0 if self._closing or self.verdict is Verdict.STOPPED else self.wanted

    def _free(self) -> int:
        number = 1
        while number in self._replicas:
            number += 1
        return number
