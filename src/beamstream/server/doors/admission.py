"""How many connections a door takes: in all, and of one instance of one token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from beamstream import limits
from beamstream.model import Who


class Connection(Protocol):
    """What a door needs of a connection.

    One that knows who is at its other end has `client` too: beamtime and `Who`, or None.
    """

    def stop(self) -> None:
        """The node stops."""


class Admission:
    """The connections of one door."""

    def __init__(
        self,
        connections_max: int = limits.CONNECTIONS_MAX,
        per_member_max: int = limits.CONNECTIONS_PER_CLIENT_MAX,
    ) -> None:
        self._connections_max = connections_max
        self._per_member_max = per_member_max
        self._connections: set[Connection] = set()
        self._members: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Connection]:
        """All that are there now; they may leave meanwhile."""
        return iter(tuple(self._connections))

    def __len__(self) -> int:
        return len(self._connections)

    def clients(self) -> Iterator[tuple[str, Who]]:
        """Who has connections, of doors whose clients say who they are."""
        for connection in self._connections:
            known = getattr(connection, "client", None)
            if known is not None:
                yield known

    def enter(self, connection: Connection) -> bool:
        """Take a new connection, if there is room."""
        if len(self._connections) >= self._connections_max:
            return False
        self._connections.add(connection)
        return True

    def join(self, member: str) -> bool:
        """Count a connection for a token and instance, if it may have one more."""
        if self._members[member] >= self._per_member_max:
            return False
        self._members[member] += 1
        return True

    def leave(self, connection: Connection, member: str = "") -> None:
        self._connections.discard(connection)
        if member:
            self._members[member] -= 1
            if not self._members[member]:
                del self._members[member]

    def stop(self) -> None:
        """Ask all connections to end."""
        for connection in tuple(self._connections):
            connection.stop()
