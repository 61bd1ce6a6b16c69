"""How a pipeline that runs looks at a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from beamstream.cli.terminal import plain, print_rows, show_count, show_span, talk

if TYPE_CHECKING:
    from beamstream.worker.pipelines.running import Snapshot, StepRow

COLUMNS: Final = (
    "STEP", "STATE", "WORKERS", "IN/S", "OUT/S", "BEHIND", "BY", "DELAY", "FAILED", "RESTARTS",
)  # fmt: skip
_NUMBERS: Final = COLUMNS[2:]
_LINE_S: Final = 1.0


def cells(step: StepRow) -> tuple[str, ...]:
    """A step as a row of a table."""
    figures = step.figures
    return (
        step.name,
        step.state,
        workers(step),
        show_count(round(figures.in_hz, 1)),
        show_count(round(figures.out_hz, 1)),
        show_count(figures.behind),
        show_span(figures.lag_s) if figures.lag_s else "-",
        "-" if figures.delay_s is None else show_span(figures.delay_s),
        show_count(figures.failed),
        show_count(step.restarts),
    )


def workers(step: StepRow) -> str:
    """How many run, of how many."""
    count = f"{step.running}/{step.wanted}" if step.running != step.wanted else f"{step.wanted}"
    return f"{count} auto" if step.auto else count


def print_snapshot(snapshot: Snapshot) -> None:
    """Print a pipeline once."""
    print_rows(COLUMNS, map(cells, snapshot.steps), right=_NUMBERS)
    for note in notes(snapshot):
        talk(note)


def notes(snapshot: Snapshot) -> list[str]:
    """What people should know, one sentence each."""
    found = [f"{step.name}: {step.note}" for step in snapshot.steps if step.note]
    return [*found, snapshot.note] if snapshot.note else found


def line(snapshot: Snapshot) -> str:
    """A pipeline in one line."""
    parts = []
    for step in snapshot.steps:
        figures = step.figures
        words = [step.name]
        if step.state != "running":
            words.append(step.state)
        words.append(f"{workers(step)}: {show_count(round(figures.in_hz, 1))}/s")
        if figures.behind:
            words.append(f"-{show_count(figures.behind)} ({show_span(figures.lag_s)})")
        if figures.failed:
            words.append(f"failed {show_count(figures.failed)}")
        parts.append(" ".join(words))
    return " | ".join(parts)


class Lines:
    """A line each second; also what is new to know."""

    def __init__(self) -> None:
        self._last_s = float("-inf")
        self._events = Events()

    def __call__(self, snapshot: Snapshot) -> None:
        self._events(snapshot)
        now_s = time.monotonic()
        if now_s - self._last_s >= _LINE_S:
            self._last_s = now_s
            print(plain(f"{time.strftime('%H:%M:%S')}  {line(snapshot)}"), flush=True)


class Events:
    """What changes: states of steps, and notes; nothing else."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, str]] = {}

    def __call__(self, snapshot: Snapshot) -> None:
        clock = time.strftime("%Y-%m-%d %H:%M:%S")
        now = {step.name: (step.state, step.note) for step in snapshot.steps}
        now[""] = (snapshot.state, snapshot.note)
        for name, (state, note) in now.items():
            if self._told.get(name) != (state, note):
                who = f"step {name}" if name else f"pipeline {snapshot.pipeline}"
                talk(f"{clock}  {who}: {state}{f'; {note}' if note else ''}")
        self._told = now


def live(run: Callable[[Callable[[Snapshot], None]], Snapshot]) -> Snapshot:
    """Show a table that changes, as long as `run` goes on."""
    from rich.live import Live

    with Live(auto_refresh=False, transient=False) as shown:
        return run(lambda snapshot: shown.update(_table(snapshot), refresh=True))


def _table(snapshot: Snapshot) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=f"pipeline {snapshot.pipeline} of beamtime {snapshot.beamtime}: {snapshot.state}",
        caption="\n".join(escape(plain(note)) for note in notes(snapshot))
        or f"up {show_span(snapshot.up_s)} · Ctrl-C ends it",
    )
    for name in COLUMNS:
        table.add_column(name.lower(), justify="right" if name in _NUMBERS else "left")
    for step in snapshot.steps:
        table.add_row(*(escape(plain(cell)) for cell in cells(step)))
    return table


def document(snapshot: Snapshot) -> dict[str, Any]:
    """A pipeline as JSON has it."""
    found: dict[str, Any] = msgspec.to_builtins(snapshot)
    return found
