"""HTTP connections over real sockets: what is understood and what is refused."""

from __future__ import annotations

import asyncio

import pytest
from http_hall import Client, Hall, chunked, get, post, run
from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream import limits


def test_requests_one_after_the_other_on_one_connection() -> None:
    async def test(hall: Hall, client: Client) -> None:
        for number in range(5):
            client.send(post(f"/a/%2F?{number}", b"hello", "Cookie: c=1"))
            assert await client.body() == b"/a/%%2F?%d hello" % number
        assert {request.cookie for request in hall.requests} == {b"c=1"}
        assert {request.method for request in hall.requests} == {b"POST"}
        client.send(get("/nothing"))
        status, headers, _ = await client.answer()
        assert status == 204
        assert "Content-Length" not in headers
        client.send(get("/end", "Connection: close"))
        status, headers, body = await client.answer()
        assert (status, headers["Connection"], body) == (200, "close", b"/end ")
        assert await client.ended() == b""
        await hall.gone.wait()

    run(test)


@pytest.mark.parametrize("target", ["/x", "/nothing"])
def test_http_1_0_is_answered_and_closed(target: str) -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        assert (await client.answer())[1]["Connection"] == "close"
        assert await client.ended() == b""

    run(test)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60).map(lambda body: (post("/p", body), b"/p " + body)),
            st.lists(st.binary(min_size=1, max_size=30), max_size=4).map(
                lambda chunks: (chunked("/c", *chunks), b"/c " + b"".join(chunks))
            ),
            st.just((b"\r\n" + get("/g"), b"/g ")),
        ),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.integers(0, 2000), max_size=6),
)
def test_any_split_of_pipelined_requests_is_answered_in_order(
    asked: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    data = b"".join(request for request, _ in asked)

    async def test(hall: Hall, client: Client) -> None:
        start = 0
        for cut in sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)}):
            client.send(data[start:cut])
            await asyncio.sleep(0)
            start = cut
        for _, body in asked:
            assert await client.body() == body

    run(test)


def test_what_is_sent_ahead_waits_for_the_answer_before() -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/later") + get("/a") + get("/later") + get("/b"))
        for body in (b"first", b"third"):
            while not hall.owed:
                await asyncio.sleep(0)
            seen = len(hall.requests)
            hall.owed.pop().reply(200, body)
            assert await client.body() == body
            assert len(hall.requests) == seen + 1 + (body == b"first")
            assert await client.body() == (b"/a " if body == b"first" else b"/b ")

    run(test)


def test_too_many_requests_ahead_end_the_connection() -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/later") + get("/a") * (limits.HTTP_PIPELINED_MAX + 1))
        await client.ended()
        assert len(hall.requests) == 1
        assert len(hall.connections) == 1

    run(test)


def test_a_client_may_ask_before_it_sends_a_body() -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(post("/x", b"hello", "Expect: 100-continue")[:-5])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert await client.body() == b"/x hello"

    run(test)


CL, TE = "Content-Length: 5", "Transfer-Encoding: chunked"

SMUGGLING = {
    "two lengths": post("/x", b"hello", CL),
    "other lengths": post("/x", b"hello", "Content-Length: 6"),
    "length and chunks": post("/x", b"0\r\n\r\n", TE),
    "chunks and length": chunked("/x").replace(TE.encode(), f"{TE}\r\n{CL}".encode()),
    "chunked twice": chunked("/x").replace(TE.encode(), f"{TE}\r\n{TE}".encode()),
    "chunked, chunked": chunked("/x").replace(b"chunked", b"chunked, chunked"),
    "identity": chunked("/x").replace(b"chunked", b"identity"),
    "xchunked": chunked("/x").replace(b"chunked", b"xchunked"),
    "space before colon": chunked("/x").replace(b"Encoding:", b"Encoding :"),
    "vertical tab": chunked("/x").replace(b": chunked", b":\x0bchunked"),
    "plus": get("/x", "Content-Length: +5"),
    "minus": get("/x", "Content-Length: -5"),
    "hexadecimal": get("/x", "Content-Length: 0x5"),
    "list of lengths": get("/x", "Content-Length: 5, 5"),
    "no length": get("/x", "Content-Length: "),
    "huge length": get("/x", f"Content-Length: {'9' * 5000}"),
    "folded": get("/x", "A: b", " c"),
    "bare newlines": b"GET /x HTTP/1.1\nHost: a\n\n",
    "bare return": get("/x", "A: b\rC: d"),
    "nul": get("/x", "A: b\0c"),
    "chunk size with 0x": chunked("/x", b"hello").replace(b"\r\n5\r\n", b"\r\n0x5\r\n"),
    "chunk too long": chunked("/x", b"hello").replace(b"hello", b"helloX"),
    "chunk size overflow": chunked("/x", b"h").replace(b"\r\n1\r\n", b"\r\n" + b"f" * 17 + b"\r\n"),
    "length in trailer": chunked("/x").replace(b"0\r\n", b"0\r\nContent-Length: 3\r\n"),
    "space in target": get("/a b"),
    "no method": get("/x").replace(b"GET", b"get"),
    "header without name": get("/x", ": y"),
    "header with space": get("/x", "A b: y"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "upgrade": get("/x", "Connection: Upgrade", "Upgrade: websocket"),
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_what_two_servers_might_understand_differently_is_refused(name: str) -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(SMUGGLING[name] + get("/smuggled"))
        rest = await client.ended()
        assert b"/smuggled" not in rest
        assert not [request for request in hall.requests if b"smuggled" in request.target]
        if not rest.startswith(b"HTTP/1.1 200 "):
            assert rest.startswith(b"HTTP/1.1 4")
            assert b"Connection: close" in rest

    run(test)


def test_a_large_answer_leaves_in_its_time_and_the_next_follows() -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/big") + get("/a"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: %d" % hall.big.nbytes in head
        assert await client.reader.readexactly(hall.big.nbytes) == hall.big
        await hall.drained
        hall.owed.pop().end()
        assert await client.body() == b"/a "

    run(test)


def test_who_goes_away_is_noticed() -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/later"))
        while not hall.owed:
            await asyncio.sleep(0)
        client.close()
        await hall.gone.wait()
        owed = hall.owed.pop()
        owed.reply(200, b"too late")
        called: list[int] = []
        owed.send(b"too late", lambda: called.append(1))
        assert called == [1]

    run(test)


def test_an_answer_that_cannot_be_ended_is_noticed_by_the_peer() -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/big"))
        await client.reader.readuntil(b"\r\n\r\n")
        hall.owed.pop().abort()
        assert len(await client.ended()) < hall.big.nbytes

    run(test)


def test_a_node_that_stops_finishes_what_it_has_begun() -> None:
    async def test(hall: Hall, client: Client) -> None:
        client.send(get("/later"))
        while not hall.owed:
            await asyncio.sleep(0)
        idle = await hall.connect()
        idle.send(get("/a"))
        assert await idle.body() == b"/a "
        hall.admission.stop()
        assert await idle.ended() == b""
        hall.owed.pop().reply(200, b"done")
        status, headers, body = await client.answer()
        assert (status, headers["Connection"], body) == (200, "close", b"done")
        assert await client.ended() == b""
        idle.close()

    run(test)
