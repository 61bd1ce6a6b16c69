"""How errors are told over HTTP. Pure."""

from __future__ import annotations

from typing import Final

from beamstream import errors
from beamstream.errors import Error
from beamstream.monitor import documents as doc

_STATUS: Final[tuple[tuple[type[Error], int], ...]] = (
    (errors.TooLarge, 413),
    (errors.BadInput, 400),
    (errors.BadToken, 401),
    (errors.Denied, 403),
    (errors.NotFound, 404),
    (errors.DataLost, 410),
    (errors.Conflict, 409),
    (errors.Overload, 503),
    (errors.ConnectionLost, 503),
    (errors.TimedOut, 504),
)


def status_of(error: Error) -> int:
    """The status of an answer.

    >>> status_of(errors.BadName("x")), status_of(errors.BadToken("x")), status_of(Error("x"))
    (400, 401, 500)
    """
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def failure_of(error: Error) -> doc.Failure:
    """An error as the page is told it."""
    return doc.Failure(code=error.code, message=error.message, hint=error.hint)
