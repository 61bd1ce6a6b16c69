"""A small blocking HTTP/1.1 client: connections that stay open, and a bound on everything."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from typing import Final

import msgspec

from beamstream import limits
from beamstream.client.asapo.address import Address
from beamstream.client.asapo.errors import Unavailable
from beamstream.errors import BadInput, ConnectionLost, RemoteProtocolError, TimedOut, TooLarge

CONNECT_SECONDS: Final = 5.0
REPLY_NBYTES_MAX: Final = 64 * limits.MIB
"""The largest document: 10,000 records found by a search, with metadata of 6 kB each."""
_CONNECTIONS_MAX: Final = 8
"""One client talks to discovery, broker and file transfer: few addresses."""
_PIECE_NBYTES: Final = 256 * limits.KIB
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n]*)?")
_NOT_A_TARGET: Final = re.compile(r"[^\x21-\x7e]")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class Response(msgspec.Struct, frozen=True, gc=False):
    """`body` is empty when the caller gave a buffer for it; `nbytes` is its length."""

    status: int
    body: bytes
    nbytes: int

    @property
    def text(self) -> str:
        """The body as text that can be shown to people."""
        return self.body[:2000].decode("utf-8", "replace")


class Http:
    """Requests over kept connections, one at a time; may be shared by threads.

    A connection that the server closed while it was idle is opened again before anything is sent.
    When it closes just then, a request is sent a second time only if its caller allows that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: dict[tuple[str, int], _Connection] = {}

    def request(
        self,
        address: Address,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        cookie: str = "",
        timeout_s: float,
        into: memoryview | None = None,
        nbytes_max: int = REPLY_NBYTES_MAX,
        repeat: bool = False,
    ) -> Response:
        """Send a request and return the response.

        Parameters
        ----------
        target : path and query, escaped; the address' prefix is put in front.
        timeout_s : for the whole response; with `into` for each of its pieces.
        into : receives the body of a response of status 200.
        nbytes_max : the largest body that is taken.
        repeat : the request does no harm when it is served twice.

        Raises
        ------
        Unavailable : nobody listens; nothing was sent.
        ConnectionLost, TimedOut : whether the request was served is not known.
        BadInput : the target has characters that HTTP does not allow; nothing was sent.
        RemoteProtocolError : the answer is not HTTP.
        TooLarge : the body is larger than `nbytes_max` or the buffer.
        """
        if _NOT_A_TARGET.search(target):
            raise BadInput(
                "a token or beamtime with blanks, line ends or non-ASCII characters",
                hint="was the line end behind a token in a file taken away?",
            )
        head = [f"{method} {address.prefix}{target} HTTP/1.1", f"Host: {address}", "Accept: */*"]
        if cookie:
            head.append(f"Cookie: {cookie}")
        if method == "POST":
            head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        message = "\r\n".join(head).encode("ascii") + b"\r\n\r\n" + body
        with self._lock:
            kept = self._kept(address)
            if kept is not None:
                try:
                    return self._exchange(address, kept, message, timeout_s, into, nbytes_max)
                except ConnectionLost:
                    if not repeat or kept.answered:
                        raise
            fresh = self._opened(address)
            return self._exchange(address, fresh, message, timeout_s, into, nbytes_max)

    def close(self) -> None:
        with self._lock:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    def _kept(self, address: Address) -> _Connection | None:
        kept = self._connections.get((address.host, address.port))
        if kept is None or kept.quiet():
            return kept
        self._drop(address)
        return None

    def _opened(self, address: Address) -> _Connection:
        while len(self._connections) >= _CONNECTIONS_MAX:
            self._connections.pop(next(iter(self._connections))).close()
        connection = _Connection(address)
        self._connections[address.host, address.port] = connection
        return connection

    def _exchange(
        self,
        address: Address,
        connection: _Connection,
        message: bytes,
        timeout_s: float,
        into: memoryview | None,
        nbytes_max: int,
    ) -> Response:
        done = False
        try:
            response = connection.exchange(message, timeout_s, into, nbytes_max)
            done = True
            return response
        finally:
            if not done or not connection.reusable:
                self._drop(address)

    def _drop(self, address: Address) -> None:
        connection = self._connections.pop((address.host, address.port), None)
        if connection is not None:
            connection.close()


