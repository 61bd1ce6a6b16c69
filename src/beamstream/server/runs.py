"""Runs: what makes results, written down once (`model.Run`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from beamstream import limits
from beamstream.errors import Error
from beamstream.model import Run, check_metadata
from beamstream.server.ingest import Ingest
from beamstream.store import catalog as ops


def define(
    ingest: Ingest, beamtime: str, document: bytes, answer: Callable[[Run | Error], None]
) -> None:
    """Write down a run; `answer` with it when it is safe. The same document is the same run.

    Raises
    ------
    BadMetadata, TooLarge : it is not a JSON object, or too long.
    """
    check_metadata(document, limits.RUN_NBYTES_MAX)

    def done(outcome: Sequence[ops.Result] | Error) -> None:
        result = outcome if isinstance(outcome, Error) else outcome[0]
        match result:
            case Run() | Error():
                answer(result)
            case ops.Refused() | ops.Conflicted() as refused:
                answer(refused.error)
            case other:
                raise AssertionError(f"a run has the result {other!r}")

    ingest.submit_safe(beamtime, (ops.DefineRun(document, time.time_ns()),), done)
