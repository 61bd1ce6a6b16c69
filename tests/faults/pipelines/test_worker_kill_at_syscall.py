"""A worker is killed before a system call between its result and the acknowledgement.

The calls are found by watching one worker publish. Then, for each seed, a worker is stopped just
before it publishes, and killed before one of these calls; another one does the rest. The stream of
results must be that of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import errno
import os
import random
import re
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import beamstream as bs
from beamstream.testing.node import NodeProcess
from beamstream.worker.jobs import Faults, Job, encode
from beamstream.worker.runner import Worker
from faults.pipelines.steps import Hold, make

pytestmark = pytest.mark.system

MESSAGES = 12
DYING_S = 60.0
TESTS = Path(__file__).parents[2]
# What does nothing that others could see, and what threads wait in.
PASSIVE = {"futex", "poll", "ppoll", "epoll_wait", "epoll_pwait", "clock_nanosleep", "sched_yield"}

Point = tuple[str, int]
Content = list[tuple[int, bytes, bytes, dict[str, int]]]


class Held:
    """A worker process that waits before it publishes."""

    def __init__(self, node: NodeProcess, token: str, stream: str, at: int, folder: Path) -> None:
        self.session = secrets.token_bytes(16)
        self._ready, self._go = folder / f"{stream}.ready", folder / f"{stream}.go"
        for pipe in (self._ready, self._go):
            os.mkfifo(pipe)
        settings = {"at": at, "ready": str(self._ready), "go": str(self._go)}
        job = Job(
            "faults.pipelines.steps:make",
            url=str(node.connect["url"]),
            token=token,
            reads=(f"raw/{stream}",),
            session=self.session.hex(),
            faults=Faults(f"{Hold.__module__}:{Hold.__name__}", settings),
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "beamstream.worker.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(encode(job))
        self.process.stdin.flush()

    def wait(self) -> None:
        """Until it has a result and has not published it."""
        assert self._ready.read_bytes() == b"made"

    def go_on(self) -> None:
        """Let it publish, if it has not been killed while nobody looked."""
        while self.process.poll() is None:
            try:
                pipe = os.open(self._go, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                # It is on its way to the other end of the pipe.
                os.sched_yield()
                continue
            os.write(pipe, b"go")
            os.close(pipe)
            return

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        assert self.process.stdin is not None
        self.process.stdin.close()


class Lab:
    """A node, and streams of which results are made."""

    def __init__(self, folder: Path, strace: str, node: NodeProcess) -> None:
        self.folder = folder
        self._strace = strace
        self.node = node
        self.token = node.token("kills")
        self.hub = bs.connect(str(node.connect["url"]), token=self.token)

    def fill(self, stream: str) -> None:
        with self.hub.source("raw").stream(stream).writer() as writer:
            for id in range(1, MESSAGES + 1):
                writer.send(np.full(1000, id, np.uint32), {"shot": id})

    def finish(self, stream: str) -> None:
        """Let an undisturbed worker do what is left of a stream, to its end."""
        stop = threading.Event()
        with bs.connect(str(self.node.connect["url"]), token=self.token) as hub:
            thread = threading.Thread(
                target=Worker(hub, make, reads=[f"raw/{stream}"]).run, args=(stop,)
            )
            thread.start()
            try:
                group = self.hub.source("made").stream(stream).group("end", ack="none")
                for _ in group:
                    pass
                assert group.end is not None
                assert group.end.reason == "finished"
                assert group.end.last_id == MESSAGES
                assert not group.end.missing
            finally:
                stop.set()
                thread.join(60)

    def content(self, stream: str) -> Content:
        """What readers of the results see."""
        found = self.hub.source("made").stream(stream)
        return [(m.id, m.digest, bytes(m.data), m.meta) for m in found.messages()]

    @contextmanager
    def traced(self, process: subprocess.Popen[bytes], *options: str) -> Iterator[None]:
        command = [self._strace, "-f", "-p", str(process.pid), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            line = tracer.stderr.readline()
            assert "attached" in line, line
            try:
                yield
            finally:
                process.kill()
                tracer.communicate(timeout=DYING_S)

    def calls_of_a_result(self) -> list[Point]:
        """The system calls by which one result is published and its answer taken."""
        stream, out = "watched", self.folder / "calls"
        self.fill(stream)
        worker = Held(self.node, self.token, stream, 2, self.folder)
        try:
            worker.wait()
            with self.traced(worker.process, "-o", str(out), "-e", "trace=all"):
                worker.go_on()
                stored = self.hub.source("made").stream(stream).group("watch", ack="none")
                assert len([message for message, _ in zip(stored, range(2), strict=False)]) == 2
        finally:
            worker.close()
        by_thread: Counter[tuple[str, str]] = Counter()
        for line in out.read_text().splitlines():
            found = re.match(r"(\d+) +([a-z0-9_]+)\(", line)
            if found:
                by_thread[found[1], found[2]] += 1
        most: Counter[str] = Counter()
        for (_, name), count in by_thread.items():
            most[name] = max(most[name], count)
        return [(name, n) for name, count in sorted(most.items()) for n in range(1, count + 1)]

    def kill_before(self, point: Point, stream: str, at: int) -> bool:
        """Kill a worker before a call on the way of a result; whether it came to that call."""
        name, count = point
        self.fill(stream)
        worker = Held(self.node, self.token, stream, at, self.folder)
        try:
            worker.wait()
            inject = f"inject={name}:signal=KILL:when={count}"
            with self.traced(
                worker.process, "-o", "/dev/null", "-e", f"trace={name}", "-e", inject
            ):
                worker.go_on()
                # It has done all of it when it is not killed.
                group = self.hub.source("made").stream(stream).group("watch", ack="none")
                with group.subscribe() as member:
                    while worker.process.poll() is None and member.end is None:
                        member.next_event(0.02)
                killed = worker.process.poll() is not None
        finally:
            worker.close()
        self.hub.end_session(worker.session)
        return killed


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(12, id="short"),
        pytest.param(200, id="long", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_results_are_those_of_an_undisturbed_run(
    tmp_path: Path, strace: str, seed: int, seeds: int
) -> None:
    chance = random.Random(seed)
    with NodeProcess(tmp_path / "data", cache="64MiB") as node:
        lab = Lab(tmp_path, strace, node)
        with lab.hub:
            lab.fill("undisturbed")
            lab.finish("undisturbed")
            wanted = lab.content("undisturbed")
            assert [id for id, *_ in wanted] == [n for n in range(1, MESSAGES + 1) if n % 5]
            calls = lab.calls_of_a_result()
            points = [point for point in calls if point[0] not in PASSIVE]
            assert {"sendmsg"} <= {name for name, _ in points}, calls
            chance.shuffle(points)
            killed: Counter[Point] = Counter()
            for number in range(seeds):
                point = points[number] if number < len(points) else chance.choice(calls)
                stream = f"s{number}"
                if lab.kill_before(point, stream, chance.randint(1, MESSAGES)):
                    killed[point] += 1
                lab.finish(stream)
                assert lab.content(stream) == wanted, (point, stream)
            print(f"{killed.total()} of {seeds} workers were killed, before {dict(killed)}")
            assert killed.total() >= seeds // 3, calls
        node.check_log()
