"""Counters: plain integers, bumped where things happen, read by others at their own pace.

Bounded tables of live producers and of edges (a source and the group that reads it) exist from
the start; every door hands on who its client is. Delays go into fixed logarithmic buckets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from beamstream import limits
from beamstream.errors import Error
from beamstream.model import Who

BUCKETS_PER_OCTAVE = 4
BUCKETS = 36 * BUCKETS_PER_OCTAVE
_TEXT_NCHARS_MAX = 200


class Histogram:
    """Delays from 1 µs to 19 h in buckets whose borders are 2^(1/4) apart.

    >>> delays = Histogram()
    >>> delays.add(1_000_000)
    >>> 0.8e6 < delays.quantile(0.5) < 1.3e6
    True
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total = 0

    def add(self, delay_ns: int, times: int = 1) -> None:
        micros = delay_ns // 1000
        if micros < 1:
            index = 0
        else:
            octave = micros.bit_length() - 1
            # The two bits behind the leading one divide the octave in four.
            quarter = ((micros << 2) >> octave) & 3
            index = min(octave * BUCKETS_PER_OCTAVE + quarter, BUCKETS - 1)
        self.counts[index] += times
        self.total += times

    def quantile(self, share: float) -> float:
        """Nanoseconds below which `share` of the delays are; 0 without any."""
        wanted = share * self.total
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                octave, quarter = divmod(index, BUCKETS_PER_OCTAVE)
                return float((1 << octave) * (1 + (quarter + 0.5) / 4) * 1000)
        return 0.0


class ProducerCounts:
    __slots__ = ("address", "last_ns", "messages", "nbytes")

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages = 0
        self.nbytes = 0
        self.last_ns = 0


class EdgeCounts:
    """What a group got from a stream's source, through which step and instance."""

    __slots__ = ("acknowledged", "again", "delivered", "last_ns", "messages", "nbytes")

    def __init__(self) -> None:
        self.messages = 0
        self.nbytes = 0
        self.again = 0
        self.last_ns = 0
        self.delivered = Histogram()
        self.acknowledged = Histogram()


class ErrorCount:
    """How often somebody was told an error of this code, and the newest one."""

    __slots__ = ("count", "last_ns", "text")

    def __init__(self) -> None:
        self.count = 0
        self.last_ns = 0
        self.text = ""


ProducerKey = tuple[str, str, str, str]
EdgeKey = tuple[str, str, str, str, str]


class Stats:
    """All counters of a node."""

    def __init__(self) -> None:
        self.producers: dict[ProducerKey, ProducerCounts] = {}
        self.edges: dict[EdgeKey, EdgeCounts] = {}
        self.errors: dict[str, ErrorCount] = {}
        self.files = 0
        self.files_nbytes = 0
        self.messages_in = 0
        self.nbytes_in = 0
        self.messages_out = 0
        self.cache_hits = 0
        self.cache_misses = 0
        self.nbytes_out = 0
        self.refused = 0

    def arrived(self, beamtime: str, source: str, who: Who, nbytes: int, count: int = 1) -> None:
        self.messages_in += count
        self.nbytes_in += nbytes
        key = (beamtime, source, who.step, who.instance)
        counts = self.producers.get(key)
        if counts is None:
            while len(self.producers) >= limits.CLIENTS_MAX:
                del self.producers[next(iter(self.producers))]
            counts = self.producers[key] = ProducerCounts(who.address)
        counts.messages += count
        counts.nbytes += nbytes
        counts.last_ns = time.time_ns()

    def handed_out(
        self,
        beamtime: str,
        source: str,
        group: str,
        who: Who,
        delay_ns: int,
        count: int,
        messages: int = 1,
        nbytes: int = 0,
    ) -> None:
        """So many messages, each for the `count`-th time; the delay is that of the oldest."""
        self.messages_out += messages
        edge = self._edge((beamtime, source, group, who.step, who.instance))
        edge.messages += messages
        edge.nbytes += nbytes
        edge.last_ns = time.time_ns()
        if count > 1:
            edge.again += messages
        edge.delivered.add(delay_ns, messages)

    def acknowledged(
        self,
        beamtime: str,
        source: str,
        group: str,
        who: Who,
        delay_ns: int,
        messages: int = 1,
    ) -> None:
        edge = self._edge((beamtime, source, group, who.step, who.instance))
        edge.acknowledged.add(delay_ns, messages)

    def wrote_file(self, nbytes: int) -> None:
        self.files += 1
        self.files_nbytes += nbytes

    def failed(self, error: Error) -> None:
        """Somebody is told this error."""
        found = self.errors.get(error.code)
        if found is None:
            if len(self.errors) >= limits.ERRORS_COUNTED_MAX:
                return
            found = self.errors[error.code] = ErrorCount()
        found.count += 1
        found.last_ns = time.time_ns()
        found.text = error.message[:_TEXT_NCHARS_MAX]

    def lines(self) -> Iterator[str]:
        """A summary for the log at the end."""
        yield f"{self.messages_in} messages in, {self.nbytes_in / 1e9:.3f} GB"
        yield f"{self.messages_out} messages handed out, {self.nbytes_out / 1e9:.3f} GB"

    def _edge(self, key: EdgeKey) -> EdgeCounts:
        edge = self.edges.get(key)
        if edge is None:
            while len(self.edges) >= limits.EDGES_MAX:
                del self.edges[next(iter(self.edges))]
            edge = self.edges[key] = EdgeCounts()
        return edge
