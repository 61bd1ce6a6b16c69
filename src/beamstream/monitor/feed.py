"""One WebSocket for each tab: snapshots twice a second at most, pictures of the stream it watches.

A snapshot is made once for all tabs that may see the same. Nothing is queued: what a tab has not
taken when there is something newer, it never gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import structlog

from beamstream.errors import BadInput, Error, TooMany
from beamstream.monitor import documents as doc
from beamstream.monitor.previewing import HZ_MAX, HZ_MIN, Place
from beamstream.monitor.roles import Visitor

if TYPE_CHECKING:
    from beamstream.monitor.desk import Desk, Node

log = structlog.get_logger("monitor")

FEEDS_MAX: Final = 64
BEAT_S: Final = 0.5
MESSAGE_NBYTES_MAX: Final = 4_096
MESSAGES_PER_S: Final = 10
_BURST: Final = 30
VISITOR_CHECKED_S: Final = 60.0
_PX_MAX: Final = 1_024
_decode: Final = msgspec.json.Decoder(doc.Told).decode
_encode: Final = msgspec.json.Encoder().encode


class Wire(Protocol):
    """The WebSocket of a tab."""

    async def send_text(self, data: str) -> None: ...

    async def send_bytes(self, data: bytes) -> None: ...


class Bucket:
    """Lets so many through each second, and a few more at once.

    >>> bucket = Bucket(10.0, 2)
    >>> [bucket.take(0.0) for _ in range(3)], bucket.take(0.1)
    ([True, True, False], True)
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = float(burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        if self._at_s is not None:
            grown = self._left + (now_s - self._at_s) * self._per_s
            self._left = min(grown, float(self._burst))
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Tab:
    """One WebSocket: what it watches, and what waits for it."""

    def __init__(self, desk: Desk, wire: Wire, visitor: Visitor, node: Node) -> None:
        self._desk = desk
        self._wire = wire
        self.visitor = visitor
        self.node = node
        self.beamtime = ""
        self.paused = False
        self.skipped = 0
        """What was made for it and not sent, because it had not taken what was sent before."""
        self._hz = 0.0
        self._next_s = 0.0
        self._place: Place | None = None
        self._text = ""
        self._picture = b""
        self._due = asyncio.Event()
        self._bucket = Bucket(MESSAGES_PER_S, _BURST)
        self._looking = contextlib.ExitStack()

    # ------------------------------------------------------------------ what it is sent

    def offer_text(self, text: str) -> None:
        if self._text:
            self.skipped += 1
        self._text = text
        self._due.set()

    def offer_picture(self, data: bytes) -> None:
        now_s = time.monotonic()
        if not self.picture_hz or now_s < self._next_s:
            return
        self._next_s = now_s + 0.9 / self._hz
        if self._picture:
            self.skipped += 1
        self._picture = data
        self._due.set()

    def tell(self, error: Error) -> None:
        self.offer_text(error_text(error))

    @property
    def picture_hz(self) -> float:
        return 0.0 if self.paused else self._hz

    async def send(self) -> None:
        """Send what there is, as fast as the tab takes it, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            if self._text:
                text, self._text = self._text, ""
                await self._wire.send_text(text)
            if self._picture:
                picture, self._picture = self._picture, b""
                await self._wire.send_bytes(picture)

    # ------------------------------------------------------------------ what it says

    def take(self, data: str | bytes) -> None:
        """The tab has said something.

        Raises
        ------
        BadInput : it is nothing that a tab may say. TooMany : it says too much.
        Error : it may not watch that.
        """
        if len(data) > MESSAGE_NBYTES_MAX:
            raise BadInput(f"a message of {len(data)} bytes, {MESSAGE_NBYTES_MAX} are allowed")
        if not self._bucket.take(time.monotonic()):
            raise TooMany(f"more than {MESSAGES_PER_S} messages a second")
        try:
            told = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"this is not understood: {error}") from None
        if told.pause is not None:
            self.paused = told.pause
            if self._place is not None:
                self.node.previews.wake(self._place)
        if told.watch is not None:
            self._watch(told.watch)
        self._look()

    def _watch(self, wish: doc.Watch) -> None:
        if wish.node and wish.node != self.node.name:
            self._leave()
            self.node = self._desk.node(wish.node)
        overview, preview = wish.overview, wish.preview
        beamtime = overview.beamtime if overview is not None else ""
        if beamtime:
            self.visitor.check_sees(beamtime)
        self.beamtime = beamtime
        if preview is None:
            self._leave()
            return
        beamtime = self._desk.beamtime(self.node, self.visitor, preview.beamtime)
        px = min(max(preview.max_px, 16), _PX_MAX)
        place = Place(beamtime, preview.source, preview.stream, px)
        if place != self._place:
            self._leave()
            self._hz = min(max(preview.hz, HZ_MIN), HZ_MAX)
            self.node.previews.join(place, self)
            self._place = place

    def _leave(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            self.node.previews.leave(place, self)
        self._hz, self._picture = 0.0, b""

    def _look(self) -> None:
        """Whoever is hidden does not look: then the node is asked less often."""
        self._looking.close()
        if not self.paused:
            self._looking.enter_context(self.node.sampler.watched())

    def open(self) -> None:
        self._look()

    def close(self) -> None:
        self._leave()
        self._looking.close()


class Feeds:
    """All tabs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tabs: set[Tab] = set()
        self._seq = 0
        self._came = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tabs)

    async def serve(
        self,
        wire: Wire,
        receive: Callable[[], Awaitable[str | bytes | None]],
        visitor: Visitor,
        node: Node,
        again: Callable[[Node], Awaitable[Visitor]],
    ) -> None:
        """Serve a tab until it goes.

        Parameters
        ----------
        receive : what it says next; None: it has gone.
        again : who it is, asked every minute: tokens end.

        Raises
        ------
        TooMany : there are so many tabs, or it says too much.
        Error : it says what it must not.
        """
        if len(self._tabs) >= FEEDS_MAX:
            raise TooMany(f"{FEEDS_MAX} tabs are open", hint="close some")
        tab = Tab(self._desk, wire, visitor, node)
        tab.open()
        self._tabs.add(tab)
        self._came.set()
        sending = asyncio.create_task(tab.send())
        checking = asyncio.create_task(_check(tab, again))
        try:
            await _until_first(sending, checking, asyncio.create_task(_listen(tab, receive)))
        finally:
            self._tabs.discard(tab)
            tab.close()

    async def run(self) -> None:
        """Make snapshots as long as somebody looks, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            tabs = [tab for tab in self._tabs if not tab.paused]
            if not tabs:
                self._came.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._came.wait(), BEAT_S)
                continue
            began_s = loop.time()
            await self._beat(tabs)
            await asyncio.sleep(max(began_s + BEAT_S - loop.time(), 0.05))

    async def _beat(self, tabs: list[Tab]) -> None:
        self._seq += 1
        alike: dict[tuple[str, str, frozenset[str] | None], list[Tab]] = {}
        for tab in tabs:
            alike.setdefault((tab.node.name, tab.beamtime, tab.visitor.sees), []).append(tab)
        for (_, beamtime, _), same in alike.items():
            node, visitor = same[0].node, same[0].visitor
            text = await self._desk.in_thread(self._made, node, visitor, beamtime)
            for tab in same:
                tab.offer_text(text)

    def _made(self, node: Node, visitor: Visitor, beamtime: str) -> str:
        """In a thread."""
        found = self._desk.snapshot(node, visitor, beamtime)
        if found is None:
            return error_text(node.sampler.failure())
        frame = doc.SnapshotFrame(
            t=time.time_ns() // 1_000_000,
            seq=self._seq,
            node=node.name,
            stale_s=round(node.sampler.stale_s, 3),
            data=found,
        )
        return _encode(frame).decode()


def error_text(error: Error) -> str:
    """An error as a tab is told it."""
    return _encode(doc.ErrorFrame(code=error.code, message=error.message, hint=error.hint)).decode()


async def _listen(tab: Tab, receive: Callable[[], Awaitable[str | bytes | None]]) -> None:
    while (data := await receive()) is not None:
        try:
            tab.take(data)
        except TooMany as error:
            if error.message.startswith("more than"):
                raise
            tab.tell(error)
        except Error as error:
            tab.tell(error)


async def _check(tab: Tab, again: Callable[[Node], Awaitable[Visitor]]) -> None:
    while True:
        await asyncio.sleep(VISITOR_CHECKED_S)
        try:
            found = await again(tab.node)
        except Error:
            # The node is away: nobody is sent out for that.
            continue
        if not found.somebody:
            return
        tab.visitor = found


async def _until_first(*tasks: asyncio.Task[Any]) -> None:
    """Wait until one has ended, end the others, and raise what it has raised."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
