"""What only a client can meet: below the classes of `beamstream.errors`.

::

    EndOfStream
    + EndReached          nothing more for the moment: `id_max`
        + Finished        and nothing more to come: `next_stream`
    NotFound
    + Missing             this id has not arrived, larger ones have: `id`, `id_max`
    + Incomplete          parts of the dataset are not there yet: `dataset`
    DataLost
    + NotInCache          the payload was kept in memory only and is gone: `record`
    ConnectionLost
    + Unavailable         the service cannot be reached or says so itself
    ProtocolError
    + ServerFault         the server failed at it
    + Unsupported         the server does not speak this client's version of the protocol
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamstream.errors import ConnectionLost, DataLost, EndOfStream, NotFound, ProtocolError

if TYPE_CHECKING:
    from beamstream.client.asapo.records import Dataset, Message

__all__ = [
    "EndReached",
    "Finished",
    "Incomplete",
    "Missing",
    "NotInCache",
    "ServerFault",
    "Unavailable",
    "Unsupported",
]


class EndReached(EndOfStream):
    """There is nothing beyond `id_max`, the largest id so far."""

    code = "E901"
    retryable = True

    def __init__(self, message: str, *, id_max: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.id_max = id_max

    finished = False


class Finished(EndReached):
    """The stream is finished; `next_stream` follows it (empty: none)."""

    code = "E902"
    retryable = False
    finished = True

    def __init__(self, message: str, *, id_max: int, next_stream: str, hint: str = "") -> None:
        super().__init__(message, id_max=id_max, hint=hint)
        self.next_stream = next_stream


class Missing(NotFound):
    """Message `id` is not there (yet) although the largest id is `id_max`."""

    code = "E301"
    retryable = True

    def __init__(self, message: str, *, id: int, id_max: int, hint: str = "") -> None:  # noqa: A002
        super().__init__(message, hint=hint)
        self.id = id
        self.id_max = id_max


class Incomplete(NotFound):
    """A dataset has fewer parts than asked for; `dataset` has those that are there."""

    code = "E302"
    retryable = True

    def __init__(self, message: str, *, dataset: Dataset, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.dataset = dataset


class NotInCache(DataLost):
    """The record `message` is there, its payload is not in the cache and was never in a file."""

    code = "E507"

    def __init__(self, message: str, *, record: Message, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.record = record


class Unavailable(ConnectionLost):
    """Nobody answers at the address, or the service says that it is not there at the moment."""

    code = "E802"


class ServerFault(ProtocolError):
    """The server answered that it failed (status 500 and the like)."""

    code = "E703"
    retryable = True


class Unsupported(ProtocolError):
    """The server refuses this client's version of the protocol."""

    code = "E704"
