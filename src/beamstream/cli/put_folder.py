"""A folder that fills: which files in it are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


class Folder:
    """Gives each file below a folder once, when it has not changed for a while.

    Hidden files, and those in hidden folders, are passed over: programs write under such names what
    they rename when it is complete.

    Parameters
    ----------
    folder : where to look, below it too.
    settle_s : how long a file must be unchanged, seconds.
    """

    def __init__(self, folder: Path, *, settle_s: float) -> None:
        self._folder = folder
        self._settle_s = settle_s
        self._growing: dict[str, tuple[int, int, float]] = {}
        """Path -> size, time of change (ns), and since when it is so."""
        self._given: set[str] = set()

    def look(self, now: float) -> list[Path]:
        """Files that are complete since the last look, oldest first; `now` in seconds."""
        found: list[tuple[int, str]] = []
        growing: dict[str, tuple[int, int, float]] = {}
        for path, size, changed_ns in self._files():
            before = self._growing.get(path)
            same = before is not None and before[:2] == (size, changed_ns)
            since = before[2] if same and before is not None else now
            if now - since >= self._settle_s:
                found.append((changed_ns, path))
            else:
                growing[path] = (size, changed_ns, since)
        self._growing = growing
        self._given.update(path for _, path in found)
        return [Path(path) for _, path in sorted(found)]

    def _files(self) -> Iterator[tuple[str, int, int]]:
        for folder, below, names in os.walk(self._folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in names:
                path = os.path.join(folder, name)
                if name.startswith(".") or path in self._given:
                    continue
                try:
                    status = os.stat(path, follow_symlinks=True)
                except OSError:
                    continue
                if not os.path.isfile(path):
                    continue
                yield path, status.st_size, status.st_mtime_ns
