"""Blocking sockets: received into given memory, sent from where things are. Plain or with TLS."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from beamstream.client.native.outgoing import Buffer

if TYPE_CHECKING:
    import ssl

BUFFERS_AT_ONCE: Final = 512
"""Below IOV_MAX of every system in use."""

TLS_NBYTES: Final = 256 * 1024
_JOINED_NBYTES_MAX: Final = 64 * 1024


class Transport(Protocol):
    """One connection. One thread receives, one at a time sends; anyone may shut it down."""

    def set_timeout(self, timeout_s: float | None) -> None:
        """How long receiving and sending may take; None: for ever."""

    def receive(self, view: memoryview, *, whole: bool = False) -> int:
        """Receive into `view`, with `whole` until it is full; 0: the other side has ended."""

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of `buffers`."""

    def shutdown(self) -> None:
        """End both directions; whoever receives or sends is woken."""

    def close(self) -> None:
        """Give back the descriptor, without a word to the other side."""


class Plain:
    """TCP or a Unix socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._whole = getattr(socket, "MSG_WAITALL", 0)

    def set_timeout(self, timeout_s: float | None) -> None:
        self._socket.settimeout(timeout_s)

    def receive(self, view: memoryview, *, whole: bool = False) -> int:
        return self._socket.recv_into(view, 0, self._whole if whole else 0)

    def send(self, buffers: Sequence[Buffer]) -> None:
        if len(buffers) == 1:
            self._socket.sendall(buffers[0])
        elif hasattr(self._socket, "sendmsg"):
            self._send_message([memoryview(buffer) for buffer in buffers if len(buffer)])
        else:
            for buffer in joined(buffers):
                self._socket.sendall(buffer)

    def _send_message(self, views: list[memoryview]) -> None:
        start = 0
        while start < len(views):
            sent = self._socket.sendmsg(views[start : start + BUFFERS_AT_ONCE])
            while start < len(views) and sent >= len(views[start]):
                sent -= len(views[start])
                start += 1
            if sent:
                views[start] = views[start][sent:]

    def shutdown(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Tls:
    """TLS over a socket.

    OpenSSL's objects must not be used by two threads at once, and a thread that waits for bytes
    must not keep another one from sending: encryption is done under a lock, in memory, and only
    the encrypted bytes wait for the socket.
    """

    def __init__(self, plain: Plain, context: ssl.SSLContext, host: str) -> None:
        import ssl

        self._plain = plain
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._staging = memoryview(bytearray(TLS_NBYTES))
        self._want = (ssl.SSLWantReadError,)
        self._ended = (ssl.SSLZeroReturnError, ssl.SSLEOFError)

    def set_timeout(self, timeout_s: float | None) -> None:
        self._plain.set_timeout(timeout_s)

    def greet(self) -> None:
        """Agree on keys and check the other side's certificate; raises `ssl.SSLError`."""
        while not self._greeted():
            self._flush()
            if not self._feed():
                raise ConnectionResetError("the other side ended within the TLS handshake")
        self._flush()

    def _greeted(self) -> bool:
        try:
            self._tls.do_handshake()
        except self._want:
            return False
        return True

    def receive(self, view: memoryview, *, whole: bool = False) -> int:
        have = 0
        while have < len(view):
            nbytes = self._decrypt(view[have:])
            if nbytes < 0:
                if self._feed():
                    continue
                return have
            have += nbytes
            if not nbytes or not whole:
                return have
        return have

    def _decrypt(self, view: memoryview) -> int:
        """What has come already; -1 if more has to come first, 0 at the end."""
        with self._lock:
            try:
                nbytes: Any = self._tls.read(len(view), view)
            except self._want:
                return -1
            except self._ended:
                return 0
        return int(nbytes)

    def _feed(self) -> bool:
        nbytes = self._plain.receive(self._staging)
        with self._lock:
            if nbytes:
                self._in.write(self._staging[:nbytes])
            else:
                self._in.write_eof()
        return nbytes > 0

    def send(self, buffers: Sequence[Buffer]) -> None:
        for buffer in joined(buffers):
            view = memoryview(buffer)
            for start in range(0, len(view), TLS_NBYTES):
                with self._lock:
                    self._tls.write(view[start : start + TLS_NBYTES])
                self._flush()

    def _flush(self) -> None:
        # What is taken out first has to be sent first.
        with self._send_lock:
            with self._lock:
                encrypted = self._out.read()
            if encrypted:
                self._plain.send([encrypted])

    def shutdown(self) -> None:
        self._plain.shutdown()

    def close(self) -> None:
        self._plain.close()


def joined(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Small neighbours as one buffer, large ones as they are.

    >>> joined([b"a", b"b", b"", bytes(70_000)])[0]
    b'ab'
    """
    found: list[Buffer] = []
    small: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) < _JOINED_NBYTES_MAX:
            small.append(buffer)
            continue
        if small:
            found.append(b"".join(small))
            small = []
        found.append(buffer)
    if small:
        found.append(b"".join(small))
    return found
