"""The pure core: spans, what a writer has on its way, what a reader owes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.client.native import spans
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.events import Gap
from beamstream.client.native.incoming import ACK_S, Incoming
from beamstream.client.native.outgoing import GATHER_S, WINDOW_MESSAGES, Outgoing, Run, check_id
from beamstream.client.native.session import Session, State, nobody
from beamstream.errors import (
    BadInput,
    ConnectionLost,
    Corrupt,
    DataLost,
    IdConflict,
    LocalProtocolError,
    NotAllowed,
    StaleLease,
    StreamFinished,
    TooMany,
)
from beamstream.wire.native import calls, frames
from beamstream.wire.native.batches import Batch, Lost
from beamstream.wire.native.batches import Part as Row
from beamstream.wire.native.frames import (
    Ack,
    Call,
    CallFailed,
    Credit,
    Deliver,
    Extend,
    Failed,
    Goodbye,
    Held,
    Hello,
    Mode,
    Nack,
    OpenWriter,
    Put,
    Receipt,
    Reply,
    StreamOpened,
    Subscribe,
    Unsubscribe,
    Welcome,
)
from beamstream.wire.native.framing import HEAD_NBYTES, unpack_head

NUMBERS = st.sets(st.integers(0, 40))
EMPTY = memoryview(b"")


def numbers(found: spans.Spans) -> set[int]:
    return {number for lo, hi in found for number in range(lo, hi)}


@given(NUMBERS, NUMBERS)
def test_spans_are_sets(one: set[int], other: set[int]) -> None:
    first, second = spans.of_numbers(one), spans.of_numbers(other)
    assert numbers(first) == one
    assert numbers(spans.without(first, second)) == one - other
    assert numbers(spans.common(first, second)) == one & other
    assert numbers(spans.merged([*first, *second])) == one | other
    assert spans.length(first) == len(one)
    for found in (first, spans.without(first, second), spans.merged([*first, *second])):
        assert all(lo < hi for lo, hi in found)
        assert all(before[1] < after[0] for before, after in pairwise(found))


# ---------------------------------------------------------------------------- writers


def writer(**more: Any) -> Outgoing:
    opening = OpenWriter(1, "s", "t", bytes(16))
    return Outgoing(opening, nobody, **{"batch_max": 100, "window": 10_000, **more})


def add(out: Outgoing, payload: bytes = b"abc", id: int = 0, now: float = 0.0) -> tuple[Run, int]:
    return out.add(payload, xxhash.xxh3_128_digest(payload), b"", b"", id, now)


def test_the_first_goes_at_once_and_others_gather() -> None:
    out = writer()
    add(out)
    assert out.due(0.0)
    first = out.take(0.0)
    assert first is not None
    assert first.count == 1
    add(out, b"de", now=1.0)
    add(out, b"f", now=1.0)
    assert not out.due(1.0)
    assert out.due_at() == 1.0 + GATHER_S
    assert out.take(1.0) is None
    out.receipt(Receipt(1, 1, 1, 2, 7))
    assert out.due(1.0)
    second = out.take(1.0)
    assert second is not None
    assert second.put is not None
    assert (second.put.sequence, second.put.count, second.put.sizes) == (2, 2, (2, 1))
    assert second.put.id == 0
    assert second.buffers == [b"def"]
    fate = first.fate(0)
    assert fate is not None
    assert fate.id_of(1) == 7


def test_those_that_gather_wait_a_millisecond() -> None:
    out = writer()
    add(out)
    out.take(0.0)
    add(out, now=1.0)
    assert not out.due(1.0 + GATHER_S / 2)
    assert out.due(1.0 + GATHER_S)
    run = out.take(1.0 + GATHER_S)
    assert run is not None
    assert run.first == 2


def test_given_ids_and_automatic_ones_do_not_mix() -> None:
    out = writer()
    for id in (0, 5, 6, 9, 0):
        add(out, id=id)
    runs = [out.take(0.0) for _ in range(2)]
    assert [run.put.id for run in runs if run and run.put] == [0, 0]
    assert runs[1] is not None
    assert runs[1].put is not None
    assert runs[1].put.ids == (5, 6, 9)


def test_ids_in_a_row_are_one_number() -> None:
    out = writer()
    for id in (5, 6, 7):
        add(out, id=id)
    run = out.take(0.0)
    assert run is not None
    assert run.put is not None
    assert (run.put.id, run.put.ids) == (5, None)


def test_a_receipt_in_pieces() -> None:
    out = writer()
    run, *_ = [add(out)[0] for _ in range(5)]
    out.take(0.0)
    out.receipt(Receipt(1, 1, 2, 2, 10))
    out.refused(Failed(1, 3, 1, "E401", "message 3 has other content"))
    assert out.messages == 2
    assert [run.fate(index) is not None for index in range(5)] == [True, True, True, False, False]
    out.receipt(Receipt(1, 4, 2, 2, 0, ids=(20, 30), duplicate=True))
    fates = [run.fate(index) for index in range(5)]
    ids = [fate.id_of(index + 1) for index, fate in enumerate(fates) if fate and not fate.error]
    assert ids == [10, 11, 20, 30]
    assert type(fates[2].error) is IdConflict if fates[2] else False
    assert (out.messages, out.nbytes, out.idle) == (0, 0, True)
    assert len(out.faults) == 1


def test_a_refused_writer_takes_nothing_more() -> None:
    out = writer()
    run, index = add(out)
    out.refused(Failed(1, 0, 0, "E202", "this token may only read"))
    fate = run.fate(index)
    assert fate is not None
    assert type(fate.error) is NotAllowed
    with pytest.raises(NotAllowed):
        add(out)
    assert (out.messages, out.nbytes) == (0, 0)


def test_the_window() -> None:
    out = writer(window=100)
    assert out.has_room(1, 1_000_000)
    add(out, bytes(60))
    assert out.has_room(1, 40)
    assert not out.has_room(1, 41)
    assert not out.has_room(WINDOW_MESSAGES, 1)


@pytest.mark.parametrize("id", [0, -1, limits.ID_MAX + 1])
def test_ids_that_no_message_can_have(id: int) -> None:
    with pytest.raises(BadInput):
        check_id(id)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3)),
        st.tuples(st.just("run"), st.integers(1, 5)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("receipt"), st.integers(1, 6)),
        st.tuples(st.just("refuse"), st.integers(1, 6)),
        st.tuples(st.just("lost"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_message_gets_one_fate_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """The node is played: it stores each sequence once and answers the same again."""
    out, now = writer(batch_max=4), 0.0
    sent: list[tuple[Run, int, int]] = []
    stored: dict[int, int] = {}
    on_its_way: list[Put] = []

    def node_answers(count: int, *, refuse: bool) -> None:
        while count and on_its_way:
            put = on_its_way.pop(0)
            for sequence in range(put.sequence, put.sequence + put.count):
                stored.setdefault(sequence, -1 if refuse else 1000 + sequence)
                id = stored[sequence]
                if id < 0:
                    out.refused(Failed(1, sequence, 1, "E403", "finished"))
                else:
                    out.receipt(Receipt(1, sequence, 1, 2, id))
            count -= 1

    for step, number in steps:
        now += GATHER_S / 2
        match step:
            case "add":
                run, index = add(out, bytes(number), now=now)
                sent.append((run, index, run.first + index))
            case "run":
                put = Put(0, 0, number, (1,) * number, bytes(16 * number))
                run = out.add_run(put, [bytes(number)], number)
                sent += [(run, index, run.first + index) for index in range(number)]
            case "take":
                taken = out.take(now)
                if taken is not None and taken.put is not None:
                    assert taken.count <= max(4, taken.put.count)
                    on_its_way.append(taken.put)
            case "receipt" | "refuse":
                node_answers(number, refuse=step == "refuse")
            case "lost":
                out.lost()
                on_its_way.clear()
    for _ in range(len(sent) + 1):
        now += 1.0
        while (taken := out.take(now)) is not None:
            assert taken.put is not None
            on_its_way.append(taken.put)
        node_answers(len(on_its_way), refuse=False)
    assert [sequence for _, _, sequence in sent] == list(range(1, len(sent) + 1))
    for run, index, sequence in sent:
        fate = run.fate(index)
        assert fate is not None
        if stored[sequence] < 0:
            assert type(fate.error) is StreamFinished
        else:
            assert fate.id_of(sequence) == 1000 + sequence
    assert (out.messages, out.nbytes, out.idle) == (0, 0, True)


# ---------------------------------------------------------------------------- readers

ASKED = Subscribe(7, "s", "t", "g", lease_s=60.0)


def reader(asked: Subscribe = ASKED, **more: Any) -> Incoming:
    incoming = Incoming(asked, nobody, **{"messages": 100, "nbytes": 1000, **more})
    incoming.subscribe(0.0)
    incoming.stream_opened(StreamOpened(7, 0, "s", "t"))
    return incoming


def deliver(
    incoming: Incoming, seq: int, count: int = 1, *, tag: int = 1, now: float = 0.0, **more: Any
) -> None:
    batch = Batch(count, seq, seq, (1,) * count, bytes(16 * count), 0, **more)
    incoming.deliver(Deliver(7, 0, tag, batch), memoryview(bytes(count)), {}, now)


class Calls:
    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> int:
        self.number += 1
        return self.number


def taken(incoming: Incoming, now: float = 0.0) -> Arrived:
    arrived = incoming.next(now)
    assert isinstance(arrived, Arrived)
    return arrived


def acknowledge(incoming: Incoming, arrived: Arrived, lo: int, hi: int, now: float = 0.0) -> bool:
    assert arrived.lease is not None
    return incoming.acknowledge(arrived.lease, lo, hi, now)


def test_credit_comes_back_when_runs_are_taken() -> None:
    incoming = reader()
    deliver(incoming, 1, 20)
    assert incoming.tell(0.0, Calls()) == []
    taken(incoming)
    assert incoming.tell(0.0, Calls()) == []
    deliver(incoming, 21, 5, tag=2)
    taken(incoming)
    assert incoming.tell(0.0, Calls()) == [Credit(7, 25, 25)]
    assert incoming.tell(0.0, Calls()) == []


def test_acknowledgements_gather_and_are_confirmed() -> None:
    incoming, call = reader(), Calls()
    deliver(incoming, 1, 20)
    arrived = taken(incoming)
    assert acknowledge(incoming, arrived, 1, 2, now=10.0)
    assert incoming.tell(10.0, call) == [Ack(7, 0, 1, ((1, 2),), 1)]
    assert not acknowledge(incoming, arrived, 2, 3, now=10.001)
    assert not acknowledge(incoming, arrived, 3, 4, now=10.001)
    assert incoming.tell(10.001, call) == []
    assert incoming.due_at() == 10.001 + ACK_S
    assert incoming.tell(10.001 + ACK_S, call) == [Ack(7, 0, 1, ((2, 4),), 2)]
    assert not incoming.all_confirmed
    assert incoming.confirmed(1)
    assert incoming.confirmed(2)
    assert not incoming.confirmed(3)
    assert incoming.all_confirmed


def test_a_new_connection_names_the_leases_and_acknowledges_again() -> None:
    incoming, call = reader(), Calls()
    deliver(incoming, 1, 10, tag=5)
    deliver(incoming, 11, 1, tag=6)
    arrived = taken(incoming)
    acknowledge(incoming, arrived, 1, 3)
    incoming.tell(0.0, call)
    incoming.confirmed(call.number)
    acknowledge(incoming, arrived, 3, 5)
    assert len(incoming.tell(1.0, call)) == 1
    incoming.lost()
    again = incoming.subscribe(2.0)
    assert again.held == (Held("s", "t", 5, ((3, 11),)), Held("s", "t", 6, ((11, 12),)))
    assert again.credit_messages == 100 - 1
    assert incoming.tell(2.0, call) == []
    incoming.stream_opened(StreamOpened(7, 3, "s", "t", (Held("s", "t", 5, ((3, 11),)),)))
    [ack] = [frame for frame in incoming.tell(3.0, call) if isinstance(frame, Ack)]
    assert (ack.ref, ack.tag, ack.ranges) == (3, 5, ((3, 5),))
    # The lease with tag 6 was given to somebody else: what waits under it is not handed out.
    assert incoming.next(3.0) is None


def test_what_has_run_out_is_not_handed_out() -> None:
    incoming = reader()
    deliver(incoming, 1, tag=1, now=0.0)
    deliver(incoming, 2, tag=2, now=50.0)
    assert taken(incoming, now=61.0).seq(0) == 2
    assert incoming.next(61.0) is None


def test_leases_live_on_while_messages_are_taken() -> None:
    incoming, call = reader(), Calls()
    deliver(incoming, 1, tag=1)
    deliver(incoming, 2, tag=2)
    first = taken(incoming, now=10.0)
    assert incoming.tell(19.0, call) == []
    assert incoming.tell(21.0, call) == [Extend(7, 0, 1, 60.0), Extend(7, 0, 2, 60.0)]
    assert first.lease is not None
    assert first.lease.until == 81.0
    # Nobody has taken anything for a whole lease: whoever is stuck loses what he has.
    assert incoming.tell(75.0, call) == []
    assert incoming.next(90.0) is None


def test_giving_back() -> None:
    incoming, call = reader(), Calls()
    deliver(incoming, 1, 3)
    arrived = taken(incoming)
    assert arrived.lease is not None
    incoming.give_back(arrived.lease, 2, 3, 1.5, False)
    assert incoming.due_at() == 0.0
    assert incoming.tell(0.0, call) == [Nack(7, 0, 1, ((2, 3),), 1.5, False)]
    incoming.lost()
    assert incoming.subscribe(1.0).held == (Held("s", "t", 1, ((1, 2), (3, 4))),)


def test_a_late_acknowledgement_is_kept_as_a_fault() -> None:
    incoming, call = reader(), Calls()
    deliver(incoming, 1)
    acknowledge(incoming, taken(incoming), 1, 2)
    incoming.tell(1.0, call)
    assert incoming.confirmed(call.number, StaleLease("too late"))
    assert [type(fault) for fault in incoming.faults] == [StaleLease]
    assert incoming.subscribe(2.0).held == ()


def test_the_newest_is_asked_for_when_it_is_wanted() -> None:
    incoming, call = reader(msgspec.structs.replace(ASKED, mode=Mode.NEWEST)), Calls()
    assert incoming.subscribe(0.0).credit_messages == 0
    assert incoming.tell(0.0, call, all_of_it=True) == []
    incoming.ask()
    incoming.ask()
    assert incoming.tell(0.0, call, all_of_it=True) == [Credit(7, 1, 0)]
    deliver(incoming, 9)
    incoming.ask()
    assert taken(incoming).seq(0) == 9
    incoming.ask()
    assert incoming.tell(0.0, call, all_of_it=True) == [Credit(7, 1, 1)]


def test_ends_and_gaps_come_in_order() -> None:
    incoming = reader()
    deliver(incoming, 1)
    incoming.gap(frames.Gap(7, 0, 2, 4))
    incoming.end(frames.End(7, 0, "finished", "next", 9))
    assert isinstance(incoming.next(0.0), Arrived)
    assert incoming.next(0.0) == Gap("s", "t", 2, 4)
    assert incoming.next(0.0) is None
    assert incoming.ended is not None
    assert incoming.ended[:4] == ("finished", "t", "next", 9)


def test_following_goes_on_after_an_end() -> None:
    incoming = reader(msgspec.structs.replace(ASKED, follow=True))
    incoming.end(frames.End(7, 0, "finished", "next", 9))
    assert incoming.ended is None
    assert incoming.ends[("s", "t")].next_stream == "next"
    incoming.stream_opened(StreamOpened(7, 1, "s", "next"))
    incoming.end(frames.End(7, 1, "finished"))
    assert incoming.ended is not None


def test_payloads_that_are_gone() -> None:
    batch = Batch(2, 1, 1, (3, 4), bytes(32), 0, lost=(Lost(0, "E504", "evicted"),))
    arrived = Arrived("s", "t", batch, memoryview(b"abcd"), None, {1: Corrupt("other bytes")})
    with pytest.raises(DataLost):
        arrived.payload(0)
    with pytest.raises(Corrupt):
        arrived.payload(1)
    described = msgspec.structs.replace(batch, lost=(), payloads=False)
    with pytest.raises(DataLost):
        Arrived("s", "t", described, EMPTY, None, {}).payload(0)


def test_datasets_are_counted_whole() -> None:
    rows = (Row(3, 30, 2, 2), Row(5, 31, 2, 1, False))
    batch = Batch(3, 3, 30, (1, 1, 1), bytes(48), 0, datasets=rows, substreams=(1, 2, 1))
    arrived = Arrived("s", "t", batch, memoryview(b"abc"), None, {})
    assert arrived.items == 2
    assert [arrived.seq(item) for item in range(2)] == [3, 5]
    assert arrived.spans() == [(3, 4), (5, 6)]


DELIVERIES = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "take", "ack", "tell", "confirm", "break"]), st.integers(1, 5)
    ),
    max_size=50,
)


@given(DELIVERIES)
def test_nothing_that_was_acknowledged_is_held(steps: list[tuple[str, int]]) -> None:
    """Over any breaks: what the node has confirmed is not held, all else that it gave is."""
    incoming, call, now = reader(messages=10**4), Calls(), 0.0
    given_out: set[int] = set()
    confirmed: set[int] = set()
    told: dict[int, set[int]] = {}
    in_hand: list[tuple[Any, int]] = []
    seq, tag = 1, 1
    for step, number in steps:
        now += 2 * ACK_S
        match step:
            case "deliver":
                deliver(incoming, seq, number, tag=tag, now=now)
                given_out |= set(range(seq, seq + number))
                seq, tag = seq + number, tag + 1
            case "take":
                arrived = incoming.next(now)
                if isinstance(arrived, Arrived):
                    in_hand += [(arrived.lease, arrived.seq(i)) for i in range(arrived.items)]
            case "ack":
                for lease, found in in_hand[:number]:
                    incoming.acknowledge(lease, found, found + 1, now)
                del in_hand[:number]
            case "tell":
                acks = [f for f in incoming.tell(now, call, all_of_it=True) if isinstance(f, Ack)]
                if acks:
                    told[acks[-1].call] = {n for ack in acks for n in numbers(list(ack.ranges))}
            case "confirm":
                for asked in list(told)[:number]:
                    assert incoming.confirmed(asked)
                    confirmed |= told.pop(asked)
            case "break":
                incoming.lost()
                told.clear()
                held = incoming.subscribe(now).held
                named = {n for lease in held for n in numbers(list(lease.ranges))}
                assert named == given_out - confirmed
                incoming.stream_opened(StreamOpened(7, 0, "s", "t", held))


# ---------------------------------------------------------------------------- sessions

HELLO = Hello("beamstream", 1, "token", "demo", bytes(16))
WELCOME = Welcome(1, 1, 1, "x", "demo", ("read",), 2, 1 << 20, 100)


def session() -> Session:
    made = Session(HELLO, nobody)
    made.connected()
    assert sent(made) == [HELLO]
    made.receive(WELCOME, EMPTY, 0.0)
    return made


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


def test_everything_goes_on_over_a_new_connection() -> None:
    made = session()
    out = made.open_writer(OpenWriter(0, "s", "t", bytes(16)), nobody)
    made.open_reader(Subscribe(0, "s", "t", "g"), nobody, 0.0, messages=10, nbytes=100)
    asked = made.ask(calls.GetServer(), nobody)
    first, _ = add(out)
    kinds = [type(frame).__name__ for frame in sent(made)]
    assert kinds == ["OpenWriter", "Subscribe", "Call", "Put"]
    made.lost()
    add(out)
    assert made.state is State.DOWN
    assert made.take(9.0) is None
    made.connected()
    assert sent(made) == [HELLO]
    made.receive(WELCOME, EMPTY, 1.0)
    again = sent(made, 9.0)
    assert [type(frame).__name__ for frame in again] == [*kinds, "Put"]
    assert [frame.sequence for frame in again if isinstance(frame, Put)] == [1, 2]
    assert again[2] == asked.frame
    assert not first.whole
    made.receive(CallFailed(asked.frame.number, "E300", "none", "look"), EMPTY, 1.0)
    assert asked.done
    assert asked.error is not None
    assert asked.error.code == "E300"


def test_what_must_not_be_done_twice_is_not_asked_twice() -> None:
    made = session()
    asked = made.ask(calls.DeleteStream(source="s", stream="t"), nobody)
    made.lost()
    assert type(asked.error) is ConnectionLost


def test_an_array_that_was_changed_is_not_sent_again() -> None:
    made = session()
    out = made.open_writer(OpenWriter(0, "s", "t", bytes(16)), nobody)
    payload = bytearray(100_000)
    put = Put(0, 0, 1, (len(payload),), xxhash.xxh3_128_digest(payload))
    run = out.add_run(put, [payload], len(payload))
    kept = out.add_run(put, [bytes(100_000)], len(payload))
    assert len(sent(made)) == 3
    payload[0] = 1
    made.lost()
    made.connected()
    sent(made)
    made.receive(WELCOME, EMPTY, 1.0)
    assert [f.sequence for f in sent(made) if isinstance(f, Put)] == [2]
    fate = run.fate(0)
    assert fate is not None
    assert "was changed" in str(fate.error)
    assert kept.fate(0) is None


def test_goodbye_for_good_fails_everything() -> None:
    made = session()
    out = made.open_writer(OpenWriter(0, "s", "t", bytes(16)), nobody)
    incoming = made.open_reader(Subscribe(0, "s", "t", "g"), nobody, 0.0, messages=1, nbytes=1)
    asked = made.ask(calls.GetServer(), nobody)
    run, index = add(out)
    made.receive(Goodbye("E202", "revoked", "ask for a new one"), EMPTY, 1.0)
    fate = run.fate(index)
    assert fate is not None
    for error in (made.error, out.error, incoming.error, asked.error, fate.error):
        assert type(error) is NotAllowed
    with pytest.raises(NotAllowed):
        made.ask(calls.GetServer(), nobody)
    with pytest.raises(NotAllowed):
        made.open_writer(OpenWriter(0, "s", "t", bytes(16)), nobody)
    made.lost()
    assert made.state is State.OVER


def test_answers_to_nobody_are_ignored() -> None:
    made = session()
    raw = calls.encode(None)
    for frame in (
        Reply(99, raw),
        CallFailed(99, "E300", "x"),
        Receipt(99, 1, 1, 2, 1),
        Failed(99, 1, 1, "E400", "x"),
        StreamOpened(99, 0, "s", "t"),
        Deliver(99, 0, 1, Batch(1, 1, 1, (0,), bytes(16), 0)),
        Call(1, "x"),
    ):
        made.receive(frame, EMPTY, 0.0)
    assert made.state is State.UP
    assert sent(made) == []


def test_a_result_of_another_kind_is_an_error_of_that_call() -> None:
    made = session()
    asked = made.ask(calls.GetServer(), nobody)
    made.receive(Reply(asked.frame.number, calls.encode(5)), EMPTY, 0.0)
    assert asked.error is not None
    assert asked.error.code == "E702"


def test_limits_of_a_connection() -> None:
    made = session()
    for _ in range(limits.NATIVE_CALLS_MAX):
        made.ask(calls.GetServer(), nobody)
    with pytest.raises(TooMany):
        made.ask(calls.GetServer(), nobody)
    for _ in range(limits.NATIVE_CHANNELS_MAX):
        made.open_writer(OpenWriter(0, "s", "t", bytes(16)), nobody)
    with pytest.raises(TooMany):
        made.open_writer(OpenWriter(0, "s", "t", bytes(16)), nobody)


def test_leaving_a_group_tells_what_is_done_first() -> None:
    made = session()
    incoming = made.open_reader(Subscribe(0, "s", "t", "g"), nobody, 0.0, messages=9, nbytes=99)
    channel = incoming.asked.channel
    sent(made)
    made.receive(StreamOpened(channel, 0, "s", "t"), EMPTY, 0.0)
    batch = Batch(1, 1, 1, (1,), bytes(16), 0)
    made.receive(Deliver(channel, 0, 4, batch), memoryview(b"x"), 0.0)
    acknowledge(incoming, taken(incoming), 1, 2)
    made.close_reader(incoming, 0.0)
    told = sent(made)
    assert [type(frame) for frame in told] == [Ack, Credit, Unsubscribe]
    made.close_reader(incoming, 0.0)
    assert sent(made) == []


def test_two_welcomes_are_one_too_many() -> None:
    made = session()
    with pytest.raises(LocalProtocolError):
        made.receive(WELCOME, EMPTY, 0.0)
