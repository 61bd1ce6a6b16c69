"""What workers have made live, and what a replay makes of the same inputs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamstream.client.native.hub import Hub
from beamstream.client.native.messages import Message
from beamstream.worker.loading import load
from beamstream.worker.provenance import chain
from beamstream.worker.provenance_check import verify
from beamstream.worker.replay_steps import find_job
from beamstream.worker.replaying import Replay, parse_target, plan
from beamstream.worker.runner import Ending, Worker

pytestmark = pytest.mark.system

Content = list[tuple[int, bytes, bytes, dict[str, Any]]]


def content(hub: Hub, source: str, stream: str) -> Content:
    found = hub.source(source).stream(stream)[:]
    return [
        (one.id, bytes(one.data), one._columns.info(one._item), one.meta)
        for one in found
        if isinstance(one, Message)
    ]


@contextmanager
def working(hub: Hub, *workers: Worker) -> Iterator[None]:
    stop = threading.Event()
    with ThreadPoolExecutor(len(workers)) as pool:
        running = [pool.submit(worker.run, stop) for worker in workers]
        try:
            yield
        finally:
            stop.set()
        assert [one.result(60) for one in running] == [Ending.DRAINED] * len(workers)


def read_to_its_end(hub: Hub, source: str, stream: str) -> int:
    """Wait until a stream is finished, and return how many messages it has."""
    return len(list(hub.source(source).stream(stream).group("end", timeout=60.0)))


@pytest.mark.parametrize("name", ["scale", "even", "rows", "Summed"])
def test_a_replay_is_what_was_live(hub: Hub, steps: Path, name: str) -> None:
    step = load(f"{steps}:{name}")
    assert step.writes is not None
    frames = hub.source("eiger").stream("scan1")
    frames.set_meta({"offset": 3})
    with working(hub, Worker(hub, step), Worker(hub, step)):
        with frames.writer() as writer:
            for id in range(1, 41):
                writer.send(np.full((3, 4), id, "<u4"), {"angle": id / 10}, id=id)
        count = read_to_its_end(hub, step.writes, "scan1")
    job = find_job(f"{steps}:{name}")
    made = plan(hub, "eiger", "scan1", range(1, 41), parse_target(f"step:{name}"), job=job)
    assert made.changes == ()
    assert made.document is not None
    assert made.document["replay_of"]["run"] > 0
    list(Replay(hub, made, job).run(threading.Event()))
    live = content(hub, step.writes, "scan1")
    again = content(hub, step.writes, made.to_stream)
    assert len(live) == count > 0
    if step.many:
        # Under automatic ids results are in the order in which two workers made them.
        assert sorted(one[1:3] for one in again) == sorted(one[1:3] for one in live)
    else:
        assert again == live


def test_the_provenance_of_live_results_is_executed(hub: Hub, steps: Path) -> None:
    first, second = load(f"{steps}:scale"), load(f"{steps}:mean4")
    workers = [Worker(hub, first, parameters={"factor": 3}), Worker(hub, second)]
    with working(hub, *workers):
        with hub.source("eiger").stream("scan1").writer() as writer:
            for id in range(1, 23):
                writer.send(np.full((3, 4), id, "<u4"), {"angle": id / 10}, id=id)
        assert read_to_its_end(hub, "mean", "scan1") == 6
    for id in range(1, 7):
        assert verify(hub, "mean", "scan1", id).verdict == "same"
    found = chain(hub, "mean", "scan1", 6)
    assert [one.id for one in found.inputs] == [21, 22]
    middle = found.inputs[1]
    assert middle.document is not None
    assert middle.document["parameters"]["factor"] == 3
    assert middle.document["parameters_version"] == 1
    assert verify(hub, "scaled", "scan1", 22).verdict == "same"
    assert [one.state for one in middle.inputs] == ["written"]
