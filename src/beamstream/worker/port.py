"""What the engine asks of a node, made real by `beamstream.worker.hub_port`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from beamstream.errors import Error
from beamstream.worker.calling import Input
from beamstream.worker.works import Publication


class Ticket(Protocol):
    """The promise of an answer."""

    def done(self) -> bool:
        """Whether it has come."""

    def exception(self, timeout: float | None = None) -> Error | None:
        """Wait for it; why it was refused, or None."""


class Port(Protocol):
    """A node, for one worker."""

    def publish(self, made: Publication) -> Ticket:
        """Store results and settle their inputs, as one unit; without results only the latter."""

    def acknowledge(self, inputs: Sequence[Input]) -> None:
        """Nothing is to be stored for these: they are done."""

    def give_back(self, message: Input, delay_s: float, *, counted: bool) -> None:
        """Offer it again, to anyone; `counted` as an attempt or not."""

    def fail(
        self, message: Input, inputs: Sequence[Input], run: int, meta: dict[str, Any]
    ) -> Ticket:
        """Note that `message` has failed; `inputs` become dead letters with it, as one unit."""

    def finish(self, stream: str, last_id: int | None, next_stream: str) -> None:
        """Say that an output stream ends; None: with what there is."""

    def close(self, stream: str) -> None:
        """Nothing more is written to an output stream by this worker."""

    def run(self, document: Mapping[str, Any]) -> int:
        """The number of the run that this document describes."""

    def read_to_its_end(self, source: str, stream: str, id: int) -> bool:
        """Whether an input stream is finished, and has nothing behind `id`."""
