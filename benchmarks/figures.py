"""``python -m benchmarks.figures RESULT.json [--write README.md]``: a result as Markdown.

The figures of the README come from here, between its marks, and nowhere else. A result of the
peers goes between marks of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.report import Cell, Line, cost, delay, from_document, number

BEGIN: Final = "<!-- figures -->"
END: Final = "<!-- end of figures -->"
PEERS_BEGIN: Final = "<!-- figures of the peers -->"
PEERS_END: Final = "<!-- end of figures of the peers -->"

_SIZES: Final = ("1 kB", "100 kB", "1 MB", "4 MB", "16 MB")
_ORIGINAL: Final = "the original there"


def markdown(result: dict[str, Any]) -> str:
    """Return the tables of a complete result.

    Raises
    ------
    SystemExit : rows are missing, or the run was shortened.
    """
    rows = {row["name"]: row for row in result["rows"]}
    settings = result["settings"]
    if not result["complete"] or settings.get("shortened"):
        raise SystemExit("this result is not complete; figures come from a whole `make bench`")
    return "\n".join(
        [
            f"Medians of {settings['repetitions']} runs of `make bench` at commit "
            f"`{settings['commit']}`, on {settings['processor']}, {settings['kernel']}, "
            f"{settings['file system']}: node, official clients {_clients(settings)} and raw "
            "sockets share the machine. *Raw* is one `sendall` and one `recv_into` over loopback "
            "in the same run; *bare* is open, write, fdatasync, rename by as many threads. The "
            "original (C++ receiver, Go broker, MongoDB) was measured on a machine of this kind on "
            "which one raw connection gave 2.2 GB/s.",
            "",
            "| messages/s, 4 threads | " + " | ".join(_SIZES) + " |",
            "|---|" + "---|" * len(_SIZES),
            _line(rows, "cache only", "put cache {} x4", "rate"),
            _original(rows, "put cache {} x4"),
            _line(rows, "of raw, as many connections", "put cache {} x4", "share", percent=True),
            _line(rows, "files, level `os`", "put os {} x4", "rate"),
            _original(rows, "put os {} x4"),
            _line(rows, "files, level `disk`", "put disk {} x4", "rate"),
            _line(rows, "bare files", "bare files {} x4", "rate"),
            _line(rows, "CPU of the node, µs a message, cache only", "put cache {} x4",
                  "node_us_per_message"),
            "",
            "| delay of a waiting consumer at 100 Hz | " + " | ".join(_SIZES[:-1]) + " |",
            "|---|" + "---|" * len(_SIZES[:-1]),
            "| p50 / p99, ms | " + " | ".join(_delay(rows, size) for size in _SIZES[:-1]) + " |",
            "| the original, ms | " + " | ".join(
                "{:.0f} / {:.0f}".format(*rows[f"wait {size} at 100/s"]["original"])
                for size in _SIZES[:-1]
            ) + " |",
            "",
            "| `get_next`, messages/s | Beamstream | the original |",
            "|---|---|---|",
            *_gets(rows),
        ]
    )  # fmt: skip


def peers_markdown(result: dict[str, Any]) -> str:
    """Return the tables of a complete result of the peers.

    Raises
    ------
    SystemExit : cases are missing, or the run was shortened.
    """
    settings, found = result["settings"], from_document(result["rows"])
    if not result["complete"] or settings.get("shortened"):
        raise SystemExit("this result is not complete; figures come from a whole `make bench`")
    sizes = list(dict.fromkeys(size for line in found for size in line.cells))
    versions = "; ".join(dict.fromkeys(result["versions"].values()))
    left_out = "".join(
        f" Left out: {title} ({reason})." for title, reason in result["left out"].items()
    )
    return "\n".join(
        [
            f"Medians of {settings['runs']} runs of `make bench` at commit `{settings['commit']}`, "
            f"on {settings['processor']}, {settings['kernel']}, {settings['file system']}: one "
            "producer, one consumer and the server, where there is one, share the machine, and "
            "each peer has its ordinary Python client "
            f"({versions}). In brackets the share of a raw socket in the same run.{left_out}",
            "",
            *_peers_table("messages/s", _rate_and_share, found, sizes),
            "",
            *_peers_table("delay at half of that rate, p50 / p99, ms", delay, found, sizes),
            "",
            *_peers_table("CPU seconds per GB (the server's)", cost, found, sizes),
        ]
    )


def _rate_and_share(cell: Cell) -> str:
    share = "" if cell.share is None else f" ({cell.share:.2g})"
    return number(cell.rate) + share


def _peers_table(
    title: str, show: Callable[[Cell], str], found: list[Line], sizes: list[str]
) -> list[str]:
    rows = [f"| {title} | " + " | ".join(sizes) + " |", "|---|" + "---|" * len(sizes)]
    for line in found:
        cells = [show(line.cells[size]) if size in line.cells else "" for size in sizes]
        if any(cells):
            rows.append(f"| {line.title} | " + " | ".join(cells) + " |")
    return rows


def _clients(settings: dict[str, Any]) -> str:
    return str(settings["clients"]).rpartition(" ")[2]


def _line(rows: dict[str, Any], title: str, name: str, key: str, *, percent: bool = False) -> str:
    values = [rows[name.format(size)][key] for size in _SIZES]
    cells = [f"{value:.0%}" if percent else f"{_rounded(value):,}" for value in values]
    return f"| {title} | " + " | ".join(cells) + " |"


def _rounded(value: float) -> int:
    """Three digits are more than these runs agree on."""
    step: int = 10 ** max(0, len(str(int(value))) - 3)
    return int(round(value / step) * step)


def _original(rows: dict[str, Any], name: str) -> str:
    values = [rows[name.format(size)]["original"] for size in _SIZES]
    cells = [f"{value[0]:,.0f}" if value else "" for value in values]
    return f"| {_ORIGINAL} | " + " | ".join(cells) + " |"


def _delay(rows: dict[str, Any], size: str) -> str:
    row = rows[f"wait {size} at 100/s"]
    return f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f}"


def _gets(rows: dict[str, Any]) -> list[str]:
    found = []
    for name, row in rows.items():
        if name.startswith("next") and "flat out" not in name:
            title = name.removeprefix("next ").replace(" x2", ", 2 consumers")
            title = title.replace(" x1", ", 1 consumer")
            original = "" if " beside" in name else f"{row['original'][0]:,.0f}"
            found.append(f"| {title} | {_rounded(row['rate']):,} | {original} |")
    return found


def write(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put `text` between the marks of a page.

    Raises
    ------
    SystemExit : the page does not have the marks.
    """
    before, found, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"{page} has no {begin} ... {end} to write the figures between")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    of_peers = result.get("what") == "peers"
    text = peers_markdown(result) if of_peers else markdown(result)
    if arguments.write:
        marks = (PEERS_BEGIN, PEERS_END) if of_peers else (BEGIN, END)
        write(arguments.write, text, *marks)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
