"""What the catalog in memory is made of: plain lists, and operations that derive all from them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from beamstream import limits
from beamstream.errors import (
    AlreadyAcknowledged,
    BadInput,
    Conflict,
    IdConflict,
    NotFound,
    StaleLease,
    StreamFinished,
    TooLarge,
    TooMany,
)
from beamstream.model import Dataset, Item, Place, Record, StreamInfo
from beamstream.store.catalog import interface as face
from beamstream.store.catalog.interface import (
    Acked,
    AlreadyAcked,
    Claimed,
    Conflicted,
    Done,
    Duplicate,
    Op,
    Refused,
    Result,
    State,
    Stored,
)

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


def _size(spans: Iterable[tuple[int, int]]) -> int:
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
        new = _size(without(spans, self.spans[state])) if state else 0
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


class Beamtime:
    """The state of a beamtime, and what each operation makes of it."""

    def __init__(self) -> None:
        self.next_no = 1
        self.streams: dict[tuple[str, str], Stream] = {}
        self.metas: dict[tuple[str, str], Any] = {}
        self.used: dict[str, int] = {}

    def do(self, op: Op) -> Result:
        if isinstance(op, face.Unit):
            return self.unit(op)
        method: Callable[[Any], Result] = getattr(self, type(op).__name__.lower())
        return method(op)

    def unit(self, op: face.Unit) -> Result:
        trial = copy.deepcopy(self)
        results = tuple(trial.do(part) for part in op.ops)
        if not _failed(results):
            self.__dict__ = trial.__dict__
        return results

    def made(self, source: str, stream: str) -> Stream:
        if (source, stream) not in self.streams:
            self.streams[source, stream] = Stream(self.next_no, source, stream)
            self.next_no += 1
        return self.streams[source, stream]

    # -------------------------------------------------------------------------- streams

    def put(self, op: face.Put) -> Result:
        if not op.producer:
            return self.store(op)
        if len(op.producer) != 16 or not 1 <= op.sequence < limits.ID_MAX:
            return Refused(BadInput("producers have 16 bytes and count from 1"))
        automatic = op.id == 0 and not op.substream and not op.expected
        there = self.streams.get((op.source, op.stream), Stream(0, op.source, op.stream))
        ident, _ = there.sent.get(op.producer, {}).get(op.sequence, (-1, 0))
        if automatic and ident >= 0:
            entry = there.at(ident)
            if entry is None or not self.same_payload(entry.records[0], op):
                return Conflicted(IdConflict(f"number {op.sequence} was something else"))
            return Duplicate(there.info(), ident, entry.records[0])
        result = self.store(op)
        if isinstance(result, Stored | Duplicate):
            stored = result.id if automatic else 0
            sent = self.made(op.source, op.stream).sent.setdefault(op.producer, {})
            sent.setdefault(op.sequence, (stored, op.timestamp_ns))
        return result

    def store(self, op: face.Put) -> Result:
        there = self.streams.get((op.source, op.stream), Stream(0, op.source, op.stream))
        if op.id == 0 and not op.substream and not op.expected:
            ident = there.max_id + 1
        else:
            ident = op.id
        if not 1 <= ident <= limits.ID_MAX:
            return Refused(BadInput(f"id {ident} is not possible"))
        if op.expected > limits.DATASET_SIZE_MAX or not 0 <= op.size <= limits.ID_MAX:
            return Refused(TooLarge(f"{op.expected} parts of {op.size} bytes are too much"))
        entry = there.at(ident)
        if entry is not None and op.substream in entry.records:
            record = entry.records[op.substream]
            if entry.expected == op.expected and self.same(record, op):
                return Duplicate(there.info(), ident, record)
        why = self.objection(there, entry, op, ident)
        if why:
            return Conflicted(IdConflict(f"id {ident} of stream {op.stream!r}: {why}"))
        if entry is None and there.finish and ident > there.finish[0]:
            return Refused(StreamFinished(f"stream {op.stream!r} ends with {there.finish[0]}"))
        stream = self.made(op.source, op.stream)
        if entry is None:
            entry = Entry(stream.last_seq + 1, ident, ident + 1, op.expected)
            stream.entries.append(entry)
        entry.records[op.substream] = self.record(op, entry.seq, ident)
        if op.expected and len(entry.records) == op.expected:
            entry.ready_seq = 1 + sum(1 for other in stream.entries if other.ready_seq)
        self.arrived(stream, entry)
        return Stored(stream.info(), entry.seq, ident, entry.ready_seq)

    def record(self, op: face.Put, seq: int, ident: int) -> Record:
        return Record(
            seq, ident, op.substream, op.name, op.size, op.digest, op.meta, op.timestamp_ns,
            op.arrived_ns, op.mode, op.level, op.place, op.root, op.node, op.boot, op.run,
            op.segment, op.position, op.info, op.input_source, op.input_stream, op.input_seq,
        )  # fmt: skip

    def same_payload(self, record: Record, op: face.Put) -> bool:
        return (record.size, record.digest) == (op.size, op.digest)

    def same(self, record: Record, op: face.Put) -> bool:
        def told(x: Record | face.Put) -> tuple[object, ...]:
            # Printing tells true from 1, and sorts the keys.
            meta = json.dumps(_numbers(json.loads(x.meta)), sort_keys=True)
            return x.name, x.size, x.digest, meta

        both = record.info and op.info
        return told(record) == told(op) and (not both or record.info == op.info)

    def objection(self, there: Stream, entry: Entry | None, op: face.Put, ident: int) -> str:
        if there.kind and (there.kind == "dataset") != bool(op.substream or op.expected):
            return f"the stream holds {there.kind}s"
        if (op.substream or op.expected) and not 1 <= op.substream <= op.expected:
            return "the substream is outside of the dataset"
        if entry is None:
            return ""
        if entry.skipped:
            return "it was skipped"
        if entry.expected != op.expected:
            return "the dataset has another size"
        return "it has other content" if op.substream in entry.records else ""

    def arrived(self, stream: Stream, entry: Entry) -> None:
        for group in stream.groups.values():
            come = {ident for ident in group.early if entry.lo <= ident < entry.hi}
            group.early -= come
            for ident in come:
                seq = entry.seq + ident - entry.lo
                group.become([(seq, seq + 1)], State.ACKED)

    def putmany(self, op: face.PutMany) -> Result:
        count = len(op.sizes)
        columns = [
            op.ids or op.sizes,
            op.metas or op.sizes,
            op.names or op.sizes,
            op.sizes if isinstance(op.infos, bytes) else op.infos,
            range(len(op.digests) // 16) if op.digests else op.sizes,
        ]
        uncounted = op.producer and (
            len(op.producer) != 16 or not 1 <= op.sequence <= limits.ID_MAX - count
        )
        if (
            not 1 <= count <= limits.NATIVE_BATCH_MAX
            or any(len(column) != count for column in columns)
            or len(op.digests) % 16
            or (op.id and op.ids)
            or any(ident < 1 for ident in op.ids or ())
            or op.id < 0
            or uncounted
        ):
            return Refused(BadInput("that is not a batch"))
        there = self.streams.get((op.source, op.stream))
        if there and there.kind == "dataset":
            return Conflicted(IdConflict(f"stream {op.stream!r} holds datasets"))
        puts = [self.one_of(op, index) for index in range(count)]
        results = [self.put(put) for put in puts]
        ids = [getattr(result, "id", put.id) for put, result in zip(puts, results, strict=True)]
        stream = self.streams.get((op.source, op.stream))
        failed = [
            (index, result.error)
            for index, result in enumerate(results)
            if isinstance(result, Conflicted | Refused)
        ]
        if stream is None:
            return Refused(failed[0][1])
        seqs = [result.seq for result in results if isinstance(result, Stored)]
        spans = [(i, i + 1) for i, result in enumerate(results) if isinstance(result, Duplicate)]
        on = ids == list(range(ids[0], ids[0] + count))
        return face.StoredMany(
            stream.info(), min(seqs, default=0), len(seqs), ids[0], None if on else tuple(ids),
            tuple(joined(spans)), tuple(failed),
        )  # fmt: skip

    def one_of(self, op: face.PutMany, index: int) -> face.Put:
        in_segment = op.place == Place.SEGMENT
        return face.Put(
            source=op.source,
            stream=op.stream,
            id=op.ids[index] if op.ids else op.id + index * bool(op.id),
            name=op.names[index] if op.names else "",
            size=op.sizes[index],
            digest=op.digests[16 * index : 16 * index + 16],
            meta=op.metas[index] if op.metas else b"{}",
            timestamp_ns=op.timestamp_ns,
            arrived_ns=op.arrived_ns,
            mode=op.mode,
            level=op.level,
            place=op.place,
            root=op.root,
            node=op.node,
            boot=op.boot,
            run=op.run,
            segment=op.segment,
            position=op.position + (sum(op.sizes[:index]) if in_segment else 0),
            info=op.infos if isinstance(op.infos, bytes) else op.infos[index],
            producer=op.producer,
            sequence=op.sequence + index * bool(op.producer),
        )

    def skip(self, op: face.Skip) -> Result:
        if not 1 <= op.lo < op.hi <= limits.ID_MAX + 1:
            return Refused(BadInput(f"{op.lo} to {op.hi} is not a range of ids"))
        there = self.streams.get((op.source, op.stream), Stream(0, op.source, op.stream))
        if there.finish and op.hi - 1 > there.finish[0]:
            return Refused(StreamFinished(f"stream {op.stream!r} ends with {there.finish[0]}"))
        if there.last_seq + op.hi - op.lo >= face.END_OF_SEQS:
            return Refused(TooMany("that is more than a stream can number"))
        if any(entry.lo < op.hi and op.lo < entry.hi for entry in there.entries):
            return Conflicted(IdConflict(f"some ids from {op.lo} to {op.hi} exist"))
        stream = self.made(op.source, op.stream)
        stream.entries.append(Entry(stream.last_seq + 1, op.lo, op.hi))
        self.arrived(stream, stream.entries[-1])
        return Stored(stream.info(), stream.last_seq, op.hi - 1)

    def finish(self, op: face.Finish) -> Result:
        if not 0 <= op.last_id <= limits.ID_MAX:
            return Refused(BadInput(f"{op.last_id} cannot be the last id"))
        stream = self.made(op.source, op.stream)
        if stream.finish:
            if stream.finish[:2] == (op.last_id, op.next_stream):
                return Duplicate(stream.info(), op.last_id)
            return Conflicted(StreamFinished(f"stream {op.stream!r} was finished otherwise"))
        if stream.max_id > op.last_id:
            return Conflicted(IdConflict(f"stream {op.stream!r} has id {stream.max_id}"))
        stream.finished_first = stream.kind == ""
        stream.finish = (op.last_id, op.next_stream, op.timestamp_ns)
        return Done(stream.info())

    def meta(self, op: face.Meta) -> Result:
        key = (op.source, op.stream)
        there = key in self.metas
        if op.mode is face.MetaMode.INSERT and there:
            return Refused(Conflict("there is metadata already"))
        if op.mode is not face.MetaMode.INSERT and not there and not op.upsert:
            return Refused(NotFound("there is no metadata to change"))
        document = json.loads(op.document)
        if op.mode is face.MetaMode.UPDATE and there:
            document = _deep(self.metas[key], document)
        if len(json.dumps(document)) > limits.STREAM_META_NBYTES_MAX:
            return Refused(TooLarge("the metadata would be too large"))
        self.metas[key] = document
        stream = self.streams.get(key)
        return Done(stream.info() if stream else None)

    def persist(self, op: face.Persist) -> Result:
        stream = self.streams.get((op.source, op.stream))
        if stream is None:
            return Refused(NotFound(f"there is no stream {op.stream!r}"))
        stream.persistent = True
        return Done(stream.info())

    def deletestream(self, op: face.DeleteStream) -> Result:
        stream = self.streams.pop((op.source, op.stream), None)
        if stream is None:
            return Refused(NotFound(f"there is no stream {op.stream!r}"))
        if op.with_meta:
            self.metas.pop((op.source, op.stream), None)
        return Done(stream.info())

    # --------------------------------------------------------------------------- groups

    def opened(self, stream: Stream, group: str, now_ns: int) -> GroupStream:
        self.used[group] = max(now_ns, self.used.get(group, now_ns))
        return stream.groups.setdefault(group, GroupStream())

    def claim(self, op: face.Claim) -> Result:
        stream = self.made(op.source, op.stream)
        group = self.opened(stream, op.group, op.now_ns)
        closed = [span for spans in group.spans.values() for span in spans]
        others = [
            (lo, hi)
            for lo, hi, owner, until in group.claims
            if owner != op.owner and until > op.now_ns
        ]
        granted: Spans = []
        room = op.count
        for lo, hi in without([(max(op.lo, 1), op.hi)], [*closed, *others]):
            if room > 0:
                granted.append((lo, min(hi, lo + room)))
                room -= granted[-1][1] - lo
        group.claims = [
            (a, b, owner, until)
            for lo, hi, owner, until in group.claims
            for a, b in without([(lo, hi)], granted)
        ] + [(lo, hi, op.owner, op.until_ns) for lo, hi in granted]
        return Claimed(stream.info(), tuple(granted))

    def every_group(self) -> list[GroupStream]:
        return [group for stream in self.streams.values() for group in stream.groups.values()]

    def renew(self, op: face.Renew) -> Result:
        for group in self.every_group():
            group.claims = [
                (lo, hi, owner, max(until, op.until_ns) if owner == op.owner else until)
                for lo, hi, owner, until in group.claims
            ]
        return Done()

    def release(self, op: face.Release) -> Result:
        for group in self.every_group():
            group.claims = [claim for claim in group.claims if claim[2] != op.owner]
        return Done()

    def mark(self, op: face.Mark) -> Result:
        stream = self.streams.get((op.source, op.stream))
        if stream is None:
            return Refused(NotFound(f"there is no stream {op.stream!r}"))
        if op.owner:
            group = stream.groups.get(op.group, GroupStream())
            held = [
                (lo, hi)
                for lo, hi, owner, until in group.claims
                if owner == op.owner and until > op.now_ns
            ]
            if without(op.ranges, held):
                return Refused(StaleLease(f"{op.owner!r} does not hold all of that"))
        group = self.opened(stream, op.group, op.now_ns)
        if op.id_position >= 0:
            group.id_position = op.id_position
        group.counts |= {s: count for s, count in op.counts if 1 <= s <= stream.last_seq}
        spans = common(op.ranges, [(1, stream.last_seq + 1)])
        for stronger in (State.ACKED, State.DEAD):
            if op.state is not stronger and (op.state, stronger) != (State.ACKED, State.DEAD):
                spans = without(spans, group.spans[stronger])
        group.become(spans, op.state)
        return Done(stream.info())

    def ack(self, op: face.Ack) -> Result:
        if any(not 1 <= ident <= limits.ID_MAX for ident in op.early_ids):
            return Refused(BadInput("ids that are acknowledged must be possible"))
        stream = self.made(op.source, op.stream)
        group = self.opened(stream, op.group, op.now_ns)
        spans = common(op.ranges, [(1, stream.last_seq + 1)])
        early = set()
        for ident in op.early_ids:
            entry = stream.at(ident)
            if entry is None:
                early.add(ident)
            else:
                seq = entry.seq + ident - entry.lo
                spans.append((seq, seq + 1))
        spans = joined(spans)
        if op.strict and (early & group.early or common(spans, group.spans[State.ACKED])):
            return AlreadyAcked(AlreadyAcknowledged("some of that was acknowledged before"))
        if len(early | group.early) > limits.EARLY_ACKS_MAX and early - group.early:
            return Refused(TooMany("too many acknowledgements of what does not exist"))
        count = len(early - group.early) + group.become(spans, State.ACKED)
        group.early |= early
        return Acked(count)

    def nack(self, op: face.Nack) -> Result:
        stream = self.made(op.source, op.stream)
        self.opened(stream, op.group, op.now_ns).become(op.ranges, None)
        return Done(stream.info())

    def seek(self, op: face.Seek) -> Result:
        stream = self.made(op.source, op.stream)
        group = self.opened(stream, op.group, op.now_ns)
        group.id_position = op.id_position
        closed = group.spans[State.ACKED] + group.spans[State.DEAD]
        group.become(without(common(op.done, [(1, stream.last_seq + 1)]), closed), State.DONE)
        group.become(op.opened, None)
        group.drop_counts(op.opened)
        group.early = {ident for ident in group.early if ident <= op.id_position}
        return Done(stream.info())

    def deletegroup(self, op: face.DeleteGroup) -> Result:
        streams = [
            stream
            for key, stream in self.streams.items()
            if op.group in stream.groups
            and (key == (op.source, op.stream) or not (op.source or op.stream))
        ]
        if not streams:
            return Refused(NotFound(f"there is no group {op.group!r}"))
        for stream in streams:
            del stream.groups[op.group]
        if not any(op.group in stream.groups for stream in self.streams.values()):
            del self.used[op.group]
        return Done()

    def expire(self, op: face.Expire) -> Result:
        for stream in self.streams.values():
            for producer, sent in list(stream.sent.items()):
                if max(used_ns for _, used_ns in sent.values()) < op.before_ns:
                    del stream.sent[producer]
        for name, used_ns in list(self.used.items()):
            mine = [
                stream.groups[name] for stream in self.streams.values() if name in stream.groups
            ]
            claimed = any(claim[3] > op.before_ns for group in mine for claim in group.claims)
            if used_ns < op.before_ns and not claimed:
                del self.used[name]
                for stream in self.streams.values():
                    stream.groups.pop(name, None)
        return Done()


def _failed(results: Iterable[Result]) -> bool:
    return any(
        _failed(result)
        if isinstance(result, tuple)
        else isinstance(result, Conflicted | Refused | AlreadyAcked)
        or (isinstance(result, face.StoredMany) and bool(result.failures))
        for result in results
    )


def _numbers(document: Any) -> Any:
    """Whole numbers spelled one way."""
    match document:
        case dict():
            return {key: _numbers(value) for key, value in document.items()}
        case list():
            return [_numbers(value) for value in document]
        case float() if document.is_integer():
            return int(document)
    return document


def _deep(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _deep(old.get(key), value) for key, value in new.items()}}
