"""Worker: what the disk allows: open, write, fdatasync, rename, by some threads."""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workers import Work, serve


def prepare(settings: dict[str, Any]) -> Work:
    size, threads = int(settings["size"]), int(settings["peers"])
    seconds = float(settings["seconds"])
    folder = Path(tempfile.mkdtemp(prefix="bare-", dir=settings["folder"]))
    payload = np.random.default_rng(0).bytes(size)
    pool = ThreadPoolExecutor(threads)

    def work() -> dict[str, Any]:
        first = time.monotonic()
        try:
            counts = list(
                pool.map(lambda k: _write(folder, k, payload, first + seconds), range(threads))
            )
            return {"count": sum(counts), "wall_s": time.monotonic() - first}
        finally:
            empty(folder)

    return work


def empty(folder: Path) -> None:
    """Free the space of all files below a folder, and leave the files.

    Without a journal ext4 does not use an inode again for minutes after it was deleted, and looks
    at all of these whenever it makes a file: what one row deletes makes the next ones slow.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            os.truncate(Path(parent, name), 0)


def _write(folder: Path, thread: int, payload: bytes, end: float) -> int:
    count = 0
    while time.monotonic() < end:
        count += 1
        part, final = folder / f".part-{thread}-{count}", folder / f"{thread}-{count}"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            os.write(fd, payload)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        os.rename(part, final)
    return count


if __name__ == "__main__":
    serve(prepare)
