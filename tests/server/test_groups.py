"""Groups against a plain model."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest
from group_states import saved, state_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamstream.errors import StaleLease
from beamstream.server.groups import (
    NEVER,
    Delivery,
    GroupStream,
    Hold,
    Lease,
    Terms,
    unacknowledged,
)
from beamstream.server.leases import Run
from beamstream.store.ranges import RangeSet

TERMS = Terms(10.0, 1)
OWNERS = st.sampled_from(["a", "b"])
HOLDS = st.builds(Hold, OWNERS, st.integers(0, 4).map(float), st.integers(0, 3))


class Message:
    """One message in the model: a word for its state, and what a lease needs."""

    def __init__(self) -> None:
        self.state = "open"
        self.count = 0
        self.due, self.limit, self.tag = 0.0, 0, 0
        self.owner = ""

    @property
    def spent(self) -> bool:
        """`limit` counts attempts; 0: none."""
        return 0 < self.limit <= self.count

    def marked(self, state: str) -> None:
        self.state, self.tag, self.owner = state, 0, ""

    def forgotten(self) -> None:
        """The node starts again."""
        if self.state == "leased":
            self.marked("open")
        if self.count < 2:
            self.count = 0


class AgainstADict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.group = GroupStream()
        self.messages: dict[int, Message] = {}
        self.early: set[int] = set()
        self.now = 0.0
        self.tags = 0
        self.deliveries: list[tuple[Delivery, Message]] = []
        self.last: Delivery | None = None
        self.written: dict[int, str] = {}
        self.leases: list[Lease] = []
        self.old_leases: list[Lease] = []
        """Of before the node was started."""
        self.settling: list[tuple[list[Run], dict[int, Message], bool]] = []
        """What was settled and is not stored: seq -> what it was; whether it is dead."""

    # ------------------------------------------------------------------ handing out

    def lease(self, message: Message, due: float, limit: int) -> None:
        self.tags = self.group._tag
        message.marked("leased")
        message.due, message.limit, message.tag = due, limit, self.tags

    def handed_out(self, seq: int, got: Delivery | None, terms: Terms | None) -> None:
        message = self.messages[seq]
        before = copy.copy(message)
        message.count += 1
        if terms is None:
            message.marked("done")
        else:
            attempts = terms.redeliveries + 1 if terms.redeliveries else 0
            self.lease(message, self.now + terms.seconds, attempts)
        assert got is not None
        assert (got.seq, got.count, bool(got.tag)) == (seq, message.count, terms is not None)
        self.deliveries.append((got, before))
        self.last = got

    @rule(terms=st.none() | st.builds(Terms, st.integers(1, 4).map(float), st.integers(0, 2)))
    def next(self, terms: Terms | None) -> None:
        got = self.group.next(self.now, len(self.messages), terms)
        self.last = None
        for seq in self.waiting():
            message = self.messages[seq]
            if not message.spent:
                self.handed_out(seq, got, terms)
                return
            message.marked("dead")
        for seq, message in sorted(self.messages.items()):
            if message.state == "open":
                self.handed_out(seq, got, terms)
                return
        assert got is None

    def waiting(self) -> list[int]:
        """What is due again, in the order in which it is offered."""
        due = sorted(
            (message.due, message.tag, seq)
            for seq, message in self.messages.items()
            if message.state == "leased" and message.due <= self.now
        )
        return [seq for _, _, seq in due]

    def leased(self, lease: Lease, hold: Hold) -> None:
        """Compare a lease with the model, and do it there."""
        assert lease.lo < lease.hi
        for seq in range(lease.lo, lease.hi):
            message = self.messages[seq]
            message.count += 1
            assert message.count == lease.count
            if hold.seconds:
                message.marked("leased")
                message.due, message.limit = self.now + hold.seconds, hold.attempts
                message.tag, message.owner = lease.tag, str(hold.owner)
            else:
                message.marked("done")
        if hold.seconds:
            assert lease.tag == self.group._tag
            self.leases.append(lease)
        self.last = None

    @rule(hold=HOLDS, lo=st.integers(1, 6), count=st.integers(1, 5))
    def lease_open(self, hold: Hold, lo: int, count: int) -> None:
        """The first open stretch from somewhere on."""
        found = self.group.first_open(lo, len(self.messages) + 1)
        opened = [seq for seq in range(lo, len(self.messages) + 1) if self.is_open(seq)]
        assert (found and found[0]) == (opened[0] if opened else None)
        if found is None:
            return
        start, end = found[0], min(found[1], found[0] + count)
        assert all(self.is_open(seq) for seq in range(start, end))
        lease = self.group.lease(start, end, self.now, hold)
        before = self.messages[start].count
        if lease is None:
            assert 0 < hold.attempts <= before
            for seq in range(start, end):
                if self.group.dead.contains(seq):
                    self.messages[seq].marked("dead")
            assert self.messages[start].state == "dead"
            return
        assert lease.lo == start
        assert lease.hi == end or self.messages[lease.hi].count != before
        self.leased(lease, hold)

    def is_open(self, seq: int) -> bool:
        return self.messages[seq].state == "open"

    @rule(hold=HOLDS, count=st.integers(1, 5))
    def lease_due(self, hold: Hold, count: int) -> None:
        found = self.group.first_due(self.now)
        waiting = self.waiting()
        while waiting and self.messages[waiting[0]].spent:
            self.messages[waiting.pop(0)].marked("dead")
        assert (found and found[0]) == (waiting[0] if waiting else None)
        if found is None:
            return
        lease = self.group.lease_due(min(found[1], found[0] + count), self.now, hold)
        assert lease.lo == found[0]
        self.leased(lease, hold)

    @precondition(lambda self: self.leases or self.old_leases)
    @rule(data=st.data())
    def acknowledge_range(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases + self.old_leases))
        lo = data.draw(st.integers(lease.lo, lease.hi - 1))
        hi = data.draw(st.integers(lo + 1, lease.hi))
        states = [self.messages[seq] for seq in range(lo, hi)]
        mine = [message.state == "leased" and message.tag == lease.tag for message in states]
        good = all(
            own or message.state == "acknowledged"
            for own, message in zip(mine, states, strict=True)
        )
        self.last = None
        try:
            new = self.group.acknowledge_range(lease.tag, lo, hi)
        except StaleLease:
            assert not good
            return
        assert good
        unsure = {seq for _, before, _ in self.settling for seq in before}
        fresh = [s for s, own in zip(range(lo, hi), mine, strict=True) if own or s in unsure]
        assert sorted(seq for start, end in new for seq in range(start, end)) == fresh
        self.opened_again(fresh)
        for seq in fresh:
            self.messages[seq].marked("acknowledged")
            self.messages[seq].count = 0
            self.written[seq] = "acknowledged"

    @precondition(lambda self: self.leases or self.old_leases)
    @rule(data=st.data(), dead=st.booleans())
    def settle(self, data: st.DataObject, dead: bool) -> None:
        """Acknowledge or give up together with results that are not stored yet."""
        lease = data.draw(st.sampled_from(self.leases + self.old_leases))
        lo = data.draw(st.integers(lease.lo, lease.hi - 1))
        hi = data.draw(st.integers(lo + 1, lease.hi))
        states = {seq: self.messages[seq] for seq in range(lo, hi)}
        mine = {s: m for s, m in states.items() if m.state == "leased" and m.tag == lease.tag}
        fine = {"acknowledged", "dead"} if dead else {"acknowledged"}
        good = all(seq in mine or m.state in fine for seq, m in states.items())
        self.last = None
        try:
            self.group.check_held(lease.tag, lo, hi, dead=dead)
        except StaleLease:
            assert not good
            return
        assert good
        taken = self.group.settle(lease.tag, lo, hi, dead=dead)
        assert {s for run in taken for a, b in run.left for s in range(a, b)} == set(mine)
        self.settling.append((taken, {s: copy.copy(m) for s, m in mine.items()}, dead))
        for message in mine.values():
            message.marked("dead" if dead else "acknowledged")
            message.count = message.count if dead else 0

    def opened_again(self, seqs: Iterable[int]) -> None:
        """What is said now of these messages is the last word."""
        for _, before, _ in self.settling:
            for seq in seqs:
                before.pop(seq, None)

    @precondition(lambda self: self.settling)
    @rule(data=st.data())
    def settled_is_stored(self, data: st.DataObject) -> None:
        taken, before, dead = self.settling.pop(data.draw(st.integers(0, len(self.settling) - 1)))
        self.group.store(taken)
        for seq in before:
            self.written[seq] = "dead" if dead else "acknowledged"
        self.last = None

    @precondition(lambda self: self.settling)
    @rule(data=st.data(), gone=st.booleans())
    def settled_is_refused(self, data: st.DataObject, gone: bool) -> None:
        taken, before, _ = self.settling.pop(data.draw(st.integers(0, len(self.settling) - 1)))
        rest = {m.tag: m for m in self.messages.values() if m.state == "leased" and m.owner}
        self.group.restore(taken, self.now, gone=gone)
        for seq, message in before.items():
            self.messages[seq] = message
            if gone:
                found = self.group._leases.find(seq)
                assert found is not None
                self.offered(range(seq, seq + 1), self.now, found.tag, counted=True)
            elif message.tag in rest:
                assert message.owner == rest[message.tag].owner
                message.due = rest[message.tag].due
        self.last = None

    @rule(owners=st.sets(OWNERS))
    def release_others(self, owners: set[str]) -> None:
        self.group.release_others(owners, self.now)
        for seq, message in self.messages.items():
            if message.state == "leased" and message.owner and message.owner not in owners:
                found = self.group._leases.find(seq)
                assert found is not None
                due = min(message.due, self.now)
                self.offered(range(seq, seq + 1), due, found.tag, counted=True)
        self.last = None

    @rule(hold=HOLDS, data=st.data())
    def lease_any_due(self, hold: Hold, data: st.DataObject) -> None:
        """Of all that is due again, not the first."""
        ranges = self.group.due_ranges(self.now)
        waiting = self.waiting()
        if waiting:
            for seq in waiting:
                if self.messages[seq].spent:
                    self.messages[seq].marked("dead")
        due = sorted(seq for seq in waiting if self.messages[seq].state == "leased")
        assert [seq for lo, hi in ranges for seq in range(lo, hi)] == due
        later = [m.due for m in self.messages.values() if m.state == "leased" and m.due > self.now]
        assert self.group.due_after(self.now) == min(later, default=NEVER)
        if ranges:
            lo, end = data.draw(st.sampled_from(ranges))
            lo = data.draw(st.integers(lo, end - 1))
            lease = self.group.lease_due(data.draw(st.integers(lo + 1, end)), self.now, hold, lo)
            assert lease.lo == lo
            self.leased(lease, hold)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), delay=st.integers(0, 3), counted=st.booleans())
    def refuse_range(self, data: st.DataObject, delay: int, counted: bool) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        lo = data.draw(st.integers(lease.lo, lease.hi - 1))
        hi = data.draw(st.integers(lo + 1, lease.hi))
        messages = [self.messages[seq] for seq in range(lo, hi)]
        mine = all(m.state == "leased" and m.tag == lease.tag for m in messages)
        tag = self.group._tag
        self.last = None
        try:
            self.group.refuse_range(lease.tag, ((lo, hi),), self.now, delay, counted=counted)
        except StaleLease:
            assert not mine
            return
        assert mine
        self.offered(range(lo, hi), self.now + delay, tag + 1, counted=counted)

    def offered(self, seqs: range, due: float, tag: int, *, counted: bool) -> None:
        for seq in seqs:
            message = self.messages[seq]
            limit = message.limit
            message.count -= not counted
            message.marked("leased")
            message.due, message.limit, message.tag = due, limit, tag

    @rule(owner=OWNERS, counted=st.booleans())
    def release(self, owner: str, counted: bool) -> None:
        held = [s for s, m in self.messages.items() if m.state == "leased" and m.owner == owner]
        self.group.release(owner, self.now, counted=counted)
        for seq in held:
            message = self.messages[seq]
            if counted:
                message.due = min(message.due, self.now)
            else:
                found = self.group._leases.find(seq)
                self.offered(
                    range(seq, seq + 1), self.now, found.tag if found else 0, counted=False
                )
        self.last = None

    @precondition(lambda self: self.leases or self.old_leases)
    @rule(data=st.data(), owner=OWNERS)
    def resume(self, data: st.DataObject, owner: str) -> None:
        """A member names what it holds: it gets what is still its own, and loses the rest."""
        lease = data.draw(st.sampled_from(self.leases + self.old_leases))
        lo = data.draw(st.integers(lease.lo, lease.hi - 1))
        hi = data.draw(st.integers(lo + 1, lease.hi))
        hold = Hold(owner, 5.0, 0)
        holders = {
            seq: m.owner
            for seq, m in self.messages.items()
            if m.state == "leased" and m.tag == lease.tag and m.owner
        }
        kept = self.group.resume(lease.tag, ((lo, hi),), len(self.messages), self.now, hold)
        named = [seq for start, end in kept for seq in range(start, end)]
        self.last = None
        if holders:
            if owner not in holders.values():
                assert not named
                return
            assert named == [seq for seq in sorted(holders) if lo <= seq < hi]
            for seq in holders:
                if seq in named:
                    self.messages[seq].due = self.now + 5.0
                else:
                    found = self.group._leases.find(seq)
                    assert found is not None
                    self.offered(range(seq, seq + 1), self.now, found.tag, counted=True)
        elif lease in self.old_leases:
            assert named == [seq for seq in range(lo, hi) if self.is_open(seq)]
            most = max([1, *(self.messages[seq].count for seq in named)])
            for seq in named:
                message = self.messages[seq]
                message.marked("leased")
                message.due, message.limit, message.tag = self.now + 5.0, 0, lease.tag
                message.owner, message.count = owner, most
        else:
            assert not named

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held = [m for m in self.messages.values() if m.tag == lease.tag and m.owner]
        assert self.group.extend(lease.tag, self.now + 7.0) == bool(held)
        for message in held:
            message.due = self.now + 7.0

    @rule()
    def revive(self) -> None:
        dead = [seq for seq, message in self.messages.items() if message.state == "dead"]
        self.opened_again(dead)
        revived = [seq for lo, hi in self.group.revive() for seq in range(lo, hi)]
        assert revived == sorted(dead)
        for seq in dead:
            self.messages[seq].marked("open")
            self.messages[seq].count = 0
            self.written.pop(seq, None)
        self.last = None

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        hi = data.draw(st.integers(1, len(self.messages) + 1))
        self.group.abandon(1, hi, self.now)
        for seq in range(1, hi):
            message = self.messages[seq]
            if message.state == "open" or (message.state == "leased" and message.due <= self.now):
                message.marked("done")
        self.last = None

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), terms=st.none() | st.just(TERMS))
    def take(self, data: st.DataObject, terms: Terms | None) -> None:
        seq = data.draw(st.sampled_from(sorted(self.messages)))
        got = self.group.take(seq, self.now, terms)
        if self.messages[seq].state == "open":
            self.handed_out(seq, got, terms)
        else:
            assert got is None

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """Of what was handed out without a lease only the last: at once, when the peer has gone."""
        delivery, before = data.draw(st.sampled_from(self.deliveries))
        if not delivery.tag and delivery is not self.last:
            return
        message = self.messages[delivery.seq]
        current = message.tag == delivery.tag if delivery.tag else message.state == "done"
        drained = not delivery.tag and self.written.get(delivery.seq) == "done"
        assert self.group.give_back(delivery) == (current and drained)
        if current:
            self.messages[delivery.seq] = copy.copy(before)
            if drained:
                del self.written[delivery.seq]
        self.last = None

    # ------------------------------------------------------------------ what members say

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.messages)))
        message = self.messages[seq]
        self.last = None
        if not self.group.acknowledge(seq):
            assert message.state == "acknowledged"
            return
        assert message.state != "acknowledged"
        self.opened_again([seq])
        message.marked("acknowledged")
        message.count = 0
        self.written[seq] = "acknowledged"

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), delay=st.integers(0, 3))
    def refuse(self, data: st.DataObject, delay: int) -> None:
        seq = data.draw(st.sampled_from(sorted(self.messages)))
        message = self.messages[seq]
        self.group.refuse(seq, self.now + delay)
        self.opened_again([seq])
        if message.state != "open":
            message.count = max(message.count, 1 if message.tag == 0 else 0)
        self.lease(message, self.now + delay, message.count + 1)
        self.written.pop(seq, None)
        self.last = None

    @rule(id=st.integers(0, 12))
    def seek(self, id: int) -> None:
        """Ids and seqs are the same here."""
        end = len(self.messages) + 1
        border = min(id + 1, end)
        self.group.drain()
        self.group.seek(id, ((1, border),), ((border, end),))
        self.opened_again(self.messages)
        for seq, message in self.messages.items():
            if seq > id:
                message.marked("open")
                message.count = 0
            elif message.state == "open":
                message.marked("done")
            self.written.pop(seq, None)
            if message.state not in ("open", "leased"):
                self.written[seq] = message.state
        self.early = {early for early in self.early if early <= id}
        assert self.group.id_position == id
        self.last = None

    # ------------------------------------------------------------------ time and messages

    @rule(hours=st.integers(0, 5))
    def time_passes(self, hours: int) -> None:
        self.now += hours

    @precondition(lambda self: len(self.messages) < 12)
    @rule(early=st.booleans())
    def arrives(self, early: bool) -> None:
        seq = len(self.messages) + 1
        message = self.messages[seq] = Message()
        if early or seq in self.early:
            self.group.early_acks.add(seq)
            self.early.discard(seq)
            message.marked("acknowledged")
            self.written[seq] = "acknowledged"
        self.group.arrived(seq, seq)

    @rule(ahead=st.integers(1, 3))
    def early_acknowledgement(self, ahead: int) -> None:
        self.group.early_acks.add(len(self.messages) + ahead)
        self.early.add(len(self.messages) + ahead)

    # ------------------------------------------------------------------ writing behind

    @rule()
    def write_behind(self) -> None:
        was_dirty = self.group.dirty
        done, dead, position, counts = self.group.drain()
        assert was_dirty == bool(done or dead or counts or position >= 0)
        assert not self.group.dirty
        for state, ranges in (("done", done), ("dead", dead)):
            for lo, hi in ranges:
                for seq in range(lo, hi):
                    self.written[seq] = state
        for seq, count in counts:
            assert count == self.messages[seq].count > 1

    @rule()
    def start_again(self) -> None:
        """Nothing that was not done, acknowledged or dead is skipped; nothing of these comes."""
        for taken, before, _ in self.settling:
            self.group.restore(taken, self.now)
            self.messages |= before
        self.settling.clear()
        self.write_behind()
        marks = {s: m.state for s, m in self.messages.items() if m.state not in ("open", "leased")}
        assert self.written == marks
        self.group = saved(self.group, self.group._tag)
        for message in self.messages.values():
            message.forgotten()
        self.deliveries, self.last = [], None
        self.leases, self.old_leases = [], self.leases[-20:]

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def states_are_the_same(self) -> None:
        for seq, message in self.messages.items():
            found = state_of(self.group, seq, self.now)
            assert {"due": "leased", "spent": "leased"}.get(found, found) == message.state
            assert self.group.is_open(seq) == (message.state == "open")
        assert self.group.early_acks == self.early
        assert len(self.group._leases._heap) <= 2 * len(self.messages) + 64

    @invariant()
    def due_is_the_earliest(self) -> None:
        waiting = [m.due for m in self.messages.values() if m.state == "leased"]
        assert self.group.due() == min(waiting, default=NEVER)
        assert self.group.leased() == len(waiting)
        taken = [seq for seq, m in sorted(self.messages.items()) if m.state == "open"]
        first = taken[0] if taken else len(self.messages) + 1
        assert self.group.skip_taken(1) == first
        ends = ("acknowledged", "done", "dead")
        rest = [seq for seq, m in sorted(self.messages.items()) if m.state not in ends]
        assert self.group.settled_seq() == (rest[0] if rest else len(self.messages) + 1)


AgainstADict.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True
)
TestAgainstADict = AgainstADict.TestCase


# ---------------------------------------------------------------------------- single cases


@pytest.mark.parametrize("redeliveries", [1, 2, 5])
def test_a_message_is_dead_after_so_many_deliveries(redeliveries: int) -> None:
    group = GroupStream()
    terms = Terms(1.0, redeliveries)
    counts = [
        delivery.count
        for hour in range(20)
        if (delivery := group.next(float(hour), 1, terms)) is not None
    ]
    assert counts == list(range(1, redeliveries + 2))
    assert group.dead.to_tuple() == ((1, 2),)
    assert group.drain() == ((), ((1, 2),), -1, ((1, redeliveries + 1),))


def test_zero_redeliveries_are_no_limit() -> None:
    group = GroupStream()
    for hour in range(1000):
        delivery = group.next(float(hour), 1, Terms(1.0, 0))
        assert delivery is not None
        assert delivery.count == hour + 1
    assert not group.dead


def test_attempts_are_counted_over_starts_of_the_node() -> None:
    group = GroupStream()
    counts = []
    for hour in range(20):
        delivery = group.next(float(hour), 1, Terms(1.0, 2))
        if delivery is not None:
            counts.append(delivery.count)
        if hour % 4 == 1:
            group = saved(group)
    assert counts[:3] == [1, 2, 3]
    assert len(counts) <= 6
    assert group.dead.to_tuple() == ((1, 2),)


def test_a_long_lease_keeps_nothing_else_in_memory() -> None:
    group = GroupStream()
    assert group.next(0.0, 10_000, Terms(1e6, 0)) is not None
    for _ in range(5_000):
        delivery = group.next(1.0, 10_000, Terms(1e6, 0))
        assert delivery is not None
        group.acknowledge(delivery.seq)
    assert group.leased() == 1
    assert len(group._leases._heap) < 100
    assert group.due() == 1e6


def test_only_what_is_due_again() -> None:
    group = GroupStream()
    assert group.next_due_again(0.0) is None
    group.next(0.0, 1, Terms(1.0, 0))
    again = group.next_due_again(1.0, Terms(1.0, 0))
    assert again is not None
    assert (again.seq, again.count) == (1, 2)


def test_skipped_ids_are_passed_over_and_written() -> None:
    group = GroupStream()
    group.pass_over(1, 4)
    delivery = group.next(0.0, 5)
    assert delivery is not None
    assert delivery.seq == 4
    assert group.drain()[0] == ((1, 5),)


def test_the_position_by_id_is_written_when_it_moved() -> None:
    group = GroupStream()
    assert not group.dirty
    group.move_id_position(7)
    assert group.drain() == ((), (), 7, ())
    assert group.drain() == ((), (), -1, ())
    group.last_grouped = 9
    group.seek(3, (), ())
    assert (group.id_position, group.last_grouped) == (3, 3)


def test_unacknowledged_ids() -> None:
    pairs = [(10, 1), (20, 2), (30, 3)]
    assert list(unacknowledged(pairs, RangeSet([(2, 3)]))) == [10, 30]


def test_what_was_acknowledged_meanwhile_is_neither_given_back_nor_written_as_done() -> None:
    group = GroupStream()
    delivery = group.next(0.0, 1)
    assert delivery is not None
    assert group.acknowledge(1)
    assert not group.give_back(delivery)
    assert group.acked.to_tuple() == ((1, 2),)
    assert not group.dirty
