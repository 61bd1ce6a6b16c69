"""A real monitor in a process of its own, and small clients for it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from websockets.sync.client import ClientConnection, unix_connect

from beamstream.monitor import jobs
from beamstream.monitor.jobs import Job
from beamstream.testing.node import NodeProcess

POST = {"Content-Type": "application/json", "X-Beamstream": "1"}
LOCAL = {"x-beamstream-peer": "127.0.0.1:4711", "Host": "localhost:8400"}
ELSEWHERE = {"x-beamstream-peer": "192.0.2.7:4711", "Host": "node1:8400"}


def admin_token(node: NodeProcess) -> str:
    return node.cli("token", "new", "--data", str(node.data), "--admin").strip()


class MonitorProcess:
    """``python -m beamstream.monitor`` with its job on stdin, ready at the end of ``with``."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.at = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "beamstream.monitor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(jobs.encode(self.job))
        self.process.stdin.flush()
        self.at = self.process.stdout.readline().decode().removeprefix("monitor at ").strip()
        self.errors = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.at, self._end()
        return self

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def _end(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        self.status = self.process.wait(30)
        self._reader.join(10)
        self.process.stdout.close()
        self.process.stderr.close()
        return self.errors.decode()

    def __exit__(self, *gone: object) -> None:
        text = self._end()
        assert "Traceback" not in text, text
        assert self.status == 0, text

    # ------------------------------------------------------------------ asking

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask; `headers` say from where."""
        made = self._connection()
        try:
            data = None if body is None else json.dumps(body).encode()
            made.request(method, path, body=data, headers=LOCAL if headers is None else headers)
            got = made.getresponse()
            return Answer(got.status, dict(got.headers), got.read())
        finally:
            made.close()

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
        """A document, which has to be there."""
        from urllib.parse import urlencode

        found = self.ask("GET", f"/api/v1/{path}?{urlencode(query)}", None, headers)
        assert found.status == 200, found.data
        return json.loads(found.data)

    def post(self, path: str, body: Any, token: str) -> Answer:
        headers = LOCAL | POST | {"Authorization": f"Bearer {token}"}
        return self.ask("POST", f"/api/v1/{path}", body, headers)

    def _connection(self) -> http.client.HTTPConnection:
        if not self.job.socket:
            return http.client.HTTPConnection(self.at.split("/")[2], timeout=30)
        made = http.client.HTTPConnection("localhost", timeout=30)
        made.sock = socket.socket(socket.AF_UNIX)
        made.sock.settimeout(30)
        made.sock.connect(self.job.socket)
        return made

    @contextmanager
    def feed(self, headers: dict[str, str] | None = None, **how: Any) -> Iterator[ClientConnection]:
        """A WebSocket as a tab has it."""
        uri = "ws://localhost:8400/ui/feed"
        told = {k: v for k, v in (headers or LOCAL).items() if k != "Host"}
        with unix_connect(self.job.socket, uri, additional_headers=told, **how) as made:
            yield made


class Answer:
    def __init__(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.data = data

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def until(look: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float = 20.0) -> Any:
    """Look until it is as wanted; each look waits for something itself, or costs little."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if wanted(found):
            return found
        assert time.monotonic() < end, found
