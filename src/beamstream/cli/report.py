"""`beamstream report`: the last minutes as one self-contained page, for the log book."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from beamstream.cli.options import ANY_NODE, Node, Usage, flag
from beamstream.cli.terminal import STDIO, plural, show_nbytes, show_span, talk

if TYPE_CHECKING:
    from collections.abc import Callable

    from beamstream.cli.top_watching import Look, Watching

_UNITS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|m|min|h|d)")
_SECONDS_MAX: Final = 86_400.0
"""No monitor keeps more."""

_TIMEOUT_S: Final = 30.0
_EVERY_S: Final = 1.0


def report(
    *,
    last: Annotated[str, Parameter(help="How far back: 90s, 10m, 2h.")] = "10m",
    output: Annotated[
        Path, Parameter(name=("--output", "-o"), help="File that is written; -: stdout.")
    ] = Path("report.html"),
    force: Annotated[bool, flag("Write over a file that is there.")] = False,
    node: Node = ANY_NODE,
) -> int:
    """Write what went on into one file: charts, groups, errors; it needs nothing else.

    The monitor of the node has seen it already. Where none runs, it is watched
    from now on for as long, and written then, or at Ctrl-C.

    $ beamstream report --last 10m -o report.html
    """
    from beamstream.cli import monitor_api
    from beamstream.client.native import places

    seconds = seconds_of(last)
    to_stdout = str(output) == STDIO
    if not to_stdout and output.exists() and not force:
        raise Usage(f"{output} is there", hint="--force writes over it")
    access = places.find_access(node.url, node.beamtime, node.token, os.environ)
    query = {"seconds": f"{seconds:g}"}
    if node.beamtime:
        query["beamtime"] = node.beamtime
    ca = os.environ.get("BEAMSTREAM_TLS_CA", "")
    try:
        page = monitor_api.get(
            access, "/api/v1/report", query, timeout_s=_TIMEOUT_S, tls_ca=ca
        ).decode()
    except monitor_api.NoMonitor as error:
        talk(f"{error.message}; watching for {show_span(seconds)} from now on, Ctrl-C: less")
        page = _watched(node, seconds)
    if to_stdout:
        sys.stdout.write(page)
        return 0
    _write(output, page)
    talk(f"{output}: {show_nbytes(output.stat().st_size)}")
    return 0


def seconds_of(text: str) -> float:
    """A span of time.

    Raises
    ------
    Usage : it is none, or longer than anybody remembers.

    >>> seconds_of("90s"), seconds_of("10m"), seconds_of("1.5h")
    (90.0, 600.0, 5400.0)
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise Usage(f"--last {text[:40]!r} is no span of time", hint="90s, 10m or 2h")
    seconds = float(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= _SECONDS_MAX:
        raise Usage(f"--last {text}: from one second to one day is remembered")
    return seconds


def _watched(node: Node, seconds: float) -> str:
    from beamstream.cli.terminal import until_stopped
    from beamstream.cli.top_watching import watching

    with watching(node, step="report") as watched:
        record = Record(watched)
        began = time.monotonic()
        with until_stopped():
            while (left_s := seconds - (time.monotonic() - began)) > 0:
                record.take()
                time.sleep(min(_EVERY_S, left_s))
        record.take()
        talk(f"seen {plural(record.looks, 'time')}")
        return record.page(max(time.monotonic() - began, 1.0))


class Record:
    """What was seen of a node, in memory.

    Parameters
    ----------
    wall : seconds since 1970 UTC.
    """

    def __init__(self, watched: Watching, wall: Callable[[], float] = time.time) -> None:
        from beamstream.monitor.history import History, Key

        self._watched = watched
        self._wall = wall
        self._history = History(None)
        self._keys: set[Key] = set()
        self._look: Look | None = None
        self.looks = 0

    def take(self) -> None:
        """Look once; nothing is taken of a node that does not answer."""
        from beamstream.monitor.sampler import kept

        look = self._watched.look()
        self._look = look or self._look
        if look is None or look.stale:
            return
        self.looks += 1
        rows = list(kept(look.snapshot.node.name, look.snapshot))
        self._keys.update(key for key, _ in rows)
        self._history.add(self._wall(), rows)
        self._history.write(self._wall())

    def page(self, seconds: float) -> str:
        """The report of what was seen.

        Raises
        ------
        TimedOut : that is nothing.
        """
        from beamstream.errors import TimedOut
        from beamstream.monitor import report

        if self._look is None:
            raise TimedOut("the node has not answered", hint="beamstream doctor")
        now_s = self._wall()
        series = {key: self._history.series(key, seconds, now_s) for key in sorted(self._keys)}
        return str(
            report.html(self._look.snapshot, series, seconds=seconds, made_ns=int(now_s * 1e9))
        )


def _write(path: Path, page: str) -> None:
    """All of it or nothing."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
