"""Workers at a real node: what they read and write, and that killing them changes nothing."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from beamstream import Message
from beamstream.cli.worker_steps import redeliver, unexplained
from beamstream.client.native.hub import Hub, connect
from beamstream.errors import BadStep
from beamstream.testing.node import NodeProcess
from beamstream.worker import jobs, step, versions
from beamstream.worker.jobs import Faults, Job, Status
from beamstream.worker.policy import OnError
from beamstream.worker.runner import Ending, Worker

pytestmark = pytest.mark.system
BEAMTIME = "test"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="128MiB", durability="os") as running:
        yield running


@contextlib.contextmanager
def connected(node: NodeProcess) -> Iterator[Hub]:
    with connect(node.endpoint, beamtime=BEAMTIME, token=node.token(BEAMTIME)) as hub:
        yield hub


@pytest.fixture
def hub(node: NodeProcess) -> Iterator[Hub]:
    with connected(node) as found:
        yield found


class Running:
    """A worker in a thread, with a connection of its own."""

    def __init__(self, node: NodeProcess, which: Any, **how: Any) -> None:
        self._context = connected(node)
        self.hub = self._context.__enter__()
        self.worker = Worker(self.hub, which, **how)
        self.stop = threading.Event()
        self.ending: Ending | BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.ending = self.worker.run(self.stop)
        except BaseException as error:
            self.ending = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def join(self) -> Ending | BaseException | None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.ending

    def __exit__(self, *rest: object) -> None:
        self.stop.set()
        try:
            self.join()
        finally:
            self._context.__exit__(None, None, None)
        if isinstance(self.ending, BaseException) and rest[0] is None:
            raise self.ending


def until(what: Callable[[], Any]) -> Any:
    """Ask the node again and again, each time after it has answered."""
    deadline = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < deadline, "it has not happened"
    return found


def write(hub: Hub, source: str, stream: str, values: Any, **how: Any) -> None:
    with hub.source(source).stream(stream).writer(**how) as writer:
        for id, value in enumerate(values, 1):
            writer.send(np.full(4, value), {"i": id})


def finished(hub: Hub, source: str, stream: str) -> Any:
    def look() -> Any:
        row = hub.source(source).stream(stream).info()
        return row if row is not None and row.last_id >= 0 else None

    return until(look)


def content(hub: Hub, source: str, stream: str) -> list[tuple[int, bytes, dict[str, Any]]]:
    return [(one.id, bytes(one.data), one.meta) for one in hub.source(source).stream(stream)]


# ------------------------------------------------------------------------------ a worker


@step(reads="det1/*", writes="doubled")
def double(frame: Any, *, factor: int = 2) -> Any:
    if frame[0] == 5:
        return None
    if frame[0] == 7:
        raise ValueError("seven")
    return frame * factor


def test_a_stream_from_its_beginning_to_its_end(node: NodeProcess, hub: Hub) -> None:
    hub.source("det1").stream("a").set_meta({"energy": 12})
    with Running(node, double, parameters={"factor": 3}, instance="me") as running:
        write(hub, "det1", "a", range(1, 11), next_stream="b")
        row = finished(hub, "doubled", "a")
    assert running.ending is Ending.DRAINED
    assert (row.count, row.last_id, row.next_stream, row.skipped) == (8, 10, "b", 1)
    found = content(hub, "doubled", "a")
    assert [id for id, _, _ in found] == [1, 2, 3, 4, 6, 8, 9, 10]
    assert found[1][2] == {"i": 2}
    message = hub.source("doubled").stream("a")[2]
    assert isinstance(message, Message)
    assert message.array().tolist() == [6] * 4
    [failure] = list(hub.source("double.failed").stream("a"))
    assert failure.meta["error"] == "seven"
    assert failure.meta["worker"] == "me"
    group = hub.source("det1").stream("a").group("double")
    assert [one.id for one in group.dead()] == [7]
    origin = hub.source("doubled").stream("a").origin(2)
    assert origin is not None
    assert [(one.source, one.stream, one.id) for one in origin.inputs] == [("det1", "a", 2)]
    run = hub.run(origin.run)
    assert run is not None
    document = msgspec.json.decode(run.document)
    assert document["parameters"] == {"factor": 3}
    assert (document["parameters_version"], document["header_version"]) == (1, 1)
    assert (running.worker.counts.done, running.worker.counts.failed) == (9, 1)


def test_parameters_change_while_it_runs(node: NodeProcess, hub: Hub) -> None:
    @step(reads="det2", writes="out2", name="scaled")
    def scaled(frame: Any, *, factor: int = 1) -> Any:
        return frame * factor

    source = hub.source("det2").stream("s")
    with Running(node, scaled) as running, source.writer() as writer:
        writer.send(np.ones(1, int)).result()
        until(lambda: running.worker.counts.done == 1)
        versions.change(hub, "scaled", {"factor": "x"}, "me")
        until(lambda: "not used" in running.worker.counts.note)
        versions.change(hub, "scaled", {"factor": 9}, "me")
        until(lambda: running.worker.book.parameters_version == 3)
        writer.send(np.ones(1, int)).result()
        until(lambda: running.worker.counts.done == 2)
    values = [int(one.array()[0]) for one in hub.source("out2").stream("s")]
    assert values == [1, 9]
    # The same job goes on with what was set, another one with its own.
    with Running(node, scaled) as running:
        until(lambda: running.worker.state == "running")
    assert running.worker.book.parameters_version == 3
    with Running(node, scaled, parameters={"factor": 5}) as running:
        until(lambda: running.worker.state == "running")
    assert versions.current(hub, "scaled").parameters == {"factor": 5}


def test_windows_to_the_end(node: NodeProcess, hub: Hub) -> None:
    @step(reads="det3", writes="means", window=4)
    def mean(frames: list[Any]) -> Any:
        return np.mean(frames, axis=0)

    write(hub, "det3", "s", range(1, 11))
    with Running(node, mean):
        row = finished(hub, "means", "s")
    assert (row.count, row.last_id) == (3, 3)
    assert [one.array()[0] for one in hub.source("means").stream("s")] == [2.5, 6.5, 9.5]
    origin = hub.source("means").stream("s").origin(3)
    assert origin is not None
    assert [one.id for one in origin.inputs] == [9, 10]


def test_a_join(node: NodeProcess, hub: Hub) -> None:
    @step(reads=["left", "right"], writes="sums")
    def add(left: Any, right: Any) -> Any:
        return left + right

    write(hub, "left", "s", [1, 2])
    with Running(node, add):
        write(hub, "right", "s", [10, 20])
        until(lambda: len(hub.source("sums").stream("s")) == 2)
    assert [one.array()[0] for one in hub.source("sums").stream("s")] == [11, 22]


def test_ordered_output_of_several_workers(node: NodeProcess, hub: Hub) -> None:
    turn = threading.Barrier(2)

    @step(reads="det4", writes="sorted", output="ordered")
    def late(frame: Any) -> Any:
        if frame[0] in (1, 2):
            turn.wait(WAIT_S)
        return frame

    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Running(node, late, ahead=1))
        write(hub, "det4", "s", range(1, 101))
        finished(hub, "sorted", "s")
    rows = [(one.seq, one.id) for one in hub.source("sorted").stream("s")]
    assert rows == [(k, k) for k in range(1, 101)]


def test_stop_leaves_the_input_open(node: NodeProcess, hub: Hub) -> None:
    @step(reads="det5", writes="never")
    def bad(frame: Any) -> Any:
        raise ValueError("no")

    write(hub, "det5", "s", [1, 2])
    with Running(node, bad, on_error=OnError(then="stop")) as running:
        assert running.join() is Ending.STOPPED
    group = hub.source("det5").stream("s").group("bad")
    assert group.dead() == []
    with group.subscribe() as member:
        again = [member.take(WAIT_S), member.take(WAIT_S)]
    found = [(one.id, one.delivery) for one in again if isinstance(one, Message)]
    assert sorted(found) == [(1, 1), (2, 1)]


def test_what_cannot_be_a_worker(hub: Hub) -> None:
    @step(writes="x")
    def nowhere(frame: Any) -> Any:
        return frame

    with pytest.raises(BadStep, match="what it reads"):
        Worker(hub, nowhere)
    with pytest.raises(BadStep, match="its own results"):
        Worker(hub, nowhere, reads=["x"])


# ---------------------------------------------------------------------------- processes

CODE = """
import numpy as np
from beamstream.worker import Result, step

