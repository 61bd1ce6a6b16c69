"""HTTP/1.1 connections: heads, bodies, limits, answers in order. Knows nothing of what is asked.

One request is handled at a time; what a client sends ahead waits. The handler answers at once or
later, with `reply` or `send`; it learns when the peer has gone. Nothing is normalised: the target
is handed on as it came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol, cast

import httptools
import structlog

from beamstream import limits
from beamstream.server.doors.admission import Admission
from beamstream.server.doors.sockets import keep_alive

log = structlog.get_logger("http")


class HttpRequest:
    """One request, complete. `headers` (names in lower case) only where the handler wants them."""

    __slots__ = ("body", "cookie", "headers", "keep_alive", "method", "target")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.cookie = b""
        self.body = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = True


class Tunnel(Protocol):
    """Who has taken a connection over: all that comes is handed on, whatever it is."""

    def sent(self, data: bytes) -> None: ...

    def pause(self, paused: bool) -> None: ...

    def gone(self) -> None: ...


class Handler(Protocol):
    """What answers requests of one connection."""

    def wants_headers(self, target: bytes) -> bool:
        """Whether all headers of a request are to be kept."""

    def handle(self, connection: HttpConnection, request: HttpRequest) -> None:
        """Answer now or later, once, by `connection.reply` or `connection.send`."""

    def gone(self) -> None:
        """The peer closed the connection; an answer that is owed is not wanted any more."""

    def stop(self) -> None:
        """The node stops: answer soon what can be answered now."""


_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_HEADS: dict[tuple[int, str], bytes] = {}


def _head(status: int, content_type: str, nbytes: int, keep_alive: bool) -> bytes:
    start = _HEADS.get((status, content_type))
    if start is None:
        start = b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nX-Content-Type-Options: nosniff\r\n" % (
            status,
            _REASONS.get(status, b"Status"),
            content_type.encode(),
        )
        _HEADS[(status, content_type)] = start
    if status == 204:
        return start + (b"\r\n" if keep_alive else b"Connection: close\r\n\r\n")
    if keep_alive:
        return start + b"Content-Length: %d\r\n\r\n" % nbytes
    return start + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % nbytes


class HttpConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], Handler], admission: Admission
    ) -> None:
        self.loop = loop
        self._admission = admission
        self._handler = make()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.address = ""
        self.local_host = ""
        # Of the request that is being received.
        self._request = HttpRequest()
        self._received_nbytes = 0
        self._head_nbytes = 0
        self._keeps = False
        self._in_head = True
        self._body: list[bytes] = []
        self._body_nbytes = 0
        self._chunked = False
        self._sized = False
        self._in_request = False
        # Of the requests that are complete.
        self._waiting: deque[HttpRequest] = deque()
        self._current: HttpRequest | None = None
        self._tunnel: Tunnel | None = None
        self._paused = False
        self._closing = False
        self._deadline: asyncio.TimerHandle | None = None
        self._send_deadline: asyncio.TimerHandle | None = None
        self._on_drained: Callable[[], None] | None = None
        self._write_paused = False
        self._left_nbytes = 0

    # ------------------------------------------------------------------ the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        keep_alive(transport)
        self._transport.set_write_buffer_limits(0, 0)
        peer = self._transport.get_extra_info("peername")
        here = self._transport.get_extra_info("sockname")
        self.address = f"{peer[0]}:{peer[1]}" if peer else "?"
        self.local_host = here[0] if here else ""
        if not self._admission.enter(self):
            self._transport.write(_head(503, "text/plain", 0, False))
            self._transport.close()
            return
        self._deadline = self.loop.call_later(limits.LOGIN_SECONDS_MAX, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._admission.leave(self)
        self._cancel_deadline()
        self._cancel_send_deadline()
        self._waiting.clear()
        drained, self._on_drained = self._on_drained, None
        if drained is not None:
            drained()
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.gone()
        self._handler.gone()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._tunnel is not None:
            self._tunnel.sent(data)
            return
        self._received_nbytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, _Refused):
                self._fail(cause.status, cause.text)
            else:
                self._fail(400, f"bad request: {error}")
        except httptools.HttpParserUpgrade:
            # The parser stops behind a request that asks for another protocol, which was answered.
            if self._tunnel is not None:
                return
            if self._in_request:
                self._fail(400, "upgrades are not supported")
            else:
                self._closing = True
                self._transport.close()
        except _Refused as refused:
            self._fail(refused.status, refused.text)
        else:
            if self._in_request and self._received_nbytes > limits.HTTP_HEAD_NBYTES_MAX:
                self._check_received()

    def _check_received(self) -> None:
        """The parser keeps a header, or a line of a chunked body, until it is complete."""
        if self._in_head:
            self._fail(431, "request head is too large")
        elif self._received_nbytes > limits.HTTP_HEAD_NBYTES_MAX + 8 * limits.HTTP_BODY_NBYTES_MAX:
            self._fail(413, "request is too large")

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._tunnel is not None:
            self._tunnel.pause(True)

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._tunnel is not None:
            self._tunnel.pause(False)
        drained, self._on_drained = self._on_drained, None
        if drained is not None:
            self._cancel_send_deadline()
            drained()

    def eof_received(self) -> bool:
        return False

    def stop(self) -> None:
        """The node stops."""
        if self._current is None:
            self._transport.close()
        else:
            self._current.keep_alive = False
            self._handler.stop()

    @property
    def closing(self) -> bool:
        """The peer has gone, or is being sent away: answers do not reach it."""
        return self._closing or self._transport.is_closing()

    # ------------------------------------------------------------------ answers

    def reply(
        self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8"
    ) -> None:
        """Answer the current request."""
        request = self._current
        if request is None or self.closing:
            return
        # As with the original, an error to a request without body ends the connection for libcurl;
        # closing is its own decision.
        self._transport.write(_head(status, content_type, len(body), request.keep_alive) + body)
        self._end_of_answer()

    def redirect(self, where: bytes) -> None:
        """Answer the current request: what it asks for is elsewhere on this node."""
        request = self._current
        if request is None or self.closing:
            return
        self._transport.write(
            b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n"
            b"X-Content-Type-Options: nosniff\r\n%s\r\n"
            % (where, b"" if request.keep_alive else b"Connection: close\r\n")
        )
        self._end_of_answer()

    def send_head(self, status: int, nbytes: int, content_type: str) -> None:
        """Begin an answer whose body comes in pieces, by `send`."""
        assert self._current is not None
        self._transport.write(_head(status, content_type, nbytes, self._current.keep_alive))

    def send(self, piece: memoryview | bytes, drained: Callable[[], None]) -> None:
        """Send a piece of the body; `drained` when it has left (or the peer has gone)."""
        if self.closing:
            drained()
            return
        self._transport.write(piece)
        if not self._write_paused and not self._transport.get_write_buffer_size():
            drained()
            return
        self._on_drained = drained
        self._left_nbytes = self._transport.get_write_buffer_size()
        self._watch_sending()

    def end(self) -> None:
        """All pieces were sent."""
        self._end_of_answer()

    def abort(self) -> None:
        """An answer that was begun cannot be ended: the peer must notice."""
        self._closing = True
        self._transport.abort()

    # ------------------------------------------------------------------ handed over

    def hand_over(self, tunnel: Tunnel) -> None:
        """From now on all that comes is the tunnel's; requests that wait are dropped."""
        self._tunnel = tunnel
        self._waiting.clear()
        self._cancel_deadline()
        self._transport.set_write_buffer_limits(limits.HTTP_BODY_NBYTES_MAX)

    def pass_on(self, data: bytes) -> None:
        """Send what the tunnel has."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self, paused: bool) -> None:
        if self._transport.is_closing():
            return
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection when what was sent has left."""
        self._tunnel = None
        self._closing = True
        self._transport.close()

    def _end_of_answer(self) -> None:
        request, self._current = self._current, None
        if request is not None and not request.keep_alive:
            self._transport.close()
            return
        self._next()

    def _next(self) -> None:
        if self._current is None and self._waiting and not self._closing:
            self._current = self._waiting.popleft()
            if self._paused and not self._waiting:
                self._paused = False
                self._transport.resume_reading()
            self._handler.handle(self, self._current)

    def _fail(self, status: int, text: str) -> None:
        """The request cannot be understood, nor what follows it."""
        log.warning("bad request", peer=self.address, status=status, reason=text)
        if self._current is None and not self.closing:
            body = text.encode()
            self._transport.write(
                _head(status, "text/plain; charset=utf-8", len(body), False) + body
            )
        self._closing = True
        self._transport.close()

    # ------------------------------------------------------------------ deadlines

    def _watch_sending(self) -> None:
        self._cancel_send_deadline()
        self._send_deadline = self.loop.call_later(limits.STALL_SECONDS_MAX, self._check_progress)

    def _cancel_send_deadline(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        log.warning("request was not completed in time", peer=self.address)
        self._closing = True
        self._transport.abort()

    def _check_progress(self) -> None:
        left = self._transport.get_write_buffer_size()
        if left >= self._left_nbytes:
            log.warning("reader stopped reading", peer=self.address)
            self.abort()
            return
        self._left_nbytes = left
        self._watch_sending()

    # ------------------------------------------------------------------ the parser calls back

    def on_message_begin(self) -> None:
        self._in_request = True
        self._cancel_deadline()
        self._deadline = self.loop.call_later(limits.STALL_SECONDS_MAX, self._late)
        self._request = HttpRequest()
        self._head_nbytes = 0
        self._body = []
        self._body_nbytes = 0
        self._chunked = self._sized = False
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            raise _Refused(505, "HTTP/1.1 is spoken here")

    def on_url(self, url: bytes) -> None:
        self._request.target += url
        if len(self._request.target) > limits.HTTP_LINE_NBYTES_MAX:
            raise _Refused(414, "request line is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_nbytes += len(name) + len(value)
        if self._head_nbytes > limits.HTTP_HEAD_NBYTES_MAX:
            raise _Refused(431, "request head is too large")
        key = name.lower()
        if not self._request.headers and self._head_nbytes == len(name) + len(value):
            self._keeps = self._handler.wants_headers(self._request.target)
        if self._keeps:
            self._request.headers.append((key, value))
        if key == b"content-length":
            if self._sized or self._chunked:
                raise _Refused(400, "more than one length of the body")
            self._sized = True
            if not value.isdigit() or int(value) > limits.HTTP_BODY_NBYTES_MAX:
                raise _Refused(413, "request body is too large")
        elif key == b"transfer-encoding":
            if self._sized or value.lower() != b"chunked":
                raise _Refused(400, "this transfer encoding is not supported")
            self._chunked = True
        elif key == b"cookie":
            self._request.cookie = value
        elif key == b"expect" and value.lower() == b"100-continue" and self._current is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_nbytes += len(body)
        if self._body_nbytes > limits.HTTP_BODY_NBYTES_MAX:
            raise _Refused(413, "request body is too large")
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method()
        request.keep_alive = self._parser.should_keep_alive()
        request.body = b"".join(self._body)
        self._in_request = False
        self._received_nbytes = 0
        self._cancel_deadline()
        if self._current is None:
            self._current = request
            self._handler.handle(self, request)
            return
        self._waiting.append(request)
        if len(self._waiting) > limits.HTTP_PIPELINED_MAX:
            raise _Refused(429, "too many requests ahead of their answers")
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()


class _Refused(Exception):  # noqa: N818
    """A request that is refused while it is still being received."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
