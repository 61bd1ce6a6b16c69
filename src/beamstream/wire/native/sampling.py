"""What a node tells those who watch over it: counters, and who is connected to what.

All that counts only grows, from the start of the node (`boot`) on; whoever wants rates and the
delays of the last seconds takes differences. A node that was restarted begins at zero.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from beamstream.wire.native.params import Params

ROWS_MAX = 1_000
"""Rows of one kind in one answer; the newest come first."""

Counts = Annotated[tuple[int, ...], msgspec.Meta(max_length=256)]


class Delays(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Delays in buckets whose borders are 2^(1/4) apart, from 1 µs on.

    `counts` are those of the buckets `first`, `first` + 1 …; the others are empty.
    """

    first: int = 0
    counts: Counts = ()


class ProducerStat(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes a source. `connected`: has a connection now; `last_ns`: its newest message."""

    beamtime: str
    source: str
    step: str
    instance: str
    address: str
    connected: bool
    messages: int
    nbytes: int
    last_ns: int


class EdgeStat(msgspec.Struct, frozen=True, kw_only=True):
    """Who reads a source as which group: one row for each step and instance.

    `again`: deliveries that were not the first of their message. `delivered` and `acknowledged`:
    time since the arrival of the message.
    """

    beamtime: str
    source: str
    group: str
    step: str
    instance: str
    connected: bool
    messages: int
    nbytes: int
    again: int
    acks: int
    last_ns: int
    delivered: Delays
    acknowledged: Delays


class StreamStat(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that somebody uses."""

    beamtime: str
    source: str
    stream: str
    count: int
    max_id: int
    last_id: int
    skipped: int
    created_ns: int
    last_ns: int


class GroupStat(msgspec.Struct, frozen=True, kw_only=True):
    """A group in a stream, of those that somebody uses.

    `open`: messages that are not handed out; `oldest_ns`: arrival of the oldest of them, 0 without
    any. `leased_s`: since the oldest lease was given.
    """

    beamtime: str
    source: str
    stream: str
    group: str
    open: int
    leased: int
    dead: int
    redelivered: int
    oldest_ns: int
    leased_s: float
    members: tuple[str, ...]


class BeamtimeStat(msgspec.Struct, frozen=True, kw_only=True):
    """`streams`: those in use. `cache_used_nbytes`: what it has in the cache; `cache_share_nbytes`:
    what it may have."""

    beamtime: str
    streams: int
    cache_used_nbytes: int
    cache_share_nbytes: int


class LimitStat(msgspec.Struct, frozen=True, kw_only=True):
    """`unit` is "B" for bytes, else a word, or empty for a number."""

    name: str
    used: float
    limit: float
    unit: str = ""


class ErrorStat(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    count: int
    last_ns: int
    text: str


class NodeStat(msgspec.Struct, frozen=True, kw_only=True):
    node: int
    boot: int
    software: str
    up_s: float
    cpu_s: float
    rss_nbytes: int
    cache_nbytes: int
    cache_used_nbytes: int
    cache_pinned_nbytes: int
    evicted: int
    disk_free_nbytes: int
    disk_nbytes: int
    messages_in: int
    nbytes_in: int
    messages_out: int
    nbytes_out: int
    refused: int
    cache_hits: int
    cache_misses: int
    files: int
    files_nbytes: int
    connections: dict[str, int]
    """By door."""


class GetStats(Params, frozen=True, kw_only=True):
    """Counters of the connection's beamtime, or (`beamtime` "*", with the right `admin`) of all.

    `streams` False leaves streams and groups out. Result: `Stats`.
    """

    beamtime: str = ""
    streams: bool = True


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """All of it at `time_ns`. `more`: there are more streams than were told."""

    time_ns: int
    node: NodeStat
    beamtimes: tuple[BeamtimeStat, ...] = ()
    producers: tuple[ProducerStat, ...] = ()
    edges: tuple[EdgeStat, ...] = ()
    streams: tuple[StreamStat, ...] = ()
    groups: tuple[GroupStat, ...] = ()
    limits: tuple[LimitStat, ...] = ()
    errors: tuple[ErrorStat, ...] = ()
    more: bool = False
