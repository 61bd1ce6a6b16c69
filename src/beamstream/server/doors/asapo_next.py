"""`next`: hand out the next message, or hold the question open for a moment.

ASAPO's clients ask again 100 ms after an empty answer. A client that has done so once is known to
wait, and its next empty question is not answered before something happens: a message, a finish
flag, a due resend, or the end of the moment.
"""

from __future__ import annotations

from beamstream import limits
from beamstream.errors import Error
from beamstream.server.delivery import Found, Nothing
from beamstream.server.doors.asapo_broker import JSON, Asked, nothing, status_of
from beamstream.server.groups import NEVER, Terms
from beamstream.server.streams import View

_GAP_SECONDS = (0.085, 0.150)
"""A waiting client repeats its request 100 ms after an empty answer …"""
_AT_ONCE_SECONDS = 0.02
"""… or at once after one that was held, as our own client does."""


class Nexts:
    """The `next` requests of one connection."""

    def __init__(self) -> None:
        self._empty_target = b""
        self._empty_at = 0.0
        self._waits = False
        self._held: _Held | None = None

    def answer(self, asked: Asked) -> None:
        """Answer with the next message, or hold the request, or say that there is none."""
        now = asked.services.loop.time()
        self._learn(asked.request.target, now)
        found = self._take(asked)
        if isinstance(found, Found):
            return
        if self._waits and _may_hold(found, asked.view):
            group = asked.view.groups.get(asked.call.group)
            due = group.due() if group is not None else NEVER
            self._held = _Held(self, asked, min(now + limits.HOLD_SECONDS, due))
        else:
            self._empty(asked, found)

    def gone(self) -> None:
        """The peer has gone: nobody waits any more."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def stop(self) -> None:
        """The node stops: who waits is told that there is nothing."""
        if self._held is not None:
            self.try_held(self._held, last=True)

    def try_held(self, held: _Held, *, last: bool) -> None:
        """Something changed, or the time of a held request is over."""
        if self._held is not held:
            return
        asked = held.asked
        if asked.view.gone:
            # What it would take now would count for the stream that is made anew under the name.
            self.gone()
            self._empty(asked, Nothing(0, 0))
            return
        try:
            found = self._take(asked)
        except Error as error:
            self.gone()
            asked.services.stats.failed(error)
            asked.connection.reply(*status_of(error))
            return
        if isinstance(found, Found):
            return
        if last or not _may_hold(found, asked.view):
            self.gone()
            self._empty(asked, found)

    def _learn(self, target: bytes, now: float) -> None:
        """Tell from the time since its last empty answer whether the client waits.

        What it does after it got a message says nothing about that.
        """
        if target != self._empty_target:
            self._waits = False
        elif self._empty_at:
            gap = now - self._empty_at
            repeated = _GAP_SECONDS[0] <= gap <= _GAP_SECONDS[1]
            self._waits = repeated or (self._waits and gap < _AT_ONCE_SECONDS)

    def _take(self, asked: Asked) -> Found | Nothing:
        """Hand the next item to the client if there is one and the client is still there."""
        deliveries, call, view = asked.services.deliveries, asked.call, asked.view
        terms = _terms(asked)
        found = deliveries.next(
            view, call.group, by_id=call.key_is_id, terms=terms, want=asked.want
        )
        if isinstance(found, Found):
            # Whoever waits is answered once: a reply may begin the client's next request.
            self.gone()
            if asked.connection.closing:
                deliveries.give_back(view, call.group, found)
                return found
            self._empty_at = 0.0
            asked.connection.reply(*asked.found(found))
            deliveries.handed_out(view, call.group, asked.who, found)
        return found

    def _empty(self, asked: Asked, found: Nothing) -> None:
        self._empty_target = asked.request.target
        self._empty_at = asked.services.loop.time()
        asked.connection.reply(409, nothing(found, asked.view), JSON)


class _Held:
    """A request that found nothing and is held open until something changes."""

    __slots__ = ("_timer", "asked", "wake")

    def __init__(self, nexts: Nexts, asked: Asked, until: float) -> None:
        self.asked = asked
        self.wake = lambda: nexts.try_held(self, last=False)
        asked.view.waiters.add(self.wake)
        self._timer = asked.services.loop.call_at(until, lambda: nexts.try_held(self, last=True))

    def release(self) -> None:
        self.asked.view.waiters.discard(self.wake)
        self._timer.cancel()


def _may_hold(found: Nothing, view: View) -> bool:
    """Only at the end of a stream that is not finished; a gap is told at once."""
    return not view.finished and found.id >= found.id_max


def _terms(asked: Asked) -> Terms | None:
    call = asked.call
    if not call.resend:
        return None
    return Terms(min(call.delay_ms / 1000, limits.LEASE_SECONDS_MAX), call.attempts)
