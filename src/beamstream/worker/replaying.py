"""Letting a range of a stream come once more, as it was planned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import msgspec

from beamstream.client.native import lookup
from beamstream.errors import Conflict, Error
from beamstream.wire.address import Address
from beamstream.wire.native import calls
from beamstream.worker.counts import Counts
from beamstream.worker.pacing import MAX, Pace
from beamstream.worker.provenance import parts_of
from beamstream.worker.replay_plan import KEY, Plan, Target, parse_target, plan

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.messages import DatasetMessage, Message
    from beamstream.worker.replay_steps import StepJob

__all__ = ["Plan", "Progress", "Replay", "Target", "parse_target", "plan"]

AHEAD: Final = 256
"""Messages whose times are looked at together."""

COPIED_AT_ONCE: Final = 1_000
WAIT_S_MAX: Final = 0.5
"""How long it waits without saying how it goes."""


class Progress(msgspec.Struct, frozen=True):
    """How far a replay is.

    Parameters
    ----------
    done, total : messages of the range; those that were done before it was resumed count as done.
    nbytes : read this time.
    rate : messages per second since it began this time.
    left_s : seconds that are left at this rate; None while nobody knows.
    results, skipped, failed : what a step made of them this time: messages, nothing, errors.
    note : the last thing that people should know.
    """

    done: int
    total: int
    nbytes: int = 0
    rate: float = 0.0
    left_s: float | None = None
    results: int = 0
    skipped: int = 0
    failed: int = 0
    note: str = ""


class Replay:
    """Carries out a plan; `run` again, with the same plan made anew, to go on.

    Parameters
    ----------
    made : by `plan`.
    job : of a target ``step:``, the one that it was planned with.
    clock : seconds, never going back.
    """

    def __init__(
        self,
        hub: Hub,
        made: Plan,
        job: StepJob | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hub = hub
        self.plan = made
        self._job = job
        self._clock = clock
        self._began_s = 0.0
        self._before = 0
        self._done = self._nbytes = 0
        self._made = Counts()
        self.run_no = 0
        """Number of the run, once it has begun; 0 for a group."""
        self.finished = False
        """Whether all of it is done."""

    def run(self, stop: threading.Event) -> Iterator[Progress]:
        """Do it, and tell every now and then how far it is; it ends soon after `stop` is set.

        Raises
        ------
        Conflict : the stream that is written has something else under one of the ids, or another
            replay has begun to write it.
        """
        made = self.plan
        if made.target.kind == "group":
            group = self.hub.source(made.source).stream(made.stream).group(made.target.name)
            self._done = group.reopen(made.lo, made.hi)
            self.finished = True
            yield self.progress()
            return
        if made.done:
            self._before, self.finished = made.measured.count, True
            yield self.progress()
            return
        if made.resumed:
            row = self.hub.source(made.source).stream(made.stream).measure(made.lo, made.begin)
            self._before = row.count
        self._claim()
        self._began_s = self._clock()
        steps = self._copy(stop) if self._job is None else self._job.replay(self, stop)
        yield self.progress()
        for _ in steps:
            yield self.progress()
        if not stop.is_set():
            if self._job is None:
                self.hub.source(made.to_source).stream(made.to_stream).finish()
            self.finished = True
        yield self.progress()

    def progress(self) -> Progress:
        """How far it is."""
        counts, total = self._made, self.plan.measured.count
        passed_s = self._clock() - self._began_s
        rate = self._done / passed_s if self._began_s and passed_s > 0 else 0.0
        done = min(self._before + self._done, total)
        return Progress(
            done=done,
            total=total,
            nbytes=self._nbytes,
            rate=rate,
            left_s=(total - done) / rate if rate else None,
            results=counts.results,
            skipped=counts.skipped,
            failed=counts.failed,
            note=counts.note,
        )

    def took(self, items: Sequence[Message | DatasetMessage]) -> None:
        """Count messages of the range that were dealt with."""
        parts = [part for one in items for part in parts_of(one)]
        self._done += len(parts)
        self._nbytes += sum(part.size for part in parts)

    def tell(self, counts: Counts) -> None:
        """Keep what a step has made of them so far."""
        self._made = counts

    def _claim(self) -> None:
        """Write down the run, and into the stream that is written whose it is."""
        made = self.plan
        assert made.document is not None
        self.run_no = self.hub.define_run(made.document).no
        out = self.hub.source(made.to_source).stream(made.to_stream)
        mark: dict[str, Any] = {KEY: made.mark | {"run": self.run_no}}
        there = out.meta
        if there is not None and KEY in there:
            return
        # A copy has the header of its original: whoever reads it may need that.
        header = self.hub.source(made.source).stream(made.stream).meta if not self._job else None
        try:
            out.set_meta((header or {}) | mark, mode="insert" if there is None else "update")
        except Error as error:
            if (out.meta or {}).get(KEY) == mark[KEY]:
                return  # The same replay, begun twice: what both do is recorded once.
            path = Address("", made.to_source, made.to_stream)
            raise Conflict(
                f"another replay has just begun to write {path}: {error.message}",
                hint="the same command again finds a free name",
            ) from None

    # ------------------------------------------------------------------ paced reading

    def paced(
        self, stop: threading.Event, *, payloads: bool
    ) -> Iterator[list[Message | DatasetMessage]]:
        """The messages of the range, as they are due; empty lists while there is to be waited."""
        made, pace = self.plan, Pace(self.plan.rate)
        # The next page comes while this one is worked on.
        with ThreadPoolExecutor(1, "replay") as pool:
            coming = pool.submit(self._page, made.begin, payloads)
            while not stop.is_set() and (page := coming.result()):
                coming = pool.submit(self._page, page[-1].id + 1, payloads)
                yield from self._due(pace, page, stop)

    def _page(self, lo: int, payloads: bool) -> list[Message | DatasetMessage]:
        """The next messages from an id on; none at the end of the range."""
        made = self.plan
        if lo >= made.hi:
            return []
        fetched, body = self.hub._call_body(
            calls.Fetch(
                source=made.source,
                stream=made.stream,
                lo=lo,
                hi=made.hi,
                limit=AHEAD,
                payloads=payloads,
                nbytes_max=lookup.PAGE_NBYTES if payloads else 0,
            )
        )
        verify = self.hub._verify
        return lookup.messages(made.source, made.stream, fetched, body, verify=verify)

    def _due(
        self, pace: Pace, page: list[Message | DatasetMessage], stop: threading.Event
    ) -> Iterator[list[Message | DatasetMessage]]:
        times = [time_of(found) for found in page]
        first = 0
        while first < len(page) and not stop.is_set():
            count, wait_s = pace.take(self._clock(), times[first:])
            yield page[first : first + count]
            first += count
            if first < len(page) and wait_s > 0:
                stop.wait(min(wait_s, WAIT_S_MAX))

    # ------------------------------------------------------------------ copying

    def _copy(self, stop: threading.Event) -> Iterator[None]:
        made = self.plan
        source = self.hub.source(made.source).stream(made.stream)
        target = self.hub.source(made.to_source).stream(made.to_stream)
        for lo, hi in self._spans(stop):
            at = lo
            while at < hi and not stop.is_set():
                copied = source.copy_to(target, at, hi, run=self.run_no, limit=COPIED_AT_ONCE)
                self._done += copied.count
                self._nbytes += copied.nbytes
                at = copied.next_id
                yield

    def _spans(self, stop: threading.Event) -> Iterator[tuple[int, int]]:
        """Half-open ranges of ids that are due."""
        made = self.plan
        if made.rate == MAX:
            yield made.begin, made.hi
            return
        at = made.begin
        for page in self.paced(stop, payloads=False):
            if page:
                yield at, page[-1].id + 1
                at = page[-1].id + 1
            else:
                yield at, at


def time_of(found: Message | DatasetMessage) -> int:
    """When it came, nanoseconds since 1970 UTC; of a dataset its first part."""
    return min((part.timestamp_ns for part in parts_of(found)), default=0)
