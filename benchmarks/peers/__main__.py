"""``python -m benchmarks.peers``: measure the peers, print the table, keep it as JSON.

Exit status 1 when a case has no figure from every run. A peer that cannot be had on this machine
is left out with the reason, which is no failure.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.peers import report
from benchmarks.peers.interface import CannotBeHad, Peer
from benchmarks.peers.measure import FAILURES, Found, count_of, measure
from benchmarks.peers.registry import REFERENCE, chosen
from benchmarks.plan import KB, MB, show_size

RESULTS: Final = Path(__file__).resolve().parent.parent / "results"
SIZES: Final = (1 * KB, 100 * KB, 256 * KB, 1 * MB, 8 * MB)
RUNS: Final = 3
SECONDS: Final = 0.5
QUICK_SECONDS: Final = 0.1
QUICK_SIZES: Final = (1 * KB, 1 * MB)
_ERROR_MAX: Final = 1_000
_UNITS: Final = {"": 1, "K": KB, "M": MB}


class Run:
    """All runs of some peers at some sizes, interleaved."""

    def __init__(self, peers: Sequence[Peer], sizes: Sequence[int], runs: int, seconds: float):
        self.peers = list(peers)
        self.sizes = sizes
        self.left_out: dict[str, str] = {}
        self.errors: list[str] = []
        self.measured: dict[tuple[Peer, int], dict[int, Found]] = defaultdict(dict)
        self.versions: dict[str, str] = {}
        self._runs, self._seconds = runs, seconds

    def prepare(self) -> None:
        """Get what the peers need; leave out those that cannot be had."""
        for peer in list(self.peers):
            try:
                peer.python()
                if version := peer.versions():
                    self.versions[peer.name] = version
            except CannotBeHad as error:
                self.left_out[peer.title] = str(error)
                self.peers.remove(peer)

    def run(self, folder: Path) -> None:
        """Measure: in each run each size, in each size every peer, the raw socket first."""
        for number in range(1, self._runs + 1):
            for size in self.sizes:
                for peer in self.peers:
                    if peer.nbytes_max is None or size <= peer.nbytes_max:
                        self._measure(number, peer, size, folder)

    def _measure(self, number: int, peer: Peer, size: int, folder: Path) -> None:
        name = f"{peer.title}, {show_size(size)}"
        try:
            found = measure(peer, size, self._seconds, folder)
        except FAILURES as error:
            text = f"failed: {str(error)[:_ERROR_MAX]}"
            self.errors.append(f"{name}, run {number} {text}")
        else:
            self.measured[peer, size][number] = found
            text = f"{found.rate:,.0f}/s"
        print(f"{number}/{self._runs}  {name:<44} {text}", file=sys.stderr, flush=True)

    @property
    def complete(self) -> bool:
        return not self.errors

    def lines(self) -> list[report.Line]:
        return report.lines(self.peers, self.sizes, self.measured, REFERENCE)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.runs = options.runs or (1 if options.quick else RUNS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    options.folder.mkdir(parents=True, exist_ok=True)
    run = Run(chosen(options.only), options.sizes, options.runs, options.seconds)
    run.prepare()
    settings = {
        "runs": str(options.runs),
        "seconds": str(options.seconds),
        "messages": ", ".join(
            f"{count_of(size, options.seconds)} x {show_size(size)}" for size in options.sizes
        ),
        "shortened": ", ".join(_shortened(options)),
        **machine.describe(options.folder),
    }
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="peers-", dir=options.folder) as folder:
        run.run(Path(folder).resolve())
    settings["took"] = f"{time.time() - started:.0f} s"
    name = time.strftime("peers-%Y-%m-%dT%H-%M-%SZ.json", time.gmtime(started))
    path = options.json or options.results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_document(run, settings), indent=1) + "\n")
    _show(run, settings, path)
    return 0 if run.complete else 1


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return sizes in bytes, in rising order.

    >>> parse_sizes("8MB, 1 kB,256k")
    (1000, 256000, 8000000)

    Raises
    ------
    ValueError : one is not a number of bytes, kB or MB, or too small for what it has to carry.
    """
    sizes = set()
    for one in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})\s*([kKM]?)B?\s*", one)
        if not found or int(found[1]) * _UNITS[found[2].upper()] < KB:
            raise ValueError(f"{one.strip()!r} is no size; write 1kB or more, 256kB, 8MB")
        sizes.add(int(found[1]) * _UNITS[found[2].upper()])
    return tuple(sorted(sizes))


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return parse_sizes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _above_zero(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        if not 0 < (value := kind(text)) < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return value

    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    every = ",".join(show_size(size).replace(" ", "") for size in SIZES)
    parser.add_argument("--sizes", type=_sizes, help=f"payloads; {every}")
    parser.add_argument("--runs", type=_above_zero(int), metavar="N", help=f"{RUNS}")
    parser.add_argument(
        "--seconds",
        type=_above_zero(float),
        metavar="S",
        help=f"longest sending for a rate, and again for the delays; {SECONDS}",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="KEYS",
        help="raw (always there), memcpy, zmq, pva, redis, jetstream",
    )
    parser.add_argument("--quick", action="store_true", help="1 run, 0.1 s, 1 kB and 1 MB")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="the result; DIR/peers-<time>.json"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="where servers keep their files",
    )
    return parser


def _shortened(options: argparse.Namespace) -> list[str]:
    found = []
    if options.quick:
        found.append("QUICK RUN")
    if options.only:
        found.append(f"ONLY {','.join(options.only)}")
    if set(SIZES) - set(options.sizes):
        found.append("NOT ALL SIZES")
    if options.runs < RUNS:
        found.append(f"ONLY {options.runs} RUN{'S' if options.runs > 1 else ''}")
    if options.seconds < SECONDS:
        found.append(f"ONLY {options.seconds} SECONDS")
    return found


def _document(run: Run, settings: dict[str, str]) -> dict[str, Any]:
    return {
        "what": "peers",
        "settings": settings,
        "versions": run.versions,
        "complete": run.complete,
        "left out": run.left_out,
        "errors": run.errors,
        "rows": report.document(run.lines()),
        "measurements": [
            {"peer": peer.title, "size": size, "run": number, **found.document()}
            for (peer, size), runs in run.measured.items()
            for number, found in runs.items()
        ],
    }


def _show(run: Run, settings: dict[str, str], path: Path) -> None:
    print()
    for key, value in (settings | run.versions).items():
        if value:
            print(f"{key:<16} {value}")
    print()
    print(report.table(run.lines(), run.sizes))
    print()
    for title, reason in run.left_out.items():
        print(f"left out: {title}: {reason}")
    for error in run.errors:
        print(error)
    print(f"all in {path}")
    if settings["shortened"]:
        print(f"NOT FOR FIGURES: {settings['shortened']}")
    if not run.complete:
        print("CASES ARE MISSING")


if __name__ == "__main__":
    sys.exit(main())
