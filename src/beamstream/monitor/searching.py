"""Searches that somebody waits for: piece by piece, so that they end in time and tell how far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from beamstream.client.native import lookup
from beamstream.errors import BadQuery, TimedOut
from beamstream.monitor import documents as doc
from beamstream.monitor.marks import open_mark, place_of, seal
from beamstream.wire.native import calls
from beamstream.worker import provenance

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.monitor.asking import OfSearch

SEARCH_S: Final = 0.2
PIECE_IDS: Final = 10_000
_PIECE_IDS_MIN: Final = 500
_PIECE_S: Final = 0.05
"""What a piece should take; at most it is four times as large as the one before."""

_Mark = tuple[tuple[int, str, str], int]


class _Search:
    """One search, as far as it goes in its time."""

    def __init__(self, hub: Hub, asked: OfSearch, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._asked = asked
        self._clock = clock
        self._until_s = clock() + SEARCH_S
        self._piece = PIECE_IDS
        self._pieces: bool | None = None
        self._looked = False
        self.hits: list[doc.Hit] = []

    @property
    def left(self) -> int:
        return self._asked.limit - len(self.hits)

    @property
    def over(self) -> bool:
        return self.left <= 0 or self._clock() > self._until_s

    def stream(self, row: calls.StreamRow, after_id: int) -> int | None:
        """Look through a stream; the id up to which it was, None when that is all of it."""
        if not self._in_pieces(row):
            found, more = self._ask(row, self._asked.query, after_id)
            self.hits += found
            return found[-1].id if more and found else None
        while after_id < row.max_id:
            # However long it took to begin: whoever asks again and again comes to the end.
            if self.over and self._looked:
                return after_id
            after_id = self._look(row, after_id)
            self._looked = True
        return None

    def _look(self, row: calls.StreamRow, after_id: int) -> int:
        """One piece; the id up to which it was looked."""
        began_s, last_id = self._clock(), after_id + self._piece
        text = f"({self._asked.query}) AND _id <= {last_id}"
        try:
            found, more = self._ask(row, text, after_id)
        except TimedOut:
            if self._piece <= _PIECE_IDS_MIN:
                raise
            self._piece //= 8
            return after_id
        self.hits += found
        took_s = max(self._clock() - began_s, 1e-4)
        self._piece = max(
            min(int(self._piece * _PIECE_S / took_s), 4 * self._piece), _PIECE_IDS_MIN
        )
        return found[-1].id if more and found else last_id

    def _in_pieces(self, row: calls.StreamRow) -> bool:
        """Whether it can be done so; raises `BadQuery` for what is no query at all."""
        if self._pieces is None:
            self._ask(row, self._asked.query, row.max_id)
            try:
                self._ask(row, f"({self._asked.query}) AND _id <= 0", row.max_id)
                self._pieces = True
            except BadQuery:
                # An order of its own is of all messages.
                self._pieces = False
        return self._pieces

    def _ask(self, row: calls.StreamRow, text: str, after_id: int) -> tuple[list[doc.Hit], bool]:
        params = calls.Search(
            source=row.source, stream=row.stream, query=text, after_id=after_id,
            limit=max(self.left, 1),
        )  # fmt: skip
        fetched, body = self._hub._call_body(params)
        found = lookup.messages(row.source, row.stream, fetched, body, verify=False)
        hits = [
            doc.Hit(
                source=row.source,
                stream=row.stream,
                id=one.id,
                size=sum(part.size for part in provenance.parts_of(one)),
                meta=one.meta,
            )
            for one in found
        ]
        return hits, fetched.more


def search(
    hub: Hub, asked: OfSearch, hidden: frozenset[str], clock: Callable[[], float] = time.monotonic
) -> doc.Hits:
    """Messages whose metadata match, as many as are found within a fifth of a second.

    Parameters
    ----------
    hidden : sources that are left out, unless one of them is named.

    Raises
    ------
    BadQuery : it is not understood.
    """
    rows = [
        row
        for row in hub._call(calls.ListStreams(source=asked.source))
        if asked.stream in ("", row.stream) and (asked.source or row.source not in hidden)
    ]
    rows.sort(key=place_of)
    mark: _Mark | None = open_mark(asked.after, _Mark)
    doing = _Search(hub, asked, clock)
    for at, row, after_id in _from(rows, mark):
        upto = doing.stream(row, after_id)
        if upto is not None or (doing.over and at + 1 < len(rows)):
            last_id = row.max_id if upto is None else upto
            where = f"{row.source}/{row.stream}, up to id {last_id} of {row.max_id}"
            words = f"Looked through {at} of {len(rows)} streams, the newest first, and {where}."
            after = seal((place_of(row), last_id))
            return doc.Hits(hits=tuple(doing.hits), looked=words, more=True, after=after)
    words = f"Looked through {len(rows)} of {len(rows)} streams."
    return doc.Hits(hits=tuple(doing.hits), looked=words, more=False)


def _from(
    rows: list[calls.StreamRow], mark: _Mark | None
) -> Iterator[tuple[int, calls.StreamRow, int]]:
    """Streams that are still to be looked through, each with the id behind which."""
    for at, row in enumerate(rows):
        place = place_of(row)
        if mark is None or place > mark[0]:
            yield at, row, 0
        elif place == mark[0]:
            yield at, row, mark[1]
