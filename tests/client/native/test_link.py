"""A client over a real socket, whose other side is played frame by frame."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import xxhash

import beamstream as bs
from beamstream import errors
from beamstream.client.native import subscription
from beamstream.client.native.session import State
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
    Goodbye,
    Hello,
    Nack,
    OpenWriter,
    Put,
    Receipt,
    Reply,
    StreamOpened,
    Subscribe,
    Unsubscribe,
)
from beamstream.wire.native.framing import pack_head
from client.native.scripted import Peer, peer


@pytest.fixture
def played() -> Iterator[Peer]:
    with peer() as made:
        yield made


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def connect(played: Peer, threads: ThreadPoolExecutor, **how: Any) -> bs.Hub:
    greeted = threads.submit(played.accept)
    hub = bs.connect(played.url, beamtime="demo", token="token", timeout=20, **how)
    greeted.result(20)
    return hub


def finished() -> calls.Finished:
    return calls.Finished(last_id=1)


# ---------------------------------------------------------------------------- connecting


def test_the_hello_says_who_comes(played: Peer, threads: ThreadPoolExecutor) -> None:
    greeted = threads.submit(played.accept)
    with bs.connect(played.url, beamtime="demo", token="t", instance="me", step="watch") as hub:
        hello = greeted.result(20)
        assert (hello.magic, hello.token, hello.beamtime) == ("beamstream", "t", "demo")
        assert (hello.instance, hello.step, len(hello.session)) == ("me", "watch", 16)
        assert hub.beamtime == "demo"
        assert hub.access == ("read", "write")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(errors.ConnectionLost, match="no node at"):
        bs.connect(f"tcp://127.0.0.1:{port}", token="t")


def test_a_bad_token(played: Peer, threads: ThreadPoolExecutor) -> None:
    def refuse() -> None:
        played._socket, _ = played._listener.accept()
        played.expect(Hello)
        played.send(Goodbye("E201", "this token has expired", "ask for a new one"))

    refused = threads.submit(refuse)
    with pytest.raises(errors.BadToken, match="has expired"):
        bs.connect(played.url, token="t")
    refused.result(20)


def test_a_peer_that_speaks_something_else(played: Peer, threads: ThreadPoolExecutor) -> None:
    def answer() -> None:
        played._socket, _ = played._listener.accept()
        played.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        played._socket.recv(4096)

    answered = threads.submit(answer)
    with pytest.raises(errors.ProtocolError):
        bs.connect(played.url, token="t")
    answered.result(20)


def test_a_silent_peer(played: Peer) -> None:
    with pytest.raises(errors.TimedOut):
        bs.connect(played.url, token="t", timeout=0.2)


# ---------------------------------------------------------------------------- writing


def test_sending(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    frame = np.arange(6, dtype="<u2").reshape(2, 3)
    writer = hub.source("s").stream("t").writer(level="os")
    opened = played.expect(OpenWriter)
    assert (opened.source, opened.stream, opened.level, len(opened.producer)) == ("s", "t", 1, 16)
    receipt = writer.send(frame, meta={"n": np.float32(0.5)})
    put, body = played.read()
    assert body == frame.tobytes()
    assert put.digests == xxhash.xxh3_128_digest(body)
    assert put.metas == (b'{"n":0.5}',)
    info = payload.unpack_info(put.infos)
    assert info is not None
    assert np.array_equal(payload.decode(info, body), frame)
    assert not receipt.done()
    played.receipt(put, 41)
    assert receipt.result(20).id == 41
    assert (receipt.level, receipt.duplicate, list(receipt.ids)) == (bs.Level.DISK, False, [41])
    with pytest.raises(errors.TimedOut):
        writer.send(b"x").result(0.01)
    played.receipt(played.expect(Put), 42)
    closed = threads.submit(writer.close)
    played.answer("finish", finished())
    played.expect(frames.CloseWriter)
    closed.result(20)
    with pytest.raises(errors.LocalProtocolError):
        writer.send(b"x")
    hub.close()


def test_failed_sends_raise_at_the_latest_on_exit(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    hub = connect(played, threads)

    def answer() -> None:
        for id in (1, 2):
            put = played.until(Put)
            played.send(Failed(put.channel, put.sequence, 1, "E401", f"{id} has other content"))

    answered = threads.submit(answer)

    def send() -> None:
        with hub.source("s").stream("t").writer() as writer:
            with pytest.raises(errors.IdConflict, match="1 has other content"):
                writer.send(b"a", id=1).result(20)
            writer.send(b"b", id=2)

    with pytest.raises(errors.IdConflict, match="2 has other content"):
        send()
    answered.result(20)
    hub.close()


def test_what_has_no_receipt_is_sent_again(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    writer = hub.source("s").stream("t").writer(finish=False)
    opened = played.expect(OpenWriter)
    big = np.ones(300_000, np.uint8)
    receipts = [writer.send(b"first"), writer.send(big), writer.send(b"last")]
    puts = [played.until(Put) for _ in range(2)]
    played.receipt(puts[0], 1)
    assert receipts[0].id == 1
    played.cut()
    played.accept()
    assert played.expect(OpenWriter) == opened
    sequences = []
    while sum(count for _, count in sequences) < 2:
        put = played.until(Put)
        sequences.append((put.sequence, put.count))
        played.receipt(put, put.sequence)
    assert [sequence for sequence, _ in sequences] == [2, 3]
    assert [receipt.id for receipt in receipts] == [1, 2, 3]
    hub.close()


def test_what_is_sent_while_the_node_is_away(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    writer = hub.source("s").stream("t").writer(finish=False)
    played.until(OpenWriter)
    played.cut()
    link = hub._link
    with link.lock:
        assert link.changed.wait_for(lambda: link.session.state is not State.UP, 20)
    frame = np.zeros(100_000, np.uint8)
    receipt = writer.send(frame)
    frame[:] = 1
    played.accept()
    played.until(OpenWriter)
    put, body = played.read()
    assert body == bytes(100_000)
    played.receipt(put, 1)
    assert receipt.id == 1
    hub.close()


def test_a_full_window_blocks(played: Peer, threads: ThreadPoolExecutor) -> None:
    greeted = threads.submit(played.accept, window_nbytes=1000)
    hub = bs.connect(played.url, beamtime="demo", token="token")
    greeted.result(20)
    writer = hub.source("s").stream("t").writer(finish=False, timeout=0.05)
    played.until(OpenWriter)
    writer.send(bytes(900))
    with pytest.raises(errors.TimedOut, match="not taken enough"):
        writer.send(bytes(200))
    played.receipt(played.until(Put), 1)
    writer.flush(20)
    writer.send(bytes(200))
    assert played.until(Put).sequence == 2
    hub.close(0)


def test_many_at_once(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    writer = hub.source("s").stream("t").writer(finish=False)
    values = [bytes([n % 256]) * (n % 7) for n in range(5000)]
    sending = threads.submit(writer.send_many, values, None, range(10, 5010))
    got: list[bytes] = []
    while len(got) < 5000:
        put, body = played.read()
        if isinstance(put, Put):
            at = 0
            for size in put.sizes:
                got.append(body[at : at + size])
                at += size
            played.receipt(put, put.id)
    receipt = sending.result(20)
    assert got == values
    assert receipt.count == 5000
    assert receipt.ids == range(10, 5010)
    stack = np.arange(60, dtype="<i4").reshape(5, 3, 4)
    receipt = writer.send_many(stack)
    put, body = played.read()
    assert body == stack.tobytes()
    assert put.sizes == (48,) * 5
    assert payload.unpack_info(put.infos) == payload.ArrayInfo("<i4", (3, 4))
    played.receipt(put, 1)
    with pytest.raises(errors.BadInput):
        writer.send_many([b"a"], ids=[1, 2])
    with pytest.raises(errors.BadInput):
        writer.send_many([b"a"], ids=[0])
    hub.close()


def test_a_frame_filled_in_place(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    writer = hub.source("s").stream("t").writer(finish=False)
    with (filled := writer.frame((200, 300), "u2", {"a": 1})) as array:
        array[:] = 7
    played.until(OpenWriter)
    put, body = played.read()
    assert np.array_equal(np.frombuffer(body, "u2"), np.full(60_000, 7))
    played.receipt(put, 9)
    assert filled.receipt is not None
    assert filled.receipt.id == 9
    with pytest.raises(RuntimeError), writer.frame(3, "u1"):
        raise RuntimeError
    writer.flush(20)
    hub.close()


def test_parts_and_names(played: Peer, threads: ThreadPoolExecutor, tmp_path: Any) -> None:
    hub = connect(played, threads)
    writer = hub.source("s").stream("t").writer(finish=False)
    file = tmp_path / "frame.cbf"
    file.write_bytes(b"###CBF")
    writer.send(b"p", id=3, substream=2, of=4)
    writer.send(file)
    writer.send(b"n", name="raw/a.bin")
    played.until(OpenWriter)
    part, named, other = (played.expect(Put) for _ in range(3))
    assert (part.id, part.substream, part.expected) == (3, 2, 4)
    assert (named.name, other.name) == ("frame.cbf", "raw/a.bin")
    for how in ({"substream": 2, "of": 4}, {"id": 1, "substream": 5, "of": 4}, {"name": "../x"}):
        with pytest.raises(errors.BadInput):
            writer.send(b"x", **how)
    hub.close(0)


# ---------------------------------------------------------------------------- reading


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


# ---------------------------------------------------------------------------- the rest


def test_questions_are_asked_again_after_a_break(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    asking = threads.submit(hub.sources)
    call = played.until(frames.Call)
    played.cut()
    played.accept()
    again = played.until(frames.Call)
    assert (again.number, again.method) == (call.number, "sources")
    played.send(Reply(again.number, calls.encode(["a"])))
    assert asking.result(20) == ["a"]
    hub.close()


def test_unknown_frames_are_passed_over(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    asking = threads.submit(hub.sources)
    call = played.until(frames.Call)
    played.send_raw(pack_head(999, 3, 200_000) + b"abc" + bytes(200_000))
    played.send(frames.Ping(5))
    played.send(Reply(call.number, calls.encode(["a"])))
    assert asking.result(20) == ["a"]
    assert played.until(frames.Pong).number == 5
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


def test_closing_wakes_all(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    waiting = threads.submit(lambda: list(hub.source("s").stream("t").group("g")))
    asking = threads.submit(hub.sources)
    played.until(frames.Call)
    hub.close()
    for future in (waiting, asking):
        with pytest.raises(errors.ConnectionLost):
            future.result(20)
    assert hub.closed
    hub.close()


def test_a_callback_that_fails_harms_nobody(
    played: Peer, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    hub = connect(played, threads)
    writer = hub.source("s").stream("t").writer(finish=False)
    called = threading.Event()

    def fails(_: bs.Receipt) -> None:
        called.set()
        raise RuntimeError("the user's own fault")

    receipt = writer.send(b"x")
    receipt.add_done_callback(fails)
    played.receipt(played.until(Put), 1)
    assert called.wait(20)
    receipt = writer.send(b"y")
    played.receipt(played.until(Put), 2)
    assert receipt.id == 2
    hub.close()
    assert "the user's own fault" in caplog.text


def test_the_node_says_when_to_come_again(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    writer = hub.source("s").stream("t").writer(finish=False)
    receipt = writer.send(b"x")
    played.until(Put)
    played.send(Goodbye("E800", "this node is stopping", retry=True))
    played.cut()
    played.accept()
    played.receipt(played.until(Put), 5)
    assert receipt.id == 5
    hub.close()


def test_patience_ends(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads, patience=0.1)
    writer = hub.source("s").stream("t").writer(finish=False)
    receipt = writer.send(b"x")
    played.until(Put)
    played.close()
    with pytest.raises(errors.ConnectionLost):
        receipt.result(30)
    hub.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told(played: Peer, threads: ThreadPoolExecutor) -> None:
    code = f"""
