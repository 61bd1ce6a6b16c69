"""Memory for received payloads, used again when nobody looks at it any more."""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from beamstream import limits

KEPT_NBYTES: Final = 256 * limits.MIB
KEPT: Final = 64
KEPT_NBYTES_MIN: Final = 256 * limits.KIB

_probe: Final = [np.empty(1, np.uint8)]
_UNUSED: Final = sys.getrefcount(_probe[0]) if hasattr(sys, "getrefcount") else 0
"""References to what is in a list and nowhere else."""
_COUNTED: Final = bool(_UNUSED) and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Without a GIL counts are not exact; then nothing is kept."""


class Buffers:
    """Gives memory of exact sizes.

    Fresh memory costs a page fault every few kilobytes, which is more than receiving into it. So
    large buffers are kept, and given again when no view of them is left: then the list has the
    only reference, and nobody can get another one.

    >>> buffers = Buffers()
    >>> first, second = buffers.get(1 << 20), buffers.get(1 << 20)
    >>> address = np.frombuffer(second, "u1").ctypes.data
    >>> del second
    >>> np.frombuffer(buffers.get(1 << 20), "u1").ctypes.data == address
    True
    """

    def __init__(self) -> None:
        self._kept: list[np.ndarray[Any, Any]] = []
        self._nbytes = 0

    def get(self, nbytes: int) -> memoryview:
        """Memory of `nbytes` bytes with any content, writable."""
        if nbytes < KEPT_NBYTES_MIN or not _COUNTED:
            return np.empty(nbytes, np.uint8).data
        kept = self._kept
        for index in range(len(kept)):
            if sys.getrefcount(kept[index]) == _UNUSED and len(kept[index]) == nbytes:
                # To the end: the front is what was given longest ago, so most likely free.
                kept.append(kept.pop(index))
                return kept[-1].data
        fresh = np.empty(nbytes, np.uint8)
        if nbytes <= KEPT_NBYTES:
            self._keep(fresh)
        return fresh.data

    def _keep(self, buffer: np.ndarray[Any, Any]) -> None:
        while self._kept and (self._nbytes + len(buffer) > KEPT_NBYTES or len(self._kept) >= KEPT):
            self._nbytes -= len(self._kept.pop(0))
        self._kept.append(buffer)
        self._nbytes += len(buffer)
