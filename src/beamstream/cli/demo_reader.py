"""One consumer group of the demo, in a process of its own.

``python -m beamstream.cli.demo_reader`` is told what to read by one line of JSON on stdin, and
ends when stdin does or the stream is finished. On stdout it tells by lines of JSON that it is
ready, what it has read, and errors.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from typing import Any, Final

import xxhash

from beamstream.client.asapo import Consumer, EndReached, Finished, Message, NotInCache
from beamstream.errors import Error

REPORT_SECONDS: Final = 0.25
WAIT_SECONDS: Final = 0.5
SENT_KEY: Final = "sent_ns"
DIGEST_KEY: Final = "xxh3_64"


class Reader:
    """Reads a stream to its end and counts."""

    def __init__(self, consumer: Consumer, group: str, stream: str) -> None:
        self._consumer = consumer
        self._group = group
        self._stream = stream
        self._buffer = bytearray()
        self._since_s = time.monotonic()
        self._last_id = 0
        self._report = _empty()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                message = self._consumer.next(self._group, self._stream, ordered=False, data=False)
                self._take(message)
            except Finished:
                break
            except EndReached:
                pass
            except NotInCache:
                self._report["lost"] += 1
            if time.monotonic() - self._since_s >= REPORT_SECONDS:
                self.report()
        self.report()

    def report(self) -> None:
        if self._last_id:
            # Asked at the same moment as it is told: a count of frames sent would be newer.
            info = self._consumer.stream_info(self._stream)
            if info is not None:
                self._report["lag"] = max(0, info.last_id - self._last_id)
        tell(self._report)
        self._report = _empty()
        self._since_s = time.monotonic()

    def _take(self, message: Message) -> None:
        if len(self._buffer) < message.size:
            self._buffer = bytearray(message.size)
        data = self._consumer.retrieve(message, memoryview(self._buffer))
        delay_ns = time.time_ns() - message.meta[SENT_KEY]
        report = self._report
        report["delays_ms"].append(round(delay_ns / 1e6, 4))
        report["frames"] += 1
        report["nbytes"] += len(data)
        report["last_id"] = self._last_id = message.id
        report["damaged"] += xxhash.xxh3_64_hexdigest(data) != message.meta[DIGEST_KEY]


def _empty() -> dict[str, Any]:
    counts = dict.fromkeys(("frames", "nbytes", "last_id", "lag", "lost", "damaged"), 0)
    return counts | {"delays_ms": []}


def tell(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main() -> int:
    # Ctrl-C is for the demo, which then finishes the stream.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task = json.loads(sys.stdin.readline())
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        with Consumer(
            task["endpoint"],
            beamtime=task["beamtime"],
            source=task["source"],
            token=task["token"],
            timeout_s=WAIT_SECONDS,
            step=task["group"],
        ) as consumer:
            tell({"ready": consumer.version().software})
            Reader(consumer, task["group"], task["stream"]).run(stop)
    except Error as error:
        tell({"error": str(error)})
        return 1
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
