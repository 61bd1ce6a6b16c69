"""Worker: bare loopback sockets, one ``sendall`` and one ``recv_into`` per message.

Every connection has a process on either end, so that no lock of Python's is in the figure.
"""

from __future__ import annotations

import multiprocessing
import resource
import socket
import time
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

from benchmarks.plan import Kind
from benchmarks.workers import Work, serve

_CONTEXT: Final = multiprocessing.get_context("fork")
_REPLY: Final = b"r" * 64
_STAMP_NBYTES: Final = 8
_SKIPPED: Final = 5


def prepare(settings: dict[str, Any]) -> Work:
    kind, size = Kind(settings["kind"]), int(settings["size"])
    seconds, rate = float(settings["seconds"]), float(settings.get("rate", 0.0))
    pairs = [_pair() for _ in range(int(settings["peers"]))]
    start = _CONTEXT.Event()
    results: list[Connection] = []
    for sender, receiver in pairs:
        for target, args in (
            (_receive, (receiver, kind, size)),
            (_send, (sender, kind, size, seconds, rate, start)),
        ):
            ours, theirs = _CONTEXT.Pipe(duplex=False)
            _CONTEXT.Process(target=target, args=(theirs, *args), daemon=True).start()
            results.append(ours)
    for sender, receiver in pairs:
        sender.close()
        receiver.close()

    def work() -> dict[str, Any]:
        start.set()
        return _joined([connection.recv() for connection in results])

    return work


def _joined(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up what receivers (even places) and senders (odd places) report."""
    delays = [delay for one in found for delay in one.get("delays_ms", [])]
    joined: dict[str, Any] = {
        "count": sum(one["count"] for one in found[::2]),
        "wall_s": max(one["last"] for one in found) - min(one["first"] for one in found[1::2]),
        "receivers_cpu_s": sum(one["cpu_s"] for one in found[::2]),
        "cpu_s": sum(one["cpu_s"] for one in found[1::2]),
    }
    if delays:
        joined["p50_ms"], joined["p99_ms"] = (float(x) for x in np.percentile(delays, [50, 99]))
    return joined


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
    for end in (sender, receiver):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sender, receiver


def _receive(results: Connection, connection: socket.socket, kind: Kind, size: int) -> None:
    buffer = memoryview(bytearray(size))
    count, delays, last = 0, [], 0.0
    while connection.recv_into(buffer, size, socket.MSG_WAITALL) == size:
        last = time.monotonic()
        count += 1
        if kind is Kind.RAW_REPLY:
            connection.sendall(_REPLY)
        elif kind is Kind.RAW_WAIT:
            sent_ns = int.from_bytes(buffer[:_STAMP_NBYTES], "big")
            delays.append((time.monotonic_ns() - sent_ns) / 1e6)
    results.send({"count": count, "first": last, "last": last, "cpu_s": _cpu_s(),
                  "delays_ms": delays[_SKIPPED:]})  # fmt: skip


def _send(
    results: Connection,
    connection: socket.socket,
    kind: Kind,
    size: int,
    seconds: float,
    rate: float,
    start: Any,
) -> None:
    payload = memoryview(bytearray(np.random.default_rng(0).bytes(size)))
    reply = bytearray(len(_REPLY))
    start.wait()
    first = due = time.monotonic()
    end = first + seconds
    count = 0
    while time.monotonic() < end:
        if kind is Kind.RAW_WAIT:
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
            payload[:_STAMP_NBYTES] = time.monotonic_ns().to_bytes(_STAMP_NBYTES, "big")
        connection.sendall(payload)
        count += 1
        if kind is Kind.RAW_REPLY:
            connection.recv_into(reply, len(reply), socket.MSG_WAITALL)
    last = time.monotonic()
    connection.shutdown(socket.SHUT_RDWR if kind is Kind.RAW_REPLY else socket.SHUT_WR)
    results.send({"count": count, "first": first, "last": last, "cpu_s": _cpu_s()})


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    serve(prepare)
