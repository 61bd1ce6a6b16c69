"""What is settled together with what was made of it, in one unit of the catalog.

It counts as settled from the submission of that unit on, so that nobody is handed it meanwhile;
when the unit is refused, the leases go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from beamstream.errors import Error, StaleLease
from beamstream.model import Who
from beamstream.server.leases import Run
from beamstream.server.subscriptions_desk import Desk, Hall
from beamstream.store import catalog as ops
from beamstream.store.catalog import Op, State
from beamstream.store.ranges import Ranges, RangeSet


class Claim(msgspec.Struct, frozen=True, eq=False):
    """Messages of one lease that somebody wants to settle; `dead`: to give up."""

    desk: Desk
    tag: int
    ranges: Ranges
    dead: bool


class Settling:
    """Messages that are settled and not stored yet: `ops` is what is to be written with them.

    Parameters
    ----------
    claims : all of them are checked before the first is settled.
    connected : whether the owner of a lease is there.

    Raises
    ------
    StaleLease : somebody else may have got some of it. Nothing has changed.
    """

    def __init__(
        self,
        hall: Hall,
        who: Who,
        claims: Sequence[Claim],
        connected: Callable[[object], bool],
    ) -> None:
        for claim in claims:
            for lo, hi in claim.ranges:
                try:
                    claim.desk.group.check_held(claim.tag, lo, hi, dead=claim.dead)
                except StaleLease as error:
                    raise stale(error, claim.desk) from None
        self._hall = hall
        self._who = who
        self._claims = claims
        self._connected = connected
        self._taken = [(claim, self._settle(claim)) for claim in claims]
        self._desks: dict[Desk, list[Claim]] = {}
        for claim in claims:
            self._desks.setdefault(claim.desk, []).append(claim)
        for desk in self._desks:
            desk.group.users += 1
            desk.view.busy += 1
            desk.settled()
        self.ops: tuple[Op, ...] = self._ops()

    def done(self) -> None:
        """The unit is stored."""
        for claim, taken in self._taken:
            group = claim.desk.group
            group.store(taken)
            # The same may have been settled before by a unit that was refused since.
            again = [run for lo, hi in claim.ranges for run in self._settle_one(claim, lo, hi)]
            group.store(again)
            if not claim.dead:
                for run in (*taken, *again):
                    count_acks(self._hall, self._who, claim.desk, run.left)
        self._write_moved()
        self._end()

    def undo(self) -> None:
        """The unit was refused: nothing of it is settled."""
        now = self._hall.clock()
        for claim, taken in self._taken:
            for run in taken:
                gone = run.owner is not None and not self._connected(run.owner)
                claim.desk.group.restore((run,), now, gone=gone)
        self._end()
        for desk in self._desks:
            desk.touch()
            desk.view.wake()

    # ------------------------------------------------------------------ inside

    def _settle(self, claim: Claim) -> list[Run]:
        return [run for lo, hi in claim.ranges for run in self._settle_one(claim, lo, hi)]

    def _settle_one(self, claim: Claim, lo: int, hi: int) -> list[Run]:
        return claim.desk.group.settle(claim.tag, lo, hi, dead=claim.dead)

    def _ops(self) -> tuple[Op, ...]:
        """One operation for each group, stream and state."""
        found: list[Op] = []
        now_ns = self._hall.wall_ns()
        for desk, claims in self._desks.items():
            view = desk.view
            if not desk.written:
                continue
            acked, dead = _asked(claims, dead=False), _asked(claims, dead=True)
            ranges = acked.to_tuple()
            if ranges:
                found.append(ops.Ack(desk.name, view.source, view.name, ranges, now_ns=now_ns))
            if dead:
                dead -= acked
                dead -= desk.group.acked & dead
            ranges = dead.to_tuple()
            if ranges:
                found.append(
                    ops.Mark(desk.name, view.source, view.name, State.DEAD, ranges, now_ns=now_ns)
                )
        return tuple(found)

    def _write_moved(self) -> None:
        """What was opened again meanwhile stays open, though the unit says that it is settled."""
        for desk, claims in self._desks.items():
            view, group = desk.view, desk.group
            spans = [span for claim in claims for span in claim.ranges]
            opened = RangeSet(span for span in spans if not group.acked.covers(*span))
            for marks in (group.acked, group.done, group.dead) if opened else ():
                opened -= marks & opened
            if opened and desk.written:
                ranges, now_ns = opened.to_tuple(), self._hall.wall_ns()
                nack = ops.Nack(desk.name, view.source, view.name, ranges, now_ns=now_ns)
                self._hall.deliveries.submit_safe(view.beamtime, [nack], _no_answer)

    def _end(self) -> None:
        for desk in self._desks:
            desk.group.users -= 1
            desk.view.busy -= 1
            desk.settled()
            if desk.view.finished:
                desk.view.wake()


def count_acks(hall: Hall, who: Who, desk: Desk, ranges: RangeSet) -> None:
    """Note how long messages that are acknowledged now were under way."""
    view = desk.view
    first = next(iter(ranges), None)
    arrived_ns = hall.streams.arrived_ns(view, first[0]) if first is not None else 0
    if arrived_ns:
        delay_ns = hall.wall_ns() - arrived_ns
        hall.stats.acknowledged(view.beamtime, view.source, desk.name, who, delay_ns, len(ranges))


def _asked(claims: Sequence[Claim], *, dead: bool) -> RangeSet:
    return RangeSet(span for claim in claims if claim.dead == dead for span in claim.ranges)


def stale(error: StaleLease, desk: Desk) -> StaleLease:
    """The same error, saying which stream and group it is about."""
    return StaleLease(
        f"{error.message} in stream {desk.view.name!r} for group {desk.name!r}", hint=error.hint
    )


def _no_answer(error: Error | None) -> None:
    """What is settled in the catalog and open here is settled after the next start."""
