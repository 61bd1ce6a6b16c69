"""What is visible: streams as readers see them, who waits for them, and their recent records.

A message becomes visible when it has reached its durability level, in the order of `seq`: one that
needs the disk holds up those behind it in its own stream, and nobody else's. Only this module
decides what a reader may see; the catalog may already know more.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from beamstream import limits
from beamstream.errors import Error
from beamstream.model import Dataset, Item, Record, StreamInfo
from beamstream.server.groups import GroupStream
from beamstream.store.catalog import Catalog

_BLOCK = 64
"""Records that are read ahead at once."""

Then = Callable[[Error | None], None]
Waiter = Callable[[], None]


class View:
    """One stream as its readers see it. Lives on the event loop only."""

    __slots__ = (
        "beamtime",
        "busy",
        "created_ns",
        "datasets",
        "deleting",
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
        self.held: dict[int, list[_Shown]] = {}
        self.hidden_parts: set[tuple[int, int]] = set()
        """(id, substream) of parts that are recorded and not yet at their level."""
        self.recent: dict[int, Record] = {}
        self.recent_ids: dict[int, int] = {}
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


_Shown = tuple[StreamInfo, int, Record | None, int, int, Then]


class Streams:
    """All streams that somebody uses, and the records that readers are likely to want next."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._views: dict[tuple[str, str, str], View] = {}
        self._recent: deque[tuple[View, int, int]] = deque()
        self._recent_nbytes = 0
        self._blocks: OrderedDict[tuple[str, int, int], dict[int, Item]] = OrderedDict()

    def view(self, beamtime: str, source: str, stream: str) -> View:
        """The view of a stream, which need not exist yet."""
        key = (beamtime, source, stream)
        found = self._views.get(key)
        if found is None:
            if len(self._views) >= limits.VIEWS_MAX:
                self._prune()
            found = View(*key, self._catalog.stream(*key))
            self._views[key] = found
        return found

    def views(self) -> list[View]:
        return list(self._views.values())

    def known(self, beamtime: str, source: str) -> dict[str, View]:
        """The views in use of one source, by name."""
        return {
            name: view
            for (bt, src, name), view in self._views.items()
            if bt == beamtime and src == source
        }

    def forget(self, view: View) -> None:
        """The stream was deleted: who waits sees an empty one from now on."""
        self._views.pop((view.beamtime, view.source, view.name), None)
        view.recent.clear()
        view.recent_ids.clear()
        view.groups.clear()
        view.wake()

    # ------------------------------------------------------------------ becoming visible

    def show(
        self,
        view: View,
        info: StreamInfo,
        seq: int,
        id: int,
        record: Record | None,
        then: Then,
        count: int = 1,
    ) -> None:
        """Make an item (or a part of one; or `count` skips that end at `seq`) visible.

        `then` is called when that has happened: at once, unless items before it are still on
        their way to the disk. It is called with an error if they never get there (`fail`).
        """
        shown = (info, id, record, seq, count, then)
        if seq - count > view.visible_seq:
            view.held.setdefault(seq - count + 1, []).append(shown)
            return
        self._show(view, shown)
        while view.held:
            ready = view.held.pop(view.visible_seq + 1, None)
            if ready is None:
                return
            for waiting in ready:
                self._show(view, waiting)

    def fail(self, view: View, error: Error) -> None:
        """The records of this beamtime can no longer be written: nothing held becomes visible."""
        held, view.held = view.held, {}
        for waiting in held.values():
            for *_, then in waiting:
                then(error)

    def show_finish(self, view: View, info: StreamInfo, timestamp_ns: int) -> None:
        view.no = info.no
        view.last_id = info.last_id
        view.next_stream = info.next_stream
        view.last_ns = timestamp_ns
        if not view.created_ns:
            view.created_ns = timestamp_ns
        view.wake()

    def _show(self, view: View, shown: _Shown) -> None:
        info, id, record, seq, count, then = shown
        if seq > view.visible_seq:
            if not view.created_ns:
                # A group may have made the stream before, and ids may have been skipped.
                view.no = info.no
                view.created_ns = info.created_ns
                view.datasets = info.datasets
            view.visible_seq = seq
            view.in_order = info.in_order
            if record is None:
                view.skipped += count
        if id > view.max_id:
            view.max_id = id
            if record is not None and not view.finished:
                view.last_ns = record.timestamp_ns
        if record is not None:
            if record.substream:
                view.hidden_parts.discard((id, record.substream))
            else:
                self._remember(view, seq, record)
            for group in view.groups.values():
                group.arrived(id, seq)
        if view.waiters:
            view.wake()
        then(None)

    # ------------------------------------------------------------------ items

    def item(self, view: View, seq: int) -> Item | None:
        """A visible item by its seq; None behind a skip."""
        record = view.recent.get(seq)
        if record is not None:
            return record
        if seq > view.visible_seq:
            return None
        number = seq // _BLOCK
        key = (view.beamtime, view.no, number)
        block = self._blocks.get(key)
        if block is None:
            lo = number * _BLOCK
            items = self._catalog.items_by_seq(view.beamtime, view.no, lo, lo + _BLOCK)
            block = {item.seq: item for item in items}
            # Datasets still grow, and the last block of a stream as well.
            if not view.datasets and lo + _BLOCK <= view.visible_seq:
                self._blocks[key] = block
                if len(self._blocks) > limits.RECENT_RECORDS_MAX // _BLOCK:
                    self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        found = block.get(seq)
        return self._visible(view, found) if found is not None else None

    def item_by_id(self, view: View, id: int, near_seq: int = 0) -> Item | None:
        """A visible item by its id. `near_seq` is a guess at its seq that costs little."""
        seq = view.recent_ids.get(id)
        if seq is not None:
            return view.recent[seq]
        if near_seq and view.in_order and not view.datasets:
            guess = self.item(view, near_seq)
            if guess is not None and guess.id == id:
                return guess
        if not view.no:
            return None
        found = self._catalog.items_by_id(view.beamtime, view.no, id, id + 1, 1)
        if not found or found[0].seq > view.visible_seq:
            return None
        return self._visible(view, found[0])

    def last(self, view: View) -> Item | None:
        """The visible item with the largest id."""
        if not view.max_id:
            return None
        seq = view.recent_ids.get(view.max_id)
        if seq is not None:
            return view.recent[seq]
        item = self._catalog.last_item(view.beamtime, view.no, view.visible_seq)
        return self._visible(view, item) if item is not None else None

    def last_dataset(self, view: View, min_parts: int) -> Dataset | None:
        if not view.no:
            return None
        found = self._catalog.last_dataset(view.beamtime, view.no, min_parts, view.visible_seq)
        if found is None or not view.hidden_parts:
            return found
        visible = self._visible(view, found)
        return visible if isinstance(visible, Dataset) else None

    def _visible(self, view: View, item: Item) -> Item:
        """Leave out parts of a dataset that have not reached their level."""
        if not view.hidden_parts or not isinstance(item, Dataset):
            return item
        parts = tuple(
            part for part in item.parts if (part.id, part.substream) not in view.hidden_parts
        )
        return Dataset(item.seq, item.id, item.expected, item.ready_seq, parts)

    def _remember(self, view: View, seq: int, record: Record) -> None:
        view.recent[seq] = record
        view.recent_ids[record.id] = seq
        recent = self._recent
        recent.append((view, seq, len(record.meta)))
        self._recent_nbytes += len(record.meta)
        while (
            len(recent) > limits.RECENT_RECORDS_MAX
            or self._recent_nbytes > limits.RECENT_NBYTES_MAX
        ):
            old, old_seq, nbytes = recent.popleft()
            self._recent_nbytes -= nbytes
            gone = old.recent.pop(old_seq, None)
            if gone is not None:
                old.recent_ids.pop(gone.id, None)

    def _prune(self) -> None:
        """Forget views that nobody uses; they are read again when they are needed."""
        for key, view in list(self._views.items()):
            idle = not (view.waiters or view.held or view.busy or view.groups)
            if idle and not view.recent:
                del self._views[key]
