"""Calls about groups: where they are, moving them, dead letters, forgetting them."""

from __future__ import annotations

from collections.abc import Callable

from beamstream.errors import BadInput, Conflict, Error, NotFound
from beamstream.model import Dataset, Item
from beamstream.server.groups import NEVER, GroupStream
from beamstream.server.streams import View
from beamstream.server.subscriptions_desk import Desk, Hall
from beamstream.server.subscriptions_members import Answer
from beamstream.store import catalog as ops
from beamstream.store.catalog import State
from beamstream.store.ranges import Ranges, RangeSet
from beamstream.wire.native import calls
from beamstream.wire.native.frames import Start

RESERVED = "\x01"
"""Names that the node uses for itself begin so: clients' names have no control characters."""


def starting(hall: Hall, view: View, start: Start, at: int) -> tuple[int, Ranges]:
    """Where a group begins: its position by id, and the seqs that count as read."""
    end = view.visible_seq + 1
    if start == Start.BEGINNING or (end == 1 and start != Start.ID):
        return 0, ()
    if start == Start.NEW:
        return view.max_id, ((1, end),)
    if start == Start.ID:
        id = max(at - 1, 0)
        above = hall.catalog.seqs_above(view.beamtime, view.no, id) if view.no else ()
        return id, tuple(RangeSet(above).gaps(1, end))
    seq = hall.catalog.seq_at(view.beamtime, view.no, at, view.visible_seq)
    if seq > view.visible_seq:
        return view.max_id, ((1, end),)
    while (following := hall.streams.next_message(view, seq)) != seq:
        seq = following
    item = hall.streams.item(view, seq)
    # Where ids do not ascend, one behind `seq` may be small: then none counts as passed.
    position = item.id - 1 if item is not None and view.in_order else 0
    return position, ((1, seq),) if seq > 1 else ()


