"""The checker: what clients did, what is there afterwards, and whether the promises were kept.

The clients of a test write what they do into one `History` (beamstream.testing.history), which
lives in the process that drives the test and is never killed. After the faults the test reads
everything back into a `Snapshot`, and `verify` counts what is wrong; every count must be 0.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from beamstream.errors import StaleLease
from beamstream.model import PART_PREFIX, Level
from beamstream.store.files import digest_of
from beamstream.testing.history import (
    Call,
    History,
    Outcome,
    metadata,
    payload,
    payload_nbytes,
)

__all__ = [
    "VERDICTS",
    "Call",
    "History",
    "Outcome",
    "SeenFile",
    "SeenRecord",
    "Snapshot",
    "Verdict",
    "metadata",
    "payload",
    "payload_nbytes",
    "verify",
    "walk",
]

VERDICTS: Final = (
    "lost",
    "corrupt",
    "phantom",
    "partial",
    "dup_store",
    "dup_deliver",
    "acked_redelivered",
    "skipped",
    "order",
    "wrong_error",
)
_EXAMPLES_MAX: Final = 5


class SeenRecord(msgspec.Struct, frozen=True):
    """A message as it was read back: with its payload's digest, or with the error of reading it."""

    stream: str
    id: int
    nbytes: int
    meta: Any
    digest: bytes = b""
    error: str = ""


class SeenFile(msgspec.Struct, frozen=True):
    """A file found below the beamtime's folder; `name` is its path there."""

    name: str
    nbytes: int
    digest: bytes


class Snapshot(msgspec.Struct):
    """All that was read back.

    Parameters
    ----------
    records : every message that the node has; a message listed twice is two of them.
    files : every file of the beamtime.
    drained : (group, stream) that were read to their end after the faults.
    auto : streams whose ids the node gave.
    once : streams whose ids the node gave, for a sender whose repeated sends it knows again.
    left : (group, stream, id) that a drained group has not acknowledged and is not offered again.
    """

    records: list[SeenRecord] = msgspec.field(default_factory=list)
    files: list[SeenFile] = msgspec.field(default_factory=list)
    drained: set[tuple[str, str]] = msgspec.field(default_factory=set)
    auto: set[str] = msgspec.field(default_factory=set)
    once: set[str] = msgspec.field(default_factory=set)
    left: set[tuple[str, str, int]] = msgspec.field(default_factory=set)


def walk(folder: Path) -> list[SeenFile]:
    """All files below a folder."""
    seen: list[SeenFile] = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            content = path.read_bytes()
            relative = path.relative_to(folder).as_posix()
            seen.append(SeenFile(relative, len(content), digest_of(content)))
    return seen


class Verdict(msgspec.Struct):
    """How often each promise was broken, with examples; true when none was."""

    seed: int
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    examples: dict[str, list[str]] = msgspec.field(default_factory=dict)
    puts: int = 0
    gets: int = 0
    acks: int = 0
    faults: int = 0

    def __bool__(self) -> bool:
        return not self.counts.total()

    def add(self, kind: str, text: str) -> None:
        assert kind in VERDICTS, kind
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES_MAX:
            examples.append(text)

    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: {self.puts} puts, {self.gets} deliveries, {self.acks} "
            f"acknowledgements, {self.faults} faults; "
        )
        if self:
            return head + "all kept"
        lines = [f"{kind}: {count}" for kind, count in self.counts.items()]
        lines += [f"  {kind}: {text}" for kind, texts in self.examples.items() for text in texts]
        return head + "BROKEN\n" + "\n".join(lines)


def verify(
    history: History, snapshot: Snapshot, *, lease_s: float = float("inf"), ahead_s: float = 0.0
) -> Verdict:
    """Compare what is there with what was done.

    Parameters
    ----------
    lease_s : how long a delivery is held for its reader before it may be offered again.
    ahead_s : how long a message may wait in a reader before its program takes it. Who was cut off
        from the node meanwhile does not know that others have got it, and have acknowledged it.
    """
    done = [call for call in history.calls if call.outcome is Outcome.OK]
    verdict = Verdict(history.seed, faults=len(history.faults) + len(history.client_faults))
    verdict.puts, verdict.gets, verdict.acks = (
        sum(call.kind == kind for call in done) for kind in ("put", "get", "ack")
    )
    _Verifier(history, snapshot, verdict).run(lease_s, ahead_s)
    return verdict


