"""One group in one stream: its members take turns, a stretch of messages at a time.

A desk hands out what its members have credit for whenever something changes: messages became
visible, credit or room came, something is due again. It does so in bounded pieces, between which
the loop sees to others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from beamstream.errors import Error
from beamstream.server.delivery import Deliveries
from beamstream.server.groups import NEVER, GroupStream
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams, View
from beamstream.server.subscriptions_members import Member
from beamstream.server.subscriptions_news import News
from beamstream.server.subscriptions_picks import Offer, Picks
from beamstream.store.catalog import Catalog
from beamstream.store.ranges import Ranges
from beamstream.wire.native.frames import End

log = structlog.get_logger("subscriptions")

_OFFERS_PER_TURN = 16
_MESSAGES_PER_TURN = 4_096
"""What one desk hands out before the loop sees to others."""

_MISSING_MAX = 100
"""Ranges of missing ids that an end lists."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Turns(Protocol):
    """What is needed of an event loop."""

    def call_soon(self, callback: Callable[..., Any], /, *arguments: Any) -> object: ...

    def call_later(
        self, delay: float, callback: Callable[..., Any], /, *arguments: Any
    ) -> Timer: ...


class Hall:
    """What all desks stand on."""

    def __init__(
        self,
        turns: Turns,
        catalog: Catalog,
        streams: Streams,
        deliveries: Deliveries,
        stats: Stats,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.turns = turns
        self.catalog = catalog
        self.streams = streams
        self.deliveries = deliveries
        self.stats = stats
        self.wall_ns = wall_ns

    def clock(self) -> float:
        return self.deliveries.clock()


class Desk:
    """Members of one group in one stream."""

    def __init__(
        self,
        hall: Hall,
        view: View,
        name: str,
        group: GroupStream,
        on_end: Callable[[Desk, Member, int, str], None],
    ) -> None:
        self.hall = hall
        self.view = view
        self.name = name
        self.group = group
        self.private = view.groups.get(name) is not group
        self.members: deque[tuple[Member, int]] = deque()
        self._on_end = on_end
        self._picks = Picks(hall.catalog, hall.streams, view, group)
        self._news = News(hall.catalog, view, self._picks.settled_seq)
        self._telling = False
        self._exclusive = 0
        """How many members want to be the only one …"""
        self._active: tuple[Member, int] | None = None
        """… and who is, with the number that the stream has for him."""
        self._pumping = False
        self._timer: Timer | None = None
        self._timer_at = NEVER
        group.users += 1
        view.waiters.add(self.wake)
        view.part_watchers.add(self._picks.datasets.changed)

    def close(self) -> None:
        self.view.waiters.discard(self.wake)
        self.view.part_watchers.discard(self._picks.datasets.changed)
        self.group.users -= 1
        self._stand_down()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def join(self, member: Member) -> int:
        ref = member.open_ref(self)
        self.members.append((member, ref))
        self._exclusive += member.frame.exclusive
        self._news.join(member, ref)
        self._picks.datasets.terms(member.frame.min_parts, max(member.frame.wait_s, 0.0))
        self.wake()
        return ref

    def leave(self, member: Member) -> None:
        member.hungry.discard(self)
        self.members = deque(pair for pair in self.members if pair[0] is not member)
        self._exclusive -= member.frame.exclusive
        self._news.leave(member)
        if member.owns:
            self._picks.owned.forget(member.owner)
            self.wake()
        if self._active is not None and self._active[0] is member:
            self._stand_down()
            self.wake()

    def wake(self) -> None:
        """Something has changed: hand out what there is in the next turn of the loop."""
        if not self._pumping and self.members:
            self._pumping = True
            self.hall.turns.call_soon(self.pump)

    def settled(self) -> None:
        """Something may be settled: whoever wants to know is told in the next turn of the loop."""
        if self._news.of_settled and not self._telling:
            self._telling = True
            self.hall.turns.call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = False
        if self.members and not self.view.gone:
            self._guarded(self._news.tell)
            self.touch()

    def header_changed(self) -> None:
        """The metadata of the stream was written."""
        if self._news.header_changed():
            self.wake()

    @property
    def written(self) -> bool:
        """Whether what is done to the group is written into the catalog."""
        view = self.view
        known = view.groups.get(self.name) is self.group
        return known and not (self.private or view.gone or view.deleting)

    def touch(self) -> None:
        if not self.private:
            self.hall.deliveries.touch(self.view, self.name, self.group)

    # ------------------------------------------------------------------ handing out

    def pump(self) -> None:
        """Hand out what is there, in turn, while there is credit for it."""
        self._pumping = False
        if not self.members:
            return
        if self.view.gone:
            self._finish("gone", ())
            return
        self._guarded(self._pump)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Error as error:
            # Records cannot be read: members must know, instead of waiting for ever.
            log.warning("a subscription failed", stream=self.view.name, reason=str(error))
            for member, ref in self._dismissed():
                member.close_ref(ref)
                member.outlet.failed(member.channel, error)
                self._on_end(self, member, ref, "")

    def _pump(self) -> None:
        now, wall_s = self.hall.clock(), self.hall.wall_ns() / 1e9
        self._news.greet()
        served = self._served(now)
        offers, messages, starved = _OFFERS_PER_TURN, _MESSAGES_PER_TURN, 0
        while starved < len(served) and offers > 0 and messages > 0:
            member, ref = served[0]
            served.rotate(-1)
            offer = self._picks.next(member, ref, now, wall_s) if member.ready else None
            if offer is None:
                starved += 1
                continue
            starved = 0
            offers -= 1
            messages -= offer.messages
            self._hand_out(member, ref, offer)
        self.settled()
        self.touch()
        if starved < len(served) or self._picks.unfinished:
            self.wake()
        elif not self._ended(wall_s):
            self._set_timer(now, wall_s, served)
            if self.group.first_open(1, self.view.visible_seq + 1) or self.group.leased():
                for member, _ in served:
                    member.hungry.add(self)

    def _served(self, now: float) -> deque[tuple[Member, int]]:
        """Who is handed messages: all in turn, or the only one while the others stand by."""
        if not self._exclusive:
            return self.members
        if self._active is None:
            # Streams of a source are spread over those who read it.
            candidates = [pair for pair in self.members if pair[0].frame.exclusive]
            self._active = min(candidates, key=lambda pair: (pair[0].active, pair[0].age))
            self._active[0].active += 1
            # Who broke off may come again, but must not be waited for: all would stand still.
            self.group.release_others({member.owner for member, _ in self.members}, now)
        return deque((self._active,))

    def _stand_down(self) -> None:
        """Nobody is the only one any more."""
        if self._active is not None:
            self._active[0].active -= 1
            self._active = None

    def _dismissed(self) -> deque[tuple[Member, int]]:
        """All members, who are none from now on."""
        members, self.members = self.members, deque()
        for member, _ in members:
            self._news.leave(member)
        self._exclusive = 0
        self._stand_down()
        return members

    def _hand_out(self, member: Member, ref: int, offer: Offer) -> None:
        lease, frame, view = offer.lease, member.frame, self.view
        member.spend(offer.messages, offer.nbytes)
        count = lease.hi - lease.lo
        deliveries = None if lease.count == 1 else (lease.count,) * count
        if offer.datasets is not None:
            member.outlet.deliver_datasets(
                member.channel, ref, lease.tag, view, offer.datasets, deliveries,
                frame.payloads, frame.shared,
            )  # fmt: skip
            arrived_ns = max((p.arrived_ns for d in offer.datasets for p in d.parts), default=0)
        else:
            block = offer.block
            assert block is not None
            lo = lease.lo - block.seq
            member.outlet.deliver(
                member.channel, ref, lease.tag, view, block, lo, lo + count, deliveries,
                frame.payloads, frame.shared,
            )  # fmt: skip
            arrived_ns = block.arrived_ns
        if frame.payloads:
            self.hall.stats.nbytes_out += offer.nbytes
        self.hall.stats.handed_out(
            view.beamtime,
            view.source,
            self.name,
            member.outlet.who,
            self.hall.wall_ns() - arrived_ns,
            lease.count,
            count,
            offer.nbytes,
        )

    # ------------------------------------------------------------------ waiting, ending

    def _set_timer(self, now: float, wall_s: float, served: deque[tuple[Member, int]]) -> None:
        at = self.group.due() if any(member.ready for member, _ in served) else NEVER
        aging = self._picks.datasets.ready_at()
        if at <= now:
            # It is due and does not fit into anybody's credit: more of that wakes this desk. What
            # belongs to others need not wait for it.
            owns = any(member.owns for member, _ in served)
            at = self.group.due_after(now) if owns else NEVER
        if aging != NEVER:
            at = min(at, now + max(aging - wall_s, 0.0))
        if at == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at != NEVER:
            self._timer = self.hall.turns.call_later(max(at - now, 0.0), self._rung)

    def _rung(self) -> None:
        self._timer = None
        self.wake()

    def _ended(self, wall_s: float) -> bool:
        """Whether all of a finished stream is done for this group; its members are told then."""
        view = self.view
        group = self.group
        if not view.finished or view.held or group.leased() or group.settling():
            return False
        if self._picks.open(wall_s):
            if self._picks.unfinished:
                self.wake()
            return False
        if view.no:
            info = self.hall.catalog.stream(view.beamtime, view.source, view.name)
            if info is not None and info.last_seq > view.visible_seq:
                return False
        self._finish("finished", self._missing())
        return True

    def _missing(self) -> Ranges:
        view = self.view
        if not view.last_id:
            return ()
        incomplete = self._picks.datasets.incomplete_ids() if view.datasets else ()
        if not incomplete and view.visible_seq == view.last_id == view.max_id and view.in_order:
            return ()
        gaps = (
            self.hall.catalog.gaps(view.beamtime, view.no, 1, view.last_id + 1, _MISSING_MAX)
            if view.no
            else ((1, view.last_id + 1),)
        )
        return tuple(sorted([*gaps, *((id, id + 1) for id in incomplete)])[:_MISSING_MAX])

    def _finish(self, reason: str, missing: Ranges) -> None:
        view = self.view
        if reason == "finished":
            self._news.tell()
        members = self._dismissed()
        next_stream = view.next_stream if reason == "finished" else ""
        last_id = max(view.last_id, 0)
        for member, ref in members:
            member.close_ref(ref)
            member.outlet.end(End(member.channel, ref, reason, next_stream, last_id, missing))
            self._on_end(self, member, ref, next_stream)
