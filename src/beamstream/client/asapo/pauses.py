"""Waiting that another thread can end."""

from __future__ import annotations

import threading
from collections.abc import Callable

Wait = Callable[[float], bool]
"""Waits for the given seconds; True, at once, if it was interrupted since it was made."""


class Pauses:
    """Waits of the calls that run in several threads, all of which `interrupt` ends.

    >>> pauses = Pauses()
    >>> wait = pauses.begin()
    >>> pauses.interrupt()
    >>> wait(60.0), pauses.begin()(0.0)
    (True, False)
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._interrupts = 0

    def interrupt(self) -> None:
        """End the waiting of all calls that have begun."""
        with self._changed:
            self._interrupts += 1
            self._changed.notify_all()

    def begin(self) -> Wait:
        """Return what one call waits with; interrupts before this do not concern it."""
        begun = self._interrupts

        def wait(seconds: float) -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: self._interrupts != begun, seconds)

        return wait
