"""Log files that do not grow without end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Final

NBYTES_MAX: Final = 10_000_000
KEPT: Final = 3


class RotatingLog:
    """Appends to `path`; when that is full it becomes ``path.1``, that ``path.2``, and so on.

    A log must not stop what it is about: when it cannot be written, text is dropped and counted.

    Parameters
    ----------
    nbytes_max : size of each file.
    kept : how many older ones there are.
    """

    def __init__(self, path: Path, *, nbytes_max: int = NBYTES_MAX, kept: int = KEPT) -> None:
        self.path = path
        self.dropped_nbytes = 0
        self._nbytes_max = nbytes_max
        self._kept = kept
        self._file: BinaryIO | None = None
        self._nbytes = 0

    def write(self, data: bytes) -> None:
        try:
            if self._file is None:
                self._open()
            if self._nbytes and self._nbytes + len(data) > self._nbytes_max:
                self._rotate()
            assert self._file is not None
            self._file.write(data)
            self._nbytes += len(data)
        except OSError:
            self.dropped_nbytes += len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._file = os.fdopen(fd, "ab", buffering=0)
        self._nbytes = os.fstat(fd).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(self._kept - 1, -1, -1):
            older = _numbered(self.path, number)
            if older.exists():
                older.replace(_numbered(self.path, number + 1))
        self._open()


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
