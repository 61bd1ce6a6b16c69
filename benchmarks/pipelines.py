"""What a pipeline of three steps that do nothing costs: rate, delay, processor time a message.

``python -m benchmarks.pipelines`` starts a node and a process for each step, and sends arrays
through them: first as fast as they come out again (so many under way, no more), which is the rate
that can be sustained; then at half of it, when delays are measured, from before the array is sent
to when the last reader has it. The processor time of the steps is that of their processes and of
the node, less what the node needs for the same messages without steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

import beamstream as bs
from beamstream.testing.node import NodeProcess
from beamstream.worker.jobs import Job, encode

_BEAMTIME: Final = "bench"
_STREAM: Final = "s"
_STEPS: Final = ("one", "two", "three")
_SOURCES: Final = ("first", "second", "third", "fourth")
_UNDER_WAY: Final = {False: 24, True: 20_000}
_RUN: Final = 256
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Steps:
    """The worker processes."""

    def __init__(self, node: NodeProcess, token: str, names: list[str]) -> None:
        self._processes = []
        for name in names:
            job = Job(
                f"benchmarks.idle_steps:{name}",
                url=str(node.connect["url"]),
                token=token,
                instance=name,
            )
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "beamstream.worker.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            assert process.stdin is not None
            process.stdin.write(encode(job))
            process.stdin.flush()
            self._processes.append(process)

    def cpu_s(self) -> float:
        """Processor time of all of them, seconds."""
        return sum(_cpu_s(process.pid) for process in self._processes)

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            process.wait(30)


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rsplit(b")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Sink:
    """Reads what comes out at the end, and notes delays."""

    def __init__(self, hub: bs.Hub, source: str, small: bool) -> None:
        self.count = 0
        self.delays_ms: list[float] = []
        self.changed = threading.Condition()
        self._small = small
        self._group = hub.source(source).stream(_STREAM).group("sink", ack="none")
        self._member = self._group.subscribe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for batch in self._member.batches():
            now = time.time_ns()
            first = np.frombuffer(batch.payload(0)[:8], np.int64)[0]
            with self.changed:
                self.count += len(batch)
                self.delays_ms.append((now - int(first)) / 1e6)
                self.changed.notify()
            del batch

    def wait(self, count: int, seconds: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.count >= count, seconds)

    def close(self) -> None:
        self._member.close()
        self._thread.join(10)


def _send(writer: bs.Writer, nbytes: int, small: bool) -> int:
    """Send one array, or a run of small ones; how many it were."""
    if small:
        frames = np.zeros((_RUN, nbytes // 8), np.int64)
        frames[:, 0] = time.time_ns()
        writer.send_many(frames)
        return _RUN
    began = time.time_ns()
    with writer.frame((nbytes // 8,), np.int64) as array:
        array[0] = began
    return 1


def _closed(writer: bs.Writer, sink: Sink, nbytes: int, small: bool, seconds: float) -> float:
    """Messages per second when only so many are under way."""
    sent = sink.count
    end = time.monotonic() + seconds
    began, start = time.monotonic(), sink.count
    while time.monotonic() < end:
        if not sink.wait(sent - _UNDER_WAY[small], 30):
            raise SystemExit("nothing comes out of the pipeline")
        sent += _send(writer, nbytes, small)
    rate = (sink.count - start) / (time.monotonic() - began)
    sink.wait(sent, 30)
    return rate


def _open(
    writer: bs.Writer, sink: Sink, nbytes: int, small: bool, rate: float, seconds: float
) -> list[float]:
    """Delays, ms, at a rate that nothing holds up."""
    sent, first = sink.count, len(sink.delays_ms)
    began = time.monotonic()
    base = sent
    while (now := time.monotonic()) < began + seconds:
        due = began + (sent - base) / rate
        if due > now:
            time.sleep(due - now)
        sent += _send(writer, nbytes, small)
    sink.wait(sent, 60)
    return sorted(sink.delays_ms[first:])


@contextmanager
def _node(steps: list[str]) -> Iterator[tuple[NodeProcess, bs.Hub, Steps]]:
    with NodeProcess(cache="2GiB") as node:
        token = node.token(_BEAMTIME)
        hub = bs.connect(str(node.connect["url"]), token=token)
        workers = Steps(node, token, steps)
        try:
            with hub:
                yield node, hub, workers
        finally:
            workers.close()


def measure(nbytes: int, *, small: bool, seconds: float) -> dict[str, Any]:
    """One run: rate, delays at half of it, processor time a message and step."""
    names = [f"small_{name}" if small else name for name in _STEPS]
    with _node(names) as (node, hub, workers):
        sink = Sink(hub, _SOURCES[-1], small)
        writer = hub.source(_SOURCES[0]).stream(_STREAM).writer(level="cache", finish=False)
        _closed(writer, sink, nbytes, small, 2.0)
        rate = _closed(writer, sink, nbytes, small, seconds)
        cpu_s, count = node.cpu_s() + workers.cpu_s(), sink.count
        delays = _open(writer, sink, nbytes, small, rate / 2, seconds)
        counted = sink.count - count
        with_steps = (node.cpu_s() + workers.cpu_s() - cpu_s) / counted
        writer.close(finish=False)
        sink.close()
    with _node([]) as (node, hub, _):
        sink = Sink(hub, _SOURCES[0], small)
        writer = hub.source(_SOURCES[0]).stream(_STREAM).writer(level="cache", finish=False)
        _open(writer, sink, nbytes, small, rate / 2, 1.0)
        cpu_s, count = node.cpu_s(), sink.count
        _open(writer, sink, nbytes, small, rate / 2, seconds / 2)
        without = (node.cpu_s() - cpu_s) / (sink.count - count)
        writer.close(finish=False)
        sink.close()
    return {
        "nbytes": nbytes,
        "per_s": round(rate, 1),
        "delay_ms_p50": round(statistics.median(delays), 2),
        "delay_ms_p99": round(delays[int(0.99 * (len(delays) - 1))], 2),
        "cpu_us_per_message_and_step": round((with_steps - without) / len(_STEPS) * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    for nbytes, small in ((2 * 2**20, False), (1000, True)):
        runs = [
            measure(nbytes, small=small, seconds=arguments.seconds) for _ in range(arguments.repeat)
        ]
        for run in runs:
            print(json.dumps(run), flush=True)
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print("median", json.dumps(middle), flush=True)


if __name__ == "__main__":
    main()
