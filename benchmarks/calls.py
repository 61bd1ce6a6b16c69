"""Worker: how long calls of the official consumer take in a short and in a long stream."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import asapo_consumer

from benchmarks.workers import Work, serve


class Calls:
    """Times calls in streams ``s<small>`` and ``s<large>`` in turn, round by round."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._small, self._large = int(settings["small"]), int(settings["large"])
        self._rounds, self._calls = int(settings["rounds"]), int(settings["calls"])
        self._dice = random.Random(1)
        self._api = asapo_consumer.create_consumer(
            settings["endpoint"],
            "auto",
            False,
            settings["beamtime"],
            settings["source"],
            settings["token"],
            0,
        )
        for count in (self._small, self._large):
            found = self._api.get_current_size(f"s{count}")
            if found != count:
                raise RuntimeError(f"stream s{count} has {found} messages")

    def work(self) -> dict[str, Any]:
        kinds: dict[str, Callable[[int, str], float]] = {
            "get_next from the start": self._next,
            "get_next at a position": self._next_from,
            "get_by_id": self._by_id,
        }
        times: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in kinds}
        for number in range(-1, self._rounds):
            for kind, call in kinds.items():
                both = [call(count, f"g{number + 2}") for count in (self._small, self._large)]
                # The first round warms up.
                if number >= 0:
                    for of_kind, one in zip(times[kind], both, strict=True):
                        of_kind.append(one)
        return {"times": times}

    def _next(self, count: int, group: str) -> float:
        return self._read(count, f"{group}start", range(1, self._calls + 1))

    def _next_from(self, count: int, group: str) -> float:
        last = self._dice.randrange(count // 4, count - self._calls)
        self._api.set_lastread_marker(f"{group}at", last, f"s{count}")
        return self._read(count, f"{group}at", range(last + 1, last + self._calls + 1))

    def _read(self, count: int, group: str, expected: Iterable[int]) -> float:
        stream = f"s{count}"
        started = time.perf_counter()
        ids = [
            self._api.get_next(group, meta_only=True, stream=stream)[1]["_id"]
            for _ in range(self._calls)
        ]
        elapsed = time.perf_counter() - started
        if ids != list(expected):
            raise RuntimeError(f"get_next in {stream} gave other messages than the next ones")
        return elapsed / self._calls * 1e6

    def _by_id(self, count: int, group: str) -> float:
        ids = [self._dice.randint(1, count) for _ in range(self._calls)]
        stream = f"s{count}"
        started = time.perf_counter()
        found = [self._api.get_by_id(id, meta_only=True, stream=stream)[1]["_id"] for id in ids]
        elapsed = time.perf_counter() - started
        if found != ids:
            raise RuntimeError(f"get_by_id in {stream} gave other messages than asked for")
        return elapsed / self._calls * 1e6


def prepare(settings: dict[str, Any]) -> Work:
    return Calls(settings).work


if __name__ == "__main__":
    serve(prepare)
