"""The counters of a node as Prometheus reads them. Pure.

Names, units and labels are those of ``docs/reference/metrics.md``. A metric has at most so many
series; what is beyond them is summed under the label "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from beamstream.monitor import documents as doc
from beamstream.wire.native.sampling import Delays, Stats

SERIES_MAX: Final = 1_000
OTHER: Final = "other"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OCTAVES: Final = (7, 9, 10, 12, 13, 15, 16, 17, 18, 20, 23)
"""Upper bounds of the buckets, as powers of two of a microsecond; the twelfth has none."""
_PER_OCTAVE: Final = 4

Labels = tuple[str, ...]
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metric:
    """One metric: its series by the values of its labels.

    >>> metric = Metric("beamstream_x_total", "counter", "how many x", ("source",))
    >>> metric.add(("a",), 2)
    >>> print("".join(metric.lines()), end="")
    # HELP beamstream_x_total how many x
    # TYPE beamstream_x_total counter
    beamstream_x_total{source="a"} 2
    """

    def __init__(
        self,
        name: str,
        kind: str,
        text: str,
        labels: Labels = (),
        join: Callable[[float, float], float] = float.__add__,
    ) -> None:
        self.name = name
        self.kind = kind
        self.text = text
        self.labels = labels
        self._join = join
        self._values: dict[Labels, float] = {}

    def add(self, labels: Labels, value: float) -> None:
        """Count a value to its series, by `join`."""
        key = self._key(labels)
        before = self._values.get(key)
        self._values[key] = value if before is None else self._join(float(before), float(value))

    def _key(self, labels: Labels) -> Labels:
        if labels in self._values or len(self._values) < SERIES_MAX - 1:
            return labels
        return (OTHER,) * len(self.labels)

    def lines(self) -> Iterator[str]:
        if not self._values:
            return
        yield _head(self.name, self.kind, self.text)
        for labels, value in self._values.items():
            yield f"{self.name}{_braces(self.labels, labels)} {_number(value)}\n"


class Histogram:
    """Delays as a native histogram of Prometheus.

    The sum is made of the middles of fine buckets: it is within some per cent, and only grows.
    """

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self._series: dict[Labels, tuple[list[int], float]] = {}

    def add(self, labels: Labels, delays: Delays) -> None:
        key = labels
        if labels not in self._series and len(self._series) >= SERIES_MAX - 1:
            key = (OTHER,) * len(self.labels)
        counts, sum_s = self._series.get(key, ([0] * (len(OCTAVES) + 1), 0.0))
        for at, count in enumerate(delays.counts, delays.first):
            if count:
                octave, quarter = divmod(at, _PER_OCTAVE)
                counts[bisect(octave)] += count
                sum_s += count * (1 << octave) * (1 + (quarter + 0.5) / _PER_OCTAVE) / 1e6
        self._series[key] = (counts, sum_s)

    def lines(self) -> Iterator[str]:
        if not self._series:
            return
        yield _head(self.name, "histogram", self.text)
        for labels, (counts, sum_s) in self._series.items():
            below = 0
            for at, count in enumerate(counts):
                below += count
                bound = repr((1 << OCTAVES[at]) / 1e6) if at < len(OCTAVES) else "+Inf"
                braces = _braces((*self.labels, "le"), (*labels, bound))
                yield f"{self.name}_bucket{braces} {below}\n"
            braces = _braces(self.labels, labels)
            yield f"{self.name}_sum{braces} {_number(sum_s)}\n"
            yield f"{self.name}_count{braces} {below}\n"


def bisect(octave: int) -> int:
    """The bucket of an octave of delays: of the first bound that all of it is below.

    >>> bisect(0), bisect(6), bisect(7), bisect(40)
    (0, 0, 1, 11)
    """
    return next((at for at, bound in enumerate(OCTAVES) if octave < bound), len(OCTAVES))


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _braces(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = zip(names, values, strict=True)
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs) + "}"


def _number(value: float) -> str:
    """A number as Prometheus takes it.

    >>> _number(3.0), _number(0.25)
    ('3', '0.25')
    """
    return str(int(value)) if float(value).is_integer() else repr(float(value))


# ------------------------------------------------------------------------------ of a node

_FLOW: Final = ("beamtime", "source")
_EDGE: Final = ("beamtime", "source", "group")
_STEP: Final = ("pipeline", "step")


def text(
    stats: Stats | None, found: doc.Snapshot | None, stale_s: float, wanted: Callable[[str], bool]
) -> str:
    """All metrics of a node.

    Parameters
    ----------
    stats : its last answer; None: it has not answered yet.
    found : what the monitor makes of it, of beamtimes that are `wanted`.
    """
    up = stats is not None and found is not None and found.node.state == "live"
    metrics: list[Metric | Histogram] = [
        _one("beamstream_node_up", "gauge", "whether the node answers its monitor", float(up)),
    ]
    if stats is not None and found is not None:
        stale = "seconds since the node has answered; all other numbers are as old"
        metrics.append(_one("beamstream_node_stale_seconds", "gauge", stale, stale_s))
        metrics += _flows(stats, wanted)
        metrics += _edges(stats, wanted)
        metrics += _ages(found)
        metrics += _groups(found)
        metrics += _steps(found)
        metrics += _node(stats)
    return "".join(line for metric in metrics for line in metric.lines())


def _one(name: str, kind: str, text: str, value: float) -> Metric:
    metric = Metric(name, kind, text)
    metric.add((), value)
    return metric


def _flows(stats: Stats, wanted: Callable[[str], bool]) -> Sequence[Metric]:
    messages = Metric("beamstream_messages_in_total", "counter", "messages that were taken", _FLOW)
    nbytes = Metric("beamstream_bytes_in_total", "counter", "payloads that were taken", _FLOW)
    for row in stats.producers:
        if wanted(row.beamtime):
            messages.add((row.beamtime, row.source), row.messages)
            nbytes.add((row.beamtime, row.source), row.nbytes)
    return messages, nbytes


def _edges(stats: Stats, wanted: Callable[[str], bool]) -> Sequence[Metric | Histogram]:
    messages = Metric(
        "beamstream_messages_out_total", "counter", "messages that were handed out", _EDGE
    )
    nbytes = Metric("beamstream_bytes_out_total", "counter", "payloads of these", _EDGE)
    again = Metric(
        "beamstream_redelivered_total", "counter", "deliveries that were not the first", _EDGE
    )
    delivery = Histogram(
        "beamstream_delivery_delay_seconds", "from a message's arrival to its delivery", _EDGE
    )
    acknowledge = Histogram(
        "beamstream_acknowledge_delay_seconds", "from its arrival to its acknowledgement", _EDGE
    )
    for row in stats.edges:
        if wanted(row.beamtime):
            labels = (row.beamtime, row.source, row.group)
            messages.add(labels, row.messages)
            nbytes.add(labels, row.nbytes)
            again.add(labels, row.again)
            delivery.add(labels, row.delivered)
            acknowledge.add(labels, row.acknowledged)
    return messages, nbytes, again, delivery, acknowledge


def _ages(found: doc.Snapshot) -> Sequence[Metric]:
    age = Metric(
        "beamstream_source_age_seconds", "gauge", "since the newest message came", _FLOW, min
    )
    for row in found.sources:
        if row.age_s is not None:
            age.add((row.beamtime, row.source), row.age_s)
    return (age,)


def _groups(found: doc.Snapshot) -> Sequence[Metric]:
    name = "beamstream_group_"
    lag = Metric(f"{name}lag_messages", "gauge", "messages that are not settled", _EDGE)
    lag_s = Metric(f"{name}lag_seconds", "gauge", "age of the oldest of them", _EDGE, max)
    evict = Metric(f"{name}evict_seconds", "gauge", "until the oldest leaves the cache", _EDGE, min)
    dead = Metric(f"{name}dead_messages", "gauge", "messages that were given up", _EDGE)
    members = Metric(f"{name}members", "gauge", "programs that are connected", _EDGE, max)
    for row in found.groups:
        labels = (row.beamtime, row.source, row.group)
        lag.add(labels, row.lag)
        lag_s.add(labels, row.lag_s)
        dead.add(labels, row.dead)
        members.add(labels, len(row.members))
        if row.evict_in_s is not None:
            evict.add(labels, row.evict_in_s)
    for edge in found.edges:
        # Clients of ASAPO are in no stream's list of members.
        there = sum(member.connected for member in edge.members)
        members.add((edge.beamtime, edge.source, edge.group), there)
    return lag, lag_s, evict, dead, members


def _steps(found: doc.Snapshot) -> Sequence[Metric]:
    running = Metric(
        "beamstream_step_running", "gauge", "programs of a step that are connected", _STEP
    )
    replicas = Metric("beamstream_step_replicas", "gauge", "programs that its file wants", _STEP)
    for row in found.steps:
        running.add((row.pipeline, row.step), row.running)
        replicas.add((row.pipeline, row.step), row.replicas)
    return running, replicas


def _node(stats: Stats) -> Sequence[Metric]:
    node = stats.node
    gauge, counter = "gauge", "counter"
    found = [
        _one(f"beamstream_{name}", kind, text, value)
        for name, kind, text, value in (
            ("node_uptime_seconds", gauge, "since the start of the node", node.up_s),
            ("process_cpu_seconds_total", counter, "processor time of the node", node.cpu_s),
            ("process_resident_bytes", gauge, "memory of the node", node.rss_nbytes),
            ("cache_bytes", gauge, "size of the cache", node.cache_nbytes),
            ("cache_used_bytes", gauge, "of it, what holds messages", node.cache_used_nbytes),
            ("cache_pinned_bytes", gauge, "of it, what is in use", node.cache_pinned_nbytes),
            ("evicted_total", counter, "messages that left the cache for others", node.evicted),
            ("disk_free_bytes", gauge, "free where the data folder is", node.disk_free_nbytes),
            ("disk_bytes", gauge, "size of that disk", node.disk_nbytes),
            ("files_total", counter, "files that were written", node.files),
        )
    ]
    doors = Metric("beamstream_connections", gauge, "connections that are open", ("door",))
    for door, count in node.connections.items():
        doors.add((door,), count)
    errors = Metric("beamstream_errors_total", counter, "errors that somebody was told", ("code",))
    for error in stats.errors:
        errors.add((error.code,), error.count)
    used = Metric(
        "beamstream_limit_used_ratio", gauge, "how much of a limit is in use", ("limit",), max
    )
    for limit in stats.limits:
        if limit.limit > 0:
            used.add((limit.name,), limit.used / limit.limit)
    return (*found, doors, errors, used)
