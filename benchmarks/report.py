"""From measurements to the table: medians, shares of raw, the original beside, the aims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks.measure import Figures
from benchmarks.plan import KB, MB, ORIGINAL_RAW_MB_S, Kind, Mode, Row

Repetitions = Mapping[Row, Sequence[Figures]]


@dataclass
class Line:
    """One row of the table: medians over the repetitions; NaN-free, None where there is nothing.

    Parameters
    ----------
    rate, mb_s : messages and megabytes (10^6 bytes) per second.
    rate_min, rate_max : of the repetitions.
    p50_ms, p99_ms : delays.
    raw_mb_s, share : the raw stream with as many connections, and this row as a share of it; of
        ``next`` the request-reply, by rate; of delays the raw delay's p50 divided by this one.
    share_single : as a share of one raw connection, as the original's share is known.
    ratio : how many times better than the original.
    node_cores, client_cores : CPU seconds per second.
    """

    name: str
    rate: float | None = None
    rate_min: float | None = None
    rate_max: float | None = None
    mb_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    raw_mb_s: float | None = None
    share: float | None = None
    share_single: float | None = None
    share_files: float | None = None
    original: list[float] = field(default_factory=list)
    original_share: float | None = None
    ratio: float | None = None
    node_cores: float | None = None
    client_cores: float | None = None
    node_s_per_gb: float | None = None
    node_us_per_message: float | None = None
    load_rate: float | None = None
    aim: str = ""
    met: bool | None = None
    errors: list[str] = field(default_factory=list)


def lines(rows: Iterable[Row], found: Repetitions, errors: Mapping[Row, list[str]]) -> list[Line]:
    """Return the table's lines for `rows`; those without a figure carry their errors."""
    return [_line(row, found, errors.get(row, [])) for row in rows]


def _line(row: Row, found: Repetitions, errors: list[str]) -> Line:
    line = Line(row.name, errors=list(errors), original=list(row.original))
    runs = found.get(row, [])
    if not runs:
        line.errors = line.errors or ["it was not measured"]
        return line
    _costs(line, row, runs)
    if row.kind.is_delay:
        line.p50_ms = median(run["p50_ms"] for run in runs)
        line.p99_ms = median(run["p99_ms"] for run in runs)
    else:
        rates = [_rate(run) for run in runs]
        line.rate, line.rate_min, line.rate_max = median(rates), min(rates), max(rates)
        if row.kind is not Kind.NEXT or row.with_data:
            line.mb_s = line.rate * row.size / MB
    _shares(line, row, found)
    _original(line, row)
    _aim(line, row, found)
    return line


def _costs(line: Line, row: Row, runs: Sequence[Figures]) -> None:
    line.client_cores = median(run["client_cpu_s"] / run["wall_s"] for run in runs)
    if "load_rate" in runs[0]:
        line.load_rate = median(run["load_rate"] for run in runs)
    if "node_cpu_s" not in runs[0]:
        return
    line.node_cores = median(run["node_cpu_s"] / run["wall_s"] for run in runs)
    # The node's time beside a load is the load's as well.
    if line.load_rate is None:
        each = median(run["node_cpu_s"] / run["count"] for run in runs)
        line.node_us_per_message = each * 1e6
        if row.kind is not Kind.NEXT or row.with_data:
            line.node_s_per_gb = each / row.size * 1e9


def _shares(line: Line, row: Row, found: Repetitions) -> None:
    if row.kind in (Kind.RAW_STREAM, Kind.RAW_REPLY, Kind.RAW_WAIT, Kind.FILES):
        return
    raw = found.get(row.raw, [])
    if raw and row.kind.is_delay:
        pairs = zip(raw, found[row], strict=False)
        line.share = median(bare["p50_ms"] / run["p50_ms"] for bare, run in pairs)
    elif raw:
        line.raw_mb_s = median(map(_rate, raw)) * row.size / MB
        line.share = _share(found[row], raw)
    if row.kind is Kind.PUT:
        line.share_single = _share(found[row], found.get(row.raw_single, []))
        if row.mode is not Mode.CACHE:
            line.share_files = _share(found[row], found.get(row.files, []))


def _share(runs: Sequence[Figures], others: Sequence[Figures]) -> float | None:
    """The median of the shares within each repetition."""
    shares = [_rate(run) / _rate(other) for run, other in zip(runs, others, strict=False)]
    return median(shares) if shares else None


def _rate(run: Figures) -> float:
    return run["count"] / run["wall_s"]


def _original(line: Line, row: Row) -> None:
    if not row.original:
        return
    if row.kind is Kind.PUT:
        line.original_share = row.original[0] * row.size / MB / ORIGINAL_RAW_MB_S
    if row.kind.is_delay:
        assert line.p50_ms is not None
        line.ratio = row.original[0] / line.p50_ms
    else:
        assert line.rate is not None
        line.ratio = line.rate / row.original[0]


# ------------------------------------------------------------------------------------- aims