@step(reads="raw")
def odd(frame, *, factor: int = 2):
    if frame[0] % 3 == 0:
        return None
    return Result(frame * factor, {"was": int(frame[0])})
"""


class Child:
    """A worker process."""

    def __init__(self, job: Job) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "beamstream.worker.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(jobs.encode(job))
        self.process.stdin.flush()

    def wait(self, *, close: bool = False) -> tuple[int, list[Status], str]:
        out, err = b"", b""
        if close:
            out, err = self.process.communicate(timeout=WAIT_S)
        else:
            # Its stdin stays open: it ends by itself, or by a signal.
            self.process.wait(WAIT_S)
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            with self.process.stdout, self.process.stderr:
                out, err = self.process.stdout.read(), self.process.stderr.read()
        statuses = [msgspec.json.decode(line, type=Status) for line in out.splitlines()]
        return self.process.returncode, statuses, err.decode()


@pytest.fixture
def job(node: NodeProcess, tmp_path: Path) -> Job:
    code = tmp_path / "mine.py"
    code.write_text(CODE)
    return Job(
        f"{code}:odd", url=node.endpoint, beamtime=BEAMTIME, token=node.token(BEAMTIME),
        reads=("raw",),
    )  # fmt: skip


def test_killed_workers_leave_what_an_undisturbed_one_does(
    node: NodeProcess, hub: Hub, job: Job
) -> None:
    """Each is killed at every tenth message, before and after its results are published."""
    write(hub, "raw", "s", range(1, 61))
    whole = msgspec.structs.replace(job, step_id="whole", writes="whole")
    child = Child(whole)
    finished(hub, "whole", "s")
    code, statuses, _ = child.wait(close=True)
    assert code == jobs.DRAINED
    assert statuses[-1].state == "ended"
    assert (statuses[-1].done, statuses[-1].skipped, statuses[-1].results) == (60, 20, 40)

    broken = msgspec.structs.replace(job, step_id="broken", writes="broken")
    dying = []
    for when in ("called", "made", "published"):
        for at in (1, 7):
            faults = Faults("beamstream.testing.worker_faults:Dying", {"at": at, "when": when})
            dying.append(Child(msgspec.structs.replace(broken, faults=faults, ahead=1)))
    # All of them together end long before the stream does: the first one gets a message.
    assert dying[0].process.wait(WAIT_S) == -signal.SIGKILL
    last = Child(broken)
    finished(hub, "broken", "s")
    code, _, _ = last.wait(close=True)
    assert code == jobs.DRAINED
    killed = 0
    for child in dying:
        code, _, _ = child.wait(close=True)
        assert code in (-9, jobs.DRAINED)
        killed += code == -9
    assert killed >= 1
    assert content(hub, "broken", "s") == content(hub, "whole", "s")
    assert hub.source("broken").stream("s").gaps() == []
    ends = [hub.source(name).stream("s").info() for name in ("whole", "broken")]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].last_id == ends[1].last_id == 60


def test_exit_statuses(node: NodeProcess, hub: Hub, job: Job) -> None:
    code, _, told = Child(msgspec.structs.replace(job, parameters={"factr": 1})).wait()
    assert code == jobs.REFUSED
    assert "do you mean 'factor'" in told
    code, _, told = Child(msgspec.structs.replace(job, where="no.such:step")).wait()
    assert code == jobs.REFUSED
    assert "cannot be imported" in told
    code, _, told = Child(msgspec.structs.replace(job, url="127.0.0.1:1")).wait()
    assert code == jobs.CRASHED
    write(hub, "empty", "s", [b""] and ["x"])
    stop = msgspec.structs.replace(
        job, reads=("empty",), writes="none", step_id="stops", on_error=OnError(then="stop")
    )
    code, statuses, told = Child(stop).wait()
    assert code == jobs.STOPPED
    assert "stopped: s[1]" in told
    assert statuses[-1].failed == 1


def test_what_kills_its_workers_is_given_up_and_told(node: NodeProcess, hub: Hub, job: Job) -> None:
    write(hub, "poison", "s", [1])
    group = hub.source("poison").stream("s").group("dies", ack="manual", max_attempts=1)
    with group.subscribe() as member:
        message = member.take(WAIT_S)
        assert isinstance(message, Message)
        message.nack()
        until(group.dead)
    [found] = unexplained(hub, "dies", "")
    assert (found.source, found.stream, found.id) == ("poison", "s", 1)
    assert unexplained(hub, "dies", "other") == []
    assert redeliver(hub, "dies", "s[1]") == 1
    until(lambda: not group.dead())


def test_sigterm_drains(node: NodeProcess, hub: Hub, job: Job) -> None:
    write(hub, "raw6", "s", range(1, 21))
    child = Child(msgspec.structs.replace(job, reads=("raw6",), writes="out6", step_id="six"))
    finished(hub, "out6", "s")
    child.process.terminate()
    code, statuses, _ = child.wait()
    assert code == jobs.DRAINED
    assert statuses[-1].done == 20
