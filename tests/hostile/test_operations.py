"""Operations that do not exist, come too early, or knock at the wrong door."""

from __future__ import annotations

import contextlib
import random

import pytest

from compat.doors import Doors, parse_address
from compat.wire import (
    AUTHORIZE,
    DATASET,
    DELETE_STREAM,
    DENIED,
    GET_META,
    LAST_STREAM,
    METADATA,
    OK,
    STREAM_INFO,
    TRANSFER,
    UNSUPPORTED,
    WRONG,
    Reply,
    Tcp,
    header,
)

pytestmark = pytest.mark.system

UNKNOWN = [0, 1, 6, 11, 13, 99, 128, 255]


def outcome(wire: Tcp) -> Reply | None:
    """A reply, or None when the node closes instead."""
    with contextlib.suppress(ConnectionError):
        return wire.reply()
    return None


@pytest.mark.parametrize("op", UNKNOWN)
def test_unknown_operations(doors: Doors, source: str, op: int) -> None:
    with doors.receiver(source) as wire:
        wire.send(header(op, 1, 0, 0, (9, 0, 0), "processed/x", "s"))
        reply = outcome(wire)
        assert reply is None or reply.code in (WRONG, UNSUPPORTED)
        assert wire.closed()


@pytest.mark.parametrize("op", [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 99])
def test_unknown_operations_at_the_data_server(doors: Doors, source: str, op: int) -> None:
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x").code == OK
    address = parse_address(doors.record(1, "s", source)["source"])
    with Tcp(address) as wire:
        wire.send(header(op, 1, 10, 10, (9, 0, 0), "processed/x", "s", "v0.1"), b"0123456789")
        reply = outcome(wire)
        assert reply is None or reply.code in (WRONG, UNSUPPORTED, DENIED)
        assert wire.closed()


@pytest.mark.parametrize(
    "op", [TRANSFER, DATASET, STREAM_INFO, LAST_STREAM, METADATA, DELETE_STREAM, GET_META]
)
def test_operations_before_the_login(doors: Doors, source: str, op: int) -> None:
    data_size = 10 if op in (TRANSFER, DATASET, METADATA) else 0
    with doors.tcp() as wire:
        wire.send(header(op, 1, data_size, 0, (9, 1, 1), "processed/x", "s"))
        reply = wire.reply()
        assert reply.code == DENIED or (data_size and reply.code == WRONG)
        assert reply.code != DENIED or "not authorized" in reply.text
        assert wire.closed()
    with doors.http() as http:
        answer = http.get(f"{doors.base('s', source)}/size{doors.query()}")
        assert answer.json == {"size": 0}


def test_second_login(doors: Doors) -> None:
    with doors.receiver() as wire:
        reply = wire.login(doors.token)
        assert reply.code == DENIED
        assert "already authorized" in reply.text


@pytest.mark.parametrize(
    "version", ["", "v", "v0", "v0.", "0.7", "v0.99", "v9.0", "vx.y", "v-1.7", b"\xff\xfe"]
)
def test_versions_that_are_none_or_too_new(doors: Doors, version: str | bytes) -> None:
    raw = f"processed%i%s%bt1%auto%src1%{doors.token}".encode()
    with doors.tcp() as wire:
        wire.send(header(AUTHORIZE, 0, 0, len(raw), version="v0.7")[:2104])
        field = version.encode() if isinstance(version, str) else version
        wire.send(field.ljust(10, b"\0") + b"rubbsh", raw)
        reply = outcome(wire)
        assert reply is None or reply.code in (UNSUPPORTED, WRONG, DENIED)


@pytest.mark.parametrize(
    "credentials",
    [
        b"", b"%", b"%%%%%%", b"processed", b"processed%bt1%auto%src%tok", b"\xff\xfe%a%b%c%d%e%f",
        b"other%i%s%bt1%auto%src1%TOKEN", b"processed%i%s%../x%auto%src1%TOKEN",
        b"processed%i%s%bt1%../../p01%src1%TOKEN", b"processed%i%s%bt1%auto%a\"b%TOKEN",
        b"processed%i%s%bt1%auto%a\\b%TOKEN", b"processed%i%s%bt1%auto%a\nb%TOKEN",
        b"processed%i%s%bt1\0%auto%src1%TOKEN", b"processed%i%s%bt1%auto%" + b"s" * 2000 + b"%T",
        b"processed%i%s%auto%auto%src1%", b"processed%i%s%*%auto%src1%TOKEN",
        b"processed%i%s%other%auto%src1%TOKEN",
    ],
)  # fmt: skip
def test_credentials_that_are_none(doors: Doors, credentials: bytes) -> None:
    raw = credentials.replace(b"TOKEN", doors.token.encode())
    with doors.tcp() as wire:
        reply = wire.ask(AUTHORIZE, meta=raw)
        assert reply.code in (WRONG, DENIED)
        assert doors.token not in reply.text


def test_other_protocols_at_the_receiver(doors: Doors) -> None:
    greetings = [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(3000),
        b"SSH-2.0-client\r\n" + b"x" * 3000,
        random.Random(5).randbytes(5000),
        b"\xff" * 5000,
    ]
    for greeting in greetings:
        with doors.tcp() as wire:
            with contextlib.suppress(ConnectionError):
                wire.send(greeting)
            outcome(wire)
            assert wire.closed()


def test_receiver_protocol_at_the_http_door(doors: Doors) -> None:
    for greeting in (header(AUTHORIZE, 0, 0, 20), bytes(5000), b"\xff" * 5000):
        with doors.http() as http:
            with contextlib.suppress(ConnectionError):
                http.send(greeting)
                if answer := http.socket.recv(4096):
                    assert answer.startswith(b"HTTP/1.1 400")
            assert http.closed()


def test_requests_in_one_piece(doors: Doors, source: str) -> None:
    """No client sends ahead, but nothing breaks when one does."""
    with doors.receiver(source) as wire:
        wire.send(
            b"".join(
                header(TRANSFER, id, 4, 2, (9, 0, 0), f"processed/{id}", "s") + b"{}data"
                for id in range(1, 101)
            )
        )
        assert [wire.reply() for _ in range(100)] == [Reply(2, 0, "")] * 100


def test_requests_byte_by_byte(doors: Doors, source: str) -> None:
    message = header(TRANSFER, 1, 4, 8, (9, 0, 0), "processed/x", "s") + b'{"a": 1}data'
    with doors.receiver(source) as wire:
        for k in range(0, len(message), 7):
            wire.send(message[k : k + 7])
        assert wire.reply() == Reply(2, 0, "")
    assert doors.data(doors.record(1, "s", source)) == b"data"
