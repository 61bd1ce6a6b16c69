"""The file transfer service: payloads of stored messages by name (protocol section 8).

No path is ever joined: the name leads to a record of the beamtime that the folder token is for,
the record to a slot of the cache or to a file below the beamtime's folder. Bytes from the disk are
compared with the record's hash before the first of them leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from beamstream.errors import BadName, BadToken, DataLost, Error, StorageError
from beamstream.model import Dataset, Record, check_path
from beamstream.server.doors.asapo_names import parse_virtual_name
from beamstream.server.doors.http import HttpConnection, HttpRequest
from beamstream.server.doors.services import Services
from beamstream.server.payloads import Spot, Stored
from beamstream.server.streams import View
from beamstream.store.cache import Slot
from beamstream.store.files import CHUNK_NBYTES
from beamstream.wire.asapo import documents
from beamstream.wire.asapo.bodies import parse_transfer_request
from beamstream.wire.asapo.calls import Call
from beamstream.wire.asapo.routes import HttpError

T = TypeVar("T")

_BINARY = "application/octet-stream"
_SCHEME = b"authorization=bearer "


class FileTransfer:
    """Answers one request for a file."""

    def __init__(self, services: Services, connection: HttpConnection) -> None:
        self._services = services
        self._connection = connection

    async def answer(self, call: Call, request: HttpRequest) -> None:
        connection = self._connection
        try:
            beamtime = self._beamtime(request.cookie)
            view, record = self._find(beamtime, parse_transfer_request(request.body).name)
            if call.size_only:
                connection.reply(200, documents.file_size(record.size), "application/json")
                return
            await self._send(view, record)
        except HttpError as error:
            connection.reply(error.status, error.text.encode())
        except BadToken:
            connection.reply(401, b"Authorization error - token does not match")
        except DataLost as error:
            connection.reply(404, str(error).encode())
        except StorageError as error:
            connection.reply(500, str(error).encode())
        except Error as error:
            connection.reply(400, str(error).encode())

    def _beamtime(self, cookie: bytes) -> str:
        for part in cookie.split(b";"):
            text = part.strip()
            if text[: len(_SCHEME)].lower() == _SCHEME:
                token = text[len(_SCHEME) :].decode("ascii", "replace")
                return self._services.authorizer.check_folder_token(token)
        raise HttpError(401, "no authorization info")

    def _find(self, beamtime: str, name: str) -> tuple[View, Record]:
        """The record of a file; the same answer for what is not there and what is not ours."""
        missing = HttpError(404, f"file {name[:200]} does not exist or cannot be read")
        try:
            check_path(name)
            found = self._services.catalog.file(beamtime, name)
        except BadName:
            found = None
        if found is None:
            return self._find_unnamed(beamtime, name, missing)
        source, stream, record = found
        view = self._services.streams.view(beamtime, source, stream)
        if record.seq > view.visible_seq:
            raise missing
        return view, record

    def _find_unnamed(self, beamtime: str, name: str, missing: HttpError) -> tuple[View, Record]:
        """The record of a message without a name."""
        said = parse_virtual_name(name)
        if said is None:
            raise missing
        try:
            view = self._services.streams.view(beamtime, said.source, said.stream)
            item = self._services.streams.item_by_id(view, said.id)
        except StorageError:
            raise missing from None
        parts = item.parts if isinstance(item, Dataset) else (item,) if item is not None else ()
        for record in parts:
            if record.substream == said.substream and not record.name:
                return view, record
        raise missing

    async def _send(self, view: View, record: Record) -> None:
        payloads = self._services.payloads
        spot = payloads.find(view, record)
        if spot is not None and spot.nbytes == record.size:
            self._services.cache.pin(spot.slot)
        else:
            slot = await self._load(view, record)
            if slot is None:
                await self._send_from_disk(view, record)
                return
            spot = Spot(slot, 0, slot.nbytes)
        try:
            self._connection.send_head(200, spot.nbytes, _BINARY)
            await self._piece(payloads.view(spot))
            self._connection.end()
        finally:
            self._services.cache.unpin(spot.slot)
            self._services.room()
        self._services.stats.nbytes_out += record.size

    async def _load(self, view: View, record: Record) -> Slot | None:
        """Read a file into the cache, verified; None if it does not fit there now."""
        cache = self._services.cache
        if not 0 < record.size <= cache.payload_nbytes_max:
            return None
        slot = cache.allocate(view.beamtime, record.size)
        if slot is None:
            return None
        reading = asyncio.ensure_future(
            self._in_thread(self._services.payloads.read_into, view, [record], cache.view(slot))
        )
        try:
            lost = await asyncio.shield(reading)
        except asyncio.CancelledError:
            # The thread goes on writing into this memory.
            reading.add_done_callback(lambda done: self._drop(slot))
            raise
        if lost:
            self._drop(slot)
            raise lost[0][1]
        cache.publish(slot, (view.beamtime, view.no, record.seq, record.substream))
        return slot

    def _drop(self, slot: Slot) -> None:
        self._services.cache.discard(slot)
        self._services.room()

    async def _send_from_disk(self, view: View, record: Record) -> None:
        """A file larger than the cache takes: read twice, first to verify it."""
        file = await self._in_thread(self._open_verified, view, record)
        try:
            self._connection.send_head(200, record.size, _BINARY)
            buffer = memoryview(bytearray(min(CHUNK_NBYTES, record.size)))
            offset = 0
            while offset < record.size and not self._connection.closing:
                piece = buffer[: min(buffer.nbytes, record.size - offset)]
                await self._in_thread(file.read_piece, piece, offset)
                await self._piece(piece)
                offset += piece.nbytes
            self._connection.end()
        except StorageError:
            self._connection.abort()
            raise
        finally:
            file.close()

    def _open_verified(self, view: View, record: Record) -> Stored:
        """In a thread."""
        file = self._services.payloads.open(view, record)
        try:
            file.verify(record.digest, record.size)
        except BaseException:
            file.close()
            raise
        return file

    async def _piece(self, piece: memoryview) -> None:
        drained = asyncio.Event()
        self._connection.send(piece, drained.set)
        await drained.wait()

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._services.loop.run_in_executor(self._services.threads, work, *arguments)
