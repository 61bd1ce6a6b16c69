"""Exceptions of `asapo_consumer`, and which of them stands for which of ours."""

from __future__ import annotations

from typing import Any

from beamstream.client.asapo.errors import (
    EndReached,
    Finished,
    Incomplete,
    Missing,
    NotInCache,
    Unavailable,
    Unsupported,
)
from beamstream.compat.records import dataset_dict
from beamstream.errors import BadInput, Conflict, Denied, Error, NotFound, StorageError
from beamstream.wire.asapo.bodies import NO_NEXT


class AsapoConsumerError(Exception):
    """Base of all errors of a consumer, and what has no class of its own."""


class AsapoWrongInputError(AsapoConsumerError):
    """The call is refused: it would be refused again."""


class AsapoLocalIOError(AsapoConsumerError):
    """A file of this machine cannot be read."""


class AsapoUnavailableServiceError(AsapoConsumerError):
    """A service cannot be reached, or does not have what is asked for."""


class AsapoInterruptedTransactionError(AsapoConsumerError):
    """The call was interrupted, by another thread or by a fault of server or network."""


class AsapoUnsupportedClientError(AsapoConsumerError):
    """The server does not speak this version of the protocol."""


class AsapoDataNotInCacheError(AsapoConsumerError):
    """The record is there, its payload was kept in memory only and is gone."""


class AsapoEndOfStreamError(AsapoConsumerError):
    """There is nothing beyond `id_max`, the largest id so far."""

    def __init__(self, message: str, id_max: int | None = None) -> None:
        super().__init__(message)
        self.id_max = id_max


class AsapoStreamFinishedError(AsapoConsumerError):
    """The stream is finished, `next_stream` follows it (``asapo_no_next``: none)."""

    def __init__(
        self, message: str, id_max: int | None = None, next_stream: str | None = None
    ) -> None:
        super().__init__(message)
        self.id_max = id_max
        self.next_stream = next_stream


class AsapoNoDataError(AsapoConsumerError):
    """There is no message `id` although the largest id is `id_max`, or no metadata."""

    def __init__(
        self,
        message: str,
        id: int | None = None,  # noqa: A002
        id_max: int | None = None,
    ) -> None:
        super().__init__(message)
        self.id_max = id_max
        self.id = id


class AsapoPartialDataError(AsapoConsumerError):
    """A dataset has fewer parts than asked for; `partial_data` has those that are there."""

    def __init__(self, message: str, partial_data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.partial_data = partial_data


def refused(why: str) -> AsapoWrongInputError:
    """Return the error of a call that the client refuses itself."""
    return AsapoWrongInputError(f"error: wrong input, message: {why}")


def translated(error: Error) -> AsapoConsumerError:
    """Return the exception that programs expect where `error` was raised.

    >>> end = translated(Finished("scan1", id_max=3, next_stream=""))
    >>> type(end).__name__, end.id_max, end.next_stream
    ('AsapoStreamFinishedError', 3, 'asapo_no_next')
    """
    match error:
        case Finished():
            text = f"error: stream finished, message: {error}"
            return AsapoStreamFinishedError(text, error.id_max, error.next_stream or NO_NEXT)
        case EndReached():
            return AsapoEndOfStreamError(
                f"error: no data - end of stream, message: {error}", error.id_max
            )
        case Missing():
            return AsapoNoDataError(f"error: no data, message: {error}", error.id, error.id_max)
        case Incomplete():
            return AsapoPartialDataError(
                f"error: partial data, message: {error}", dataset_dict(error.dataset)
            )
        case NotFound():
            return AsapoNoDataError(f"error: no data, message: {error}")
        case NotInCache():
            return AsapoDataNotInCacheError(f"error: data not in cache, message: {error}")
        case BadInput() | Denied() | Conflict():
            return AsapoWrongInputError(f"error: wrong input, message: {error}")
        case Unsupported():
            return AsapoUnsupportedClientError(f"error: unsupported client, message: {error}")
        case Unavailable():
            return AsapoUnavailableServiceError(f"error: service unavailable, message: {error}")
        case StorageError():
            return AsapoLocalIOError(f"error: local i/o error, message: {error}")
        case _:
            return AsapoInterruptedTransactionError(f"error: server error, message: {error}")
