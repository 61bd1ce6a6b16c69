"""A second catalog, made as differently as possible: everything in plain Python structures.

A stream is the list of what was put into it and every number is derived from that list anew; a
unit works on a copy that replaces the original or is thrown away; several threads may write, and
what `begin` was called for first may be committed last. It is slow for long streams, and for tests.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from beamstream.errors import TimedOut
from beamstream.limits import HEADER_VERSIONS_MAX, ID_MAX
from beamstream.model import Dataset, Header, Item, Record, Run, StreamInfo
from beamstream.store.catalog.interface import Catalog, GroupState, Op, Ranges, Result, State
from beamstream.store.query import Query, matches, sort_key
from beamstream.testing.memory_state import Beamtime
from beamstream.testing.memory_streams import Stream, common, joined, without


class MemoryCatalog(Catalog):
    """A `Catalog` without a disk. `apply` may be called from several threads at once."""

    state: type[Beamtime] = Beamtime
    """What a beamtime is; of a subclass that is wrong on purpose, another."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._beamtimes: dict[str, Beamtime] = {}

    def begin(self, beamtime: str, ops: Sequence[Op]) -> Callable[[], list[Result]]:
        """Start writing; calling the result commits. Commits may come in another order."""
        return lambda: self.apply(beamtime, ops)

    def apply(self, beamtime: str, ops: Sequence[Op]) -> list[Result]:
        with self._lock:
            state = self._beamtimes.setdefault(beamtime, self.state())
            return [state.do(op) for op in ops]

    def sync(self, beamtime: str) -> None:
        """Memory is as safe as it gets here."""

    def close(self) -> None:
        self._beamtimes.clear()

    # ----------------------------------------------------------------------------- reads

    def _stream(self, beamtime: str, stream_no: int) -> Stream:
        state = self._beamtimes.get(beamtime)
        if state:
            for stream in state.streams.values():
                if stream.no == stream_no:
                    return stream
        return Stream(0, "", "")

    def _named(self, beamtime: str, source: str, stream: str) -> Stream | None:
        state = self._beamtimes.get(beamtime)
        return state.streams.get((source, stream)) if state else None

    def _items(self, beamtime: str, stream_no: int) -> list[Item]:
        entries = self._stream(beamtime, stream_no).entries
        return [entry.item() for entry in entries if entry.records]

    def beamtimes(self) -> list[str]:
        return sorted(self._beamtimes)

    def stream(self, beamtime: str, source: str, stream: str) -> StreamInfo | None:
        with self._lock:
            found = self._named(beamtime, source, stream)
            return found.info() if found else None

    def _all(self, beamtime: str) -> list[StreamInfo]:
        state = self._beamtimes.get(beamtime)
        infos = [stream.info() for stream in state.streams.values()] if state else []
        return [info for info in infos if info.count or info.finished]

    def streams(self, beamtime: str, source: str) -> list[StreamInfo]:
        with self._lock:
            infos = [info for info in self._all(beamtime) if info.source == source]
            return sorted(infos, key=lambda info: (info.created_ns, info.no))

    def sources(self, beamtime: str) -> list[str]:
        with self._lock:
            names = {info.source for info in self._all(beamtime)}
            return sorted(names, key=lambda name: name.encode())

    def items_by_seq(self, beamtime: str, stream_no: int, lo: int, hi: int) -> list[Item]:
        with self._lock:
            return [item for item in self._items(beamtime, stream_no) if lo <= item.seq < hi]

    def items_by_id(
        self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int
    ) -> list[Item]:
        with self._lock:
            found = [item for item in self._items(beamtime, stream_no) if lo <= item.id < hi]
            return sorted(found, key=lambda item: item.id)[: max(0, limit)]

    def last_item(self, beamtime: str, stream_no: int, upto_seq: int) -> Item | None:
        with self._lock:
            found = [item for item in self._items(beamtime, stream_no) if item.seq <= upto_seq]
            return max(found, key=lambda item: item.id, default=None)

    def last_dataset(
        self, beamtime: str, stream_no: int, min_parts: int, upto_seq: int
    ) -> Dataset | None:
        with self._lock:
            found = [
                item
                for item in self._items(beamtime, stream_no)
                if isinstance(item, Dataset)
                and item.seq <= upto_seq
                and len(item.parts) >= (min_parts if min_parts > 0 else item.expected)
            ]
            return max(found, key=lambda item: item.id, default=None)

    def count_complete(self, beamtime: str, stream_no: int, upto_seq: int) -> int:
        with self._lock:
            return sum(
                isinstance(item, Dataset) and item.complete and item.seq <= upto_seq
                for item in self._items(beamtime, stream_no)
            )

    def ids(
        self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int
    ) -> list[tuple[int, int]]:
        found = self.items_by_id(beamtime, stream_no, lo, hi, limit)
        return [(item.id, item.seq) for item in found]

    def seqs_above(self, beamtime: str, stream_no: int, id: int) -> Ranges:  # noqa: A002
        with self._lock:
            return tuple(
                joined(
                    (entry.seq + max(0, id + 1 - entry.lo), entry.seq + entry.hi - entry.lo)
                    for entry in self._stream(beamtime, stream_no).entries
                )
            )

    def seq_at(self, beamtime: str, stream_no: int, timestamp_ns: int, upto_seq: int) -> int:
        with self._lock:
            upto_seq = max(0, min(upto_seq, self._stream(beamtime, stream_no).last_seq))
            for item in self._items(beamtime, stream_no):
                first = item.parts[0] if isinstance(item, Dataset) else item
                if item.seq <= upto_seq and first.timestamp_ns >= timestamp_ns:
                    return item.seq
            return upto_seq + 1

    def gaps(self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int) -> Ranges:
        with self._lock:
            entries = self._stream(beamtime, stream_no).entries
            wanted = [(max(lo, 1), min(hi, ID_MAX + 1))]
            missing = without(wanted, [(entry.lo, entry.hi) for entry in entries])
            return tuple(missing[: max(0, limit)])

    def producer_position(self, beamtime: str, source: str, stream: str, producer: bytes) -> int:
        with self._lock:
            named = self._named(beamtime, source, stream)
            return max(named.sent.get(producer, ()) if named else (), default=0)

    def segment_end(self, beamtime: str, segment: int) -> int:
        with self._lock:
            state = self._beamtimes.get(beamtime)
            ends = (
                record.position + record.size
                for stream in (state.streams.values() if state else ())
                for entry in stream.entries
                for record in entry.records.values()
                if record.place == 3 and record.segment == segment
            )
            return max(ends, default=0)

    def file(self, beamtime: str, name: str) -> tuple[str, str, Record] | None:
        with self._lock:
            state = self._beamtimes.get(beamtime)
            for stream in sorted(state.streams.values(), key=lambda s: s.no) if state else ():
                for entry in stream.entries:
                    for _, record in sorted(entry.records.items()):
                        if record.name == name and record.place == 2:
                            return stream.source, stream.name, record
            return None

    def meta(self, beamtime: str, source: str, stream: str) -> bytes | None:
        with self._lock:
            state = self._beamtimes.get(beamtime)
            if state is None or (source, stream) not in state.metas:
                return None
            return _written(state.metas[source, stream][-1][0])

    def header(self, beamtime: str, source: str, stream: str, version: int) -> Header | None:
        with self._lock:
            state = self._beamtimes.get(beamtime)
            versions = state.metas.get((source, stream), []) if state else []
            number = version or len(versions)
            if not max(1, len(versions) - HEADER_VERSIONS_MAX + 1) <= number <= len(versions):
                return None
            document, changed_ns = versions[number - 1]
            return Header(number, _written(document), changed_ns)

    def run(self, beamtime: str, no: int) -> Run | None:
        return next((run for run in self.runs(beamtime, 0, ID_MAX) if run.no == no), None)

    def runs(self, beamtime: str, before: int, limit: int) -> list[Run]:
        with self._lock:
            state = self._beamtimes.get(beamtime)
            known = state.runs if state else []
            return [run for run in reversed(known) if run.no < before or not before][
                : max(0, limit)
            ]

    def measure(
        self, beamtime: str, stream_no: int, lo: int, hi: int, upto_seq: int
    ) -> list[tuple[int, int, int]]:
        found: dict[int, list[int]] = {}
        for item in self.items_by_id(beamtime, stream_no, lo, hi, ID_MAX):
            for record in item.parts if isinstance(item, Dataset) else (item,):
                if record.seq <= upto_seq:
                    found.setdefault(record.place, []).append(record.size)
        return [(place, len(sizes), sum(sizes)) for place, sizes in sorted(found.items())]

    def search(
        self,
        beamtime: str,
        stream_no: int,
        query: Query,
        *,
        upto_seq: int,
        offset: int = 0,
        limit: int,
        seconds_max: float,
    ) -> list[Record]:
        deadline = time.monotonic() + seconds_max
        with self._lock:
            found = []
            for item in self._items(beamtime, stream_no):
                for record in item.parts if isinstance(item, Dataset) else (item,):
                    if time.monotonic() > deadline:
                        raise TimedOut(f"the search took longer than {seconds_max:g} s")
                    document = _document(record)
                    if record.seq <= upto_seq and matches(query, document):
                        found.append((sort_key(query, document), record))
            found.sort(key=lambda pair: pair[0])
            return [record for _, record in found][offset : offset + max(0, limit)]

    def group(self, beamtime: str, group: str, source: str, stream: str) -> GroupState | None:
        found = [state for state in self.groups(beamtime, source, stream) if state.group == group]
        return found[0] if found else None

    def groups(self, beamtime: str, source: str, stream: str) -> list[GroupState]:
        with self._lock:
            named = self._named(beamtime, source, stream)
            used = self._beamtimes[beamtime].used if named else {}
            return [
                GroupState(
                    name,
                    group.id_position,
                    tuple(group.spans[State.DONE]),
                    tuple(group.spans[State.ACKED]),
                    tuple(group.spans[State.DEAD]),
                    tuple(sorted(group.counts.items())),
                    tuple(sorted(group.early)),
                    used[name],
                )
                for name, group in sorted(named.groups.items() if named else ())
            ]

    def groups_of(self, beamtime: str) -> list[tuple[str, str, str, int]]:
        with self._lock:
            state = self._beamtimes.get(beamtime)
            found = (
                [
                    (group, stream.source, stream.name, state.used[group])
                    for stream in (state.streams.values() if state else ())
                    for group in stream.groups
                ]
                if state
                else []
            )
            return sorted(found, key=lambda row: [name.encode() for name in row[:3]])

    def last_acked_id(self, beamtime: str, group: str, source: str, stream: str) -> int:
        with self._lock:
            named = self._named(beamtime, source, stream)
            mine = named.groups.get(group) if named else None
            if named is None or mine is None:
                return 0
            acked = [
                entry.lo + hi - 1 - entry.seq
                for entry in named.entries
                for _, hi in common(
                    mine.spans[State.ACKED], [(entry.seq, entry.seq + entry.hi - entry.lo)]
                )
            ]
            return max([*acked, *mine.early], default=0)


def _written(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _document(record: Record) -> dict[str, Any]:
    return {
        "_id": record.id,
        "name": record.name,
        "size": record.size,
        "timestamp": record.timestamp_ns,
        "dataset_substream": record.substream,
        "ingest_mode": record.mode,
        "time_id": record.seq,
        "meta": json.loads(record.meta),
    }
