"""Answers about runs, origins and headers, and what replays ask for: copies, sizes, reopening."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from beamstream import limits
from beamstream.errors import BadInput, Error, NotFound
from beamstream.model import Dataset, Item, Place, Record, Run, check_label
from beamstream.server import origins, reopening, runs
from beamstream.server.doors.native_batches import has_payload
from beamstream.server.doors.services import Services
from beamstream.server.streams import View
from beamstream.server.subscriptions_groups import RESERVED
from beamstream.wire.native import calls

if TYPE_CHECKING:
    from beamstream.server.doors.native_calls import Asked

T = TypeVar("T")

_COPIES_MAX: Final = 1_000
_LOOK: Final = 64
"""Messages without payload that a search for the first one in memory steps over."""
_NOWHERE, _CACHE, _FILE, _SEGMENT = map(int, Place)


class Tracing:
    """Where results come from and go to once more, for one connection."""

    def __init__(self, services: Services, beamtime: str) -> None:
        self._services = services
        self._beamtime = beamtime

    # ------------------------------------------------------------------ runs and headers

    def define(self, asked: Asked) -> None:
        """Write down a run."""
        params: calls.DefineRun = asked.params

        def answer(run: Run | Error) -> None:
            if isinstance(run, Error):
                asked.fail(run)
            else:
                asked.reply(_row(run))

        runs.define(self._services.ingest, self._beamtime, params.document, answer)

    def run(self, asked: Asked) -> None:
        params: calls.GetRun = asked.params
        found = self._services.catalog.run(self._beamtime, params.no)
        asked.reply(_row(found) if found is not None else None)

    async def runs(self, asked: Asked) -> None:
        """Runs, newest first."""
        params: calls.ListRuns = asked.params
        if params.limit < 1:
            raise BadInput(f"a limit of {params.limit} runs", hint="at least 1")
        limit = min(params.limit, limits.NATIVE_BATCH_MAX)
        catalog = self._services.catalog
        found = await self._in_thread(catalog.runs, self._beamtime, params.before, limit)
        kept: list[calls.RunRow] = []
        nbytes = 0
        for run in found:
            nbytes += len(run.document)
            if kept and nbytes > limits.NATIVE_HEADER_NBYTES_MAX // 2:
                # The answer is one header: the rest is asked for again.
                break
            kept.append(_row(run))
        asked.reply(kept)

    def header(self, asked: Asked) -> None:
        """A version of the metadata of a stream."""
        params: calls.GetHeader = asked.params
        check_label("source", params.source)
        found = self._services.catalog.header(
            self._beamtime, params.source, params.stream, params.version
        )
        asked.reply(
            calls.HeaderRow(
                version=found.version, document=found.document, changed_ns=found.changed_ns
            )
            if found is not None
            else None
        )

    async def origin(self, asked: Asked) -> None:
        """What a message was made of."""
        params: calls.GetOrigin = asked.params
        view = self._view(params)
        catalog, upto = self._services.catalog, view.visible_seq
        asked.reply(
            await self._in_thread(origins.origin, catalog, self._beamtime, view.no, params.id, upto)
        )

    # ------------------------------------------------------------------ replays

    async def copy(self, asked: Asked) -> None:
        """Messages once more, in another stream."""
        params: calls.Copy = asked.params
        view = self._view(params)
        check_label("source", params.to_source)
        check_label("stream", params.to_stream)
        if not 1 <= params.limit <= _COPIES_MAX:
            raise BadInput(f"{params.limit} copies at once", hint=f"1 to {_COPIES_MAX}")
        if not 0 <= params.run <= limits.ID_MAX:
            raise BadInput(f"run {params.run} is not possible", hint="`run.define` gives it")
        items = await self._items(view, params.lo, params.hi, params.limit)
        # Of large datasets fewer at once: a unit is not interrupted.
        items = _first(items, _COPIES_MAX)
        await self._services.copies.copy(
            view, items, params.to_source, params.to_stream, params.run
        )
        records = [record for item in items for record in _parts(item)]
        asked.reply(
            calls.Copied(
                count=len(items),
                nbytes=sum(record.size for record in records if has_payload(record)),
                next_id=items[-1].id + 1 if items else max(params.lo, params.hi),
                last_ns=max((record.timestamp_ns for record in _parts(items[-1])), default=0)
                if items
                else 0,
            )
        )

    async def measure(self, asked: Asked) -> None:
        """What messages amount to.

        What is in memory only is taken to leave it in the order of ids: from the first that is
        found there on all count as `cached`, those before as `gone`. Of a stream that was filled
        in another order, the two are estimates; their sum is exact.
        """
        params: calls.Measure = asked.params
        view = self._view(params)
        lo, hi = max(1, params.lo), min(params.hi, view.max_id + 1)
        if not view.no or lo >= hi:
            asked.reply(_EMPTY)
            return
        rows = await self._measure(view, lo, hi)
        in_memory = rows.get(_CACHE, (0, 0))[0]
        cached = 0
        if in_memory:
            first = await self._first_cached(view, lo, hi)
            cached = (await self._measure(view, first, hi)).get(_CACHE, (0, 0))[0]
        first_ns, last_ns = await self._times(view, lo, hi)
        asked.reply(
            calls.Measured(
                count=sum(count for count, _ in rows.values()),
                nbytes=sum(nbytes for place, (_, nbytes) in rows.items() if place != _NOWHERE),
                cached=cached,
                files=rows.get(_FILE, (0, 0))[0],
                log=rows.get(_SEGMENT, (0, 0))[0],
                gone=in_memory - cached,
                first_ns=first_ns,
                last_ns=last_ns,
            )
        )

    async def _measure(self, view: View, lo: int, hi: int) -> dict[int, tuple[int, int]]:
        """Place -> messages, bytes."""
        found = await self._in_thread(
            self._services.catalog.measure, self._beamtime, view.no, lo, hi, view.visible_seq
        )
        return {place: (count, nbytes) for place, count, nbytes in found}

    async def _first_cached(self, view: View, lo: int, hi: int) -> int:
        """The id from which on messages are in memory."""
        find = self._services.payloads.find
        while lo < hi:
            middle = (lo + hi) // 2
            items = await self._items(view, middle, hi, _LOOK)
            told = [record for item in items for record in _parts(item) if has_payload(record)]
            if not items or (told and find(view, told[0]) is not None):
                hi = middle
            else:
                lo = (told[0].id if told else items[-1].id) + 1
        return hi

    async def _times(self, view: View, lo: int, hi: int) -> tuple[int, int]:
        """When the first and the last of these ids were ingested."""
        first = await self._items(view, lo, hi, 1)
        if not first:
            return 0, 0
        last = first
        low = first[0].id
        # Between `low`, which is there, and `hi`, from which on nothing is.
        while hi - low > 1:
            middle = (low + hi) // 2
            found = await self._items(view, middle, hi, 1)
            if found:
                last, low = found, found[0].id
            else:
                hi = middle
        return _time_ns(first[0]), _time_ns(last[0])

    async def reopen(self, asked: Asked) -> None:
        """Messages once more for a group."""
        params: calls.Reopen = asked.params
        view = self._view(params)
        check_label("group", params.group)
        services = self._services
        known = services.subscriptions.group_row(view, params.group)
        if known is None or params.group.startswith(RESERVED):
            raise NotFound(
                f"there is no group {params.group!r} in stream {view.name!r}",
                hint="`beamstream groups` lists them",
            )
        lo, hi = max(1, params.lo), min(params.hi, view.max_id + 1)
        upto = view.visible_seq
        seqs = await self._in_thread(reopening.seqs_between, services.catalog, view, lo, hi, upto)
        if view.gone:
            raise NotFound(f"stream {view.name!r} was deleted")

        def done(count: int | Error) -> None:
            if isinstance(count, Error):
                asked.fail(count)
            else:
                asked.reply(count)

        reopening.reopen(services.deliveries, view, params.group, lo, seqs, done)

    # ------------------------------------------------------------------ small things

    async def _items(self, view: View, lo: int, hi: int, limit: int) -> list[Item]:
        if not view.no or lo >= hi:
            return []
        upto, lo = view.visible_seq, max(1, lo)
        found = await self._in_thread(
            self._services.catalog.items_by_id, self._beamtime, view.no, lo, hi, limit
        )
        return [self._services.streams.shown(view, item) for item in found if item.seq <= upto]

    def _view(self, params: calls.OfStream) -> View:
        check_label("source", params.source)
        check_label("stream", params.stream)
        return self._services.streams.view(self._beamtime, params.source, params.stream)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._services.loop.run_in_executor(self._services.threads, work, *arguments)


_EMPTY: Final = calls.Measured(count=0, nbytes=0, cached=0, files=0, log=0, gone=0)


def _row(run: Run) -> calls.RunRow:
    return calls.RunRow(no=run.no, document=run.document, created_ns=run.created_ns)


def _parts(item: Item) -> tuple[Record, ...]:
    return item.parts if isinstance(item, Dataset) else (item,)


def _time_ns(item: Item) -> int:
    return max((record.timestamp_ns for record in _parts(item)), default=0)


def _first(items: list[Item], most: int) -> list[Item]:
    """The first items with at most so many messages together; at least one."""
    total = 0
    for index, item in enumerate(items):
        total += len(_parts(item))
        if total > most and index:
            return items[:index]
    return items
