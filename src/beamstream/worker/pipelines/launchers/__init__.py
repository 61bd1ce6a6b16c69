"""Launchers: where worker processes run. Three calls, so that another place is one small module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from beamstream.worker.jobs import Job, Status


class Task(NamedTuple):
    """A worker that is to be started.

    Parameters
    ----------
    folder : where it runs.
    environment : variables beside those of the supervisor.
    log : file for all that it says; older ones are kept beside it.
    """

    job: Job
    folder: Path
    environment: Mapping[str, str]
    log: Path


class Running(NamedTuple):
    """`status`: what the worker said last; None before it has said anything."""

    status: Status | None


class Ended(NamedTuple):
    """`code`: exit status, negative for a signal. `status`: what the worker said last."""

    code: int
    status: Status | None


class Launcher(Protocol):
    """Starts workers in one kind of place."""

    def start(self, task: Task) -> Any:
        """Start a worker and return its handle.

        Raises
        ------
        StorageError : it cannot be started.
        """

    def stop(self, handle: Any, drain_s: float) -> None:
        """Ask a worker to finish what it has in hand; returns at once.

        One that is there after `drain_s` is killed by a later `poll`.
        """

    def poll(self, handle: Any) -> Running | Ended:
        """How a worker is."""

    def close(self) -> None:
        """Kill what is left, and give back what the launcher holds."""


def make_launcher(settings: Mapping[str, Any]) -> Launcher:
    """The launcher that these settings of a pipeline file stand for."""
    from beamstream.worker.pipelines.launchers.local import LocalLauncher

    return LocalLauncher(python=str(settings.get("python", "")))
