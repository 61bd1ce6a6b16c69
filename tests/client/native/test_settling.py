"""Leases that are settled with what is made of them, whatever becomes of connections. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.asking import SETTLES_MAX, Asked
from beamstream.client.native.incoming import Incoming
from beamstream.client.native.origins import Held, Origin, check_held, check_ranges
from beamstream.client.native.outgoing import Outgoing, Run
from beamstream.client.native.session import Session, nobody
from beamstream.errors import BadInput, IdConflict, StaleLease, StreamFinished
from beamstream.wire.native import calls, frames
from beamstream.wire.native.batches import Batch
from beamstream.wire.native.frames import (
    Ack,
    Call,
    CallFailed,
    Deliver,
    End,
    Failed,
    Hello,
    Nack,
    OpenWriter,
    Put,
    Receipt,
    Reply,
    Settle,
    StreamOpened,
    Subscribe,
    Unsubscribe,
    Welcome,
)
from beamstream.wire.native.framing import HEAD_NBYTES, unpack_head

HELLO = Hello("beamstream", 1, "token", "demo", bytes(16))
WELCOME = Welcome(1, 1, 1, "x", "demo", ("read", "write"), 2, 1 << 20, 100)
EMPTY = memoryview(b"")


def sent(made: Session, now: float = 0.0) -> list[Any]:
    """All frames that the session has to send."""
    found = []
    while (buffers := made.take(now)) is not None:
        data = b"".join(map(bytes, buffers))
        while data:
            kind, header, body = unpack_head(data)
            found.append(frames.decode(kind, data[HEAD_NBYTES : HEAD_NBYTES + header]))
            data = data[HEAD_NBYTES + header + body :]
    return found


class Side:
    """A session with one writer and one reader, whose frames are played."""

    def __init__(self, **asked: Any) -> None:
        self.session = Session(HELLO, nobody)
        self.now = 0.0
        self.connect()
        self.out: Outgoing = self.session.open_writer(OpenWriter(0, "s", "out", bytes(16)), nobody)
        self.reader: Incoming = self.session.open_reader(
            Subscribe(0, "s", "in", "g", lease_s=60.0, **asked),
            nobody,
            0.0,
            messages=1000,
            nbytes=10_000,
        )
        self.channel = self.reader.asked.channel
        self.frames()

    def connect(self) -> None:
        self.session.connected()
        assert self.frames() == [HELLO]
        self.session.receive(WELCOME, EMPTY, self.now)

    def frames(self) -> list[Any]:
        return sent(self.session, self.now)

    def say(self, frame: Any, body: bytes = b"") -> None:
        self.session.receive(frame, memoryview(body), self.now)

    def open(self, ref: int = 0, stream: str = "in", held: Sequence[frames.Held] = ()) -> None:
        self.say(StreamOpened(self.channel, ref, "s", stream, tuple(held)))

    def deliver(self, seq: int, count: int = 1, *, tag: int = 1, ref: int = 0) -> Arrived:
        batch = Batch(count, seq, seq, (1,) * count, bytes(16 * count), 0)
        self.say(Deliver(self.channel, ref, tag, batch), bytes(count))
        arrived = self.reader.next(self.now)
        assert isinstance(arrived, Arrived)
        return arrived

    def held(self, arrived: Arrived, lo: int = 0, hi: int | None = None) -> Held:
        assert arrived.lease is not None
        return Held(self.reader, arrived.lease, arrived.spans(lo, hi))

    def publish(self, *held: Held, seq: int = 1) -> Run:
        made = Origin(1, "s", "in", (seq,), settles=held)
        put = Put(0, 0, 1, (1,), xxhash.xxh3_128_digest(b"r"), made=made.made(1))
        return self.out.add_run(put, [b"r"], 1, held)

    def settle(self, *held: Held) -> Asked:
        params = calls.Skip(source="s", stream="out", ranges=((1, 2),))
        return self.session.ask(params, nobody, held=held)

    def left(self) -> set[int]:
        """Seqs that the client would name as held."""
        return {
            seq
            for lease in self.reader._leases.values()
            for lo, hi in lease.left
            for seq in range(lo, hi)
        }


def puts(found: list[Any]) -> list[Put]:
    return [frame for frame in found if isinstance(frame, Put)]


def settles(found: list[Any]) -> list[tuple[Settle, ...]]:
    skips = [frame for frame in found if isinstance(frame, Call) and frame.method == "skip"]
    params = [calls.decode_params("skip", frame.params) for frame in skips]
    return [one.settles for one in params if isinstance(one, calls.Skip)]


# ---------------------------------------------------------------------------- one connection


def test_a_put_names_what_is_settled_with_it_and_the_receipt_ends_the_lease() -> None:
    side = Side()
    side.open(ref=3)
    arrived = side.deliver(5, 4, tag=7, ref=3)
    run = side.publish(side.held(arrived, 0, 1), side.held(arrived, 1, 2), seq=5)
    [put] = puts(side.frames())
    assert put.made is not None
    assert put.made.settles == (Settle(side.channel, 3, 7, ((5, 7),)),)
    assert (put.made.run, put.made.source, put.made.stream, put.made.seqs) == (1, "s", "in", (5,))
    assert side.left() == {5, 6, 7, 8}
    side.say(Receipt(put.channel, put.sequence, 1, 2, 1))
    assert run.whole is not None
    assert side.left() == {7, 8}
    assert not side.reader.settlings


def test_dead_ones_are_named_apart() -> None:
    side = Side()
    side.open()
    arrived = side.deliver(1, 3)
    side.publish(side.held(arrived, 0, 1).dead(), side.held(arrived, 1, 3))
    [put] = puts(side.frames())
    assert put.made is not None
    assert put.made.settles == (
        Settle(side.channel, 0, 1, ((1, 2),), True),
        Settle(side.channel, 0, 1, ((2, 4),)),
    )


def test_what_is_refused_stays_leased() -> None:
    side = Side()
    side.open()
    arrived = side.deliver(1, 2)
    run = side.publish(side.held(arrived))
    [put] = puts(side.frames())
    side.say(Failed(put.channel, put.sequence, 1, "E401", "1 has other content"))
    assert run.whole is not None
    assert type(run.whole.error) is IdConflict
    assert side.left() == {1, 2}
    assert arrived.lease is not None
    side.reader.give_back(arrived.lease, 1, 2, 0.5, True)
    assert Nack(side.channel, 0, 1, ((1, 2),), 0.5, True) in side.frames()


def test_a_stale_lease_is_given_up() -> None:
    side = Side()
    side.open()
    one, other = side.deliver(1, tag=1), side.deliver(2, tag=2)
    side.publish(side.held(one), side.held(other))
    [put] = puts(side.frames())
    side.say(Failed(put.channel, put.sequence, 1, "E405", "the lease has ended"))
    # One of the two was good: the node is told at once that it may offer it again.
    nacks = [frame for frame in side.frames() if isinstance(frame, Nack)]
    assert {(nack.tag, nack.ranges, nack.counted) for nack in nacks} == {
        (1, ((1, 2),), False),
        (2, ((2, 3),), False),
    }
    assert side.left() == set()


def test_settling_without_messages() -> None:
    side = Side()
    side.open()
    arrived = side.deliver(1, 3)
    asked = side.settle(side.held(arrived, 0, 2))
    found = side.frames()
    assert settles(found) == [(Settle(side.channel, 0, 1, ((1, 3),)),)]
    assert side.session.asking.settles == 1
    assert not side.session.quiet
    side.say(Reply(asked.frame.number, calls.encode(None)))
    assert asked.done
    assert asked.error is None
    assert side.left() == {3}
    assert side.session.quiet
    refused = side.settle(side.held(arrived, 2, 3))
    side.frames()
    side.say(CallFailed(refused.frame.number, "E403", "finished"))
    assert type(refused.error) is StreamFinished
    assert side.left() == {3}


def test_there_is_room_for_questions_beside_settlements() -> None:
    side = Side()
    side.open()
    arrived = side.deliver(1, 999)
    for index in range(SETTLES_MAX):
        assert side.session.asking.may_settle()
        side.settle(side.held(arrived, index, index + 1))
    assert not side.session.asking.may_settle()
    side.session.ask(calls.GetServer(), nobody)


def test_leases_of_another_connection() -> None:
    side, other = Side(), Side()
    side.open()
    held = side.held(side.deliver(1))
    with pytest.raises(BadInput, match="another connection"):
        other.session.check_held([held])


def test_columns_and_ranges_are_checked() -> None:
    with pytest.raises(BadInput, match="2 results come with 1 seqs"):
        Origin(1, "s", "t", (1,)).made(2)
    with pytest.raises(BadInput, match="1 results come with 2 ks"):
        Origin(1, "s", "t", (1,), ks=(0, 1)).made(1)
    for ranges in (((2, 2),), ((0, 3),), ((1, 2),) * (limits.NATIVE_BATCH_MAX + 1)):
        with pytest.raises(BadInput):
            check_ranges(ranges)
    side = Side()
    side.open()
    arrived = side.deliver(1)
    with pytest.raises(BadInput, match="settled at once"):
        check_held([side.held(arrived)] * (limits.NATIVE_BATCH_MAX + 1))


# ---------------------------------------------------------------------------- broken connections


def test_puts_wait_for_their_streams_to_be_opened_again() -> None:
    side = Side()
    side.open(ref=0)
    arrived = side.deliver(1, 2, tag=9)
    run = side.publish(side.held(arrived, 0, 1))
    asked = side.settle(side.held(arrived, 1, 2))
    assert len(puts(side.frames())) == 1
    side.session.lost()
    side.connect()
    found = side.frames()
    [again] = [frame for frame in found if isinstance(frame, Subscribe)]
    assert again.held == (frames.Held("s", "in", 9, ((1, 3),)),)
    assert puts(found) == []
    assert settles(found) == []
    assert not side.session.due(side.now)
    assert side.session.wake_at() is not None
    side.open(ref=4, held=[frames.Held("s", "in", 9, ((1, 3),))])
    assert side.session.due(side.now)
    found = side.frames()
    [put] = puts(found)
    assert put.made is not None
    assert put.made.settles == (Settle(side.channel, 4, 9, ((1, 2),)),)
    assert settles(found) == [(Settle(side.channel, 4, 9, ((2, 3),)),)]
    side.say(Receipt(put.channel, put.sequence, 1, 2, 1))
    side.say(Reply(asked.frame.number, calls.encode(None)))
    assert run.whole is not None
    assert run.whole.error is None
    assert side.left() == set()


def test_what_was_settled_before_the_break_is_sent_again_under_its_tag() -> None:
    """The node does not hold it any more, and knows that it is acknowledged."""
    side = Side()
    side.open()
    run = side.publish(side.held(side.deliver(1, tag=9)))
    side.frames()
    side.session.lost()
    side.connect()
    side.frames()
    side.open(ref=2, held=())
    assert side.left() == set()
    [put] = puts(side.frames())
    assert put.made is not None
    assert put.made.settles == (Settle(side.channel, 2, 9, ((1, 2),)),)
    side.say(Receipt(put.channel, put.sequence, 1, 2, 1, duplicate=True))
    assert run.whole is not None
    assert run.whole.duplicate


@pytest.mark.parametrize("how", ["too long", "ended", "refused"])
def test_nobody_waits_for_ever_for_a_stream(how: str) -> None:
    side = Side()
    side.open()
    arrived = side.deliver(1, 2)
    run, asked = side.publish(side.held(arrived, 0, 1)), side.settle(side.held(arrived, 1, 2))
    behind = side.publish()
    side.frames()
    side.session.lost()
    side.connect()
    side.frames()
    match how:
        case "too long":
            side.now += limits.NATIVE_RESUME_SECONDS
        case "ended":
            side.say(End(side.channel, -1, "finished"))
        case "refused":
            side.say(Failed(side.channel, 0, 0, "E202", "this token may not read"))
    assert side.session.due(side.now)
    [put] = puts(side.frames())
    assert put.sequence == behind.first
    assert run.whole is not None
    assert type(run.whole.error) is StaleLease
    assert type(asked.error) is StaleLease


def test_arrays_that_were_changed_are_not_sent_again() -> None:
    side = Side()
    side.open()
    arrived = side.deliver(1, 2)
    arrays = [bytearray(40_000), bytearray(40_000)]
    digests = b"".join(map(xxhash.xxh3_128_digest, arrays))
    put = Put(0, 0, 2, (40_000, 40_000), digests, made=Origin(1, "s", "in", (1, 1)).made(2))
    runs = [
        side.out.add_run(put, buffers, 80_000, [side.held(arrived, n, n + 1)])
        for n, buffers in enumerate((arrays, [memoryview(bytearray(80_000))]))
    ]
    assert len(puts(side.frames())) == 2
    arrays[1][-1] = 1
    side.session.lost()
    side.connect()
    [again] = [frame for frame in side.frames() if isinstance(frame, Subscribe)]
    side.open(held=again.held)
    assert [put.sequence for put in puts(side.frames())] == [runs[1].first]
    assert runs[0].whole is not None
    assert "was changed" in str(runs[0].whole.error)
    assert side.left() == {1, 2}


def test_a_reader_that_is_left_stays_until_what_it_settles_is_answered() -> None:
    side = Side()
    side.open()
    arrived = side.deliver(1, 3)
    side.publish(side.held(arrived, 0, 1))
    # Another one has come, and nobody has looked at it.
    waiting = Batch(1, 4, 4, (1,), bytes(16), 0)
    side.say(Deliver(side.channel, 0, 2, waiting), b"x")
    side.session.close_reader(side.reader, side.now)
    found = side.frames()
    [put] = puts(found)
    assert put.made is not None
    assert put.made.settles[0].ranges == ((1, 2),)
    assert [frame for frame in found if isinstance(frame, Unsubscribe)] == []
    assert [frame.ranges for frame in found if isinstance(frame, Nack)] == [((2, 4),)]
    side.session.close_reader(side.reader, side.now)
    side.say(Deliver(side.channel, 0, 3, Batch(1, 5, 5, (1,), bytes(16), 0)), b"x")
    assert 5 not in side.left()
    side.session.lost()
    side.connect()
    [again] = [frame for frame in side.frames() if isinstance(frame, Subscribe)]
    assert again.credit_messages == 0
    side.open(ref=1, held=again.held)
    [put] = puts(side.frames())
    side.say(Receipt(put.channel, put.sequence, 1, 2, 1))
    assert [type(frame) for frame in side.frames()] == [Unsubscribe]
    late = side.publish(side.held(arrived, 1, 2))
    assert puts(side.frames()) == []
    assert late.whole is not None
    assert type(late.whole.error) is StaleLease


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["deliver", "publish", "filter", "send", "answer", "lose", "open", "expire", "ack"]
        ),
        st.integers(1, 3),
    ),
    max_size=60,
)


class Node:
    """Plays the node: leases, and units of results with what they settle."""

    def __init__(self) -> None:
        self.next_seq = 1
        self.tag = 0
        self.ref = 0
        self.leases: dict[int, set[int]] = {}
        self.open: set[int] = set()
        self.acked: set[int] = set()
        self.results: set[int] = set()
        self.stored: set[int] = set()
        self.asked: list[Any] = []

    def taken(self, tag: int, ranges: Any) -> set[int]:
        """Take seqs out of a lease; those that were in it."""
        named = {seq for lo, hi in ranges for seq in range(lo, hi)}
        found = self.leases.get(tag, set()) & named
        self.leases[tag] = self.leases.get(tag, set()) - found
        return found

    def settle(self, found: tuple[Settle, ...], ref: int) -> bool:
        wanted: list[tuple[int, set[int]]] = []
        for one in found:
            assert one.ref == ref
            seqs = {seq for lo, hi in one.ranges for seq in range(lo, hi)} - self.acked
            if not seqs <= self.leases.get(one.tag, set()):
                return False
            wanted.append((one.tag, seqs))
        for tag, seqs in wanted:
            self.leases[tag] -= seqs
            self.acked |= seqs
        return True


class Play:
    """A client and a node, and what happens between them."""

    def __init__(self) -> None:
        self.side, self.node = Side(), Node()
        self.side.open(self.node.ref)
        self.in_hand: list[Arrived] = []
        self.under_way: list[Run] = []
        self.is_open = True

    def deliver(self, count: int) -> None:
        node = self.node
        seqs = sorted(node.open)[:count]
        if not seqs:
            seqs = list(range(node.next_seq, node.next_seq + count))
            node.next_seq += count
        for seq in seqs:
            node.tag += 1
            node.leases[node.tag] = {seq}
            node.open.discard(seq)
            self.in_hand.append(self.side.deliver(seq, tag=node.tag, ref=node.ref))

    def gather(self) -> None:
        """Take what the client has sent."""
        node = self.node
        for frame in self.side.frames():
            match frame:
                case Put() | Call():
                    node.asked.append(frame)
                case Nack():
                    node.open.update(node.taken(frame.tag, frame.ranges))
                case Ack():
                    node.acked |= node.taken(frame.tag, frame.ranges)
                    if frame.call:
                        node.asked.append(frame)
                case Subscribe():
                    named = {held.tag for held in frame.held}
                    for tag, seqs in node.leases.items():
                        if tag not in named:
                            node.open |= seqs
                            node.leases[tag] = set()

    def commit(self, frame: Any) -> Any:
        """Do what was asked; the answer."""
        node = self.node
        match frame:
            case Put():
                assert frame.made is not None
                if not node.settle(frame.made.settles, node.ref):
                    return Failed(frame.channel, frame.sequence, 1, "E405", "stale")
                again = frame.sequence in node.stored
                node.stored.add(frame.sequence)
                if not again:
                    assert not node.results & set(frame.made.seqs)
                    node.results |= set(frame.made.seqs)
                return Receipt(frame.channel, frame.sequence, 1, 2, 1, duplicate=again)
            case Call():
                params = calls.decode_params("skip", frame.params)
                assert isinstance(params, calls.Skip)
                if not node.settle(params.settles, node.ref):
                    return CallFailed(frame.number, "E405", "stale")
                return Reply(frame.number, calls.encode(None))
            case _:
                return Reply(frame.call, calls.encode(None))

    def reopen(self) -> None:
        node = self.node
        node.ref += 1
        held = [
            frames.Held("s", "in", tag, tuple((seq, seq + 1) for seq in sorted(seqs)))
            for tag, seqs in node.leases.items()
            if seqs
        ]
        self.side.open(node.ref, held=held)
        self.is_open = True

    def lose(self, committed: int) -> None:
        """The connection breaks; some of what was asked was done, and the answers are lost."""
        self.gather()
        for frame in self.node.asked[:committed]:
            self.commit(frame)
        self.node.asked.clear()
        self.side.session.lost()
        self.is_open = False
        self.side.connect()
        self.gather()
        assert not any(isinstance(frame, Put | Call) for frame in self.node.asked)

    def step(self, step: str, number: int) -> None:
        side, node = self.side, self.node
        side.now += 0.01
        match step:
            case "deliver" if self.is_open:
                self.deliver(number)
            case "publish" if self.in_hand:
                arrived = self.in_hand.pop(0)
                self.under_way.append(side.publish(side.held(arrived), seq=arrived.seq(0)))
            case "filter" if self.in_hand:
                side.settle(side.held(self.in_hand.pop(0)))
            case "ack" if self.in_hand:
                arrived = self.in_hand.pop(0)
                assert arrived.lease is not None
                side.reader.acknowledge(arrived.lease, arrived.seq(0), arrived.seq(0) + 1, side.now)
            case "send":
                self.gather()
            case "answer":
                self.gather()
                for frame in node.asked[:number]:
                    side.say(self.commit(frame))
                del node.asked[:number]
            case "lose":
                self.lose(number - 1)
            case "open" if not self.is_open:
                self.reopen()
            case "expire":
                for tag in sorted(node.leases)[:number]:
                    node.open |= node.leases[tag]
                    node.leases[tag] = set()

    def check(self) -> None:
        """Everything is acknowledged, or open again, or in hand."""
        side, node = self.side, self.node
        for run in self.under_way:
            assert run.whole is not None
            assert run.whole.error is None or type(run.whole.error) is StaleLease
        assert side.session.quiet
        assert not side.reader.settlings
        leased = {seq for seqs in node.leases.values() for seq in seqs}
        assert node.acked | node.open | leased == set(range(1, node.next_seq))
        assert not node.acked & (node.open | leased)
        assert node.results <= node.acked
        waiting = {arrived.seq(0) for arrived in self.in_hand}
        assert leased <= waiting | side.left()


@given(STEPS)
def test_every_input_is_settled_once_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """Over breaks before and after the commit, late openings, and leases that end."""
    play = Play()
    for step, number in [*steps, ("open", 1), ("send", 1), ("answer", 99)]:
        play.step(step, number)
    play.check()
