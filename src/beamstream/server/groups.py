"""Who is handed what next: one consumer group in one stream. Pure; see docs/design/030-groups.md.

A message is, for one group, *open*, *leased* (handed out, to be acknowledged before a deadline),
*done* (handed out without a lease), *acknowledged* or *dead* (delivered as often as allowed). The
group has two positions over this one state: by seq (the first open message) and by id (ordered
ASAPO reads). Times are seconds of any monotonic clock; they come in as arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator

from beamstream.errors import StaleLease
from beamstream.server.leases import (
    NEVER,
    Delivery,
    Hold,
    Lease,
    Leases,
    Pending,
    Run,
    Terms,
    within,
)
from beamstream.store.catalog.interface import GroupState, Ranges
from beamstream.store.ranges import RangeSet

__all__ = ["NEVER", "Delivery", "GroupStream", "Hold", "Lease", "Terms", "unacknowledged"]


class GroupStream:
    """The state of one group in one stream.

    `first_tag` is below all tags that are given: those of an earlier life of the node are not above
    it, and are told from the present ones so.

    >>> group = GroupStream()
    >>> group.next(0.0, last_seq=2).seq, group.next(0.0, last_seq=2).seq
    (1, 2)
    >>> group.next(0.0, last_seq=2) is None
    True
    """

    def __init__(self, state: GroupState | None = None, first_tag: int = 0) -> None:
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
        self._leases = Leases()
        self._first_tag = self._tag = first_tag
        self.from_id = 0
        """Messages with smaller ids that come later are left out: it was begun at this id."""
        self.moves = 0
        """How often something that had been handed out, or passed, was opened again."""
        self.users = 0
        """Who would be surprised if this object were forgotten and made anew."""
        self.redelivered = 0
        """Deliveries that were not the first of their message, since the group was loaded."""
        self._new_done = RangeSet()
        self._new_dead = RangeSet()
        self._new_counts: dict[int, int] = {}
        self._position_moved = False
        self._settling: set[Run] = set()
        self._settled_seq = 1

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
            pending = self._leases.pending.get(seq)
            if pending is None or pending.tag != delivery.tag:
                return False
            del self._leases.pending[seq]
        elif self.done.contains(seq):
            self.done.remove(seq, seq + 1)
            self._settled_seq = min(self._settled_seq, seq)
            drained = not self._new_done.remove(seq, seq + 1)
        else:
            return False
        self._count(seq, delivery.count - 1)
        if delivery.undo is None:
            self._taken.remove(seq, seq + 1)
            self.moves += 1
        else:
            self._leases.add(seq, delivery.undo)
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
        first = self._leases.first()
        return first[1].due if first is not None else NEVER

    def due_after(self, now: float) -> float:
        """When something is due next that is not due now; `NEVER` if nothing will be."""
        return self._leases.after(now)

    def is_open(self, seq: int) -> bool:
        return not self._taken.contains(seq)

    def skip_taken(self, seq: int) -> int:
        """The first seq from `seq` on that is open."""
        return self._taken.first_gap(seq)

    def open_ranges(self, last_seq: int) -> Ranges:
        """The seqs up to `last_seq` that are open."""
        return tuple(self._taken.gaps(1, last_seq + 1))

    def leased(self) -> int:
        """How many messages are out, or wait to be offered again."""
        return len(self._leases)

    def in_hand(self, now: float) -> int:
        """How many messages somebody has, and has time for."""
        return self._leases.held(now)

    def settling(self) -> bool:
        """Whether something is settled that is not stored yet."""
        return bool(self._settling)

    def settled_seq(self) -> int:
        """The first seq that is neither acknowledged nor done nor dead."""
        at = self._settled_seq
        while True:
            end = max(marks.first_gap(at) for marks in (self.acked, self.done, self.dead))
            if end == at:
                self._settled_seq = at
                return at
            at = end

    def leased_since(self) -> float:
        """When the oldest lease was given; `NEVER` if there is none."""
        return self._leases.since()

    # ---------------------------------------------------------------- handing out stretches

    def first_open(self, lo: int, hi: int) -> tuple[int, int] | None:
        """The first stretch of open messages in [lo, hi)."""
        return next(self._taken.gaps(lo, hi), None)

    def first_due(self, now: float) -> tuple[int, int] | None:
        """The stretch that is due again first; what is due and spent is dead from now on."""
        while (first := self._leases.first()) is not None and first[1].due <= now:
            seq, pending = first
            if pending.spent:
                self._die(seq, pending)
                continue
            if isinstance(pending, Run):
                return next(iter(pending.left))
            return seq, seq + 1
        return None

    def lease(self, lo: int, hi: int, now: float, hold: Hold) -> Lease | None:
        """Hand out the open messages from `lo` on, up to `hi` or where they differ in attempts.

        None if those have been delivered as often as allowed before the node was started: they are
        dead from now on.
        """
        count = 0
        if self._counts:
            count = self._counts.get(lo, 0)
            hi = next((at for at in range(lo, hi) if self._counts.get(at, 0) != count), hi)
        self._taken.add(lo, hi)
        if 0 < hold.attempts <= count:
            self._mark_dead(lo, hi)
            return None
        return self._lease(lo, hi, count + 1, now, hold)

    def due_ranges(self, now: float) -> list[tuple[int, int]]:
        """All that is due again, lowest first; what is due and spent is dead from now on."""
        found: list[tuple[int, int]] = []
        first = self._leases.first()
        if first is None or first[1].due > now:
            return found
        waiting: list[tuple[int, Pending]] = list(self._leases.pending.items())
        waiting += [(next(iter(run.left))[0], run) for run in self._leases.runs.values()]
        for seq, pending in waiting:
            if pending.due > now:
                continue
            if pending.spent:
                self._die(seq, pending)
            else:
                found += pending.left if isinstance(pending, Run) else ((seq, seq + 1),)
        return sorted(found)

    def lease_due(self, hi: int, now: float, hold: Hold, lo: int = 0) -> Lease:
        """Hand out what `first_due` has named, or what is due at `lo`, up to `hi`."""
        if lo:
            pending = self._leases.find(lo)
            assert pending is not None
        else:
            first = self._leases.first()
            assert first is not None
            lo, pending = first
        if isinstance(pending, Run):
            self._leases.take_out(pending, lo, hi)
        else:
            del self._leases.pending[lo]
            hi = lo + 1
        return self._lease(lo, hi, pending.count + 1, now, hold)

    def abandon(self, lo: int, hi: int, now: float) -> None:
        """What is open or due in [lo, hi) counts as handed out: something newer has come."""
        for start, end in list(self._taken.gaps(lo, hi)):
            self.pass_over(start, end)
        waiting = [(seq, seq + 1, left) for seq, left in self._leases.pending.items()]
        for run in self._leases.holding(lo, hi):
            waiting += [(start, end, run) for start, end in run.left.within(lo, hi)]
        for start, end, left in waiting:
            if left.due <= now and lo <= start < hi:
                self._leases.drop(start, end)
                self._mark_done(start, end)

    def drop(self, lo: int, hi: int) -> None:
        """There is nothing to be handed out at these seqs, though it is pending."""
        self._leases.drop(lo, hi)
        self._mark_done(lo, hi)

    def _lease(self, lo: int, hi: int, count: int, now: float, hold: Hold) -> Lease:
        if count > 1:
            self.redelivered += hi - lo
            for seq in range(lo, hi):
                self._count(seq, count)
        if hold.seconds <= 0:
            self._mark_done(lo, hi)
            return Lease(lo, hi, 0, count)
        tag = self._new_tag()
        due = now + hold.seconds
        left = RangeSet(((lo, hi),))
        self._leases.add_run(Run(left, hold.owner, due, count, hold.attempts, tag, now))
        return Lease(lo, hi, tag, count)

    # ---------------------------------------------------------------- what members say

    def acknowledge(self, seq: int) -> bool:
        """Acknowledge a message in whatever state it is; False if it was before."""
        if not self.acked.add(seq, seq + 1):
            return False
        self._leases.drop(seq, seq + 1)
        self._settled_for_good(seq, seq + 1)
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
        pending = self._leases.find(seq)
        count = pending.count if pending else self._counts.get(seq, int(not self.is_open(seq)))
        since = pending.since if pending else due
        self._reopen(seq, seq + 1)
        self._taken.add(seq, seq + 1)
        self._leases.add(seq, Pending(due, count, count + 1, self._new_tag(), since))

    def seek(self, id_position: int, done: Ranges, opened: Ranges) -> None:
        """Everything in `opened` is open again; what was open in `done` counts as handed out."""
        self.moves += 1
        self._settling.clear()
        self.near_seq = self.from_id = 0
        for lo, hi in opened:
            self._reopen(lo, hi)
            self._forget_counts(lo, hi)
        for lo, hi in done:
            for start, end in list(self._taken.gaps(lo, hi)):
                self.done.add(start, end)
                self._taken.add(start, end)
        self.move_id_position(id_position)
        self.early_acks = {id for id in self.early_acks if id <= id_position}
        self.last_grouped = min(self.last_grouped, id_position)

    # ---------------------------------------------------------------- what holders say

    def acknowledge_range(self, tag: int, lo: int, hi: int) -> Ranges:
        """Acknowledge messages of a lease; what is returned was not (for good) before.

        A lease that has ended and was not offered to anybody else still counts.

        Raises
        ------
        StaleLease : not all of them are leased under this tag, or acknowledged. Nothing changes.
        """
        self.check_held(tag, lo, hi)
        held = tuple(self._leases.tagged(tag, lo, hi))
        for start, end in held:
            self._leave(tag, start, end)
            self.acked.add(start, end)
            self._forget_counts(start, end)
        return held + self._sure(lo, hi) if self._settling else held

    def check_held(self, tag: int, lo: int, hi: int, *, dead: bool = False) -> None:
        """Whether these messages may be acknowledged under this tag (with `dead`: be given up).

        Raises
        ------
        StaleLease : some are neither leased under it, nor acknowledged (or dead) already.
        """
        if self._leases.holds(tag, lo, hi):
            return
        rest = RangeSet(((lo, hi),)) - tuple(self._leases.tagged(tag, lo, hi))
        for start, end in rest - self.acked.within(lo, hi):
            if not (dead and self.dead.covers(start, end)):
                raise _stale(lo, hi)

    # ---------------------------------------------------------------- settled, not stored yet

    def settle(self, tag: int, lo: int, hi: int, *, dead: bool = False) -> list[Run]:
        """Acknowledge (or give up) what is leased under this tag, for the time being.

        What is returned goes to `store` or `restore`. Until then a seek, or whoever opens these
        messages again, has the last word.

        >>> group = GroupStream()
        >>> lease = group.lease(1, 4, 0.0, Hold("member", 60.0))
        >>> taken = group.settle(lease.tag, 2, 3)
        >>> group.leased(), group.acked.to_tuple(), group.settled_seq()
        (2, ((2, 3),), 1)
        >>> group.restore(taken, 1.0)
        >>> group.leased(), group.acked.to_tuple()
        (3, ())
        """
        taken: list[Run] = []
        for start, end in list(self._leases.tagged(tag, lo, hi)):
            one = self._leases.runs.get(tag) or self._leases.pending[start]
            left, owner = RangeSet(((start, end),)), one.owner if isinstance(one, Run) else None
            taken.append(Run(left, owner, one.due, one.count, one.attempts, tag, one.since))
            self._leave(tag, start, end)
            (self.dead if dead else self.acked).add(start, end)
            if not dead:
                self._forget_counts(start, end)
        self._settling.update(taken)
        return taken

    def store(self, taken: Iterable[Run]) -> None:
        """What was settled is stored."""
        self._settling.difference_update(taken)

    def restore(self, taken: Iterable[Run], now: float, *, gone: bool = False) -> None:
        """What was settled is not stored: its leases go on, as far as nobody has moved it.

        `gone`: who held it is not there any more: it is due at once.
        """
        for run in taken:
            if run not in self._settling:
                continue
            self._settling.discard(run)
            for lo, hi in run.left:
                self.acked.remove(lo, hi)
                self.dead.remove(lo, hi)
                self._settled_seq = min(self._settled_seq, lo)
                if run.count > 1:
                    for seq in range(lo, hi):
                        self._count(seq, run.count)
            if gone:
                self._offer(run.left, run, now, counted=True)
            elif run.left:
                self._leases.put_back(run)

    def refuse_range(
        self, tag: int, ranges: Ranges, now: float, delay_s: float, *, counted: bool
    ) -> None:
        """Offer messages of a lease again after a delay, as an attempt or as if never handed out.

        Raises
        ------
        StaleLease : not all of them are leased under this tag. Nothing changes.
        """
        held = []
        for lo, hi in RangeSet(ranges):
            found = list(self._leases.tagged(tag, lo, hi))
            if sum(end - start for start, end in found) < hi - lo:
                raise _stale(lo, hi)
            held += found
        for start, end in held:
            pending = self._leases.runs.get(tag) or self._leases.pending[start]
            self._leave(tag, start, end)
            self._offer(RangeSet(((start, end),)), pending, now + delay_s, counted=counted)

    def extend(self, tag: int, due: float) -> bool:
        """A lease ends at another time; False if there is none of this tag."""
        run = self._leases.runs.get(tag)
        if run is not None:
            self._leases.move(run, due)
        return run is not None

    def release(
        self, owner: Hashable, now: float, *, counted: bool, keep: Collection[int] = ()
    ) -> None:
        """What this member holds is due at once; it may still come back for what nobody has got.

        `counted`: as an attempt, for it may be what has brought the member down. `keep`: tags of
        leases that it has still.
        """
        for run in self._leases.owned(owner):
            if run.tag in keep:
                continue
            if counted:
                self._leases.move(run, min(run.due, now))
            else:
                left = run.left.copy()
                for lo, hi in left:
                    self._leases.take_out(run, lo, hi)
                self._offer(left, run, now, counted=False)

    def release_others(self, owners: Collection[Hashable], now: float) -> None:
        """What members other than these hold is due at once, and theirs no longer."""
        for run in list(self._leases.runs.values()):
            if run.owner is not None and run.owner not in owners:
                left = run.left.copy()
                for lo, hi in left:
                    self._leases.take_out(run, lo, hi)
                self._offer(left, run, min(run.due, now), counted=True)

    def resume(self, tag: int, ranges: Ranges, last_seq: int, now: float, hold: Hold) -> Ranges:
        """A member comes again and names what it still has of a lease: that much goes on.

        The rest of the lease is due at once. A lease from before the node was started is given
        back where its messages are open.
        """
        run = self._leases.runs.get(tag)
        wanted = RangeSet(ranges)
        if run is not None:
            if run.owner != hold.owner:
                return ()
            kept = run.left & wanted
            rest = run.left - wanted
            for lo, hi in rest:
                self._leases.take_out(run, lo, hi)
            self._offer(rest, run, now, counted=True)
            if kept:
                self._leases.move(run, now + hold.seconds)
            return kept.to_tuple()
        if not 0 < tag <= self._first_tag or hold.seconds <= 0:
            return ()
        kept = wanted & tuple(self._taken.gaps(1, last_seq + 1))
        if not kept:
            return ()
        count = 1
        for lo, hi in kept:
            self._taken.add(lo, hi)
            count = max([count, *(self._counts[seq] for seq in within(lo, hi, self._counts))])
        due = now + hold.seconds
        self._leases.add_run(Run(kept, hold.owner, due, count, hold.attempts, tag, now))
        return kept.to_tuple()

    def revive(self, ranges: Ranges = ()) -> Ranges:
        """Open dead messages again (without `ranges` all), as if never delivered; return which."""
        revived = self.dead & ranges if ranges else self.dead.copy()
        self.moves += 1
        for lo, hi in revived:
            self._reopen(lo, hi)
            self._forget_counts(lo, hi)
        return revived.to_tuple()

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
        return self._handed_out(seq, count, now, terms, None)

    def _next_due(self, now: float, terms: Terms | None) -> Delivery | None:
        while (first := self._leases.first()) is not None and first[1].due <= now:
            seq, before = first
            if before.spent:
                self._die(seq, before)
                continue
            if isinstance(before, Run):
                self._leases.take_out(before, seq, seq + 1)
                before = Pending(
                    before.due, before.count, before.attempts, before.tag, before.since
                )
            else:
                del self._leases.pending[seq]
            self.redelivered += 1
            self._count(seq, before.count + 1)
            return self._handed_out(seq, before.count + 1, now, terms, before)
        return None

    def _handed_out(
        self, seq: int, count: int, now: float, terms: Terms | None, before: Pending | None
    ) -> Delivery:
        if terms is None:
            self._mark_done(seq, seq + 1)
            return Delivery(seq, 0, count, before)
        tag = self._new_tag()
        attempts = terms.redeliveries + 1 if terms.redeliveries else 0
        self._leases.add(seq, Pending(now + terms.seconds, count, attempts, tag, now))
        return Delivery(seq, tag, count, before)

    def _offer(self, left: RangeSet, before: Pending, due: float, *, counted: bool) -> None:
        """These messages, which are in no lease any more, are offered again at `due`."""
        count = before.count - (not counted)
        if not counted and before.count > 1:
            for lo, hi in left:
                for seq in range(lo, hi):
                    self._count(seq, count)
        if left:
            tag = self._new_tag()
            self._leases.add_run(Run(left, None, due, count, before.attempts, tag, before.since))

    def _leave(self, tag: int, lo: int, hi: int) -> None:
        """These messages, which are pending under this tag, are no longer."""
        run = self._leases.runs.get(tag)
        if run is not None:
            self._leases.take_out(run, lo, hi)
        else:
            self._leases.drop(lo, hi)

    def _die(self, seq: int, spent: Pending) -> None:
        """It is due and was delivered as often as allowed; of a run, all of it."""
        if isinstance(spent, Run):
            for lo, hi in list(spent.left):
                self._leases.take_out(spent, lo, hi)
                self._mark_dead(lo, hi)
        else:
            del self._leases.pending[seq]
            self._mark_dead(seq, seq + 1)

    def _sure(self, lo: int, hi: int) -> Ranges:
        """What was acknowledged for the time being is acknowledged."""
        found = RangeSet(part for run in self._settling for part in run.left.within(lo, hi))
        self._settled_for_good(lo, hi)
        return found.to_tuple()

    def _settled_for_good(self, lo: int, hi: int) -> None:
        """What becomes of these messages is no longer said by what they were settled with."""
        for run in self._settling:
            run.left.remove(lo, hi)

    def _new_tag(self) -> int:
        self._tag += 1
        return self._tag

    def _count(self, seq: int, count: int) -> None:
        """Remember how often a message was delivered; the first time is not worth a note."""
        if count > 1:
            self._counts[seq] = self._new_counts[seq] = count
        elif self._counts:
            self._counts.pop(seq, None)
            self._new_counts.pop(seq, None)

    def _forget_counts(self, lo: int, hi: int) -> None:
        if self._counts:
            for seq in within(lo, hi, self._counts):
                self._count(seq, 0)

    def _mark_done(self, lo: int, hi: int) -> None:
        self.done.add(lo, hi)
        self._new_done.add(lo, hi)

    def _mark_dead(self, lo: int, hi: int) -> None:
        self.dead.add(lo, hi)
        self._new_dead.add(lo, hi)

    def _reopen(self, lo: int, hi: int) -> None:
        for marks in (self.done, self.acked, self.dead, self._taken):
            marks.remove(lo, hi)
        for marks in (self._new_done, self._new_dead):
            marks.remove(lo, hi)
        self._leases.drop(lo, hi)
        self._settled_for_good(lo, hi)
        self._settled_seq = min(self._settled_seq, lo)


def _stale(lo: int, hi: int) -> StaleLease:
    what = f"message {lo}" if hi == lo + 1 else f"messages {lo} to {hi - 1}"
    return StaleLease(
        f"the lease of {what} (by seq) has ended",
        hint="they are offered again; ask for longer leases, or extend them while you work",
    )


def unacknowledged(pairs: Iterable[tuple[int, int]], acked: RangeSet) -> Iterator[int]:
    """The ids of (id, seq) pairs whose message is not acknowledged."""
    return (id for id, seq in pairs if not acked.contains(seq))
