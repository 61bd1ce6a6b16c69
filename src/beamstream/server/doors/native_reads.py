"""Answers to native clients that take a while: messages by id, searches, checks of payloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from beamstream import limits
from beamstream.errors import BadInput, DataLost, Error, StorageError
from beamstream.model import Dataset, Item, Place, Record, check_label
from beamstream.server.doors import native_batches as batches
from beamstream.server.doors.native_outlet import Loads
from beamstream.server.doors.native_sending import Sender
from beamstream.server.doors.services import Services
from beamstream.server.streams import View
from beamstream.store.query import parse
from beamstream.store.query_tree import AllOf, Comparison, Key, Operator
from beamstream.wire.native import calls, frames
from beamstream.wire.native.batches import NO_DIGEST, Batch, Lost

if TYPE_CHECKING:
    from beamstream.server.doors.native_calls import Asked

T = TypeVar("T")

_PAGE: Final = 1_000
_IDS_END: Final = limits.ID_MAX


class Reading:
    """Reads for one connection. Each method answers the question that it is given."""

    def __init__(self, services: Services, beamtime: str, sender: Sender, loads: Loads) -> None:
        self._services = services
        self._beamtime = beamtime
        self._sender = sender
        self._loads = loads

    # ------------------------------------------------------------------ messages

    async def fetch(self, asked: Asked) -> None:
        """Messages by id."""
        params: calls.Fetch = asked.params
        view = self._view(params)
        limit = _checked(params.limit)
        lo, hi = max(1, params.lo), min(params.hi, _IDS_END)
        items: list[Item] = []
        if hi == lo + 1:
            item = self._services.streams.item_by_id(view, lo)
            items = [item] if item is not None else []
        elif lo < hi and view.no:
            items = await self._by_id(view, lo, hi, limit + 1)
        more = len(items) > limit
        items = items[:limit]
        if params.offset or params.length >= 0:
            await self._slice(asked, view, items)
            return
        if params.payloads:
            kept = _within(items, params.nbytes_max)
            more = more or len(kept) < len(items)
            items = kept
        await self._answer(asked, view, items, more=more, payloads=params.payloads)

    async def _by_id(self, view: View, lo: int, hi: int, limit: int) -> list[Item]:
        catalog, no, upto = self._services.catalog, view.no, view.visible_seq
        found = await self._in_thread(catalog.items_by_id, self._beamtime, no, lo, hi, limit)
        return [self._services.streams.shown(view, item) for item in found if item.seq <= upto]

    async def last(self, asked: Asked) -> None:
        """The messages with the largest ids."""
        params: calls.FetchLast = asked.params
        view = self._view(params)
        count = _checked(params.count)
        items: list[Item] = []
        if count == 1:
            item = self._services.streams.last(view)
            items = [item] if item is not None else []
        elif view.no:
            items = await self._last(view, count)
        if params.payloads:
            items = _within(items[::-1], 0)[::-1]
        await self._answer(asked, view, items, payloads=params.payloads)

    async def _last(self, view: View, count: int) -> list[Item]:
        """Looks back from the largest id, further each time until there are enough."""
        hi, span = view.max_id + 1, count
        while True:
            lo = max(1, hi - span)
            found = await self._by_id(view, lo, hi, span)
            if len(found) >= count or lo == 1:
                return found[-count:]
            span *= 4
            if span > 64 * _PAGE:
                # Ids are far apart: what came last is looked through by seq.
                return await self._last_by_seq(view, count)

    async def _last_by_seq(self, view: View, count: int) -> list[Item]:
        catalog, end = self._services.catalog, view.visible_seq + 1
        lo = max(1, end - max(_PAGE, 4 * count))
        found: list[Item] = []
        while True:
            items = await self._in_thread(catalog.items_by_seq, self._beamtime, view.no, lo, end)
            found = [*items, *found]
            if (len(found) >= count and view.in_order) or lo == 1:
                break
            lo, end = max(1, lo - 8 * _PAGE), lo
        found.sort(key=lambda item: item.id)
        return [self._services.streams.shown(view, item) for item in found[-count:]]

    async def search(self, asked: Asked) -> None:
        """Messages whose metadata match."""
        params: calls.Search = asked.params
        view = self._view(params)
        limit = min(_checked(params.limit), limits.QUERY_ROWS_MAX)
        async with self._services.searches:
            found = await self._in_thread(self._found, view, params.query, params.after_id, limit)
        more = len(found) > limit
        await self._answer(asked, view, found[:limit], more=more, payloads=False)

    def _found(self, view: View, text: str, after_id: int, limit: int) -> list[Item]:
        """In a thread."""
        if not view.no:
            return []
        query = parse(text)
        if after_id:
            later = Comparison(Key("_id"), Operator.GT, after_id)
            query = msgspec.structs.replace(query, where=AllOf((query.where, later)))
        return list(self._services.reads.matching(view, query, limit + 1))

    async def dead(self, asked: Asked) -> None:
        """Dead letters of a group."""
        params: calls.ListDead = asked.params
        view = self._view(params)
        items = self._services.subscriptions.dead(view, params.group, _checked(params.limit))
        await self._answer(asked, view, items, payloads=False)

    # ------------------------------------------------------------------ answering with messages

    async def _answer(
        self,
        asked: Asked,
        view: View,
        items: Sequence[Item],
        *,
        more: bool = False,
        payloads: bool,
    ) -> None:
        if not items:
            asked.reply(calls.Fetched(batch=None, more=more))
            return
        datasets = [item for item in items if isinstance(item, Dataset)]
        records = (
            [part for dataset in datasets for part in dataset.parts]
            if datasets
            else [item for item in items if isinstance(item, Record)]
        )
        if not records:
            asked.reply(calls.Fetched(batch=None, more=more))
            return

        def framed(lost: tuple[Lost, ...]) -> frames.Reply:
            batch = batches.of_records(
                records, datasets=datasets, payloads=payloads, lost=lost, ready=False
            )
            result = calls.encode(calls.Fetched(batch=batch, more=more))
            return frames.Reply(asked.number, result)

        await self._sender.until_writable()
        await self._loads.send(view, records if payloads else [], framed)
        asked.calls.ended()

    async def _slice(self, asked: Asked, view: View, items: Sequence[Item]) -> None:
        """Part of the payload of one message."""
        params: calls.Fetch = asked.params
        if len(items) > 1 or (items and not isinstance(items[0], Record)):
            raise BadInput("a slice is cut out of the payload of one message")
        if not items:
            asked.reply(calls.Fetched(batch=None))
            return
        record = items[0]
        assert isinstance(record, Record)
        start = min(max(0, params.offset), record.size)
        end = record.size if params.length < 0 else min(start + params.length, record.size)
        if end - start > limits.NATIVE_REPLY_NBYTES_MAX:
            raise BadInput(
                f"a slice of {end - start} bytes", hint="ask for 64 MiB or less at a time"
            )
        piece = await self._cut(view, record, start, end)
        # Of a part of the payload there is no digest.
        cut = batches.of_records([record], payloads=True)
        batch = Batch(
            count=1,
            seq=cut.seq,
            id=cut.id,
            sizes=(end - start,),
            digests=NO_DIGEST,
            timestamps_ns=cut.timestamps_ns,
            metas=cut.metas,
            infos=cut.infos,
            names=cut.names,
        )
        await self._sender.until_writable()
        result = calls.encode(calls.Fetched(batch=batch))
        self._sender.send(frames.Reply(asked.number, result), [piece])
        asked.calls.ended()

    async def _cut(self, view: View, record: Record, start: int, end: int) -> bytes:
        spot = self._services.payloads.find(view, record)
        if spot is not None:
            return bytes(self._services.payloads.view(spot)[start:end])
        return await self._in_thread(self._read_slice, view, record, start, end)

    def _read_slice(self, view: View, record: Record, start: int, end: int) -> bytes:
        """In a thread: all of the payload is compared with its digest, part of it is kept."""
        stored = self._services.payloads.open(view, record)
        try:
            stored.verify(record.digest, record.size)
            memory = bytearray(end - start)
            stored.read_piece(memoryview(memory), start)
            return bytes(memory)
        finally:
            stored.close()

    # ------------------------------------------------------------------ gaps, checks, files

    async def gaps(self, asked: Asked) -> None:
        """Ids that are neither there nor skipped."""
        params: calls.ListGaps = asked.params
        view = self._view(params)
        limit = _checked(params.limit)
        top = view.last_id if view.finished else view.max_id
        lo, hi = max(1, params.lo), min(params.hi, top + 1)
        found: calls.Ranges = ()
        if lo < hi and view.no:
            found = await self._in_thread(
                self._services.catalog.gaps, self._beamtime, view.no, lo, hi, limit + 1
            )
        elif lo < hi:
            found = ((lo, hi),)
        asked.reply(calls.GapRows(gaps=tuple(found[:limit]), more=len(found) > limit))

    async def verify(self, asked: Asked) -> None:
        """Read payloads back and compare them with their digests."""
        params: calls.Verify = asked.params
        view = self._view(params)
        lo, hi = max(1, params.lo), min(params.hi, _IDS_END)
        items: list[Item] = []
        limit = _checked(params.limit)
        if lo < hi and view.no:
            items = await self._by_id(view, lo, hi, limit)
        checked = nbytes = gone = 0
        damaged: list[tuple[int, int, str, str]] = []
        for item in items:
            for record in item.parts if isinstance(item, Dataset) else (item,):
                if not batches.has_payload(record):
                    continue
                try:
                    await self._check(view, record)
                    checked += 1
                    nbytes += record.size
                except DataLost as error:
                    if record.place == Place.CACHE:
                        gone += 1
                    else:
                        damaged.append((record.id, record.substream, error.code, error.message))
                except StorageError as error:
                    damaged.append((record.id, record.substream, error.code, error.message))
        next_id = items[-1].id + 1 if items else hi
        asked.reply(
            calls.Verified(
                checked=checked,
                nbytes=nbytes,
                next_id=next_id,
                damaged=tuple(damaged),
                gone=gone,
            )
        )

    async def _check(self, view: View, record: Record) -> None:
        payloads = self._services.payloads
        if record.place == Place.CACHE and payloads.find(view, record) is not None:
            return
        await self._in_thread(payloads.check, view, record)

    async def files(self, view: View) -> list[Record]:
        """Records of a stream whose payloads are files that this node wrote."""
        found: list[Record] = []
        seq = 1
        while view.no and seq <= view.visible_seq:
            items = await self._in_thread(
                self._services.catalog.items_by_seq,
                self._beamtime,
                view.no,
                seq,
                min(seq + _PAGE, view.visible_seq + 1),
            )
            for item in items:
                parts = item.parts if isinstance(item, Dataset) else (item,)
                found += [part for part in parts if part.place == Place.FILE and not part.shares]
            seq += _PAGE
        return found

    async def remove(self, view: View, records: Sequence[Record]) -> int:
        """Remove the files of these records; how many there were."""
        return await self._in_thread(self._remove, view, records)

    def _remove(self, view: View, records: Sequence[Record]) -> int:
        """In a thread."""
        payloads = self._services.payloads
        failed: Error | None = None
        count = 0
        for record in records:
            try:
                count += payloads.remove_file(view, record)
            except Error as error:
                failed = error
        if failed is not None:
            raise failed
        return count

    # ------------------------------------------------------------------ small things

    def _view(self, params: calls.OfStream) -> View:
        check_label("source", params.source)
        check_label("stream", params.stream)
        return self._services.streams.view(self._beamtime, params.source, params.stream)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._services.loop.run_in_executor(self._services.threads, work, *arguments)


def _checked(limit: int) -> int:
    if limit < 1:
        raise BadInput(f"a limit of {limit} messages", hint="at least 1")
    return min(limit, limits.NATIVE_BATCH_MAX)


def _within(items: list[Item], nbytes_max: int) -> list[Item]:
    """The first items whose payloads are not more than that together; at least one."""
    most = min(nbytes_max or limits.NATIVE_REPLY_NBYTES_MAX, limits.NATIVE_REPLY_NBYTES_MAX)
    total = 0
    for index, item in enumerate(items):
        parts = item.parts if isinstance(item, Dataset) else (item,)
        total += sum(part.size for part in parts)
        if total > most and index:
            return items[:index]
    return items
