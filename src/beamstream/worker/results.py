"""What a step may return, brought into one form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from beamstream import limits
from beamstream.errors import StepFailed

__all__ = ["Result", "gather", "of_value"]

NOTHING: Final = b""
"""The payload of a message that has only metadata."""

_NUMBERS: Final = (bool, int, float, complex, np.generic)
_BYTES: Final = (bytes, bytearray, memoryview)


class Result(msgspec.Struct, frozen=True):
    """A message that a step makes.

    Parameters
    ----------
    data : ndarray, or bytes-like; empty bytes for metadata alone.
    meta : metadata; None: those of the input go along.
    name : stored as a file of that path; without one it goes to the log of the beamtime.

    >>> Result(b"...", {"peaks": 3})
    Result(data=b'...', meta={'peaks': 3}, name='')
    """

    data: Any
    meta: dict[str, Any] | None = None
    name: str = ""

    @property
    def nbytes(self) -> int:
        """Of the payload."""
        nbytes = getattr(self.data, "nbytes", None)
        return len(self.data) if nbytes is None else int(nbytes)


def of_value(step: str, value: object) -> Result | None:
    """What one returned value stands for; None: nothing.

    An array or bytes are a payload, a number is an array without dimensions, a dict is metadata
    without a payload.

    Raises
    ------
    StepFailed : a value that cannot be a message.

    >>> of_value("peaks", {"peaks": 3})
    Result(data=b'', meta={'peaks': 3}, name='')
    """
    if value is None or type(value) is Result:
        return value
    if isinstance(value, np.ndarray | bytes | bytearray | memoryview):
        return Result(value)
    if isinstance(value, Mapping):
        return Result(NOTHING, dict(value))
    if isinstance(value, _NUMBERS):
        return Result(np.asarray(value))
    hint = "an array, bytes, a dict of metadata, a Result, or None"
    if isinstance(value, str):
        hint = "text is bytes or metadata: value.encode(), or {'text': value}"
    elif isinstance(value, Iterable):
        hint = "a step that gives several results is declared so: @step(many=True)"
    raise StepFailed(f"step {step!r} returned a {type(value).__name__}", hint=hint)


def gather(step: str, value: object, *, many: bool, unbounded: bool = False) -> list[Result]:
    """The results of one input, from what the step returned or yields.

    Parameters
    ----------
    many : the step is declared to give any number of them.
    unbounded : more than can be published as one unit are allowed.

    Raises
    ------
    StepFailed : what cannot be results, or too many.
    """
    if not many:
        one = of_value(step, value)
        return [] if one is None else [one]
    found: list[Result] = []
    nbytes = 0
    for result in _each(step, value):
        nbytes += result.nbytes
        over = len(found) >= limits.RESULTS_MAX or nbytes > limits.RESULTS_NBYTES_MAX
        if found and over and not unbounded:
            raise StepFailed(
                f"step {step!r} gives more than {limits.RESULTS_MAX} results, or more than "
                f"{limits.RESULTS_NBYTES_MAX >> 20} MiB of them, for one input",
                hint="declare @step(at_least_once=True): then a crash may repeat some of them",
            )
        found.append(result)
    return found


def _each(step: str, value: object) -> Iterator[Result]:
    if isinstance(value, list | tuple | Iterator):
        for one in value:
            result = of_value(step, one)
            if result is not None:
                yield result
        return
    result = of_value(step, value)
    if result is not None:
        yield result
