"""A node with a planted fault of the native lane: what the tests of this folder must notice.

Run in place of ``beamstream.cli.main`` (see `sabotaged`), with the fault's name in the environment.
Nothing but a test starts it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ..sabotage import forgets_acknowledgements as forgets_acknowledgements

VARIABLE: Final = "SABOTAGED_NODE"


def forgets_producers() -> None:
    """What a producer has counted is not remembered: a message sent again is a new one."""
    from beamstream.store.catalog.interface import Put, PutMany
    from beamstream.store.catalog.sqlite import SqliteCatalog

    real = SqliteCatalog.apply

    def forget(op: Any) -> Any:
        if isinstance(op, Put | PutMany):
            return msgspec.structs.replace(op, producer=b"", sequence=0)
        return op

    def apply(self: SqliteCatalog, beamtime: str, ops: Sequence[Any]) -> list[Any]:
        return real(self, beamtime, [forget(op) for op in ops])

    SqliteCatalog.apply = apply  # type: ignore[method-assign]


def answers_without_storing() -> None:
    """One run of messages in twenty has its receipt and is forgotten."""
    from beamstream.server.put_runs import RunJob
    from beamstream.wire.native.frames import Receipt

    real = RunJob.submit
    count = 0

    def submit(self: RunJob) -> None:
        nonlocal count
        count += 1
        if count % 20:
            real(self)
            return
        writer, frame = self.writer, self.frame
        first = frame.ids[0] if frame.ids else frame.id or 1
        writer.sink.receipt(
            Receipt(
                writer.channel, frame.sequence, frame.count, writer.level, first, 0, frame.ids, True
            )
        )
        self._end()

    RunJob.submit = submit  # type: ignore[method-assign]


def answers_before_the_segment() -> None:
    """Messages without a name are kept in memory only, whatever level was asked for."""
    from beamstream.server.put_runs import RunJob

    real = RunJob.submit

    def submit(self: RunJob) -> None:
        writer, level = self.writer, self.writer.level
        writer.level = 0
        real(self)
        writer.level = level

    RunJob.submit = submit  # type: ignore[method-assign]


def mixes_payloads() -> None:
    """In a run of several messages of one size, the last one's bytes are those of the first."""
    from beamstream.server.put_runs import RunJob

    real = RunJob.complete

    def complete(self: RunJob) -> None:
        sizes, memory = self.frame.sizes, self.memory
        if memory is not None and len(sizes) > 1:
            nbytes = min(sizes[0], sizes[-1])
            memory[len(memory) - nbytes :] = memory[:nbytes]
        real(self)

    RunJob.complete = complete  # type: ignore[method-assign]


FAULTS: Final[dict[str, Callable[[], None]]] = {
    fault.__name__: fault
    for fault in (
        forgets_producers,
        answers_without_storing,
        answers_before_the_segment,
        mixes_payloads,
        forgets_acknowledgements,
    )
}


def sabotaged(fault: Callable[[], None]) -> dict[str, Any]:
    """Arguments of `NodeProcess` for a node with this fault."""
    top = Path(__file__).parents[len(__name__.split(".")) - 1]
    path = os.pathsep.join(filter(None, [str(top), os.environ.get("PYTHONPATH", "")]))
    return {"module": __name__, "env": {VARIABLE: fault.__name__, "PYTHONPATH": path}}


if __name__ == "__main__":
    from beamstream.cli.main import main

    FAULTS[os.environ[VARIABLE]]()
    sys.exit(main())
