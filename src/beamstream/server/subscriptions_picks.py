"""What a member is handed next: unordered, by id, or only the newest."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import deque

import msgspec

from beamstream import limits
from beamstream.model import Dataset
from beamstream.server.blocks import Block
from beamstream.server.groups import GroupStream, Lease
from beamstream.server.streams import Streams, View
from beamstream.server.subscriptions_datasets import Datasets
from beamstream.server.subscriptions_members import Member
from beamstream.server.subscriptions_owned import Owned
from beamstream.store.catalog import Catalog
from beamstream.store.catalog.interface import END_OF_SEQS
from beamstream.wire.native.frames import Gap, Gaps, Mode

_STEPS_MAX = 64
"""Stretches that are looked at for one offer before the loop sees to others."""

_HEADER_NBYTES = limits.NATIVE_HEADER_NBYTES_MAX // 2
"""Columns of one delivery: half of what a frame may have, for they grow a little when packed."""

_IDS = 256
_DUE_MAX = 1_024
"""Messages that are due again among which the one with the smallest id is found."""
_GAPS = 1_000


class Offer(msgspec.Struct, frozen=True, gc=False):
    """What is handed out at once: the messages of a lease in a block, or datasets.

    `messages` and `nbytes` are what it costs of the member's credit.
    """

    lease: Lease
    messages: int
    nbytes: int
    block: Block | None = None
    datasets: list[Dataset] | None = None


class Picks:
    """Finds what is next in one stream for one group."""

    def __init__(self, catalog: Catalog, streams: Streams, view: View, group: GroupStream) -> None:
        self._catalog = catalog
        self._streams = streams
        self._view = view
        self._group = group
        self.datasets = Datasets(streams, view, group)
        self.owned = Owned(streams, view, group)
        self.unfinished = False
        """There may be something, but looking for it has taken long enough."""
        self._late: deque[int] = deque()
        self._seen_seq = view.visible_seq
        self._left_out_seq = view.visible_seq
        self._moves = group.moves

    def next(self, member: Member, ref: int, now: float, wall_s: float) -> Offer | None:
        """Lease what is next for a member, as much as its credit allows; None for nothing."""
        self.unfinished = False
        if self._moves != self._group.moves:
            self._reset()
        if self._group.from_id:
            self._leave_out()
        if self._view.datasets:
            found = self.datasets.next(member, now, wall_s)
            self.unfinished = self.datasets.unfinished
            if found is None:
                return None
            lease, items = found
            parts = [part for item in items for part in item.parts]
            nbytes = sum(part.size for part in parts)
            return Offer(lease, len(parts), nbytes, None, items)
        if member.frame.mode == Mode.NEWEST:
            return self._newest(member, now)
        if member.owns:
            return self._by_owner(member, now)
        for _ in range(_STEPS_MAX):
            due = self._first_due(member, now)
            if due is None:
                break
            lo, hi = due
            block = self._streams.block_at(self._view, lo, member.batch_max)
            if block is None:
                # It was deleted, or is a skip: nobody can be handed it.
                self._group.drop(lo, lo + 1)
                continue
            return self._offer(member, block, lo, hi, now, due=True)
        if member.frame.mode == Mode.ORDERED:
            return self._by_id(member, ref, now)
        return self._by_seq(member, now)

    def open(self, wall_s: float) -> bool:
        """Whether anything that is visible is still to be handed out."""
        if self._view.datasets:
            return self.datasets.open(wall_s)
        for _ in range(_STEPS_MAX):
            first = self._group.first_open(1, self._view.visible_seq + 1)
            if first is None:
                return False
            if not self._passed(*first):
                return True
        self.unfinished = True
        return True

    def settled_seq(self) -> int:
        """Everything that is visible before this seq is settled; skips that follow are passed."""
        group, view = self._group, self._view
        for _ in range(_STEPS_MAX):
            seq = group.settled_seq()
            if seq > view.visible_seq or not group.is_open(seq):
                break
            if not self._passed(seq, view.visible_seq + 1):
                break
        return group.settled_seq()

    def _reset(self) -> None:
        """What was passed may be open again: forget what was found out."""
        self._moves = self._group.moves
        self._late.clear()
        self._seen_seq = 0
        self._group.near_seq = 0
        self.datasets.reset()

    def _leave_out(self) -> None:
        """Messages that came since the group was begun at an id, and have smaller ones."""
        view, group = self._view, self._group
        while self._left_out_seq < view.visible_seq:
            seq = self._left_out_seq + 1
            if view.datasets:
                ids = [item.id for item in self._streams.items(view, seq, seq + 1)]
                end = seq + 1
            else:
                block = self._streams.block_at(view, seq, _IDS)
                end = block.end if block else max(self._streams.next_message(view, seq), seq + 1)
                ids = list(block.ids[seq - block.seq :]) if block else []
            if ids and min(ids) < group.from_id:
                for at, id in enumerate(ids, seq):
                    if id < group.from_id and group.is_open(at):
                        group.pass_over(at, at + 1)
            self._left_out_seq = end - 1

    # ------------------------------------------------------------------ by seq

    def _by_seq(self, member: Member, now: float) -> Offer | None:
        group, view = self._group, self._view
        for _ in range(_STEPS_MAX):
            first = group.first_open(1, view.visible_seq + 1)
            if first is None:
                return None
            lo, hi = first
            block = self._streams.block_at(view, lo, member.batch_max)
            if block is None:
                self._passed(lo, hi)
                continue
            offer = self._offer(member, block, lo, hi, now)
            if offer is not None or group.is_open(lo):
                return offer
        self.unfinished = True
        return None

    def _passed(self, lo: int, hi: int) -> bool:
        """Leave out the skips at the beginning of an open stretch; False if there are none."""
        end = min(self._streams.next_message(self._view, lo), hi)
        self._group.pass_over(lo, end)
        return end > lo

    def _offer(
        self, member: Member, block: Block, lo: int, hi: int, now: float, *, due: bool = False
    ) -> Offer | None:
        """Lease as much of [lo, hi) as lies in the block and the member has credit for."""
        index = lo - block.seq
        most = min(member.batch_max, member.messages, hi - lo, block.count - index)
        count = self._fitting(member, block, index, most)
        if not count:
            return None
        group = self._group
        if due:
            lease: Lease | None = group.lease_due(lo + count, now, member.hold, lo)
        else:
            lease = group.lease(lo, lo + count, now, member.hold)
        if lease is None:
            return None
        count = lease.hi - lease.lo
        return Offer(lease, count, block.nbytes(index, index + count), block)

    def _fitting(self, member: Member, block: Block, index: int, most: int) -> int:
        """How many of up to `most` messages fit into the credit in bytes, and into a header."""
        offsets = block.offsets
        if member.frame.payloads and offsets[index + most] - offsets[index] > member.nbytes:
            end = bisect_right(offsets, offsets[index] + member.nbytes, index, index + most + 1)
            most = max(end - 1 - index, 0) if member.nbytes >= 0 else 0
            if not most and member.idle:
                most = 1
        if most > 1 and block.kept_nbytes() > _HEADER_NBYTES:
            nbytes = 0
            for count, at in enumerate(range(index, index + most)):
                nbytes += block.text_nbytes(at)
                if nbytes > _HEADER_NBYTES:
                    return max(count, 1)
        return most

    # ------------------------------------------------------------------ by owner

    def _by_owner(self, member: Member, now: float) -> Offer | None:
        run = self.owned.due(member, now)
        again = run is not None
        if run is None:
            run = self.owned.open(member, self._passed)
            self.unfinished = self.owned.unfinished
        if run is None:
            return None
        offer = self._offer(member, run.block, run.lo, run.hi, now, due=again)
        if offer is not None:
            self.owned.taken(member, run, offer.lease.hi)
        elif not again and not self._group.is_open(run.lo):
            # It had been delivered as often as allowed: look on.
            self.unfinished = True
        return offer

    # ------------------------------------------------------------------ by id

    def _by_id(self, member: Member, ref: int, now: float) -> Offer | None:
        group, view = self._group, self._view
        self._look_for_late()
        while self._late:
            seq = self._late.popleft()
            block = self._streams.block_at(view, seq, 1)
            if block is not None and group.is_open(seq):
                offer = self._offer(member, block, seq, seq + 1, now)
                if offer is None and group.is_open(seq):
                    self._late.appendleft(seq)
                return offer
        for _ in range(_STEPS_MAX):
            found = self._above(group.id_position)
            if found is None:
                return None
            id, seq = found
            expected = group.id_position + 1
            if id != expected and not self._pass_gap(member, ref, expected, id):
                return None
            block = self._streams.block_at(view, seq, member.batch_max)
            if block is None:
                return None
            end = self._following(block, seq)
            first = group.first_open(seq, end)
            if first is None:
                self._move_to(block, end)
                continue
            lo, hi = first
            if lo > seq:
                self._move_to(block, lo)
            offer = self._offer(member, block, lo, hi, now)
            if offer is not None:
                self._move_to(block, offer.lease.hi)
                return offer
            if group.is_open(lo):
                return None
        self.unfinished = True
        return None

    def _first_due(self, member: Member, now: float) -> tuple[int, int] | None:
        """What is due again first; for who reads a stream in order and alone, by id."""
        first = self._group.first_due(now)
        if first is None or not (member.frame.exclusive and member.frame.mode == Mode.ORDERED):
            return first
        ranges = self._group.due_ranges(now)
        if self._view.in_order:
            return ranges[0]
        seqs = itertools.chain.from_iterable(itertools.starmap(range, ranges))
        found: list[tuple[int, int]] = []
        block: Block | None = None
        for seq in itertools.islice(seqs, _DUE_MAX):
            if block is None or not block.seq <= seq < block.end:
                block = self._streams.block_at(self._view, seq, _IDS)
            # What was deleted is looked at first, to be left out.
            found.append((block.ids[seq - block.seq] if block is not None else 0, seq))
        seq = min(found)[1]
        return seq, seq + 1

    def _above(self, id: int) -> tuple[int, int] | None:
        """(id, seq) of the message with the smallest id above, if it is visible."""
        view, group = self._view, self._group
        if view.in_order and group.near_seq:
            seq = group.near_seq
            while seq <= view.visible_seq:
                block = self._streams.block_at(view, seq, _IDS)
                if block is None:
                    seq = max(self._streams.next_message(view, seq), seq + 1)
                    continue
                found = block.ids[seq - block.seq]
                if found > id:
                    return found, seq
                # The position was moved by somebody else.
                break
            else:
                return None
        if not view.no:
            return None
        pairs = self._catalog.ids(view.beamtime, view.no, id + 1, END_OF_SEQS, 1)
        return pairs[0] if pairs and pairs[0][1] <= view.visible_seq else None

    def _following(self, block: Block, seq: int) -> int:
        """The seq up to which the ids of a block follow each other, from `seq` on."""
        ids = block.ids
        if isinstance(ids, range):
            return block.end
        index = seq - block.seq
        while index + 1 < len(ids) and ids[index + 1] == ids[index] + 1:
            index += 1
        return block.seq + index + 1

    def _move_to(self, block: Block, seq: int) -> None:
        """All before `seq` is passed."""
        self._group.near_seq = seq
        self._group.move_id_position(block.ids[seq - 1 - block.seq])

    def _pass_gap(self, member: Member, ref: int, lo: int, hi: int) -> bool:
        """The ids `lo` … `hi` - 1 are not there: pass those that were skipped, or may be.

        False if one has to be waited for.
        """
        view, gaps = self._view, member.frame.gaps
        missing = self._catalog.gaps(view.beamtime, view.no, lo, hi, _GAPS)
        if missing and (gaps == Gaps.WAIT or (gaps == Gaps.FINISHED and not view.finished)):
            if missing[0][0] > lo:
                self._group.move_id_position(missing[0][0] - 1)
            return False
        if gaps in (Gaps.REPORT, Gaps.FINISHED):
            for start, end in missing:
                member.outlet.gap(Gap(member.channel, ref, start, end))
        self._group.move_id_position(hi - 1)
        return True

    def _look_for_late(self) -> None:
        """Find open messages whose ids the position has passed, of those not looked at before."""
        view, group = self._view, self._group
        for _ in range(_STEPS_MAX):
            first = group.first_open(self._seen_seq + 1, view.visible_seq + 1)
            if first is None:
                self._seen_seq = view.visible_seq
                return
            seq = first[0]
            block = self._streams.block_at(view, seq, _IDS)
            if block is None:
                self._seen_seq = max(self._streams.next_message(view, seq) - 1, seq)
                continue
            hi = min(block.end, first[1])
            ids = block.ids[seq - block.seq : hi - block.seq]
            if min(ids) <= group.id_position:
                self._late += [seq + at for at, id in enumerate(ids) if id <= group.id_position]
            elif view.in_order:
                # Nor has it passed what lies behind.
                self._seen_seq = view.visible_seq
                return
            self._seen_seq = hi - 1
        self.unfinished = True

    # ------------------------------------------------------------------ newest

    def _newest(self, member: Member, now: float) -> Offer | None:
        group, view = self._group, self._view
        last = self._streams.last(view)
        if last is None:
            return None
        seq = last.seq
        group.abandon(1, seq, now)
        group.abandon(seq + 1, view.visible_seq + 1, now)
        block = self._streams.block_at(view, seq, 1)
        if block is None:
            return None
        if group.is_open(seq):
            return self._offer(member, block, seq, seq + 1, now)
        if group.first_due(now) == (seq, seq + 1):
            return self._offer(member, block, seq, seq + 1, now, due=True)
        return None
