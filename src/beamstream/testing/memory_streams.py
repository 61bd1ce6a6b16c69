"""Streams and groups as the catalog in memory has them: lists of all that was put into them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from beamstream.model import Dataset, Item, Record, StreamInfo
from beamstream.store.catalog.interface import State

Spans = list[tuple[int, int]]


def joined(spans: Iterable[tuple[int, int]]) -> Spans:
    """Ascending, without overlaps and without neighbours that touch."""
    result: Spans = []
    for lo, hi in sorted(span for span in spans if span[0] < span[1]):
        if result and lo <= result[-1][1]:
            result[-1] = (result[-1][0], max(hi, result[-1][1]))
        else:
            result.append((lo, hi))
    return result


def without(spans: Iterable[tuple[int, int]], holes: Iterable[tuple[int, int]]) -> Spans:
    left = joined(spans)
    for a, b in holes:
        left = (
            [
                piece
                for lo, hi in left
                for piece in ((lo, min(hi, a)), (max(lo, b), hi))
                if piece[0] < piece[1] and a < b
            ]
            if a < b
            else left
        )
    return joined(left)


def common(a: Iterable[tuple[int, int]], b: Iterable[tuple[int, int]]) -> Spans:
    b = list(b)
    return joined((max(lo, x), min(hi, y)) for lo, hi in a for x, y in b)


def size(spans: Iterable[tuple[int, int]]) -> int:
    return sum(hi - lo for lo, hi in spans)


@dataclass
class Entry:
    """A message, a dataset or a range of skipped ids, in the order in which they came."""

    seq: int
    lo: int
    hi: int
    expected: int = 0
    ready_seq: int = 0
    records: dict[int, Record] = field(default_factory=dict)

    @property
    def skipped(self) -> bool:
        return not self.records

    def item(self) -> Item:
        if 0 in self.records:
            return self.records[0]
        parts = tuple(self.records[substream] for substream in sorted(self.records))
        return Dataset(self.seq, self.lo, self.expected, self.ready_seq, parts)


@dataclass
class Stream:
    no: int
    source: str
    name: str
    entries: list[Entry] = field(default_factory=list)
    finish: tuple[int, str, int] | None = None
    finished_first: bool = False
    persistent: bool = False
    groups: dict[str, GroupStream] = field(default_factory=dict)
    sent: dict[bytes, dict[int, tuple[int, int]]] = field(default_factory=dict)
    """Id (0: chosen by the producer) and time of each message, by producer and sequence."""

    @property
    def last_seq(self) -> int:
        return (
            self.entries[-1].seq + self.entries[-1].hi - self.entries[-1].lo - 1
            if (self.entries)
            else 0
        )

    @property
    def max_id(self) -> int:
        return max((entry.hi - 1 for entry in self.entries), default=0)

    @property
    def kind(self) -> str:
        """What it holds: "message", "dataset", or nothing yet."""
        for entry in self.entries:
            if entry.records:
                return "message" if 0 in entry.records else "dataset"
        return ""

    def at(self, ident: int) -> Entry | None:
        return next((entry for entry in self.entries if entry.lo <= ident < entry.hi), None)

    def info(self) -> StreamInfo:
        messages = [entry for entry in self.entries if entry.records]
        firsts = [next(iter(entry.records.values())) for entry in messages]
        created = firsts[0].timestamp_ns if firsts else 0
        last_ns = max(((r.id, r.timestamp_ns) for r in firsts), default=(0, 0))[1]
        if self.finish:
            created = self.finish[2] if self.finished_first else created
            last_ns = self.finish[2]
        bounds = [bound for entry in self.entries for bound in (entry.lo, entry.hi - 1)]
        return StreamInfo(
            no=self.no,
            source=self.source,
            name=self.name,
            last_seq=self.last_seq,
            ready_seq=max((entry.ready_seq for entry in messages), default=0),
            skipped=sum(entry.hi - entry.lo for entry in self.entries if entry.skipped),
            max_id=self.max_id,
            created_ns=created,
            last_ns=last_ns,
            last_id=self.finish[0] if self.finish else -1,
            next_stream=self.finish[1] if self.finish else "",
            datasets=self.kind == "dataset",
            in_order=bounds == sorted(bounds),
            persistent=self.persistent,
        )


@dataclass
class GroupStream:
    id_position: int = 0
    spans: dict[State, Spans] = field(default_factory=lambda: {state: [] for state in State})
    claims: list[tuple[int, int, str, int]] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    early: set[int] = field(default_factory=set)

    def become(self, spans: Iterable[tuple[int, int]], state: State | None) -> int:
        spans = joined(spans)
        new = size(without(spans, self.spans[state])) if state else 0
        for other in State:
            if other is state:
                self.spans[other] = joined([*self.spans[other], *spans])
            else:
                self.spans[other] = without(self.spans[other], spans)
        if state is State.ACKED:
            self.drop_counts(spans)
        return new

    def drop_counts(self, spans: Iterable[tuple[int, int]]) -> None:
        spans = list(spans)
        self.counts = {
            seq: count
            for seq, count in self.counts.items()
            if not any(lo <= seq < hi for lo, hi in spans)
        }
