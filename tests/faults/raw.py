"""Clients that speak bytes: each call is one attempt, and how it ended is known exactly."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Self
from urllib.parse import quote

from beamstream.testing.node import NodeProcess
from beamstream.wire.asapo.credentials import Credentials, format_credentials
from beamstream.wire.asapo.structs import (
    REPLY_NBYTES,
    Code,
    OpCode,
    Reply,
    pack_request,
    unpack_reply,
)

FILE_MODE, CACHE_MODE = 13, 9
BEAMTIME, SOURCE = "bt1", "detector"


class Target:
    """Where a node is and what opens its doors; stays the same over restarts."""

    def __init__(self, node: NodeProcess) -> None:
        self.endpoint = node.endpoint
        self.ingest = str(node.connect["ingest"])
        self.token = node.token(BEAMTIME, "read,write")

    def credentials(self) -> bytes:
        return format_credentials(
            Credentials(False, "faults", "test", BEAMTIME, "auto", SOURCE, self.token)
        )


def connect(address: str, seconds: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def receive(connection: socket.socket, nbytes: int) -> bytes:
    """Exactly so many bytes, else ConnectionError."""
    buffer = bytearray(nbytes)
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError(f"closed with {len(view)} of {nbytes} bytes missing")
        view = view[count:]
    return bytes(buffer)


class RawProducer:
    """One connection to the receiver."""

    def __init__(self, target: Target, seconds: float = 60.0) -> None:
        self.socket = connect(target.ingest, seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self.socket.getsockname()[1]
        try:
            self._login(target.credentials())
        except BaseException:
            self.close()
            raise

    def _login(self, credentials: bytes) -> None:
        head = pack_request(OpCode.AUTHORIZE, meta_size=len(credentials))
        self.socket.sendall(head + credentials)
        reply = self.reply()
        assert reply.code == Code.SUCCESS, f"the login is refused: {reply}"

    def send(
        self, id: int, name: str, data: bytes, meta: Any, *, stream: str, mode: int = FILE_MODE
    ) -> None:
        """Send a message; its answer is to be fetched by `reply`."""
        text = json.dumps(meta).encode()
        head = pack_request(
            OpCode.TRANSFER_DATA, id, len(data), len(text), (mode, 0, 0), name, stream
        )
        self.socket.sendall(head + text + data)

    def reply(self) -> Reply:
        return unpack_reply(receive(self.socket, REPLY_NBYTES))

    def put(
        self, id: int, name: str, data: bytes, meta: Any, *, stream: str, mode: int = FILE_MODE
    ) -> Reply:
        self.send(id, name, data, meta, stream=stream, mode=mode)
        return self.reply()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawConsumer:
    """One connection to the broker, and one to the data server when it is needed."""

    def __init__(self, target: Target, seconds: float = 60.0) -> None:
        self._target = target
        self._seconds = seconds
        host, _, port = target.endpoint.rpartition(":")
        self.http = http.client.HTTPConnection(host, int(port), timeout=seconds)
        self._data: tuple[str, socket.socket] | None = None

    @property
    def port(self) -> int:
        assert self.http.sock is not None
        return int(self.http.sock.getsockname()[1])

    def call(self, method: str, path: str, query: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of one request."""
        url = f"{path}?token={self._target.token}{query}"
        try:
            self.http.request(method, url, body or None)
            answer = self.http.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            self.http.close()
            raise ConnectionError(repr(error)) from error
        except OSError:
            self.http.close()
            raise

    def next(
        self, group: str, stream: str, *, key: str = "time_id", lease_ms: int = 0
    ) -> tuple[int, Any]:
        resend = f"&resend_nacks=true&delay_ms={lease_ms}&resend_attempts=0" if lease_ms else ""
        query = f"&instanceid=auto&pipelinestep=auto{resend}&id_key={key}"
        status, body = self.call("GET", f"{base(stream)}/{quote(group, safe='')}/next", query)
        return status, json.loads(body) if status in (200, 409) else body.decode()

    def by_id(self, stream: str, id: int) -> tuple[int, Any]:
        status, body = self.call("GET", f"{base(stream)}/0/{id}")
        return status, json.loads(body) if status in (200, 409) else body.decode()

    def ack(self, group: str, stream: str, id: int) -> tuple[int, str]:
        path = f"{base(stream)}/{quote(group, safe='')}/{id}"
        status, body = self.call("POST", path, body=b'{"Op":"ackmessage"}')
        return status, body.decode()

    def unacknowledged(self, group: str, stream: str) -> list[int]:
        path = f"{base(stream)}/{quote(group, safe='')}/nacks"
        status, body = self.call("GET", path, "&from=0&to=0")
        assert status == 200, body
        ids: list[int] = json.loads(body)["unacknowledged"]
        return ids

    def size(self, stream: str) -> int:
        status, body = self.call("GET", f"{base(stream)}/size")
        assert status == 200, body
        return int(json.loads(body)["size"])

    def cached(self, record: dict[str, Any]) -> bytes | None:
        """The payload by way of the data server; None if it is not in the cache any more."""
        if not record["buf_id"]:
            return None
        if self._data is None or self._data[0] != record["source"]:
            self.close_data()
            self._data = (record["source"], connect(record["source"], self._seconds))
        connection = self._data[1]
        id, nbytes = record["buf_id"] % 2**64, record["size"]
        try:
            connection.sendall(pack_request(OpCode.GET_BUFFER_DATA, id, nbytes, version="v0.1"))
            reply = unpack_reply(receive(connection, REPLY_NBYTES))
            if reply.code == Code.SUCCESS:
                return receive(connection, nbytes)
            assert reply.code == Code.NO_DATA, (reply, record, connection)
        except OSError:
            self.close_data()
            raise
        return None

    def close_data(self) -> None:
        if self._data is not None:
            self._data[1].close()
            self._data = None

    def close(self) -> None:
        self.http.close()
        self.close_data()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def base(stream: str) -> str:
    return f"/v0.7/beamtime/{BEAMTIME}/{SOURCE}/{quote(stream, safe='-._~')}"
