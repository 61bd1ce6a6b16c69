"""A node with a planted fault: what the other tests of this folder must notice.

Run in place of ``beamstream.cli.main`` (see `sabotaged`), with the fault's name in the environment.
Nothing but a test starts it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "SABOTAGED_NODE"


class _NoSync:
    """The module `os`, with syncs that do nothing."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __getattr__(self, name: str) -> Any:
        return (lambda fd: None) if name in self._names else getattr(os, name)


def payload_not_synced() -> None:
    from beamstream.store import files

    vars(files)["os"] = _NoSync("fdatasync")


def folder_not_synced() -> None:
    from beamstream.server import commits
    from beamstream.store.files import OpenFolder

    def sync_folders(folders: Iterable[OpenFolder]) -> None:
        del folders

    vars(commits)["sync_folders"] = sync_folders


def record_not_synced() -> None:
    from beamstream.store.catalog.sqlite import SqliteCatalog

    def sync(self: SqliteCatalog, beamtime: str) -> None:
        del self, beamtime

    SqliteCatalog.sync = sync  # type: ignore[method-assign]


def nothing_synced() -> None:
    payload_not_synced()
    folder_not_synced()
    record_not_synced()


def answers_on_arrival() -> None:
    """The answer leaves when the payload is in memory."""
    from beamstream.server.ingest import Ingest, Put
    from beamstream.server.messages import Answer

    real = Ingest.received

    def received(self: Ingest, put: Put) -> None:
        reply, put.reply = put.reply, None
        if reply is not None:
            reply(Answer(put.message.id))
        real(self, put)

    Ingest.received = received  # type: ignore[method-assign]


def answers_before_the_sync() -> None:
    """The answer leaves when the record is in the kernel's hands."""
    from beamstream.server.commits import Batch, Commits

    def submit_all_synced(self: Commits, batches: Sequence[Batch]) -> None:
        def later() -> None:
            for batch in batches:
                self.submit(batch.beamtime, batch.ops, batch.done)

        self._loop.call_soon_threadsafe(later)

    Commits.submit_all_synced = submit_all_synced  # type: ignore[method-assign]


def drops_messages() -> None:
    """One message in seven is answered and forgotten."""
    from beamstream.server.ingest import Ingest, Put
    from beamstream.server.messages import Answer

    real = Ingest.received
    count = 0

    def received(self: Ingest, put: Put) -> None:
        nonlocal count
        count += 1
        if count % 7:
            real(self, put)
        else:
            self._answer(put, Answer(put.message.id))

    Ingest.received = received  # type: ignore[method-assign]


def swaps_payloads() -> None:
    """Two payloads of one size that are there at the same time change places."""
    from beamstream.server.ingest import Ingest, Put

    real = Ingest.received
    held: list[Put] = []

    def received(self: Ingest, put: Put) -> None:
        if not put.memory:
            real(self, put)
            return
        if not held or held[0].memory is None or held[0].memory.nbytes != put.memory.nbytes:
            held.append(put)
            if len(held) > 1:
                real(self, held.pop(0))
            return
        other = held.pop()
        assert other.memory is not None
        ours, theirs = bytes(put.memory), bytes(other.memory)
        put.memory[:], other.memory[:] = theirs, ours
        real(self, other)
        real(self, put)

    Ingest.received = received  # type: ignore[method-assign]


def forgets_acknowledgements() -> None:
    """An acknowledgement is answered and not written."""
    from beamstream.store.catalog.interface import Ack, Acked
    from beamstream.store.catalog.sqlite import SqliteCatalog

    real = SqliteCatalog.apply

    def apply(self: SqliteCatalog, beamtime: str, ops: Sequence[Any]) -> list[Any]:
        results = iter(real(self, beamtime, [op for op in ops if not isinstance(op, Ack)]))
        return [Acked(1) if isinstance(op, Ack) else next(results) for op in ops]

    SqliteCatalog.apply = apply  # type: ignore[method-assign]


FAULTS: Final[dict[str, Callable[[], None]]] = {
    fault.__name__: fault
    for fault in (
        payload_not_synced,
        folder_not_synced,
        record_not_synced,
        nothing_synced,
        answers_on_arrival,
        answers_before_the_sync,
        drops_messages,
        swaps_payloads,
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
