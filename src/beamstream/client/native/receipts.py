"""What a writer gets for what it sends: a promise that says where it was stored, and how safely."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Self

from beamstream.client.native.faults import again
from beamstream.client.native.outgoing import Fate, Run
from beamstream.errors import Error
from beamstream.model import Level

if TYPE_CHECKING:
    from beamstream.client.native.link import Link


class Receipt:
    """The node's receipt for one message, or for several that were sent at once; maybe to come.

    >>> # receipt = writer.send(frame); receipt.result().id
    """

    __slots__ = ("_changed", "_link", "_pieces")

    def __init__(
        self,
        link: Link,
        changed: threading.Condition,
        pieces: Sequence[tuple[Run, int, int]],
    ) -> None:
        self._link = link
        self._changed = changed
        self._pieces = pieces

    def __repr__(self) -> str:
        if not self.done():
            return f"<Receipt of {self.count} messages, to come>"
        error = self.exception()
        return f"<Receipt: {error!r}>" if error else f"<Receipt of ids {self.ids}, {self.level!r}>"

    @property
    def count(self) -> int:
        """How many messages it is for."""
        return sum(hi - lo for _, lo, hi in self._pieces)

    def done(self) -> bool:
        """Whether the node has answered."""
        for run, lo, hi in self._pieces:
            if run.left and any(run.fate(index) is None for index in range(lo, hi)):
                return False
        return True

    def result(self, timeout: float | None = None) -> Self:
        """Wait for it, at most `timeout` seconds.

        Raises
        ------
        TimedOut : it has not come; the message may still be stored.
        IdConflict, StreamFinished, NoSpace, … : the message is not stored.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self

    def exception(self, timeout: float | None = None) -> Error | None:
        """Wait for it, and return why the (first) message is not stored; None if all are."""
        if not self.done():
            self._link.check()
            with self._link.lock:
                what = f"there is no receipt for {self.count} messages"
                self._link.wait(self._changed, self.done, timeout, what)
        found = None
        for fate in self._fates():
            if fate.error is not None:
                fate.seen = True
                found = found or fate.error
        return None if found is None else again(found)

    @property
    def id(self) -> int:
        """Id of the (first) message; waits for it."""
        self.result()
        run, lo, _ = self._pieces[0]
        return _fate(run, lo).id_of(run.first + lo)

    @property
    def ids(self) -> Sequence[int]:
        """Ids of all messages; waits for them."""
        self.result()
        ids: list[int] = []
        for run, lo, hi in self._pieces:
            ids += [_fate(run, index).id_of(run.first + index) for index in range(lo, hi)]
        first = ids[0]
        in_a_row = ids == list(range(first, first + len(ids)))
        return range(first, first + len(ids)) if in_a_row else ids

    @property
    def level(self) -> Level:
        """How safe they are, all of them; waits for it."""
        self.result()
        return Level(min(fate.level for fate in self._fates()))

    @property
    def duplicate(self) -> bool:
        """Whether they were all there before; waits for it."""
        self.result()
        return all(fate.duplicate for fate in self._fates())

    def add_done_callback(self, call: Callable[[Receipt], Any]) -> None:
        """Call `call(receipt)` when it is done: at once, or from a thread of the client."""

        def check() -> None:
            if waiting and self.done():
                waiting.clear()
                self._link.wake(lambda: call(self))

        waiting = [call]
        with self._link.lock:
            if not self.done():
                for run, _, _ in self._pieces:
                    run.listeners.append(check)
                return
        call(self)

    def __await__(self) -> Generator[Any, None, Self]:
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        self.add_done_callback(lambda _: loop.call_soon_threadsafe(wake))
        yield from future
        return self.result()

    def _fates(self) -> list[Fate]:
        fates: list[Fate] = []
        for run, lo, hi in self._pieces:
            if run.whole is not None:
                fates.append(run.whole)
            else:
                fates += [_fate(run, index) for index in range(lo, hi)]
        return fates


def _fate(run: Run, index: int) -> Fate:
    fate = run.fate(index)
    assert fate is not None
    return fate
