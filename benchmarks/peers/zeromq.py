"""ZeroMQ: PUSH and PULL over TCP, high-water marks instead of unlimited queues.

Small messages go as one part; a large one as two, its head and the payload without a copy, as
pyzmq's users send arrays.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, Final

from benchmarks.peers.environment import peers_python, versions
from benchmarks.peers.interface import Buffer, Durability, Peer, Turn, meeting
from benchmarks.peers.ports import announce, announced
from benchmarks.peers.traffic import HEAD_NBYTES

_SMALL_NBYTES_MAX: Final = 64_000
_QUEUED_NBYTES: Final = 32_000_000
_HWM_MAX: Final = 10_000
_HWM_MIN: Final = 4


class ZmqSender:
    def __init__(self, socket: Any, payload: bytes) -> None:
        self._socket, self._payload = socket, payload

    def send(self, turns: Iterable[Turn]) -> None:
        payload, rest = self._payload, self._payload[HEAD_NBYTES:]
        send, send_parts = self._socket.send, self._socket.send_multipart
        small = len(payload) <= _SMALL_NBYTES_MAX
        for turn in turns:
            if isinstance(turn, float):
                time.sleep(turn)
            elif small:
                send(turn + rest)
            else:
                send_parts((turn, payload), copy=False)


class ZmqReceiver:
    def __init__(self, socket: Any, size: int) -> None:
        self._socket, self._small = socket, size <= _SMALL_NBYTES_MAX

    def messages(self) -> Iterator[tuple[Buffer, Buffer]]:
        recv, recv_parts = self._socket.recv, self._socket.recv_multipart
        while self._small:
            message = recv()
            yield message, message
        while True:
            head, frame = recv_parts(copy=False)
            yield head.bytes, frame.buffer

    def settle(self) -> None:
        pass


def sender(address: dict[str, Any], payload: bytes) -> ZmqSender:
    zmq = _library()
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.sndhwm = _hwm(len(payload))
    socket.connect(f"tcp://127.0.0.1:{announced(address['folder'])}")
    return ZmqSender(socket, payload)


def receiver(address: dict[str, Any], size: int) -> ZmqReceiver:
    zmq = _library()
    socket = zmq.Context.instance().socket(zmq.PULL)
    socket.rcvhwm = _hwm(size)
    announce(address["folder"], socket.bind_to_random_port("tcp://127.0.0.1"))
    return ZmqReceiver(socket, size)


def _library() -> Any:
    return import_module("zmq")


def _hwm(size: int) -> int:
    return max(_HWM_MIN, min(_HWM_MAX, _QUEUED_NBYTES // size))


PEERS = (
    Peer(
        "zmq",
        "ZeroMQ PUSH/PULL",
        Durability.NOTHING,
        "zeromq",
        meeting,
        python=lambda: peers_python("pyzmq"),
        versions=lambda: versions("pyzmq"),
    ),
)
