"""Which beamtime has which arenas of the cache, and who gives one to whom. Pure.

Each beamtime that has arenas may have as many as any other; what nobody else asks for it may have
on top. Arenas that are lent to clients count as their beamtime's, which keeps one to itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from beamstream.store.rings import Arena, Ring


class Shares:
    """The arenas of a cache.

    An arena that is handed over has its slots still; whoever asked for it clears it.
    """

    def __init__(self, arenas: list[Arena]) -> None:
        self.free = arenas[::-1]
        """Nobody has ever had these."""
        self.count = len(arenas)
        self.rings: dict[str, Ring] = {}
        self.loans: list[Ring] = []

    def ring(self, beamtime: str) -> Ring:
        ring = self.rings.get(beamtime)
        if ring is None:
            ring = self.rings[beamtime] = Ring(beamtime)
        return ring

    def all(self) -> Iterator[Ring]:
        yield from self.rings.values()
        yield from self.loans

    def arenas_of(self, beamtime: str) -> Iterator[Arena]:
        for ring in self.all():
            if ring.beamtime == beamtime:
                yield from ring.arenas

    def share(self, beamtime: str) -> int:
        """How many arenas a beamtime may have while others want some."""
        active = {ring.beamtime for ring in self.all() if ring.arenas}
        return max(1, self.count // len(active | {beamtime}))

    def acquire(self, ring: Ring, *, under_readers: bool) -> Arena | None:
        """An arena for a beamtime's own ring, out of others' hands if need be.

        Parameters
        ----------
        under_readers : also one that readers have parts of.
        """
        if self.free:
            return self.free.pop()
        share = self.share(ring.beamtime)
        if ring.arenas and self._total(ring.beamtime) >= share:
            return None
        # The richest first; one without any arena takes even from those that have only their share.
        arena = self._from_others(ring, share if ring.arenas else 0, under_readers)
        self._forget_empty(ring)
        return arena

    def lend(self, loan: Ring, *, under_readers: bool) -> Arena | None:
        """An arena for a client of its beamtime.

        At most half of all are lent; the last of these is not a client's second.
        """
        lent = sum(len(other.arenas) for other in self.loans)
        if lent >= self.count // 2 - (1 if loan.arenas else 0):
            return None
        own = self.ring(loan.beamtime)
        if self.free and (own.arenas or len(self.free) > 1):
            return self.free.pop()
        share = self.share(loan.beamtime)
        arena = None
        if own.arenas and self._total(loan.beamtime) < share:
            arena = self._from_others(loan, share, under_readers)
        if arena is None and len(own.arenas) > 1:
            arena = give_up(own, under_readers)
        self._forget_empty(loan)
        return arena

    def take_back(self, loan: Ring) -> None:
        """What was lent is the beamtime's again; other memory is made before it is written to."""
        self.loans.remove(loan)
        own = self.ring(loan.beamtime)
        for arena in loan.arenas:
            arena.foreign = arena.ready
            own.add_newest(arena)
        loan.arenas = []

    def _total(self, beamtime: str) -> int:
        return sum(1 for _ in self.arenas_of(beamtime))

    def _from_others(self, ring: Ring, least: int, under_readers: bool) -> Arena | None:
        givers = [
            (total, other)
            for name, other in self.rings.items()
            if name != ring.beamtime and other.arenas and (total := self._total(name)) > least
        ]
        givers.sort(key=lambda giver: giver[0], reverse=True)
        for readers in (False, True) if under_readers else (False,):
            for _, giver in givers:
                arena = give_up(giver, readers)
                if arena is not None:
                    return arena
        return None

    def _forget_empty(self, keep: Ring) -> None:
        for name in [name for name, other in self.rings.items() if not other.arenas]:
            if name != keep.beamtime:
                del self.rings[name]


def give_up(ring: Ring, under_readers: bool) -> Arena | None:
    """Take the arena with the oldest payloads that nobody holds from a ring."""
    for arena in ring.oldest_first():
        if arena.ready and not (arena.in_use if under_readers else arena.pinned):
            ring.remove(arena)
            return arena
    return None
