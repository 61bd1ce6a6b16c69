"""Leases of what is in hand, and of what waits behind it, last as long as a call of the step."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from beamstream.client.native.subscription import Subscription


class Keeper:
    """Keeps the leases of a subscription, in a thread, until the end of ``with``.

    The client renews leases as long as messages are being taken; a step that computes for longer
    than a lease takes none.
    """

    def __init__(self, member: Subscription, lease_s: float) -> None:
        self._member = member
        self._every_s = lease_s / 3
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        incoming, link = self._member._incoming, self._member._link
        while not self._over.wait(self._every_s):
            with link.lock:
                incoming._progress_at = time.monotonic()
            link.wake()
