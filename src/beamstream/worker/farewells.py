"""Telling the node that a worker has died: what it had in hand goes to others at once.

A node waits some seconds for a client whose connection broke. Whoever has started a worker knows
better: its process is gone.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from beamstream.errors import Error

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

_CLOSE_S: Final = 10.0


class Farewells:
    """Tells it in a thread of its own: a supervisor has other workers to look after.

    Parameters
    ----------
    connect : gives a connection to the node.
    """

    def __init__(self, connect: Callable[[], Hub]) -> None:
        self._connect = connect
        self._sessions: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, session: str) -> None:
        """The worker of this session (32 hexadecimal digits) has died."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="farewells", daemon=True)
            self._thread.start()
        self._sessions.put(session)

    def close(self) -> None:
        """Tell what is left to be told."""
        if self._thread is not None:
            self._sessions.put("")
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        hub: Hub | None = None
        while session := self._sessions.get():
            try:
                hub = hub or self._connect()
                hub.end_session(bytes.fromhex(session))
            except Error:
                # The node is away: it forgets the session by itself, only later.
                hub = None
        if hub is not None:
            hub.close(0.0)
