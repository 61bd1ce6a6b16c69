"""Requests that two HTTP parsers could read in two ways, or that never end."""

from __future__ import annotations

import contextlib

import pytest

from beamstream import limits
from compat.doors import Doors
from compat.wire import Answer, Http

pytestmark = pytest.mark.system

SMUGGLED = "GET /asapo-discovery/v0.1/asapo-receiver?protocol=v0.7 HTTP/1.1\r\nHost: h\r\n\r\n"


def answers(http: Http, request: str | bytes) -> list[Answer]:
    """All that comes back until the node closes, or one answer if it does not."""
    http.send(request.encode("latin-1") if isinstance(request, str) else request)
    got: list[Answer] = []
    http.socket.settimeout(1.0)
    with contextlib.suppress(ConnectionError, TimeoutError):
        while len(got) < 5:
            got.append(http.answer())
    return got


AMBIGUOUS = {
    "length and chunks": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": "POST {t} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
    "Content-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 80\r\n\r\n"
    + SMUGGLED,
    "list of lengths": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: 0, 80\r\n\r\n" + SMUGGLED,
    "negative length": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n" + SMUGGLED,
    "signed length": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n" + SMUGGLED,
    "length in words": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: five\r\n\r\n" + SMUGGLED,
    "endless length": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: " + "9" * 40 + "\r\n\r\n",
    "unknown coding": "POST {t} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n"
    + SMUGGLED,
    "coding twice": "POST {t} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
    "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "folded header": "GET {t} HTTP/1.1\r\nHost: h\r\nX-A: b\r\n Content-Length: 5\r\n\r\n",
    "blank before the colon": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length : 80\r\n\r\n"
    + SMUGGLED,
    "header without a colon": "GET {t} HTTP/1.1\r\nHost: h\r\nnonsense\r\n\r\n",
    "NUL in a header": "GET {t} HTTP/1.1\r\nHost: h\r\nX-A: a\0b\r\n\r\n",
    "return in a header": "GET {t} HTTP/1.1\r\nHost: h\r\nX-A: a\rb\r\n\r\n",
    "lines end bare": "GET {t} HTTP/1.1\nHost: h\n\n",
    "bare end of the head": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\n\n" + SMUGGLED,
    "wrong version": "GET {t} HTTP/9.9\r\nHost: h\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "blank in the target": "GET {t} x HTTP/1.1\r\nHost: h\r\n\r\n",
    "no method": " {t} HTTP/1.1\r\nHost: h\r\n\r\n",
    "bad chunk": "POST {t} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    "-5\r\nabcde\r\n",
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_ambiguous_requests(doors: Doors, kind: str) -> None:
    """One refusal and the end of the connection; what comes behind is not read as a request."""
    target = f"{doors.base()}/size{doors.query()}"
    with doors.http() as http:
        got = answers(http, AMBIGUOUS[kind].replace("{t}", target))
        assert len(got) <= 1
        assert all(400 <= answer.status < 506 for answer in got), got
        assert http.closed()


def test_a_body_in_chunks(doors: Doors, source: str) -> None:
    """Allowed by HTTP, sent by nobody: taken or refused, but not misread."""
    target = f"{doors.base('s', source)}/0/querymessages{doors.query()}"
    with doors.http() as http:
        head = f"POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        got = answers(http, head + "5\r\n_id >\r\n2\r\n 0\r\n0\r\n\r\n")
        assert [answer.status for answer in got] in ([200], [411], [400], [501])


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /" + "x" * limits.HTTP_LINE_NBYTES_MAX + " HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: " + "y" * limits.HTTP_HEAD_NBYTES_MAX + "\r\n\r\n", 431),
        ("GET / HTTP/1.1\r\n" + "X: y\r\n" * 20_000 + "\r\n", 431),
        (
            "POST {t} HTTP/1.1\r\nHost: h\r\n"
            f"Content-Length: {limits.HTTP_BODY_NBYTES_MAX + 1}\r\n\r\n",
            413,
        ),
        ("POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999\r\n\r\n", 413),
        ("A" * 200_000, 400),
    ],
)
def test_oversize_requests(doors: Doors, request_text: str, status: int) -> None:
    rss = doors.node.rss_nbytes()
    target = f"{doors.base()}/0/querymessages{doors.query()}"
    with doors.http() as http:
        with contextlib.suppress(ConnectionError):
            http.send(request_text.replace("{t}", target).encode())
        with contextlib.suppress(ConnectionError):
            assert http.answer().status in (status, 400)
        assert http.closed()
    assert doors.node.rss_nbytes() - rss < 4 * 2**20


def test_chunks_without_end(doors: Doors) -> None:
    target = f"{doors.base()}/0/querymessages{doors.query()}"
    with doors.http() as http:
        http.send(
            f"POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                http.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        with contextlib.suppress(ConnectionError):
            assert http.answer().status >= 400
        assert http.closed()


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "/..", "/../../etc/passwd", "/v0.7", "/v0.7/", "/v0.7/beamtime", "//", "*",
        "/v0.7/beamtime/bt1/src1/s/g/next/more/and/more", "/asapo-discovery/v0.1/nothing",
        "/debug/pprof", "/metrics/../key", "http://elsewhere/x", "/v0.2/transfer/../../key",
    ],
)  # fmt: skip
def test_targets_that_do_not_exist(doors: Doors, path: str) -> None:
    with doors.http() as http:
        answer = http.get(path)
        assert answer.status in (400, 404), answer
        assert http.get("/asapo-discovery/v0.1/asapo-receiver?protocol=v0.7").status == 200


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "TRACE", "CONNECT", "OPTIONS", "get", "X" * 50]
)
def test_methods(doors: Doors, method: str) -> None:
    with doors.http() as http:
        got = answers(
            http, f"{method} {doors.base()}/size{doors.query()} HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert len(got) == 1
        assert got[0].status in (400, 404, 405, 501)
        assert b"size" not in got[0].body


def test_requests_in_one_piece(doors: Doors) -> None:
    """Pipelined requests are answered in order, each once."""
    target = f"{doors.base()}/size{doors.query()}"
    with doors.http() as http:
        http.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode() * 50)
        assert [http.answer().text for _ in range(50)] == ['{"size":0}'] * 50


def test_a_request_byte_by_byte(doors: Doors) -> None:
    target = f"{doors.base()}/size{doors.query()}"
    with doors.http() as http:
        for byte in f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode():
            http.send(bytes([byte]))
        assert http.answer().text == '{"size":0}'


def test_answers_are_not_for_browsers(doors: Doors) -> None:
    """Names may be anything: no page may be made of them, no other site may read them."""
    with doors.http() as http:
        answer = http.get(f"{doors.base('<script>')}/0/1{doors.query()}")
        assert "access-control-allow-origin" not in answer.headers
        assert "html" not in answer.headers.get("content-type", "")
        assert answer.headers.get("x-content-type-options") == "nosniff"
