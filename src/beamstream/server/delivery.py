"""What a next, an acknowledgement, a seek mean. No sockets.

Positions of groups live in memory and are written behind, with the next commit: a crash may hand a
message out again, never skip one. Acknowledgements and seeks are answered when they are safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from beamstream import limits
from beamstream.errors import AlreadyAcknowledged, BadInput, Error, TooMany
from beamstream.model import Dataset, Item, Who
from beamstream.server.commits import Commits
from beamstream.server.groups import Delivery, GroupStream, Terms, unacknowledged
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams, View
from beamstream.store import catalog as ops
from beamstream.store.catalog import Catalog, Op, State
from beamstream.store.ranges import Ranges, RangeSet

_STEPS_MAX = 1_000
"""Messages already taken that one ordered `next` steps over before it answers."""


class Want(msgspec.Struct, frozen=True, gc=False):
    """What a reader accepts of a dataset: a number of parts (0: all), or one substream."""

    min_size: int = 0
    substream: int = 0


class Found(msgspec.Struct, frozen=True, gc=False):
    """An item was handed out; `partial` if it is a dataset with less than what is wanted."""

    item: Item
    delivery: Delivery | None = None
    partial: bool = False


class Nothing(msgspec.Struct, frozen=True, gc=False):
    """There is nothing (yet): protocol section 6.3.

    Parameters
    ----------
    id : asked for, or the last one at the end.
    id_max : the largest id, or the announced last one.
    finished : the stream has ended for this reader.
    """

    id: int
    id_max: int
    finished: bool = False


Answer = Callable[[Error | None], None]


class Deliveries:
    """Hands messages to consumer groups."""

    def __init__(
        self,
        catalog: Catalog,
        streams: Streams,
        commits: Commits,
        stats: Stats,
        *,
        syncs: bool,
        clock: Callable[[], float] = time.monotonic,
        boot: int = 0,
    ) -> None:
        self._catalog = catalog
        self._streams = streams
        self._commits = commits
        self._stats = stats
        self._syncs = syncs
        self.clock = clock
        self.before: list[Callable[[], None]] = []
        """Called before a group is moved: what was said earlier must be written earlier."""
        self.on_opened: list[Callable[[View, str], None]] = []
        """Called when messages were opened again for a group, which may have been at an end."""
        self.first_tag = boot << 32
        """Tags of deliveries differ over starts of the node."""
        self._written_at: dict[str, float] = {}
        self._dirty: dict[str, dict[tuple[View, str], GroupStream]] = {}

    def group(self, view: View, name: str) -> GroupStream:
        found = view.groups.get(name)
        if found is None:
            if len(view.groups) >= limits.GROUPS_PER_STREAM_MAX:
                self._make_room(view)
            state = self._catalog.group(view.beamtime, name, view.source, view.name)
            found = view.groups[name] = GroupStream(state, self.first_tag)
            found.id_position = self._read_upto(view, found)
        return found

    def _read_upto(self, view: View, group: GroupStream) -> int:
        """The position by id of a group that was just loaded: below all that is open.

        It was written behind past messages whose leases only the last run knew.
        """
        position = group.id_position
        if not position or not view.no:
            return position
        if view.in_order:
            item = self._streams.item(view, group.skip_taken(1))
            return min(position, item.id - 1) if item is not None else position
        lowest = position + 1
        for lo, hi in group.open_ranges(view.visible_seq):
            # What lies behind the newest message that was handed out is looked at by id, below.
            if hi <= view.visible_seq:
                items = self._catalog.items_by_seq(view.beamtime, view.no, lo, hi)
                lowest = min(lowest, min((item.id for item in items), default=lowest))
        lo = max(1, position - limits.REREAD_IDS_MAX)
        pairs = self._catalog.ids(
            view.beamtime, view.no, lo, position + 1, limits.REREAD_IDS_MAX + 1
        )
        is_open = (id for id, seq in pairs if seq <= view.visible_seq and group.is_open(seq))
        return min(lowest, next(is_open, lowest)) - 1

    # ------------------------------------------------------------------ next

    def next(
        self, view: View, name: str, *, by_id: bool, terms: Terms | None, want: Want | None
    ) -> Found | Nothing:
        """Hand the next message (with `want`: dataset) to a member of the group.

        Raises
        ------
        BadInput : datasets are asked for and the stream has messages, or the reverse.
        """
        check_kind(view, want)
        group = self.group(view, name)
        now = self.clock()
        while (again := group.next_due_again(now, terms)) is not None:
            item = self._streams.item(view, again.seq)
            if item is not None:
                return self._found(view, name, group, item, again, want)
        if by_id:
            return self._next_by_id(view, name, group, terms, want)
        while (delivery := group.next(now, view.visible_seq, terms)) is not None:
            item = self._streams.item(view, delivery.seq)
            if item is not None:
                return self._found(view, name, group, item, delivery, want)
            group.give_back(delivery)
            group.pass_over(delivery.seq, delivery.seq + 1)
        self.touch(view, name, group)
        return _end(view, group)

    def _next_by_id(
        self, view: View, name: str, group: GroupStream, terms: Terms | None, want: Want | None
    ) -> Found | Nothing:
        for _ in range(_STEPS_MAX):
            if group.id_position >= view.id_max:
                break
            id = group.id_position + 1
            item = self._streams.item_by_id(view, id, group.near_seq)
            group.move_id_position(id)
            if item is None:
                self.touch(view, name, group)
                return Nothing(id, view.id_max)
            group.near_seq = item.seq + 1
            delivery = group.take(item.seq, self.clock(), terms)
            if delivery is not None:
                return self._found(view, name, group, item, delivery, want)
            self._step_over(view, group, item.seq)
        self.touch(view, name, group)
        return _end(view, group)

    def _step_over(self, view: View, group: GroupStream, seq: int) -> None:
        """Messages from `seq` on are taken already: go to the first that is not."""
        if not view.in_order:
            return
        seq = group.skip_taken(seq)
        item = self._streams.item(view, seq)
        if item is not None:
            group.near_seq = seq
            group.move_id_position(max(group.id_position, item.id - 1))
        elif seq > view.visible_seq:
            group.move_id_position(max(group.id_position, view.max_id))

    def _found(
        self,
        view: View,
        name: str,
        group: GroupStream,
        item: Item,
        delivery: Delivery,
        want: Want | None,
    ) -> Found:
        self.touch(view, name, group)
        if want is None or not isinstance(item, Dataset):
            return Found(item, delivery)
        return select(item, want, delivery)

    def handed_out(self, view: View, name: str, who: Who, found: Found) -> None:
        """The reply is on its way."""
        item = found.item
        parts = item.parts if isinstance(item, Dataset) else (item,)
        arrived_ns = max((part.arrived_ns for part in parts), default=0)
        count = found.delivery.count if found.delivery else 1
        delay_ns = time.time_ns() - arrived_ns
        nbytes = sum(part.size for part in parts)
        self._stats.handed_out(
            view.beamtime, view.source, name, who, delay_ns, count, nbytes=nbytes
        )

    def give_back(self, view: View, name: str, found: Found) -> None:
        """The peer has gone before it got the reply."""
        group = view.groups.get(name)
        if group is not None and found.delivery is not None:
            written = group.give_back(found.delivery)
            if group.id_position == found.item.id:
                group.move_id_position(found.item.id - 1)
            self.touch(view, name, group)
            if written:
                ranges = ((found.item.seq, found.item.seq + 1),)
                nack = ops.Nack(name, view.source, view.name, ranges, now_ns=time.time_ns())
                self._commits.submit(view.beamtime, (nack,), _nothing)
            view.wake()

    def last_for_group(self, view: View, name: str, item: Item) -> bool:
        """Whether this last item is new for the group; it then counts as handed out."""
        group = self.group(view, name)
        if item.id <= group.last_grouped:
            return False
        group.last_grouped = item.id
        return True

    # ------------------------------------------------------------------ acknowledgements

    def acknowledge(self, view: View, name: str, id: int, who: Who, answer: Answer) -> None:
        """Acknowledge a message by id, as ASAPO does: without a tag, of any id, once.

        Raises
        ------
        AlreadyAcknowledged, TooMany : nothing has changed.
        """
        group = self.group(view, name)
        item = self._streams.item_by_id(view, id, group.near_seq)
        if item is None:
            if id in group.early_acks:
                raise AlreadyAcknowledged("already acknowledged")
            if len(group.early_acks) >= limits.EARLY_ACKS_MAX:
                raise TooMany(
                    f"group {name!r} has acknowledged {limits.EARLY_ACKS_MAX} ids of stream "
                    f"{view.name!r} that do not exist"
                )
            group.early_acks.add(id)
            op = ops.Ack(name, view.source, view.name, (), (id,), now_ns=time.time_ns())
        else:
            if not group.acknowledge(item.seq):
                raise AlreadyAcknowledged("already acknowledged")
            arrived_ns = 0 if isinstance(item, Dataset) else item.arrived_ns
            if arrived_ns:
                self._stats.acknowledged(
                    view.beamtime, view.source, name, who, time.time_ns() - arrived_ns
                )
            ranges = ((item.seq, item.seq + 1),)
            op = ops.Ack(name, view.source, view.name, ranges, now_ns=time.time_ns())
        self.submit_safe(view.beamtime, [op], answer)

    def refuse(self, view: View, name: str, id: int, delay_s: float, answer: Answer) -> None:
        """Negative acknowledgement: offer the message again, once, after a delay."""
        group = self.group(view, name)
        item = self._streams.item_by_id(view, id, group.near_seq)
        if item is None:
            answer(None)
            return
        self._write_earlier()
        delay_s = min(max(delay_s, 0.0), limits.LEASE_SECONDS_MAX)
        group.refuse(item.seq, self.clock() + delay_s)
        ranges = ((item.seq, item.seq + 1),)
        self.submit_safe(
            view.beamtime,
            [ops.Nack(name, view.source, view.name, ranges, now_ns=time.time_ns())],
            answer,
        )
        self.opened(view, name)

    def unacknowledged(self, view: View, name: str, id_from: int, id_to: int) -> list[int]:
        """Ids of the messages in [id_from, id_to] that the group has not acknowledged.

        Raises
        ------
        TooMany : more than fit into one answer.
        """
        if not view.no:
            return []
        group = self.group(view, name)
        most = limits.UNACKNOWLEDGED_IDS_MAX
        pairs = self._catalog.ids(view.beamtime, view.no, id_from, id_to + 1, 2 * most)
        visible = ((id, seq) for id, seq in pairs if seq <= view.visible_seq)
        found = list(unacknowledged(visible, group.acked))
        if len(found) > most or len(pairs) == 2 * most:
            raise TooMany(
                f"more than {most} unacknowledged messages", hint="ask for a smaller range of ids"
            )
        return found

    def last_acknowledged(self, view: View, name: str) -> int:
        return self._catalog.last_acked_id(view.beamtime, name, view.source, view.name)

    def seek(self, view: View, name: str, id: int, answer: Answer) -> None:
        """Set the position: what has an id above `id` is open again, the rest counts as read."""
        end = view.visible_seq + 1
        above = RangeSet(self._catalog.seqs_above(view.beamtime, view.no, id) if view.no else ())
        opened = RangeSet(above.within(1, end)).to_tuple()
        done = tuple(RangeSet(above).gaps(1, end)) if end > 1 else ()
        self.seek_seqs(view, name, id, done, opened, answer)

    def seek_seqs(
        self, view: View, name: str, id: int, done: Ranges, opened: Ranges, answer: Answer
    ) -> None:
        """Set the position by id to `id`; what is in `opened` is open again, `done` is read."""
        self._write_earlier()
        group = self.group(view, name)
        # Marks that are on their way were made before the seek and must not undo it.
        self._commits.flush()
        before = self._drain(view, name, group)
        group.seek(id, done, opened)
        self._drain(view, name, group)
        seek = ops.Seek(name, view.source, view.name, id, done, opened, now_ns=time.time_ns())
        self.submit_safe(view.beamtime, [*before, seek], answer)
        self.opened(view, name)

    def opened(self, view: View, name: str) -> None:
        """Messages of a group are open again: tell who waits, and who waits no longer."""
        for tell in self.on_opened:
            tell(view, name)
        view.wake()

    def settle(self, view: View, name: str) -> None:
        """Apply what is on its way for a group: marks made before must not undo what follows."""
        self._write_earlier()
        self._commits.flush()
        before = self._drain(view, name, self.group(view, name))
        if before:
            self._commits.submit(view.beamtime, before, _nothing)
            self._commits.flush()

    def _write_earlier(self) -> None:
        for write in self.before:
            write()

    def submit_safe(self, beamtime: str, batch: Sequence[Op], answer: Answer) -> None:
        """Apply, and answer when it is safe, with the first refusal if there is one."""

        def done(outcome: Sequence[ops.Result] | Error) -> None:
            if isinstance(outcome, Error):
                answer(outcome)
                return
            for result in outcome:
                if isinstance(result, ops.Refused | ops.Conflicted | ops.AlreadyAcked):
                    answer(result.error)
                    return
            answer(None)

        submit = self._commits.submit_synced if self._syncs else self._commits.submit
        submit(beamtime, batch, done)

    # ------------------------------------------------------------------ writing behind

    def write_behind(self, beamtime: str, *, at_once: bool = False) -> list[Op]:
        """What the groups of a beamtime have to be written; called with every commit.

        Not with each of thousands in a second, though: a crash may repeat what was handed out in
        the last hundredths of one.
        """
        if beamtime not in self._dirty:
            return []
        now = self.clock()
        # Of each beamtime by itself: a busy one must not keep the marks of a quiet one back.
        before = self._written_at.get(beamtime)
        if before is not None and now - before < limits.WRITE_BEHIND_SECONDS and not at_once:
            return []
        self._written_at[beamtime] = now
        dirty = self._dirty.pop(beamtime)
        return [
            op for (view, name), group in dirty.items() for op in self._drain(view, name, group)
        ]

    def dirty_beamtimes(self) -> list[str]:
        return list(self._dirty)

    def touch(self, view: View, name: str, group: GroupStream) -> None:
        """Note that a group may have something to be written behind."""
        if group.dirty:
            dirty = self._dirty.get(view.beamtime)
            if dirty is None:
                dirty = self._dirty[view.beamtime] = {}
            dirty[(view, name)] = group

    def _drain(self, view: View, name: str, group: GroupStream) -> list[Op]:
        if not group.dirty or view.deleting or view.groups.get(name) is not group:
            return []
        done, dead, id_position, counts = group.drain()
        now_ns = time.time_ns()
        marks: list[Op] = [
            ops.Mark(
                name, view.source, view.name, State.DONE, done, id_position, counts, now_ns=now_ns
            )
        ]
        if dead:
            marks.append(ops.Mark(name, view.source, view.name, State.DEAD, dead, now_ns=now_ns))
        return marks

    def _make_room(self, view: View) -> None:
        """Forget groups whose state is all in the catalog and that hold no leases."""
        for name, group in list(view.groups.items()):
            if not (group.dirty or group.leased() or group.users):
                del view.groups[name]
        if len(view.groups) >= limits.GROUPS_PER_STREAM_MAX:
            raise TooMany(f"stream {view.name!r} has too many groups in use at once")


def _nothing(outcome: Sequence[ops.Result] | Error) -> None:
    """A message that is open in the catalog too late is delivered again after a crash."""


def _end(view: View, group: GroupStream) -> Nothing:
    """The answer at the end of a stream.

    It has not ended for a group that waits for an acknowledgement: the message may come again.
    """
    return Nothing(view.id_max, view.id_max, view.finished and not group.leased())


def check_kind(view: View, want: Want | None) -> None:
    """Raise `BadInput` when datasets are asked for and the stream has messages, or the reverse."""
    if view.visible_seq and view.datasets != (want is not None):
        has, use = (
            ("datasets", "the calls for datasets")
            if view.datasets
            else (
                "single messages",
                "the calls for messages",
            )
        )
        raise BadInput(f"stream {view.name!r} has {has}", hint=f"read it by {use}")


def select(dataset: Dataset, want: Want, delivery: Delivery | None = None) -> Found:
    """What a reader gets of a dataset (protocol section 6.5)."""
    parts = dataset.parts
    if want.substream:
        parts = tuple(part for part in parts if part.substream == want.substream)
        partial = not parts
        dataset = Dataset(dataset.seq, dataset.id, dataset.expected, dataset.ready_seq, parts)
    else:
        partial = len(parts) < (want.min_size or dataset.expected)
    return Found(dataset, delivery, partial)
