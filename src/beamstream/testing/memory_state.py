"""What operations do to the catalog in memory: all is derived from plain lists."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
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
from beamstream.model import Place, Record, Run
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
from beamstream.testing.memory_streams import (
    Entry,
    GroupStream,
    Spans,
    Stream,
    common,
    joined,
    without,
)


class Beamtime:
    """The state of a beamtime, and what each operation makes of it."""

    def __init__(self) -> None:
        self.next_no = 1
        self.streams: dict[tuple[str, str], Stream] = {}
        self.metas: dict[tuple[str, str], list[tuple[Any, int]]] = {}
        """All documents and when they were written, the newest last."""
        self.runs: list[Run] = []
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
        if op.producer and (len(op.producer) != 16 or not 1 <= op.sequence < limits.ID_MAX):
            return Refused(BadInput("producers have 16 bytes and count from 1"))
        least = 1 if op.result_k >= 0 else 0
        if not (least <= op.input_seq <= limits.ID_MAX and op.result_k <= limits.ID_MAX):
            return Refused(BadInput("inputs are counted from 1, their results from 0"))
        automatic = op.id == 0 and not op.substream and not op.expected
        there = self.streams.get((op.source, op.stream), Stream(0, op.source, op.stream))
        result = self.made_before(there, op)
        if result is None and op.producer and automatic:
            result = self.sent_before(there, op)
            if result is not None:
                return result
        result = result or self.store(op)
        if op.producer and isinstance(result, Stored | Duplicate):
            stored = result.id if automatic else 0
            sent = self.made(op.source, op.stream).sent.setdefault(op.producer, {})
            sent.setdefault(op.sequence, (stored, op.timestamp_ns))
        return result

    def made_before(self, there: Stream, op: face.Put) -> Result | None:
        for entry in there.entries:
            for record in entry.records.values():
                if op.result_k >= 0 and self.same_result(record, op):
                    return Duplicate(there.info(), record.id, record)
        return None

    def same_result(self, record: Record, op: face.Put) -> bool:
        def key(x: Record | face.Put) -> tuple[object, ...]:
            return x.run, x.input_source, x.input_stream, x.input_seq, x.result_k

        return key(record) == key(op)

    def sent_before(self, there: Stream, op: face.Put) -> Result | None:
        ident, _ = there.sent.get(op.producer, {}).get(op.sequence, (-1, 0))
        if ident < 0:
            return None
        entry = there.at(ident)
        if entry is None or not self.same_payload(entry.records[0], op):
            return Conflicted(IdConflict(f"number {op.sequence} was something else"))
        return Duplicate(there.info(), ident, entry.records[0])

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
            max(op.result_k, -1), op.span,
        )  # fmt: skip

    def same_payload(self, record: Record, op: face.Put) -> bool:
        return (record.size, record.digest) == (op.size, op.digest)

    def same(self, record: Record, op: face.Put) -> bool:
        def told(x: Record | face.Put) -> tuple[object, ...]:
            return x.name, x.size, x.digest, _told(json.loads(x.meta))

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
            *(x for x in (op.input_seqs, op.result_ks, op.spans) if x is not None),
        ]
        of_nothing = op.input_seqs is None and (op.result_ks or op.spans)
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
            or of_nothing
            or any(seq < 1 for seq in op.input_seqs or ())
            or any(n > limits.ID_MAX for n in (*(op.input_seqs or ()), *(op.result_ks or ())))
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
            input_source=op.input_source,
            input_stream=op.input_stream,
            input_seq=op.input_seqs[index] if op.input_seqs else 0,
            result_k=op.result_ks[index] if op.result_ks else 0 if op.input_seqs else -1,
            span=op.spans[index] if op.spans else b"",
        )

    def skip(self, op: face.Skip) -> Result:
        if not 1 <= op.lo < op.hi <= limits.ID_MAX + 1:
            return Refused(BadInput(f"{op.lo} to {op.hi} is not a range of ids"))
        there = self.streams.get((op.source, op.stream), Stream(0, op.source, op.stream))
        skipped = [(entry.lo, entry.hi) for entry in there.entries if entry.skipped]
        if op.again and not without([(op.lo, op.hi)], skipped):
            return Duplicate(there.info(), op.hi - 1)
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
            document = _deep(self.metas[key][-1][0], document)
        if len(json.dumps(document)) > limits.STREAM_META_NBYTES_MAX:
            return Refused(TooLarge("the metadata would be too large"))
        if not there or _told(self.metas[key][-1][0]) != _told(document):
            self.metas.setdefault(key, []).append((document, op.changed_ns))
        stream = self.streams.get(key)
        return Done(stream.info() if stream else None)

    def definerun(self, op: face.DefineRun) -> Result:
        try:
            document = json.loads(op.document)
        except (ValueError, RecursionError):
            document = None
        if len(op.document) > limits.RUN_NBYTES_MAX:
            return Refused(TooLarge("that is too large for the document of a run"))
        if type(document) is not dict:
            return Refused(BadInput("that is not the document of a run"))
        for run in self.runs:
            # Here 1 and 1.0 are two: code may tell them apart.
            if json.dumps(json.loads(run.document), sort_keys=True) == json.dumps(
                document, sort_keys=True
            ):
                return run
        self.runs.append(Run(len(self.runs) + 1, op.document, op.created_ns))
        return self.runs[-1]

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


def _told(document: Any) -> str:
    """One text for all that is the same JSON: printing tells true from 1, and sorts the keys."""
    return json.dumps(_numbers(document), sort_keys=True)


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
