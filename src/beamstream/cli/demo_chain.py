"""What the demo knows of its pipeline: rates and delays per step, and whether the counts agree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from beamstream.cli.demo_figures import Figures

GIVEN_UP: Final = ""
"""Stands for the sources of what steps have failed on."""

REMEMBERED_MAX: Final = 200_000
"""Frames of which the detector's time is kept for delays."""


class Seen(NamedTuple):
    """A message as its stream tells it, without the payload."""

    id: int
    timestamp_ns: int
    nbytes: int
    peaks: int = -1


class Ids:
    """A set of ids, 1, 2, 3 … with few holes: a byte each, so that a day's run has room.

    >>> ids = Ids()
    >>> ids.add(3), ids.add(3), len(ids), 3 in ids, 4 in ids
    (True, False, 1, True, False)
    """

    def __init__(self) -> None:
        self._there = bytearray(1024)
        self._count = 0
        self._first_missing = 1

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id: int) -> bool:
        return id < len(self._there) and self._there[id] == 1

    def add(self, id: int) -> bool:
        """Add an id; whether it is new."""
        if id >= len(self._there):
            self._there.extend(bytes(max(id + 1, 2 * len(self._there)) - len(self._there)))
        new = not self._there[id]
        self._there[id] = 1
        self._count += new
        return new

    @property
    def first_missing(self) -> int:
        """The first id that is not there.

        >>> ids = Ids()
        >>> ids.add(1), ids.add(2), ids.add(4), ids.first_missing
        (True, True, True, 3)
        """
        found = self._there.find(0, self._first_missing)
        self._first_missing = found if found >= 0 else len(self._there)
        return self._first_missing

    def without(self, others: Ids) -> int:
        """Return how many ids are in this set and not in the other."""
        mine = np.frombuffer(self._there, np.bool_)
        theirs = np.frombuffer(others._there, np.bool_)[: len(mine)]
        return self._count - int(np.count_nonzero(mine[: len(theirs)] & theirs))


class Link:
    """A step of a chain, and what has come out of it. `skipped` and `dead`: what has not.

    Parameters
    ----------
    name, source : of the step, and what it writes.
    begin_s : when counting begins.
    """

    def __init__(self, name: str, source: str, begin_s: float) -> None:
        self.name = name
        self.source = source
        self.out = Figures(name, begin_s)
        self.dead = 0
        self.skipped = 0
        self.twice = 0
        self.ids = Ids()
        self._waiting: list[tuple[float, Seen]] = []

    def add(self, now_s: float, messages: Iterable[Seen]) -> None:
        """Note what has come out."""
        for message in messages:
            self.twice += not self.ids.add(message.id)
            self._waiting.append((now_s, message))

    def resolve(self, sent_ns: dict[int, int]) -> None:
        """Take delays of what has come out, as far as the detector's times are known."""
        left = []
        for now_s, message in self._waiting:
            began_ns = sent_ns.get(message.id)
            if began_ns is None:
                left.append((now_s, message))
                continue
            delay_ms = (message.timestamp_ns - began_ns) / 1e6
            self.out.add(now_s, 1, message.nbytes, message.id, [delay_ms])
        # What the detector's stream has not told soon was forgotten: it has no delay.
        for now_s, message in left[:-REMEMBERED_MAX]:
            self.out.add(now_s, 1, message.nbytes, message.id)
        self._waiting = left[-REMEMBERED_MAX:]


class Chain:
    """Steps behind each other, of which each keeps the ids of the one before.

    Parameters
    ----------
    steps : (name, source that it writes), in their order.
    peaks_of : name of the step whose results say how many peaks they have.
    kept_from : with so many peaks a frame is a hit.

    >>> chain = Chain("detector", [("bin", "binned"), ("hits", "hits")], 0.0, kept_from=1)
    >>> chain.saw("detector", 1.0, [Seen(1, 1_000_000, 8), Seen(2, 2_000_000, 8)])
    >>> chain.saw("binned", 1.0, [Seen(2, 5_000_000, 2), Seen(1, 6_000_000, 2)])
    >>> chain.steps[0].out.recent_quantiles()
    (3.0, 5.0)
    """

    def __init__(
        self,
        detector: str,
        steps: Iterable[tuple[str, str]],
        begin_s: float,
        *,
        peaks_of: str = "find_peaks",
        kept_from: int = 5,
    ) -> None:
        self.detector = Link("detector", detector, begin_s)
        self.steps = [Link(name, source, begin_s) for name, source in steps]
        self._peaks_of = peaks_of
        self._kept_from = kept_from
        self._sent_ns: dict[int, int] = {}
        self.through = Ids()
        """Ids that have come to the last step, or were given up before."""
        self.wanted = Ids()
        """Ids of frames with as many peaks as a hit has."""

    def saw(self, source: str, now_s: float, messages: Iterable[Seen]) -> None:
        """Note messages of a source."""
        messages = list(messages)
        if source == self.detector.source:
            self.detector.add(now_s, messages)
            self._sent_ns.update((message.id, message.timestamp_ns) for message in messages)
            while len(self._sent_ns) > REMEMBERED_MAX:
                del self._sent_ns[next(iter(self._sent_ns))]
            self.detector.resolve(self._sent_ns)
        if source in (self.steps[-1 if len(self.steps) == 1 else -2].source, GIVEN_UP):
            for message in messages:
                self.through.add(message.id)
        for link in self.steps:
            if link.source == source:
                link.add(now_s, messages)
                if link.name == self._peaks_of:
                    for message in messages:
                        if message.peaks >= self._kept_from:
                            self.wanted.add(message.id)
            link.resolve(self._sent_ns)

    def check(self) -> list[str]:
        """Return what does not agree along the chain; nothing if all of it does."""
        found = []
        before = self.detector.ids
        for link in self.steps:
            told = f"step {link.name!r}"
            came = len(link.ids)
            if link.twice:
                found.append(f"{told} wrote {link.twice} messages twice")
            if unread := link.ids.without(before):
                found.append(f"{told} wrote {unread} ids that it never read")
            if came + link.skipped + link.dead != len(before):
                found.append(
                    f"{told} read {len(before)}, and wrote {came}, skipped {link.skipped}, "
                    f"failed on {link.dead}"
                )
            before = link.ids
        missing, others = self.wanted.without(before), before.without(self.wanted)
        if self.steps and (missing or others):
            found.append(f"{missing} hits are missing, {others} are none")
        return found

    def document(self, end_s: float) -> dict[str, Any]:
        """All figures of the steps over the whole run, fit for JSON."""
        return {
            link.name: {
                **link.out.document(end_s),
                "skipped": link.skipped,
                "failed": link.dead,
                "twice": link.twice,
            }
            for link in self.steps
        }
