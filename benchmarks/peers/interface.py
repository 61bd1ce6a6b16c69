"""What a peer is to the bench, and what it has to do in a producer and in a consumer."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class Durability(enum.StrEnum):
    """What an acknowledged message outlives."""

    NOTHING = "keeps nothing"
    MEMORY = "memory"
    CRASH = "server crash"
    SYNCED = "synced"


@dataclass(frozen=True)
class Server:
    """What runs for a peer beside producer and consumer.

    Parameters
    ----------
    address : whatever sender and receiver need to find it; JSON.
    pids : processes whose time is the server's.
    """

    address: Mapping[str, Any] = field(default_factory=dict)
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Parameters
    ----------
    key : what ``--only`` looks for.
    module : of this package; has ``sender`` and ``receiver``.
    start : makes a server, given an empty folder to keep its files in, and ends it.
    python : the interpreter of its workers; raises `CannotBeHad` with the reason if there is none.
    alone : there is a producer only; whatever it sends has arrived (a copy in memory).
    nbytes_max : sizes above are not measured.
    versions : a line for the report.
    """

    key: str
    name: str
    durability: Durability
    module: str
    start: Callable[[Path], AbstractContextManager[Server]]
    python: Callable[[], str] = lambda: sys.executable
    versions: Callable[[], str] = str
    alone: bool = False
    nbytes_max: int | None = None

    @property
    def title(self) -> str:
        """Of its row.

        >>> from contextlib import nullcontext
        >>> Peer("x", "X", Durability.SYNCED, "x", lambda folder: nullcontext(Server())).title
        'X, synced'
        """
        kept = self.durability is not Durability.NOTHING
        return f"{self.name}, {self.durability}" if kept else self.name


def meeting(folder: Path) -> AbstractContextManager[Server]:
    """Start nothing: producer and consumer find each other by a file in `folder`."""
    return nullcontext(Server({"folder": str(folder)}))


class CannotBeHad(Exception):
    """A peer's library or server is not on this machine; the text says why."""


Turn: TypeAlias = bytes | float
"""A head: send a message with it. A float: nothing is due for so many seconds, so hand over what
is held back, and wait."""


class Sender(Protocol):
    """The producer's side of a peer, connected; it ends with its process."""

    def send(self, turns: Iterable[Turn]) -> None:
        """Send one payload for each head; return when all are with whoever keeps them.

        A head is `HEAD_NBYTES` bytes that travel with the payload: over its first bytes, or beside
        it where that is how the peer is used.
        """


class Receiver(Protocol):
    """The consumer's side of a peer, connected; a member of one group where there are groups."""

    def messages(self) -> Iterator[tuple[Buffer, Buffer]]:
        """Yield heads and payloads, acknowledging where the peer has that, without an end."""

    def settle(self) -> None:
        """Acknowledge what was yielded; return when that is done."""
