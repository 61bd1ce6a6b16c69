"""Pictures for tabs that watch: made once for each stream, whoever looks, and never queued."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog

from beamstream import limits
from beamstream.client.native.aio import AsyncSubscription
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.errors import Error, TimedOut, TooMany
from beamstream.monitor import images

if TYPE_CHECKING:
    from beamstream.client.native.group import Group
    from beamstream.monitor.hubs import Hubs

log = structlog.get_logger("monitor")

PREVIEWS_MAX: Final = 16
HZ_MAX: Final = 5.0
HZ_MIN: Final = 0.1
_FRESH_S: Final = 0.03
_AGAIN_S: Final = 2.0
_AHEAD_NBYTES: Final = images.IMAGE_NBYTES_MAX


class Place(NamedTuple):
    """What is watched: `max_px` as that of no side is more."""

    beamtime: str
    source: str
    stream: str
    max_px: int


class Viewer(Protocol):
    """A tab."""

    def offer_picture(self, data: bytes) -> None:
        """There is a newer one; what was not taken before is not wanted any more."""

    def tell(self, error: Error) -> None:
        """There is none."""

    @property
    def picture_hz(self) -> float:
        """How many pictures a second it wants; 0: none at the moment."""


class Previews:
    """All streams of one node that are watched.

    Parameters
    ----------
    pool : for making pictures.
    """

    def __init__(self, hubs: Hubs, pool: Executor) -> None:
        self._hubs = hubs
        self._pool = pool
        self._watched: dict[Place, _Watched] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def join(self, place: Place, viewer: Viewer) -> None:
        """Watch a stream.

        Raises
        ------
        TooMany : so many streams are being watched.
        """
        watched = self._watched.get(place)
        if watched is None:
            if len(self._watched) >= PREVIEWS_MAX:
                raise TooMany(
                    f"{PREVIEWS_MAX} streams are being watched", hint="close pages nobody needs"
                )
            watched = self._watched[place] = _Watched(place)
            watched.task = asyncio.create_task(self._watch(watched))
        watched.viewers.add(viewer)
        watched.changed.set()
        if watched.latest:
            viewer.offer_picture(watched.latest)

    def leave(self, place: Place, viewer: Viewer) -> None:
        """Watch it no more."""
        watched = self._watched.get(place)
        if watched is None:
            return
        watched.viewers.discard(viewer)
        if not watched.viewers:
            del self._watched[place]
            if watched.task is not None:
                watched.task.cancel()

    def wake(self, place: Place) -> None:
        """A viewer wants more, or less, than before."""
        watched = self._watched.get(place)
        if watched is not None:
            watched.changed.set()

    async def close(self) -> None:
        tasks = [one.task for one in self._watched.values() if one.task is not None]
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ one stream

    async def _watch(self, watched: _Watched) -> None:
        place = watched.place
        while True:
            try:
                await self._read(watched)
            except Error as error:
                log.info("no preview", source=place.source, stream=place.stream, reason=str(error))
                watched.tell(error)
            # The node was away, or the stream does not exist (yet), or has been finished.
            await asyncio.sleep(_AGAIN_S)

    async def _read(self, watched: _Watched) -> None:
        place, loop = watched.place, asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            using = self._hubs.use(place.beamtime)
            hub = await loop.run_in_executor(self._pool, stack.enter_context, using)
            group = hub.source(place.source).stream(place.stream).group(
                mode="newest", ack="none", ahead_messages=1,
                ahead_nbytes=min(_AHEAD_NBYTES, limits.NATIVE_CREDIT_NBYTES_MAX),
            )  # fmt: skip
            await self._draw(watched, group)

    async def _draw(self, watched: _Watched, group: Group) -> None:
        loop = asyncio.get_running_loop()
        px = watched.place.max_px
        async with AsyncSubscription(group) as member:
            while True:
                began_s = loop.time()
                await watched.wanted()
                found = await _newest(member)
                if found is None:
                    return
                if found.id == watched.id and member.sync.over:
                    # A finished stream that is looked at again: nothing is new.
                    continue
                watched.id = found.id
                try:
                    data = await loop.run_in_executor(self._pool, images.picture, found, px)
                except Error as error:
                    watched.tell(error)
                else:
                    watched.offer(data)
                del found
                pause_s = 1 / watched.hz if watched.hz else 1 / HZ_MAX
                await asyncio.sleep(max(began_s + pause_s - loop.time(), 0.0))


class _Watched:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.viewers: set[Viewer] = set()
        self.latest = b""
        self.id = 0
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def hz(self) -> float:
        return max((viewer.picture_hz for viewer in self.viewers), default=0.0)

    async def wanted(self) -> None:
        """Wait until somebody looks."""
        while not self.hz:
            self.changed.clear()
            await self.changed.wait()

    def offer(self, data: bytes) -> None:
        self.latest = data
        for viewer in tuple(self.viewers):
            viewer.offer_picture(data)

    def tell(self, error: Error) -> None:
        for viewer in tuple(self.viewers):
            viewer.tell(error)


async def _newest(member: AsyncSubscription) -> Message | DatasetMessage | None:
    """The newest message; waits for one. None at the end."""
    found = await _message(member.take())
    if found is None:
        return None
    # It had been sent ahead when the one before was taken: there may be a newer one by now.
    with contextlib.suppress(TimedOut):
        newer = await _message(member.take(timeout=_FRESH_S))
        return newer or found
    return found


async def _message(taken: Awaitable[object]) -> Message | DatasetMessage | None:
    found = await taken
    return found if isinstance(found, Message | DatasetMessage) else None
