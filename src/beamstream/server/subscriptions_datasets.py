"""Which datasets of a stream are ready for a group: complete, or with enough parts for long enough.

Incomplete ones are never in the way of others. Datasets are looked at again when a part of them
becomes visible; those that lie behind are looked through a page at a time.
"""

from __future__ import annotations

import heapq

from beamstream import limits
from beamstream.model import Dataset, Item
from beamstream.server.groups import NEVER, GroupStream, Lease
from beamstream.server.streams import Streams, View
from beamstream.server.subscriptions_members import Member
from beamstream.wire.native.frames import Mode

_PAGE = 64
_PAGES_PER_TURN = 4
_LISTED_MAX = 100


class Datasets:
    """Datasets that are ready and open, of one stream and group."""

    def __init__(self, streams: Streams, view: View, group: GroupStream) -> None:
        self._streams = streams
        self._view = view
        self._group = group
        self._changed: set[int] = set()
        self._ready: list[int] = []
        """Seqs, as a heap."""
        self._queued: set[int] = set()
        self._aging: list[tuple[float, int]] = []
        """(arrival of the first part, seq) of those that have enough parts, as a heap."""
        self._scanned = 1
        self._min_parts = 0
        self._wait_s = 0.0
        self.unfinished = False

    def terms(self, min_parts: int, wait_s: float) -> None:
        """What the newest member wants; those of a group should want the same."""
        if (min_parts, wait_s) != (self._min_parts, self._wait_s):
            self._min_parts, self._wait_s = min_parts, wait_s
            self._scanned = 1

    def changed(self, seq: int) -> None:
        """A part of the dataset at `seq` has become visible."""
        if seq < self._scanned:
            self._changed.add(seq)

    def reset(self) -> None:
        """The group was moved: look through all of it again."""
        self._scanned = 1
        self._ready.clear()
        self._queued.clear()
        self._aging.clear()
        self._changed.clear()

    def ready_at(self) -> float:
        """When the next one has waited long enough, wall clock in seconds."""
        return self._aging[0][0] + self._wait_s if self._aging else NEVER

    def open(self, wall_s: float) -> bool:
        """Whether one is ready, or will be by waiting alone."""
        self._look(wall_s)
        return bool(self._ready or self._aging) or self._scanned <= self._view.visible_seq

    def next(self, member: Member, now: float, wall_s: float) -> tuple[Lease, list[Dataset]] | None:
        """Lease what is due again or ready, with as much as the member has credit for."""
        self.unfinished = False
        while (due := self._group.first_due(now)) is not None:
            item = self._item(due[0])
            if isinstance(item, Dataset) and item.parts:
                if not self._fits(member, [], item):
                    return None
                return self._group.lease_due(due[0] + 1, now, member.hold), [item]
            self._group.drop(due[0], due[0] + 1)
        self._look(wall_s)
        if member.frame.mode == Mode.NEWEST:
            self._keep_newest(now)
        items = self._take(member)
        if not items:
            return None
        lease = self._group.lease(items[0].seq, items[-1].seq + 1, now, member.hold)
        if lease is None:
            self.unfinished = True
            return None
        for item in items[lease.hi - lease.lo :]:
            self._push(item.seq)
        return lease, items[: lease.hi - lease.lo]

    def incomplete_ids(self) -> list[int]:
        """Ids of datasets that are open and lack parts, a few of them."""
        found: list[int] = []
        lo, end = 1, self._view.visible_seq + 1
        while len(found) < _LISTED_MAX:
            first = self._group.first_open(lo, end)
            if first is None:
                break
            lo = first[0]
            item = self._item(lo)
            if isinstance(item, Dataset):
                found.append(item.id)
                lo += 1
            else:
                lo = max(self._streams.next_message(self._view, lo), lo + 1)
        return found

    # ------------------------------------------------------------------ inside

    def _item(self, seq: int) -> Item | None:
        return next(iter(self._streams.items(self._view, seq, seq + 1)), None)

    def _look(self, wall_s: float) -> None:
        """Find out what is ready."""
        changed, self._changed = self._changed, set()
        for seq in sorted(changed):
            self._judge(seq, self._item(seq))
        for _ in range(_PAGES_PER_TURN):
            if len(self._ready) >= _PAGE or self._scanned > self._view.visible_seq:
                break
            self._scan()
        else:
            self.unfinished = not self._ready
        while self._aging and self._aging[0][0] + self._wait_s <= wall_s:
            self._push(heapq.heappop(self._aging)[1])

    def _scan(self) -> None:
        end = min(self._scanned + _PAGE, self._view.visible_seq + 1)
        first = self._group.first_open(self._scanned, end)
        if first is None:
            self._scanned = end
            return
        items = {item.seq: item for item in self._streams.items(self._view, *first)}
        for seq in range(*first):
            self._judge(seq, items.get(seq))
        self._scanned = first[1]

    def _judge(self, seq: int, item: Item | None) -> None:
        if not self._group.is_open(seq):
            return
        if not isinstance(item, Dataset):
            self._group.pass_over(seq, seq + 1)
        elif item.complete:
            self._push(seq)
        elif self._min_parts and len(item.parts) >= self._min_parts:
            arrived = min(part.arrived_ns for part in item.parts) / 1e9
            heapq.heappush(self._aging, (arrived, seq))

    def _push(self, seq: int) -> None:
        if seq not in self._queued and self._group.is_open(seq):
            self._queued.add(seq)
            heapq.heappush(self._ready, seq)

    def _pop(self) -> int:
        seq = heapq.heappop(self._ready)
        self._queued.discard(seq)
        return seq

    def _take(self, member: Member) -> list[Dataset]:
        """The first ready ones whose seqs follow each other, and that fit into the credit."""
        items: list[Dataset] = []
        while self._ready and len(items) < member.batch_max:
            seq = self._ready[0]
            if items and seq != items[-1].seq + 1:
                break
            item = self._item(seq) if self._group.is_open(seq) else None
            if not isinstance(item, Dataset):
                self._pop()
                continue
            if not self._fits(member, items, item):
                break
            self._pop()
            items.append(item)
        return items

    def _fits(self, member: Member, items: list[Dataset], item: Dataset) -> bool:
        parts = sum(len(one.parts) for one in items) + len(item.parts)
        nbytes = sum(part.size for one in (*items, item) for part in one.parts)
        texts = sum(len(part.meta) + len(part.name) for one in (*items, item) for part in one.parts)
        small = (
            parts <= min(member.messages, limits.NATIVE_BATCH_MAX)
            and texts <= limits.NATIVE_HEADER_NBYTES_MAX // 2
            and (nbytes <= member.nbytes or not member.frame.payloads)
        )
        return small or (not items and member.idle)

    def _keep_newest(self, now: float) -> None:
        """Of those that are ready only the newest stays."""
        if not self._ready:
            return
        newest = max(self._ready)
        self._ready, self._queued = [newest], {newest}
        self._group.abandon(1, newest, now)
