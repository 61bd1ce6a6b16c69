"""From measurements to the table: medians over the runs, shares of the raw socket of each run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers.interface import Peer
from benchmarks.peers.measure import Found, percentiles_ms
from benchmarks.plan import show_size

Measured = Mapping[tuple[Peer, int], Mapping[int, Found]]
"""By peer and size, then by run."""


@dataclass(frozen=True)
class Cell:
    """A peer at a size.

    Parameters
    ----------
    rate, rate_min, rate_max : messages per second; median, least and most of the runs.
    share : of the raw socket, median of the shares within each run; None if that was not measured.
    p50_ms, p99_ms : of the delays of all runs together; None where there is nothing to wait for.
    delays : how many these are; below a hundred p99 is hardly less than the longest.
    cpu_s_per_gb, server_cpu_s_per_gb : seconds of all processes, and of the server alone.
    """

    rate: float
    rate_min: float
    rate_max: float
    gb_s: float
    share: float | None
    p50_ms: float | None
    p99_ms: float | None
    delays: int
    cpu_s_per_gb: float
    server_cpu_s_per_gb: float
    count: int
    runs: int


@dataclass
class Line:
    """A row of the table; a size that has no cell has errors."""

    key: str
    title: str
    durability: str
    cells: dict[str, Cell] = field(default_factory=dict)


def lines(
    peers: Iterable[Peer], sizes: Sequence[int], measured: Measured, reference: Peer
) -> list[Line]:
    """Return the rows of `peers`, those without any figure left out."""
    found = []
    for peer in peers:
        line = Line(peer.key, peer.title, str(peer.durability))
        for size in sizes:
            if runs := measured.get((peer, size)):
                line.cells[show_size(size)] = _cell(size, runs, measured.get((reference, size), {}))
        if line.cells:
            found.append(line)
    return found


def _cell(size: int, runs: Mapping[int, Found], raw: Mapping[int, Found]) -> Cell:
    rates = [run.rate for run in runs.values()]
    shares = [run.rate / raw[number].rate for number, run in runs.items() if number in raw]
    delays = [delay for run in runs.values() for delay in run.delays_ns]
    p50_ms, p99_ms = percentiles_ms(delays) if delays else (None, None)
    gigabytes = [run.count * size / 1e9 for run in runs.values()]
    costs = list(zip(runs.values(), gigabytes, strict=True))
    return Cell(
        rate=median(rates),
        rate_min=min(rates),
        rate_max=max(rates),
        gb_s=median(rates) * size / 1e9,
        share=median(shares) if shares else None,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        delays=len(delays),
        cpu_s_per_gb=median(run.cpu_s / nbytes for run, nbytes in costs),
        server_cpu_s_per_gb=median(run.server_cpu_s / nbytes for run, nbytes in costs),
        count=int(median(run.count for run in runs.values())),
        runs=len(runs),
    )


def table(found: Sequence[Line], sizes: Sequence[int]) -> str:
    """Return the table as text, one block per figure."""
    blocks = (
        ("messages/s", lambda cell: number(cell.rate)),
        ("GB/s", lambda cell: f"{cell.gb_s:.3f}"),
        ("of the raw socket", lambda cell: "" if cell.share is None else f"{cell.share:.1%}"),
        ("delay p50 / p99, ms", delay),
        ("CPU s/GB (server)", cost),
    )
    names = [show_size(size) for size in sizes]
    return "\n\n".join(_block(title, show, found, names) for title, show in blocks)


def _block(
    title: str, show: Callable[[Cell], str], found: Sequence[Line], names: Sequence[str]
) -> str:
    rows = [(title, *names)]
    rows += [
        (line.title, *(show(line.cells[name]) if name in line.cells else "-" for name in names))
        for line in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names) + 1)]
    texts = []
    for first, *rest in rows:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        texts.append("  ".join((first.ljust(widths[0]), *cells)).rstrip())
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def number(value: float) -> str:
    """Return a rate with the three digits that runs agree on, or less.

    >>> number(123_456.7), number(98.76), number(3.21)
    ('123,000', '98.8', '3.21')
    """
    if value < 100:
        return f"{value:.3g}"
    step: int = 10 ** max(0, len(str(int(value))) - 3)
    return f"{int(round(value / step) * step):,}"


def delay(cell: Cell) -> str:
    """Return the delays of a cell, if it has any."""
    if cell.p50_ms is None or cell.p99_ms is None:
        return ""
    return f"{_ms(cell.p50_ms)} / {_ms(cell.p99_ms)}"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def cost(cell: Cell) -> str:
    """Return the processor time of a cell, the server's part in brackets."""
    server = f" ({_seconds(cell.server_cpu_s_per_gb)})" if cell.server_cpu_s_per_gb else ""
    return _seconds(cell.cpu_s_per_gb) + server


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def document(found: Sequence[Line]) -> list[dict[str, Any]]:
    """Return the rows for the JSON file."""
    return [asdict(line) for line in found]


def from_document(rows: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Return the rows of a JSON file."""
    return [
        Line(
            row["key"],
            row["title"],
            row["durability"],
            {name: Cell(**cell) for name, cell in row["cells"].items()},
        )
        for row in rows
    ]
