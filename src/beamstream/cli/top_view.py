"""What `top` shows: the rows of its tables, and the lines above them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from beamstream.cli.terminal import plural, show_count, show_nbytes, show_span
from beamstream.cli.top_keys import Screen, View
from beamstream.cli.top_watching import Look, StreamLine
from beamstream.monitor.documents import EdgeState, GroupState, Quantiles, StepState

NOTHING: Final = "-"
GAP: Final = "  "

_KEYS: Final = "s streams  g groups  p steps  / filter  q quit"
_FULL_SOON_S: Final = 24 * 3600.0

Mood = str
""" "good", "bad", "odd" or "": how a row is coloured; what it means stands in its STATE."""

_MOODS: Final = {
    "live": "good", "ok": "good", "idle": "", "finished": "", "slow": "odd", "gone": "odd",
    "undeclared": "odd", "missing": "bad", "stuck": "bad",
}  # fmt: skip


class Row(NamedTuple):
    cells: tuple[str, ...]
    mood: Mood


class Table(NamedTuple):
    """`words`: columns of text, which are flush left; `spare`: those to leave out first."""

    head: tuple[str, ...]
    words: frozenset[str]
    rows: tuple[Row, ...]
    spare: tuple[str, ...] = ()


def head_lines(look: Look) -> tuple[tuple[str, Mood], ...]:
    """What is above the tables: the node, how fast, how full, and one sentence."""
    node = look.snapshot.node
    rates, cache, disk = node.rates, node.cache, node.disk
    where = "all beamtimes" if look.beamtime == "*" else f"beamtime {look.beamtime}"
    first = (
        f"{node.version} at {node.name}, {where}; up {show_span(node.up_s)}, "
        f"{plural(node.connections, 'connection')}"
    )
    second = (
        f"in {per_s(rates.in_messages)} {bytes_per_s(rates.in_nbytes)}   "
        f"out {per_s(rates.out_messages)} {bytes_per_s(rates.out_nbytes)}"
    )
    third = (
        f"cache {show_share(cache.used, cache.nbytes)} of {show_nbytes(cache.nbytes)}   "
        f"disk {show_nbytes(disk.free)} free{_full(disk.full_in_s)}   cpu {node.cpu:.2f}"
    )
    mood = "bad" if look.stale else ""
    sentence = look.snapshot.sentence
    return (first, mood), (second, mood), (third, mood), (sentence, mood or _sentence_mood(look))


def _full(full_in_s: float | None) -> str:
    if full_in_s is None or full_in_s > _FULL_SOON_S:
        return ""
    return f", full in {show_span(full_in_s)}"


def _sentence_mood(look: Look) -> Mood:
    states = {group.state for group in look.snapshot.groups}
    return "bad" if "stuck" in states else "odd" if "slow" in states else "good"


def foot_line(screen: Screen, shown: int, total: int) -> str:
    """Keys, and what of the rows is shown.

    >>> foot_line(Screen(wanted="hit"), 3, 3)
    's streams  g groups  p steps  / filter  q quit   filter: hit'
    """
    if screen.typing:
        return f"filter: {screen.wanted}_   (Enter keeps it, Escape clears it)"
    words = [_KEYS]
    if screen.wanted:
        words.append(f"filter: {screen.wanted}")
    if shown < total:
        words.append(f"rows {screen.first + 1} … {screen.first + shown} of {total}: arrow keys")
    return "   ".join(words)


def table(look: Look, view: View, wanted: str = "") -> Table:
    """The table of a view.

    Parameters
    ----------
    wanted : part of a row's first cells, capitals or not.
    """
    make: dict[View, Callable[[Look], Table]] = {
        "streams": _streams, "groups": _groups, "steps": _steps,
    }  # fmt: skip
    whole = make[view](look)
    low = wanted.lower()
    rows = [
        row for row in whole.rows
        if any(
            low in cell.lower()
            for name, cell in zip(whole.head, row.cells, strict=True) if name in whole.words
        )
    ]  # fmt: skip
    return whole._replace(rows=tuple(rows))


def narrowed(whole: Table, width: int) -> Table:
    """A table with so many columns as fit into `width`, the most important ones.

    >>> narrowed(Table(("A", "B"), frozenset(), (Row(("aaaa", "bbbb"), ""),), ("B",)), 8).head
    ('A',)
    """
    spare = list(whole.spare)
    while spare and _width(whole) > width:
        at = whole.head.index(spare.pop(0))
        rows = (row._replace(cells=row.cells[:at] + row.cells[at + 1 :]) for row in whole.rows)
        whole = whole._replace(head=whole.head[:at] + whole.head[at + 1 :], rows=tuple(rows))
    return whole


def _width(whole: Table) -> int:
    columns = zip(whole.head, *(row.cells for row in whole.rows), strict=True)
    return sum(max(map(len, column)) + len(GAP) for column in columns) - len(GAP)


# ------------------------------------------------------------------------------- streams


def _streams(look: Look) -> Table:
    head = ("STREAM", "STATE", "RATE", "BYTES/S", "AGE", "LAST ID", "MESSAGES", "MISSING")
    rows = tuple(_stream(row, look) for row in look.streams)
    return Table(head, frozenset(("STREAM", "STATE")), rows, ("MESSAGES", "BYTES/S", "MISSING"))


def _stream(row: StreamLine, look: Look) -> Row:
    state = stream_state(row)
    cells = (
        _named(look, row.beamtime, f"{row.source}/{row.stream}"),
        state,
        per_s(row.rate),
        bytes_per_s(row.nbytes_rate),
        show_seconds(row.age_s),
        show_count(row.max_id),
        show_count(row.count),
        show_count(row.missing),
    )
    return Row(cells, _MOODS[state])


def stream_state(row: StreamLine) -> str:
    """ "live", "idle" or "finished"."""
    return "finished" if row.finished else "live" if row.rate > 0 else "idle"


# -------------------------------------------------------------------------------- groups


def _groups(look: Look) -> Table:
    head = (
        "GROUP", "STREAM", "STATE", "BEHIND", "BY", "TREND", "RATE", "DELAY P50", "P99",
        "UNACKED", "AGAIN", "DEAD", "MEMBERS", "CACHE ENDS IN",
    )  # fmt: skip
    edges = {(edge.beamtime, edge.source, edge.group): edge for edge in look.snapshot.edges}
    ordered = sorted(look.snapshot.groups, key=lambda row: (_WORST.index(row.state), -row.lag_s))
    rows = tuple(
        _group(row, edges.get((row.beamtime, row.source, row.group)), look) for row in ordered
    )
    spare = ("AGAIN", "P99", "MEMBERS", "RATE", "UNACKED", "DELAY P50", "DEAD", "TREND")
    return Table(head, frozenset(("GROUP", "STREAM", "STATE", "TREND")), rows, spare)


_WORST: Final = ("stuck", "slow", "ok", "gone")


def _group(row: GroupState, edge: EdgeState | None, look: Look) -> Row:
    delay = edge.delivered_ms if edge else Quantiles()
    cells = (
        row.group,
        _named(look, row.beamtime, f"{row.source}/{row.stream}"),
        row.state,
        show_count(row.lag),
        show_seconds(row.lag_s),
        row.trend,
        per_s(row.rate),
        show_ms(delay.p50),
        show_ms(delay.p99),
        show_seconds(row.unacked_s or None),
        show_count(row.redelivered),
        show_count(row.dead),
        show_count(len(row.members)),
        NOTHING if row.evict_in_s is None else show_span(row.evict_in_s),
    )
    return Row(cells, _MOODS[row.state])


# --------------------------------------------------------------------------------- steps


def _steps(look: Look) -> Table:
    head = ("STEP", "STATE", "RUNNING", "READS", "WRITES", "IN", "OUT", "DELAY P50", "P99")
    rows = tuple(_step(row, look) for row in look.snapshot.steps)
    spare = ("P99", "DELAY P50", "READS", "WRITES")
    return Table(head, frozenset(("STEP", "STATE", "READS", "WRITES")), rows, spare)


def _step(row: StepState, look: Look) -> Row:
    name = step_name(row)
    edges = [edge for edge in look.snapshot.edges if edge.group == name]
    made = sum(
        producer.rate
        for source in look.snapshot.sources if source.source == row.writes
        for producer in source.producers if producer.step == name
    )  # fmt: skip
    cells = (
        name,
        row.state,
        f"{row.running}/{row.replicas}",
        ", ".join(row.reads),
        row.writes or NOTHING,
        per_s(sum(edge.rate for edge in edges)),
        per_s(made),
        show_ms(largest(edge.delivered_ms.p50 for edge in edges)),
        show_ms(largest(edge.delivered_ms.p99 for edge in edges)),
    )
    return Row(cells, _MOODS[row.state])


def step_name(row: StepState) -> str:
    """The name of its group."""
    return f"{row.pipeline}.{row.step}" if row.pipeline else row.step


# ------------------------------------------------------------------------------- numbers


def _named(look: Look, beamtime: str, path: str) -> str:
    return f"{beamtime}/{path}" if look.beamtime == "*" else path


def largest(values: Iterable[float | None]) -> float | None:
    """The largest of those that there are."""
    return max((value for value in values if value is not None), default=None)


def per_s(rate: float) -> str:
    """Messages per second.

    >>> per_s(0.0), per_s(99.96), per_s(12_345.6)
    ('0 /s', '100 /s', '12,346 /s')
    """
    return f"{show_count(round(rate, 1))} /s"


def bytes_per_s(rate: float) -> str:
    return f"{show_nbytes(rate)}/s"


def show_seconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else show_span(seconds)


def show_ms(ms: float | None) -> str:
    return NOTHING if ms is None else show_span(ms / 1000)


def show_share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else NOTHING


def lines(look: Look, views: Sequence[View], wanted: str = "") -> list[str]:
    """All rows as lines that say what they are of, for files and pipes."""
    found = [text for text, _ in head_lines(look)]
    for view in views:
        whole = table(look, view, wanted)
        for row in whole.rows:
            said = [
                f"{name.lower()} {cell}" if name not in whole.words else cell
                for name, cell in zip(whole.head, row.cells, strict=True)
            ]
            found.append("  ".join((f"{view[:-1]:<6}", *said)))
    return found
