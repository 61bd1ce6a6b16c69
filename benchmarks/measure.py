"""Measure one row once, on a node that is running (raw rows need none)."""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from beamstream.testing.node import NodeProcess
from benchmarks.files import empty
from benchmarks.plan import WAIT_RATE, Kind, Load, Mode, Row
from benchmarks.workers import READY_SECONDS_MAX, Worker, WorkerFailed

BEAMTIME: Final = "bench"
CACHE_ONLY: Final = 9
DEFAULT: Final = 13

Figures = dict[str, float]
"""Of one measurement: count, wall_s and CPU seconds; or p50_ms and p99_ms."""


@dataclass(frozen=True)
class Times:
    """How long is measured, seconds, and how many messages a reader finds or waits for."""

    raw_s: float = 0.4
    files_s: float = 0.6
    put_s: float = 1.0
    stored_s: float = 1.2
    next_s: float = 1.5
    flat_out_s: float = 0.6
    raw_wait: int = 100
    wait: int = 420
    metadata_fill: int = 30_000
    data_fill: int = 9_000
    wait_skipped: int = 20


QUICK: Final = Times(
    raw_s=0.1,
    files_s=0.1,
    put_s=0.25,
    stored_s=0.3,
    next_s=0.4,
    flat_out_s=0.3,
    raw_wait=30,
    wait=80,
    metadata_fill=8_000,
    data_fill=2_500,
)

_LOAD_THREADS: Final = 2
_FILL_THREADS: Final = 4


