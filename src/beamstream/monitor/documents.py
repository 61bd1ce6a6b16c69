"""What the page and the API are sent; names and units are the same in the page's `types.ts`.

Rates are per second, `_s` seconds, `_ms` milliseconds, `_ns` nanoseconds since 1970 UTC.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Health = Literal["live", "idle", "gone", "missing", "undeclared"]
GroupHealth = Literal["ok", "slow", "stuck", "gone"]
Trend = Literal["losing", "steady", "gaining", "idle"]
Role = Literal["viewer", "operator", "admin"]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all that is sent."""


class Quantiles(Document, frozen=True, kw_only=True):
    """Of the last seconds; None when nothing was counted."""

    p50: float | None = None
    p99: float | None = None


class CacheUse(Document, frozen=True, kw_only=True):
    nbytes: int
    used: int
    pinned: int
    evicted: int


class DiskUse(Document, frozen=True, kw_only=True):
    """`full_in_s`: at the rate of the last minute; None when it does not fill."""

    free: int
    nbytes: int
    full_in_s: float | None = None


class NodeRates(Document, frozen=True, kw_only=True):
    in_messages: float = 0.0
    in_nbytes: float = 0.0
    out_messages: float = 0.0
    out_nbytes: float = 0.0
    files: float = 0.0


class NodeState(Document, frozen=True, kw_only=True):
    """`cpu`: cores in use."""

    name: str
    version: str
    state: Literal["live", "stale"]
    up_s: float
    cpu: float
    rss_nbytes: int
    cache: CacheUse
    disk: DiskUse
    rates: NodeRates
    connections: int


class Producer(Document, frozen=True, kw_only=True):
    step: str
    instance: str
    address: str
    connected: bool
    rate: float
    nbytes_rate: float
    age_s: float
    state: Health


class SourceState(Document, frozen=True, kw_only=True):
    """`age_s`: of the newest message. `count`, `nbytes`: since the node was started. `lost`: ids
    that are missing below the largest of the newest stream."""

    beamtime: str
    source: str
    producers: tuple[Producer, ...]
    streams: int
    rate: float
    nbytes_rate: float
    age_s: float | None
    count: int
    nbytes: int
    last_stream: str
    last_id: int
    lost: int
    state: Health


class Member(Document, frozen=True, kw_only=True):
    step: str
    instance: str
    connected: bool


class EdgeState(Document, frozen=True, kw_only=True):
    """A group that reads a source. Delays are since the arrival of the message's last byte."""

    beamtime: str
    source: str
    group: str
    members: tuple[Member, ...]
    rate: float
    nbytes_rate: float
    delivered_ms: Quantiles
    acked_ms: Quantiles
    age_s: float | None
    state: Health


class GroupState(Document, frozen=True, kw_only=True):
    """A group in a stream. `lag`: messages that are not settled. `evict_in_s`: until the oldest of
    them leaves the cache."""

    beamtime: str
    source: str
    stream: str
    group: str
    lag: int
    lag_s: float
    trend: Trend
    unacked_s: float
    redelivered: int
    dead: int
    members: tuple[str, ...]
    rate: float
    evict_in_s: float | None
    state: GroupHealth


class StepState(Document, frozen=True, kw_only=True):
    """A step of a declared pipeline; `running`: members that are connected."""

    pipeline: str
    step: str
    replicas: int
    running: int
    reads: tuple[str, ...]
    writes: str
    state: Health
    version: int = 0
    beamtime: str = ""


class LimitState(Document, frozen=True, kw_only=True):
    name: str
    used: float
    limit: float
    unit: str


class ErrorState(Document, frozen=True, kw_only=True):
    code: str
    count: int
    last_s: float
    text: str
    hint: str


class Snapshot(Document, frozen=True, kw_only=True):
    """All that a page shows at one moment."""

    node: NodeState
    sources: tuple[SourceState, ...] = ()
    edges: tuple[EdgeState, ...] = ()
    groups: tuple[GroupState, ...] = ()
    steps: tuple[StepState, ...] = ()
    limits: tuple[LimitState, ...] = ()
    errors: tuple[ErrorState, ...] = ()
    sentence: str = ""


class Me(Document, frozen=True, kw_only=True):
    role: Role
    beamtimes: tuple[str, ...]
    nodes: tuple[str, ...]
    version: str
    loopback: bool


class Failure(Document, frozen=True, kw_only=True):
    """The answer when something cannot be done."""

    code: str
    message: str
    hint: str = ""


class Series(Document, frozen=True, kw_only=True):
    """`times`: seconds since 1970 UTC; values None where nothing was sampled."""

    times: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]]


class StreamRow(Document, frozen=True, kw_only=True):
    """`strip`: of up to 100 stretches of ids the share that is there. `nbytes` None: not measured
    yet, asking again tells."""

    beamtime: str
    source: str
    stream: str
    count: int
    nbytes: int | None
    max_id: int
    last_id: int
    created_ns: int
    last_ns: int
    strip: tuple[float, ...]
    comment: str
    tags: tuple[str, ...]


