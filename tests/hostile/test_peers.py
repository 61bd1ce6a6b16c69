"""Peers that die, fall silent or do not read."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from compat.doors import Doors, parse_address, until
from compat.wire import (
    AUTHORIZE,
    BUFFER,
    CACHE_ONLY,
    INTERNAL,
    OK,
    STORED,
    TRANSFER,
    Tcp,
    Wire,
    header,
)
from hostile.impatient import CONNECTIONS_PER_CLIENT, LOGIN_SECONDS, STALL_SECONDS

pytestmark = pytest.mark.system

PAYLOAD = 4_000_000


def begun(doors: Doors, source: str, mode: int, nbytes: int) -> Tcp:
    """A connection that has sent the beginning of a message of 4 MB."""
    wire = doors.receiver(source)
    message = header(TRANSFER, 1, PAYLOAD, 8, (mode, 0, 0), f"processed/{source}", "s")
    message += b'{"a": 1}' + bytes(min(nbytes, PAYLOAD))
    wire.send(message[:nbytes])
    return wire


@pytest.mark.parametrize("mode", [CACHE_ONLY, STORED])
@pytest.mark.parametrize("nbytes", [1, 1000, 2120, 2124, 2128, 3000, 500_000, 3_999_999])
@pytest.mark.parametrize("how", ["close", "abort", "half"])
def test_a_peer_that_dies(doors: Doors, source: str, mode: int, nbytes: int, how: str) -> None:
    wire = begun(doors, source, mode, nbytes)
    if how == "abort":
        wire.abort()
    elif how == "half":
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.closed()
        wire.close()
    else:
        wire.close()
    with doors.receiver(source) as again:
        assert again.put(1, b"the real one", path=f"processed/{source}", mode=mode).code == OK
    assert doors.data(doors.record(1, "s", source)) == b"the real one"
    until(lambda: not list(doors.core.rglob(".part-*")), "nothing unfinished is left")


def test_an_id_is_free_again_when_its_sender_is_gone(doors: Doors, source: str) -> None:
    """A second sender of the same id waits for the first, which dies."""
    first = begun(doors, source, CACHE_ONLY, 100_000)
    with doors.receiver(source) as second:
        second.send(header(TRANSFER, 1, 5, 0, (CACHE_ONLY, 0, 0), f"processed/{source}", "s"))
        second.send(b"hello")
        first.abort()
        assert second.reply().code == OK
    assert doors.data(doors.record(1, "s", source)) == b"hello"


def test_peers_that_fall_silent(hurried: Doors, source: str) -> None:
    """All kinds at once: each is cut off in its time, nobody is for having nothing to say."""
    with hurried.receiver(source) as wire:
        assert wire.put(1, b"x").code == OK
    record = hurried.record(1, "s", source)
    idle_receiver, idle_http = hurried.receiver(source), hurried.http()
    idle_data = Tcp(parse_address(record["source"]))
    assert idle_http.get(f"{hurried.base()}/size{hurried.query()}").status == 200
    assert idle_data.fetch(record["buf_id"], 1)[1] == b"x"

    login = [hurried.tcp() for _ in range(3)]
    login[1].send(header(AUTHORIZE, 0, 0, 100)[:1000])
    login[2].send(header(AUTHORIZE, 0, 0, 100), b"processed%")
    heads = [hurried.http() for _ in range(4)]
    heads[1].send(b"G")
    heads[2].send(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
    heads[3].send(
        f"POST {hurried.base()}/0/querymessages{hurried.query()} HTTP/1.1\r\n"
        "Host: h\r\nContent-Length: 100\r\n\r\nmeta".encode()
    )
    stalled: list[Wire] = [begun(hurried, f"{source}{n}", STORED, n) for n in (9, 2124, 9000)]
    data = Tcp(parse_address(record["source"]))
    data.send(header(BUFFER, 1, 1)[:500])
    stalled += [data, *heads[1:]]

    begin = time.monotonic()
    for wire in login:
        wire.socket.settimeout(LOGIN_SECONDS + 3)
        assert wire.closed()
    assert time.monotonic() - begin < LOGIN_SECONDS + 3
    for peer in stalled:
        peer.socket.settimeout(2 * STALL_SECONDS + 3)
        read_to_the_end(peer)
    assert time.monotonic() - begin < 2 * STALL_SECONDS + 3
    until(lambda: not list(hurried.core.rglob(".part-*")), "nothing unfinished is left")

    assert idle_receiver.put(2, b"still here").code == OK
    assert idle_http.get(f"{hurried.base('s', source)}/size{hurried.query()}").text == '{"size":2}'
    assert idle_data.fetch(record["buf_id"], 1)[1] == b"x"
    for peer in (*login, *stalled, *heads, idle_receiver, idle_http, idle_data):
        peer.close()


def read_to_the_end(wire: Wire) -> None:
    """A refusal may come first; then the node has to close."""
    with contextlib.suppress(ConnectionError):
        while wire.socket.recv(4096):
            pass


def test_readers_that_do_not_read(doors: Doors, source: str) -> None:
    payload = bytes(6_000_000)
    with doors.receiver(source) as wire:
        assert wire.put(1, payload, path=f"processed/{source}", mode=STORED).code == OK
    record = doors.record(1, "s", source)
    address = parse_address(record["source"])
    rss = doors.node.rss_nbytes()
    deaf: list[Wire] = []
    for _ in range(8):
        wire = Tcp(address)
        wire.send(header(BUFFER, record["buf_id"], record["size"], 0, version="v0.1") * 3)
        deaf.append(wire)
    target = f"{doors.base('s', source)}/0/1{doors.query()}"
    for _ in range(4):
        http = doors.http()
        with contextlib.suppress(TimeoutError):
            http.socket.settimeout(0.2)
            for _ in range(400):
                http.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode() * 20)
        deaf.append(http)
    with Tcp(address) as wire:
        assert wire.fetch(record["buf_id"], record["size"])[1] == payload
    assert doors.node.rss_nbytes() - rss < 16 * 2**20
    for peer in deaf:
        peer.abort()


def test_too_many_connections(hurried: Doors) -> None:
    """One client may have so many; the next one waits, those of others go on."""
    with contextlib.ExitStack() as crowd:
        for _ in range(CONNECTIONS_PER_CLIENT):
            assert (
                crowd.enter_context(hurried.tcp()).login(hurried.token, instance="crowd").code == OK
            )
        one_more, other = (crowd.enter_context(hurried.tcp()) for _ in range(2))
        assert one_more.login(hurried.token, instance="crowd").code == INTERNAL
        assert other.login(hurried.token, instance="other").code == OK
    until(lambda: login_works(hurried), "a login is taken when the crowd has gone")


def login_works(doors: Doors) -> bool:
    with contextlib.suppress(ConnectionError, TimeoutError), doors.tcp(2.0) as wire:
        return bool(wire.login(doors.token, instance="crowd").code == OK)
    return False


def test_a_client_that_leaves_while_it_waits(doors: Doors, source: str) -> None:
    """A held `next` of somebody who has gone takes no message with it."""
    target = f"{doors.base('s', source)}/g/next{doors.query(id_key='time_id')}"
    for _ in range(5):
        http = doors.http()
        for _ in range(3):
            assert http.get(target).status == 409
        http.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        http.abort()
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x").code == OK
    with doors.http() as http:
        answer = until(
            lambda: [answer for answer in [http.get(target)] if answer.status == 200],
            "the message comes to somebody who is there",
        )
    assert answer[0].json["_id"] == 1
