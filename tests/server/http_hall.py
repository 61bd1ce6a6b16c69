"""HTTP connections over real sockets, with a handler that echoes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from beamstream import limits
from beamstream.server.doors.admission import Admission
from beamstream.server.doors.http import HttpConnection, HttpRequest


class Echo:
    """Answers with what was asked; `later` and `big` are answered when the test says so."""

    def __init__(self, hall: Hall) -> None:
        self.hall = hall

    def handle(self, connection: HttpConnection, request: HttpRequest) -> None:
        self.hall.requests.append(request)
        self.hall.connections.add(connection)
        if request.target == b"/later":
            self.hall.owed.append(connection)
        elif request.target.startswith(b"/big"):
            self.hall.owed.append(connection)
            connection.send_head(200, len(self.hall.big), "application/octet-stream")
            connection.send(self.hall.big, lambda: self.hall.drained.set_result(None))
        elif request.target == b"/nothing":
            connection.reply(204, b"")
        else:
            connection.reply(200, b"%s %s" % (request.target, request.body))

    def wants_headers(self, target: bytes) -> bool:
        return False

    def gone(self) -> None:
        self.hall.gone.set()

    def stop(self) -> None:
        """What is owed is answered by the test."""


class Hall:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.requests: list[HttpRequest] = []
        self.connections: set[HttpConnection] = set()
        self.owed: list[HttpConnection] = []
        self.gone = asyncio.Event()
        self.big = memoryview(bytes(16 * limits.MIB))
        self.drained: asyncio.Future[None] = self.loop.create_future()
        self.admission = Admission(connections_max=3)
        self.port = 0

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Client(reader, writer)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:-2])
        body = await self.reader.readexactly(int(headers.get("Content-Length", "0")))
        return int(head[0].split()[1]), headers, body

    async def body(self) -> bytes:
        status, _, body = await self.answer()
        assert status == 200
        return body

    async def ended(self) -> bytes:
        """The rest until the server has closed."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self.writer.close()


def run(test: Callable[[Hall, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        hall = Hall()
        server = await hall.loop.create_server(
            lambda: HttpConnection(hall.loop, lambda: Echo(hall), hall.admission), "127.0.0.1", 0
        )
        hall.port = server.sockets[0].getsockname()[1]
        client = await hall.connect()
        try:
            async with asyncio.timeout(60):
                await test(hall, client)
        finally:
            client.close()
            server.close()
            for connection in tuple(hall.admission._connections):
                connection.stop()
                connection.abort()  # type: ignore[attr-defined]
            while len(hall.admission):
                await asyncio.sleep(0)
            await client.ended()
        for connection in hall.connections:
            assert connection.closing
            assert connection._deadline is None
            assert connection._send_deadline is None

    asyncio.run(main())


def get(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *headers, "", ""]).encode()


def post(target: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(target: str, *chunks: bytes) -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
