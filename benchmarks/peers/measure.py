"""One case: a peer, a size; a server of its own, a producer and a consumer process."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from beamstream.errors import Error, TimedOut
from benchmarks.peers.interface import CannotBeHad, Durability, Peer, Server
from benchmarks.peers.ports import NotUp
from benchmarks.workers import RESULT_SECONDS_MAX, Worker

FAILURES: Final = (Error, NotUp, CannotBeHad, OSError)

_NBYTES: Final = 2_000_000_000
_COUNT: Final = 300_000
_WARM_NBYTES: Final = 40_000_000
_WARM_COUNT: Final = 2_000
_WARM_COUNT_MIN: Final = 4
_DELAYS_MAX: Final = 20_000
_TURN_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Found:
    """What one case gave in one run.

    Parameters
    ----------
    wall_s : from before the first send until the last message is acknowledged on both sides.
    cpu_s, server_cpu_s : of all processes, and of the server alone, within that.
    delays_ns : at half of that rate, from before a send to the payload in the consumer's hands.
    """

    count: int
    wall_s: float
    cpu_s: float
    server_cpu_s: float
    delays_ns: list[int]

    @property
    def rate(self) -> float:
        return self.count / self.wall_s

    def document(self) -> dict[str, Any]:
        """Return it for the JSON file, without the single delays."""
        p50_ms, p99_ms = percentiles_ms(self.delays_ns) if self.delays_ns else (None, None)
        found = asdict(self) | {"p50_ms": p50_ms, "p99_ms": p99_ms, "delays": len(self.delays_ns)}
        del found["delays_ns"]
        return found


def count_of(size: int, seconds: float) -> int:
    """Return how many messages every peer is given to move, which stops after `seconds`.

    >>> [count_of(size, 1.0) for size in (1_000, 1_000_000, 8_000_000)]
    [300000, 2000, 250]
    """
    return max(2, int(min(_COUNT, _NBYTES // size) * seconds))


def measure(peer: Peer, size: int, seconds: float, folder: Path) -> Found:
    """Measure a case: warm up, take the rate, then the delay at half of it.

    Raises
    ------
    one of `FAILURES` : with the reason.
    """
    with ExitStack() as stack:
        if peer.durability in (Durability.CRASH, Durability.SYNCED):
            # What others have left to be written is no part of it.
            os.sync()
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        server = stack.enter_context(peer.start(place))
        workers = [stack.enter_context(worker) for worker in _workers(peer, size, server)]
        for worker in workers:
            worker.ready()
        warm = max(_WARM_COUNT_MIN, min(_WARM_COUNT, _WARM_NBYTES // size))
        _phase(workers, count=warm, seconds=seconds, compared=True)
        before = _cpu_s(server.pids)
        found = _phase(workers, count=count_of(size, seconds), seconds=seconds)
        server_cpu_s = _cpu_s(server.pids) - before
        producer, consumer = found[0], found[-1]
        wall_s = max(one["last"] for one in found) - producer["first"]
        delays = []
        if not peer.alone:
            rate = consumer["count"] / wall_s / 2
            paced = _phase(workers, count=_DELAYS_MAX, seconds=seconds, rate=rate)
            delays = paced[-1]["delays_ns"]
        cpu_s = sum(one["cpu_s"] for one in found) + server_cpu_s
        return Found(producer["count"], wall_s, cpu_s, server_cpu_s, delays)


def _workers(peer: Peer, size: int, server: Server) -> Iterator[Worker]:
    for role in ("produce",) if peer.alone else ("produce", "consume"):
        yield Worker(
            "peers.worker",
            python=peer.python(),
            role=role,
            peer=peer.module,
            size=size,
            address=dict(server.address),
        )


def _phase(
    workers: list[Worker], *, count: int, seconds: float, rate: float = 0.0, compared: bool = False
) -> list[dict[str, Any]]:
    request = {"count": count, "seconds": seconds, "rate": rate, "compared": compared}
    for worker in workers:
        worker.ask(request)
    return _results(workers)


def _results(workers: list[Worker]) -> list[dict[str, Any]]:
    """Wait for all in turn: one that has failed may leave the other one waiting for ever."""
    found: dict[int, dict[str, Any]] = {}
    end = time.monotonic() + RESULT_SECONDS_MAX
    while len(found) < len(workers):
        for number, worker in enumerate(workers):
            if number not in found:
                try:
                    found[number] = worker.result(_TURN_SECONDS)
                except TimedOut:
                    if time.monotonic() > end:
                        raise
    return [found[number] for number in range(len(workers))]


def _cpu_s(pids: tuple[int, ...]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def percentiles_ms(delays_ns: list[int]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds.

    >>> percentiles_ms([1_000_000] * 99 + [9_000_000])
    (1.0, 1.08)
    """
    p50, p99 = np.percentile(delays_ns, [50, 99]) / 1e6
    return round(float(p50), 4), round(float(p99), 4)
