"""Errors of the node as the classes that they were there; pure."""

from __future__ import annotations

from typing import Final

from beamstream import errors
from beamstream.errors import Error

BY_CODE: Final[dict[str, type[Error]]] = {
    getattr(errors, name).code: getattr(errors, name) for name in errors.__all__
}


def fault(code: str, message: str, hint: str = "") -> Error:
    """The error that a frame of the node tells of; of a later version's code the base class.

    >>> type(fault("E401", "message 7 has other content")).__name__
    'IdConflict'
    """
    return BY_CODE.get(code, Error)(message, hint=hint)


def again(error: Error) -> Error:
    """The same error anew: one instance raised in two threads would mix up their tracebacks."""
    return type(error)(error.message, hint=error.hint)
