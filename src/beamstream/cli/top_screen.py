"""The full screen of `top`: drawn anew at each look and each key; the terminal comes back after."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from beamstream.cli import top_view
from beamstream.cli.terminal import plain
from beamstream.cli.top_keys import Screen, View, keyboard, press

if TYPE_CHECKING:
    from beamstream.cli.top_watching import Look, Watching

_STYLES: Final = {"good": "", "bad": "bold red", "odd": "yellow", "": "dim"}
_HEAD_STYLES: Final = {"good": "green", "bad": "bold red", "odd": "yellow", "": ""}
_AROUND: Final = 7
"""Lines that are no rows: four above and an empty one, the table's head, one below."""


def show(watched: Watching, view: View, wanted: str, every_s: float) -> None:
    """Show it until somebody presses q."""
    screen = Screen(view=view, wanted=wanted)
    console = Console()
    with (
        keyboard(sys.stdin.fileno()) as keys,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        look, due = watched.look(), time.monotonic() + every_s
        while not screen.over:
            screen = fitted(screen, look, console.height)
            live.update(drawn(look, screen, *console.size), refresh=True)
            for key in keys.wait(due - time.monotonic()):
                screen = press(screen, key)
            if time.monotonic() >= due:
                look, due = watched.look(), time.monotonic() + every_s


def fitted(screen: Screen, look: Look | None, height: int) -> Screen:
    """The screen with no empty space below its last row."""
    if look is None or not screen.first:
        return screen
    count = len(top_view.table(look, screen.view, screen.wanted).rows)
    return replace(screen, first=min(screen.first, max(count - _room(height), 0)))


def _room(height: int) -> int:
    return max(height - _AROUND, 1)


def drawn(look: Look | None, screen: Screen, width: int, height: int) -> Group:
    """A look on a screen of so many columns and lines."""
    if look is None:
        return Group(_line("waiting for the node", ""))
    whole = top_view.table(look, screen.view, screen.wanted)
    rows = whole.rows[screen.first : screen.first + _room(height)]
    part = top_view.narrowed(whole._replace(rows=rows), width)
    padding = (0, len(top_view.GAP), 0, 0)
    table = RichTable(box=None, pad_edge=False, padding=padding, header_style="bold")
    for name in part.head:
        justify = "left" if name in whole.words else "right"
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in part.rows:
        # Names are anybody's: they are text, not markup, and cannot command the terminal.
        cells = [Text(plain(cell)) for cell in row.cells]
        table.add_row(*cells, style="dim" if look.stale else _STYLES[row.mood])
    head = [_line(text, _HEAD_STYLES[mood]) for text, mood in top_view.head_lines(look)]
    empty = [] if rows else [_line(f"no {screen.view}", "dim")]
    foot = top_view.foot_line(screen, len(rows), len(whole.rows))
    return Group(*head, Text(""), table, *empty, _line(foot, "dim"))


def _line(text: str, style: str) -> Text:
    return Text(plain(text), style=style, no_wrap=True, overflow="ellipsis")
