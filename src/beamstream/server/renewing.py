"""Other memory for arenas of the cache, made by a thread: it takes a while for the large ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from beamstream.store.arenas import Arenas
from beamstream.store.cache import Cache, Renewal

log = structlog.get_logger("arenas")


class Renewing:
    """Does what the cache asks for, in its order.

    `connect` comes before its first use.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, arenas: Arenas) -> None:
        self._loop = loop
        self._arenas = arenas
        self._thread = ThreadPoolExecutor(1, "arenas")
        self._cache: Cache | None = None
        self._room: Callable[[], None] | None = None
        self._retired: Callable[[int], None] | None = None

    def connect(
        self, cache: Cache, room: Callable[[], None], retired: Callable[[int], None]
    ) -> None:
        """Say who is to be told, on the loop.

        Parameters
        ----------
        room : called when an arena has memory again.
        retired : called with the id of a memory that nobody needs any more.
        """
        self._cache, self._room, self._retired = cache, room, retired

    def renew(self, renewal: Renewal) -> None:
        """For `Cache.on_renew`."""
        self._thread.submit(self._renew, renewal)
        if not renewal.kept:
            self._tell_retired(renewal.old)

    def forget(self, memory: int) -> None:
        """For `Cache.on_retired`."""
        # Behind the renewal that has kept some of it.
        self._thread.submit(self._arenas.forget, memory)
        self._tell_retired(memory)

    def _tell_retired(self, memory: int) -> None:
        assert self._retired is not None
        self._loop.call_soon(self._retired, memory)

    def _renew(self, renewal: Renewal) -> None:
        view = self._arenas.renew(renewal.old, renewal.new, renewal.kept)
        if view is None:
            log.error("no memory for an arena of the cache: it is smaller now", arena=renewal.index)
        with contextlib.suppress(RuntimeError):
            # The loop is closed when the node has stopped meanwhile.
            self._loop.call_soon_threadsafe(self._done, renewal.new, view)

    def _done(self, memory: int, view: memoryview | None) -> None:
        assert self._cache is not None
        assert self._room is not None
        self._cache.renewed(memory, view)
        self._room()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
