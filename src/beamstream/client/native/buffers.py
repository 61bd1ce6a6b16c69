"""Memory for received payloads, used again when nobody looks at it any more."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any, Final

import numpy as np

from beamstream import limits

KEPT_NBYTES: Final = 256 * limits.MIB
KEPT_NBYTES_MIN: Final = 64 * limits.KIB
LOOKED_AT: Final = 8
"""Buffers of a size that are looked at: those given last, which are still in the processor's cache,
then those given longest ago, which are most likely free."""

_probe: Final = [np.empty(1, np.uint8)]
_UNUSED: Final = sys.getrefcount(_probe[0]) if hasattr(sys, "getrefcount") else 0
"""References to what is in a list and nowhere else."""
_COUNTED: Final = bool(_UNUSED) and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Without a GIL counts are not exact; then nothing is kept."""


class Buffers:
    """Gives memory.

    Fresh memory costs a page fault every few kilobytes, which is more than receiving into it. So
    large buffers are kept, and given again when no view of them is left: then the list has the
    only reference, and nobody can get another one.

    >>> buffers = Buffers()
    >>> first, second = buffers.get(1 << 20), buffers.get(1 << 20)
    >>> address = np.frombuffer(second, "u1").ctypes.data
    >>> del second
    >>> np.frombuffer(buffers.get((1 << 20) - 5), "u1").ctypes.data == address
    True
    """

    def __init__(self) -> None:
        self._kept: dict[int, deque[np.ndarray[Any, Any]]] = {}
        self._nbytes = 0

    def get(self, nbytes: int) -> memoryview:
        """Memory of `nbytes` bytes with any content, writable."""
        if nbytes < KEPT_NBYTES_MIN or not _COUNTED:
            return np.empty(nbytes, np.uint8).data
        size = rounded(nbytes)
        kept = self._kept.setdefault(size, deque())
        count = len(kept)
        looked_at = min(count, LOOKED_AT)
        for index in (*range(count - 1, count - 1 - looked_at, -1), *range(looked_at)):
            if sys.getrefcount(kept[index]) == _UNUSED:
                found = kept[index]
                del kept[index]
                kept.append(found)
                return found.data[:nbytes]
        fresh = np.empty(size, np.uint8)
        if size <= KEPT_NBYTES:
            self._make_room(size)
            kept.append(fresh)
            self._kept[size] = kept
            self._nbytes += size
        return fresh.data[:nbytes]

    def _make_room(self, nbytes: int) -> None:
        """Let go of what was given longest ago, of other sizes first; views of it stay good."""
        for size in list(self._kept):
            while self._kept[size] and self._nbytes + nbytes > KEPT_NBYTES:
                self._kept[size].popleft()
                self._nbytes -= size
            if not self._kept[size]:
                del self._kept[size]


def rounded(nbytes: int) -> int:
    """A size that messages of nearly the same size share: at most an eighth more.

    >>> rounded(1_000_000), rounded(1 << 20)
    (1048576, 1048576)
    """
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step
