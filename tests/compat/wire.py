"""Bytes of ASAPO for tests, written from its protocol: nothing of the code under test is used.

Padding, the rest of a string field behind its NUL, and the other fields which clients leave
uninitialised are filled with rubbish, as the real ones do.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

Address = tuple[str, int]

HEADER: Final = struct.Struct("<B7sQQQ3Q1024s1024s10s6s")
REPLY: Final = struct.Struct("<BxH1024s")
RUBBISH: Final = bytes(range(129, 256)) * 9

TRANSFER, DATASET, STREAM_INFO, LAST_STREAM, BUFFER = 2, 3, 4, 5, 6
AUTHORIZE, METADATA, DELETE_STREAM, GET_META, PERSIST = 7, 8, 9, 10, 12

OK, REAUTHORIZE, WARNING, WRONG, UNSUPPORTED, NO_DATA, DENIED = 0, 1, 2, 3, 4, 5, 6
INTERNAL = 65535

CACHE_ONLY, META_ONLY, META_RECORD, FILE_ONLY, STORED = 9, 2, 10, 5, 13
OFFLINE: Final = 16


def text_field(text: str | bytes, size: int) -> bytes:
    """A string field: the text, a NUL if there is room for one, then rubbish."""
    raw = text.encode() if isinstance(text, str) else text
    return raw[:size] if len(raw) >= size else (raw + b"\0" + RUBBISH)[:size].ljust(size, b"\xee")


def header(
    op: int,
    id: int = 0,
    data_size: int = 0,
    meta_size: int = 0,
    custom: tuple[int, int, int] = (0, 0, 0),
    path: str | bytes = "",
    stream: str | bytes = "",
    version: str = "v0.7",
) -> bytes:
    return HEADER.pack(
        op,
        RUBBISH[:7],
        id,
        data_size,
        meta_size,
        *custom,
        text_field(path, 1024),
        text_field(stream, 1024),
        text_field(version, 10),
        RUBBISH[:6],
    )


@dataclass(frozen=True)
class Reply:
    op: int
    code: int
    text: str


@dataclass(frozen=True)
class Answer:
    """What an HTTP request was answered with; names of headers are in lower case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A TCP connection with a deadline on everything."""

    def __init__(self, address: Address, seconds: float = 10.0) -> None:
        self.socket = socket.create_connection(address, timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def read(self, nbytes: int) -> bytes:
        got = bytearray()
        while len(got) < nbytes:
            more = self.socket.recv(min(nbytes - len(got), 1 << 20))
            if not more:
                raise ConnectionResetError(f"closed after {len(got)} of {nbytes} bytes")
            got += more
        return bytes(got)

    def closed(self) -> bool:
        """Wait until the other side closes; False when bytes come or nothing happens in time."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def abort(self) -> None:
        """Close so that the other side gets a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Tcp(Wire):
    """A connection to a receiver or a data server."""

    def reply(self) -> Reply:
        op, code, text = REPLY.unpack(self.read(REPLY.size))
        return Reply(op, code, text.split(b"\0", 1)[0].decode())

    def ask(
        self,
        op: int,
        id: int = 0,
        data: bytes = b"",
        *,
        meta: str | bytes = b"",
        custom: tuple[int, int, int] = (0, 0, 0),
        path: str | bytes = "",
        stream: str | bytes = "",
        version: str = "v0.7",
        data_size: int | None = None,
    ) -> Reply:
        raw = meta.encode() if isinstance(meta, str) else meta
        size = len(data) if data_size is None else data_size
        self.send(header(op, id, size, len(raw), custom, path, stream, version), raw, data)
        return self.reply()

    def login(
        self,
        token: str,
        *,
        beamtime: str = "bt1",
        beamline: str = "auto",
        source: str = "src1",
        kind: str = "processed",
        instance: str = "inst1",
        step: str = "step1",
        version: str = "v0.7",
    ) -> Reply:
        parts = [kind, instance, step, beamtime, beamline, source, token]
        return self.ask(AUTHORIZE, meta="%".join(parts), custom=(13, 1 << 63, 77), version=version)

    def put(
        self,
        id: int,
        data: bytes = b"",
        *,
        path: str | bytes = "",
        stream: str | bytes = "s",
        mode: int = CACHE_ONLY,
        meta: str | bytes = b"",
        dataset: tuple[int, int] | None = None,
        version: str = "v0.7",
    ) -> Reply:
        substream, size = dataset or (0, 0)
        return self.ask(
            DATASET if dataset else TRANSFER,
            id,
            data,
            meta=meta,
            custom=(mode, substream, size),
            path=path or f"processed/{id}",
            stream=stream,
            version=version,
        )

    def fetch(self, buffer: int, size: int, tag: str = "") -> tuple[Reply, bytes]:
        """A payload of `size` bytes from a data server; nothing unless the code is 0."""
        self.send(header(BUFFER, buffer % 2**64, size, 0, (13, 5, 7), "", tag, "v0.1"))
        reply = self.reply()
        return reply, self.read(size) if reply.code == OK else b""


class Http(Wire):
    """One keep-alive HTTP/1.1 connection; targets go out as they are given."""

    def __init__(self, address: Address, seconds: float = 10.0) -> None:
        super().__init__(address, seconds)
        self.host = f"{address[0]}:{address[1]}"
        self._stream = self.socket.makefile("rb")

    def close(self) -> None:
        self._stream.close()
        super().close()

    def answer(self) -> Answer:
        line = self._stream.readline(65536)
        if not line:
            raise ConnectionResetError("closed without an answer")
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self._stream.readline(65536)) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if status == 100:
            return Answer(status)
        size = int(headers.get("content-length", "0"))
        body = self._stream.read(size) if size else b""
        return Answer(status, headers, body)

    def get(self, target: str, **headers: str) -> Answer:
        return self.request("GET", target, None, headers)

    def post(self, target: str, body: str | bytes = b"", **headers: str) -> Answer:
        return self.request("POST", target, body, headers)

    def request(
        self, method: str, target: str, body: str | bytes | None, headers: dict[str, str]
    ) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}", "Accept: */*"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        raw = body.encode() if isinstance(body, str) else body
        if raw is not None:
            lines += [
                f"Content-Length: {len(raw)}",
                "Content-Type: application/x-www-form-urlencoded",
            ]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n", raw or b"")
        answer = self.answer()
        return self.answer() if answer.status == 100 else answer
