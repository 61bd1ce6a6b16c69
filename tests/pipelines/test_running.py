"""Whole pipelines with real workers at a real node."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from beamstream.client.native.hub import Hub, connect
from beamstream.client.native.places import Access
from beamstream.errors import BadPipeline, ConnectionLost, TimedOut
from beamstream.testing.node import NodeProcess
from beamstream.worker.pipelines.declaring import SOURCE
from beamstream.worker.pipelines.plan import load_plan
from beamstream.worker.pipelines.running import PipelineRun, Snapshot, StepRow
from pipelines.conftest import Write

pytestmark = pytest.mark.system

Begin = Callable[[str], PipelineRun]


@pytest.fixture
def begin(access: Access, write: Write, tmp_path: Path) -> Iterator[Begin]:
    """Start a pipeline with these steps."""
    running: list[PipelineRun] = []

    def begin(steps: str) -> PipelineRun:
        run = PipelineRun(
            load_plan(write(steps)),
            lambda: connect(access.url, beamtime=access.beamtime, token=access.token, patience=60),
            access,
            tmp_path / "logs",
            every_s=0.1,
        )
        running.append(run)
        return run.start()

    yield begin
    for run in running:
        run.close(2.0)


def until(
    run: PipelineRun, wanted: Callable[[dict[str, StepRow], Snapshot], object], seconds: float = 60
) -> Snapshot:
    """Let a pipeline run until it looks as wanted."""
    reached, stop = [], threading.Event()

    def each(snapshot: Snapshot) -> None:
        if wanted({step.name: step for step in snapshot.steps}, snapshot):
            reached.append(snapshot)
            stop.set()

    timer = threading.Timer(seconds, stop.set)
    timer.start()
    last = run.run(stop, each, each_s=0.05)
    timer.cancel()
    assert reached, f"it came to {last}"
    return reached[0]


def send(hub: Hub, count: int, stream: str = "scan1", source: str = "raw", begin: int = 1) -> None:
    """Send frames that hold their own number."""
    with hub.source(source).stream(stream).writer() as writer:
        writer.send_many([np.full(4, begin + i, "i8") for i in range(count)])


def values(hub: Hub, source: str, stream: str = "scan1") -> list[int]:
    return [int(message.array()[0]) for message in hub.source(source).stream(stream)[:]]


CHAIN = """\
  double: {run: own.py:double, replicas: 2}
  total: {run: own.py:total}
"""


def test_a_chain_does_all_however_often_its_workers_are_killed(begin: Begin, hub: Hub) -> None:
    run = begin(CHAIN)
    until(run, lambda steps, now: now.all_running)
    for turn in range(2):
        send(hub, 50, f"scan{turn}")
        for step in run.snapshot().steps:
            for pid in step.pids:
                os.kill(pid, signal.SIGKILL)
        until(run, lambda steps, now, turn=turn: steps["total"].restarts > turn)
        until(
            run,
            lambda steps, now, turn=turn: (
                now.all_running and steps["total"].figures.made == 50 * (turn + 1)
            ),
        )
    for turn in range(2):
        assert values(hub, "double", f"scan{turn}") == [2 * (1 + i) for i in range(50)]
        found = hub.source("total").stream(f"scan{turn}")
        assert [one.meta["total"] for one in found[:]] == [8 * (1 + i) for i in range(50)]
    assert run.snapshot().steps[0].restarts >= 2
    run.drain()
    last = until(run, lambda steps, now: now.state == "ended")
    assert [step.state for step in last.steps] == ["ended", "ended"]
    assert all(hub.source("total").stream(f"scan{i}").info().last_id == 50 for i in range(2))


def test_others_can_see_what_runs(begin: Begin, hub: Hub) -> None:
    run = begin(CHAIN)
    stream = hub.source(SOURCE).stream("demo")
    document = stream.meta
    assert document is not None
    assert (document["state"], document["pid"]) == ("up", os.getpid())
    assert [step["name"] for step in document["steps"]] == ["double", "total"]
    assert document["sources"][1] == {
        "source": "double", "written_by": ["double"], "read_by": ["total"],
    }  # fmt: skip
    run.close()
    assert stream.meta is not None
    assert stream.meta["state"] == "down"


def test_a_step_that_cannot_work_is_not_started_again(begin: Begin, hub: Hub) -> None:
    run = begin(
        """\
  broken: {run: own.py:double, environment: {BROKEN: 1}}
  total: {run: own.py:total, reads: raw}
"""
    )
    send(hub, 5)
    found = until(
        run,
        lambda steps, now: steps["broken"].state == "failed" and steps["total"].figures.made == 5,
    )
    broken = found.steps[0]
    assert broken.note.startswith("worker 1 ended with status 2:")
    assert "this file is broken today" in broken.note
    assert (broken.restarts, broken.figures.behind) == (0, 5)
    run.drain()
    last = until(run, lambda steps, now: now.state == "ended")
    assert last.note == "inputs are left for broken"


def test_a_step_is_stopped_by_its_policy_and_goes_on_when_asked(begin: Begin, hub: Hub) -> None:
    run = begin(
        """\
  double: {run: own.py:double}
  picky: {run: own.py:picky, on_error: stop, replicas: 2}
