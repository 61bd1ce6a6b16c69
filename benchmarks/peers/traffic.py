"""What is sent in a phase, and what the consumer makes of it; pure but for the clock."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final

from benchmarks.peers.interface import Buffer, Turn

HEAD: Final = struct.Struct("<QI?3x")
"""When it was sent (monotonic, ns; 0 when nobody asks), its number, whether the phase ends."""

HEAD_NBYTES: Final = HEAD.size
_LAST: Final = 12

_CHUNK_NBYTES: Final = 256_000
_PAUSE_S: Final = 20e-6
"""Shorter waits than this are over before a process is asleep."""

PLAIN: Final = HEAD.pack(0, 0, False)


class WrongMessages(Exception):
    """Not those messages arrived that were sent."""


def payload(size: int) -> bytes:
    """Return random bytes, always the same ones of a size."""
    return random.Random(size).randbytes(size)


@dataclass
class Phase:
    """Messages that are sent one after the other, and an end that the consumer recognises.

    Parameters
    ----------
    count : at most so many.
    seconds : no longer than this; at least one message is sent.
    rate : per second; 0 for as fast as it goes. Only then have messages no time in their heads.
    """

    size: int
    count: int
    seconds: float
    rate: float = 0.0
    clock: Callable[[], int] = time.monotonic_ns
    sent: int = field(default=0, init=False)

    def turns(self) -> Iterator[Turn]:
        """Yield what is due; see `interface.Turn`."""
        return self._paced() if self.rate else self._flat_out()

    def _flat_out(self) -> Iterator[Turn]:
        end_ns = self.clock() + int(self.seconds * 1e9)
        chunk = max(1, _CHUNK_NBYTES // self.size)
        while self.sent < self.count - 1 and self.clock() < end_ns:
            now = min(chunk, self.count - 1 - self.sent)
            yield from repeat(PLAIN, now)
            self.sent += now
        yield self._head(last=True)

    def _paced(self) -> Iterator[Turn]:
        first_ns = self.clock()
        count = max(1, min(self.count, int(self.rate * self.seconds)))
        while self.sent < count:
            due_ns = first_ns + int(self.sent / self.rate * 1e9)
            wait_s = (due_ns - self.clock()) / 1e9
            if wait_s > _PAUSE_S:
                yield wait_s
            else:
                yield self._head(last=self.sent == count - 1)

    def _head(self, *, last: bool) -> bytes:
        self.sent += 1
        return HEAD.pack(self.clock(), self.sent, last)


def take(
    messages: Iterator[tuple[Buffer, Buffer]],
    size: int,
    *,
    timed: bool = False,
    expected: bytes = b"",
    clock: Callable[[], int] = time.monotonic_ns,
) -> tuple[int, list[int]]:
    """Take the messages of one phase; return how many there were and their delays in ns.

    Parameters
    ----------
    timed : take delays.
    expected : compare the payloads behind their heads with these bytes; empty for the size alone.

    Raises
    ------
    WrongMessages : messages are missing or too many, or one is not what was sent.
    """
    delays: list[int] = []
    count = 0
    wanted = memoryview(expected)[HEAD_NBYTES:]
    for head, body in messages:
        if timed:
            delays.append(clock() - int.from_bytes(head[:8], "little"))
        count += 1
        if len(body) != size:
            raise WrongMessages(f"message {count} has {len(body)} bytes, {size} were sent")
        if expected and memoryview(body)[HEAD_NBYTES:] != wanted:
            raise WrongMessages(f"message {count} came with other bytes than were sent")
        if head[_LAST]:
            sent = HEAD.unpack(head[:HEAD_NBYTES])[1]
            if sent != count:
                raise WrongMessages(f"{sent} messages were sent, {count} arrived")
            break
    return count, delays
