"""Worker: the official consumer, reading what is there or waiting for what comes."""

from __future__ import annotations

import time
from typing import Any, Final

import asapo_consumer
import numpy as np

from benchmarks.produce import payload
from benchmarks.workers import Work, serve

_WAIT_MS: Final = 2_000
_CHECKED_EVERY: Final = 16
_WARM: Final = 20


class Reading:
    """One consumer of a group.

    Parameters
    ----------
    settings : endpoint, token, beamtime, source, stream, group, size, with_data; then seconds
        (read what is there for so long), or count (wait for so many messages), with skipped (that
        many at the beginning are not in the figures) and ordered (by id, as is the default).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._stream, self._group = settings["stream"], settings["group"]
        self._meta_only = not settings["with_data"]
        self._seconds, self._count = settings.get("seconds", 0.0), settings.get("count", 0)
        self._order = {} if settings.get("ordered", True) else {"ordered": False}
        self._skipped = settings.get("skipped", 0)
        self._expected = np.frombuffer(payload(int(settings["size"])), np.int8)
        self._api = asapo_consumer.create_consumer(
            settings["endpoint"],
            "auto",
            False,
            settings["beamtime"],
            settings["source"],
            settings["token"],
            _WAIT_MS if self._count else 0,
        )
        self._api.get_version_info()
        if not self._count:
            for _ in range(_WARM):
                self._next(f"{self._group}-warm")

    def read(self) -> dict[str, Any]:
        """Read without waiting, until the time is over or nothing is left."""
        ids = []
        first = last = time.monotonic()
        end = first + self._seconds
        try:
            while last < end:
                data, record = self._next(self._group)
                last = time.monotonic()
                ids.append(record["_id"])
                self._check(data, record)
        except asapo_consumer.AsapoEndOfStreamError:
            pass
        return {"ids": ids, "first": first, "last": last}

    def wait(self) -> dict[str, Any]:
        """Wait for every message; the delay is from before its send to the data in hand."""
        ids: list[int] = []
        delays_ms = []
        while len(ids) < self._count:
            try:
                data, record = self._next(self._group)
            except asapo_consumer.AsapoEndOfStreamError:
                if ids:
                    raise
                continue
            now_ns = time.monotonic_ns()
            delays_ms.append((now_ns - record["meta"].get("sent_ns", now_ns)) / 1e6)
            ids.append(record["_id"])
            self._check(data, record)
        if (sorted(ids) if self._order else ids) != list(range(1, self._count + 1)):
            raise RuntimeError("messages were left out, or came twice or in another order")
        counted = delays_ms[self._skipped :]
        p50, p99 = (float(x) for x in np.percentile(counted, [50, 99]))
        return {"count": self._count, "p50_ms": p50, "p99_ms": p99, "max_ms": max(counted)}

    def _next(self, group: str) -> tuple[Any, dict[str, Any]]:
        found: tuple[Any, dict[str, Any]] = self._api.get_next(
            group, meta_only=self._meta_only, stream=self._stream, **self._order
        )
        return found

    def _check(self, data: Any, record: dict[str, Any]) -> None:
        if self._meta_only:
            return
        same = len(data) == len(self._expected)
        if same and record["_id"] % _CHECKED_EVERY == 0:
            same = np.array_equal(data.view(np.int8), self._expected)
        if not same:
            raise RuntimeError(f"message {record['_id']} came with other bytes than were sent")


def prepare(settings: dict[str, Any]) -> Work:
    reading = Reading(settings)
    return reading.wait if settings.get("count") else reading.read


if __name__ == "__main__":
    serve(prepare)
