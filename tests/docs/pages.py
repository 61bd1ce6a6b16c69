"""The pages of the documentation: their blocks of code, and what is to be done with each.

A block's mark is the HTML comment on the line before it:

    <!-- run -->             console: the commands are run; output that is shown is compared
    <!-- run: a node -->     console: a single ``beamstream up``; the node runs until the page ends
    <!-- run: beside -->     console: a single command that runs until the page ends; what a demo
                             says of its node holds from then on
    <!-- file: NAME -->      python, yaml: written to that file; Python is run, too
    <!-- output -->          what the Python block before it prints; ``...`` stands for anything
    <!-- settings -->        toml: a file of settings that the node takes
    <!-- not run: why -->    anything else

Python blocks without a mark are run, in order, as one program per page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

_FENCE: Final = re.compile(r"\s*(`{3,})\s*([a-z]*)\s*")
_MARK: Final = re.compile(r"<!-- (.+) -->")
_MARKS: Final = {
    "python": re.compile(r"|file: \S+|not run: .+"),
    "console": re.compile(r"run|run: a node|run: beside|not run: .+"),
    "yaml": re.compile(r"file: \S+|not run: .+"),
    "toml": re.compile(r"settings|not run: .+"),
    "text": re.compile(r"output|not run: .+"),
}
_OTHER: Final = re.compile(r"not run: .+")


class Block(NamedTuple):
    """A block of code; `line` is the number of its first line, from 1."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def well_marked(self) -> bool:
        return bool(_MARKS.get(self.language, _OTHER).fullmatch(self.mark))


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    found = []
    lines = page.read_text().splitlines()
    number, before = 0, ""
    while number < len(lines):
        fence = _FENCE.fullmatch(lines[number])
        if fence is None:
            before = lines[number].strip()
            number += 1
            continue
        end = lines.index(fence[1], number + 1)
        mark = _MARK.fullmatch(before)
        text = "\n".join(lines[number + 1 : end]) + "\n"
        found.append(Block(page, number + 2, fence[2], mark[1] if mark else "", text))
        number, before = end + 1, ""
    return found


def table(page: Path, heading: str = "") -> list[list[str]]:
    """Return the rows of the tables below `heading` (of all tables without one), as plain text."""
    rows, inside = [], not heading
    for line in page.read_text().splitlines():
        if heading and line.startswith("#"):
            inside = line.lstrip("# ") == heading
        elif inside and line.startswith("| ") and not line.startswith("|--"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace("\\|", "|").strip("`") for cell in cells])
    return rows
