"""The ceiling of what goes over loopback: one ``sendall``, one ``recv_into`` per message.

Small messages go faster by far when many share a call: a row of its own, for what batches.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.interface import Buffer, Durability, Peer, Server, Turn
from benchmarks.peers.ports import announce, announced
from benchmarks.peers.traffic import HEAD_NBYTES, WrongMessages

_BLOCK_NBYTES: Final = 64_000
_ACCEPT_SECONDS_MAX: Final = 60.0


class RawSender:
    """Sends each message from the same buffer."""

    def __init__(self, connection: socket.socket, payload: bytes) -> None:
        self._connection = connection
        self._payload = bytearray(payload)

    def send(self, turns: Iterable[Turn]) -> None:
        sendall, buffer = self._connection.sendall, self._payload
        for turn in turns:
            if isinstance(turn, float):
                time.sleep(turn)
            else:
                buffer[:HEAD_NBYTES] = turn
                sendall(buffer)


class RawReceiver:
    """Receives each message into the same buffer."""

    def __init__(self, listener: socket.socket, size: int) -> None:
        self._listener, self._size = listener, size

    def messages(self) -> Iterator[tuple[Buffer, Buffer]]:
        size, buffer, whole = self._size, bytearray(self._size), socket.MSG_WAITALL
        item = (buffer, buffer)
        with self._accepted() as connection:
            recv_into = connection.recv_into
            while (nbytes := recv_into(buffer, size, whole)) == size:
                yield item
            raise WrongMessages(f"the connection ended with {nbytes} of {size} bytes")

    def _accepted(self) -> socket.socket:
        self._listener.settimeout(_ACCEPT_SECONDS_MAX)
        connection, _ = self._listener.accept()
        # A socket with a timeout polls before each call.
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def settle(self) -> None:
        pass


class BatchSender:
    """Sends small messages by the block, or what there is of one when nothing is due."""

    def __init__(self, connection: socket.socket, payload: bytes) -> None:
        self._connection, self._size = connection, len(payload)
        self._block = bytearray(payload * max(1, _BLOCK_NBYTES // len(payload)))

    def send(self, turns: Iterable[Turn]) -> None:
        sendall, size, block = self._connection.sendall, self._size, memoryview(self._block)
        at, end = 0, len(block)
        for turn in turns:
            if isinstance(turn, float):
                sendall(block[:at])
                at = 0
                time.sleep(turn)
                continue
            block[at : at + HEAD_NBYTES] = turn
            at += size
            if at == end:
                sendall(block)
                at = 0
        sendall(block[:at])


class BatchReceiver(RawReceiver):
    """Receives what is there, up to a block, and takes it apart."""

    def messages(self) -> Iterator[tuple[Buffer, Buffer]]:
        size = self._size
        view, filled = memoryview(bytearray(max(1, _BLOCK_NBYTES // size) * size)), 0
        with self._accepted() as connection:
            while nbytes := connection.recv_into(view[filled:]):
                filled += nbytes
                whole = filled - filled % size
                for at in range(0, whole, size):
                    message = view[at : at + size]
                    yield message, message
                view[: filled - whole] = view[whole:filled]
                filled -= whole
            raise WrongMessages(f"the connection ended with {filled} of {size} bytes")


def sender(address: dict[str, Any], payload: bytes) -> RawSender | BatchSender:
    connection = socket.create_connection(("127.0.0.1", announced(address["folder"])))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return (BatchSender if address["batched"] else RawSender)(connection, payload)


def receiver(address: dict[str, Any], size: int) -> RawReceiver:
    listener = socket.create_server(("127.0.0.1", 0))
    announce(address["folder"], listener.getsockname()[1])
    return (BatchReceiver if address["batched"] else RawReceiver)(listener, size)


def _started(batched: bool) -> Callable[[Path], AbstractContextManager[Server]]:
    return lambda folder: nullcontext(Server({"folder": str(folder), "batched": batched}))


PEERS = (
    Peer("raw", "raw socket", Durability.NOTHING, "raw_socket", _started(False)),
    Peer("raw", "raw socket, 64 kB a call", Durability.NOTHING, "raw_socket", _started(True),
         nbytes_max=_BLOCK_NBYTES // 2),
)  # fmt: skip
