"""Reading by the native lane: messages are pushed to members of groups as their credit allows.

A subscription is a `Member`; it sits at one `Desk` for each stream that it is over. Leases belong
to the session and channel of a member, not to its connection: when that breaks they wait a while.
"""

from __future__ import annotations

import itertools
import secrets

from beamstream import limits
from beamstream.errors import Error, RemoteProtocolError, TooMany
from beamstream.model import check_label
from beamstream.server.groups import GroupStream
from beamstream.server.streams import View
from beamstream.server.subscriptions_desk import Desk, Hall
from beamstream.server.subscriptions_groups import starting
from beamstream.server.subscriptions_holdings import Holdings, Lost
from beamstream.server.subscriptions_members import (
    Answer,
    Member,
    Outlet,
    Owner,
    check_subscribe,
    matcher,
)
from beamstream.wire.native.frames import (
    Credit,
    End,
    Held,
    Scope,
    Start,
    Subscribe,
)

__all__ = ["Answer", "Hall", "Outlet", "Subscriptions"]


_DEAD_MAX = 1_024
"""Sessions of dead clients that are remembered until their connections end."""

_STREAMS_MAX = limits.VIEWS_MAX // 4
"""Streams of one subscription; each is in use as long as it lasts."""


class Subscriptions(Holdings):
    """All subscriptions of a node, and the calls about groups. On the event loop only.

    Methods raise errors of Beamstream for what cannot be done, and leave everything as it was.
    """

    def __init__(self, hall: Hall) -> None:
        super().__init__(hall)
        self._wide: dict[tuple[str, str], set[Member]] = {}
        """Members over more than one stream, by beamtime and source."""
        self._ages = itertools.count(1)
        self._dead: dict[bytes, None] = {}
        hall.streams.on_new.append(self._on_new)
        hall.streams.on_header.append(self._on_header)
        hall.deliveries.on_opened.append(self._on_opened)

    # ------------------------------------------------------------------ beginning

    def open(self, outlet: Outlet, frame: Subscribe, *, reserved: bool = False) -> None:
        """Begin a subscription, or take one up again after a broken connection.

        `reserved`: its group has a name that no client can use.

        Raises
        ------
        BadInput, TooMany, RemoteProtocolError : it is not opened.
        """
        members = self._members.get(outlet, {})
        if frame.channel in members:
            raise RemoteProtocolError(f"channel {frame.channel} is a subscription already")
        if len(members) >= limits.NATIVE_CHANNELS_MAX:
            raise TooMany(f"more than {limits.NATIVE_CHANNELS_MAX} subscriptions of one connection")
        check_subscribe(frame)
        check_label("source", frame.source)
        if frame.scope == Scope.STREAM:
            check_label("stream", frame.stream)
        if frame.group and not reserved:
            check_label("group", frame.group)
        existing = self._found(outlet.beamtime, frame)
        self._displace((outlet.session, frame.channel))
        lost = self._lost.pop((outlet.session, frame.channel), None)
        if lost is not None and lost.timer is not None:
            lost.timer.cancel()
        name = frame.group or (lost.group if lost and lost.private else f"~{secrets.token_hex(8)}")
        member = Member(outlet, frame, name, next(self._ages), lost.member if lost else None)
        self._members.setdefault(outlet, members)[frame.channel] = member
        self._owners[member.owner] = member
        self._take_up(member, lost)
        if frame.scope == Scope.STREAM:
            self._attach(member, self._view(member, frame.stream))
            return
        self._wide.setdefault((outlet.beamtime, frame.source), set()).add(member)
        for view in existing:
            self._join(member, view)

    def _found(self, beamtime: str, frame: Subscribe) -> list[View]:
        """The streams that there are already of a subscription over many."""
        if frame.scope == Scope.STREAM:
            return []
        matches = matcher(frame)
        found = [v for v in self._existing(beamtime, frame.source) if matches(v.name)]
        if len(found) > _STREAMS_MAX:
            raise _too_many(frame)
        return found

    def _displace(self, owner: Owner) -> None:
        """A client subscribes again before the end of its connection before was noticed."""
        earlier = self._owners.get(owner)
        if earlier is not None:
            del self._members[earlier.outlet][earlier.channel]
            self._lose(earlier)

    def _take_up(self, member: Member, lost: Lost | None) -> None:
        """Give a member the leases back that it names; others get the rest of what it had."""
        own = dict(lost.groups) if lost else {}
        member.private_groups = dict(own) if member.private else {}
        now = self.hall.clock()
        named: dict[View, set[int]] = {}
        for held in member.frame.held:
            if held.source != member.frame.source:
                continue
            view = self._view(member, held.stream)
            group = own.get(view) if lost is None or lost.group == member.group else None
            if group is None and not member.private:
                group = self.hall.deliveries.group(view, member.group)
            if group is None:
                continue
            named.setdefault(view, set()).add(held.tag)
            kept = group.resume(held.tag, held.ranges, view.visible_seq, now, member.hold)
            if kept:
                key = (held.source, held.stream)
                member.kept.setdefault(key, []).append(Held(*key, held.tag, kept))
        for view, group in own.items():
            group.release(member.owner, now, counted=False, keep=named.get(view, ()))
            group.users -= 1
            view.wake()

    def _attach(self, member: Member, view: View) -> None:
        """The member reads this stream from now on."""
        key = (view, member.group)
        desk = self._desks.get(key)
        if desk is None:
            desk = Desk(self.hall, view, member.group, self._group(member, view), self._on_end)
            self._desks[key] = desk
        desk.join(member)

    def _group(self, member: Member, view: View) -> GroupStream:
        """The member's group in this stream; a new one begins where the member says."""
        deliveries, frame = self.hall.deliveries, member.frame
        if member.private:
            group = member.private_groups.get(view)
            if group is None:
                group = GroupStream(first_tag=deliveries.first_tag)
                member.private_groups[view] = group
                position, done = starting(self.hall, view, frame.start, frame.start_at)
                group.seek(position, done, ())
                group.from_id = position + 1 if frame.start == Start.ID else 0
            return group
        is_new = not self._knows(view, member.group)
        group = deliveries.group(view, member.group)
        if is_new:
            position, done = starting(self.hall, view, frame.start, frame.start_at)
            if position or done or frame.start != Start.BEGINNING:
                deliveries.seek_seqs(view, member.group, position, done, (), _no_answer)
            group.from_id = position + 1 if frame.start == Start.ID else 0
        return group

    def _view(self, member: Member, stream: str) -> View:
        return self.hall.streams.view(member.outlet.beamtime, member.frame.source, stream)

    def _existing(self, beamtime: str, source: str) -> list[View]:
        streams = self.hall.streams
        names = [info.name for info in self.hall.catalog.streams(beamtime, source)]
        names += [name for name, view in streams.known(beamtime, source).items() if view.exists]
        views = [streams.view(beamtime, source, name) for name in dict.fromkeys(names)]
        return [view for view in views if view.exists]

    def _on_new(self, view: View) -> None:
        for member in tuple(self._wide.get((view.beamtime, view.source), ())):
            self._join(member, view)

    def _on_header(self, beamtime: str, source: str, stream: str) -> None:
        for desk in tuple(self._desks.values()):
            view = desk.view
            if (view.beamtime, view.source, view.name) == (beamtime, source, stream):
                desk.header_changed()

    def _on_opened(self, view: View, group: str) -> None:
        """What a stream has ended for begins again for members over many streams."""
        for member in tuple(self._wide.get((view.beamtime, view.source), ())):
            if member.group == group and view.no in member.ended:
                member.ended.discard(view.no)
                self._join(member, view)

    def _join(self, member: Member, view: View) -> None:
        """A stream of the source of a member that is over many."""
        if view in member.views or view.no in member.ended or not member.matches(view.name):
            return
        if len(member.views) >= _STREAMS_MAX:
            member.outlet.failed(member.channel, _too_many(member.frame))
            return
        self._attach(member, view)

    # ------------------------------------------------------------------ ending

    def close(self, outlet: Outlet, channel: int) -> None:
        """End a subscription; what it holds is offered to others at once, as if never sent."""
        member = self._members.get(outlet, {}).pop(channel, None)
        if member is None:
            return
        del self._owners[member.owner]
        now = self.hall.clock()
        for view, group in self._leave(member):
            group.release(member.owner, now, counted=False)
            view.wake()

    def disconnected(self, outlet: Outlet) -> None:
        """A connection is gone; leases of its subscriptions wait a while for it to come again."""
        for member in self._members.pop(outlet, {}).values():
            self._lose(member)

    def _lose(self, member: Member) -> None:
        del self._owners[member.owner]
        groups = self._leave(member)
        for _, group in groups:
            group.users += 1
        earlier = self._lost.pop(member.owner, None)
        if earlier is not None:
            self._give_up(member.owner, earlier)
        lost = self._lost[member.owner] = Lost(member, groups)
        wait_s = 0.0 if member.outlet.session in self._dead else limits.NATIVE_RESUME_SECONDS
        lost.timer = self.hall.turns.call_later(wait_s, self._give_up, member.owner, lost)

    def end_session(self, beamtime: str, session: bytes) -> None:
        """Somebody knows that this client is dead: nothing waits for it any more.

        The end of its connection may not have been noticed yet.
        """
        self._dead[session] = None
        while len(self._dead) > _DEAD_MAX:
            del self._dead[next(iter(self._dead))]
        for owner, lost in list(self._lost.items()):
            if owner[0] == session and lost.member.outlet.beamtime == beamtime:
                self._give_up(owner, lost)

    def _leave(self, member: Member) -> list[tuple[View, GroupStream]]:
        """Take a member from all its desks; returns the groups it was in."""
        groups = []
        for desk in dict.fromkeys(member.desks.values()):
            desk.leave(member)
            groups.append((desk.view, desk.group))
            self._tidy(desk)
        member.desks.clear()
        member.views.clear()
        if member.private:
            groups = list(member.private_groups.items())
        self._wide.get((member.outlet.beamtime, member.frame.source), set()).discard(member)
        return groups

    def _give_up(self, owner: Owner, lost: Lost) -> None:
        """It did not come again: what it held may be what has brought it down."""
        if self._lost.get(owner) is lost:
            del self._lost[owner]
        if lost.timer is not None:
            lost.timer.cancel()
        now = self.hall.clock()
        for view, group in lost.groups:
            group.release(owner, now, counted=True)
            group.users -= 1
            view.wake()

    def _tidy(self, desk: Desk) -> None:
        if not desk.members and self._desks.get((desk.view, desk.name)) is desk:
            desk.close()
            del self._desks[desk.view, desk.name]

    def _on_end(self, desk: Desk, member: Member, ref: int, next_stream: str) -> None:
        """A stream has ended for a member, and it was told so."""
        self._tidy(desk)
        member.private_groups.pop(desk.view, None)
        frame = member.frame
        if frame.scope != Scope.STREAM:
            member.ended.add(desk.view.no)
            return
        if not frame.follow or not next_stream:
            return
        member.followed.add(desk.view.name)
        if next_stream in member.followed:
            # Streams that name each other in a circle would be followed for ever.
            member.outlet.end(End(member.channel, -1, "finished"))
            return
        self._attach(member, self._view(member, next_stream))

    # ------------------------------------------------------------------ what clients say

    def credit(self, outlet: Outlet, frame: Credit) -> None:
        """More messages and bytes may be pushed."""
        member = self._member(outlet, frame.channel)
        if frame.messages < 0 or frame.nbytes < 0:
            raise RemoteProtocolError(f"channel {frame.channel} takes credit back")
        member.grant(frame.messages, frame.nbytes)
        _wake(member)

    def resume(self, outlet: Outlet) -> None:
        """The connection is writable again."""
        for member in self._members.get(outlet, {}).values():
            _wake(member)
            if member.frame.settled or member.frame.headers:
                for desk in member.desks.values():
                    desk.wake()

    def _member(self, outlet: Outlet, channel: int) -> Member:
        member = self._members.get(outlet, {}).get(channel)
        if member is None:
            raise RemoteProtocolError(f"channel {channel} is no subscription")
        return member


def _wake(member: Member) -> None:
    hungry, member.hungry = member.hungry, set()
    for desk in hungry:
        desk.wake()


def _too_many(frame: Subscribe) -> TooMany:
    return TooMany(
        f"a subscription over source {frame.source!r} is over more than {_STREAMS_MAX} streams",
        hint="name a pattern that fewer streams match",
    )


def _no_answer(error: Error | None) -> None:
    """A group whose beginning was not written begins again where its next member says."""
