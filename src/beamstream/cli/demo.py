"""`beamstream demo`: a node, a detector and a pipeline, and a table of what they do."""

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
    from types import ModuleType

    from beamstream.cli.demo_feed import Frame
    from beamstream.cli.demo_pipeline import PipelineDemo
    from beamstream.cli.demo_run import Demo

    Running = Demo | PipelineDemo

_LIVE_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 1.0
_FREE_NBYTES_MIN: Final = limits.GIB
"""With `--store` the demo ends before the disk is full."""


def demo(
    *,
    shape: Annotated[str, Parameter(help="Rows and columns of the frames.")] = "1024,1024",
    rate: Annotated[float, Parameter(help="Frames per second.")] = 80.0,
    frames: Annotated[
        tuple[Path, ...], Parameter(help="Image files to send instead.", consume_multiple=True)
    ] = (),
    store: Annotated[
        bool, Parameter(negative="", help="Write files too, below a temporary folder.")
    ] = False,
    seconds: Annotated[float | None, Parameter(help="End after this time.")] = None,
    no_pipeline: Annotated[
        bool,
        Parameter(negative="", help="Two groups of readers, by ASAPO's protocol, in its place."),
    ] = False,
    no_page: Annotated[bool, Parameter(negative="", help="Without the page.")] = False,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print figures as JSON at the end only.")
    ] = False,
) -> int:
    """Show a node at work: a detector sends frames, a pipeline finds those with Bragg spots.

    It runs until Ctrl-C, keeps frames in memory only and leaves nothing behind.
    """
    if not 0 < rate <= 100_000:
        raise BadSetting(f"rate {rate} is not within 0 … 100,000 frames per second")
    if seconds is not None and not 0 < seconds <= 7 * 24 * 3600:
        raise BadSetting(f"seconds {seconds} is not a time to run")
    source, frame_nbytes = _source(shape, frames)
    made, view = _kind(no_pipeline)
    with (
        _stop_signals() as stop,
        made(
            source,
            rate_hz=rate,
            store=store,
            frame_nbytes=frame_nbytes,
            page=not (no_page or json),
        ) as running,
    ):
        until_s = running.begin_s + (seconds if seconds is not None else math.inf)
        if running.page:
            print(f"# in a browser: {running.page}", flush=True)
        if not json and running.access:
            print(f"# for a second terminal, as long as this runs:\n{running.access}", flush=True)
        if json:
            _watch(running, stop, until_s, store)
        elif sys.stdout.isatty():
            _live(running, view, stop, until_s, store)
        else:
            _lines(running, view, stop, until_s, store)
        document = view.document(running, running.finish(), rate, store)
    print(_json(document) if json else view.summary(document))
    status: int = view.status(document)
    return status


def _kind(no_pipeline: bool) -> tuple[type[Demo] | type[PipelineDemo], ModuleType]:
    """What runs, and what shows it."""
    if no_pipeline:
        from beamstream.cli import demo_groups_view
        from beamstream.cli.demo_run import Demo

        return Demo, demo_groups_view
    from beamstream.cli import demo_pipeline_view
    from beamstream.cli.demo_pipeline import PipelineDemo

    return PipelineDemo, demo_pipeline_view


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document)


def _source(shape: str, files: tuple[Path, ...]) -> tuple[Iterator[Frame], int]:
    """The frames, and the nbytes of the first."""
    from beamstream.cli.demo_feed import from_files, simulated

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
    running: Running, stop: threading.Event, until_s: float, period_s: float, store: bool
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


def _watch(running: Running, stop: threading.Event, until_s: float, store: bool) -> None:
    for _ in _ticks(running, stop, until_s, _LINE_SECONDS, store):
        pass


def _lines(
    running: Running, view: ModuleType, stop: threading.Event, until_s: float, store: bool
) -> None:
    for _ in _ticks(running, stop, until_s, _LINE_SECONDS, store):
        print(view.line(running), flush=True)


def _live(
    running: Running, view: ModuleType, stop: threading.Event, until_s: float, store: bool
) -> None:
    from rich.live import Live

    with Live(view.table(running), auto_refresh=False) as live:
        for _ in _ticks(running, stop, until_s, _LIVE_SECONDS, store):
            live.update(view.table(running), refresh=True)
