"""A pipeline at a moment, for people and programs."""

from __future__ import annotations

import msgspec

from beamstream.worker.pipelines.watching import Figures


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """A step, for people and programs.

    Parameters
    ----------
    state : "starting", "running", "restarting", "paused", "stopping", "ended", or what has become
        of it: "failed" (it cannot work), "stopped" (by its own policy).
    wanted, running : workers that there are to be, and that say they work.
    auto : the number follows the lag.
    """

    name: str
    state: str
    wanted: int
    running: int
    auto: bool
    restarts: int
    figures: Figures
    pids: tuple[int, ...] = ()
    note: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline, for people and programs; `state`: "up", "draining", "stopping", "ended"."""

    pipeline: str
    beamtime: str
    state: str
    up_s: float
    steps: tuple[StepRow, ...]
    note: str = ""

    @property
    def all_running(self) -> bool:
        return all(step.state in ("running", "paused") for step in self.steps)
