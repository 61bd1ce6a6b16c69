"""Who is handed what next: one consumer group in one stream. Pure; see docs/design/030-groups.md.

A message is, for one group, *open*, *leased* (handed out, to be acknowledged before a deadline),
*done* (handed out without a lease), *acknowledged* or *dead* (delivered as often as allowed). The
group has two positions over this one state: by seq (the first open message) and by id (ordered
ASAPO reads). Times are seconds of any monotonic clock; they come in as arguments.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator

import msgspec

from beamstream.store.catalog.interface import GroupState, Ranges
from beamstream.store.ranges import RangeSet

NEVER = float("inf")

_STALE_MAX = 64


class Terms(msgspec.Struct, frozen=True, gc=False):
    """How a reader wants to be handed messages with a lease.

    Parameters
    ----------
    seconds : the lease; what is not acknowledged by then is offered again.
    redeliveries : how often at most; 0 for no limit.
    """

    seconds: float
    redeliveries: int


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One message handed to one member.

    `tag` tells this delivery from all others (0 without a lease); `count` is 1 for the first one.
    `undo` is what was pending before, to be restored when the member never got it.
    """

    seq: int
    tag: int
    count: int
    undo: _Pending | None


class _Pending:
    """A message that was delivered with a lease, or was given back, until it is due."""

    __slots__ = ("count", "due", "limit", "tag")

    def __init__(self, due: float, count: int, limit: int, tag: int) -> None:
        self.due = due
        self.count = count
        self.limit = limit
        self.tag = tag


