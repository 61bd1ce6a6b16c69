"""What is written down about inputs that a step failed on. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from beamstream.errors import Error, StaleLease

if TYPE_CHECKING:
    from beamstream.worker.calling import Input
    from beamstream.worker.counts import Counts
    from beamstream.worker.port import Port

SUFFIX: Final = ".failed"
"""Failures of a step are messages of the source ``STEP.failed``, stream as that of the input."""

TRACEBACK_NBYTES_MAX: Final = 16 * 1024
_ERROR_NCHARS: Final = 2_000


class Notes:
    """Writes failures down.

    Parameters
    ----------
    step, worker : whose failures they are.
    time_ns : nanoseconds since 1970 UTC.
    """

    def __init__(
        self, port: Port, counts: Counts, *, step: str, worker: str, time_ns: Callable[[], int]
    ) -> None:
        self._port = port
        self._counts = counts
        self._step = step
        self._worker = worker
        self._time_ns = time_ns

    def write(
        self,
        inputs: Sequence[Input],
        error: BaseException,
        run: int,
        attempt: int,
        then: str,
        *,
        dead: bool,
    ) -> bool:
        """Write that inputs (several of a window) have failed; False: somebody else has them.

        Parameters
        ----------
        attempt : how often they have been tried.
        then : what becomes of them: "dead", "skip", "stop"; "end": the end of their stream failed.
        dead : they are given up with it, as one unit.

        Raises
        ------
        Error : it cannot be stored.
        """
        first = inputs[0]
        meta: dict[str, Any] = {
            "step": self._step,
            "run": run,
            "source": first.source,
            "stream": first.stream,
            "id": first.id,
            "seq": first.seq,
            "attempt": attempt,
            "then": then,
            "error": str(error)[:_ERROR_NCHARS],
            "type": type_name(error),
            "traceback": traceback_text(error),
            "worker": self._worker,
            "time_ns": self._time_ns(),
        }
        if isinstance(error, Error):
            meta["code"] = error.code
        if len(inputs) > 1:
            meta["ids"] = [first.id, inputs[-1].id]
        self._counts.note = f"{first.stream}[{first.id}]: {meta['type']}: {meta['error']}"
        refused = self._port.fail(first, inputs if dead else (), run, meta).exception()
        if isinstance(refused, StaleLease):
            self._counts.stale += len(inputs)
            return False
        if refused is not None:
            raise refused
        self._counts.failed += len(inputs)
        return True


def type_name(error: BaseException) -> str:
    """The type of an error as a traceback names it.

    >>> type_name(ValueError("no")), type_name(Error("no"))
    ('ValueError', 'beamstream.errors.Error')
    """
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else _dotted(kind)


def _dotted(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def traceback_text(error: BaseException) -> str:
    """The traceback of an error, from the step's own code on; the end of it, if it is long."""
    lines = traceback.format_exception(type(error), error, _own(error.__traceback__))
    text = "".join(lines).rstrip()
    encoded = text.encode(errors="replace")
    if len(encoded) <= TRACEBACK_NBYTES_MAX:
        return encoded.decode()
    return "…" + encoded[-TRACEBACK_NBYTES_MAX + 3 :].decode(errors="ignore")


def _own(found: TracebackType | None) -> TracebackType | None:
    """Without the frames of the framework that called the step, unless there are only such."""
    at = found
    while at is not None and at.tb_frame.f_globals.get("__name__") == "beamstream.worker.calling":
        at = at.tb_next
    return at or found
