"""A pipeline that runs is told to the beamtime, so that others see what reads and writes what."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from beamstream.worker.pipelines.graph import Graph
from beamstream.worker.pipelines.plan import Plan

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

SOURCE: Final = "pipelines"
"""The metadata of its stream NAME are the document of pipeline NAME; its messages say when it went
up and down, so that it is found in the list of streams."""


def declare(hub: Hub, plan: Plan, *, state: str, host: str, pid: int) -> None:
    """Write what a pipeline is, and how it is, into the beamtime.

    Parameters
    ----------
    state : "up" or "down".
    host, pid : of the supervisor.

    Raises
    ------
    Error : it cannot be written.
    """
    document = {
        **Graph(plan).document(),
        "beamtime": hub.beamtime,
        "state": state,
        "host": host,
        "pid": pid,
        "file": str(plan.file.path.resolve()),
        "since_ns": time.time_ns(),
    }
    stream = hub.source(SOURCE).stream(plan.name)
    stream.set_meta(msgspec.to_builtins(document))
    with stream.writer(finish=False) as writer:
        writer.send(b"", {"state": state, "host": host, "pid": pid})
