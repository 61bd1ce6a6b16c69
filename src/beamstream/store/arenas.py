"""The shared memory behind the cache: anonymous files, allocated and touched at start.

Touching the memory first costs three quarters of the rate of a first pass, so it is done before
the node says that it is ready; and a cache that does not fit is an error at start, not a kill by
the kernel in the middle of the night.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from beamstream import limits
from beamstream.errors import BadSetting


class Arenas:
    """`count` arenas of together `nbytes`, as memory-mapped anonymous files.

    Raises
    ------
    BadSetting : the machine (or this process's control group) has less memory to give.
    """

    def __init__(self, nbytes: int, count: int = limits.CACHE_ARENAS) -> None:
        if nbytes < limits.CACHE_NBYTES_MIN:
            raise BadSetting(
                f"a cache of {nbytes} bytes is too small",
                hint=f"--cache takes at least {limits.CACHE_NBYTES_MIN // limits.MIB} MiB",
            )
        available = available_nbytes()
        if nbytes > available:
            raise BadSetting(
                f"a cache of {nbytes / limits.GIB:.2f} GiB does not fit: "
                f"{available / limits.GIB:.2f} GiB of memory are available",
                hint="give a smaller --cache",
            )
        size = nbytes // count // mmap.PAGESIZE * mmap.PAGESIZE
        self.fds: list[int] = []
        self.views: list[memoryview] = []
        self._maps: list[mmap.mmap] = []
        for index in range(count):
            fd = os.memfd_create(f"beamstream-arena-{index}", os.MFD_CLOEXEC)
            os.posix_fallocate(fd, 0, size)
            memory = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            self.fds.append(fd)
            self._maps.append(memory)
            self.views.append(memoryview(memory))

    def close(self) -> None:
        """Unmap and close; views that are still in use keep their memory until they go."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        for view in self.views:
            view.release()
        self.views.clear()
        for memory in self._maps:
            try:
                memory.close()
            except BufferError:
                # A transport still sends from it; the mapping goes with the last view.
                continue
        self._maps.clear()


def available_nbytes() -> int:
    """Memory that this process may still take, by the machine and by its control group."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * limits.KIB
    group = _control_group()
    if group is not None:
        try:
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                used = int((group / "memory.current").read_text())
                available = min(available, max(0, int(limit) - used))
        except (OSError, ValueError):
            pass
    return available


def _control_group() -> Path | None:
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return Path("/sys/fs/cgroup") / line[3:].lstrip("/")
    except OSError:
        pass
    return None
