"""The ceiling of everything that copies: payloads into one large piece of memory, in turn."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable
from typing import Any, Final

from benchmarks.peers.interface import Durability, Peer, Turn, meeting

_ARENA_NBYTES: Final = 256 << 20


class Copier:
    """Copies each payload behind the one before, and begins anew at the end of the arena."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        self._arena = mmap.mmap(-1, _ARENA_NBYTES, flags=flags)

    def send(self, turns: Iterable[Turn]) -> None:
        payload, size, arena = self._payload, len(self._payload), memoryview(self._arena)
        end, at = len(arena) - size, 0
        for turn in turns:
            if isinstance(turn, float):
                time.sleep(turn)
                continue
            arena[at : at + size] = payload
            at = at + size if at + size <= end else 0


def sender(address: dict[str, Any], payload: bytes) -> Copier:
    return Copier(payload)


PEERS = (
    Peer(
        "memcpy",
        "memcpy",
        Durability.NOTHING,
        "memory_copy",
        meeting,
        alone=True,
    ),
)
