"""Beamstream's own client: over TCP and over shared memory, many messages a call and one a call.

Every row has records, one group, leases and acknowledgements; they differ in what a receipt means.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import beamstream as bs
from beamstream.testing.node import NodeProcess
from benchmarks.peers.interface import Buffer, Durability, Peer, Server, Turn
from benchmarks.peers.traffic import HEAD_NBYTES

_BEAMTIME: Final = "bench"
_CACHE: Final = "1GiB"
_SMALL_NBYTES_MAX: Final = 64_000
_RUN_NBYTES: Final = 1_000_000
_RUN_MAX: Final = 200

_LEVELS: Final = {
    Durability.MEMORY: "cache",
    Durability.CRASH: "os",
    Durability.SYNCED: "disk",
}


class NativeSender:
    """Large payloads carry their head in the metadata, small ones begin with it."""

    def __init__(self, address: dict[str, Any], payload: bytes) -> None:
        self._hub = _hub(address)
        self._payload = payload
        self._one = address["one"]
        self._shared = address["shared"]
        self._writer = self._stream().writer(level=address["level"], finish=False)

    def _stream(self) -> bs.Stream:
        return self._hub.source("bench").stream("s")

    def send(self, turns: Iterable[Turn]) -> None:
        if len(self._payload) > _SMALL_NBYTES_MAX:
            self._send_large(turns)
        elif self._one:
            self._send_one(turns)
        else:
            self._send_many(turns)
        self._writer.flush()

    def _send_large(self, turns: Iterable[Turn]) -> None:
        payload, send = self._payload, self._writer.send
        for turn in turns:
            if isinstance(turn, float):
                time.sleep(turn)
            else:
                send(payload, b'{"h":"%s"}' % turn.hex().encode())

    def _send_one(self, turns: Iterable[Turn]) -> None:
        rest, send = self._payload[HEAD_NBYTES:], self._writer.send
        for turn in turns:
            if isinstance(turn, float):
                time.sleep(turn)
            else:
                send(turn + rest)

    def _send_many(self, turns: Iterable[Turn]) -> None:
        rest, send_many = self._payload[HEAD_NBYTES:], self._writer.send_many
        count = max(1, min(_RUN_MAX, _RUN_NBYTES // len(self._payload)))
        run: list[bytes] = []
        for turn in turns:
            if isinstance(turn, float):
                if run:
                    send_many(run)
                    run = []
                time.sleep(turn)
                continue
            run.append(turn + rest)
            if len(run) == count:
                send_many(run)
                run = []
        if run:
            send_many(run)


class NativeReceiver:
    """A member of one group; asking for the next message or batch acknowledges the one before."""

    def __init__(self, address: dict[str, Any], size: int) -> None:
        self._hub = _hub(address)
        self._small = size <= _SMALL_NBYTES_MAX
        self._one = address["one"]
        self._group = self._hub.source("bench").stream("s").group("g")
        self._last: bs.Message | bs.Batch | None = None

    def messages(self) -> Iterator[tuple[Buffer, Buffer]]:
        if self._small and not self._one:
            for batch in self._group.batches():
                self._last = batch
                for payload in batch.payloads():
                    yield payload, payload
            return
        for message in self._group:
            assert isinstance(message, bs.Message)
            self._last = message
            if self._small:
                yield message.data, message.data
            else:
                yield bytes.fromhex(message.meta["h"]), message.data

    def settle(self) -> None:
        if self._last is not None:
            self._last.ack()
            self._last = None
        # A question behind them on the same connection: when it is answered, they have arrived.
        self._hub.info()


def sender(address: dict[str, Any], payload: bytes) -> NativeSender:
    return NativeSender(address, payload)


def receiver(address: dict[str, Any], size: int) -> NativeReceiver:
    return NativeReceiver(address, size)


def _hub(address: dict[str, Any]) -> bs.Hub:
    os.environ["BEAMSTREAM_SHM"] = "1" if address["shared"] else "0"
    return bs.connect(address["url"], beamtime=_BEAMTIME, token=address["token"])


def _started(
    durability: Durability, *, one: bool, shared: bool
) -> Callable[[Path], AbstractContextManager[Server]]:
    @contextmanager
    def start(folder: Path) -> Iterator[Server]:
        with NodeProcess(folder / "data", cache=_CACHE, durability="disk") as node:
            address = {
                "url": node.endpoint,
                "token": node.token(_BEAMTIME, "read,write"),
                "level": _LEVELS[durability],
                "one": one,
                "shared": shared,
            }
            yield Server(address, (node.pid,))

    return start


def _peer(key: str, name: str, durability: Durability, *, one: bool, shared: bool) -> Peer:
    return Peer(
        key,
        name,
        durability,
        "beamstream_native",
        _started(durability, one=one, shared=shared),
        versions=lambda: f"Beamstream {bs.__version__}",
        nbytes_max=_SMALL_NBYTES_MAX if one else None,
    )


PEERS = (
    *(
        _peer("beamstream", "Beamstream, TCP", durability, one=False, shared=False)
        for durability in _LEVELS
    ),
    _peer(
        "beamstream",
        "Beamstream, TCP, one message a call",
        Durability.MEMORY,
        one=True,
        shared=False,
    ),
    _peer(
        "beamstream-shm",
        "Beamstream, shared memory",
        Durability.MEMORY,
        one=False,
        shared=True,
    ),
)
