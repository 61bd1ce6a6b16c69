"""Messages that are out, or were given back, until they are due again. Pure.

Those handed out one by one are `Pending`; a stretch under one lease is a `Run`, whose cost does
not depend on its length. Both wait in one heap by deadline. What is acknowledged leaves its entry
there; when more than half is stale, the heap is made anew, so that one lease of a week does not
keep a million others in memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Hashable, Iterator

import msgspec

from beamstream.store.ranges import RangeSet

NEVER = float("inf")

_STALE_MAX = 64


class Pending:
    """A message that was delivered with a lease, or was given back, until it is due.

    `attempts` is how often it may be delivered, 0 for no limit.
    """

    __slots__ = ("attempts", "count", "due", "since", "tag")

    def __init__(self, due: float, count: int, attempts: int, tag: int, since: float) -> None:
        self.due = due
        self.count = count
        self.attempts = attempts
        self.tag = tag
        self.since = since

    @property
    def spent(self) -> bool:
        return 0 < self.attempts <= self.count


class Run(Pending):
    """What is left of a stretch of messages that were delivered equally often, under one lease."""

    __slots__ = ("left", "owner")

    def __init__(
        self,
        left: RangeSet,
        owner: Hashable,
        due: float,
        count: int,
        attempts: int,
        tag: int,
        since: float,
    ) -> None:
        super().__init__(due, count, attempts, tag, since)
        self.left = left
        self.owner = owner


class Terms(msgspec.Struct, frozen=True, gc=False):
    """How a reader wants to be handed messages with a lease.

    Parameters
    ----------
    seconds : the lease; what is not acknowledged by then is offered again.
    redeliveries : how often at most; 0 for no limit.
    """

    seconds: float
    redeliveries: int


class Hold(msgspec.Struct, frozen=True, gc=False):
    """How a member of the native lane is handed stretches of messages.

    Parameters
    ----------
    owner : who holds the lease, also when it comes again by another connection.
    seconds : the lease; 0: the messages are done when they are handed out.
    attempts : deliveries of one message before it is dead; 0 for no limit.
    """

    owner: Hashable
    seconds: float
    attempts: int = 0


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The messages `lo` … `hi` - 1, handed out together, each for the `count`-th time."""

    lo: int
    hi: int
    tag: int
    count: int = 1


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One message handed to one member.

    `tag` tells this delivery from all others (0 without a lease); `count` is 1 for the first one.
    `undo` is what was pending before, to be restored when the member never got it.
    """

    seq: int
    tag: int
    count: int
    undo: Pending | None


class Leases:
    """All that is pending in one group and stream. No message is in it twice."""

    def __init__(self) -> None:
        self.pending: dict[int, Pending] = {}
        self.runs: dict[int, Run] = {}
        self._heap: list[tuple[float, int, int]] = []
        self._run_count = 0

    def __len__(self) -> int:
        """How many messages."""
        return len(self.pending) + self._run_count

    def held(self, now: float) -> int:
        """How many messages somebody has in hand: the others are due, or wait to be offered."""
        runs = sum(
            len(run.left) for run in self.runs.values() if run.due > now and run.owner is not None
        )
        return runs + sum(pending.due > now for pending in self.pending.values())

    def add(self, seq: int, pending: Pending) -> None:
        self.pending[seq] = pending
        self._push(pending.due, pending.tag, seq)

    def add_run(self, run: Run) -> None:
        self.runs[run.tag] = run
        self._run_count += len(run.left)
        self._push(run.due, run.tag, 0)

    def move(self, run: Run, due: float) -> None:
        """A run is due at another time."""
        run.due = due
        self._push(due, run.tag, 0)

    def first(self) -> tuple[int, Pending] | None:
        """What is due first, and the first message of it; None if nothing is pending."""
        while self._heap:
            due, tag, seq = self._heap[0]
            if seq:
                pending = self.pending.get(seq)
                if pending is not None and pending.tag == tag:
                    return seq, pending
            else:
                run = self.runs.get(tag)
                if run is not None and run.due == due:
                    return next(iter(run.left))[0], run
            heapq.heappop(self._heap)
        return None

    def take_out(self, run: Run, lo: int, hi: int) -> int:
        """These messages are no longer in the run; returns how many were."""
        left = run.left
        if len(left) == hi - lo and left.covers(lo, hi):
            gone = len(left)
            left.clear()
        else:
            gone = left.remove(lo, hi)
        self._run_count -= gone
        if not left:
            self.runs.pop(run.tag, None)
        return gone

    def put_back(self, run: Run) -> None:
        """A run, or a part of one, is pending again under its tag, as long as what is left of it.

        Parameters
        ----------
        run : becomes part of this, unless the rest of it is still here.
        """
        rest = self.runs.get(run.tag)
        if rest is None:
            self.add_run(run)
            return
        for lo, hi in run.left:
            self._run_count += rest.left.add(lo, hi)

    def drop(self, lo: int, hi: int) -> None:
        """Nothing of [lo, hi) is pending any more."""
        if self.pending:
            for seq in within(lo, hi, self.pending):
                del self.pending[seq]
        if self._run_count:
            for run in self.holding(lo, hi):
                self.take_out(run, lo, hi)

    def holding(self, lo: int, hi: int) -> list[Run]:
        """The runs that have messages of [lo, hi)."""
        return [run for run in self.runs.values() if run.left.overlaps(lo, hi)]

    def owned(self, owner: Hashable) -> list[Run]:
        return [run for run in self.runs.values() if run.owner == owner]

    def find(self, seq: int) -> Pending | None:
        found = self.pending.get(seq)
        if found is not None or not self._run_count:
            return found
        return next(iter(self.holding(seq, seq + 1)), None)

    def holds(self, tag: int, lo: int, hi: int) -> bool:
        """Whether all of [lo, hi) is in the run of this tag."""
        run = self.runs.get(tag)
        return run is not None and run.left.covers(lo, hi)

    def tagged(self, tag: int, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """What of [lo, hi) is pending under this tag; ranges that may touch, ascending."""
        run = self.runs.get(tag)
        if run is not None:
            yield from list(run.left.within(lo, hi))
        if self.pending:
            for seq in sorted(within(lo, hi, self.pending)):
                if self.pending[seq].tag == tag:
                    yield seq, seq + 1

    def after(self, now: float) -> float:
        """The first deadline that has not passed; `NEVER` if there is none."""
        times = [pending.due for pending in self.pending.values()]
        times += [run.due for run in self.runs.values()]
        return min((due for due in times if due > now), default=NEVER)

    def since(self) -> float:
        """When the oldest of them was handed out; `NEVER` if there is none."""
        times = [pending.since for pending in self.pending.values()]
        times += [run.since for run in self.runs.values()]
        return min(times, default=NEVER)

    def _push(self, due: float, tag: int, seq: int) -> None:
        heapq.heappush(self._heap, (due, tag, seq))
        if len(self._heap) > 2 * (len(self.pending) + len(self.runs)) + _STALE_MAX:
            self._heap = [(left.due, left.tag, at) for at, left in self.pending.items()]
            self._heap += [(run.due, run.tag, 0) for run in self.runs.values()]
            heapq.heapify(self._heap)


def within(lo: int, hi: int, seqs: Collection[int]) -> list[int]:
    """Those of `seqs` (with quick membership) that are in [lo, hi)."""
    if hi - lo < len(seqs):
        return [seq for seq in range(lo, hi) if seq in seqs]
    return [seq for seq in seqs if lo <= seq < hi]
