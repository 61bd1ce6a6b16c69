"""Exceptions of `asapo_producer`, and which of them stands for which of ours."""

from __future__ import annotations

from beamstream.client.asapo.errors import Unsupported
from beamstream.errors import (
    BadInput,
    Conflict,
    ConnectionLost,
    Denied,
    EndOfStream,
    Error,
    NotFound,
    Overload,
    StorageError,
    TimedOut,
)


class AsapoProducerError(Exception):
    """Base of all errors of a producer, and what has no class of its own."""


class AsapoWrongInputError(AsapoProducerError):
    """The call, or the message, is refused: it would be refused again."""


class AsapoLocalIOError(AsapoProducerError):
    """A file of this machine cannot be read."""


class AsapoTimeOutError(AsapoProducerError):
    """It did not come to an end in time."""


class AsapoRequestsPoolIsFull(AsapoProducerError):
    """The limits of the queue do not allow another message now."""


class AsapoServerWarning(AsapoProducerError):
    """The message was taken, with a remark: a duplicate, mostly."""


class AsapoUnsupportedClientError(AsapoProducerError):
    """The server does not speak this version of the protocol."""


def refused(why: str) -> AsapoWrongInputError:
    """Return the error of a call that the client refuses itself."""
    return AsapoWrongInputError(f"error: wrong input, message: {why}")


def translated(error: Exception) -> AsapoProducerError:
    """Return the exception that programs expect where `error` was raised.

    >>> translated(TimedOut("message 7 was not delivered"))
    AsapoTimeOutError('error: Timeout, message: message 7 was not delivered')
    """
    match error:
        case AsapoProducerError():
            return error
        case BadInput() | Denied() | Conflict():
            return AsapoWrongInputError(f"error: wrong input, message: {error}")
        case Unsupported():
            return AsapoUnsupportedClientError(f"error: unsupported client, message: {error}")
        case NotFound() | EndOfStream() | TimedOut() | ConnectionLost() | Overload():
            return AsapoTimeOutError(f"error: Timeout, message: {error}")
        case StorageError():
            return AsapoLocalIOError(f"error: local i/o error, message: {error}")
        case Error():
            return AsapoProducerError(f"error: {error}")
        case _:
            return AsapoProducerError(f"error: unexpected {type(error).__name__}: {error}")
