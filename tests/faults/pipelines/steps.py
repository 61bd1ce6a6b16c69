"""The step that dies, and what holds it just before it publishes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

import beamstream as bs
from beamstream.worker import Result, step

SIZES = (100, 70_000, 300_000)
"""Results that are gathered, that go by themselves, and that go through shared memory."""


@step(reads="raw", writes="made", batch=1)
def make(messages: list[bs.Message]) -> list[Result | None]:
    """A result of each message that depends on all of it; nothing of every fifth one."""
    return [one(message) for message in messages]


def one(message: bs.Message) -> Result | None:
    if message.id % 5 == 0:
        return None
    seed = hashlib.sha256(bytes(message.data)).digest()
    size = SIZES[message.id % len(SIZES)]
    data = np.frombuffer(seed * (size // len(seed) + 1), np.uint8)[:size]
    return Result(data, {"of": message.id})


class Hold:
    """Stops before the results of the n-th message are published, until it is told to go on.

    Parameters
    ----------
    at : number of the message, from 1 on.
    ready, go : pipes in the file system: one is written to, one read from.
    """

    def __init__(self, at: int, ready: str, go: str) -> None:
        self._at = at
        self._ready = Path(ready)
        self._go = Path(go)

    def __call__(self, when: str, count: int) -> None:
        if when == "made" and count == self._at:
            self._ready.write_bytes(b"made")
            self._go.read_bytes()
