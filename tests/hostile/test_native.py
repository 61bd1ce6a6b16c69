"""The native door under attack."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import ConnectionLost
from beamstream.testing.native import NativeWire
from beamstream.wire.native import calls, frames
from beamstream.wire.native.framing import HEAD
from compat.doors import Doors, until
from hostile.impatient import CONNECTIONS_PER_CLIENT, LOGIN_SECONDS, STALL_SECONDS

pytestmark = pytest.mark.system

HELLO, PUT, CALL = 1, 12, 40


@contextlib.contextmanager
def known(doors: Doors, **more: str) -> Iterator[NativeWire]:
    """A connection that is logged in."""
    with NativeWire.of(doors.node) as wire:
        wire.login(doors.token, **more)
        yield wire


def ends(wire: NativeWire, seconds: float = 10.0) -> None:
    """The node closes the connection."""
    wire.socket.settimeout(seconds)
    with contextlib.suppress(ConnectionError, ConnectionLost):
        while wire.socket.recv(65536):
            pass


def still_works(doors: Doors, source: str) -> None:
    with known(doors) as wire:
        wire.open_writer(source, "works")
        assert wire.put([b"good"]).count == 1
        assert wire.fetch(source, "works", 1) == [b"good"]


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        bytes(16),
        b"\xff" * 16,
        HEAD.pack(HELLO, 0, 2**32 - 1, 0),
        HEAD.pack(HELLO, 0, limits.CREDENTIALS_NBYTES_MAX + 1, 0),
        HEAD.pack(HELLO, 0, 10, 2**63),
        HEAD.pack(HELLO, 0, 10, 1),
        HEAD.pack(HELLO, 1, 10, 0),
        HEAD.pack(HELLO, 0, 5, 0) + b"\x91\xa1a\xc0\xc0",
        HEAD.pack(PUT, 0, 10, 0) + bytes(10),
        HEAD.pack(999, 0, 1, 0) + b"\x90",
        HEAD.pack(HELLO, 0, 6, 0) + b"\xdd\xff\xff\xff\xff\x00",
    ],
)
def test_garbage_before_the_login(doors: Doors, text: bytes) -> None:
    with NativeWire.of(doors.node) as wire:
        wire.socket.sendall(text)
        ends(wire)


@pytest.mark.parametrize(
    "text",
    [
        HEAD.pack(PUT, 0, limits.NATIVE_HEADER_NBYTES_MAX + 1, 0),
        HEAD.pack(PUT, 0, 10, limits.PAYLOAD_NBYTES_MAX + 1),
        HEAD.pack(PUT, 7, 10, 10),
        HEAD.pack(PUT, 0, 4, 0) + b"\xff\xff\xff\xff",
        HEAD.pack(PUT, 0, 6, 0) + b"\xdd\xff\xff\xff\xff\x00",
        HEAD.pack(CALL, 0, 1, 0) + b"\x90",
        frames.encode(frames.Welcome(1, 1, 1, "", "", (), 0, 0, 0)),
        frames.encode(frames.Credit(1, -1, 0)),
    ],
)
def test_garbage_after_the_login(doors: Doors, source: str, text: bytes) -> None:
    with known(doors) as wire:
        wire.socket.sendall(text)
        goodbye = wire.closed()
        assert goodbye is not None
        assert not goodbye.retry
    still_works(doors, source)


def test_kinds_of_a_later_version(doors: Doors, source: str) -> None:
    """Bodies and headers of unknown kinds are passed over; the connection goes on."""
    with known(doors) as wire:
        wire.socket.sendall(HEAD.pack(4711, 0, 3, 100_000) + b"abc" + bytes(100_000))
        failed = wire.expect(frames.Failed)
        assert (failed.channel, failed.code) == (0, "E702")
        wire.open_writer(source, "s")
        assert wire.put([b"x"]).id == 1


def test_announced_and_never_sent(hurried: Doors, source: str) -> None:
    """Huge lengths cost nothing until the bytes come, and the silent are cut off."""
    rss = hurried.node.rss_nbytes()
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(known(hurried)) for _ in range(8)]
        for wire in wires[:4]:
            wire.open_writer(source, "s")
            put = frames.Put(1, 1, 1, (limits.PAYLOAD_NBYTES_MAX,), bytes(16), name="processed/x")
            wire.socket.sendall(frames.encode(put, limits.PAYLOAD_NBYTES_MAX)[:-1])
        for wire in wires[4:]:
            wire.socket.sendall(HEAD.pack(PUT, 0, 2**20, 0) + b"\x90")
        silent = stack.enter_context(NativeWire.of(hurried.node))
        idle = stack.enter_context(known(hurried))
        begin = time.monotonic()
        ends(silent, LOGIN_SECONDS + 5)
        for wire in wires:
            ends(wire, 2 * STALL_SECONDS + 5)
        assert time.monotonic() - begin < 2 * STALL_SECONDS + 5
        assert hurried.node.rss_nbytes() - rss < 16 * 2**20
        idle.send(frames.Ping(1))
        assert idle.expect(frames.Pong).number == 1
    still_works(hurried, source)


@pytest.mark.parametrize("name", ["", "processed/dies"])
@pytest.mark.parametrize("cut", [1, 17, 40, 1000, 70_000, 3_999_999])
@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_peer_that_dies_in_a_put(
    doors: Doors, source: str, name: str, cut: int, how: str
) -> None:
    payload = os.urandom(4_000_000)
    path = f"{name}_{source}" if name else ""
    with known(doors) as wire:
        wire.open_writer(source, "s")
        put = frames.Put(
            1, 1, 1, (len(payload),), xxhash.xxh3_128_digest(payload), name=path
        )  # fmt: skip
        text = frames.encode(put, len(payload)) + payload
        wire.socket.sendall(text[:cut])
        if how == "abort":
            wire.abort()
        else:
            wire.close()
    with known(doors) as wire:
        wire.open_writer(source, "s")
        assert wire.put([payload], name=path).id == 1
    until(lambda: not list(doors.core.rglob(".part-*")), "nothing unfinished is left")


def test_floods_of_channels_and_calls(doors: Doors, source: str) -> None:
    with known(doors) as wire:
        count = limits.NATIVE_CHANNELS_MAX + 10
        wire.socket.sendall(
            b"".join(
                frames.encode(frames.OpenWriter(k, source, f"s{k % 7}", bytes(16)))
                for k in range(1, count + 1)
            )
        )
        for k in range(limits.NATIVE_CHANNELS_MAX + 1, count + 1):
            failed = wire.expect(frames.Failed)
            assert (failed.channel, failed.code) == (k, "E602")
    with known(doors) as wire:
        wire.socket.settimeout(60)
        wire.open_writer(source, "many")
        wire.put([b"x" * 10] * 100, [b'{"n": 1}'] * 100)
        query = calls.encode(calls.Search(source=source, stream="many", query="meta.n = 1"))
        text = b"".join(frames.encode(frames.Call(k, "search", query)) for k in range(1, 1001))
        wire.socket.sendall(text)
        seen = sorted(wire.expect(frames.Reply).number for _ in range(1000))
        assert seen == list(range(1, 1001))


def test_who_asks_and_never_reads(doors: Doors, source: str) -> None:
    """Answers wait in bounded memory; nobody else is disturbed."""
    with known(doors) as wire:
        wire.open_writer(source, "s")
        wire.put([os.urandom(4_000_000)])
    rss = doors.node.rss_nbytes()
    deaf: list[NativeWire] = []
    fetch = calls.encode(calls.Fetch(source=source, stream="s", lo=1, hi=2))
    for _ in range(4):
        wire = NativeWire.of(doors.node)
        wire.login(doors.token)
        wire.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            for number in range(1, 200_000):
                wire.send(frames.Call(number, "fetch", fetch), b"")
                wire.send(frames.Ping(number))
        deaf.append(wire)
    still_works(doors, source)
    assert doors.node.rss_nbytes() - rss < 64 * 2**20
    for wire in deaf:
        wire.abort()


def test_readers_that_stop_reading(hurried: Doors, source: str) -> None:
    """They are cut off; what they had leased goes to others."""
    with known(hurried) as writer:
        writer.open_writer(source, "s", level=0)
        payloads = [os.urandom(1_000_000) for _ in range(24)]
        for payload in payloads:
            writer.put([payload])
        deaf = NativeWire.of(hurried.node)
        deaf.login(hurried.token, instance="deaf")
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        deaf.send(frames.Subscribe(1, source, "s", "g", credit_messages=100, credit_nbytes=2**28))
        deaf.expect(frames.StreamOpened)
        with known(hurried) as reader:
            reader.socket.settimeout(2 * STALL_SECONDS + limits.NATIVE_RESUME_SECONDS + 10)
            reader.send(
                frames.Subscribe(1, source, "s", "g", credit_messages=100, credit_nbytes=2**28)
            )
            reader.expect(frames.StreamOpened)
            got: dict[int, bytes] = {}
            while len(got) < len(payloads):
                frame, body = reader.receive()
                if isinstance(frame, frames.Deliver):
                    got[frame.batch.id] = body
        assert [got[k] for k in range(1, 25)] == payloads
        deaf.close()


def test_too_many_connections(hurried: Doors) -> None:
    with contextlib.ExitStack() as crowd:
        for _ in range(CONNECTIONS_PER_CLIENT):
            crowd.enter_context(known(hurried, instance="crowd"))
        with NativeWire.of(hurried.node) as one_more:
            one_more.send(
                frames.Hello(frames.MAGIC, 1, hurried.token, "", bytes(16), instance="crowd")
            )
            goodbye = one_more.closed()
            assert goodbye is not None
            assert (goodbye.code, goodbye.retry) == ("E602", True)
        with known(hurried, instance="other"):
            pass


def test_names_that_are_refused(doors: Doors, source: str) -> None:
    with known(doors) as wire:
        for channel, (one, two) in enumerate(
            [('a"b', "s"), ("", "s"), (source, "x\\y"), (source, "a\x00b"), ("x" * 1024, "s")], 1
        ):
            wire.send(frames.OpenWriter(channel, one, two, bytes(16)))
            assert wire.expect(frames.Failed).code == "E101"
            wire.send(frames.Subscribe(channel, one, two, "g"))
            assert wire.expect(frames.Failed).code == "E101"
        wire.open_writer(source, "s", channel=50)
        for name in ("../../x", "/etc/x", "processed/../../x", "processed/a\\b", "raw/x", "x"):
            wire.begin_put([b"x"], channel=50, name=name)
            assert wire.expect(frames.Failed).code == "E101"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_frames_that_were_damaged(doors: Doors, source: str, data: st.DataObject) -> None:
    """Bits of good traffic are flipped, cut and doubled: the node answers or closes."""
    good = b"".join(
        (
            frames.encode(frames.OpenWriter(1, source, "d", bytes(16), 0)),
            frames.encode(frames.Put(1, 1, 2, (3, 4), bytes(32)), 7) + b"abcdefg",
            frames.encode(frames.Subscribe(2, source, "d", "g", credit_messages=9)),
            frames.encode(frames.Call(3, "fetch", calls.encode(
                calls.Fetch(source=source, stream="d", lo=1, hi=9)))),
            frames.encode(frames.Ack(2, 0, 1, ((1, 3),), call=4)),
        )
    )  # fmt: skip
    text = bytearray(good)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(text) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                text[at] ^= 1 << data.draw(st.integers(0, 7))
            case 1:
                text[at : at + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
            case _:
                del text[at : at + data.draw(st.integers(1, 20))]
    with known(doors) as wire:
        with contextlib.suppress(ConnectionError):
            wire.socket.sendall(text)
            wire.socket.shutdown(socket.SHUT_WR)
        ends(wire)