class GroupStream:
    """The state of one group in one stream.

    >>> group = GroupStream()
    >>> group.next(0.0, last_seq=2).seq, group.next(0.0, last_seq=2).seq
    (1, 2)
    >>> group.next(0.0, last_seq=2) is None
    True
    """

    def __init__(self, state: GroupState | None = None) -> None:
        self.id_position = state.id_position if state else 0
        self.last_grouped = 0
        """The largest id handed out by a read of the last message with this group."""
        self.done = RangeSet(state.done if state else ())
        self.acked = RangeSet(state.acked if state else ())
        self.dead = RangeSet(state.dead if state else ())
        self.early_acks: set[int] = set(state.early_acks if state else ())
        """Ids that were acknowledged before there is a message."""
        self.near_seq = 0
        """A guess where the next id is; costs nothing when it is wrong."""
        self._counts: dict[int, int] = dict(state.counts if state else ())
        # Everything that is not open: done, acknowledged, dead, and pending.
        self._taken = self.done.union(self.acked).union(self.dead)
        self._pending: dict[int, _Pending] = {}
        self._heap: list[tuple[float, int, int]] = []
        self._tag = 0
        self._new_done = RangeSet()
        self._new_dead = RangeSet()
        self._new_counts: dict[int, int] = {}
        self._position_moved = False

    # ---------------------------------------------------------------- handing out

    def next(self, now: float, last_seq: int, terms: Terms | None = None) -> Delivery | None:
        """Hand out what is due again, else the first open message up to `last_seq`."""
        again = self._next_due(now, terms)
        if again is not None:
            return again
        seq = self._taken.first_gap(1)
        return self._hand_out(seq, now, terms) if seq <= last_seq else None

    def take(self, seq: int, now: float, terms: Terms | None = None) -> Delivery | None:
        """Hand out this message if it is open."""
        return None if self._taken.contains(seq) else self._hand_out(seq, now, terms)

    def next_due_again(self, now: float, terms: Terms | None = None) -> Delivery | None:
        """Hand out what is due again, nothing else."""
        return self._next_due(now, terms)

    def give_back(self, delivery: Delivery) -> bool:
        """Undo a delivery whose reply never left: as if it had not been.

        True if it was drained as done already: then the catalog must be told that it is open.
        """
        seq = delivery.seq
        drained = False
        if delivery.tag:
            pending = self._pending.get(seq)
            if pending is None or pending.tag != delivery.tag:
                return False
            del self._pending[seq]
        elif self.done.contains(seq):
            self.done.remove(seq, seq + 1)
            drained = not self._new_done.remove(seq, seq + 1)
        else:
            return False
        self._count(seq, delivery.count - 1)
        if delivery.undo is None:
            self._taken.remove(seq, seq + 1)
        else:
            self._schedule(seq, delivery.undo)
        return drained

    def pass_over(self, lo: int, hi: int) -> None:
        """Leave out seqs behind which there is no message (skipped ids)."""
        self._mark_done(lo, hi)
        self._taken.add(lo, hi)

    def move_id_position(self, id: int) -> None:
        self.id_position = id
        self._position_moved = True

    def due(self) -> float:
        """When the next message is due again; `NEVER` if none is pending."""
        while self._heap:
            due, tag, seq = self._heap[0]
            pending = self._pending.get(seq)
            if pending is not None and pending.tag == tag:
                return due
            heapq.heappop(self._heap)
        return NEVER

    def is_open(self, seq: int) -> bool:
        return not self._taken.contains(seq)

    def skip_taken(self, seq: int) -> int:
        """The first seq from `seq` on that is open."""
        return self._taken.first_gap(seq)

    def open_ranges(self, last_seq: int) -> Ranges:
        """The seqs up to `last_seq` that are open."""
        return tuple(self._taken.gaps(1, last_seq + 1))

    def leased(self) -> int:
        return len(self._pending)

    # ---------------------------------------------------------------- what members say

    def acknowledge(self, seq: int) -> bool:
        """Acknowledge a message in whatever state it is; False if it was before."""
        if not self.acked.add(seq, seq + 1):
            return False
        self._pending.pop(seq, None)
        self._taken.add(seq, seq + 1)
        self.done.remove(seq, seq + 1)
        self.dead.remove(seq, seq + 1)
        self._new_done.remove(seq, seq + 1)
        self._new_dead.remove(seq, seq + 1)
        self._count(seq, 0)
        return True

    def arrived(self, id: int, seq: int) -> None:
        """A message became visible: it may have been acknowledged before."""
        if self.early_acks and id in self.early_acks:
            self.early_acks.discard(id)
            self.acknowledge(seq)

    def refuse(self, seq: int, due: float) -> None:
        """Negative acknowledgement: offer it again at `due`, once."""
        pending = self._pending.get(seq)
        count = pending.count if pending else self._counts.get(seq, int(not self.is_open(seq)))
        self._reopen(seq, seq + 1)
        self._taken.add(seq, seq + 1)
        self._tag += 1
        self._schedule(seq, _Pending(due, count, count, self._tag))

    def seek(self, id_position: int, done: Ranges, opened: Ranges) -> None:
        """Everything in `opened` is open again; what was open in `done` counts as handed out."""
        for lo, hi in opened:
            self._reopen(lo, hi)
            for seq in _within(lo, hi, self._counts):
                self._count(seq, 0)
        for lo, hi in done:
            for start, end in list(self._taken.gaps(lo, hi)):
                self.done.add(start, end)
                self._taken.add(start, end)
        self.move_id_position(id_position)
        self.early_acks = {id for id in self.early_acks if id <= id_position}
        self.last_grouped = min(self.last_grouped, id_position)

    # ---------------------------------------------------------------- writing behind

    @property
    def dirty(self) -> bool:
        return bool(
            self._position_moved or self._new_counts or len(self._new_done) or len(self._new_dead)
        )

    def drain(self) -> tuple[Ranges, Ranges, int, tuple[tuple[int, int], ...]]:
        """What is to be written: newly done and dead ranges, id position (-1: same), counts."""
        drained = (
            self._new_done.to_tuple(),
            self._new_dead.to_tuple(),
            self.id_position if self._position_moved else -1,
            tuple(self._new_counts.items()),
        )
        self._new_done.clear()
        self._new_dead.clear()
        self._new_counts.clear()
        self._position_moved = False
        return drained

    # ---------------------------------------------------------------- inside

    def _hand_out(self, seq: int, now: float, terms: Terms | None) -> Delivery:
        self._taken.add(seq, seq + 1)
        count = 1
        if seq in self._counts:
            # It was delivered before this node was started.
            count = self._counts[seq] + 1
            self._count(seq, count)
        if terms is None:
            self._mark_done(seq, seq + 1)
            return Delivery(seq, 0, count, None)
        self._tag += 1
        self._schedule(seq, _Pending(now + terms.seconds, count, terms.redeliveries, self._tag))
        return Delivery(seq, self._tag, count, None)

    def _next_due(self, now: float, terms: Terms | None) -> Delivery | None:
        while self.due() <= now:
            _, _, seq = heapq.heappop(self._heap)
            before = self._pending.pop(seq)
            limit = before.limit
            if limit and before.count > limit:
                self.dead.add(seq, seq + 1)
                self._new_dead.add(seq, seq + 1)
                continue
            count = before.count + 1
            self._count(seq, count)
            if terms is None:
                self._mark_done(seq, seq + 1)
                return Delivery(seq, 0, count, before)
            self._tag += 1
            again = _Pending(now + terms.seconds, count, terms.redeliveries, self._tag)
            self._schedule(seq, again)
            return Delivery(seq, self._tag, count, before)
        return None

    def _schedule(self, seq: int, pending: _Pending) -> None:
        self._pending[seq] = pending
        heapq.heappush(self._heap, (pending.due, pending.tag, seq))
        if len(self._heap) > 2 * len(self._pending) + _STALE_MAX:
            # What was acknowledged early leaves its entry behind, below a lease that lasts long.
            self._heap = [(left.due, left.tag, at) for at, left in self._pending.items()]
            heapq.heapify(self._heap)

    def _count(self, seq: int, count: int) -> None:
        """Remember how often a message was delivered; the first time is not worth a note."""
        if count > 1:
            self._counts[seq] = self._new_counts[seq] = count
        elif self._counts:
            self._counts.pop(seq, None)
            self._new_counts.pop(seq, None)

    def _mark_done(self, lo: int, hi: int) -> None:
        self.done.add(lo, hi)
        self._new_done.add(lo, hi)

    def _reopen(self, lo: int, hi: int) -> None:
        for marks in (self.done, self.acked, self.dead, self._taken):
            marks.remove(lo, hi)
        for marks in (self._new_done, self._new_dead):
            marks.remove(lo, hi)
        for seq in _within(lo, hi, self._pending):
            del self._pending[seq]


def _within(lo: int, hi: int, seqs: Collection[int]) -> list[int]:
    if hi - lo < len(seqs):
        return [seq for seq in range(lo, hi) if seq in seqs]
    return [seq for seq in seqs if lo <= seq < hi]


def unacknowledged(pairs: Iterable[tuple[int, int]], acked: RangeSet) -> Iterator[int]:
    """The ids of (id, seq) pairs whose message is not acknowledged."""
    return (id for id, seq in pairs if not acked.contains(seq))
