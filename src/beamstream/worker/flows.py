"""One input stream in a worker: its window, and the results that wait for their turn. Pure."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Any

from beamstream.errors import StepFailed
from beamstream.worker.calling import Caller, Input, Outcome
from beamstream.worker.results import Result
from beamstream.worker.works import Work


class Flow:
    """What a worker knows of a stream that it reads.

    Attributes
    ----------
    caller : what calls the step for it; None before its first message.
    wrong : why it cannot be called: a header that does not suit it, ``on_stream_start`` failed.
    run, run_values, run_versions : the run that results are of, and what it was looked up for.
    window : inputs of the block of ids that is being gathered.
    held : results that wait until all before them is settled, by seq.
    settled : all before this seq is settled.
    latest : the last input that was done, for a step that has last words.
    """

    def __init__(self, source: str, stream: str) -> None:
        self.source = source
        self.stream = stream
        self.caller: Caller | None = None
        self.begun = False
        self.header_version = 0
        self.header: dict[str, Any] = {}
        self.wrong: Exception | None = None
        self.run = 0
        self.run_values: object = None
        self.run_versions = (-1, -1)
        self.window: list[Input] = []
        self.held: list[Work] = []
        self.held_nbytes = 0
        self.settled = 0
        self.latest: Input | None = None

    # ------------------------------------------------------------------ calling

    def call(self, inputs: Sequence[Input]) -> list[Outcome]:
        """What became of each input."""
        if self.wrong is not None or self.caller is None:
            return [self.wrong or _not_begun(self) for _ in inputs]
        return self.caller.several(inputs)

    def call_window(self, inputs: Sequence[Input]) -> list[Result]:
        """The result of a window; raises what went wrong."""
        if self.wrong is not None or self.caller is None:
            raise self.wrong or _not_begun(self)
        return self.caller.window(inputs)

    # ------------------------------------------------------------------ windows

    @staticmethod
    def block(id: int, size: int) -> int:
        """The number of the block that an id is in: of its one result.

        >>> Flow.block(1, 10), Flow.block(10, 10), Flow.block(11, 10)
        (1, 1, 2)
        """
        return (id - 1) // size + 1

    def passed(self, id: int, size: int) -> bool:
        """Whether the block that is being gathered cannot get more when `id` comes next."""
        return bool(self.window) and self.block(id, size) > self.block(self.window[0].id, size)

    # ------------------------------------------------------------------ order of results

    def hold(self, work: Work) -> None:
        """Keep results until their turn."""
        insort(self.held, work, key=_seq)
        self.held_nbytes += work.nbytes

    def released(self) -> list[Work]:
        """Those whose turn it is: all before them is settled, or goes with them."""
        count, limit = 0, self.settled
        while count < len(self.held) and self.held[count].seq <= limit:
            limit = max(limit, self.held[count].seq + 1)
            count += 1
        found, self.held = self.held[:count], self.held[count:]
        self.settled = limit
        self.held_nbytes -= sum(work.nbytes for work in found)
        return found

    def drop_last(self) -> Work:
        """Let go of the results that would have to wait longest."""
        work = self.held.pop()
        self.held_nbytes -= work.nbytes
        return work


def _seq(work: Work) -> int:
    return work.seq


def _not_begun(flow: Flow) -> StepFailed:
    return StepFailed(f"stream {flow.source}/{flow.stream} has not begun: a bug of the worker")
