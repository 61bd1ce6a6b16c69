"""What results are made of, and the leases that are settled together with them. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from beamstream import limits
from beamstream.client.native import spans
from beamstream.client.native.spans import Spans
from beamstream.errors import BadInput, Error, StaleLease
from beamstream.wire.native.frames import Made, Settle

if TYPE_CHECKING:
    from beamstream.client.native.arrived import Lease
    from beamstream.client.native.incoming import Incoming


class Held:
    """Messages that a member of a group has leased, to be settled with what is made of them.

    Made by `Message.held` and `Batch.held`.
    """

    __slots__ = ("gives_up", "lease", "ranges", "reader")

    def __init__(
        self, reader: Incoming, lease: Lease, ranges: Spans, *, gives_up: bool = False
    ) -> None:
        self.reader = reader
        self.lease = lease
        self.ranges = ranges
        self.gives_up = gives_up

    def __repr__(self) -> str:
        what = "to give up" if self.gives_up else "to acknowledge"
        return f"<Held seqs {self.ranges} of {self.source}/{self.stream}, {what}>"

    @property
    def source(self) -> str:
        return self.lease.source

    @property
    def stream(self) -> str:
        return self.lease.stream

    @property
    def count(self) -> int:
        """How many messages, or datasets, it is."""
        return spans.length(self.ranges)

    def dead(self) -> Held:
        """The same, to be given up (dead letters) in place of acknowledged."""
        return Held(self.reader, self.lease, self.ranges, gives_up=True)


class Origin(msgspec.Struct, frozen=True):
    """What the messages of one `Writer.publish` were made of.

    Parameters
    ----------
    run : number of the run that made them (`Hub.define_run`).
    source, stream : of the inputs.
    seqs : for each message, its (first) input.
    ks : which of the results of its input each one is, from 0 on; None: all are 0.
    spans : for each message, the ranges of seqs of its inputs (`frames.pack_span`), empty for one
        input; None: all have one.
    settles : what is acknowledged, or given up, with it: all or nothing.
    skips : ranges of ids that will never come in the stream that is written.
    """

    run: int
    source: str
    stream: str
    seqs: tuple[int, ...]
    ks: tuple[int, ...] | None = None
    spans: tuple[bytes, ...] | None = None
    settles: tuple[Held, ...] = ()
    skips: tuple[tuple[int, int], ...] = ()

    def made(self, count: int) -> Made:
        """For `count` messages, as the node is told, without what is settled.

        Raises
        ------
        BadInput : columns of another length.

        >>> Origin(1, "eiger", "scan1", (7,)).made(1).seqs
        (7,)
        """
        for name, column in (("seqs", self.seqs), ("ks", self.ks), ("spans", self.spans)):
            if column is not None and len(column) != count:
                raise BadInput(f"{count} results come with {len(column)} {name}")
        check_ranges(self.skips)
        return Made(
            self.run,
            self.source,
            self.stream,
            self.seqs,
            self.ks,
            self.spans,
            skips=tuple(self.skips),
        )


def check_ranges(ranges: Sequence[tuple[int, int]]) -> None:
    """Raise `BadInput` unless these are ranges of ids that one frame may hold."""
    if len(ranges) > limits.NATIVE_BATCH_MAX:
        raise BadInput(
            f"{len(ranges)} ranges of ids, {limits.NATIVE_BATCH_MAX} may be skipped at once"
        )
    if any(not 1 <= lo < hi <= limits.ID_MAX + 1 for lo, hi in ranges):
        raise BadInput("a range of ids to be skipped is empty or not of ids", hint="[(lo, hi)]")


class Standing(enum.Enum):
    """Whether what is to be settled can be named to the node."""

    READY = enum.auto()
    WAITING = enum.auto()
    """The streams are not open yet in this connection."""
    STALE = enum.auto()
    """They will not be."""


class Settling:
    """Leases that are settled with a put or a call that has no answer yet.

    They stay held until it has come: refused, they are as before.
    """

    __slots__ = ("_over", "held")

    def __init__(self, held: Iterable[Held]) -> None:
        self.held: Final = tuple(held)
        self._over = False
        for reader in self.readers():
            reader.settlings.add(self)

    def readers(self) -> set[Incoming]:
        return {one.reader for one in self.held}

    def standing(self, now: float) -> Standing:
        """Whether all can be named."""
        found = Standing.READY
        for one in self.held:
            standing = one.reader.standing(one.lease, now)
            if standing is Standing.STALE:
                return standing
            if standing is Standing.WAITING:
                found = standing
        return found

    def until(self) -> float:
        """When it has been waited for long enough (monotonic seconds)."""
        return max(one.reader.opened_by for one in self.held)

    def frames(self) -> tuple[Settle, ...]:
        """As the node is told in this connection; only when `READY`."""
        if len(self.held) == 1:
            return (_frame(self.held[0], self.held[0].ranges),)
        together: dict[tuple[int, int, int, bool], tuple[Held, Spans]] = {}
        for one in self.held:
            name = (one.reader.asked.channel, id(one.lease), one.lease.tag, one.gives_up)
            together.setdefault(name, (one, []))[1].extend(one.ranges)
        return tuple(_frame(one, spans.merged(found)) for one, found in together.values())

    def stale(self) -> StaleLease:
        """Why it cannot be settled any more."""
        one = self.held[0]
        return StaleLease(
            f"what is to be settled in stream {one.stream!r} is not leased any more: its reader "
            "was closed, or has not found the stream again after a broken connection",
            hint="the messages are offered again; nothing was stored",
        )

    def finish(self, error: Error | None) -> None:
        """The answer has come."""
        if self._over:
            return
        self._over = True
        for one in self.held:
            if error is None:
                one.reader.release(one.lease, one.ranges)
            elif isinstance(error, StaleLease):
                # One of them is; the others go back to the node at once, and nothing is kept.
                for lo, hi in one.ranges:
                    one.reader.give_back(one.lease, lo, hi, 0.0, False)
        for reader in self.readers():
            reader.answered(self)


def check_held(held: Sequence[Held]) -> None:
    """Raise `BadInput` if these are more than one frame may settle."""
    if sum(len(one.ranges) for one in held) > limits.NATIVE_BATCH_MAX:
        raise BadInput(
            f"{len(held)} leases are to be settled at once, in more than "
            f"{limits.NATIVE_BATCH_MAX} ranges",
            hint="settle fewer at a time",
        )


def _frame(held: Held, ranges: Spans) -> Settle:
    lease = held.lease
    ref = held.reader.ref_of(lease)
    assert ref is not None
    return Settle(held.reader.asked.channel, ref, lease.tag, tuple(ranges), held.gives_up)
