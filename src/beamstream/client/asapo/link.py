"""One TCP connection that speaks ASAPO's requests and replies."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final

from beamstream.client.asapo.address import Address
from beamstream.client.asapo.errors import Unavailable
from beamstream.errors import ConnectionLost, TimedOut
from beamstream.wire.asapo.structs import REPLY_NBYTES, Reply, unpack_reply

CONNECT_SECONDS: Final = 5.0

Buffer = bytes | bytearray | memoryview


class Link:
    """A connection for one request at a time.

    Parameters
    ----------
    address : of a receiver or data server.
    timeout_s : a peer that neither takes nor sends a byte for this long is given up.

    Raises
    ------
    Unavailable : nobody listens there.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.address = address
        try:
            self._socket = socket.create_connection((address.host, address.port), CONNECT_SECONDS)
        except OSError as error:
            raise Unavailable(f"no connection to {address}: {error}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Timeouts by the kernel: one system call then moves a whole payload, where a Python
        # timeout makes the socket non-blocking and costs one call per piece.
        self._socket.settimeout(None)
        seconds, fraction = divmod(max(timeout_s, 0.1), 1.0)
        period = struct.pack("@ll", int(seconds), int(fraction * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, period)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, period)
        self._reply = bytearray(REPLY_NBYTES)

    def ask(self, parts: Sequence[Buffer]) -> Reply:
        """Send a request, whatever number of pieces it has, and return the reply's header.

        Raises
        ------
        ConnectionLost, TimedOut : whether the request was taken is not known.
        RemoteProtocolError : the reply is none.
        """
        self._send(parts)
        self.receive_into(memoryview(self._reply))
        return unpack_reply(self._reply)

    def receive_into(self, view: memoryview) -> None:
        """Fill `view` with the next bytes."""
        filled = 0
        while filled < len(view):
            try:
                got = self._socket.recv_into(view[filled:], 0, socket.MSG_WAITALL)
            except BlockingIOError:
                raise TimedOut(f"{self.address} sends nothing") from None
            except OSError as error:
                raise ConnectionLost(f"connection to {self.address} lost: {error}") from None
            if not got:
                raise ConnectionLost(f"{self.address} closed the connection")
            filled += got

    def shutdown(self) -> None:
        """End the conversation; a thread that waits in it gets `ConnectionLost`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        self._socket.close()

    def _send(self, parts: Sequence[Buffer]) -> None:
        views = [memoryview(part) for part in parts if len(part)]
        try:
            while views:
                sent = self._socket.sendmsg(views)
                while views and sent >= len(views[0]):
                    sent -= len(views.pop(0))
                if sent:
                    views[0] = views[0][sent:]
        except BlockingIOError:
            raise TimedOut(f"{self.address} takes nothing") from None
        except OSError as error:
            raise ConnectionLost(f"connection to {self.address} lost: {error}") from None
