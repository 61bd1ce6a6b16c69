"""What is written down about an input that a step failed on. Pure."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any, Final

from beamstream.errors import Error
from beamstream.worker.calling import Input

SUFFIX: Final = ".failed"
"""Failures of a step are messages of the source ``STEP.failed``, stream as that of the input."""

TRACEBACK_NBYTES_MAX: Final = 16 * 1024
_ERROR_NCHARS: Final = 2_000


def failure(
    message: Input, error: BaseException, *, step: str, run: int, worker: str, time_ns: int,
    attempt: int, then: str, ids: tuple[int, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The metadata of a failure.

    Parameters
    ----------
    attempt : how often it has been tried.
    then : what became of the input: "dead", "skip" or "stop".
    ids : of a window: its first and last id.
    """
    found: dict[str, Any] = {
        "step": step,
        "run": run,
        "source": message.source,
        "stream": message.stream,
        "id": message.id,
        "seq": message.seq,
        "attempt": attempt,
        "then": then,
        "error": str(error)[:_ERROR_NCHARS],
        "type": type_name(error),
        "traceback": traceback_text(error),
        "worker": worker,
        "time_ns": time_ns,
    }
    if isinstance(error, Error):
        found["code"] = error.code
    if ids is not None:
        found["ids"] = list(ids)
    return found


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
