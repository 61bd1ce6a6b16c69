"""What is recorded in one unit with results: ids that are skipped, messages that are settled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from beamstream import limits
from beamstream.errors import BadInput, Error
from beamstream.server.streams import Streams
from beamstream.store import catalog as ops
from beamstream.store.catalog import Catalog
from beamstream.wire.native import frames
from beamstream.wire.native.batches import Ranges


class Settling(Protocol):
    """Messages that count as acknowledged, or given up, until it is known what became of them."""

    @property
    def ops(self) -> tuple[ops.Op, ...]:
        """What is to be recorded of it."""
        ...

    def done(self) -> None:
        """It is recorded."""

    def undo(self) -> None:
        """It is not: the leases go on."""


Settle = Callable[[tuple[frames.Settle, ...]], Settling]


class Along:
    """What goes along with results that are written into a stream; without any, by itself.

    Parameters
    ----------
    skips : ids of that stream that will never come.
    settling : None when nothing is settled.
    """

    def __init__(
        self,
        streams: Streams,
        stream: tuple[str, str, str],
        skips: Ranges,
        settling: Settling | None,
    ) -> None:
        self._streams = streams
        self._stream = stream
        self._settling = settling
        self._skips = self._skipping(skips)
        self._stored: Sequence[ops.Result] = ()

    def _skipping(self, ranges: Ranges) -> tuple[ops.Skip, ...]:
        _, source, stream = self._stream
        now_ns = time.time_ns()
        return tuple([ops.Skip(source, stream, lo, hi, now_ns, again=True) for lo, hi in ranges])

    def unit(self, *results: ops.Op) -> ops.Unit:
        """All of it as one operation, results first."""
        settled = self._settling.ops if self._settling is not None else ()
        return ops.Unit((*results, *self._skips, *settled))

    def narrowed(self, outcome: Sequence[ops.Result] | Error, catalog: Catalog) -> bool:
        """Whether it was refused for ids that are skipped already: those are left out now.

        Somebody skipped them as parts of other ranges; submit the unit again.
        """
        if isinstance(outcome, Error) or not self._skips:
            return False
        _, skipped = self._split(outcome[0])
        if not any(isinstance(result, ops.Conflicted) for result in skipped):
            return False
        beamtime, _, _ = self._stream
        info = catalog.stream(*self._stream)
        left: list[tuple[int, int]] = []
        for skip in self._skips:
            if info is None or catalog.ids(beamtime, info.no, skip.lo, skip.hi, 1):
                return False
            most = limits.NATIVE_BATCH_MAX - len(left)
            left += catalog.gaps(beamtime, info.no, skip.lo, skip.hi, most)
            if len(left) == limits.NATIVE_BATCH_MAX:
                return False
        narrower = self._skipping(tuple(left))
        if [(skip.lo, skip.hi) for skip in narrower] == [(s.lo, s.hi) for s in self._skips]:
            return False
        self._skips = narrower
        return True

    def ended(self, outcome: Sequence[ops.Result] | Error) -> Sequence[ops.Result] | Error:
        """The results of what was put first in the unit, or why all of it was refused."""
        error = outcome if isinstance(outcome, Error) else first_error(outcome[0])
        if isinstance(outcome, Error) or error is not None:
            if self._settling is not None:
                self._settling.undo()
            return error or outcome
        put, self._stored = self._split(outcome[0])
        if self._settling is not None:
            self._settling.done()
        return put

    def _split(self, results: ops.Result) -> tuple[Sequence[ops.Result], Sequence[ops.Result]]:
        """Of the results of the unit, those of what was put and those of the skips."""
        assert isinstance(results, tuple)
        settled = len(self._settling.ops) if self._settling is not None else 0
        end = len(results) - settled
        first = end - len(self._skips)
        return results[:first], results[first:end]

    def show(self, then: Callable[[Error | None], None]) -> None:
        """Let readers pass over what is skipped; `then` is called once, when they do."""
        view = self._streams.view(*self._stream)
        shown = _All(then)
        for skip, result in zip(self._skips, self._stored, strict=True):
            if isinstance(result, ops.Stored):
                count, id = skip.hi - skip.lo, skip.hi - 1
                self._streams.show(
                    view, result.stream, result.seq, id, None, shown.one_more(), count
                )
        shown.ready()


class _All:
    """Calls once when all that was begun has ended, with the first error if there was one."""

    def __init__(self, then: Callable[[Error | None], None]) -> None:
        self._then = then
        self._left = 1
        self._error: Error | None = None

    def one_more(self) -> Callable[[Error | None], None]:
        self._left += 1
        return self._one

    def _one(self, error: Error | None) -> None:
        self._error = self._error or error
        self.ready()

    def ready(self) -> None:
        self._left -= 1
        if not self._left:
            self._then(self._error)


def first_error(result: ops.Result) -> Error | None:
    """Why an operation, or the first of a unit, was refused; None: it was not."""
    match result:
        case ops.Conflicted() | ops.Refused() | ops.AlreadyAcked():
            return result.error
        case ops.StoredMany():
            return result.failures[0][1] if result.failures else None
        case tuple():
            return next(filter(None, map(first_error, result)), None)
        case _:
            return None


def check_skips(ranges: Ranges) -> None:
    """Raise `BadInput` unless all are ranges of ids.

    >>> check_skips(((1, 5), (7, 8)))
    """
    for lo, hi in ranges:
        if not 1 <= lo < hi <= limits.ID_MAX:
            raise BadInput(f"a range of ids from {lo} to {hi} is not possible")


def check_settles(settles: tuple[frames.Settle, ...]) -> None:
    """Raise `BadInput` unless what is to be settled can be."""
    if len(settles) > limits.NATIVE_BATCH_MAX:
        raise BadInput(f"{len(settles)} leases are settled at once")
    for settle in settles:
        for lo, hi in settle.ranges:
            if not 1 <= lo < hi <= limits.ID_MAX:
                raise BadInput(f"a range of seqs from {lo} to {hi} cannot be settled")
