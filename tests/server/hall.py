"""Ingest with all that it stands on, without sockets."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from beamstream import limits
from beamstream.model import Level, Record, Who
from beamstream.server.beamtimes import BeamtimeFolders
from beamstream.server.commits import Commits
from beamstream.server.ingest import Ingest, Put
from beamstream.server.messages import Answer, Message, Producer
from beamstream.server.roots import Roots
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams, View
from beamstream.store.cache import Cache
from beamstream.store.catalog.sqlite import SqliteCatalog

BT, SOURCE, STREAM = "bt1", "det", "scan1"
CACHE_ONLY, DEFAULT, FILE_ONLY, META_ONLY = 9, 13, 5, 10
ARENA = 64 * limits.KIB


def message(
    id: int = 1, name: str = "processed/f1", mode: int = DEFAULT, size: int = 0, **more: object
) -> Message:
    return Message(SOURCE, STREAM, id, name, size, mode, b"{}", **more)  # type: ignore[arg-type]


class Hall:
    """All that ingest stands on, and what is to be seen of it."""

    def __init__(self, folder: Path, durability: Level, arenas: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.catalog = SqliteCatalog(folder)
        self.roots = Roots(folder / "journal")
        memory = [memoryview(bytearray(ARENA)) for _ in range(arenas)]
        self.cache = Cache(memory, itertools.count(1).__next__)
        self.streams = Streams(self.catalog)
        self.commits = Commits(self.catalog, self.loop, lambda beamtime: [])
        self.threads = ThreadPoolExecutor(2)
        self.stats = Stats()
        self.files = folder / "files"
        self.producer = Producer(BeamtimeFolders(BT, "", self.files), SOURCE, False, Who("i", "s"))
        self.ingest = Ingest(
            loop=self.loop,
            streams=self.streams,
            commits=self.commits,
            cache=self.cache,
            roots=self.roots,
            stats=self.stats,
            threads=self.threads,
            durability=durability,
            node=1,
            boot=1,
        )
        self.catalog.apply(BT, [])

    @property
    def view(self) -> View:
        return self.streams.view(BT, SOURCE, STREAM)

    async def begin(self, message: Message, nbytes: int) -> Put:
        """Wait until the message may be received."""
        while True:
            again = asyncio.Event()
            put = self.ingest.begin(self.producer, message, nbytes, again.set)
            if isinstance(put, Put):
                return put
            await again.wait()

    async def receive(self, put: Put, payload: bytes) -> None:
        """Fill the memory that the put gives, one after the other."""
        at = 0
        while put.memory is not None and at < len(payload):
            memory = put.memory
            while True:
                memory[:] = payload[at : at + memory.nbytes]
                at += memory.nbytes
                if at >= len(payload):
                    return
                more: asyncio.Future[memoryview] = self.loop.create_future()
                put.filled(more.set_result)
                memory = await more

    async def send(self, message: Message, payload: bytes = b"") -> Answer:
        put = await self.begin(message, len(payload))
        await self.receive(put, payload)
        return await self.complete(put)

    def complete(self, put: Put) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = self.loop.create_future()
        put.complete(answer.set_result)
        return answer

    def record(self, id: int) -> Record:
        item = self.streams.item_by_id(self.view, id)
        assert isinstance(item, Record)
        return item

    def cached(self, record: Record) -> bytes | None:
        no = self.view.no
        slot = self.cache.find((BT, no, record.seq, record.substream))
        return None if slot is None else bytes(self.cache.view(slot))

    def nothing_left(self) -> None:
        """No reservation, pin, count, part of a file or descriptor stays behind."""
        assert self.ingest.under_way == 0
        assert self.ingest._reserved == {}
        assert not self.ingest._for_room
        assert self.cache.pinned_nbytes == 0
        assert all(view.busy == 0 for view in self.streams.views())
        assert not any(view.held or view.hidden_parts for view in self.streams.views())
        names = [path.name for path in self.files.rglob("*")] if self.files.exists() else []
        assert not [name for name in names if name.startswith(".part-")]

    def close(self) -> None:
        self.ingest.close()
        self.threads.shutdown()
        self.commits.close()
        self.catalog.close()
        self.roots.close()


def open_below(folder: Path) -> list[str]:
    """What this process has open below a folder; other tests' clients come and go meanwhile."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if path.startswith(f"{folder}/"):
            found.append(path)
    return found


def run(
    folder: Path,
    test: Callable[[Hall], Awaitable[None]],
    durability: Level = Level.DISK,
    arenas: int = 4,
) -> None:
    async def main() -> None:
        hall = Hall(folder, durability, arenas)
        try:
            async with asyncio.timeout(60):
                await test(hall)
            await asyncio.gather(*(asyncio.to_thread(lambda: None) for _ in range(2)))
            hall.threads.submit(lambda: None).result()
            hall.nothing_left()
        finally:
            hall.close()

    asyncio.run(main())
    gc.collect()
    assert open_below(folder) == []
