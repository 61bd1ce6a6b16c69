"""A node that is told to stop: who waits is answered, what was answered is there."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system


class Asking:
    """One HTTP connection that repeats the same `next`, as a waiting client does."""

    def __init__(self, node: NodeProcess, token: str) -> None:
        host, port = node.endpoint.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self._request = (
            f"GET /v0.7/beamtime/demo/det/nothing/g/next?token={token}&id_key=_id HTTP/1.1\r\n"
            "Host: h\r\n\r\n"
        ).encode()

    def ask(self) -> None:
        self.socket.sendall(self._request)

    def answer(self) -> bytes:
        got = self.socket.recv(4096)
        if got:
            head, _, body = got.partition(b"\r\n\r\n")
            assert body.startswith(b'{"op":"get_record_by_id"'), got
            return head
        return got


def test_a_held_request_is_answered_when_the_node_stops(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "data") as node:
        asking = Asking(node, node.token(beamtime="demo", access="read"))
        asking.ask()
        assert asking.answer().startswith(b"HTTP/1.1 409")
        # The pause of a waiting client is part of what it says.
        threading.Event().wait(0.1)
        begin = time.monotonic()
        asking.ask()
        stopping = threading.Thread(target=node.terminate)
        stopping.start()
        head = asking.answer()
        waited_s = time.monotonic() - begin
        stopping.join(30)
        assert not stopping.is_alive()
        assert head.startswith(b"HTTP/1.1 409")
        assert waited_s < 5
        assert asking.socket.recv(1) == b""
        asking.socket.close()
