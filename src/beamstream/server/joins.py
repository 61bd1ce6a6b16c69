"""Streams of datasets that the node makes out of several streams, by id.

A join reads each of its inputs as a group and records every message once more, as a part that
shares the payload of the original. It acknowledges a message when its part is recorded: after a
crash the part is written again, and is a duplicate. What joins there are is metadata of the
beamtime under a name that no client can use.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec
import structlog

from beamstream import limits
from beamstream.errors import BadInput, BadName, Conflict, Error, ReadOnly
from beamstream.model import Dataset, Level, Record, Who, check_label
from beamstream.server.blocks import Block
from beamstream.server.commits import Commits
from beamstream.server.streams import View
from beamstream.server.subscriptions import Answer, Hall, Subscriptions
from beamstream.server.subscriptions_groups import RESERVED
from beamstream.store import catalog as ops
from beamstream.store.catalog.interface import MetaMode
from beamstream.wire.native import calls
from beamstream.wire.native.frames import (
    Ack,
    Credit,
    End,
    Gap,
    Header,
    Settled,
    StreamOpened,
    Subscribe,
)

log = structlog.get_logger("joins")

_DEFINITIONS = f"{RESERVED}joins"
_LEASE_S = 3_600.0
_AHEAD_MESSAGES = 1_024
_BATCH = 256
_RETRY_S = 5.0
_LATE_PAGE = 64
_LATE_PAGES_MAX = 16
"""How far back incomplete datasets are looked for: a look must not hold up the node."""


class Definition(msgspec.Struct, frozen=True):
    """One join; the k-th input becomes substream k (from 1)."""

    source: str
    stream: str
    inputs: tuple[tuple[str, str], ...]

    @property
    def group(self) -> str:
        """The group as which it reads its inputs."""
        return f"{RESERVED}join {self.source}{RESERVED}{self.stream}"


class _Definitions(msgspec.Struct, frozen=True):
    joins: tuple[Definition, ...] = ()


class Joins:
    """All joins of a node.

    Parameters
    ----------
    durability : of the parts, at most as that of the originals.
    """

    def __init__(
        self, hall: Hall, commits: Commits, subscriptions: Subscriptions, durability: Level
    ) -> None:
        self.hall = hall
        self.commits = commits
        self.subscriptions = subscriptions
        self.durability = int(durability)
        self._running: dict[str, dict[tuple[str, str], _Join]] = {}
        hall.streams.on_beamtime.append(self._open_soon)
        hall.streams.on_gone.append(self._on_gone)

    def _open_soon(self, beamtime: str) -> None:
        self.hall.turns.call_soon(self.open, beamtime)

    def open(self, beamtime: str) -> None:
        """Go on with the joins of a beamtime; called when it is used first."""
        if beamtime in self._running:
            return
        running = self._running[beamtime] = {}
        try:
            document = self.hall.catalog.meta(beamtime, _DEFINITIONS, "")
            found = msgspec.json.decode(document or b"{}", type=_Definitions)
        except (Error, msgspec.MsgspecError) as error:
            log.error("joins cannot be read", beamtime=beamtime, reason=str(error))
            return
        for definition in found.joins:
            running[definition.source, definition.stream] = _Join(self, beamtime, definition)

    def define(
        self,
        beamtime: str,
        source: str,
        stream: str,
        inputs: tuple[tuple[str, str], ...],
        answer: Answer,
    ) -> None:
        """Make a join, from the beginning of its inputs on; the same again is harmless.

        Raises
        ------
        BadInput : these streams cannot be joined.
        Conflict : there is another join, or a stream of messages, of this name.
        """
        definition = Definition(source, stream, inputs)
        self._check(definition)
        self.open(beamtime)
        running = self._running[beamtime]
        found = running.get((source, stream))
        if found is not None:
            if found.definition != definition:
                raise Conflict(
                    f"stream {stream!r} of source {source!r} joins other streams",
                    hint="delete it first, or use another name",
                )
            answer(None)
            return
        view = self.hall.streams.view(beamtime, source, stream)
        if view.visible_seq and not view.datasets:
            raise Conflict(
                f"stream {stream!r} of source {source!r} has single messages",
                hint="give the join a name of its own",
            )
        running[source, stream] = _Join(self, beamtime, definition)
        self._write(beamtime, [], answer)

    def late(self, view: View, limit: int) -> list[calls.LateRow]:
        """Which parts incomplete datasets lack, newest first; of some thousand newest ones."""
        join = self._running.get(view.beamtime, {}).get((view.source, view.name))
        rows: list[calls.LateRow] = []
        now_ns, hi = self.hall.wall_ns(), view.visible_seq + 1
        for _ in range(_LATE_PAGES_MAX):
            lo = max(hi - _LATE_PAGE, 1)
            for item in reversed(self.hall.streams.items(view, lo, hi)):
                if len(rows) >= limit:
                    return rows
                if isinstance(item, Dataset) and not item.complete:
                    rows.append(_late_row(item, join.definition if join else None, now_ns))
            hi = lo
        return rows

    # ------------------------------------------------------------------ inside

    def _check(self, definition: Definition) -> None:
        for source, stream in ((definition.source, definition.stream), *definition.inputs):
            check_label("source", source)
            check_label("stream", stream)
        inputs = definition.inputs
        if not 1 <= len(inputs) <= limits.NATIVE_CHANNELS_MAX:
            raise BadInput(f"a join of {len(inputs)} streams")
        if len(set(inputs)) < len(inputs):
            raise BadInput("a join has the same input twice")
        if (definition.source, definition.stream) in inputs:
            raise BadInput(f"stream {definition.stream!r} cannot be joined into itself")
        if len(definition.group) > limits.GROUP_NBYTES_MAX:
            raise BadName("the names of the source and stream of a join are too long together")

    def _on_gone(self, view: View) -> None:
        """The stream of a join was deleted, and the join with it."""
        running = self._running.get(view.beamtime, {})
        join = running.pop((view.source, view.name), None)
        if join is None:
            return
        join.stop()
        group = join.definition.group
        for other in self.hall.streams.views():
            if other.beamtime == view.beamtime:
                other.groups.pop(group, None)
        self._write(view.beamtime, [ops.DeleteGroup(group)], _no_answer)

    def _write(self, beamtime: str, batch: list[ops.Op], answer: Answer) -> None:
        found = tuple(join.definition for join in self._running[beamtime].values())
        document = msgspec.json.encode(_Definitions(found))
        meta = ops.Meta(_DEFINITIONS, "", MetaMode.REPLACE, True, document)
        self.hall.deliveries.submit_safe(beamtime, [meta, *batch], answer)


class _Join:
    """One join at work: what its subscriptions hand it becomes parts. It is their outlet."""

    def __init__(self, joins: Joins, beamtime: str, definition: Definition) -> None:
        self._joins = joins
        self.definition = definition
        self.beamtime = beamtime
        self.session = definition.group.encode()
        self.who = Who(instance=f"join of {definition.stream}")
        self._ended: dict[int, int] = {}
        """Channel -> last id, of inputs that are finished."""
        self._stopped = False
        for channel in range(1, len(definition.inputs) + 1):
            self._subscribe(channel)

    @property
    def writable(self) -> bool:
        return not self._stopped

    def stop(self) -> None:
        self._stopped = True
        for channel in range(1, len(self.definition.inputs) + 1):
            self._joins.subscriptions.close(self, channel)

    def _subscribe(self, channel: int) -> None:
        source, stream = self.definition.inputs[channel - 1]
        frame = Subscribe(
            channel,
            source,
            stream,
            self.definition.group,
            lease_s=_LEASE_S,
            credit_messages=_AHEAD_MESSAGES,
            batch_max=_BATCH,
            payloads=False,
        )
        self._joins.subscriptions.open(self, frame, reserved=True)

    # ------------------------------------------------------------------ as an outlet

    def stream_opened(self, frame: StreamOpened) -> None:
        """Inputs are told apart by their channels."""

    def gap(self, frame: Gap) -> None:
        """Datasets are made of what is there."""

    def header(self, frame: Header) -> None:
        """Not asked for."""

    def settled(self, frame: Settled) -> None:
        """Not asked for."""

    def deliver(
        self,
        channel: int,
        ref: int,
        tag: int,
        view: View,
        block: Block,
        lo: int,
        hi: int,
        deliveries: tuple[int, ...] | None,
        payloads: bool,
        shared: bool,
    ) -> None:
        ack = Ack(channel, ref, tag, ((block.seq + lo, block.seq + hi),))
        records = [block.record(index) for index in range(lo, hi)]
        puts = [self._part(channel, view, record) for record in records]
        self._record(puts, ack)

    def deliver_datasets(
        self,
        channel: int,
        ref: int,
        tag: int,
        view: View,
        datasets: Sequence[Dataset],
        deliveries: tuple[int, ...] | None,
        payloads: bool,
        shared: bool,
    ) -> None:
        log.warning("datasets cannot be joined", stream=view.name, join=self.definition.stream)
        ack = Ack(channel, ref, tag, ((datasets[0].seq, datasets[-1].seq + 1),))
        self._joins.hall.turns.call_soon(self._acknowledge, ack)

    def end(self, frame: End) -> None:
        self._joins.hall.turns.call_soon(self._end, frame)

    def failed(self, channel: int, error: Error) -> None:
        log.warning("an input of a join cannot be read", reason=str(error))
        self._joins.hall.turns.call_later(_RETRY_S, self._again, channel)

    # ------------------------------------------------------------------ parts

    def _part(self, channel: int, view: View, record: Record) -> ops.Put:
        join = self.definition
        return ops.Put(
            source=join.source,
            stream=join.stream,
            id=record.id,
            name=record.name,
            size=record.size,
            digest=record.digest,
            meta=record.meta,
            timestamp_ns=record.timestamp_ns,
            arrived_ns=record.arrived_ns,
            mode=record.mode,
            level=min(record.level, self._joins.durability),
            place=record.place,
            root=record.root,
            substream=channel,
            expected=len(join.inputs),
            node=record.node,
            boot=record.boot,
            run=record.run,
            segment=record.segment,
            position=record.position,
            info=record.info,
            input_source=view.source,
            input_stream=view.name,
            input_seq=record.seq,
        )

    def _record(self, puts: list[ops.Put], ack: Ack) -> None:
        syncs = max(put.level for put in puts) >= Level.DISK
        view = self._view()
        if syncs:
            view.hidden_parts.update((put.id, put.substream) for put in puts)
        view.busy += 1
        commits = self._joins.commits
        submit = commits.submit_synced if syncs else commits.submit
        submit(self.beamtime, puts, functools.partial(self._recorded, view, puts, ack))

    def _recorded(
        self, view: View, puts: list[ops.Put], ack: Ack, outcome: Sequence[ops.Result] | Error
    ) -> None:
        view.busy -= 1
        if self._stopped:
            return
        streams = self._joins.hall.streams
        if isinstance(outcome, Error):
            log.warning("parts of a join cannot be recorded", reason=str(outcome))
            if isinstance(outcome, ReadOnly):
                streams.fail(view, outcome)
            else:
                self._joins.hall.turns.call_later(_RETRY_S, self._record, puts, ack)
            return
        for put, result in zip(puts, outcome, strict=True):
            if isinstance(result, ops.Stored):
                record = result.record(put)
                streams.show(self._view(), result.stream, result.seq, result.id, record, _shown)
                continue
            view.hidden_parts.discard((put.id, put.substream))
            if isinstance(result, ops.Conflicted | ops.Refused):
                log.warning("a part does not fit into a join", reason=str(result.error))
        self._acknowledge(ack)

    def _acknowledge(self, ack: Ack) -> None:
        if self._stopped:
            return
        subscriptions = self._joins.subscriptions
        subscriptions.ack(self, ack, _no_answer)
        messages = sum(hi - lo for lo, hi in ack.ranges)
        subscriptions.credit(self, Credit(ack.channel, messages, 0))

    # ------------------------------------------------------------------ ends

    def _end(self, frame: End) -> None:
        if self._stopped:
            return
        if frame.reason == "gone":
            self._again(frame.channel)
            return
        self._ended[frame.channel] = frame.last_id
        if len(self._ended) == len(self.definition.inputs):
            self._finish(max(self._ended.values()))

    def _again(self, channel: int) -> None:
        """An input is read anew: it was deleted, or could not be read."""
        if not self._stopped:
            self._joins.subscriptions.close(self, channel)
            self._subscribe(channel)

    def _finish(self, last_id: int) -> None:
        view, join = self._view(), self.definition
        if view.finished:
            return
        hall = self._joins.hall
        now_ns = hall.wall_ns()
        op = ops.Finish(join.source, join.stream, last_id, "", now_ns)

        def ended(outcome: Sequence[ops.Result] | Error) -> None:
            view.busy -= 1
            result = outcome if isinstance(outcome, Error) else outcome[0]
            if isinstance(result, ops.Done) and result.stream is not None:
                hall.streams.show_finish(self._view(), result.stream, now_ns)
            elif not isinstance(result, ops.Duplicate):
                log.warning("a join cannot be finished", stream=join.stream, reason=str(result))

        view.busy += 1
        syncs = self._joins.durability >= Level.DISK
        submit = self._joins.commits.submit_synced if syncs else self._joins.commits.submit
        submit(self.beamtime, [op], ended)

    def _view(self) -> View:
        join = self.definition
        return self._joins.hall.streams.view(self.beamtime, join.source, join.stream)


def _late_row(item: Dataset, join: Definition | None, now_ns: int) -> calls.LateRow:
    present = {part.substream for part in item.parts}
    missing = tuple(k for k in range(1, item.expected + 1) if k not in present)
    arrived_ns = min((part.arrived_ns for part in item.parts), default=now_ns)
    inputs = tuple(join.inputs[k - 1] for k in missing) if join is not None else ()
    return calls.LateRow(
        id=item.id,
        missing=missing,
        inputs=inputs,
        waiting_s=max((now_ns - arrived_ns) / 1e9, 0.0),
    )


def _shown(error: Error | None) -> None:
    """Parts that never become visible are written again after the next start."""


def _no_answer(error: Error | None) -> None:
    """What was not written is done again after the next start."""