class _Verifier:
    def __init__(self, history: History, snapshot: Snapshot, verdict: Verdict) -> None:
        self.history = history
        self.snapshot = snapshot
        self.verdict = verdict
        self._digests: dict[tuple[str, int, int], bytes] = {}
        self.late = {
            (call.group, call.stream, call.id, call.client)
            for call in history.of_kind("ack")
            if call.error == StaleLease.__name__
        }
        self.puts: dict[tuple[str, int], list[Call]] = defaultdict(list)
        for call in history.of_kind("put"):
            # A refused send had no effect: what is there of it is a phantom.
            if call.outcome is not Outcome.FAIL:
                self.puts[call.stream, call.key].append(call)

    def run(self, lease_s: float, ahead_s: float) -> None:
        self.errors()
        self.records()
        self.files()
        self.order()
        self.deliveries(lease_s, ahead_s)

    def digest(self, put: Call) -> bytes:
        """Of the payload that was sent; many look at the same one."""
        key = (put.stream, put.key, put.nbytes)
        if key not in self._digests:
            self._digests[key] = digest_of(self.history.payload_of(put))
        return self._digests[key]

    # ------------------------------------------------------------------ stored

    def errors(self) -> None:
        for call in self.history.calls:
            if call.outcome is Outcome.FAIL and call.error not in call.allowed:
                where = f"{call.kind} of {call.stream} {call.id} by {call.client}"
                self.verdict.add("wrong_error", f"{where}: {call.error}")

    def records(self) -> None:
        found: Counter[tuple[str, int]] = Counter()
        for record in self.snapshot.records:
            key = self._key(record)
            puts = self.puts.get(key)
            if not puts:
                self.verdict.add("phantom", f"{record.stream} {record.id} was never sent")
                continue
            found[key] += 1
            if found[key] > 1 and not self._sent_twice(record.stream, puts):
                self.verdict.add("dup_store", f"{record.stream} {record.id} is there twice")
            self._content(record, puts)
        for (stream, number), puts in self.puts.items():
            answered = [call for call in puts if call.outcome is Outcome.OK]
            if answered and not found[stream, number]:
                level = max(call.level for call in answered)
                self.verdict.add(
                    "lost", f"{stream} {number}, answered at {level.name}, is not there"
                )

    def _key(self, record: SeenRecord) -> tuple[str, int]:
        if record.stream not in self.snapshot.auto:
            return record.stream, record.id
        key = record.meta.get("key", 0) if isinstance(record.meta, Mapping) else 0
        return record.stream, key if isinstance(key, int) else 0

    def _sent_twice(self, stream: str, puts: list[Call]) -> bool:
        """An automatic id is given anew to a message sent again after a lost answer."""
        return stream in self.snapshot.auto - self.snapshot.once and any(
            self.history.fault_between(call.began_s, call.ended_s) for call in puts
        )

    def _content(self, record: SeenRecord, puts: list[Call]) -> None:
        put, where = puts[0], f"{record.stream} {record.id}"
        if record.meta != self.history.metadata_of(put) or record.nbytes != put.nbytes:
            self.verdict.add("corrupt", f"{where} has another size or metadata: {record.meta}")
        elif record.error == "DataLost":
            self._data_lost(record, puts)
        elif record.error:
            kind = "corrupt" if record.error == "Corrupt" else "wrong_error"
            self.verdict.add(kind, f"{where} reads as {record.error}")
        elif record.digest != self.digest(put):
            self.verdict.add("corrupt", f"{where} has other bytes than were sent")
        self._told_id(record.id, puts, where)

    def _told_id(self, id: int, puts: list[Call], where: str) -> None:
        """The id in an answer is the one under which the message is found."""
        told = {put.id for put in puts if put.outcome is Outcome.OK and put.id}
        if told and id not in told:
            self.verdict.add("corrupt", f"{where} was answered with id {told}")

    def _data_lost(self, record: SeenRecord, puts: list[Call]) -> None:
        where = f"{record.stream} {record.id}"
        if puts[0].name or puts[0].level > Level.CACHE:
            answered = any(call.outcome is Outcome.OK for call in puts)
            self.verdict.add("lost" if answered else "partial", f"{where} has no payload")
        elif not self.history.faults:
            self.verdict.add("lost", f"{where} has lost its payload without a fault")

    def files(self) -> None:
        by_name = {call.name: call for puts in self.puts.values() for call in puts if call.name}
        for file in self.snapshot.files:
            put = by_name.get(file.name)
            if file.name.rpartition("/")[2].startswith(PART_PREFIX):
                self.verdict.add("partial", f"{file.name} was left behind")
            elif put is None:
                self.verdict.add("phantom", f"file {file.name} was never sent")
            elif file.nbytes != put.nbytes:
                text = f"file {file.name} has {file.nbytes} of {put.nbytes} bytes"
                self.verdict.add("partial", text)
            elif file.digest != self.digest(put):
                self.verdict.add("corrupt", f"file {file.name} has other bytes than were sent")

    def order(self) -> None:
        """Automatic ids are 1 … N, and follow the order of sends that followed each other."""
        for stream in self.snapshot.auto:
            records = [record for record in self.snapshot.records if record.stream == stream]
            ids = sorted(record.id for record in records)
            if ids != list(range(1, len(ids) + 1)):
                self.verdict.add("order", f"automatic ids of {stream} are {ids[:20]} …")
            first: dict[int, int] = {}
            for record in records:
                number = self._key(record)[1]
                first[number] = min(record.id, first.get(number, record.id))
            newest_ended, newest_id = float("-inf"), 0
            for put in sorted(self._answered(stream), key=lambda call: call.began_s):
                id = first.get(put.key)
                if id is None:
                    continue
                if put.began_s > newest_ended and id < newest_id:
                    self.verdict.add("order", f"{stream}: {id} was sent after {newest_id}")
                if id > newest_id:
                    newest_ended, newest_id = put.ended_s, id

    def _answered(self, stream: str) -> Iterator[Call]:
        for (name, _), puts in self.puts.items():
            if name == stream:
                yield from (call for call in puts if call.outcome is Outcome.OK)

    # ------------------------------------------------------------------ delivered

    def deliveries(self, lease_s: float, ahead_s: float) -> None:
        by_message: dict[tuple[str, str, int], list[Call]] = defaultdict(list)
        for call in self.history.of_kind("get"):
            if call.outcome is Outcome.OK:
                by_message[call.group, call.stream, call.id].append(call)
        acked: dict[tuple[str, str, int], float] = {}
        for call in self.history.of_kind("ack"):
            if call.outcome is Outcome.OK:
                message = call.group, call.stream, call.id
                acked[message] = min(call.ended_s, acked.get(message, call.ended_s))
        for message, calls in by_message.items():
            calls.sort(key=lambda call: call.ended_s)
            self._late(message, calls, acked.get(message, float("inf")), ahead_s)
            self._repeats(message, calls, lease_s, ahead_s)
            self._delivered_content(calls)
        for group, stream in self.snapshot.drained:
            for record in self.snapshot.records:
                there = record.stream == stream
                if there and (group, stream, record.id) not in by_message:
                    self.verdict.add("skipped", f"{group} never got {stream} {record.id}")
        for group, stream, id in self.snapshot.left:
            text = f"{group} is not offered {stream} {id} again, which nobody acknowledged"
            self.verdict.add("skipped", text)

    def _late(
        self, message: tuple[str, str, int], calls: list[Call], acked_s: float, ahead_s: float
    ) -> None:
        """What was acknowledged does not come again."""
        readers = {call.client for call in calls}
        for call in calls:
            if call.began_s <= acked_s:
                continue
            waited = call.began_s <= acked_s + ahead_s
            since_s = calls[0].began_s - ahead_s
            if not (waited and self.history.fault_between(since_s, call.ended_s, *readers)):
                self.verdict.add("acked_redelivered", f"{_where(message)}, to {call.client}")

    def _repeats(
        self, message: tuple[str, str, int], calls: list[Call], lease_s: float, ahead_s: float
    ) -> None:
        """Two readers get one message only after a fault, or when a lease has ended."""
        for first, again in pairwise(calls):
            expired = again.ended_s - first.began_s >= lease_s
            since_s = first.began_s - ahead_s
            who = (first.client, again.client)
            excused = self.history.fault_between(since_s, again.ended_s, *who)
            # A message may wait in a reader until its lease has ended, and then come out last.
            told_late = any((*message, reader) in self.late for reader in who)
            given_back = first.given_back or again.given_back
            if not (expired or excused or told_late or given_back):
                self.verdict.add("dup_deliver", f"{_where(message)}, to {who[0]} and {who[1]}")

    def _delivered_content(self, calls: list[Call]) -> None:
        for call in calls:
            key = call.id
            if call.stream in self.snapshot.auto and isinstance(call.meta, Mapping):
                key = call.meta.get("key", 0)
            puts = self.puts.get((call.stream, key))
            where = f"delivery of {call.stream} {call.id} to {call.client}"
            if not puts:
                self.verdict.add("phantom", f"{where}: it was never sent")
            elif call.meta is not None and call.meta != self.history.metadata_of(puts[0]):
                self.verdict.add("corrupt", f"{where}: other metadata than was sent")
            elif call.digest and call.digest != self.digest(puts[0]):
                self.verdict.add("corrupt", f"{where}: other bytes than were sent")
            elif call.error:
                self._delivered_without(call, puts[0], where)
            else:
                self._told_id(call.id, puts, where)

    def _delivered_without(self, call: Call, put: Call, where: str) -> None:
        """Its payload could not be had: what was kept in memory only may be gone."""
        if call.error != "DataLost":
            kind = "corrupt" if call.error == "Corrupt" else "wrong_error"
            self.verdict.add(kind, f"{where}: {call.error}")
        elif put.name or put.level > Level.CACHE or not self.history.faults:
            self.verdict.add("lost", f"{where}: its payload is gone")


def _where(message: tuple[str, str, int]) -> str:
    group, stream, id = message
    return f"{id} of {stream} in {group}"
