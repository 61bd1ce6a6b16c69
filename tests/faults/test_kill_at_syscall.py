"""SIGKILL before every system call of the put path; the official producer sends again by itself.

The calls are found by watching one put. Then, for each of them, a node is killed just before it
makes it; it starts again, the producer's own repetition must be answered, and in the end every
message must be there once, whole.
"""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beamstream.model import Level
from beamstream.testing.checker import Call, History, payload_nbytes, verify
from beamstream.testing.node import NodeProcess

from .actors import send_officially
from .official import Official
from .raw import Target
from .readback import read_back

pytestmark = [pytest.mark.system, pytest.mark.official]

STREAM = "s"
WORKERS = 4
ATTEMPTS = 5
STRACE_SECONDS = 5.0
DYING_SECONDS = 1.0
# Worker threads of io_uring belong to the node and cannot be traced: strace would refuse.
UNTRACED = {"UV_USE_IO_URING": "0"}
TRIES_MAX = 8
SIZES = (1_000, 200_000)
STORING = (
    "openat",
    "openat2",
    "mkdirat",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "fdatasync",
    "fsync",
    "renameat2",
    "linkat",
    "unlinkat",
    "unlink",
    "ftruncate",
    "sendto",
    "sendmsg",
)
"""Calls that change what is stored or known: killed before in every run; others as time allows."""

Point = tuple[str, int]


