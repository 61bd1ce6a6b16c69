"""`beamstream demo`: a node, a detector and two groups of readers, and a table of what they do."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from beamstream import limits
from beamstream.errors import BadSetting, NoSpace

if TYPE_CHECKING:
    from beamstream.cli.demo_run import Demo, Frame, Group

_LIVE_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 1.0
_FREE_NBYTES_MIN: Final = limits.GIB
"""With `--store` the demo ends before the disk is full."""


def demo(
    *,
    shape: Annotated[str, Parameter(help="Rows and columns of the frames.")] = "1024,1024",
    rate: Annotated[float, Parameter(help="Frames per second.")] = 100.0,
    frames: Annotated[
        tuple[Path, ...], Parameter(help="Image files to send instead.", consume_multiple=True)
    ] = (),
    store: Annotated[
        bool, Parameter(negative="", help="Write files too, below a temporary folder.")
    ] = False,
    seconds: Annotated[float | None, Parameter(help="End after this time.")] = None,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print figures as JSON at the end only.")
    ] = False,
) -> int:
    """Show a node at work: a detector sends frames, two groups of readers get them.

    It runs until Ctrl-C, keeps frames in memory only and leaves nothing behind.
    """
    from beamstream.cli.demo_run import Demo

    if not 0 < rate <= 100_000:
        raise BadSetting(f"rate {rate} is not within 0 … 100,000 frames per second")
    if seconds is not None and not 0 < seconds <= 7 * 24 * 3600:
        raise BadSetting(f"seconds {seconds} is not a time to run")
    source, frame_nbytes = _source(shape, frames)
    with (
        _stop_signals() as stop,
        Demo(source, rate_hz=rate, store=store, frame_nbytes=frame_nbytes) as running,
    ):
        until_s = running.begin_s + (seconds if seconds is not None else math.inf)
        if json:
            _watch(running, stop, until_s, store)
        elif sys.stdout.isatty():
            _live(running, stop, until_s, store)
        else:
            _lines(running, stop, until_s, store)
        document = _document(running, running.finish(), rate, store)
    print(_json(document) if json else _summary(document))
    return 0


def _source(shape: str, files: tuple[Path, ...]) -> tuple[Iterator[Frame], int]:
    """The frames, and the nbytes of the first."""
    from beamstream.cli.demo_run import from_files, simulated

    frames = from_files(files) if files else simulated(_shape(shape))
    first = next(frames)
    return itertools.chain([first], frames), first[0].nbytes


def _shape(text: str) -> tuple[int, int]:
    try:
        rows, columns = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise BadSetting(f"shape {text!r} is not ROWS,COLUMNS") from None
    return rows, columns


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the end is the same whatever asks for it.

    The second one ends it without a summary.
    """
    stop = threading.Event()
    names = (signal.SIGINT, signal.SIGTERM)

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = [signal.signal(name, handle) for name in names]
    try:
        yield stop
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


# ---------------------------------------------------------------------------------- watching


def _ticks(
    running: Demo, stop: threading.Event, until_s: float, period_s: float, store: bool
) -> Iterator[None]:
    """Gives a tick each period until the demo is to end; raises what went wrong."""
    while True:
        left_s = until_s - time.monotonic()
        if stop.wait(max(0.0, min(left_s, period_s))) or left_s <= period_s:
            return
        running.check()
        if store and shutil.disk_usage(running.node.data).free < _FREE_NBYTES_MIN:
            raise NoSpace(
                f"less than 1 GiB is free in {running.node.data}", hint="run it without --store"
            )
        yield


def _watch(running: Demo, stop: threading.Event, until_s: float, store: bool) -> None:
    for _ in _ticks(running, stop, until_s, _LINE_SECONDS, store):
        pass


def _lines(running: Demo, stop: threading.Event, until_s: float, store: bool) -> None:
    for _ in _ticks(running, stop, until_s, _LINE_SECONDS, store):
        frames, nbytes = running.feed.figures.rates()
        parts = [
            f"{time.monotonic() - running.begin_s:6.0f} s  detector {frames:.1f}/s "
            f"{nbytes / 1e6:.1f} MB/s"
        ]
        for group in running.groups:
            name, rate, megabytes, p50, p99, lag = _cells(running, group)
            parts.append(f"{name} {rate}/s {megabytes} MB/s delay p50 {p50} p99 {p99} ms lag {lag}")
        print(" | ".join(parts), flush=True)


def _live(running: Demo, stop: threading.Event, until_s: float, store: bool) -> None:
    from rich.live import Live

    with Live(_table(running), auto_refresh=False) as live:
        for _ in _ticks(running, stop, until_s, _LIVE_SECONDS, store):
            live.update(_table(running), refresh=True)


def _table(running: Demo) -> Any:
    from rich.table import Table

    node = running.node
    table = Table(
        title=f"Beamstream demo: node at {node.endpoint}",
        caption=f"node: {node.rss_nbytes() / limits.MIB:.0f} MiB, {node.cpu_s():.1f} CPU s"
        " · Ctrl-C ends it with a summary",
    )
    table.add_column("who")
    for title in ("frames/s", "MB/s", "delay p50 / ms", "p99 / ms", "lag / frames"):
        table.add_column(title, justify="right")
    frames, nbytes = running.feed.figures.rates()
    table.add_row("detector", f"{frames:.1f}", f"{nbytes / 1e6:.1f}", "", "", "")
    for group in running.groups:
        table.add_row(*_cells(running, group))
    return table


def _cells(running: Demo, group: Group) -> tuple[str, ...]:
    frames, nbytes = group.figures.rates()
    p50, p99 = ("-" if math.isnan(q) else f"{q:.1f}" for q in group.figures.recent_quantiles())
    return (
        group.figures.name,
        f"{frames:.1f}",
        f"{nbytes / 1e6:.1f}",
        p50,
        p99,
        str(running.lag(group)),
    )


# ------------------------------------------------------------------------------------ the end


def _document(running: Demo, end_s: float, rate_hz: float, store: bool) -> dict[str, Any]:
    groups = {}
    for group in running.groups:
        groups[group.figures.name] = {
            **group.figures.document(end_s),
            "lag": running.lag(group),
            "lost": group.figures.lost,
            "damaged": group.figures.damaged,
        }
    return {
        "seconds": round(end_s - running.begin_s, 3),
        "rate_hz": rate_hz,
        "stored": store,
        "sent": running.feed.figures.document(end_s),
        "groups": groups,
        "node": {
            "cpu_s": round(running.node.cpu_s(), 2),
            "peak_rss_mb": round(running.node.peak_rss_nbytes() / 1e6, 1),
        },
    }


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document)


def _summary(document: dict[str, Any]) -> str:
    sent = document["sent"]
    lines = [
        f"{sent['frames']} frames in {document['seconds']:.1f} s: {sent['frames_per_s']:.1f}/s, "
        f"{sent['mb_per_s']:.1f} MB/s."
    ]
    for name, group in document["groups"].items():
        delays = ""
        if "delay_ms_p50" in group:
            delays = (
                f", delay p50 {group['delay_ms_p50']:.1f} ms, p99 {group['delay_ms_p99']:.1f} ms"
            )
        whole = "all as they were sent" if not group["damaged"] else f"{group['damaged']} damaged"
        gone = f", {group['lost']} fell out of the cache before they were read"
        lines.append(
            f"Group {name} got {group['frames']}{delays}; {whole}{gone if group['lost'] else ''}."
        )
    node = document["node"]
    lines.append(f"The node used {node['cpu_s']:.1f} CPU s and {node['peak_rss_mb']:.0f} MB.")
    return "\n".join(lines)
