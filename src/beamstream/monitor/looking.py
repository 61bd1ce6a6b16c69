"""Streams, messages, searches: what the page asks a beamtime for. Blocking: for threads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from beamstream.client.native import lookup
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.client.native.stream import explain
from beamstream.errors import Error, NotFound
from beamstream.monitor import asking, images, searching
from beamstream.monitor import documents as doc
from beamstream.monitor.marks import open_mark, place_of, seal
from beamstream.wire.native import calls
from beamstream.worker import failures, provenance

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.monitor.notes import Notes

CELLS: Final = 100
MEASURE_S: Final = 0.12
"""What a page of streams may take for sizes and gaps; the rest is told the next time."""
GAPS_SHOWN: Final = 100
_GAPS_MAX: Final = 1_000
_REMEASURE_S: Final = 5.0
_PIECE_IDS: Final = 100_000
_MEASURED_MAX: Final = 20_000
_ORIGIN_DEPTH: Final = 8
_FAILURES: Final = 1_000
KEPT_SOURCES: Final = frozenset(("notes", "parameters", "pipelines"))
"""Sources of ours, which hold no data."""


class _Measured(NamedTuple):
    """A stream, measured up to an id.

    `nbytes`: of the `messages` up to there; `shown`: of all of it, as it was `at_s`.
    """

    at_s: float = 0.0
    upto: int = 0
    messages: int = 0
    nbytes: int = 0
    shown: int | None = None
    strip: tuple[float, ...] = ()


class Looking:
    """Answers from beamtimes, with what was measured of streams kept for a while."""

    def __init__(self, notes: Notes, clock: Callable[[], float] = time.monotonic) -> None:
        self._notes = notes
        self._clock = clock
        self._lock = threading.Lock()
        self._measured: OrderedDict[tuple[str, ...], _Measured] = OrderedDict()

    # ------------------------------------------------------------------ streams

    def streams(self, node: str, hub: Hub, asked: asking.OfStreams) -> doc.StreamPage:
        """A page of streams, the newest first."""
        found = hub._call(calls.ListStreams(source=asked.source, pattern=asked.pattern or "*"))
        rows = [row for row in found if asked.source or row.source not in KEPT_SOURCES]
        rows.sort(key=place_of)
        after = open_mark(asked.after, tuple[int, str, str])
        if after is not None:
            rows = [row for row in rows if place_of(row) > after]
        shown = rows[: asked.limit]
        until_s = self._clock() + MEASURE_S
        more = seal(place_of(shown[-1])) if len(rows) > len(shown) else ""
        return doc.StreamPage(
            rows=tuple(self._row(node, hub, row, until_s) for row in shown), more=more
        )

    def stream(self, node: str, hub: Hub, asked: asking.OfStream) -> doc.StreamAbout:
        """All about one stream."""
        stream = hub.source(asked.source).stream(asked.stream)
        row = stream.info()
        if row is None:
            raise NotFound(explain(hub, asked.source, asked.stream))
        header = stream.header()
        gaps: calls.GapRows = hub._call(
            calls.ListGaps(source=asked.source, stream=asked.stream, limit=GAPS_SHOWN)
        )
        return doc.StreamAbout(
            row=self._row(node, hub, row, float("inf")),
            header=None if header is None else msgspec.json.decode(header.document),
            header_version=0 if header is None else header.version,
            gaps=gaps.gaps,
            gaps_more=gaps.more,
        )

    def _row(self, node: str, hub: Hub, row: calls.StreamRow, until_s: float) -> doc.StreamRow:
        measured = self._measure(node, hub, row, until_s)
        comment, tags = self._notes.of(node, hub, row.source, row.stream)
        return doc.StreamRow(
            beamtime=hub.beamtime,
            source=row.source,
            stream=row.stream,
            count=row.count,
            nbytes=measured.shown,
            max_id=row.max_id,
            last_id=row.last_id,
            created_ns=row.created_ns,
            last_ns=row.last_ns,
            strip=measured.strip,
            comment=comment,
            tags=tags,
        )

    def _measure(self, node: str, hub: Hub, row: calls.StreamRow, until_s: float) -> _Measured:
        """As far as there is time for; the next question goes on from there."""
        key = (node, hub.beamtime, row.source, row.stream)
        with self._lock:
            found = self._measured.get(key, _Measured())
        whole = found.shown is not None and found.upto >= row.max_id
        if whole and (found.messages == row.count or row.datasets):
            return found
        if found.shown is not None and self._clock() < found.at_s + _REMEASURE_S:
            return found
        if whole or found.upto > row.max_id:
            # Something came behind what was measured, or it is another stream of that name.
            found = found._replace(upto=0, messages=0, nbytes=0)
        while found.upto < row.max_id and self._clock() <= until_s:
            found = _piece(hub, row, found)
        if found.upto >= row.max_id:
            strip = strip_of(row, _gaps(hub, row))
            found = found._replace(at_s=self._clock(), shown=found.nbytes, strip=strip)
        with self._lock:
            self._measured[key] = found
            while len(self._measured) > _MEASURED_MAX:
                self._measured.popitem(last=False)
        return found

    # ------------------------------------------------------------------ messages

    def messages(self, hub: Hub, asked: asking.OfMessages) -> doc.MessagePage:
        """Messages by id, without payloads."""
        fetched, body = hub._call_body(
            calls.Fetch(
                source=asked.source, stream=asked.stream, lo=max(asked.lo, 1), hi=asked.hi,
                limit=asked.limit, payloads=False,
            )
        )  # fmt: skip
        found = lookup.messages(asked.source, asked.stream, fetched, body, verify=False)
        return doc.MessagePage(rows=tuple(map(_message_row, found)))

    def message(self, hub: Hub, asked: asking.OfMessage) -> doc.MessageAbout:
        """One message, and what it was made of."""
        found = images.look(hub, asked.source, asked.stream, asked.id)
        first, row = images.first_part(found), _message_row(found)
        dtype, shape = images.describe(first)
        chain = provenance.chain(hub, asked.source, asked.stream, found.id, depth=_ORIGIN_DEPTH)
        return doc.MessageAbout(
            id=row.id,
            size=row.size,
            timestamp_ns=row.timestamp_ns,
            name=row.name,
            meta=row.meta,
            digest=first.digest.hex(),
            dtype=dtype,
            shape=shape,
            origin=_origin(chain),
        )

    def frame(self, hub: Hub, asked: asking.OfFrame) -> bytes:
        """A message as a picture."""
        window = (asked.y0, asked.x0, asked.y1, asked.x1)
        found = images.fetch(hub, asked.source, asked.stream, asked.id)
        return images.picture(found, asked.max_px, window if any(window) else None)

    def search(self, hub: Hub, asked: asking.OfSearch) -> doc.Hits:
        """Messages whose metadata match, and how far it was looked."""
        return searching.search(hub, asked, KEPT_SOURCES, self._clock)

    # ------------------------------------------------------------------ dead letters

    def dead(self, hub: Hub, asked: asking.OfGroup) -> doc.DeadLetters:
        """What a group has given up, and why, where its step has written that down."""
        stream = hub.source(asked.source).stream(asked.stream)
        letters = stream.group(asked.group).dead(1_000)
        told = _failures(hub, asked.group, asked.source, asked.stream) if letters else {}
        return doc.DeadLetters(
            letters=tuple(
                doc.DeadLetter(id=letter.id, **told.get(letter.id, _UNTOLD)) for letter in letters
            )
        )


_UNTOLD: Final = {"error": "delivered as often as allowed, and never acknowledged", "traceback": ""}


def _failures(hub: Hub, group: str, source: str, stream: str) -> dict[int, dict[str, str]]:
    name = f"{group}{failures.SUFFIX}"
    params = calls.FetchLast(source=name, stream=stream, count=_FAILURES, payloads=False)
    try:
        fetched, body = hub._call_body(params)
    except Error:
        return {}
    found = {}
    for message in lookup.messages(name, stream, fetched, body, verify=False):
        meta = message.meta
        if meta.get("source") == source and isinstance(meta.get("id"), int):
            error, traceback = meta.get("error", ""), meta.get("traceback", "")
            found[meta["id"]] = {"error": str(error), "traceback": str(traceback)}
    return found


# ------------------------------------------------------------------------------ gaps


def _piece(hub: Hub, row: calls.StreamRow, found: _Measured) -> _Measured:
    """Measured somewhat further."""
    upto = min(found.upto + _PIECE_IDS, row.max_id)
    more: calls.Measured = hub._call(
        calls.Measure(source=row.source, stream=row.stream, lo=found.upto + 1, hi=upto + 1)
    )
    return found._replace(
        upto=upto, messages=found.messages + more.count, nbytes=found.nbytes + more.nbytes
    )


def _gaps(hub: Hub, row: calls.StreamRow) -> calls.Ranges:
    if row.datasets or row.count + row.skipped >= row.max_id:
        return ()
    found: calls.GapRows = hub._call(
        calls.ListGaps(source=row.source, stream=row.stream, limit=_GAPS_MAX)
    )
    if not found.more or not found.gaps:
        return found.gaps
    # More gaps than can be told: how many ids are missing behind them is known all the same.
    last = found.gaps[-1][1]
    missing = row.max_id - row.count - row.skipped - sum(hi - lo for lo, hi in found.gaps)
    return (*found.gaps, (last, min(last + max(missing, 0), row.max_id + 1)))


def strip_of(row: calls.StreamRow, gaps: calls.Ranges) -> tuple[float, ...]:
    """Of up to 100 stretches of ids up to the last one the share that is there."""
    return strip(max(row.max_id, row.last_id), row.max_id, gaps)


def strip(last: int, max_id: int, gaps: calls.Ranges) -> tuple[float, ...]:
    """The same, from numbers.

    Parameters
    ----------
    last : the last id that there will be, or is.
    max_id : the largest that is there: behind it nothing has come yet.

    >>> strip(4, 4, ((2, 3),))
    (1.0, 0.0, 1.0, 1.0)
    """
    cells = min(CELLS, last)
    if cells <= 0:
        return ()
    every = [*gaps, (max_id + 1, last + 1)] if max_id < last else list(gaps)
    missing = [0.0] * cells
    for lo, hi in every:
        first, final = (lo - 1) * cells // last, min((hi - 2) * cells // last, cells - 1)
        for cell in range(first, final + 1):
            begin, end = _bounds(cell, cells, last)
            missing[cell] += max(min(hi, end) - max(lo, begin), 0)
    sizes = [end - begin for begin, end in (_bounds(cell, cells, last) for cell in range(cells))]
    return tuple(
        min(max(1.0 - gone / size, 0.0), 1.0) for gone, size in zip(missing, sizes, strict=True)
    )


def _bounds(cell: int, cells: int, last: int) -> tuple[int, int]:
    """Ids of a cell, half-open: those with (id - 1) · cells // last == cell."""
    return -(-cell * last // cells) + 1, -(-(cell + 1) * last // cells) + 1


# ------------------------------------------------------------------------------ documents


def _size(found: Message | DatasetMessage) -> int:
    return sum(part.size for part in provenance.parts_of(found))


def _message_row(found: Message | DatasetMessage) -> doc.MessageRow:
    parts = provenance.parts_of(found)
    return doc.MessageRow(
        id=found.id,
        size=_size(found),
        timestamp_ns=min((part.timestamp_ns for part in parts), default=0),
        name=parts[0].name if parts else "",
        meta=parts[0].meta if parts else {},
    )


def _origin(node: provenance.Node) -> doc.Origin:
    document = node.document or {}
    where, source = str(document.get("where", "")), str(document.get("source", ""))
    parameters = document.get("parameters")
    return doc.Origin(
        source=node.source,
        stream=node.stream,
        id=node.id,
        run=node.run,
        step=str(document.get("step", document.get("kind", ""))),
        code=f"{where} {source[:16]}".strip(),
        parameters=parameters if isinstance(parameters, dict) else {},
        count=node.inputs_count,
        inputs=tuple(map(_origin, node.inputs)),
    )
