"""What is visible: streams as readers see them, who waits for them, and their recent messages.

A message becomes visible when it has reached its durability level, in the order of `seq`: one that
needs the disk holds up those behind it in its own stream, and nobody else's. Only this module
decides what a reader may see; the catalog may already know more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable
from operator import attrgetter

from beamstream import limits
from beamstream.errors import Error
from beamstream.model import Dataset, Item, Record, StreamInfo
from beamstream.server.blocks import Block
from beamstream.server.views import Shown, Then, View
from beamstream.store.catalog import Catalog

__all__ = ["Streams", "View"]

_PAGE = 64
"""Records that are read ahead at once, for who reads them one by one …"""

_RUN = 256
"""… and for who takes runs of them."""

_RUNS_MAX = 32
"""Runs from the catalog that are kept: some readers that follow each other."""

_seq_of = attrgetter("seq")


class Streams:
    """All streams that somebody uses, and the records that readers are likely to want next."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._views: dict[tuple[str, str, str], View] = {}
        self._recent: deque[tuple[View, int, int]] = deque()
        self._recent_nbytes = 0
        self._pages: OrderedDict[tuple[str, int, int], dict[int, Item]] = OrderedDict()
        self._runs: OrderedDict[tuple[str, int, int], list[Block]] = OrderedDict()
        self.on_new: list[Callable[[View], None]] = []
        """Called when a stream has begun to exist, and when one is looked at that does."""
        self.on_gone: list[Callable[[View], None]] = []
        """Called when a stream was deleted."""
        self.on_beamtime: list[Callable[[str], None]] = []
        """Called when a beamtime is used first."""
        self.on_header: list[Callable[[str, str, str], None]] = []
        """Called with beamtime, source and stream when metadata of a stream was written."""
        self._beamtimes: set[str] = set()

    def view(self, beamtime: str, source: str, stream: str) -> View:
        """The view of a stream, which need not exist yet."""
        key = (beamtime, source, stream)
        found = self._views.get(key)
        if found is None:
            if len(self._views) >= limits.VIEWS_MAX:
                self._prune()
            found = View(*key, self.catalog.stream(*key))
            self._views[key] = found
            if beamtime not in self._beamtimes:
                self._beamtimes.add(beamtime)
                for tell in self.on_beamtime:
                    tell(beamtime)
            if found.exists:
                self._began(found)
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
        view.gone = True
        view.recent.clear()
        view.recent_ids.clear()
        view.blocks.clear()
        view.groups.clear()
        view.wake()
        for tell in self.on_gone:
            tell(view)

    def header_changed(self, beamtime: str, source: str, stream: str) -> None:
        """Metadata of a stream was written."""
        for tell in self.on_header:
            tell(beamtime, source, stream)

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
        self._show_next(view, (info, id, record, seq, count, then))

    def show_block(self, view: View, info: StreamInfo, block: Block, then: Then) -> None:
        """Make new messages visible that were put together; as `show`."""
        last_seq = block.end - 1
        self._show_next(view, (info, block.id_max, block, last_seq, block.count, then))

    def _show_next(self, view: View, shown: Shown) -> None:
        _, _, _, seq, count, _ = shown
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
            self._began(view)
        view.wake()

    def _show(self, view: View, shown: Shown) -> None:
        info, id, record, seq, count, then = shown
        began = not view.created_ns
        if seq > view.visible_seq:
            if began:
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
                view.last_ns = _newest_ns(record)
        if isinstance(record, Block):
            self._remember_block(view, record)
        elif record is not None:
            if record.substream:
                view.hidden_parts.discard((id, record.substream))
                for watcher in view.part_watchers:
                    watcher(seq)
            else:
                self._remember(view, seq, record)
            for group in view.groups.values():
                group.arrived(id, seq)
        if began and view.created_ns:
            self._began(view)
        if view.waiters:
            view.wake()
        then(None)

    def _began(self, view: View) -> None:
        for tell in tuple(self.on_new):
            tell(view)

    # ------------------------------------------------------------------ items

    def item(self, view: View, seq: int) -> Item | None:
        """A visible item by its seq; None behind a skip."""
        record = view.recent.get(seq)
        if record is not None:
            return record
        if seq > view.visible_seq:
            return None
        if view.blocks and (block := _holding(view.blocks, seq)) is not None:
            return block.record(seq - block.seq)
        number = seq // _PAGE
        key = (view.beamtime, view.no, number)
        page = self._pages.get(key)
        if page is None:
            lo = number * _PAGE
            items = self.catalog.items_by_seq(view.beamtime, view.no, lo, lo + _PAGE)
            page = {item.seq: item for item in items}
            # Datasets still grow, and the last page of a stream as well.
            if not view.datasets and lo + _PAGE <= view.visible_seq:
                self._pages[key] = page
                if len(self._pages) > limits.RECENT_RECORDS_MAX // _PAGE:
                    self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(key)
        found = page.get(seq)
        return self.shown(view, found) if found is not None else None

    def items(self, view: View, lo: int, hi: int) -> list[Item]:
        """Visible items with lo ≤ seq < hi from the catalog, ascending."""
        hi = min(hi, view.visible_seq + 1)
        found = self.catalog.items_by_seq(view.beamtime, view.no, lo, hi) if lo < hi else []
        return [self.shown(view, item) for item in found]

    def arrived_ns(self, view: View, seq: int) -> int:
        """When a message arrived, 0 when it is not remembered."""
        record = view.recent.get(seq)
        if record is not None:
            return record.arrived_ns
        block = _holding(view.blocks, seq) if view.blocks else None
        return block.arrived_ns if block is not None else 0

    def block_at(self, view: View, seq: int, count_max: int = _RUN) -> Block | None:
        """The block that holds this message; None behind a skip, or what is not visible.

        Where messages did not come together, it is made of those that are known; from `seq` on it
        has up to `count_max` of them. For streams of single messages.
        """
        if seq > view.visible_seq:
            return None
        if view.blocks and (block := _holding(view.blocks, seq)) is not None:
            return block
        if seq in view.recent:
            records: list[Record] = []
            while len(records) < count_max and (record := view.recent.get(seq)) is not None:
                records.append(record)
                seq += 1
            return Block.of_records(records)
        return _holding(self._run(view, seq), seq)

    def next_message(self, view: View, seq: int) -> int:
        """The first seq from `seq` on that is no skip, looking some way ahead.

        What it returns may be a skip too, or lie behind all that is visible: ask again from there.
        """
        if seq > view.visible_seq or seq in view.recent:
            return seq
        if view.blocks and _holding(view.blocks, seq) is not None:
            return seq
        end = min((seq // _RUN + 1) * _RUN, view.visible_seq + 1)
        if view.datasets:
            items = self.catalog.items_by_seq(view.beamtime, view.no, seq, end)
            return items[0].seq if items else end
        for block in self._run(view, seq):
            if block.end > seq:
                return max(block.seq, seq)
        return end

    def _run(self, view: View, seq: int) -> list[Block]:
        """The messages around `seq` from the catalog, as blocks."""
        lo = seq // _RUN * _RUN
        key = (view.beamtime, view.no, lo)
        blocks = self._runs.get(key)
        if blocks is not None and (blocks[-1].end > seq or blocks[-1].end >= lo + _RUN):
            self._runs.move_to_end(key)
            return blocks
        hi = min(lo + _RUN, view.visible_seq + 1)
        items = self.catalog.items_by_seq(view.beamtime, view.no, lo, hi)
        blocks = _blocks_of([item for item in items if isinstance(item, Record)])
        if blocks:
            self._runs[key] = blocks
            if len(self._runs) > _RUNS_MAX:
                self._runs.popitem(last=False)
        return blocks

    def item_by_id(self, view: View, id: int, near_seq: int = 0) -> Item | None:
        """A visible item by its id. `near_seq` is a guess at its seq that costs little."""
        seq = view.recent_ids.get(id)
        if seq is not None:
            return view.recent[seq]
        if view.blocks and view.in_order and (record := _by_id(view.blocks, id)) is not None:
            return record
        if near_seq and view.in_order and not view.datasets:
            guess = self.item(view, near_seq)
            if guess is not None and guess.id == id:
                return guess
        if not view.no:
            return None
        found = self.catalog.items_by_id(view.beamtime, view.no, id, id + 1, 1)
        if not found or found[0].seq > view.visible_seq:
            return None
        return self.shown(view, found[0])

    def last(self, view: View) -> Item | None:
        """The visible item with the largest id."""
        if not view.max_id:
            return None
        seq = view.recent_ids.get(view.max_id)
        if seq is not None:
            return view.recent[seq]
        if view.blocks and view.blocks[-1].ids[-1] == view.max_id:
            return view.blocks[-1].record(view.blocks[-1].count - 1)
        item = self.catalog.last_item(view.beamtime, view.no, view.visible_seq)
        return self.shown(view, item) if item is not None else None

    def last_dataset(self, view: View, min_parts: int) -> Dataset | None:
        if not view.no:
            return None
        found = self.catalog.last_dataset(view.beamtime, view.no, min_parts, view.visible_seq)
        if found is None or not view.hidden_parts:
            return found
        visible = self.shown(view, found)
        return visible if isinstance(visible, Dataset) else None

    def shown(self, view: View, item: Item) -> Item:
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
        self._bound(view, seq, len(record.meta))

    def _remember_block(self, view: View, block: Block) -> None:
        view.blocks.append(block)
        for group in view.groups.values():
            if group.early_acks:
                for at, id in enumerate(block.ids):
                    group.arrived(id, block.seq + at)
        self._bound(view, block.seq, block.kept_nbytes())

    def _bound(self, view: View, seq: int, nbytes: int) -> None:
        """Something at `seq` is remembered: forget the oldest beyond the limits."""
        recent = self._recent
        recent.append((view, seq, nbytes))
        self._recent_nbytes += nbytes
        while (
            len(recent) > limits.RECENT_RECORDS_MAX
            or self._recent_nbytes > limits.RECENT_NBYTES_MAX
        ):
            old, old_seq, old_nbytes = recent.popleft()
            self._recent_nbytes -= old_nbytes
            gone = old.recent.pop(old_seq, None)
            if gone is not None:
                old.recent_ids.pop(gone.id, None)
            elif old.blocks and old.blocks[0].seq == old_seq:
                del old.blocks[0]

    def _prune(self) -> None:
        """Forget views that nobody uses; they are read again when they are needed."""
        for key, view in list(self._views.items()):
            idle = not (view.waiters or view.held or view.busy or view.groups)
            if idle and not view.recent and not view.blocks:
                del self._views[key]


def _newest_ns(shown: Record | Block) -> int:
    """The time of the message with the largest id."""
    times = shown.timestamp_ns
    if isinstance(times, int):
        return times
    assert isinstance(shown, Block)
    return max(zip(shown.ids, times, strict=True))[1]


def _holding(blocks: list[Block], seq: int) -> Block | None:
    """The block that holds `seq`, of ascending ones."""
    last = blocks[-1] if blocks else None
    if last is None or seq >= last.end:
        return None
    if seq >= last.seq:
        return last
    at = bisect_right(blocks, seq, key=_seq_of) - 1
    return blocks[at] if at >= 0 and seq < blocks[at].end else None


def _by_id(blocks: list[Block], id: int) -> Record | None:
    """A message by its id, where ids ascend with seqs."""
    at = bisect_right(blocks, id, key=_first_id) - 1
    if at < 0:
        return None
    ids = blocks[at].ids
    index = id - ids.start if isinstance(ids, range) else bisect_right(ids, id) - 1
    return blocks[at].record(index) if index < len(ids) and ids[index] == id else None


def _first_id(block: Block) -> int:
    return block.ids[0]


def _blocks_of(records: list[Record]) -> list[Block]:
    """Blocks of records with ascending seqs: one for each stretch without holes."""
    starts = [
        at for at, record in enumerate(records) if not at or record.seq != records[at - 1].seq + 1
    ]
    ends = [*starts[1:], len(records)] if starts else []
    return [Block.of_records(records[lo:hi]) for lo, hi in zip(starts, ends, strict=True)]
