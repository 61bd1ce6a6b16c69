"""One client of the bench, a process of its own: connects, waits for the word, works, tells.

It reads its task, a line of JSON, from standard input; says ``ready``; begins with the next line;
and ends with a line of JSON with what it did.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from beamstream.cli.bench_figures import Done

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.receipts import Receipt
    from beamstream.client.native.stream import Stream

GROUP: Final = "bench"
READY: Final = "ready"
SAMPLES_MAX: Final = 100_000

_SAMPLED_NBYTES_MIN: Final = 65_536
_SAMPLE: Final = 50
"""Of small messages every how manieth is timed."""

_STAMP: Final = struct.Struct("<d")
_END_S: Final = 30.0
_PATIENCE_S: Final = 5.0
"""Figures of a bench that waited for its node tell nothing."""


@dataclass(frozen=True)
class Task:
    """What a client is to do.

    Parameters
    ----------
    verb : ``put``, ``get`` or ``latency``.
    nbytes : of one payload.
    count : messages; 0: as many as fit into `seconds`.
    batch : messages of one `send_many`; 1: each by `send`.
    rate_hz : of ``latency``.
    """

    verb: str
    url: str
    token: str
    beamtime: str
    source: str
    stream: str
    nbytes: int
    count: int
    seconds: float
    batch: int = 1
    level: str = ""
    rate_hz: float = 0.0


def main() -> int:
    task = Task(**json.loads(sys.stdin.readline()))
    from beamstream.client.native.hub import connect

    with connect(
        task.url,
        token=task.token,
        beamtime=task.beamtime,
        patience=_PATIENCE_S,
        step="bench",
    ) as hub:
        stream = hub.source(task.source).stream(task.stream)
        # What is made at the first use is not part of the work.
        stream.info()
        print(READY, flush=True)
        if not sys.stdin.readline():
            return 1
        done = WORK[task.verb](task, hub, stream)
    print(json.dumps(asdict(done)), flush=True)
    return 0


def put(task: Task, hub: Hub, stream: Stream) -> Done:
    """Send as fast as it goes; the end is the last receipt."""
    payload = os.urandom(task.nbytes)
    payloads = [payload] * task.batch
    every = 1 if task.nbytes * task.batch >= _SAMPLED_NBYTES_MIN else _SAMPLE
    delays: list[float] = []
    count = number = 0
    with stream.writer(level=task.level or None, finish=False) as writer:
        begin = time.monotonic()
        while _goes_on(task, count, begin):
            sent = time.monotonic()
            if task.batch == 1:
                receipt = writer.send(payload)
            else:
                receipt = writer.send_many(payloads)
            if number % every == 0 and len(delays) < SAMPLES_MAX:
                receipt.add_done_callback(_timer(sent, delays))
            count += task.batch
            number += 1
        writer.flush()
        end = time.monotonic()
    return Done(count, count * task.nbytes, begin, end, delays)


def _goes_on(task: Task, count: int, begin: float) -> bool:
    if task.count:
        return count < task.count
    return time.monotonic() - begin < task.seconds


def _timer(sent: float, delays: list[float]) -> Callable[[Receipt], None]:
    def note(receipt: Receipt) -> None:
        delays.append(time.monotonic() - sent)

    return note


def get(task: Task, hub: Hub, stream: Stream) -> Done:
    """Read a finished stream as a member of a group, by the run."""
    count = nbytes = lost = 0
    begin = end = time.monotonic()
    for batch in stream.group(GROUP, timeout=_END_S).batches():
        count += len(batch)
        nbytes += batch.nbytes
        lost += len(batch._arrived.lost)
        end = time.monotonic()
    return Done(count, nbytes, begin, end, lost=lost)


def latency(task: Task, hub: Hub, stream: Stream) -> Done:
    """Send at an even rate, read in another thread, and take the time between."""
    count = task.count or max(round(task.seconds * task.rate_hz), 1)
    delays: list[float] = []
    failed: list[BaseException] = []

    def read() -> None:
        try:
            # The last one ends the stream, and so the loop.
            for message in stream.group(GROUP, timeout=_END_S):
                now = time.monotonic()
                [sent] = _STAMP.unpack_from(message.data)  # type: ignore[union-attr]
                delays.append(now - sent)
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    payload = bytearray(os.urandom(max(task.nbytes, _STAMP.size)))
    with stream.writer(level=task.level or None) as writer:
        begin = time.monotonic()
        for at in _beats(begin, 1 / task.rate_hz, count):
            _STAMP.pack_into(payload, 0, at)
            writer.send(bytes(payload))
    reader.join(_END_S)
    if failed:
        raise failed[0]
    return Done(len(delays), len(delays) * len(payload), begin, time.monotonic(), delays)


def _beats(begin: float, period_s: float, count: int) -> Iterator[float]:
    """The time at each beat."""
    for number in range(count):
        wait = begin + number * period_s - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        yield time.monotonic()


WORK: Final = {"put": put, "get": get, "latency": latency}


def run() -> int:
    """`main`, with errors as one line."""
    from beamstream.errors import Error

    try:
        return main()
    except Error as error:
        print(f"{error.code} {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


if __name__ == "__main__":
    sys.exit(run())
