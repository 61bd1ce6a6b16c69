"""A program with ASAPO's official clients: sends or reads as its first line of stdin says.

It tells what it does in lines of JSON on stdout, and ends when stdin is closed.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from typing import Any, Final

TOLD_S: Final = 0.25
WINDOW_S: Final = 10.0
IDLE_S: Final = 0.005


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def send(task: dict[str, Any], stop: threading.Event) -> None:
    """Send `count` messages at a rate, to the last one of which all have been answered."""
    import asapo_producer

    producer = asapo_producer.create_producer(
        task["endpoint"], "processed", task["beamtime"], "auto", task["source"], task["token"],
        1, 10_000, task["instance"], task["step"],
    )  # fmt: skip
    producer.set_log_level("none")
    payload = bytes(task["nbytes"])
    begin_s = told_s = time.monotonic()
    for number in range(1, task["count"] + 1):
        due_s = begin_s + (number - 1) / task["rate"]
        if stop.wait(max(0.0, due_s - time.monotonic())):
            break
        producer.send(
            number, f"processed/{task['stream']}/{number}", payload, stream=task["stream"],
            ingest_mode=asapo_producer.CACHE_ONLY_INGEST_MODE,
            user_meta=json.dumps({"number": number, "even": number % 2 == 0}),
        )  # fmt: skip
        if time.monotonic() - told_s > TOLD_S:
            told_s = time.monotonic()
            tell(sent=number, seconds=told_s - begin_s)
    producer.wait_requests_finished(10_000)
    tell(sent=number, seconds=time.monotonic() - begin_s, done=True)
    stop.wait()


def read(task: dict[str, Any], stop: threading.Event) -> None:
    """Read and acknowledge; a message is taken at an age, and kept for a while."""
    import asapo_consumer

    consumer = asapo_consumer.create_consumer(
        task["endpoint"], "", False, task["beamtime"], task["source"], task["token"],
        1_000, task["instance"], task["step"],
    )  # fmt: skip
    consumer.set_timeout(200)
    # When what was read had arrived, and what was read and acknowledged when.
    delivered: deque[tuple[float, float]] = deque()
    acked: deque[tuple[float, float]] = deque()
    count, told_s, next_s = 0, 0.0, time.monotonic()
    while not stop.is_set() and count < task["count"]:
        next_s = max(next_s + task["every_s"], time.monotonic() - 1.0)
        if stop.wait(max(0.0, next_s - time.monotonic())):
            break
        try:
            _, meta = consumer.get_next(task["group"], meta_only=True, stream=task["stream"])
        except (asapo_consumer.AsapoEndOfStreamError, asapo_consumer.AsapoStreamFinishedError):
            stop.wait(IDLE_S)
            continue
        note(delivered, meta["timestamp"])
        stop.wait(task["keep_s"])
        consumer.acknowledge(task["group"], meta["_id"], stream=task["stream"])
        note(acked, meta["timestamp"])
        count += 1
        if time.monotonic() - told_s > TOLD_S:
            told_s = time.monotonic()
            tell(read=count, delivered_ms=middle(delivered), acked_ms=middle(acked))
    tell(read=count, delivered_ms=middle(delivered), acked_ms=middle(acked), done=True)
    stop.wait()


def note(delays: deque[tuple[float, float]], arrived_ns: int) -> None:
    now_ns = time.time_ns()
    delays.append((now_ns / 1e9, (now_ns - arrived_ns) / 1e6))
    while delays[0][0] < now_ns / 1e9 - WINDOW_S:
        delays.popleft()


def middle(delays: deque[tuple[float, float]]) -> float:
    values = sorted(delay for _, delay in delays)
    return values[len(values) // 2] if values else 0.0


def main() -> None:
    task = json.loads(sys.stdin.readline())
    stop = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    {"send": send, "read": read}[task["does"]](task, stop)


if __name__ == "__main__":
    main()
