"""NATS JetStream: a window of asynchronous publishes; a durable pull consumer, batches, acks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.environment import nats_server, peers_python, versions
from benchmarks.peers.interface import Buffer, Durability, Peer, Server, Turn
from benchmarks.peers.ports import free_port, running
from benchmarks.peers.traffic import HEAD_NBYTES

_STREAM: Final = "s"
_SUBJECT: Final = "s.frames"
_WINDOW_NBYTES: Final = 32_000_000
_WINDOW_MAX: Final = 2_000
_WINDOW_MIN: Final = 4
_BATCH_NBYTES: Final = 4_000_000
_BATCH_MAX: Final = 200
_FETCH_SECONDS: Final = 1.0
_PAYLOAD_NBYTES_MAX: Final = 32 << 20
_STORE_NBYTES_MAX: Final = 8 << 30


class JetStreamSender:
    def __init__(self, loop: asyncio.AbstractEventLoop, js: Any, payload: bytes) -> None:
        self._loop, self._js, self._payload = loop, js, bytearray(payload)

    def send(self, turns: Iterable[Turn]) -> None:
        self._loop.run_until_complete(self._send(turns))

    async def _send(self, turns: Iterable[Turn]) -> None:
        publish, payload = self._js.publish_async, self._payload
        acknowledged: set[asyncio.Future[Any]] = set()
        for turn in turns:
            if isinstance(turn, float):
                await asyncio.sleep(turn)
                continue
            # The client copies it into its buffer at once.
            payload[:HEAD_NBYTES] = turn
            future = await publish(_SUBJECT, payload)
            acknowledged.add(future)
            future.add_done_callback(acknowledged.discard)
        await asyncio.gather(*acknowledged)


class JetStreamReceiver:
    def __init__(self, loop: asyncio.AbstractEventLoop, subscription: Any, size: int) -> None:
        self._loop, self._subscription = loop, subscription
        self._batch = max(1, min(_BATCH_MAX, _BATCH_NBYTES // size))
        self._unacknowledged: list[Any] = []

    def messages(self) -> Iterator[tuple[Buffer, Buffer]]:
        while True:
            for message in self._loop.run_until_complete(self._next()):
                yield message.data, message.data

    async def _next(self) -> list[Any]:
        await self._acknowledge()
        try:
            self._unacknowledged = await self._subscription.fetch(
                self._batch, timeout=_FETCH_SECONDS
            )
        except TimeoutError:
            self._unacknowledged = []
        return self._unacknowledged

    async def _acknowledge(self) -> None:
        for message in self._unacknowledged:
            await message.ack()
        self._unacknowledged = []

    def settle(self) -> None:
        self._loop.run_until_complete(self._settle())

    async def _settle(self) -> None:
        if self._unacknowledged:
            *others, last = self._unacknowledged
            for message in others:
                await message.ack()
            await last.ack_sync()
            self._unacknowledged = []


def sender(address: dict[str, Any], payload: bytes) -> JetStreamSender:
    window = max(_WINDOW_MIN, min(_WINDOW_MAX, _WINDOW_NBYTES // len(payload)))
    loop = asyncio.new_event_loop()
    return JetStreamSender(loop, loop.run_until_complete(_connect(address, window)), payload)


def receiver(address: dict[str, Any], size: int) -> JetStreamReceiver:
    loop = asyncio.new_event_loop()
    subscription = loop.run_until_complete(_subscribe(address))
    return JetStreamReceiver(loop, subscription, size)


async def _connect(address: dict[str, Any], window: int) -> Any:
    nats: Any = import_module("nats")
    api: Any = import_module("nats.js.api")
    connection = await nats.connect(
        f"nats://127.0.0.1:{address['port']}", pending_size=_WINDOW_NBYTES
    )
    js = connection.jetstream(publish_async_max_pending=window, timeout=30)
    # Both sides ask for it; whoever comes second finds it.
    await js.add_stream(
        api.StreamConfig(
            name=_STREAM, subjects=[_SUBJECT], storage=api.StorageType(address["storage"])
        )
    )
    return js


async def _subscribe(address: dict[str, Any]) -> Any:
    api: Any = import_module("nats.js.api")
    js = await _connect(address, _WINDOW_MAX)
    return await js.pull_subscribe(
        _SUBJECT,
        durable="g",
        config=api.ConsumerConfig(max_ack_pending=100_000, ack_wait=120),
        pending_bytes_limit=1 << 30,
    )


def _started(durability: Durability) -> Callable[[Path], AbstractContextManager[Server]]:
    @contextmanager
    def start(folder: Path) -> Iterator[Server]:
        program, port = nats_server(), free_port()
        store: dict[str, Any] = {
            "store_dir": str(folder / "store"),
            "max_memory_store": _STORE_NBYTES_MAX,
            "max_file_store": _STORE_NBYTES_MAX,
        }
        if durability is Durability.SYNCED:
            store["sync_interval"] = "always"
        settings = {
            "host": "127.0.0.1",
            "port": port,
            "jetstream": store,
            "max_payload": _PAYLOAD_NBYTES_MAX,
            "max_pending": 4 * _PAYLOAD_NBYTES_MAX,
        }
        configuration = folder / "nats.conf"
        configuration.write_text(json.dumps(settings))
        storage = "memory" if durability is Durability.MEMORY else "file"
        command = [program.name, "--config", str(configuration)]
        with running(command, folder, port, program.path) as pid:
            yield Server({"port": port, "storage": storage}, (pid,))

    return start


def _python() -> str:
    nats_server()
    return peers_python("nats-py")


PEERS = tuple(
    Peer(
        "jetstream",
        "NATS JetStream",
        durability,
        "jetstream",
        _started(durability),
        python=_python,
        versions=lambda: f"{nats_server().version()}; {versions('nats-py')}",
    )
    for durability in (Durability.MEMORY, Durability.CRASH, Durability.SYNCED)
)