class Lab:
    """A node, the official producer, and what it was asked."""

    def __init__(self, folder: Path, strace: str, seed: int) -> None:
        self.strace = strace
        self.history = History(seed)
        self.node = NodeProcess(
            folder / "data", cache="16MiB", durability="disk", env=UNTRACED
        ).start()
        self.target = Target(self.node)
        self.producer = Official("producer", self.target, 120_000)
        self._id = 0
        self._pause = threading.Event()
        self.send()[1].wait(60)

    def send(self) -> tuple[Call, threading.Event]:
        """Begin to send the next message, in a folder that exists or in a new one."""
        self._id += 1
        id = self._id
        folder = f"f{id}/new/" if id % 3 == 0 else ""
        seed = self.history.seed_of(STREAM)
        # Every fourth is more than what the cache takes: it is written as it comes.
        nbytes = 3_000_000 if id % 4 == 0 else payload_nbytes(seed, id, *SIZES)
        call = self.history.put(
            "official",
            STREAM,
            id,
            nbytes=nbytes,
            level=Level.DISK,
            name=f"processed/{folder}{id}",
        )
        ended = threading.Event()

        def send() -> None:
            send_officially(self.producer, self.history, call)
            ended.set()

        threading.Thread(target=send, daemon=True).start()
        return call, ended

    @contextlib.contextmanager
    def traced(self, out: str, *expressions: str) -> Iterator[None]:
        """Within it, strace watches all threads of the node."""
        options = ["-o", out]
        for expression in expressions:
            options += ["-e", expression]
        process = self._attach(options)
        with process:
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(STRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    # It waits for a thread of the dead node that will never report.
                    process.kill()

    def _attach(self, options: list[str]) -> subprocess.Popen[str]:
        """Start strace; again, if a thread or the node ended just when it was to be attached."""
        for _ in range(ATTEMPTS):
            self._revive()
            command = [self.strace, "-f", "-p", str(self.node.pid), *options]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            line = process.stderr.readline()
            if "attached" in line:
                return process
            process.kill()
            process.communicate()
            self._wait_for_death()
        raise AssertionError(line)

    def _revive(self) -> None:
        """Start the node if it is dead: a call after the answer may have been the fatal one."""
        if not self.node.running:
            self.history.fault("killed after the answer")
            self.node.kill()
            self.node.start()

    def _wait_for_death(self) -> None:
        """Give a node that was just killed the time to end: it cannot be traced any more."""
        deadline = time.monotonic() + DYING_SECONDS
        while self.node.running and time.monotonic() < deadline:
            self._pause.wait(0.005)

    def calls_of_a_put(self, out: Path) -> Counter[str]:
        """The system calls of one put: for each, how often one thread makes it."""
        with self.traced(str(out), "trace=all"):
            _, ended = self.send()
            assert ended.wait(60)
        by_thread: Counter[tuple[str, str]] = Counter()
        for line in out.read_text().splitlines():
            found = re.match(r"(\d+) +([a-z0-9_]+)\(", line)
            if found:
                by_thread[found[1], found[2]] += 1
        most: Counter[str] = Counter()
        for (_, name), count in by_thread.items():
            most[name] = max(most[name], count)
        return most

    def kill_before(self, point: Point) -> bool:
        """Send a message and kill the node before a call; whether that call was reached."""
        name, count = point
        inject = f"inject={name}:signal=KILL:when={count}"
        with self.traced("/dev/null", f"trace={name}", inject):
            _, ended = self.send()
            self._wait_for_answer_or_death(ended)
        # Only now: the call may also have come after the answer, while strace was let go.
        killed = not self.node.running
        if killed:
            self.history.fault(f"killed before {name} {count}")
            self.node.kill()
            self.node.start()
        assert ended.wait(60), f"the producer was never answered after a kill before {point}"
        return killed

    def _wait_for_answer_or_death(self, ended: threading.Event) -> None:
        deadline = time.monotonic() + 60
        while not ended.wait(0.005) and self.node.running:
            assert time.monotonic() < deadline, "the put neither ends nor dies"

    def finish(self) -> None:
        self.node.restart(kill=True)
        snapshot = read_back(self.node, [STREAM])
        self.node.check_log()
        verdict = verify(self.history, snapshot)
        print(verdict)
        assert verdict, str(verdict)
        assert verdict.puts == self._id
        self.node.terminate()

    def close(self) -> None:
        self.producer.close()
        self.node.kill()


class Points:
    """Which calls the node is still to be killed before: each once, then any until the end."""

    def __init__(self, points: list[Point], ends: float, seed: int) -> None:
        self.all = points
        self.reached: Counter[Point] = Counter()
        self.tries: Counter[Point] = Counter()
        self._ends = ends
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def next(self) -> Point | None:
        """A point to try; None at the end."""
        with self._lock:
            late = time.monotonic() > self._ends
            # Not every put makes every call: a point that was missed is tried again.
            for point in self.all:
                wanted = point[0] in STORING or not late
                if wanted and not self.reached[point] and self.tries[point] < TRIES_MAX:
                    break
            else:
                if late:
                    return None
                point = self._random.choice(self.all)
            self.tries[point] += 1
            return point

    def note_reached(self, point: Point) -> None:
        with self._lock:
            self.reached[point] += 1


def work(make: Callable[[], Lab], points: Points) -> None:
    lab = make()
    try:
        while (point := points.next()) is not None:
            if lab.kill_before(point):
                points.note_reached(point)
        lab.finish()
    finally:
        lab.close()


def test_a_kill_before_any_system_call_loses_nothing(
    tmp_path: Path, strace: str, seconds: float, seed: int
) -> None:
    began = time.monotonic()
    first = Lab(tmp_path / "first", strace, seed)
    try:
        calls = first.calls_of_a_put(tmp_path / "calls") | first.calls_of_a_put(tmp_path / "calls")
        first.finish()
    finally:
        first.close()
    found = [(name, n) for name, count in calls.items() for n in range(1, count + 1)]
    found.sort(key=lambda point: (point[0] not in STORING, point[1]))
    print(f"system calls of a put: {dict(calls)}")
    points = Points(found, began + seconds, seed)
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(lambda: Lab(tmp_path / str(number), strace, seed + number), points)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(1, WORKERS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    missed = [point for point in found if not points.reached[point]]
    print(f"{points.reached.total()} kills, before {len(found)} calls but {missed}")
    if errors:
        raise errors[0]
    wanted = {name for name in calls if name in STORING}
    assert {"fdatasync", "pwrite64"} <= wanted, calls
    reached = {name for name, _ in points.reached}
    assert wanted <= reached, f"never killed before {wanted - reached}"
    # The last of a call that only some puts make may be missed.
    assert sum(name in STORING for name, _ in missed) <= 0.1 * len(found), missed
