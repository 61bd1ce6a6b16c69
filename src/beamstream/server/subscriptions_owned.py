"""Messages that belong to members: each is handed what is its own, and what is nobody's yet.

Messages of a member without credit wait; those of others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import msgspec

from beamstream.server.affinity import Affinity, Key, block_of, value_of
from beamstream.server.blocks import Block
from beamstream.server.groups import GroupStream
from beamstream.server.streams import Streams, View
from beamstream.server.subscriptions_members import Member
from beamstream.wire.native.frames import Subscribe

_SCAN_MAX = 4_096
"""Messages that are looked at for one offer before the loop sees to others."""

_BLOCK = 256
_KEYS_MAX = 16_384
_TIDY = 256
"""After so many new blocks of ids it is looked which are settled."""


class _Run(msgspec.Struct, frozen=True):
    """Messages `lo` … `hi` - 1 (seqs) of a block for one member; `fresh`: a key it owns then."""

    block: Block
    lo: int
    hi: int
    fresh: Key | None


class Owned:
    """Finds what a member may be handed, in one stream for one group."""

    def __init__(self, streams: Streams, view: View, group: GroupStream) -> None:
        self._streams = streams
        self._view = view
        self._group = group
        self._affinity = Affinity()
        self._from: dict[Hashable, int] = {}
        """Where each owner looks: open messages before belong to others."""
        self._known = (0, group.moves)
        self._keys: dict[int, Key | None] = {}
        """Keys of messages by seq, some of those that were looked at."""
        self.unfinished = False

    def forget(self, owner: Hashable) -> None:
        """A member has left."""
        self._affinity.forget(owner)
        self._from.pop(owner, None)

    def due(self, member: Member, now: float) -> _Run | None:
        """What is due again and belongs to the member, or to nobody."""
        left = _SCAN_MAX
        for lo, hi in self._group.due_ranges(now):
            while lo < hi and left > 0:
                block = self._streams.block_at(self._view, lo, _BLOCK)
                if block is None:
                    self._group.drop(lo, lo + 1)
                    lo, left = lo + 1, left - 1
                    continue
                end = min(hi, block.end, lo + left)
                found = self._first(member, block, lo, end)
                if found is not None:
                    return found
                lo, left = end, left - (end - lo)
        return None

    def open(self, member: Member, passed: Callable[[int, int], bool]) -> _Run | None:
        """What is open and belongs to the member, or to nobody; `passed` passes over skips."""
        self.unfinished = False
        known = (self._affinity.version, self._group.moves)
        if known != self._known:
            self._known = known
            self._from.clear()
        left, at = _SCAN_MAX, self._from.get(member.owner, 1)
        while left > 0:
            first = self._group.first_open(at, self._view.visible_seq + 1)
            if first is None:
                self._from[member.owner] = self._view.visible_seq + 1
                return None
            lo, hi = first
            block = self._streams.block_at(self._view, lo, _BLOCK)
            if block is None:
                passed(lo, hi)
                left, at = left - 1, lo
                continue
            end = min(hi, block.end, lo + left)
            found = self._first(member, block, lo, end)
            at = self._from[member.owner] = found.lo if found is not None else end
            if found is not None:
                return found
            left -= end - lo
        self.unfinished = True
        return None

    def taken(self, member: Member, run: _Run, hi: int) -> None:
        """The member was handed what was found, up to `hi`."""
        for seq in range(run.lo, hi):
            self._keys.pop(seq, None)
        if run.fresh is None:
            return
        self._affinity.take(run.fresh, member.owner)
        if isinstance(run.fresh, int) and len(self._affinity) % _TIDY == 0:
            self._tidy(member.frame.sticky)

    # ------------------------------------------------------------------ inside

    def _first(self, member: Member, block: Block, lo: int, hi: int) -> _Run | None:
        """The first messages of [lo, hi) that may go to this member under one lease.

        It gets one more key at a time: others want some, too.
        """
        for at in range(lo, hi):
            key = self._key(member.frame, block, at)
            owner = self._affinity.owner(key) if key is not None else None
            if owner is None or owner == member.owner:
                break
        else:
            return None
        fresh = key if owner is None else None
        end = at + 1
        while end < min(hi, at + member.batch_max) and self._goes_along(member, block, end, fresh):
            end += 1
        return _Run(block, at, end, fresh)

    def _goes_along(self, member: Member, block: Block, seq: int, fresh: Key | None) -> bool:
        key = self._key(member.frame, block, seq)
        return key is None or key == fresh or self._affinity.owner(key) == member.owner

    def _key(self, frame: Subscribe, block: Block, seq: int) -> Key | None:
        at = seq - block.seq
        if frame.sticky:
            return block_of(block.ids[at], frame.sticky)
        if block.metas is None:
            return None
        if seq in self._keys:
            return self._keys[seq]
        if len(self._keys) >= _KEYS_MAX:
            self._keys.clear()
        key = self._keys[seq] = value_of(block.metas[at], frame.key)
        return key

    def _tidy(self, ids: int) -> None:
        """Forget blocks of ids that are settled."""
        if not self._view.in_order:
            return
        seq = self._group.settled_seq()
        block = self._streams.block_at(self._view, seq, 1)
        if block is not None:
            self._affinity.passed(block_of(block.ids[seq - block.seq], ids))
