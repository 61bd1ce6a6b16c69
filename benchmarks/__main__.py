"""``python -m benchmarks``: measure all rows, print the table, keep it as JSON; then the peers.

Exit status 1 when a row is missing or a node ended badly. Aims that are missed do not fail the
run: a figure is a figure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from beamstream.errors import Error
from beamstream.testing.node import NodeProcess, UnexpectedLog
from benchmarks import machine, report
from benchmarks.files import empty
from benchmarks.measure import QUICK, Bench, Figures, Times
from benchmarks.peers.__main__ import main as measure_peers
from benchmarks.plan import Row, all_rows, chosen_rows, in_order_of_measuring

RESULTS: Final = Path(__file__).resolve().parent / "results"
REPEAT: Final = 3
ERROR_MAX: Final = 1_000


class Run:
    """All repetitions of some rows."""

    def __init__(self, rows: Sequence[Row], repeat: int, cache: str, times: Times) -> None:
        self.rows = rows
        self.repeat = repeat
        self.found: dict[Row, list[Figures]] = defaultdict(list)
        self.errors: dict[Row, list[str]] = defaultdict(list)
        self.problems: list[str] = []
        self._cache = cache
        self._times = times

    def run(self, folder: Path) -> None:
        """Measure; each repetition and each durability has a fresh node."""
        ordered = in_order_of_measuring(list(self.rows))
        for repetition in range(1, self.repeat + 1):
            bench = Bench(folder, self._times)
            for durability in ("disk", "os"):
                # Rows without a node go with the first: they are what its rows are a share of.
                rows = [row for row in ordered if (row.durability or "disk") == durability]
                self._phase(bench, folder, durability, rows, repetition)

    def _phase(
        self, bench: Bench, folder: Path, durability: str, rows: list[Row], repetition: int
    ) -> None:
        data = Path(tempfile.mkdtemp(prefix=f"node-{durability}-", dir=folder)) / "data"
        node = NodeProcess(data, cache=self._cache, durability=durability)
        try:
            for row in rows:
                self._measure(bench, row, node, repetition)
            node.terminate()
        except (Error, UnexpectedLog) as error:
            self.problems.append(f"node at durability {durability}: {error}")
        finally:
            node.kill()
            empty(data)

    def _measure(self, bench: Bench, row: Row, node: NodeProcess, repetition: int) -> None:
        try:
            if row.kind.needs_node:
                node.start()
            figures = bench.measure(row, node)
        except (Error, OSError) as error:
            text = str(error)[:ERROR_MAX]
            self.errors[row].append(f"repetition {repetition}: {text}")
        else:
            self.found[row].append(figures)
            text = (
                f"{figures['p50_ms']:.2f} / {figures['p99_ms']:.2f} ms"
                if "p50_ms" in figures
                else f"{figures['count'] / figures['wall_s']:,.0f}/s"
            )
        print(f"{repetition}/{self.repeat}  {row.name:<36} {text}", file=sys.stderr, flush=True)

    @property
    def complete(self) -> bool:
        return not self.problems and all(len(self.found[row]) == self.repeat for row in self.rows)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    rows = chosen_rows(options.rows) if options.rows else all_rows()
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows:
        print(f"no row has {options.rows!r} in its name; see --list", file=sys.stderr)
        return 2
    repeat = options.repeat or (1 if options.quick else REPEAT)
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "repetitions": str(repeat),
        "node": f"cache {options.cache}; durability disk, and os for the rows of os",
        "shortened": ", ".join(_shortened(options, repeat)),
        **machine.describe(options.folder),
    }
    started = time.time()
    run = Run(rows, repeat, options.cache, QUICK if options.quick else Times())
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        run.run(Path(folder).resolve())
    settings["seconds"] = f"{time.time() - started:.0f}"
    lines = report.lines(rows, run.found, run.errors)
    path = _write(options.results, started, settings, lines, run)
    _show(settings, lines, run, path)
    status = 0 if run.complete else 1
    return status if options.rows or options.no_peers else max(status, _peers(options))


def _peers(options: argparse.Namespace) -> int:
    """Measure the second table, for as long as the first one was."""
    print()
    arguments = ["--folder", str(options.folder), "--results", str(options.results)]
    if options.quick:
        arguments += ["--quick"]
    return measure_peers(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short and once; not for figures")
    parser.add_argument("--rows", metavar="REGEX", help="only rows whose name has this")
    parser.add_argument("--repeat", type=int, metavar="N", help=f"repetitions; {REPEAT}")
    parser.add_argument("--cache", default="1GiB", metavar="SIZE", help="of the node")
    parser.add_argument("--no-peers", action="store_true", help="without the second table")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="where node and bare files write; the file system that is measured",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    return parser


def _shortened(options: argparse.Namespace, repeat: int) -> list[str]:
    found = []
    if options.quick:
        found.append("QUICK RUN")
    if options.rows:
        found.append(f"ONLY ROWS {options.rows!r}")
    if repeat < REPEAT:
        found.append(f"ONLY {repeat} REPETITION{'S' if repeat > 1 else ''}")
    return found


def _write(
    folder: Path, started: float, settings: dict[str, str], lines: list[report.Line], run: Run
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime(started))}.json"
    document = {
        "settings": settings,
        "complete": run.complete,
        "problems": run.problems,
        "rows": report.document(lines),
        "measurements": {row.name: run.found[row] for row in run.rows},
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _show(settings: dict[str, str], lines: list[report.Line], run: Run, path: Path) -> None:
    print()
    for key, value in settings.items():
        if value:
            print(f"{key:<12} {value}")
    print()
    print(report.table(lines))
    print()
    for line in lines:
        for error in line.errors:
            print(f"{line.name}: {error}")
    for problem in run.problems:
        print(problem)
    aims = [line for line in lines if line.met is not None]
    print(f"{sum(bool(line.met) for line in aims)} of {len(aims)} aims are met; all in {path}")
    if settings["shortened"]:
        print(f"NOT FOR FIGURES: {settings['shortened']}")
    if not run.complete:
        print("ROWS ARE MISSING")


if __name__ == "__main__":
    sys.exit(main())
