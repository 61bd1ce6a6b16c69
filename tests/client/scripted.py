"""Servers that say what a test wants them to say: real sockets, no node."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from beamstream.client.asapo import Consumer, Producer
from beamstream.wire.asapo.calls import Call, Kind
from beamstream.wire.asapo.routes import parse_target
from beamstream.wire.asapo.structs import (
    REQUEST_NBYTES,
    OpCode,
    Request,
    pack_reply,
    payload_nbytes,
    unpack_request,
)

TOKEN = "T.o-k_en"

Handler = Callable[[socket.socket, int], None]
"""Serves one connection; its number counts from 0."""

RECORD = {
    "_id": 1,
    "time_id": 1,
    "size": 5,
    "name": "processed/f1",
    "timestamp": 1795328976432202964,
    "source": "",
    "buf_id": 0,
    "stream": "s1",
    "dataset_substream": 0,
    "ingest_mode": 13,
    "meta": {"a": 1},
}


def record(**changes: Any) -> bytes:
    return json.dumps({**RECORD, **changes}).encode()


@contextmanager
def serve(handler: Handler) -> Iterator[str]:
    """Listen on a free port; yields its address. Errors of handlers come out at the end."""
    errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    sockets: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def run(connection: socket.socket, number: int) -> None:
        try:
            with connection:
                handler(connection, number)
        except (OSError, EOFError):
            pass  # the client went away, or the test has ended
        except BaseException as error:
            errors.put(error)

    def accept() -> None:
        for number in range(10_000):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            sockets.append(connection)
            thread = threading.Thread(target=run, args=(connection, number), daemon=True)
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(10)
        for connection in sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in threads:
            thread.join(10)
    if not errors.empty():
        raise errors.get()


def exactly(connection: socket.socket, nbytes: int) -> bytes:
    data = b""
    while len(data) < nbytes:
        piece = connection.recv(nbytes - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def read_request(connection: socket.socket) -> tuple[Request, bytes, bytes]:
    """Header, metadata and payload of a producer's request."""
    request = unpack_request(exactly(connection, REQUEST_NBYTES))
    meta = exactly(connection, request.meta_size)
    return request, meta, exactly(connection, payload_nbytes(request))


def login(connection: socket.socket) -> bytes:
    """Take a producer's login; returns the credentials."""
    request, credentials, _ = read_request(connection)
    assert request.op == OpCode.AUTHORIZE
    connection.sendall(pack_reply(request.op, 0))
    return credentials


def read_http(connection: socket.socket) -> tuple[Call, bytes]:
    """The next request, as the server's own parser understands it, and its body."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(1)
        if not piece:
            raise EOFError
        head += piece
    first, *lines = head.decode("ascii").split("\r\n")
    method, target, version = first.split(" ")
    assert version == "HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines if line)
    body = exactly(connection, int(headers.get("Content-Length", 0)))
    return parse_target(method.encode(), target.encode()), body


def http(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


Answer = Callable[[Call, bytes], bytes]


@contextmanager
def broker(answer: Answer, receivers: list[str] | None = None) -> Iterator[tuple[str, list[Call]]]:
    """All HTTP services; `answer` gets what is not discovery. Yields address and the calls seen."""
    calls: list[Call] = []

    def handle(connection: socket.socket, number: int) -> None:
        while True:
            call, body = read_http(connection)
            match call.kind:
                case Kind.DISCOVER_RECEIVER:
                    uris = receivers or [own]
                    text = json.dumps({"MaxConnections": 32, "Uris": uris}).encode()
                    connection.sendall(http(200, text))
                case Kind.DISCOVER_BROKER | Kind.DISCOVER_FILES:
                    connection.sendall(http(200, own.encode()))
                case _:
                    calls.append(call)
                    connection.sendall(answer(call, body))

    with serve(handle) as own:
        yield own, calls


def no_data(id: int, id_max: int, next_stream: str = "") -> bytes:  # noqa: A002
    body = {"op": "get_record_by_id", "id": id, "id_max": id_max, "next_stream": next_stream}
    return http(409, json.dumps(body).encode())


def refuse(call: Call, body: bytes) -> bytes:
    raise AssertionError(f"unexpected {call}")


class Receiver:
    """A receiver that answers puts with the given replies, and keeps what it took."""

    def __init__(self, *replies: bytes | None) -> None:
        self.replies = list(replies)
        self.taken: list[tuple[int, str, bytes, bytes]] = []
        self.logins: list[bytes] = []
        self.lock = threading.Lock()

    def __call__(self, connection: socket.socket, number: int) -> None:
        credentials = login(connection)
        with self.lock:
            self.logins.append(credentials)
        while True:
            request, meta, data = read_request(connection)
            with self.lock:
                self.taken.append((request.id, request.stream, meta, data))
                reply = self.replies.pop(0) if self.replies else pack_reply(request.op, 0)
            if reply is None:
                return
            connection.sendall(reply)
            if reply[2]:
                return


def producing(receiver: Handler, **settings: Any) -> Any:
    """A producer and the receiver it talks to."""

    class Both:
        def __enter__(self) -> Producer:
            self.tcp = serve(receiver)
            self.web = broker(refuse, [self.tcp.__enter__()])
            endpoint, _ = self.web.__enter__()
            given = {"retry_s": 0.01, "timeout_s": 5.0, **settings}
            self.producer = Producer(
                endpoint, beamtime="bt1", source="det", token=TOKEN, instance="i", **given
            )
            return self.producer.__enter__()

        def __exit__(self, *exception: Any) -> None:
            try:
                self.producer.__exit__(*exception)
            finally:
                self.web.__exit__(None, None, None)
                self.tcp.__exit__(None, None, None)

    return Both()


def consuming(endpoint: str, **settings: Any) -> Consumer:
    given = {"timeout_s": 0.0, "instance": "i", **settings}
    return Consumer(endpoint, beamtime="bt1", source="d/1", token=TOKEN, **given)


def scripted(*answers: bytes) -> Callable[[Call, bytes], bytes]:
    left = list(answers)
    return lambda call, body: left.pop(0)
