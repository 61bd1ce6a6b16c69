"""Redis Streams: XADD in pipelines, one group, XREADGROUP in batches, XACK with the next read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.environment import peers_python, redis_server, versions
from benchmarks.peers.interface import Buffer, Durability, Peer, Server, Turn
from benchmarks.peers.ports import free_port, running

_STREAM: Final = "s"
_GROUP: Final = "g"
_BATCH_NBYTES: Final = 1_000_000
_BATCH_MAX: Final = 200
_BLOCK_MS: Final = 1_000

_PERSISTENCE: Final = {
    Durability.MEMORY: ("--appendonly", "no"),
    Durability.CRASH: ("--appendonly", "yes", "--appendfsync", "everysec"),
    Durability.SYNCED: ("--appendonly", "yes", "--appendfsync", "always"),
}


class RedisSender:
    def __init__(self, client: Any, payload: bytes) -> None:
        self._client, self._payload = client, payload

    def send(self, turns: Iterable[Turn]) -> None:
        payload, batch = self._payload, _batch(len(self._payload))
        pipeline = self._client.pipeline(transaction=False)
        for turn in turns:
            if isinstance(turn, float):
                pipeline.execute()
                time.sleep(turn)
                continue
            pipeline.xadd(_STREAM, {"h": turn, "d": payload})
            if len(pipeline) == batch:
                pipeline.execute()
        pipeline.execute()


class RedisReceiver:
    def __init__(self, client: Any, size: int) -> None:
        self._client, self._batch = client, _batch(size)
        self._client.xgroup_create(_STREAM, _GROUP, id="0", mkstream=True)
        self._unacknowledged: list[bytes] = []

    def messages(self) -> Iterator[tuple[Buffer, Buffer]]:
        pipeline = self._client.pipeline(transaction=False)
        while True:
            if self._unacknowledged:
                pipeline.xack(_STREAM, _GROUP, *self._unacknowledged)
            pipeline.xreadgroup(_GROUP, "c", {_STREAM: ">"}, count=self._batch, block=_BLOCK_MS)
            *_, streams = pipeline.execute()
            self._unacknowledged = []
            for _, entries in streams or ():
                self._unacknowledged = [id for id, _ in entries]
                for _, fields in entries:
                    yield fields[b"h"], fields[b"d"]

    def settle(self) -> None:
        if self._unacknowledged:
            self._client.xack(_STREAM, _GROUP, *self._unacknowledged)
            self._unacknowledged = []


def sender(address: dict[str, Any], payload: bytes) -> RedisSender:
    return RedisSender(_client(address), payload)


def receiver(address: dict[str, Any], size: int) -> RedisReceiver:
    return RedisReceiver(_client(address), size)


def _client(address: dict[str, Any]) -> Any:
    redis: Any = import_module("redis")
    client = redis.Redis(host="127.0.0.1", port=address["port"], protocol=2)
    client.ping()
    return client


def _batch(size: int) -> int:
    return max(1, min(_BATCH_MAX, _BATCH_NBYTES // size))


def _started(durability: Durability) -> Callable[[Path], AbstractContextManager[Server]]:
    @contextmanager
    def start(folder: Path) -> Iterator[Server]:
        program, port = redis_server(), free_port()
        command = [program.name, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
                   "--save", "", *_PERSISTENCE[durability]]  # fmt: skip
        with running(command, folder, port, program.path) as pid:
            yield Server({"port": port}, (pid,))

    return start


def _python() -> str:
    redis_server()
    return peers_python("redis")


PEERS = tuple(
    Peer(
        "redis",
        "Redis Streams",
        durability,
        "redis_streams",
        _started(durability),
        python=_python,
        versions=lambda: f"{redis_server().version()}; {versions('redis', 'hiredis')}",
    )
    for durability in _PERSISTENCE
)