class GroupCalls:
    """What may be asked about groups, and done to them."""

    def __init__(self, hall: Hall) -> None:
        self.hall = hall
        self._desks: dict[tuple[View, str], Desk] = {}

    # ------------------------------------------------------------------ looking

    def group_row(self, view: View, group: str) -> calls.GroupRow | None:
        """State of a group in a stream, None if there is no such group."""
        hall = self.hall
        state = hall.catalog.group(view.beamtime, group, view.source, view.name)
        desk = self._desks.get((view, group))
        found = desk.group if desk is not None else view.groups.get(group)
        if found is None:
            if state is None:
                return None
            found = GroupStream(state)
        end = view.visible_seq + 1
        opened = sum(hi - lo for lo, hi in found.open_ranges(view.visible_seq))
        now, since = hall.clock(), found.leased_since()
        leased = found.in_hand(now)
        finished = found.done.union(found.acked).union(found.dead)
        members = [] if desk is None else [member.outlet.who for member, _ in desk.members]
        return calls.GroupRow(
            group=group,
            source=view.source,
            stream=view.name,
            position=min(finished.first_gap(1), end),
            open=opened + found.leased() - leased,
            leased=leased,
            acked=found.acked.count_in(1, end),
            done=found.done.count_in(1, end),
            dead=found.dead.count_in(1, end),
            lag_s=self._lag_s(view, found),
            unacked_s=0.0 if since == NEVER else max(now - since, 0.0),
            redelivered=found.redelivered,
            members=tuple(who.instance for who in members),
            last_used_ns=state.last_used_ns if state is not None else 0,
        )

    def members(self, view: View, group: str) -> tuple[str, ...]:
        """Instances of a group in a stream that are connected by the native lane."""
        desk = self._desks.get((view, group))
        if desk is None:
            return ()
        return tuple(member.outlet.who.instance for member, _ in desk.members)

    def _lag_s(self, view: View, group: GroupStream) -> float:
        """Seconds since the oldest open message arrived."""
        first = group.first_open(1, view.visible_seq + 1)
        if first is None:
            return 0.0
        item = self.hall.streams.item(view, self.hall.streams.next_message(view, first[0]))
        parts = item.parts if isinstance(item, Dataset) else (item,) if item is not None else ()
        arrived_ns = min((part.arrived_ns for part in parts), default=0)
        return max((self.hall.wall_ns() - arrived_ns) / 1e9, 0.0) if arrived_ns else 0.0

    def group_rows(self, beamtime: str, source: str, stream: str) -> list[calls.GroupRow]:
        """Groups of a stream, of a source (`stream` empty), or of all (both empty)."""
        hall = self.hall
        names = {(s, t, group) for group, s, t, _ in hall.catalog.groups_of(beamtime)}
        for view in hall.streams.views():
            if view.beamtime == beamtime:
                names |= {(view.source, view.name, group) for group in view.groups}
        rows = [
            self.group_row(hall.streams.view(beamtime, found_source, found_stream), group)
            for found_source, found_stream, group in sorted(names)
            if not group.startswith(RESERVED)
            and source in ("", found_source)
            and stream in ("", found_stream)
        ]
        return [row for row in rows if row is not None]

    def dead(self, view: View, group: str, limit: int) -> list[Item]:
        """Messages (or datasets) that were delivered as often as allowed, by seq.

        Raises
        ------
        NotFound : there is no such group.
        """
        found = self._known(view, group)
        items: list[Item] = []
        for lo, hi in found.dead:
            for seq in range(lo, hi):
                if len(items) >= limit:
                    return items
                item = self.hall.streams.item(view, seq)
                if item is not None:
                    items.append(item)
        return items

    # ------------------------------------------------------------------ changing

    def seek(
        self,
        view: View,
        group: str,
        to: str,
        at: int,
        done: Callable[[calls.GroupRow | Error], None],
    ) -> None:
        """Move a group, which is made if need be; what is behind the target is open again.

        Raises
        ------
        BadInput : not one of ``begin``, ``end``, ``id``, ``time``.
        """
        starts = {"begin": Start.BEGINNING, "end": Start.NEW, "id": Start.ID, "time": Start.TIME}
        if to not in starts:
            raise BadInput(f"a group cannot go to {to[:40]!r}", hint="begin, end, id or time")
        position, read = starting(self.hall, view, starts[to], at)
        opened = tuple(RangeSet(read).gaps(1, view.visible_seq + 1))

        def ended(error: Error | None) -> None:
            row = self.group_row(view, group)
            done(error or row or NotFound(f"stream {view.name!r} was deleted"))

        deliveries = self.hall.deliveries
        deliveries.seek_seqs(view, group, position, read, opened, ended)
        deliveries.group(view, group).from_id = position + 1 if to == "id" else 0
        view.wake()

    def redeliver(
        self, view: View, group: str, ranges: Ranges, done: Callable[[int | Error], None]
    ) -> None:
        """Open dead letters again: those seqs, or all; `done` with how many.

        Raises
        ------
        NotFound : there is no such group.
        """
        self._known(view, group)
        deliveries = self.hall.deliveries
        # What was written behind says that they are dead, and must not be applied later.
        deliveries.settle(view, group)
        revived = deliveries.group(view, group).revive(ranges)
        count = sum(hi - lo for lo, hi in revived)
        if not count:
            done(0)
            return
        now_ns = self.hall.wall_ns()
        fresh = tuple((seq, 0) for lo, hi in revived for seq in range(lo, hi))
        batch: list[ops.Op] = [
            ops.Nack(group, view.source, view.name, revived, now_ns=now_ns),
            ops.Mark(group, view.source, view.name, State.DONE, (), counts=fresh, now_ns=now_ns),
        ]
        deliveries.submit_safe(view.beamtime, batch, lambda error: done(error or count))
        deliveries.opened(view, group)

    def delete_group(
        self, beamtime: str, group: str, source: str, stream: str, answer: Answer
    ) -> None:
        """Forget a group in one stream, or with `source` empty in all.

        Raises
        ------
        Conflict : somebody reads with it.
        """
        views = [
            view
            for view in self.hall.streams.views()
            if view.beamtime == beamtime
            and (not source or (view.source, view.name) == (source, stream))
        ]
        used = [view for view in views if (found := view.groups.get(group)) and found.users]
        if used:
            raise Conflict(
                f"group {group!r} has members in stream {used[0].name!r}",
                hint="end its readers first",
            )
        for view in views:
            if group in view.groups:
                self.hall.deliveries.settle(view, group)
                del view.groups[group]
        op = ops.DeleteGroup(group, source, stream)
        self.hall.deliveries.submit_safe(beamtime, [op], answer)

    # ------------------------------------------------------------------ inside

    def _knows(self, view: View, group: str) -> bool:
        """Whether there is such a group in a stream."""
        if group in view.groups:
            return True
        state = self.hall.catalog.group(view.beamtime, group, view.source, view.name)
        return state is not None

    def _known(self, view: View, group: str) -> GroupStream:
        if not self._knows(view, group):
            raise NotFound(
                f"there is no group {group!r} in stream {view.name!r}",
                hint="`beamstream groups` lists them",
            )
        return self.hall.deliveries.group(view, group)
