"""What an HTTP connection may cost: memory, time, and how many there are."""

from __future__ import annotations

import asyncio
import socket

import pytest
from http_hall import Client, Hall, chunked, get, post, run

from beamstream import limits

HEAD, BODY, LINE = (
    limits.HTTP_HEAD_NBYTES_MAX,
    limits.HTTP_BODY_NBYTES_MAX,
    limits.HTTP_LINE_NBYTES_MAX,
)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get("/" + "x" * (LINE - 1)), 200),
        (get("/" + "x" * LINE), 414),
        (post("/x", b"b" * BODY), 200),
        (get("/x", f"Content-Length: {BODY + 1}"), 413),
        (chunked("/x", b"b" * (BODY // 2), b"b" * (BODY // 2)), 200),
        (chunked("/x", b"b" * BODY, b"b"), 413),
    ],
)
def test_lines_and_bodies_are_bounded(data: bytes, status: int) -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(data)
        assert (await client.answer())[0] == status
        if status != 200:
            await client.ended()

    run(test)


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /x HTTP/1.1\r\nA: ",
        b"POST /x HTTP/1.1\r\nContent-Length: 5\r\nA: ",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nA: ",
        chunked("/x")[:-2] + b"Trailer: ",
        chunked("/x")[:-5] + b"1;extension=",
    ],
)
def test_nothing_that_never_ends_is_kept(begin: bytes) -> None:
    """Also not after a header that says how long the body will be, and not behind the body."""

    async def test(hall: Hall, client: Client) -> None:
        client.send(begin)
        sent = 0
        try:
            while sent < 64 * limits.MIB and not client.reader.at_eof():
                client.send(b"x" * 65536)
                sent += 65536
                await client.writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        assert sent < 64 * limits.MIB
        assert not hall.requests

    run(test)


def test_a_slow_head_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STALL_SECONDS_MAX", 0.02)

    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/a") + b"GET /slow HT")
        assert await client.body() == b"/a "
        assert await client.ended() == b""
        other = await hall.connect()
        other.send(post("/x", b"hello")[:-1])
        assert await other.ended() == b""
        other.close()

    run(test)


def test_an_idle_connection_may_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STALL_SECONDS_MAX", 0.01)

    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/a"))
        await client.body()
        slow = await hall.connect()
        slow.send(b"GET /")
        await slow.ended()
        slow.close()
        client.send(b"\r\n" + get("/b"))
        assert await client.body() == b"/b "

    run(test)


def narrow(hall: Hall) -> socket.socket:
    """A peer that takes little before it reads."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect(("127.0.0.1", hall.port))
    peer.setblocking(False)
    return peer


@pytest.mark.parametrize("ahead", [b"", b"GET /ha", get("/a"), get("/a") + b"GET /ha"])
def test_who_stops_reading_is_cut_off(monkeypatch: pytest.MonkeyPatch, ahead: bytes) -> None:
    """Whatever is sent meanwhile."""
    monkeypatch.setattr(limits, "STALL_SECONDS_MAX", 0.05)

    async def test(hall: Hall, client: Client) -> None:
        peer = narrow(hall)
        await hall.loop.sock_sendall(peer, get("/big"))
        while not hall.owed:
            await asyncio.sleep(0)
        await hall.loop.sock_sendall(peer, ahead)
        await hall.drained
        await hall.gone.wait()
        peer.close()

    run(test)


def test_half_a_request_is_cut_off_also_when_an_answer_left_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "STALL_SECONDS_MAX", 0.5)

    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/big"))
        await client.reader.readuntil(b"\r\n\r\n")
        client.send(b"GET /ha")
        while not next(iter(hall.connections))._in_request:
            await asyncio.sleep(0)
        assert await client.reader.readexactly(hall.big.nbytes) == hall.big
        await hall.drained
        hall.owed.pop().end()
        assert await client.ended() == b""

    run(test)


def test_connections_are_bounded() -> None:
    async def test(hall: Hall, client: Client) -> None:
        others = [await hall.connect() for _ in range(2)]
        for other in [client, *others]:
            other.send(get("/a"))
            assert await other.body() == b"/a "
        refused = await hall.connect()
        assert (await refused.answer())[0] == 503
        assert await refused.ended() == b""
        for other in [refused, *others]:
            other.close()

    run(test)