"""
    )
    send(hub, 20)
    found = until(run, lambda steps, now: steps["picky"].state == "stopped")
    assert "7 is refused" in found.steps[1].note
    found = until(run, lambda steps, now: not steps["picky"].pids)
    assert 7 not in values(hub, "picky")
    assert found.steps[1].figures.behind >= 1
    run.scale("picky", 1)
    assert run.snapshot().steps[1].state == "starting"
    until(run, lambda steps, now: steps["picky"].state == "stopped" and not steps["picky"].pids)
    run.scale("double", 0)
    until(run, lambda steps, now: steps["double"].state == "paused")


def test_a_pipeline_none_of_whose_steps_can_work_ends(begin: Begin) -> None:
    run = begin("  broken: {run: own.py:double, environment: {BROKEN: 1}}\n")
    last = until(run, lambda steps, now: now.state == "ended")
    assert last.steps[0].state == "failed"


def test_what_fails_is_counted(begin: Begin, hub: Hub) -> None:
    run = begin("  picky: {run: own.py:picky, parameters: {refuses: 3}}\n")
    send(hub, 5)
    found = until(
        run, lambda steps, now: steps["picky"].figures.failed and not steps["picky"].figures.behind
    )
    figures = found.steps[0].figures
    assert (figures.failed, figures.dead, figures.made, figures.done) == (1, 1, 4, 5)
    assert figures.delay_s is not None
    assert values(hub, "picky") == [1, 2, 4, 5]


def test_workers_come_and_go_by_hand(begin: Begin, hub: Hub) -> None:
    run = begin("  double: {run: own.py:double}\n")
    until(run, lambda steps, now: now.all_running)
    run.scale("double", 3)
    found = until(run, lambda steps, now: steps["double"].running == 3)
    assert len(set(found.steps[0].pids)) == 3
    run.scale("double", 0)
    until(run, lambda steps, now: steps["double"].state == "paused" and not steps["double"].pids)
    send(hub, 5)
    until(run, lambda steps, now: steps["double"].figures.behind == 5)
    run.scale("double", 1)
    until(run, lambda steps, now: steps["double"].figures.made == 5)
    with pytest.raises(BadPipeline, match="no step 'triple'"):
        run.scale("triple", 1)
    with pytest.raises(BadPipeline, match="0 to 256 workers, not -1"):
        run.scale("double", -1)
    run.down()
    with pytest.raises(BadPipeline, match="is ending"):
        run.scale("double", 1)


def test_workers_follow_the_lag(begin: Begin, hub: Hub) -> None:
    run = begin(
        """\
  slow:
    run: own.py:slow
    parameters: {seconds: 0.2}
    replicas: {min: 1, max: 2, lag_s: 0.2}
"""
    )
    until(run, lambda steps, now: now.all_running)
    send(hub, 60)
    found = until(run, lambda steps, now: steps["slow"].running == 2)
    assert found.steps[0].auto
    until(run, lambda steps, now: steps["slow"].figures.made == 60)
    assert values(hub, "slow") == list(range(1, 61))


def test_sources_are_joined(begin: Begin, hub: Hub) -> None:
    run = begin(
        """\
  double: {run: own.py:double}
  add: {run: own.py:add}
"""
    )
    send(hub, 30)
    found = until(
        run, lambda steps, now: steps["add"].figures.made == 30 and not steps["add"].figures.behind
    )
    assert found.steps[1].figures.done == 30
    assert values(hub, "sums") == [3 * i for i in range(1, 31)]


def test_draining_does_what_is_there(begin: Begin, hub: Hub) -> None:
    send(hub, 30)
    run = begin("  slow: {run: own.py:slow}\n  total: {run: own.py:total, reads: slow}\n")
    run.drain()
    last = until(run, lambda steps, now: now.state == "ended")
    assert last.note == ""
    assert [step.figures.made for step in last.steps] == [30, 30]


def test_draining_may_take_too_long(begin: Begin, hub: Hub) -> None:
    send(hub, 30)
    run = begin("  slow: {run: own.py:slow, parameters: {seconds: 3.0}}\n")
    run.drain(1.0)
    last = until(run, lambda steps, now: now.state == "ended")
    assert last.note == "the time for draining is over; inputs are left for slow"
    assert 0 < last.steps[0].figures.behind <= 30


def test_it_goes_on_where_it_was(begin: Begin, hub: Hub) -> None:
    send(hub, 10, "scan1")
    first = begin("  double: {run: own.py:double}\n")
    until(first, lambda steps, now: steps["double"].figures.made == 10)
    first.close()
    assert first.ended
    send(hub, 10, "scan2")
    second = begin("  double: {run: own.py:double}\n")
    until(second, lambda steps, now: steps["double"].figures.made == 20)
    assert values(hub, "double", "scan1") == values(hub, "double", "scan2")


def test_a_node_that_comes_back_finds_all_well(begin: Begin, hub: Hub, node: NodeProcess) -> None:
    run = begin(CHAIN)
    until(run, lambda steps, now: now.all_running)
    send(hub, 10, "scan1")
    node.restart(kill=True)
    send(hub, 10, "scan2")
    until(run, lambda steps, now: steps["total"].figures.made == 20, 90)
    assert values(hub, "double", "scan1") == values(hub, "double", "scan2")


def test_it_ends_while_the_node_is_away(begin: Begin, node: NodeProcess) -> None:
    run = begin("  double: {run: own.py:double}\n")
    until(run, lambda steps, now: now.all_running)
    node.kill()
    try:
        run.drain(0.5)
        last = until(run, lambda steps, now: now.state in ("stopping", "ended"))
        assert last.note == "the time for draining is over"
        run.close(1.0)
        assert run.ended
    finally:
        node.start()


def test_without_a_node_nothing_begins(write: Write, tmp_path: Path) -> None:
    access = Access("tcp://127.0.0.1:9", "bt", "token")
    run = PipelineRun(
        load_plan(write(CHAIN)),
        lambda: connect(access.url, beamtime="bt", token="token", timeout=1.0),
        access,
        tmp_path / "logs",
    )
    with pytest.raises((ConnectionLost, TimedOut)), run:
        pass
    assert run.ended
    assert [thread.name for thread in threading.enumerate() if "launcher" in thread.name] == []
