"""Connections to a node: one for each beamtime that somebody looks at, closed when nobody does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from beamstream.client.native.hub import connect
from beamstream.errors import Error, TooMany

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.monitor.jobs import NodeJob

HUBS_MAX: Final = 32
IDLE_S: Final = 300.0
CONNECT_S: Final = 5.0
PATIENCE_S: Final = 5.0
CALL_S: Final = 10.0
STEP: Final = "monitor"
"""As which the monitor shows among the clients of a node."""


class _Held:
    __slots__ = ("hub", "used_s", "users")

    def __init__(self, hub: Hub, used_s: float) -> None:
        self.hub = hub
        self.users = 0
        self.used_s = used_s


class Hubs:
    """Connections to one node, for threads.

    Parameters
    ----------
    clock : seconds, never going back.
    """

    def __init__(self, job: NodeJob, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = job
        self._clock = clock
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def connect(
        self, beamtime: str, *, token: str = "", patience_s: float = PATIENCE_S,
        call_s: float = CALL_S,
    ) -> Hub:  # fmt: skip
        """A connection of its own, as the monitor or (`token`) as somebody else.

        Raises
        ------
        Error : the node cannot be reached, or lets nobody in by that token.
        """
        return connect(
            self._job.url,
            beamtime=beamtime,
            token=token or self._job.token,
            step=STEP,
            timeout=CONNECT_S,
            patience=patience_s,
            call_timeout=call_s,
            tls_ca=self._job.tls_ca,
        )

    @contextlib.contextmanager
    def use(self, beamtime: str) -> Iterator[Hub]:
        """The connection for a beamtime, as long as it is needed.

        Raises
        ------
        TooMany : so many are in use that there is no other one.
        """
        held = self._take(beamtime)
        try:
            yield held.hub
        finally:
            with self._lock:
                held.users -= 1
                held.used_s = self._clock()

    def _take(self, beamtime: str) -> _Held:
        with self._making:
            with self._lock:
                held = self._held.get(beamtime)
                if held is not None and not held.hub.closed:
                    held.users += 1
                    return held
                closed = self._make_room(beamtime)
            for hub in closed:
                _close(hub)
            made = _Held(self.connect(beamtime), self._clock())
            made.users = 1
            with self._lock:
                self._held[beamtime] = made
            return made

    def _make_room(self, beamtime: str) -> list[Hub]:
        self._held.pop(beamtime, None)
        if len(self._held) < HUBS_MAX:
            return []
        free = [(held.used_s, name) for name, held in self._held.items() if not held.users]
        if not free:
            raise TooMany(
                f"{HUBS_MAX} beamtimes are being looked at", hint="close pages that nobody needs"
            )
        return [self._held.pop(min(free)[1]).hub]

    def close_idle(self) -> None:
        """Close what nobody has used for five minutes."""
        with self._lock:
            old = self._clock() - IDLE_S
            names = [
                name for name, held in self._held.items() if not held.users and held.used_s < old
            ]
            hubs = [self._held.pop(name).hub for name in names]
        for hub in hubs:
            _close(hub)

    def close(self) -> None:
        """Close all."""
        with self._lock:
            hubs = [held.hub for held in self._held.values()]
            self._held.clear()
        for hub in hubs:
            _close(hub)


def _close(hub: Hub) -> None:
    with contextlib.suppress(Error):
        hub.close(0.0)