import os, sys
import beamstream as bs
hub = bs.connect({played.url!r}, token="t")
child = os.fork()
if not child:
    try:
        hub.sources()
    except bs.errors.LocalProtocolError as error:
        os._exit(7 if "forked" in str(error) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
hub.close(0)
"""
    greeted = threads.submit(played.accept)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    greeted.result(20)
    assert done.stdout.strip() == "7"


def test_a_program_that_does_not_close_ends_and_loses_nothing(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    code = f"""
import beamstream as bs
hub = bs.connect({played.url!r}, token="t")
writer = hub.source("s").stream("t").writer()
writer.send(b"last words")
"""

    def node() -> bytes:
        played.accept()
        while True:
            frame, body = played.read()
            if isinstance(frame, Put):
                played.send(Receipt(frame.channel, frame.sequence, frame.count, 2, 1, 1))
                return body

    heard = threads.submit(node)
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
    assert heard.result(20) == b"last words"


# ---------------------------------------------------------------------------- asyncio


def test_asyncio(played: Peer, threads: ThreadPoolExecutor) -> None:
    def node() -> list[str]:
        played.accept()
        seen: list[str] = []
        while True:
            frame, _ = played.read()
            seen.append(type(frame).__name__)
            match frame:
                case Put():
                    played.receipt(frame, 1)
                case Subscribe():
                    played.send(StreamOpened(frame.channel, 0, "s", "t"))
                    played.deliver(frame.channel, [b"a", b"b"], seq=1)
                    played.send(frames.End(frame.channel, 0, "finished"))
                case frames.Call():
                    result = finished() if frame.method == "finish" else ["s"]
                    played.send(Reply(frame.number, calls.encode(result)))
                    if frame.method == "sources":
                        return seen

    async def client() -> tuple[list[int], Any]:
        async with bs.aconnect(played.url, token="t") as hub:
            stream = hub.source("s").stream("t")
            async with stream.writer() as writer:
                receipts = [await writer.send(b"a"), await writer.send(np.ones(100_000))]
                for receipt in receipts:
                    await asyncio.wait_for(receipt, 20)
            group = stream.group("g")
            ids = [message.id async for message in group]
            assert await hub.sources() == ["s"]
            return ids, group.end

    played_node = threads.submit(node)
    ids, end = asyncio.run(client())
    assert ids == [1, 2]
    assert end.reason == "finished"
    seen = played_node.result(20)
    assert seen.count("Put") == 2
    assert "Unsubscribe" in seen


def test_asyncio_timeouts(played: Peer, threads: ThreadPoolExecutor) -> None:
    async def client() -> bs.End | None:
        async with bs.aconnect(played.url, token="t") as hub:
            group = hub.source("s").stream("t").group("g", timeout=0.05)
            assert [message async for message in group] == []
            async with group.subscribe() as member:
                with pytest.raises(errors.TimedOut):
                    await member.take(0.01)
            return group.end

    greeted = threads.submit(played.accept)
    assert asyncio.run(client()) == bs.End("timeout", "t")
    greeted.result(20)


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
