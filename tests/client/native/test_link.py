"""A client over a real socket, whose other side is played frame by frame."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import xxhash

import beamstream as bs
from beamstream import errors
from beamstream.client.native import link
from beamstream.client.native.session import State
from beamstream.wire import payload
from beamstream.wire.native import calls, frames
from beamstream.wire.native.frames import (
    Failed,
    Goodbye,
    Hello,
    OpenWriter,
    Put,
    Receipt,
    Reply,
    StreamOpened,
    Subscribe,
)
from beamstream.wire.native.framing import pack_head
from client.native.scripted import Peer, connect


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
    broken = hub._link
    with broken.lock:
        assert broken.changed.wait_for(lambda: broken.session.state is not State.UP, 20)
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


def test_a_silent_node_is_given_up(
    played: Peer, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "QUIET_S", 0.05)
    monkeypatch.setattr(link, "DEAD_S", 0.1)
    hub = connect(played, threads)
    asking = threads.submit(hub.sources)
    number = played.until(frames.Ping).number
    played.send(frames.Pong(number))
    played.until(frames.Ping)
    # No answer any more, but the connection is open: another one is made.
    played.accept()
    call = played.until(frames.Call)
    played.send(Reply(call.number, calls.encode(["a"])))
    assert asking.result(20) == ["a"]
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


def test_large_arrays_have_left_when_send_is_back(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    """Also when it is another thread that sends them."""
    hub = connect(played, threads)
    link = hub._link
    with link._send_lock:
        pumping = threads.submit(link.pump, all_of_it=True)
        with pytest.raises(TimeoutError):
            pumping.result(0.02)
    pumping.result(20)
    hub.close()
