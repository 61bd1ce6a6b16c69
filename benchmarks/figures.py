"""``python -m benchmarks.figures RESULT.json [--write README.md]``: a result as Markdown.

The figures of the README come from here, between its marks, and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

BEGIN: Final = "<!-- figures -->"
END: Final = "<!-- end of figures -->"

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


def write(page: Path, text: str) -> None:
    """Put `text` between the marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    arguments = parser.parse_args()
    text = markdown(json.loads(arguments.result.read_text()))
    if arguments.write:
        write(arguments.write, text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
