"""Faults of workers, for tests: dying at the n-th message, and being slow.

A `beamstream.worker.jobs.Job` names them: ``Faults("beamstream.testing.worker_faults:Dying",
{"at": 7, "when": "made"})``.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Literal

When = Literal["called", "made", "published"]


class Dying:
    """Kills its process (SIGKILL) at the `at`-th message.

    Parameters
    ----------
    at : 1 is the first message that this worker is given.
    when : "called" before the step gets it, "made" before its results are published, "published"
        right after that, with no receipt yet.
    """

    def __init__(self, *, at: int, when: When = "called") -> None:
        self._at = at
        self._when = when

    def __call__(self, when: str, count: int) -> None:
        if when == self._when and count >= self._at:
            os.kill(os.getpid(), signal.SIGKILL)


class Slow:
    """Takes `seconds` more for each message."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, when: str, count: int) -> None:
        if when == "called":
            time.sleep(self._seconds)
