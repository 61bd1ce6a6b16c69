"""The page, the API and the metrics come from a process of their own: requests are handed on to it.

One request is one connection to the monitor's Unix socket, whose bytes go back as they come; a
WebSocket is one that lasts. The monitor learns who asks by a header that clients cannot set.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, cast

import structlog

from beamstream import limits
from beamstream.server.doors.http import HttpConnection, HttpRequest

log = structlog.get_logger("relay")

PEER_HEADER: Final = b"x-beamstream-peer"
_PREFIXES: Final = (b"/ui/", b"/api/", b"/metrics")
# What concerns one connection only, and what the node itself says.
_DROPPED: Final = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"content-length",
     b"proxy-connection", b"expect", PEER_HEADER)
)  # fmt: skip


def is_relayed(target: bytes) -> bool:
    """Whether the monitor answers requests for this target.

    >>> is_relayed(b"/ui/?x"), is_relayed(b"/uix"), is_relayed(b"/metrics?x=1")
    (True, False, True)
    """
    path = target.partition(b"?")[0]
    return path.startswith(_PREFIXES[:2]) or path == _PREFIXES[2]


class Relay:
    """Hands requests on to the monitor.

    Parameters
    ----------
    path : its Unix socket.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        self._loop = loop
        self._path = path
        self._open: set[Tunnel] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many requests are under way."""
        return len(self._open)

    def begin(self, connection: HttpConnection, request: HttpRequest) -> Tunnel | None:
        """Hand a request on; None if it was refused, which is answered."""
        if len(self._open) >= limits.RELAYED_MAX:
            connection.reply(
                503,
                f"{limits.RELAYED_MAX} requests for the page are under way; try again\n".encode(),
            )
            return None
        tunnel = Tunnel(self, connection, _head(request, connection.address) + request.body)
        self._open.add(tunnel)
        connection.hand_over(tunnel)
        task = self._loop.create_task(self._connect(connection, tunnel))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return tunnel

    async def _connect(self, connection: HttpConnection, tunnel: Tunnel) -> None:
        try:
            await self._loop.create_unix_connection(lambda: tunnel, str(self._path))
        except OSError as error:
            log.warning("the monitor is away", reason=error.strerror or str(error))
            self.ended(tunnel)
            connection.reply(
                503,
                b"The monitor of this node is not running, so there is no page; data is taken and "
                b"handed out as ever. `beamstream up` starts it again by itself within seconds.\n",
            )
            connection.close()

    def ended(self, tunnel: Tunnel) -> None:
        self._open.discard(tunnel)

    def close(self) -> None:
        """The node stops."""
        for tunnel in tuple(self._open):
            tunnel.gone()


class Tunnel(asyncio.Protocol):
    """One request on its way: the side of the monitor."""

    def __init__(self, relay: Relay, connection: HttpConnection, head: bytes) -> None:
        self._relay = relay
        self._connection = connection
        self._waiting = [head]
        self._transport: asyncio.Transport | None = None
        self._over = False

    # ------------------------------------------------------------------ the monitor's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._over:
            self._transport.abort()
            return
        self._transport.writelines(self._waiting)
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        self._connection.pass_on(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._connection.close()

    def pause_writing(self) -> None:
        self._connection.pause_reading(True)

    def resume_writing(self) -> None:
        self._connection.pause_reading(False)

    # ------------------------------------------------------------------ the client's side

    def sent(self, data: bytes) -> None:
        """The client has sent more."""
        if self._transport is not None:
            self._transport.write(data)
        elif sum(map(len, self._waiting)) + len(data) > limits.HTTP_BODY_NBYTES_MAX:
            self.gone()
            self._connection.close()
        else:
            self._waiting.append(data)

    def pause(self, paused: bool) -> None:
        """The client does not read as fast as the monitor writes."""
        if self._transport is None or self._transport.is_closing():
            return
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def gone(self) -> None:
        """The client has gone."""
        self._end()
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        self._over = True
        self._relay.ended(self)


def _head(request: HttpRequest, peer: str) -> bytes:
    """The request as the monitor gets it: ends with its answer, unless it becomes a WebSocket."""
    upgrade = any(name == b"upgrade" for name, _ in request.headers)
    lines = [b"%s %s HTTP/1.1" % (request.method, request.target)]
    lines += [b"%s: %s" % (name, value) for name, value in request.headers if name not in _DROPPED]
    lines.append(b"%s: %s" % (PEER_HEADER, peer.encode()))
    lines.append(b"connection: upgrade" if upgrade else b"connection: close")
    if request.body or request.method not in (b"GET", b"HEAD"):
        lines.append(b"content-length: %d" % len(request.body))
    return b"\r\n".join(lines) + b"\r\n\r\n"