_CACHE_RATIO_MIN: Final = {KB: 5.0, 100 * KB: 1.0}
_CACHE_SHARE_MIN: Final = {MB: 1.2, 4 * MB: 1.0, 16 * MB: 1.0}
_NEXT_MIN: Final = {False: 5_000.0, True: 3_000.0}
_WAIT_MAX_MS: Final = {4 * MB: (10.0, 113.0)}
_WAIT_MAX_OTHERS_MS: Final = (3.0, 10.0)
_DISK_OF_OS_MIN: Final = 0.5
_DISK_OF_FILES_MIN: Final = 0.8


def _aim(line: Line, row: Row, found: Repetitions) -> None:
    """Set what the row should reach, and whether it does."""
    match row.kind:
        case Kind.PUT if row.mode is Mode.DISK:
            _aim_disk(line, row, found)
        case Kind.PUT if row.original and row.size in _CACHE_SHARE_MIN and row.mode is Mode.CACHE:
            assert line.original_share is not None
            wanted = _CACHE_SHARE_MIN[row.size] * line.original_share
            line.aim = f"{wanted:.2f} of raw x1"
            line.met = line.share_single is not None and line.share_single >= wanted
        case Kind.PUT if row.original:
            factor = _CACHE_RATIO_MIN[row.size] if row.mode is Mode.CACHE else 1.0
            line.aim = f"{factor:.0f} x original"
            line.met = line.ratio is not None and line.ratio >= factor
        case Kind.NEXT if row.load is None or row.load.rate:
            line.aim = f"{_NEXT_MIN[row.with_data]:,.0f}/s"
            line.met = line.rate is not None and line.rate >= _NEXT_MIN[row.with_data]
        case Kind.WAIT:
            p50, p99 = _WAIT_MAX_MS.get(row.size, _WAIT_MAX_OTHERS_MS)
            line.aim = f"{p50:.0f} / {p99:.0f} ms"
            assert line.p50_ms is not None
            assert line.p99_ms is not None
            line.met = line.p50_ms <= p50 and line.p99_ms <= p99


def _aim_disk(line: Line, row: Row, found: Repetitions) -> None:
    if row.size < MB:
        line.aim = f"{_DISK_OF_FILES_MIN} of bare"
        line.met = line.share_files is not None and line.share_files >= _DISK_OF_FILES_MIN
        return
    at_os = Row(Kind.PUT, row.size, row.peers, mode=Mode.OS)
    share = _share(found[row], found.get(at_os, []))
    line.aim = f"{_DISK_OF_OS_MIN} of os"
    line.met = None if share is None else share >= _DISK_OF_OS_MIN
    if share is not None:
        line.aim += f" ({share:.2f})"


# ------------------------------------------------------------------------------------ table

_HEAD: Final = (
    "row",
    "measured",
    "min … max",
    "MB/s",
    "raw MB/s",
    "of raw",
    "of raw x1",
    "of bare",
    "original",
    "its share",
    "ratio",
    "node CPU",
    "clients",
    "node s/GB",
    "us/msg",
    "aim",
    "",
)


def table(found: Sequence[Line]) -> str:
    """Return the table as text."""
    cells = [_HEAD, *(_cells(line) for line in found)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    texts = []
    for row in cells:
        first, *rest = (
            cell.ljust(width) if column in (0, 15) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        texts.append("  ".join((first, *rest)).rstrip())
    texts.insert(1, "-" * max(map(len, texts)))
    return "\n".join(texts)


def _cells(line: Line) -> tuple[str, ...]:
    if line.rate is None and line.p50_ms is None:
        return (line.name, "MISSING", *[""] * (len(_HEAD) - 2))
    beside = f" ({line.load_rate:,.0f}/s)" if line.load_rate else ""
    return (
        line.name + beside,
        _delay(line.p50_ms, line.p99_ms) or _number(line.rate) + "/s",
        f"{_number(line.rate_min)} … {_number(line.rate_max)}" if line.rate_min else "",
        _number(line.mb_s),
        _number(line.raw_mb_s),
        _fraction(line.share),
        _fraction(line.share_single),
        _fraction(line.share_files),
        _original_text(line.original),
        _fraction(line.original_share),
        _fraction(line.ratio),
        _fraction(line.node_cores),
        _fraction(line.client_cores),
        _fraction(line.node_s_per_gb),
        _number(line.node_us_per_message),
        line.aim,
        "" if line.met is None else "met" if line.met else "MISSED",
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _delay(p50: float | None, p99: float | None) -> str:
    return "" if p50 is None or p99 is None else f"{p50:.2f} / {p99:.2f} ms"


def _original_text(original: Sequence[float]) -> str:
    match original:
        case [rate]:
            return f"{rate:,.0f}/s"
        case [p50, p99]:
            return f"{p50:.0f} / {p99:.0f} ms"
    return ""


def document(found: Sequence[Line]) -> list[dict[str, Any]]:
    """Return the lines for the JSON file."""
    return [asdict(line) for line in found]
