"""One stream as its readers see it: what is visible, who waits, what is remembered of it."""

from __future__ import annotations

from collections.abc import Callable

from beamstream.errors import Error
from beamstream.model import Record, StreamInfo
from beamstream.server.blocks import Block
from beamstream.server.groups import GroupStream

Then = Callable[[Error | None], None]
Waiter = Callable[[], None]

Shown = tuple[StreamInfo, int, Record | Block | None, int, int, Then]
"""What is to become visible: the stream behind it, id, message, seq, how many, who is told."""


class View:
    """One stream as its readers see it. Lives on the event loop only."""

    __slots__ = (
        "beamtime",
        "blocks",
        "busy",
        "created_ns",
        "datasets",
        "deleting",
        "gone",
        "groups",
        "held",
        "hidden_parts",
        "in_order",
        "last_id",
        "last_ns",
        "max_id",
        "name",
        "next_stream",
        "no",
        "part_watchers",
        "persistent",
        "recent",
        "recent_ids",
        "skipped",
        "source",
        "visible_seq",
        "waiters",
    )

    def __init__(self, beamtime: str, source: str, name: str, info: StreamInfo | None) -> None:
        self.beamtime = beamtime
        self.source = source
        self.name = name
        self.no = info.no if info else 0
        self.visible_seq = info.last_seq if info else 0
        self.skipped = info.skipped if info else 0
        self.max_id = info.max_id if info else 0
        self.created_ns = info.created_ns if info else 0
        self.last_ns = info.last_ns if info else 0
        self.last_id = info.last_id if info else -1
        self.next_stream = info.next_stream if info else ""
        self.datasets = info.datasets if info else False
        self.in_order = info.in_order if info else True
        self.persistent = info.persistent if info else False
        self.groups: dict[str, GroupStream] = {}
        self.waiters: set[Waiter] = set()
        self.part_watchers: set[Callable[[int], None]] = set()
        """Told the seq of a dataset when a part of it becomes visible."""
        self.held: dict[int, list[Shown]] = {}
        self.hidden_parts: set[tuple[int, int]] = set()
        """(id, substream) of parts that are recorded and not yet at their level."""
        self.recent: dict[int, Record] = {}
        self.recent_ids: dict[int, int] = {}
        self.blocks: list[Block] = []
        """What became visible together and is still remembered, ascending."""
        self.gone = False
        """Deleted: a stream of this name has another view."""
        self.deleting = False
        """Being deleted: what is written behind now would hit a stream that is made anew."""
        self.busy = 0
        """Operations under way that will use this view when they end."""

    @property
    def finished(self) -> bool:
        return self.last_id >= 0

    @property
    def count(self) -> int:
        return self.visible_seq - self.skipped

    @property
    def exists(self) -> bool:
        return self.created_ns > 0

    @property
    def id_max(self) -> int:
        """What ASAPO calls the largest id: the announced last one of a finished stream."""
        return self.last_id if self.finished else self.max_id

    def info(self) -> StreamInfo:
        return StreamInfo(
            no=self.no,
            source=self.source,
            name=self.name,
            last_seq=self.visible_seq,
            skipped=self.skipped,
            max_id=self.max_id,
            created_ns=self.created_ns,
            last_ns=self.last_ns,
            last_id=self.last_id,
            next_stream=self.next_stream,
            datasets=self.datasets,
            in_order=self.in_order,
            persistent=self.persistent,
        )

    def wake(self) -> None:
        """Tell everybody who waits for this stream that something has changed."""
        for waiter in tuple(self.waiters):
            waiter()