class StreamPage(Document, frozen=True, kw_only=True):
    """`more`: what to ask for as `after`; empty at the end."""

    rows: tuple[StreamRow, ...]
    more: str = ""


class StreamAbout(Document, frozen=True, kw_only=True):
    row: StreamRow
    header: dict[str, Any] | None
    header_version: int
    gaps: tuple[tuple[int, int], ...]
    gaps_more: bool


class MessageRow(Document, frozen=True, kw_only=True):
    id: int
    size: int
    timestamp_ns: int
    name: str
    meta: dict[str, Any]


class MessagePage(Document, frozen=True, kw_only=True):
    rows: tuple[MessageRow, ...]


class Origin(Document, frozen=True, kw_only=True):
    """A message and what it was made of; `count` inputs, of which `inputs` has the first."""

    source: str
    stream: str
    id: int
    run: int = 0
    step: str = ""
    code: str = ""
    parameters: dict[str, Any] = {}
    count: int = 0
    inputs: tuple[Origin, ...] = ()


class MessageAbout(MessageRow, frozen=True, kw_only=True):
    digest: str
    dtype: str
    shape: tuple[int, ...]
    origin: Origin | None


class Hit(Document, frozen=True, kw_only=True):
    source: str
    stream: str
    id: int
    size: int
    meta: dict[str, Any]


class Hits(Document, frozen=True, kw_only=True):
    """`looked`: how far the search has looked, in words. `more`: it can go on from `after`."""

    hits: tuple[Hit, ...]
    looked: str
    more: bool
    after: str = ""


class AtNode(Document, frozen=True, kw_only=True):
    """`node`: where several are watched; empty: the first one."""

    node: str = ""


class SeekAsked(AtNode, frozen=True, kw_only=True):
    """`at`: an id, or nanoseconds since 1970 UTC."""

    beamtime: str
    source: str
    stream: str
    group: str
    to: Literal["begin", "end", "id", "time"]
    at: int = 0
    dry_run: bool = True


class SeekDone(Document, frozen=True, kw_only=True):
    """Messages that the group would not read any more, and that it would read again."""

    skipped: int
    reopened: int


class GroupAsked(AtNode, frozen=True, kw_only=True):
    beamtime: str
    source: str
    stream: str
    group: str


class Count(Document, frozen=True, kw_only=True):
    count: int


class DeadLetter(Document, frozen=True, kw_only=True):
    id: int
    error: str
    traceback: str


class DeadLetters(Document, frozen=True, kw_only=True):
    letters: tuple[DeadLetter, ...]


class NoteAsked(AtNode, frozen=True, kw_only=True):
    beamtime: str
    source: str
    stream: str
    comment: str
    tags: tuple[str, ...]


class ReplayAsked(AtNode, frozen=True, kw_only=True):
    beamtime: str
    source: str
    stream: str
    range: str = ""
    to: str = "stream:"
    rate: str = "original"
    dry_run: bool = True


class ReplayPlan(Document, frozen=True, kw_only=True):
    count: int
    nbytes: int
    cached: int
    files: int
    log: int
    gone: int
    target: str
    seconds: float | None
    warnings: tuple[str, ...]


class ReplayJob(Document, frozen=True, kw_only=True):
    id: str
    address: str
    target: str
    state: Literal["running", "done", "failed", "cancelled"]
    done: int
    total: int
    rate: float
    left_s: float | None
    error: str


class ReplayJobs(Document, frozen=True, kw_only=True):
    jobs: tuple[ReplayJob, ...]


class LoginAsked(AtNode, frozen=True, kw_only=True):
    token: str


class SnapshotFrame(Document, frozen=True, kw_only=True, tag_field="type", tag="snapshot"):
    """What a WebSocket is sent: `t` milliseconds since 1970 UTC, `stale_s` seconds since the node
    has answered."""

    t: int
    seq: int
    node: str
    stale_s: float
    data: Snapshot


class ErrorFrame(Document, frozen=True, kw_only=True, tag_field="type", tag="error"):
    code: str
    message: str
    hint: str = ""


class WatchOverview(Document, frozen=True, kw_only=True):
    beamtime: str = ""


class WatchPreview(Document, frozen=True, kw_only=True):
    beamtime: str
    source: str
    stream: str
    max_px: int = 512
    hz: float = 5.0


class Watch(AtNode, frozen=True, kw_only=True):
    overview: WatchOverview | None = None
    preview: WatchPreview | None = None


class Told(Document, frozen=True, kw_only=True):
    """What a WebSocket takes: what its tab watches from now on, whether it is hidden."""

    watch: Watch | None = None
    pause: bool | None = None


class NodeHealth(Document, frozen=True, kw_only=True):
    name: str
    stale_s: float
    error: str = ""


class MonitorHealth(Document, frozen=True, kw_only=True):
    """How the monitor itself is."""

    version: str
    up_s: float
    feeds: int
    previews: int
    series: int
    nodes: tuple[NodeHealth, ...]


class Done(Document, frozen=True, kw_only=True):
    done: bool = True