class Bench:
    """Measures rows, one after the other.

    Parameters
    ----------
    folder : for the nodes' data and for bare files; a file system to be measured.
    """

    def __init__(self, folder: Path, times: Times) -> None:
        self._folder = folder
        self._times = times
        self._number = itertools.count(1)
        self._filled: dict[NodeProcess, str] = {}

    def measure(self, row: Row, node: NodeProcess) -> Figures:
        """Measure `row` once, on `node` if it needs one: it is running then.

        Raises
        ------
        WorkerFailed, TimedOut : a client got an error, other bytes, or no answer.
        """
        match row.kind:
            case Kind.FILES:
                return self._files(row)
            case Kind.PUT:
                return self._put(row, node)
            case Kind.NEXT:
                return self._next(row, node)
            case Kind.WAIT:
                return self._wait(row, node)
        return self._raw(row)

    # ------------------------------------------------------------------- without a node

    def _raw(self, row: Row) -> Figures:
        seconds = self._times.raw_s
        if row.kind is Kind.RAW_WAIT:
            seconds = self._times.raw_wait / WAIT_RATE
        with Worker(
            "raw", kind=row.kind, size=row.size, peers=row.peers, seconds=seconds, rate=WAIT_RATE
        ) as worker:
            found = _run(worker)
        # The receiving side stands where the node does.
        found["node_cpu_s"] = found.pop("receivers_cpu_s")
        return _figures(found)

    def _files(self, row: Row) -> Figures:
        os.sync()
        with Worker(
            "files",
            size=row.size,
            peers=row.peers,
            seconds=self._times.files_s,
            folder=str(self._folder),
        ) as worker:
            return _figures(_run(worker))

    # ----------------------------------------------------------------------- with one

    def _put(self, row: Row, node: NodeProcess) -> Figures:
        stored = row.mode is not Mode.CACHE
        if stored:
            # What earlier rows have left to be written must not be in this one's figure.
            os.sync()
        seconds = self._times.stored_s if stored else self._times.put_s
        source = self._new_name("put")
        with self._producer(
            node,
            source,
            size=row.size,
            peers=row.peers,
            seconds=seconds,
            ingest_mode=DEFAULT if stored else CACHE_ONLY,
        ) as worker:
            worker.ready()
            before = node.cpu_s()
            worker.go()
            found = worker.result()
            found["node_cpu_s"] = node.cpu_s() - before
        if stored:
            for below in (node.data / "beamtimes").glob(f"*/processed/{source}"):
                empty(below)
        return _figures(found)

    def _next(self, row: Row, node: NodeProcess) -> Figures:
        flat_out = row.load is not None and not row.load.rate
        seconds = self._times.flat_out_s if flat_out else self._times.next_s
        source, group = self._fill_for(row, node), self._new_name("group")
        with contextlib.ExitStack() as stack:
            consumers = [
                stack.enter_context(
                    self._consumer(
                        node,
                        source,
                        group=group,
                        size=row.size,
                        with_data=row.with_data,
                        seconds=seconds,
                    )
                )
                for _ in range(row.peers)
            ]
            for consumer in consumers:
                consumer.ready()
            writer = self._writer(stack, row.load, node) if row.load else None
            before = node.cpu_s()
            for consumer in consumers:
                consumer.go()
            found = [consumer.result() for consumer in consumers]
            node_cpu_s = node.cpu_s() - before
            joined = _joined(found) | {"node_cpu_s": node_cpu_s}
            if writer:
                writer.stop()
                written = writer.result()
                joined["load_rate"] = written["count"] / written["wall_s"]
                joined["load_cpu_s"] = written["cpu_s"]
        return _figures(joined)

    def _wait(self, row: Row, node: NodeProcess) -> Figures:
        source, count = self._new_name("wait"), self._times.wait
        with (
            self._consumer(
                node,
                source,
                group=self._new_name("group"),
                size=row.size,
                with_data=True,
                count=count,
                skipped=self._times.wait_skipped,
            ) as consumer,
            self._producer(
                node,
                source,
                size=row.size,
                peers=1,
                count=count,
                rate=WAIT_RATE,
                stamp=True,
                ingest_mode=CACHE_ONLY,
            ) as producer,
        ):
            consumer.ready()
            producer.ready()
            before = node.cpu_s()
            consumer.go()
            producer.go()
            sent, found = producer.result(), consumer.result()
            found["node_cpu_s"] = node.cpu_s() - before
            found["wall_s"] = sent["wall_s"]
            found["cpu_s"] += sent["cpu_s"]
        return _figures(found)

    def _fill_for(self, row: Row, node: NodeProcess) -> str:
        """Return a source with messages to be read.

        Metadata can be read by any number of groups. Payloads are sent anew for each row: those
        of the last row may have been evicted by its load.
        """
        if not row.with_data and node in self._filled:
            return self._filled[node]
        source = self._new_name("fill")
        count = self._times.data_fill if row.with_data else self._times.metadata_fill
        with self._producer(
            node, source, size=row.size, peers=_FILL_THREADS, count=count, ingest_mode=CACHE_ONLY
        ) as worker:
            _run(worker)
        if not row.with_data:
            self._filled[node] = source
        return source

    def _writer(self, stack: contextlib.ExitStack, load: Load, node: NodeProcess) -> Worker:
        """Start writing another source; return when it is being written."""
        worker = stack.enter_context(
            self._producer(
                node,
                self._new_name("load"),
                size=load.size,
                peers=_LOAD_THREADS,
                rate=load.rate,
                background=True,
                ingest_mode=CACHE_ONLY,
            )
        )
        worker.ready().go()
        worker.wait_for("running", READY_SECONDS_MAX)
        return worker

    def _producer(self, node: NodeProcess, source: str, **settings: Any) -> Worker:
        return Worker("produce", **_access(node), source=source, stream="s", **settings)

    def _consumer(self, node: NodeProcess, source: str, **settings: Any) -> Worker:
        return Worker("consume", **_access(node), source=source, stream="s", **settings)

    def _new_name(self, kind: str) -> str:
        return f"{kind}{next(self._number)}"


def _access(node: NodeProcess) -> dict[str, str]:
    return {"endpoint": node.endpoint, "token": node.token(BEAMTIME), "beamtime": BEAMTIME}


def _run(worker: Worker) -> dict[str, Any]:
    worker.ready().go()
    return worker.result()


def _joined(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up consumers of one group, each of whom must have had messages of its own."""
    ids = [id for one in found for id in one["ids"]]
    if len(ids) != len(set(ids)):
        raise WorkerFailed("a message was handed out twice in one group")
    if not all(one["ids"] for one in found):
        raise WorkerFailed("a consumer got no message")
    return {
        "count": len(ids),
        "wall_s": max(one["last"] for one in found) - min(one["first"] for one in found),
        "cpu_s": sum(one["cpu_s"] for one in found),
    }


def _figures(found: dict[str, Any]) -> Figures:
    keys = ("count", "wall_s", "node_cpu_s", "p50_ms", "p99_ms", "load_rate", "load_cpu_s")
    figures = {key: float(found[key]) for key in keys if key in found}
    figures["client_cpu_s"] = float(found["cpu_s"])
    if figures["count"] < 1 or figures["wall_s"] <= 0:
        raise WorkerFailed(f"nothing was measured: {found}")
    return figures
