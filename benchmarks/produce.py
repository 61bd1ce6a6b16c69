"""Worker: the official producer. Its queue is kept filled, or it sends at a steady rate.

Timed from just before the first send to the last callback.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Any, Final

import asapo_producer
import numpy as np

from benchmarks.workers import Work, say, serve

_TIMEOUT_MS: Final = 60_000
_QUEUE_NBYTES_MAX: Final = 64_000_000
_QUEUE_MAX: Final = 1_000
_POLL_S: Final = 0.001
_JITTER: Final = 0.3
_DRAIN_SECONDS_MAX: Final = 60.0


class Sending:
    """One run of sends of the same payload.

    Parameters
    ----------
    settings : endpoint, token, beamtime, source, stream, size, peers (threads), ingest_mode;
        seconds or count as end; rate (messages per second, 0 for a filled queue); stamp (the
        time of the send as metadata); background (says "running" and ends when told).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._size, self._threads = int(settings["size"]), int(settings["peers"])
        self._mode = int(settings["ingest_mode"])
        self._source, self._stream = str(settings["source"]), str(settings["stream"])
        self._seconds = float(settings.get("seconds", 3600.0))
        self._count = int(settings.get("count", 2**62))
        self._rate = float(settings.get("rate", 0.0))
        self._stamp = bool(settings.get("stamp"))
        self._background = bool(settings.get("background"))
        self._payload = np.frombuffer(payload(self._size), np.uint8)
        self._answers: list[float] = []
        self._failures: list[str] = []
        self._stopped = False
        self._api = asapo_producer.create_producer(
            settings["endpoint"],
            "processed",
            settings["beamtime"],
            "auto",
            self._source,
            settings["token"],
            self._threads,
            _TIMEOUT_MS,
        )
        self._api.set_log_level("none")
        # The producer asks for its receivers in the background; sends before that wait a second.
        self._api.get_version_info()
        warm = 2 * self._threads
        for id in range(1, warm + 1):
            self._send(id, f"{self._stream}-warm")
        self._await_answers(warm)
        self._answers.clear()

    def run(self) -> dict[str, Any]:
        if self._background:
            threading.Thread(target=self._listen, daemon=True).start()
        first = time.monotonic()
        sent = self._paced(first) if self._rate else self._flat_out(first)
        self._await_answers(sent)
        last = max(self._answers, default=first)
        if self._failures:
            count, text = len(self._failures), self._failures[0]
            raise RuntimeError(f"{count} of {sent} sends failed, the first: {text}")
        info = self._api.get_stream_info(self._stream, _TIMEOUT_MS)
        if info["lastId"] != sent:
            raise RuntimeError(f"{sent} messages were answered, the node has {info['lastId']}")
        return {"count": sent, "wall_s": last - first, "first": first, "last": last}

    def _flat_out(self, first: float) -> int:
        depth = max(3 * self._threads, min(_QUEUE_MAX, _QUEUE_NBYTES_MAX // self._size))
        end, sent = first + self._seconds, 0
        while self._goes_on(sent) and time.monotonic() < end:
            room = min(depth - (sent - len(self._answers)), self._count - sent)
            if not room:
                time.sleep(_POLL_S)
            for _ in range(room):
                sent += 1
                self._send(sent, self._stream)
            self._announce(sent)
        return sent

    def _paced(self, first: float) -> int:
        # Readers that sleep in fixed steps must not meet a clockwork.
        dice = random.Random(self._size)
        end, due, sent = first + self._seconds, first, 0
        while self._goes_on(sent) and time.monotonic() < end:
            due += dice.uniform(1 - _JITTER, 1 + _JITTER) / self._rate
            pause = due - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            sent += 1
            self._send(sent, self._stream)
            self._announce(sent)
        return sent

    def _send(self, id: int, stream: str) -> None:
        self._api.send(
            id,
            f"processed/{self._source}/{stream}/{id}",
            self._payload,
            user_meta={"sent_ns": time.monotonic_ns()} if self._stamp else None,
            ingest_mode=self._mode,
            stream=stream,
            callback=self._answered,
        )

    def _answered(self, _: dict[str, Any], error: Exception | None) -> None:
        if error is not None:
            self._failures.append(f"{type(error).__name__}: {error}")
        self._answers.append(time.monotonic())

    def _await_answers(self, count: int) -> None:
        end = time.monotonic() + _DRAIN_SECONDS_MAX
        while len(self._answers) < count:
            if time.monotonic() > end:
                found = len(self._answers)
                raise TimeoutError(f"{found} of {count} sends were answered; {self._failures[:1]}")
            time.sleep(_POLL_S)

    def _goes_on(self, sent: int) -> bool:
        return sent < self._count and not self._stopped and not self._failures

    def _announce(self, sent: int) -> None:
        if self._background and self._answers:
            self._background = False
            say("running")

    def _listen(self) -> None:
        sys.stdin.readline()
        self._stopped = True


def payload(size: int) -> bytes:
    """Return the bytes that every message of this size has."""
    return np.random.default_rng(size).bytes(size)


def prepare(settings: dict[str, Any]) -> Work:
    return Sending(settings).run


if __name__ == "__main__":
    serve(prepare)
