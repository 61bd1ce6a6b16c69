"""Publishing what a step makes: results gather for a moment, answers are looked at later. Pure.

A unit that is refused is published work by work, so that only what is to blame suffers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from beamstream import limits
from beamstream.errors import ConnectionLost, Denied, Error, Overload, StaleLease
from beamstream.worker import works
from beamstream.worker.counts import Counts
from beamstream.worker.port import Port, Ticket
from beamstream.worker.works import Work

if TYPE_CHECKING:
    from beamstream.worker.steps import Step

OPEN_S: Final = 0.005
"""Small results wait this long for more before they are published."""

OPEN_NBYTES: Final = 1 * limits.MIB
"""Small results go at once when together they have this size."""

LARGE_NBYTES: Final = 64 * limits.KIB
"""Results of this size go at once, and alone: through shared memory where there is some."""

OPEN_WORKS: Final = 1_000
UNDER_WAY: Final = 4_096
"""Publications without an answer."""

AGAIN_S: Final = 0.1
AGAIN_S_MAX: Final = 5.0
"""Pauses before a node is asked again that had no room."""


class Publisher:
    """Publishes works, in the order in which they are added.

    Parameters
    ----------
    failed : told of a work that cannot be stored, and why.
    done : told of a work that is stored, or that somebody else has by now.
    published : told after each publication.
    clock, pause : as for `beamstream.worker.engine.Engine`.
    """

    def __init__(
        self,
        step: Step,
        port: Port,
        counts: Counts,
        *,
        failed: Callable[[Work, Error], None],
        done: Callable[[Work], None],
        published: Callable[[], None],
        clock: Callable[[], float],
        pause: Callable[[float], bool],
    ) -> None:
        self._step = step
        self._port = port
        self._counts = counts
        self._failed = failed
        self._done = done
        self._published = published
        self._clock = clock
        self._pause = pause
        self._open: list[Work] = []
        self._open_nbytes = self._open_results = 0
        self._open_since = 0.0
        self._under_way: deque[tuple[Ticket, list[Work]]] = deque()

    @property
    def busy(self) -> bool:
        """Something has no answer yet."""
        return bool(self._open or self._under_way)

    # ------------------------------------------------------------------ gathering

    def add(self, work: Work) -> None:
        """Publish it, soon."""
        if not works.is_one_unit(work):
            self.flush()
            self._publish_long(work)
            return
        alone = work.nbytes >= LARGE_NBYTES or any(result.name for result in work.results)
        if self._open and ((alone and self._open_results) or not _together(self._open[0], work)):
            self.flush()
        if self._open_results + len(work.results) > limits.NATIVE_BATCH_MAX:
            self.flush()
        if not self._open:
            self._open_since = self._clock()
        self._open.append(work)
        self._open_nbytes += work.nbytes
        self._open_results += len(work.results)
        if alone or self._open_nbytes >= OPEN_NBYTES or len(self._open) >= OPEN_WORKS:
            self.flush()

    def flush_due(self, now: float) -> None:
        """Publish what has gathered, if it has waited for long enough."""
        if self._open and now - self._open_since >= OPEN_S:
            self.flush()

    def flush(self) -> None:
        """Publish what has gathered."""
        if self._open:
            found, self._open = self._open, []
            self._open_nbytes = self._open_results = 0
            self._publish(found)

    def _publish(self, found: list[Work]) -> None:
        try:
            ticket = self._port.publish(works.compose(self._step, found))
        except (ConnectionLost, Denied):
            raise
        except Error as error:
            self._refused(found, error)
            return
        self._under_way.append((ticket, found))
        self._published()
        if len(self._under_way) >= UNDER_WAY:
            self._under_way[0][0].exception()
            self.reap()

    def _publish_long(self, work: Work) -> None:
        """Results that are more than one unit: the input is settled when the others are stored."""
        *before, last = works.split(work)
        for piece in before:
            error = self._store([piece])
            if error is not None and error.retryable:
                error = self._store_at_last([piece])
            if error is not None:
                if not error.retryable or isinstance(error, ConnectionLost):
                    self._refused([work], error)
                return
            self._stored([piece])
        self._publish([last])

    def _store(self, found: list[Work]) -> Error | None:
        """Publish and wait for the answer: why it is refused, or None."""
        try:
            return self._port.publish(works.compose(self._step, found)).exception()
        except Error as error:
            return error

    def _store_at_last(self, found: list[Work]) -> Error | None:
        """As `_store`, until the node has room; nothing can be done meanwhile."""
        delay = AGAIN_S
        while True:
            self._counts.retried += 1
            if self._pause(delay):
                return Overload("the worker has been told to end while the node had no room")
            delay = min(delay * 2, AGAIN_S_MAX)
            error = self._store(found)
            if error is None or not error.retryable or isinstance(error, ConnectionLost):
                return error

    # ------------------------------------------------------------------ answers

    def reap(self, *, wait: bool = False) -> None:
        """Look at the answers that have come; with `wait` at all that are to come."""
        while self._under_way and (wait or self._under_way[0][0].done()):
            ticket, found = self._under_way.popleft()
            error = ticket.exception()
            if error is None:
                self._stored(found)
            else:
                self._refused(found, error)

    def settle_all(self) -> None:
        """Publish all of it, and wait for the answers, also of what had to be published again."""
        while self.busy:
            self.flush()
            self.reap(wait=True)

    def _stored(self, found: Sequence[Work]) -> None:
        for work in found:
            self._counts.finished(len(work.inputs), len(work.results), work.nbytes)
            self._done(work)

    def _refused(self, found: list[Work], error: Error) -> None:
        if isinstance(error, ConnectionLost | Denied):
            raise error
        if error.retryable:
            self._publish_at_last(found)
        elif len(found) > 1:
            for work in found:
                self._publish([work])
        elif isinstance(error, StaleLease):
            # Somebody else has it by now, and makes the same of it.
            self._counts.stale += len(found[0].inputs)
            self._done(found[0])
        else:
            self._failed(found[0], error)

    def _publish_at_last(self, found: list[Work]) -> None:
        error = self._store_at_last(found)
        if error is None:
            self._stored(found)
        elif not error.retryable or isinstance(error, ConnectionLost):
            self._refused(found, error)
        # Else they stay in hand: whoever ends the worker gives them back.


def _together(one: Work, other: Work) -> bool:
    return (one.source, one.stream, one.run) == (other.source, other.stream, other.run)
