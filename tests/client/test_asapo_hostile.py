"""Our ASAPO clients against servers that lie."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.client.asapo import NotInCache, Producer
from beamstream.client.asapo.address import parse_address
from beamstream.client.asapo.http import Http
from beamstream.client.asapo.link import Link
from beamstream.errors import (
    BadInput,
    BadName,
    ConnectionLost,
    RemoteProtocolError,
    TimedOut,
    TooLarge,
)
from beamstream.wire.asapo.calls import Call, Kind
from beamstream.wire.asapo.structs import pack_reply

from .scripted import TOKEN, broker, consuming, http, read_http, read_request, record, serve


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "a//b", "x\x00y"])
@pytest.mark.parametrize("filesystem", [True, False])
def test_names_from_the_server_never_leave_the_folder(
    tmp_path: Path, name: str, filesystem: bool
) -> None:
    (tmp_path / "secret").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    with (
        broker(lambda call, body: http(200, record(name=name))) as (endpoint, calls),
        consuming(endpoint, source_path=str(tmp_path / "folder"), filesystem=filesystem) as c,
        pytest.raises(BadName),
    ):
        c.next("g", "s")
    assert [c.kind for c in calls] == [Kind.NEXT]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "f").symlink_to(tmp_path / "secret")
    with (
        broker(lambda call, body: http(200, record(name="f"))) as (endpoint, _),
        consuming(endpoint, source_path=str(tmp_path / "folder"), filesystem=True) as consumer,
        pytest.raises(BadName, match="outside"),
    ):
        consumer.next("g", "s")


@pytest.mark.parametrize("size", [2**62, 2**63, limits.PAYLOAD_NBYTES_MAX + 1])
def test_an_announced_size_beyond_the_limit_is_not_allocated(size: int) -> None:
    with (
        broker(lambda call, body: http(200, record(size=size, buf_id=1))) as (endpoint, calls),
        consuming(endpoint) as consumer,
        pytest.raises(TooLarge),
    ):
        consumer.next("g", "s")
    assert [c.kind for c in calls] == [Kind.NEXT]


def test_a_huge_file_size_is_not_allocated() -> None:
    def answer(call: Call, body: bytes) -> bytes:
        if call.kind is Kind.FOLDER:
            return http(200, b"token")
        if call.kind is Kind.TRANSFER:
            return http(200, b'{"file_size":4611686018427387904}')
        return http(200, record(size=0))

    with (
        broker(answer) as (endpoint, _),
        consuming(endpoint) as consumer,
        pytest.raises(TooLarge),
    ):
        consumer.next("g", "s")


def test_a_record_does_not_send_readers_to_other_hosts() -> None:
    """198.51.100.1 is an address for documentation: a connection would hang, not be refused."""
    fields = record(source="198.51.100.1:22", buf_id=1, ingest_mode=9)
    with (
        broker(lambda call, body: http(200, fields)) as (endpoint, _),
        consuming(endpoint) as consumer,
        pytest.raises(NotInCache),
    ):
        consumer.next("g", "s")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"_id":1}',
        record(_id="1"),
        record(size=-1),
        record(size=1.5),
        record(meta=[1]),
        record(buf_id=2**64),
        record(name=None),
    ],
)
def test_records_that_are_none(body: bytes) -> None:
    with (
        broker(lambda call, _: http(200, body)) as (endpoint, _),
        consuming(endpoint) as consumer,
        pytest.raises(RemoteProtocolError),
    ):
        consumer.by_id(1, "s")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HTTP_ANSWERS = {
    "no http": b"SSH-2.0-OpenSSH\r\n\r\n",
    "length 2^62": b"HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\n",
    "length negative": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "length signed": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n",
    "gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "huge chunk": CHUNKED + b"4000000000000000\r\n",
    "bad chunk": CHUNKED + b"zz\r\n",
    "chunk without end": CHUNKED + b"2\r\nabXX",
    "folded": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n folded\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000,
    "endless trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 99,
    "cut body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
}


@pytest.mark.parametrize("what", HTTP_ANSWERS)
def test_hostile_http(what: str) -> None:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(100_000)
        connection.sendall(HTTP_ANSWERS[what])

    client = Http()
    with serve(handle) as own, pytest.raises((RemoteProtocolError, TooLarge, ConnectionLost)):
        client.request(parse_address(own), "GET", "/x", timeout_s=10)
    client.close()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            CHUNKED + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            5,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nhello", 5),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", 5),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
    ],
)
@pytest.mark.parametrize("buffered", [False, True])
def test_bodies_in_every_form(answer: bytes, body: int, buffered: bool) -> None:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(100_000)
        for byte in answer:
            connection.send(bytes([byte]))

    client = Http()
    room = bytearray(10)
    with serve(handle) as own:
        response = client.request(
            parse_address(own),
            "GET",
            "/x",
            timeout_s=10,
            into=memoryview(room) if buffered else None,
        )
    assert response.nbytes == body
    assert (bytes(room[:body]) if buffered and body else response.body) == b"hello"[:body]
    client.close()


def test_a_body_larger_than_the_buffer_is_refused() -> None:
    def handle(connection: socket.socket, number: int) -> None:
        connection.recv(100_000)
        connection.sendall(http(200, b"hello"))

    client = Http()
    with serve(handle) as own, pytest.raises(TooLarge):
        client.request(parse_address(own), "GET", "/x", timeout_s=10, into=memoryview(bytearray(4)))
    client.close()


def test_a_server_that_never_answers_is_given_up() -> None:
    def handle(connection: socket.socket, number: int) -> None:
        while connection.recv(1000):
            pass

    client = Http()
    with serve(handle) as own, pytest.raises(TimedOut):
        client.request(parse_address(own), "GET", "/x", timeout_s=0.05)
    client.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"MaxConnections":1,"Uris":["no address"]}',
        b'{"MaxConnections":1,"Uris":["a:99999"]}',
        b'{"MaxConnections":1}',
    ],
)
def test_discovery_that_is_none(body: bytes) -> None:
    def handle(connection: socket.socket, number: int) -> None:
        while True:
            read_http(connection)
            connection.sendall(http(200, body))

    with serve(handle) as own:
        producer = Producer(own, beamtime="bt1", token=TOKEN, timeout_s=0.05, retry_s=0.01)
        future = producer.send(1, "processed/f", b"x", stream="s")
        assert isinstance(future.exception(10), RemoteProtocolError)
        producer.close()


@given(st.text(max_size=60) | st.from_regex(r"[a-z0-9.:/\[\]]{1,30}", fullmatch=True))
def test_addresses_are_read_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except BadInput:
        return
    assert parse_address(str(address)) == address


# ------------------------------------------------------------------------------ tcp links


def test_a_peer_that_says_nothing_is_given_up() -> None:
    def handle(connection: socket.socket, number: int) -> None:
        while connection.recv(100_000):
            pass

    with serve(handle) as own:
        link = Link(parse_address(own), 0.1)
        with pytest.raises(TimedOut, match="sends nothing"):
            link.ask((bytes(2120),))
        link.close()


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    done = threading.Event()

    def handle(connection: socket.socket, number: int) -> None:
        assert done.wait(30)

    with serve(handle) as own:
        link = Link(parse_address(own), 0.1)
        with pytest.raises(TimedOut, match="takes nothing"):
            link.ask((bytes(2120), bytes(50_000_000)))
        done.set()
        link.close()


def test_a_data_server_that_stops_within_a_payload_is_not_believed() -> None:
    def handle(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(pack_reply(6, 0) + b"hel")

    with (
        serve(handle) as source,
        broker(lambda call, body: http(200, record(source=source, buf_id=1, ingest_mode=9))) as (
            endpoint,
            _,
        ),
        consuming(endpoint) as consumer,
        pytest.raises(NotInCache),
    ):
        consumer.next("g", "s")
