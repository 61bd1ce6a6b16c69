"""What clients say about what they hold: acknowledged, refused, needed longer, or settled.

Leases belong to the session and channel of a member, not to its connection: when that breaks they
wait a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from beamstream import limits
from beamstream.errors import Error, RemoteProtocolError, StaleLease, TooMany
from beamstream.server.groups import GroupStream
from beamstream.server.settling import Claim, Settling, count_acks, stale
from beamstream.server.streams import View
from beamstream.server.subscriptions_desk import Desk, Hall, Timer
from beamstream.server.subscriptions_groups import GroupCalls
from beamstream.server.subscriptions_members import Answer, Member, Outlet, Owner
from beamstream.store import catalog as ops
from beamstream.store.ranges import RangeSet
from beamstream.wire.native.frames import Ack, Extend, Nack, Settle


class Lost:
    """What a member left behind whose connection broke, until it comes again or is given up."""

    def __init__(self, member: Member, groups: list[tuple[View, GroupStream]]) -> None:
        self.member = member
        self.group = member.group
        self.private = member.private
        self.groups = groups
        self.timer: Timer | None = None


class _Acks:
    """Acknowledgements of one turn of the loop, of one group in one stream."""

    def __init__(self) -> None:
        self.ranges = RangeSet()
        self.answers: list[Answer] = []


class Holdings(GroupCalls):
    """The members of a node, and what they hold."""

    def __init__(self, hall: Hall) -> None:
        super().__init__(hall)
        self._members: dict[Outlet, dict[int, Member]] = {}
        self._owners: dict[Owner, Member] = {}
        self._lost: dict[Owner, Lost] = {}
        self._acks: dict[Desk, _Acks] = {}
        hall.deliveries.before.append(self._flush)

    def ack(self, outlet: Outlet, frame: Ack, answer: Answer) -> None:
        """Acknowledge ranges of a lease; answered when it is safe, `StaleLease` at once."""
        desk = self._desk(outlet, frame.channel, frame.ref)
        if desk is None:
            answer(None)
            return
        if len(frame.ranges) > limits.NATIVE_BATCH_MAX:
            raise RemoteProtocolError(f"an acknowledgement of {len(frame.ranges)} ranges")
        refused: Error | None = None
        acks = self._acks.get(desk)
        if acks is None:
            if not self._acks:
                self.hall.turns.call_soon(self._flush)
            acks = self._acks[desk] = _Acks()
        new = RangeSet()
        for lo, hi in frame.ranges:
            try:
                for start, end in desk.group.acknowledge_range(frame.tag, lo, hi):
                    new.add(start, end)
                    acks.ranges.add(start, end)
            except StaleLease as error:
                refused = stale(error, desk)
        count_acks(self.hall, outlet.who, desk, new)
        if refused is not None:
            answer(refused)
        else:
            acks.answers.append(answer)
        desk.settled()
        if desk.view.finished:
            desk.wake()

    def settle(self, outlet: Outlet, settles: Sequence[Settle]) -> Settling:
        """Settle messages together with what was made of them, in the unit that stores that.

        The connection may be gone: what it left behind can be settled until others have got it.

        Raises
        ------
        StaleLease : a lease has ended, or its subscription. Nothing has changed.
        TooMany : more ranges than a frame may have.
        """
        if sum(len(settle.ranges) for settle in settles) > limits.NATIVE_BATCH_MAX:
            raise TooMany(f"more than {limits.NATIVE_BATCH_MAX} ranges are settled at once")
        claims = [
            Claim(self._told(outlet, one.reader, one.ref), one.tag, one.ranges, one.dead)
            for one in settles
        ]
        return Settling(self.hall, outlet.who, claims, self._owners.__contains__)

    def _told(self, outlet: Outlet, channel: int, ref: int) -> Desk:
        """The desk by the number that was told to a connection, which may be gone since."""
        owner = (outlet.session, channel)
        member, lost = self._owners.get(owner), self._lost.get(owner)
        known = [member, member.before if member is not None else None]
        known.append(lost.member if lost is not None else None)
        for one in known:
            if one is not None and one.outlet is outlet and ref in one.told:
                return one.told[ref]
        raise StaleLease(
            f"channel {channel} has no stream with the number {ref}: its leases have ended",
            hint="its messages are offered again; subscribe again",
        )

    def nack(self, outlet: Outlet, frame: Nack, answer: Answer) -> None:
        """Offer ranges of a lease again after a delay."""
        desk = self._desk(outlet, frame.channel, frame.ref)
        if desk is None:
            answer(None)
            return
        if len(frame.ranges) > limits.NATIVE_BATCH_MAX:
            raise RemoteProtocolError(f"a negative acknowledgement of {len(frame.ranges)} ranges")
        delay_s = min(max(frame.delay_s, 0.0), limits.LEASE_SECONDS_MAX)
        try:
            desk.group.refuse_range(
                frame.tag, frame.ranges, self.hall.clock(), delay_s, counted=frame.counted
            )
        except StaleLease as error:
            answer(stale(error, desk))
            return
        desk.touch()
        desk.view.wake()
        answer(None)

    def extend(self, outlet: Outlet, frame: Extend) -> None:
        """A lease ends later than was said."""
        desk = self._desk(outlet, frame.channel, frame.ref)
        lease_s = min(max(frame.lease_s, 0.0), limits.LEASE_SECONDS_MAX)
        if desk is not None:
            desk.group.extend(frame.tag, self.hall.clock() + lease_s)

    def _desk(self, outlet: Outlet, channel: int, ref: int) -> Desk | None:
        """Where a stream of a subscription is read; None if that has ended.

        Nothing was leased when it ended: what still comes is said for the second time.
        """
        member = self._members.get(outlet, {}).get(channel)
        if member is None:
            return None
        if not 0 <= ref < member.next_ref:
            raise RemoteProtocolError(f"channel {channel} has no stream with the number {ref}")
        return member.desks.get(ref)

    def _flush(self) -> None:
        """Write the acknowledgements of one turn: one operation for each group and stream."""
        waiting, self._acks = self._acks, {}
        for desk, acks in waiting.items():
            view = desk.view
            batch: list[ops.Ack] = []
            if acks.ranges and not (desk.private or view.gone or view.deleting):
                ranges, now_ns = acks.ranges.to_tuple(), self.hall.wall_ns()
                batch = [ops.Ack(desk.name, view.source, view.name, ranges, now_ns=now_ns)]
            if desk.private:
                _answer_all(acks.answers, None)
            else:
                self._write(view.beamtime, batch, acks.answers)

    def _write(self, beamtime: str, batch: list[ops.Ack], answers: list[Answer]) -> None:
        self.hall.deliveries.submit_safe(beamtime, batch, lambda error: _answer_all(answers, error))


def _answer_all(answers: Iterable[Answer], error: Error | None) -> None:
    for answer in answers:
        answer(error)