class _Connection:
    def __init__(self, address: Address) -> None:
        self._address = address
        try:
            self._socket = socket.create_connection((address.host, address.port), CONNECT_SECONDS)
        except OSError as error:
            raise Unavailable(f"no connection to {address}: {error}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._pending = b""
        self._deadline = 0.0
        self.reusable = True
        self.answered = False
        """Whether anything of the answer to the last request has come."""

    def quiet(self) -> bool:
        """Whether it is open and nothing has come that nobody asked for."""
        return not self._pending and not self._poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def exchange(
        self, message: bytes, timeout_s: float, into: memoryview | None, nbytes_max: int
    ) -> Response:
        self._deadline = time.monotonic() + timeout_s
        self.answered = False
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(message)
            status, headers = self._head()
            while status < 200:
                status, headers = self._head()
            if status != 200:
                into = None
            if into is None:
                body = self._body(status, headers, nbytes_max)
                return Response(status, body, len(body))
            return Response(status, b"", self._body_into(headers, into, timeout_s))
        except TimeoutError:
            raise TimedOut(f"{self._address} does not answer within {timeout_s:g} s") from None
        except OSError as error:
            if isinstance(error, ConnectionLost):
                raise
            raise ConnectionLost(f"connection to {self._address} lost: {error}") from None

    # ------------------------------------------------------------------ bytes

    def _receive(self) -> bytes:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)
        data = self._socket.recv(_PIECE_NBYTES)
        if not data:
            raise ConnectionLost(f"{self._address} closed the connection")
        self.answered = True
        return data

    def _until(self, mark: bytes, nbytes_max: int) -> bytes:
        """Bytes up to and without `mark`, which is taken away too."""
        data = self._pending
        while (end := data.find(mark)) < 0:
            if len(data) > nbytes_max:
                raise self._bad(f"more than {nbytes_max} bytes without an end of line")
            data += self._receive()
        self._pending = data[end + len(mark) :]
        if end > nbytes_max:
            raise self._bad(f"a head of {end} bytes")
        return data[:end]

    def _exactly(self, nbytes: int) -> bytes:
        if len(self._pending) >= nbytes:
            data, self._pending = self._pending[:nbytes], self._pending[nbytes:]
            return data
        # Grows with what arrives, not with what is announced.
        pieces = [self._pending]
        missing = nbytes - len(self._pending)
        while missing > 0:
            pieces.append(piece := self._receive())
            missing -= len(piece)
        data = b"".join(pieces)
        self._pending = data[nbytes:]
        return data[:nbytes]

    # --------------------------------------------------------------- messages

    def _head(self) -> tuple[int, dict[bytes, bytes]]:
        first, *lines = self._until(b"\r\n\r\n", limits.HTTP_HEAD_NBYTES_MAX).split(b"\r\n")
        found = _STATUS.fullmatch(first)
        if not found:
            raise self._bad(f"status line {first[:80]!r}")
        headers: dict[bytes, bytes] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise self._bad(f"header line {line[:80]!r}")
            name = name.lower()
            if name in (b"content-length", b"transfer-encoding") and name in headers:
                raise self._bad(f"two headers {name.decode()}")
            headers[name] = value.strip()
        kept = headers.get(b"connection", b"").lower()
        self.reusable = kept != b"close" and (found[1] == b"1" or kept == b"keep-alive")
        return int(found[2]), headers

    def _length(self, headers: dict[bytes, bytes], nbytes_max: int) -> int | None:
        """Length of the body; None when it is sent in chunks; -1 until the connection closes."""
        encoding = headers.get(b"transfer-encoding")
        announced = headers.get(b"content-length")
        if encoding is not None:
            if encoding.lower() != b"chunked" or announced is not None:
                raise self._bad(f"transfer encoding {encoding[:80]!r}")
            return None
        if announced is None:
            self.reusable = False
            return -1
        if not announced.isdigit() or len(announced) > 20:
            raise self._bad(f"content length {announced[:80]!r}")
        nbytes = int(announced)
        if nbytes > nbytes_max:
            raise self._too_large(nbytes, nbytes_max)
        return nbytes

    def _body(self, status: int, headers: dict[bytes, bytes], nbytes_max: int) -> bytes:
        if status in (204, 304):
            return b""
        nbytes = self._length(headers, nbytes_max)
        if nbytes is None:
            return self._chunks(nbytes_max)
        return self._exactly(nbytes) if nbytes >= 0 else self._rest(nbytes_max)

    def _chunks(self, nbytes_max: int) -> bytes:
        pieces: list[bytes] = []
        total = 0
        while True:
            found = _CHUNK.fullmatch(self._until(b"\r\n", 1024))
            if not found:
                raise self._bad("a chunk without a length")
            nbytes = int(found[1], 16)
            total += nbytes
            if total > nbytes_max:
                raise self._too_large(total, nbytes_max)
            if not nbytes:
                break
            pieces.append(self._exactly(nbytes))
            if self._exactly(2) != b"\r\n":
                raise self._bad("a chunk without an end")
        for _ in range(64):
            if not self._until(b"\r\n", 1024):
                return b"".join(pieces)
        raise self._bad("too many trailers")

    def _rest(self, nbytes_max: int) -> bytes:
        pieces = [self._pending]
        total = len(self._pending)
        self._pending = b""
        try:
            while total <= nbytes_max:
                pieces.append(piece := self._receive())
                total += len(piece)
        except ConnectionLost:
            return b"".join(pieces)
        raise self._too_large(total, nbytes_max)

    def _body_into(self, headers: dict[bytes, bytes], into: memoryview, timeout_s: float) -> int:
        nbytes = self._length(headers, len(into))
        if nbytes is None or nbytes < 0:
            data = self._chunks(len(into)) if nbytes is None else self._rest(len(into))
            into[: len(data)] = data
            return len(data)
        filled = min(nbytes, len(self._pending))
        into[:filled] = self._pending[:filled]
        self._pending = self._pending[filled:]
        self._socket.settimeout(timeout_s)
        while filled < nbytes:
            got = self._socket.recv_into(into[filled:nbytes])
            if not got:
                raise ConnectionLost(f"{self._address} closed the connection within a body")
            filled += got
        return nbytes

    def _bad(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self._address} does not answer in HTTP: {what}")

    def _too_large(self, nbytes: int, nbytes_max: int) -> TooLarge:
        return TooLarge(
            f"{self._address} answers with {nbytes} bytes, at most {nbytes_max} are taken"
        )
