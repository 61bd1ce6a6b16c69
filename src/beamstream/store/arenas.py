"""The shared memory behind the cache: anonymous files, allocated and touched at start.

Touching the memory first costs three quarters of the rate of a first pass, so it is done before
the node says that it is ready; and a cache that does not fit is an error at start, not a kill by
the kernel in the middle of the night.

Clients of the same machine are handed descriptors of these files. They cannot change the size of
one (its owner would be killed by a signal), and what was opened for reading cannot be opened
again for writing.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from beamstream import limits
from beamstream.errors import BadSetting

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class _Memory:
    """One anonymous file of `nbytes`, all of it there, mapped."""

    __slots__ = ("fd", "map", "nbytes", "view")

    def __init__(self, id: int, nbytes: int) -> None:
        self.nbytes = nbytes
        self.fd = os.memfd_create(f"beamstream-arena-{id}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, nbytes)
            os.fchmod(self.fd, 0o400)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self.map = mmap.mmap(self.fd, nbytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except BaseException:
            os.close(self.fd)
            raise
        self.view = memoryview(self.map)

    def give_back(self, kept: Sequence[tuple[int, int]]) -> None:
        """Give the system all but `kept`, whoever has it mapped: there it reads as zeros."""
        start = 0
        for offset, nbytes in [*sorted(kept), (self.nbytes, 0)]:
            end = offset // mmap.PAGESIZE * mmap.PAGESIZE
            if end > start:
                self.map.madvise(mmap.MADV_REMOVE, start, end - start)
            start = -(-(offset + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE

    def unmap(self) -> None:
        """Views that are still in use keep their memory until they go."""
        self.view.release()
        try:
            self.map.close()
        except BufferError:
            # A transport still sends from it; the mapping goes with the last view.
            return

    def close(self) -> None:
        os.close(self.fd)


class Arenas:
    """`count` arenas of together `nbytes`, as memory-mapped anonymous files with ids 1, 2, 3 …

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
        self._nbytes = nbytes // count // mmap.PAGESIZE * mmap.PAGESIZE
        self._memories = {id: _Memory(id, self._nbytes) for id in range(1, count + 1)}

    @property
    def views(self) -> list[memoryview]:
        """The memory of each, in the order of their ids."""
        return [self._memories[id].view for id in sorted(self._memories)]

    @property
    def fds(self) -> list[int]:
        return [self._memories[id].fd for id in sorted(self._memories)]

    def renew(self, old: int, new: int, kept: Sequence[tuple[int, int]]) -> memoryview | None:
        """Make other memory in place of `old`; None if the system has none.

        The old one is given back at once, but for the pages with `kept` (offset, nbytes): these
        stay as they are until `forget`. May be called in a thread.
        """
        memory = self._memories[old]
        memory.give_back(kept)
        memory.unmap()
        if not kept:
            self._memories.pop(old).close()
        try:
            made = _Memory(new, self._nbytes)
        except OSError:
            return None
        self._memories[new] = made
        return made.view

    def forget(self, id: int) -> None:
        """Nobody needs what was kept of this one; not before its `renew` has ended."""
        memory = self._memories.pop(id)
        with mmap.mmap(memory.fd, memory.nbytes) as mapped:
            mapped.madvise(mmap.MADV_REMOVE)
        memory.close()

    def descriptor(self, id: int, *, writable: bool) -> tuple[int, int]:
        """A new descriptor of a memory, and its nbytes; the caller closes it.

        Raises
        ------
        OSError : there are no more descriptors.
        """
        memory = self._memories[id]
        if writable:
            return os.dup(memory.fd), memory.nbytes
        # Another open file, not another name of the same one: it can be read only.
        return os.open(f"/proc/self/fd/{memory.fd}", os.O_RDONLY | os.O_CLOEXEC), memory.nbytes

    def close(self) -> None:
        """Unmap and close; views that are still in use keep their memory until they go."""
        for memory in self._memories.values():
            memory.unmap()
            memory.close()
        self._memories.clear()


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
