"""Questions that wait for their answers, and those that settle leases with them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from beamstream import limits
from beamstream.client.native.origins import Held, Settling, Standing
from beamstream.errors import ConnectionLost, Error, TooMany
from beamstream.wire.native import calls
from beamstream.wire.native.frames import Call, Reply

ONCE: Final = frozenset({"stream.delete", "group.redeliver", "group.reopen"})
"""Calls that are not asked again: whether they were done is not known."""

SETTLES_MAX: Final = limits.NATIVE_CALLS_MAX // 2
"""Calls that settle leases; the others are left to those who ask."""

_NOTHING: Final = memoryview(b"")
Listener = Callable[[], None]


class Asked:
    """A call that waits for its answer."""

    __slots__ = (
        "body",
        "done",
        "error",
        "frame",
        "listener",
        "method",
        "params",
        "result",
        "settling",
    )

    def __init__(
        self, number: int, params: calls.Params, listener: Listener, held: Sequence[Held] = ()
    ) -> None:
        self.method = calls.NAMES[type(params)]
        self.params = params
        self.frame = Call(number, self.method, calls.encode(params))
        self.listener = listener
        self.settling = Settling(held) if held else None
        """What is settled with it."""
        self.done = False
        self.error: Error | None = None
        self.result: Any = None
        self.body = memoryview(b"")

    def finish(self, result: Any, body: memoryview, error: Error | None = None) -> None:
        self.result, self.body, self.error, self.done = result, body, error, True
        if self.settling is not None:
            self.settling.finish(error)
        self.listener()

    def name(self) -> Call:
        """The frame, with the leases as they are called in this connection."""
        if self.settling is not None:
            params = msgspec.structs.replace(self.params, settles=self.settling.frames())
            self.frame = Call(self.frame.number, self.method, calls.encode(params))
        return self.frame


class Asking:
    """The questions of one session."""

    def __init__(self) -> None:
        self.settles = 0
        """Those that settle leases and have no answer."""
        self._asked: dict[int, Asked] = {}
        self._waiting: list[Asked] = []
        """Those of them that wait for their leases to be named."""

    def may_settle(self) -> bool:
        """Whether there is room for one more that settles leases."""
        return self.settles < SETTLES_MAX and len(self._asked) < limits.NATIVE_CALLS_MAX

    def add(
        self, number: int, params: calls.Params, listener: Listener, held: Sequence[Held]
    ) -> Asked:
        """A new question.

        Raises
        ------
        TooMany : as many as may be are not answered yet.
        """
        if len(self._asked) >= limits.NATIVE_CALLS_MAX:
            raise TooMany(f"{len(self._asked)} questions are not answered yet")
        asked = Asked(number, params, listener, held)
        self._asked[number] = asked
        self.settles += bool(held)
        return asked

    def begin(self, asked: Asked) -> list[Call]:
        """What is to be sent of a question at once."""
        if asked.settling is None:
            return [asked.frame]
        self._waiting.append(asked)
        return []

    def forget(self, asked: Asked) -> None:
        """Nobody waits for this answer any more."""
        self._drop(asked.frame.number)

    def _drop(self, number: int) -> Asked | None:
        asked = self._asked.pop(number, None)
        if asked is not None and asked.settling is not None:
            self.settles -= 1
        return asked

    # ------------------------------------------------------------------ connection

    def lost(self, *, was_up: bool) -> None:
        """The connection is gone."""
        self._waiting.clear()
        for number, asked in list(self._asked.items()):
            if was_up and asked.method in ONCE:
                self._drop(number)
                text = f"the connection broke: whether {asked.method!r} was done is not known"
                asked.finish(None, _NOTHING, ConnectionLost(text, hint="look, then ask again"))

    def again(self) -> list[Call]:
        """There is a new one: what is to be asked again at once."""
        return [frame for asked in self._asked.values() for frame in self.begin(asked)]

    def fail(self, error: Error) -> None:
        """Nothing will be answered."""
        asked, self._asked = self._asked, {}
        self._waiting.clear()
        self.settles = 0
        for one in asked.values():
            one.finish(None, _NOTHING, error)

    # ------------------------------------------------------------------ sending, receiving

    def due(self, now: float) -> bool:
        """Whether `take` has something to send, or to give up."""
        return bool(self._waiting) and any(
            asked.settling is not None and asked.settling.standing(now) is not Standing.WAITING
            for asked in self._waiting
        )

    def due_at(self) -> float | None:
        """When those that wait for their leases have waited long enough."""
        return min(
            (asked.settling.until() for asked in self._waiting if asked.settling), default=None
        )

    def take(self, now: float) -> list[Call]:
        """Those whose leases can be named now; those whose never will be are answered."""
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, []
        frames: list[Call] = []
        for asked in waiting:
            settling = asked.settling
            if asked.done or settling is None:
                continue
            match settling.standing(now):
                case Standing.READY:
                    frames.append(asked.name())
                case Standing.WAITING:
                    self._waiting.append(asked)
                case Standing.STALE:
                    self.refused(asked.frame.number, settling.stale())
        return frames

    def answered(self, frame: Reply, body: memoryview) -> bool:
        """An answer has come; False when it is to none of these."""
        asked = self._drop(frame.number)
        if asked is None:
            return False
        try:
            result = calls.decode_result(asked.method, frame.result)
        except Error as error:
            asked.finish(None, body, error)
        else:
            asked.finish(result, body)
        return True

    def refused(self, number: int, error: Error) -> bool:
        """A question is refused; False when it is none of these."""
        asked = self._drop(number)
        if asked is not None:
            asked.finish(None, _NOTHING, error)
        return asked is not None
