"""Reading over a real socket, whose other side is played frame by frame."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xxhash

import beamstream as bs
from beamstream import errors
from beamstream.client.native import subscription
from beamstream.client.native.subscription import NoSuchStreamYet
from beamstream.wire import payload
from beamstream.wire.native import calls, frames
from beamstream.wire.native.batches import NO_DIGEST, Batch
from beamstream.wire.native.frames import (
    Ack,
    CallFailed,
    Credit,
    Deliver,
    Failed,
    Nack,
    Reply,
    StreamOpened,
    Subscribe,
    Unsubscribe,
)
from client.native.scripted import Peer, connect


def subscribed(played: Peer) -> Subscribe:
    asked = played.until(Subscribe)
    played.send(StreamOpened(asked.channel, 0, "s", "t"))
    return asked


def test_the_next_turn_acknowledges_the_one_before(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    hub = connect(played, threads)
    group = hub.source("s").stream("t").group("g")
    reading = threads.submit(lambda: [(m.id, bytes(m.data), m.meta) for m in group])
    asked = subscribed(played)
    assert (asked.group, asked.lease_s, asked.credit_messages) == ("g", 60.0, 4096)
    played.deliver(asked.channel, [b"a", b"bc"], seq=1, metas=(b"{}", b'{"x":1}'))
    acked: set[int] = set()
    while acked != {1, 2}:
        ack = played.until(Ack)
        acked |= {seq for lo, hi in ack.ranges for seq in range(lo, hi)}
        if ack.call:
            played.send(Reply(ack.call))
    played.send(frames.End(asked.channel, 0, "finished", "next", 2))
    assert reading.result(20) == [(1, b"a", {}), (2, b"bc", {"x": 1})]
    assert group.end == bs.End("finished", "t", "next", 2)
    played.until(Unsubscribe)
    hub.close()


def test_leaving_by_an_exception_does_not_acknowledge(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    hub = connect(played, threads)

    def read() -> None:
        for message in hub.source("s").stream("t").group("g"):
            if isinstance(message, bs.Message) and message.id == 2:
                raise RuntimeError("the reader's own fault")

    reading = threads.submit(read)
    asked = subscribed(played)
    played.deliver(asked.channel, [b"a", b"b", b"c"], seq=1)
    acked: set[int] = set()
    while True:
        frame, _ = played.read()
        if isinstance(frame, Ack):
            acked |= {seq for lo, hi in frame.ranges for seq in range(lo, hi)}
        if isinstance(frame, Unsubscribe):
            break
    assert acked == {1}
    with pytest.raises(RuntimeError):
        reading.result(20)
    hub.close()


def test_by_hand(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    with hub.source("s").stream("t").group("g", ack="manual").subscribe() as member:
        asked = subscribed(played)
        played.deliver(asked.channel, [b"a", b"b", b"c", b"d"], seq=1, deliveries=(1, 2, 1, 1))
        messages = [member.take(20) for _ in range(4)]
        first, second, third, fourth = (m for m in messages if isinstance(m, bs.Message))
        assert (first.delivery, second.delivery) == (1, 2)
        first.ack()
        second.nack(delay=1.5)
        third.defer()
        fourth.extend(30)
        frames_sent = [played.until(kind) for kind in (Ack, Nack, Nack, frames.Extend)]
        assert frames_sent[0].ranges == ((1, 2),)
        assert frames_sent[1].ranges == ((2, 3),)
        assert (frames_sent[1].delay_s, frames_sent[1].counted) == (1.5, True)
        assert (frames_sent[2].ranges, frames_sent[2].counted) == (((3, 4),), False)
        played.send(CallFailed(frames_sent[0].call, "E405", "message 1 was offered again"))
        with pytest.raises(errors.StaleLease):
            member.sync(20)
    hub.close()


def test_batches_and_arrays(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    frames_ = np.arange(24, dtype="<u2").reshape(4, 2, 3)
    info = payload.pack_info(payload.ArrayInfo("<u2", (2, 3)))
    with hub.source("s").stream("t").group("g").subscribe() as member:
        batches = member.batches()
        asked = subscribed(played)
        played.deliver(asked.channel, [f.tobytes() for f in frames_], seq=5, infos=info)
        batch = next(batches)
        assert np.array_equal(batch.arrays(), frames_)
        assert batch.arrays().base is not None
        assert (batch.ids, len(batch), batch.metas) == (range(5, 9), 4, [{}] * 4)
        assert [np.array_equal(m.array(), f) for m, f in zip(batch, frames_, strict=True)] == [
            True
        ] * 4
        played.send(frames.End(asked.channel, 0, "gone"))
        assert next(batches, None) is None
        assert played.until(Ack).ranges == ((5, 9),)
        assert member.end is not None
        assert member.end.reason == "gone"
    hub.close()


def test_damage_is_an_error_of_that_message(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    with hub.source("s").stream("t").group("g").subscribe() as member:
        asked = subscribed(played)
        good = xxhash.xxh3_128_digest(b"a")
        batch = Batch(3, 1, 1, (1, 1, 1), good + good + NO_DIGEST, 0)
        played.send(Deliver(asked.channel, 0, 1, batch), b"aba")
        large = bytes(1_000_000)
        batch = Batch(1, 4, 4, (len(large),), bytes(15) + b"\x01", 0)
        played.send(Deliver(asked.channel, 0, 2, batch), large)
        messages = [m for m in (member.take(20) for _ in range(4)) if isinstance(m, bs.Message)]
        assert [m.lost for m in messages] == [False, True, False, True]
        assert bytes(messages[0].data) == b"a"
        for message in (messages[1], messages[3]):
            with pytest.raises(errors.Corrupt):
                message.data  # noqa: B018
    hub.close()


def test_reading_goes_on_after_a_break(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    with hub.source("s").stream("t").group("g").subscribe() as member:
        asked = subscribed(played)
        played.deliver(asked.channel, [b"a", b"b", b"c"], seq=1, tag=9)
        first = member.take(20)
        assert isinstance(first, bs.Message)
        played.cut()
        played.accept()
        again = played.until(Subscribe)
        assert (again.channel, again.group) == (asked.channel, "g")
        [held] = again.held
        assert (held.source, held.stream, held.tag, held.ranges) == ("s", "t", 9, ((1, 4),))
        played.send(StreamOpened(again.channel, 4, "s", "t", again.held))
        second, third = member.take(20), member.take(20)
        assert isinstance(second, bs.Message)
        assert isinstance(third, bs.Message)
        assert (second.id, third.id) == (2, 3)
        acked: set[int] = set()
        while acked != {1, 2}:
            ack = played.until(Ack)
            assert (ack.ref, ack.tag) == (4, 9)
            acked |= {seq for lo, hi in ack.ranges for seq in range(lo, hi)}
    hub.close()


def test_a_timeout_is_an_end(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    group = hub.source("s").stream("t").group("g", timeout=0.05)
    assert list(group) == []
    assert group.end == bs.End("timeout", "t")
    with group.subscribe() as member, pytest.raises(errors.TimedOut):
        member.take(0.01)
    hub.close()


def test_gaps_are_told(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    with hub.source("s").stream("t").group("g", mode="ordered", gaps="report").subscribe() as one:
        asked = subscribed(played)
        assert (asked.mode, asked.gaps) == (frames.Mode.ORDERED, frames.Gaps.REPORT)
        played.send(frames.Gap(asked.channel, 0, 1, 5))
        assert one.take(20) == bs.Gap("s", "t", 1, 5)
    hub.close()


def test_a_reader_that_is_dropped_leaves(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    member = hub.source("s").stream("t").group("g").subscribe()
    asked = subscribed(played)
    del member
    gc.collect()
    assert played.until(Unsubscribe).channel == asked.channel
    hub.close()


def test_who_waits_for_nothing_is_told(
    played: Peer, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "MISSING_S", 0.01)
    hub = connect(played, threads)
    row = calls.StreamRow(
        source="eiger",
        stream="scan12",
        count=0,
        seq=0,
        max_id=0,
        last_id=-1,
        next_stream="",
        created_ns=0,
        last_ns=0,
        datasets=False,
    )

    def answer() -> None:
        played.until(Subscribe)
        played.answer("sources", ["eiger"])
        played.answer("streams", [row])

    answered = threads.submit(answer)
    group = hub.source("eiger").stream("scan21").group("g", timeout=0.5)
    with pytest.warns(NoSuchStreamYet, match="no stream 'scan21'.*'scan12'"):
        assert list(group) == []
    answered.result(20)
    hub.close()


def test_a_subscription_that_is_refused(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    with hub.source("s").stream("t").group("g").subscribe() as member:
        asked = played.until(Subscribe)
        played.send(Failed(asked.channel, 0, 0, "E202", "this token may only write"))
        with pytest.raises(errors.NotAllowed):
            member.take()
    hub.close()


def test_credit_is_given_back_while_reading(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    group = hub.source("s").stream("t").group("g", ahead_messages=8, ack="none")
    with group.subscribe() as member:
        asked = subscribed(played)
        assert (asked.credit_messages, asked.lease_s) == (8, 0.0)
        for seq in range(1, 9):
            played.deliver(asked.channel, [b"x"], seq=seq, tag=0)
        for _ in range(8):
            member.take(20)
        given = 0
        while given < 8:
            given += played.until(Credit).messages
    hub.close()


@pytest.mark.parametrize(
    "batch",
    [
        Batch(2, 1, 1, (1,), bytes(32), 0),
        Batch(1, 1, 1, (-1,), bytes(16), 0),
        Batch(1, 1, 1, (5,), bytes(16), 0),
        Batch(1, 1, 1, (1,), bytes(3), 0),
        Batch(1, 1, 1, (1,), bytes(16), 0, ids=(1, 2)),
        Batch(1 << 40, 1, 1, (1,), bytes(16), 0),
    ],
)
def test_a_hostile_node_ends_the_connection_not_the_program(
    played: Peer, threads: ThreadPoolExecutor, batch: Batch
) -> None:
    hub = connect(played, threads)
    with hub.source("s").stream("t").group("g").subscribe() as member:
        asked = subscribed(played)
        played.send(Deliver(asked.channel, 0, 1, batch), b"x")
        with pytest.raises(errors.RemoteProtocolError):
            member.take()
    hub.close()
