"""The engine's `Port` at a real node."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from beamstream import limits
from beamstream.client.native.origins import Held, Origin
from beamstream.errors import Conflict
from beamstream.model import Level
from beamstream.wire.address import IdRange
from beamstream.worker.calling import Input
from beamstream.worker.failures import SUFFIX
from beamstream.worker.port import Ticket
from beamstream.worker.works import Publication

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.writer import Writer

WRITERS_MAX: Final = 128
"""Output streams that are kept open; beyond, the one that was idle longest is closed."""


class HubPort:
    """A node, for one worker.

    Parameters
    ----------
    group : of the worker.
    writes : data source of the results; empty for none.
    level : durability of results; None: the node's.
    """

    def __init__(
        self, hub: Hub, *, group: str, writes: str, level: Level | str | None = None
    ) -> None:
        self._hub = hub
        self._group = group
        self._writes = writes
        self._level = level
        self._writers: OrderedDict[tuple[str, str], Writer] = OrderedDict()

    # ------------------------------------------------------------------ results

    def publish(self, made: Publication) -> Ticket:
        """Store results and settle their inputs, as one unit; without results only the latter."""
        writer = self._writer(self._writes, made.stream)
        held = hold(made.settles)
        if not made.values:
            return writer.settle(held, made.skips)
        origin = Origin(
            made.run,
            made.source,
            made.stream,
            made.seqs,
            made.ks,
            made.spans,
            held,
            made.skips,
        )
        return writer.publish(made.values, made.metas, made=origin, ids=made.ids, name=made.name)

    def acknowledge(self, inputs: Sequence[Input]) -> None:
        """Nothing is to be stored for these: they are done."""
        for message in inputs:
            message.ack()

    def give_back(self, message: Input, delay_s: float, *, counted: bool) -> None:
        """Offer it again, to anyone; `counted` as an attempt or not."""
        if counted:
            message.nack(delay_s)
        else:
            message.defer(delay_s)

    def fail(
        self, message: Input, inputs: Sequence[Input], run: int, meta: dict[str, Any]
    ) -> Ticket:
        """Note that `message` has failed; `inputs` become dead letters with it, as one unit."""
        writer = self._writer(self._group + SUFFIX, message.stream)
        dead = tuple(one.dead() for one in hold(inputs))
        origin = Origin(run, message.source, message.stream, (message.seq,), settles=dead)
        return writer.publish([b""], [meta], made=origin)

    # ------------------------------------------------------------------ streams

    def finish(self, stream: str, last_id: int | None, next_stream: str) -> None:
        """Say that an output stream ends; None: with what there is."""
        try:
            self._hub.source(self._writes).stream(stream).finish(last_id, next_stream=next_stream)
        except Conflict:
            # Somebody has said so before, and otherwise: a run with fewer results, or a person.
            return

    def close(self, stream: str) -> None:
        """Nothing more is written to an output stream by this worker."""
        writer = self._writers.pop((self._writes, stream), None)
        if writer is not None:
            writer.close(finish=False)

    def close_all(self) -> None:
        """Nothing more is written at all."""
        while self._writers:
            self._writers.popitem()[1].close(finish=False)

    def _writer(self, source: str, stream: str) -> Writer:
        key = (source, stream)
        writer = self._writers.get(key)
        if writer is None:
            if len(self._writers) >= WRITERS_MAX:
                self._writers.popitem(last=False)[1].close(finish=False)
            level = self._level if source == self._writes else None
            found = self._hub.source(source).stream(stream)
            writer = self._writers[key] = found.writer(level=level, finish=False)
        self._writers.move_to_end(key)
        return writer

    # ------------------------------------------------------------------ asking

    def run(self, document: Mapping[str, Any]) -> int:
        """The number of the run that this document describes."""
        return self._hub.define_run(document).no

    def read_to_its_end(self, source: str, stream: str, id: int) -> bool:
        """Whether an input stream is finished, and has nothing behind `id`."""
        found = self._hub.source(source).stream(stream)
        row = found.info()
        if row is None or row.last_id < 0:
            return False
        # Ids that were skipped, or never came, have no messages.
        behind = IdRange(id + 1, limits.ID_MAX)
        return next(found.messages(behind, payloads=False), None) is None


def hold(inputs: Sequence[Input]) -> tuple[Held, ...]:
    """The leases of messages, those of neighbours in one run of them as one."""
    found: list[tuple[Input, int]] = []
    for message in inputs:
        if found:
            first, count = found[-1]
            if message._columns is first._columns and message._item == first._item + count:
                found[-1] = (first, count + 1)
                continue
        found.append((message, 1))
    return tuple(
        first._member().held(first._columns.arrived, first._item, first._item + count)
        for first, count in found
    )
