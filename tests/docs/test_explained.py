"""`beamstream explain` and the page of errors say the same."""

from __future__ import annotations

import re

from beamstream.errors_help import HELP
from docs.pages import DOCS, table

LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def test_the_page_says_the_same() -> None:
    rows = [row for row in table(DOCS / "reference" / "errors.md") if row[0] != "code"]
    shown = {row[0]: (LINK.sub(r"\1", row[3]), LINK.sub(r"\1", row[4])) for row in rows}
    # A cell that begins or ends with a name in backticks loses one of them to the table's reader.
    assert {code: tuple(cell.strip("`") for cell in cells) for code, cells in shown.items()} == {
        code: (text.means.strip("`"), text.advice.strip("`")) for code, text in HELP.items()
    }
