"""What a reader gets for what it settles without a message: a promise that it is safe."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from beamstream.client.native.asking import Asked
from beamstream.client.native.faults import again
from beamstream.client.native.origins import Held, check_held, check_ranges
from beamstream.errors import BadInput, Error
from beamstream.wire.native import calls

if TYPE_CHECKING:
    from beamstream.client.native.link import Link


class Settlement:
    """The node's answer to what was settled, and skipped, at once; maybe to come."""

    __slots__ = ("_asked", "_link", "_listener", "_waiting", "_what", "seen")

    def __init__(
        self,
        link: Link,
        params: calls.Skip,
        held: Sequence[Held],
        listener: Callable[[Settlement], None],
    ) -> None:
        self._link = link
        self._listener = listener
        self.seen = False
        """Somebody has been told of the error."""
        self._waiting: list[Callable[[Settlement], Any]] = []
        self._what = f"{params.source}/{params.stream}"
        # With the lock held: the answer cannot come before this is made.
        self._asked: Asked = link.session.ask(params, self._answered, held=held)

    def __repr__(self) -> str:
        if not self.done():
            return f"<Settlement for {self._what}, to come>"
        return f"<Settlement for {self._what}: {self._asked.error or 'settled'}>"

    def _answered(self) -> None:
        self._listener(self)
        self._link.changed.notify_all()
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._link.wake(functools.partial(call, self))

    def done(self) -> bool:
        """Whether the node has answered."""
        return self._asked.done

    def result(self, timeout: float | None = None) -> None:
        """Wait for it, at most `timeout` seconds.

        Raises
        ------
        TimedOut : it has not come; it may still be settled.
        StaleLease, … : nothing is settled or skipped.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error

    def exception(self, timeout: float | None = None) -> Error | None:
        """Wait for it, and return why nothing is settled; None if all is."""
        if not self.done():
            link = self._link
            link.check()
            with link.lock:
                what = f"the node has not settled what was read for {self._what}"
                link.wait(link.changed, self.done, timeout, what)
        self.seen = True
        error = self._asked.error
        return None if error is None else again(error)

    @property
    def failed(self) -> bool:
        """Whether it was refused."""
        return self._asked.error is not None

    def add_done_callback(self, call: Callable[[Settlement], Any]) -> None:
        """Call `call(settlement)` when it is done: at once, or from a thread of the client."""
        with self._link.lock:
            if not self.done():
                self._waiting.append(call)
                return
        call(self)


def settle(
    link: Link,
    source: str,
    stream: str,
    held: Sequence[Held],
    skips: Sequence[tuple[int, int]],
    timeout_s: float | None,
    answered: Callable[[Settlement], None],
) -> Settlement:
    """Settle leases and skip ids of a stream, all or nothing; waits when many are under way.

    Parameters
    ----------
    answered : called when the answer has come, with the lock held.

    Raises
    ------
    BadInput : there is nothing to settle, or more than goes at once.
    TimedOut : the node has not answered enough of those before.
    """
    if not held:
        raise BadInput(
            f"nothing is to be settled with what is skipped in stream {stream!r}",
            hint="`Writer.skip` skips without settling",
        )
    check_held(held)
    check_ranges(skips)
    params = calls.Skip(source=source, stream=stream, ranges=tuple(skips))
    link.check()
    with link.lock:
        session = link.session
        what = f"{session.asking.settles} settlements are not answered: there is no room for more"
        link.wait(
            link.changed,
            lambda: session.error is not None or session.asking.may_settle(),
            timeout_s,
            what,
        )
        made = Settlement(link, params, held, answered)
    link.pump()
    return made
