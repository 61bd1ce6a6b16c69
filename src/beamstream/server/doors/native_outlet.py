"""Payloads on their way to one native client: out of memory at once, out of files by a thread.

Deliveries of a channel stay in their order: behind one that is read from disk the next ones wait.
Bytes from the disk are compared with their digests before the first of them leaves; those that are
gone or damaged are told one by one, the others come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, TypeVar

import msgspec
import structlog

from beamstream import limits
from beamstream.errors import ConnectionLost, Error, StorageError
from beamstream.model import Dataset, Record
from beamstream.server.blocks import Block
from beamstream.server.doors import native_batches as batches
from beamstream.server.doors.native_sending import Piece, Sender
from beamstream.server.doors.services import Services
from beamstream.server.ingest import Wait
from beamstream.server.payloads import Spot
from beamstream.server.streams import View
from beamstream.store.cache import Slot
from beamstream.wire.native.batches import Lost
from beamstream.wire.native.frames import Deliver, Frame

log = structlog.get_logger("native")

_IN_BYTES_NBYTES_MAX: Final = 256 * limits.KIB
"""Read from disk into memory of its own; more goes through the cache."""
_PIECE_NBYTES: Final = limits.MIB

T = TypeVar("T")
Framed = Callable[[tuple[Lost, ...]], Frame]
"""Makes the frame, when it is known what of its payloads is lost."""


class Loads:
    """Sends frames with payloads of one connection."""

    def __init__(self, services: Services, sender: Sender, beamtime: str) -> None:
        self._services = services
        self._sender = sender
        self._beamtime = beamtime
        self._waiting: dict[int, deque[Callable[[], Coroutine[None, None, None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._for_room: set[asyncio.Event] = set()
        self._closed = False

    def close(self) -> None:
        """The connection is gone. What a thread is reading ends by itself: it has memory."""
        self._closed = True
        for waiting in self._for_room:
            waiting.set()

    # ------------------------------------------------------------------ deliveries

    def deliver(
        self,
        channel: int,
        ref: int,
        tag: int,
        view: View,
        block: Block,
        lo: int,
        hi: int,
        deliveries: tuple[int, ...] | None,
        payloads: bool,
        shares: bytes = b"",
    ) -> None:
        """Messages of a block, for a subscription; `shares`: the session, if it maps memory."""
        behind = self._waiting.get(channel)
        spots: list[Spot] | None = []
        if payloads and behind is None:
            spots = self._services.payloads.spots(view, block, lo, hi)
        if spots is not None and behind is None:
            batch = batches.of_block(block, lo, hi, deliveries=deliveries, payloads=payloads)
            self._send_or_share(Deliver(channel, ref, tag, batch), spots, shares)
            return

        def framed(lost: tuple[Lost, ...]) -> Frame:
            batch = batches.of_block(
                block, lo, hi, deliveries=deliveries, payloads=payloads, lost=lost
            )
            return Deliver(channel, ref, tag, batch)

        async def send() -> None:
            records = [block.record(index) for index in range(lo, hi)] if payloads else []
            await self.send(view, records, framed)

        self._later(channel, send)

    def deliver_datasets(
        self,
        channel: int,
        ref: int,
        tag: int,
        view: View,
        datasets: Sequence[Dataset],
        deliveries: tuple[int, ...] | None,
        payloads: bool,
        shares: bytes = b"",
    ) -> None:
        """Whole datasets, for a subscription."""
        records = [part for dataset in datasets for part in dataset.parts]

        def framed(lost: tuple[Lost, ...]) -> Deliver:
            batch = batches.of_records(
                records, datasets=datasets, deliveries=deliveries, payloads=payloads, lost=lost
            )
            return Deliver(channel, ref, tag, batch)

        spots = self._spots(view, records) if payloads else []
        if spots is not None and channel not in self._waiting:
            self._send_or_share(framed(()), spots, shares)
            return

        async def send() -> None:
            await self.send(view, records if payloads else [], framed)

        self._later(channel, send)

    def _send_or_share(self, frame: Deliver, spots: Sequence[Spot], shares: bytes) -> None:
        """Send payloads, or say where they are to a client that can look at them there."""
        batch = frame.batch
        places = None
        if shares and spots:
            places = self._services.shared.places(shares, spots, batch.sizes)
        if places is None:
            self._sender.send(frame, spots)
            return
        batch = msgspec.structs.replace(batch, places=places)
        self._sender.send(msgspec.structs.replace(frame, batch=batch))

    def frame(self, channel: int, frame: Frame) -> None:
        """A frame without payload that keeps its place behind the deliveries of the channel."""
        if channel not in self._waiting:
            self._sender.send(frame)
            return

        async def send() -> None:
            self._sender.send(frame)

        self._later(channel, send)

    def _spots(self, view: View, records: Sequence[Record]) -> list[Spot] | None:
        found: list[Spot] = []
        for record in records:
            if batches.has_payload(record):
                spot = self._services.payloads.find(view, record)
                if spot is None:
                    return None
                found.append(spot)
        return found

    def _later(self, channel: int, send: Callable[[], Coroutine[None, None, None]]) -> None:
        behind = self._waiting.get(channel)
        if behind is not None:
            behind.append(send)
            return
        self._waiting[channel] = deque((send,))
        self.run(self._work(channel))

    async def _work(self, channel: int) -> None:
        waiting = self._waiting[channel]
        try:
            while waiting and not self._closed:
                # What is read from disk must not pile up for who does not read it.
                await self._sender.until_writable()
                await waiting[0]()
                waiting.popleft()
        finally:
            del self._waiting[channel]

    def run(self, work: Coroutine[None, None, None]) -> None:
        """Do something that waits; it ends with the connection."""
        task = self._services.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ConnectionLost):
            log.error("unexpected", exc_info=error)

    # ------------------------------------------------------------------ sending what may be on disk

    async def send(self, view: View, records: Sequence[Record], framed: Framed) -> None:
        """Send a frame with the payloads of `records`, wherever they are."""
        services = self._services
        held: list[Slot] = []
        pieces: dict[int, Piece] = {}
        missing: list[int] = []
        try:
            for index, record in enumerate(records):
                if not batches.has_payload(record):
                    continue
                spot = services.payloads.find(view, record)
                if spot is None:
                    missing.append(index)
                    continue
                services.cache.pin(spot.slot)
                held.append(spot.slot)
                pieces[index] = spot
            nbytes = sum(records[index].size for index in missing)
            if nbytes > min(limits.NATIVE_QUEUE_NBYTES_MAX, services.cache.payload_nbytes_max // 2):
                await self._send_in_pieces(view, records, pieces, framed)
                return
            lost: list[Lost] = []
            if missing:
                memory = await self._memory(nbytes, held)
                lost = await self._read(view, records, missing, memory, pieces)
            self._sender.send(framed(tuple(lost)), [pieces[index] for index in sorted(pieces)])
        finally:
            for slot in held:
                if slot.key is None:
                    services.cache.discard(slot)
                else:
                    services.cache.unpin(slot)
            if held:
                services.room()

    async def _memory(self, nbytes: int, held: list[Slot]) -> Slot | memoryview:
        if nbytes <= _IN_BYTES_NBYTES_MAX:
            return memoryview(bytearray(nbytes))
        slot = await self._allocate(nbytes)
        held.append(slot)
        return slot

    async def _allocate(self, nbytes: int) -> Slot:
        """Wait for room in the cache."""
        ingest = self._services.ingest
        while not self._closed:
            again = asyncio.Event()
            slot = ingest.allocate(self._beamtime, nbytes, again.set)
            if not isinstance(slot, Wait):
                return slot
            self._for_room.add(again)
            await again.wait()
            self._for_room.discard(again)
            ingest.give_up(again.set)
        raise ConnectionLost("the client has gone")

    async def _read(
        self,
        view: View,
        records: Sequence[Record],
        missing: list[int],
        memory: Slot | memoryview,
        pieces: dict[int, Piece],
    ) -> list[Lost]:
        services = self._services
        wanted = [records[index] for index in missing]
        into = memory if isinstance(memory, memoryview) else services.cache.view(memory)
        gone = await self._in_thread(services.payloads.read_into, view, wanted, into)
        lost = {missing[at]: error for at, error in gone}
        offset = 0
        for index in missing:
            size = records[index].size
            if index not in lost:
                pieces[index] = (
                    into[offset : offset + size]
                    if isinstance(memory, memoryview)
                    else Spot(memory, offset, size)
                )
            offset += size
        return [batches.lost_of(index, error) for index, error in sorted(lost.items())]

    async def _send_in_pieces(
        self,
        view: View,
        records: Sequence[Record],
        pieces: dict[int, Piece],
        framed: Framed,
    ) -> None:
        """More than the cache takes: read twice, first to verify it."""
        lost: dict[int, Error] = {}
        for index, record in enumerate(records):
            if index not in pieces and batches.has_payload(record):
                try:
                    await self._in_thread(self._services.payloads.check, view, record)
                except Error as error:
                    lost[index] = error
        frame = framed(tuple(batches.lost_of(index, error) for index, error in lost.items()))
        nbytes = sum(
            record.size
            for index, record in enumerate(records)
            if index not in lost and batches.has_payload(record)
        )
        if not await self._sender.begin(frame, nbytes):
            return
        try:
            for index, record in enumerate(records):
                spot = pieces.get(index)
                if isinstance(spot, Spot):
                    if not await self._sender.piece(self._services.payloads.view(spot)):
                        return
                elif index not in lost and batches.has_payload(record):
                    await self._stream(view, record)
        except BaseException:
            # The body cannot be ended: the client must notice.
            self._sender.abort()
            raise
        finally:
            self._sender.end()

    async def _stream(self, view: View, record: Record) -> None:
        stored = await self._in_thread(self._services.payloads.open, view, record)
        try:
            buffer = memoryview(bytearray(min(_PIECE_NBYTES, record.size)))
            offset = 0
            while offset < record.size:
                piece = buffer[: min(buffer.nbytes, record.size - offset)]
                await self._in_thread(stored.read_piece, piece, offset)
                if not await self._sender.piece(piece):
                    return
                offset += piece.nbytes
        except StorageError as error:
            log.error("a payload could not be read to its end", reason=str(error))
            self._sender.abort()
        finally:
            stored.close()

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._services.loop.run_in_executor(self._services.threads, work, *arguments)
