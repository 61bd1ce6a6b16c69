"""What the HTTP door hands on to the monitor, and what it says when that is away."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from beamstream import limits
from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system

Answer = Callable[[socket.socket, bytes], None]


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="16MiB") as node:
        yield node


@contextmanager
def monitor(node: NodeProcess, answer: Answer) -> Iterator[list[bytes]]:
    """Something at the monitor's socket that answers each request."""
    heads: list[bytes] = []
    path = node.data / "monitor.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(limits.RELAYED_MAX + 8)

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                heads.append(peer.recv(65_536))
                answer(peer, heads[-1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield heads
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            path.unlink()
    thread.join(10)


def connection(node: NodeProcess) -> closing[http.client.HTTPConnection]:
    host, _, port = node.connect["http"].rpartition(":")
    return closing(http.client.HTTPConnection(host, int(port), timeout=10))


def asked(node: NodeProcess, target: str, method: str = "GET", **how: object) -> tuple[int, bytes]:
    with connection(node) as client:
        client.request(method, target, **how)  # type: ignore[arg-type]
        response = client.getresponse()
        return response.status, response.read()


def say(text: bytes) -> Answer:
    def answer(peer: socket.socket, head: bytes) -> None:
        with peer:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    return answer


def test_the_root_leads_to_the_page(node: NodeProcess) -> None:
    with connection(node) as client:
        client.request("GET", "/")
        response = client.getresponse()
        assert (response.status, response.headers["location"]) == (302, "ui/")


def test_without_a_monitor_the_node_says_so(node: NodeProcess) -> None:
    for target in ("/ui/", "/api/v1/me", "/metrics"):
        status, text = asked(node, target)
        assert status == 503
        assert b"monitor of this node is not running" in text


def test_a_request_is_handed_on_with_its_peer_and_its_body(node: NodeProcess) -> None:
    with monitor(node, say(b"hello")) as heads:
        headers = {"X-Beamstream-Peer": "8.8.8.8", "Cookie": "a=b", "Connection": "keep-alive"}
        assert asked(node, "/api/v1/x?y=%2F", "POST", body=b"{}", headers=headers) == (
            200,
            b"hello",
        )
    head, _, body = heads[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /api/v1/x?y=%2F HTTP/1.1"
    assert body == b"{}"
    assert b"cookie: a=b" in lines
    assert b"connection: close" in lines
    peers = [line for line in lines if line.startswith(b"x-beamstream-peer")]
    assert len(peers) == 1
    assert peers[0].startswith(b"x-beamstream-peer: 127.0.0.1:")


def test_requests_of_programs_are_not_handed_on(node: NodeProcess) -> None:
    with monitor(node, say(b"hello")) as heads:
        assert asked(node, "/.well-known/beamstream")[0] == 200
        assert asked(node, "/asapo-discovery/v0.1/version?client=consumer&protocol=v0.6")[0] == 200
        assert asked(node, "/apix")[0] == 404
    assert not heads


def test_a_websocket_goes_both_ways_until_one_side_ends(node: NodeProcess) -> None:
    def echo(peer: socket.socket, head: bytes) -> None:
        assert b"connection: upgrade" in head
        with peer:
            peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
            while data := peer.recv(1000):
                peer.sendall(data.upper())

    with monitor(node, echo):
        host, _, port = node.connect["http"].rpartition(":")
        with socket.create_connection((host, int(port)), 10) as client:
            client.sendall(
                b"GET /ui/feed HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            with client.makefile("rb") as stream:
                assert stream.readline().startswith(b"HTTP/1.1 101")
                assert stream.readline() == b"Upgrade: websocket\r\n"
                assert stream.readline() == b"\r\n"
                for word in (b"one", b"two"):
                    client.sendall(word)
                    assert stream.read(3) == word.upper()
                client.shutdown(socket.SHUT_WR)
                assert stream.read() == b""


def test_a_large_answer_waits_for_a_slow_reader(node: NodeProcess) -> None:
    nbytes = 8_000_000
    with monitor(node, say(bytes(nbytes))):
        status, text = asked(node, "/ui/assets/large")
    assert (status, len(text)) == (200, nbytes)


def test_so_many_at_once_and_no_more(node: NodeProcess) -> None:
    held: list[socket.socket] = []
    full = threading.Event()

    def hold(peer: socket.socket, head: bytes) -> None:
        held.append(peer)
        if len(held) == limits.RELAYED_MAX:
            full.set()

    with monitor(node, hold), ExitStack() as stack:
        clients = [stack.enter_context(connection(node)) for _ in range(limits.RELAYED_MAX)]
        for client in clients:
            client.request("GET", "/ui/")
        assert full.wait(10)
        status, text = asked(node, "/ui/")
        assert status == 503
        assert b"try again" in text
        for peer in held:
            say(b"done")(peer, b"")
        assert [client.getresponse().read() for client in clients] == [b"done"] * len(clients)
    with monitor(node, say(b"again")):
        assert asked(node, "/ui/") == (200, b"again")
