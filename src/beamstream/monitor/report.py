"""The last minutes as one self-contained page for the log book: charts drawn in SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from beamstream.monitor import documents as doc
from beamstream.monitor.history import Key
from beamstream.monitor.markup import STYLE, Html, compact, page, quantity, span, table, tag

WIDTH: Final = 720
HEIGHT: Final = 140
CHARTS_MAX: Final = 60
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 8, 20

Line = tuple[str, Sequence[float | None]]


def html(
    found: doc.Snapshot,
    series: Mapping[Key, doc.Series],
    *,
    seconds: float,
    made_ns: int,
) -> str:
    """A report.

    Parameters
    ----------
    found : how it is now.
    series : what was seen, of the last `seconds`.
    made_ns : now, nanoseconds since 1970 UTC.
    """
    made = datetime.fromtimestamp(made_ns / 1e9, UTC)
    title = f"Beamstream, node {found.node.name}, {made:%Y-%m-%d %H:%M:%S} UTC"
    return page(
        title,
        tag("h1", title),
        tag("p", f"The last {span(seconds)}. {found.sentence}"),
        *tables(found),
        tag("h2", "How it went"),
        *_charts(series, made_ns / 1e9 - seconds, made_ns / 1e9),
        style=f"<style>{STYLE}</style>",
    )


def tables(found: doc.Snapshot) -> Iterator[Html]:
    """How it is now, as tables: the numbers of the page without its charts."""
    yield tag("h2", "Sources")
    yield _sources(found)
    yield tag("h2", "Groups")
    yield _groups(found)
    yield tag("h2", "Delay since arrival")
    yield _edges(found)
    if found.steps:
        yield tag("h2", "Steps")
        yield _steps(found)
    yield tag("h2", "Node")
    yield _node(found.node)
    if found.errors:
        yield tag("h2", "Errors since the start of the node")
        yield table(
            (("Code", False), ("Count", True), ("Last", True), ("Text", False), ("Do", False)),
            [
                (row.code, row.count, f"{span(row.last_s)} ago", row.text, row.hint)
                for row in found.errors
            ],
            "",
        )


def _sources(found: doc.Snapshot) -> Html:
    return table(
        (
            ("Beamtime", False), ("Source", False), ("State", False), ("Rate", True),
            ("Bytes", True), ("Age", True), ("Newest", False), ("Missing ids", True),
        ),
        [
            (
                row.beamtime, row.source, row.state, quantity(row.rate, "Hz"),
                f"{quantity(row.nbytes_rate, 'B')}/s", span(row.age_s),
                f"{row.last_stream}[{row.last_id}]", row.lost,
            )
            for row in found.sources
        ],
        "There is no source yet.",
    )  # fmt: skip


def _groups(found: doc.Snapshot) -> Html:
    return table(
        (
            ("Group", False), ("Stream", False), ("State", False), ("Behind", True), ("by", True),
            ("Trend", False), ("Leaves the cache in", True), ("Redelivered", True), ("Dead", True),
            ("Members", True),
        ),
        [
            (
                row.group, f"{row.source}/{row.stream}", row.state, row.lag,
                span(row.lag_s if row.lag else 0.0), row.trend, span(row.evict_in_s),
                row.redelivered, row.dead, len(row.members),
            )
            for row in found.groups
        ],
        "Nobody reads anything.",
    )  # fmt: skip


def _edges(found: doc.Snapshot) -> Html:
    return table(
        (
            ("Source", False), ("Group", False), ("State", False), ("Rate", True),
            ("Delivered p50", True), ("p99", True), ("Acknowledged p50", True), ("p99", True),
        ),
        [
            (
                row.source, row.group, row.state, quantity(row.rate, "Hz"),
                _millis(row.delivered_ms.p50), _millis(row.delivered_ms.p99),
                _millis(row.acked_ms.p50), _millis(row.acked_ms.p99),
            )
            for row in found.edges
        ],
        "Nobody reads anything.",
    )  # fmt: skip


def _steps(found: doc.Snapshot) -> Html:
    return table(
        (
            ("Pipeline", False), ("Step", False), ("State", False), ("Running", True),
            ("Reads", False), ("Writes", False),
        ),
        [
            (
                row.pipeline, row.step, row.state, f"{row.running} of {row.replicas}",
                ", ".join(row.reads), row.writes,
            )
            for row in found.steps
        ],
        "",
    )  # fmt: skip


def _node(node: doc.NodeState) -> Html:
    rows = (
        ("State", node.state),
        ("Version", node.version),
        ("Up for", span(node.up_s)),
        ("Processor", f"{100 * node.cpu:.0f} % of a core"),
        ("Memory", quantity(node.rss_nbytes, "B")),
        (
            "In",
            f"{quantity(node.rates.in_messages, 'Hz')}, {quantity(node.rates.in_nbytes, 'B')}/s",
        ),
        (
            "Out",
            f"{quantity(node.rates.out_messages, 'Hz')}, {quantity(node.rates.out_nbytes, 'B')}/s",
        ),
        ("Cache", f"{quantity(node.cache.used, 'B')} of {quantity(node.cache.nbytes, 'B')}"),
        ("Disk free", f"{quantity(node.disk.free, 'B')} of {quantity(node.disk.nbytes, 'B')}"),
        ("Disk full in", span(node.disk.full_in_s)),
        ("Connections", node.connections),
    )
    return table((("", False), ("", False)), rows, "")


def _flow(messages: float, nbytes: float) -> str:
    return f"{quantity(messages, 'Hz')}, {quantity(nbytes, 'B')}/s"


def _millis(value: float | None) -> str:
    return "–" if value is None else f"{compact(value)} ms" if value < 1000 else span(value / 1000)


# ------------------------------------------------------------------------------ charts

_CHARTS: Final[Mapping[str, tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]]] = {
    "node": (
        ("messages", "Hz", (("in", "in_messages"), ("out", "out_messages"))),
        ("bytes", "B/s", (("in", "in_nbytes"), ("out", "out_nbytes"))),
    ),
    "source": (
        ("rate", "Hz", (("messages", "rate"),)),
        ("delay to delivery", "ms", (("p50", "p50"), ("p99", "p99"))),
    ),
    "group": (("behind", "messages", (("messages", "lag"),)),),
}
"""Of each kind of series: title, unit, lines."""


def _charts(series: Mapping[Key, doc.Series], lo_s: float, hi_s: float) -> Iterator[Html]:
    drawn = 0
    order = {kind: at for at, kind in enumerate(_CHARTS)}
    for key in sorted(
        (key for key in series if key.kind in order), key=lambda key: (order[key.kind], key)
    ):
        for title, unit, names in _CHARTS[key.kind]:
            lines = [(label, series[key].values.get(name, ())) for label, name in names]
            if not any(one is not None for _, line in lines for one in line):
                continue
            if drawn >= CHARTS_MAX:
                yield tag("p", "There are more than can be drawn here.", class_="soft")
                return
            drawn += 1
            what = " in ".join(key.name.split("\n")) or "node"
            yield chart(f"{what}: {title}", unit, series[key].times, lines, lo_s, hi_s)
    if not drawn:
        yield tag("p", "Nothing was seen.", class_="soft")


def chart(
    title: str, unit: str, times: Sequence[float], lines: Sequence[Line], lo_s: float, hi_s: float
) -> Html:
    """A chart over time, from zero up; gaps are gaps.

    Parameters
    ----------
    times : seconds since 1970 UTC, ascending.
    """
    values = [one for _, line in lines for one in line if one is not None]
    top = nice(max(values, default=0.0))
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def x(at_s: float) -> float:
        return _LEFT + width * (at_s - lo_s) / max(hi_s - lo_s, 1e-9)

    def y(value: float) -> float:
        return _TOP + height * (1 - value / top)

    parts: list[Html] = []
    for share in (0.0, 0.5, 1.0):
        at = round(y(share * top), 1)
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at, class_="axis"))
        parts.append(tag("text", compact(share * top), x=_LEFT - 6, y=at + 4, text_anchor="end"))
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        moment = datetime.fromtimestamp(lo_s + share * (hi_s - lo_s), UTC)
        parts.append(
            tag(
                "text", f"{moment:%H:%M:%S}", x=_LEFT + share * width, y=HEIGHT - 4,
                text_anchor=anchor,
            )
        )  # fmt: skip
    for number, (_, line) in enumerate(lines):
        for run in _runs(times, line, lo_s):
            points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in run)
            parts.append(tag("polyline", points=points, class_=f"line-{number}"))
    legend = ", ".join(label for label, _ in lines)
    told = f"{title} ({unit}; {legend}); largest {compact(max(values, default=None))}"
    svg = tag("svg", tag("title", told), *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    return tag("figure", tag("figcaption", told), svg)


def _runs(
    times: Sequence[float], line: Sequence[float | None], lo_s: float
) -> Iterator[list[tuple[float, float]]]:
    run: list[tuple[float, float]] = []
    for at, value in zip(times, line, strict=False):
        if value is None or at < lo_s:
            if run:
                yield run
            run = []
        else:
            run.append((at, value))
    if run:
        yield run


def nice(value: float) -> float:
    """The end of an axis: 1, 2 or 5 times a power of ten, and not below `value`.

    >>> nice(98.0), nice(0.0), nice(0.013)
    (100.0, 1.0, 0.02)
    """
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((power * step for step in (1.0, 2.0, 5.0) if power * step >= value), power * 10)
