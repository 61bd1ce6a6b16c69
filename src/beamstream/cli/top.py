"""`beamstream top`: streams, groups and steps as they go, on a screen, as lines or as JSON."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, flag, maybe
from beamstream.cli.terminal import plain, print_json, print_json_line, until_stopped

if TYPE_CHECKING:
    from beamstream.cli.top_watching import Look, Watching

Only = Literal["streams", "groups", "steps"]
VIEWS: Final[tuple[Only, ...]] = ("streams", "groups", "steps")

_EVERY_S_MIN: Final = 0.1


def top(
    view: Annotated[
        Only | None, Parameter(help="streams, groups or steps.", show_default=False)
    ] = None,
    /,
    *,
    filter: Annotated[str, maybe("Only rows with this in a name.")] = "",
    every: Annotated[float, Parameter(help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, flag("Look once (for a second), print, end.")] = False,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Show how streams, groups and steps go.

    On a terminal a full screen, with keys: s streams, g groups, p steps,
    / filter, arrows, q quit. Elsewhere, or with --once, lines; with --json a
    document for each look. Rates are those of the last 5 s, delays of the
    last 10 s, from a message's arrival to its delivery; the page has the same.

    $ beamstream top groups --once
    """
    from beamstream.cli.top_watching import watching

    if not _EVERY_S_MIN <= every <= 3600:
        raise Usage(f"--every {every:g} is not possible; {_EVERY_S_MIN} … 3600 seconds")
    with until_stopped(), watching(node, step="top") as watched:
        if once:
            _print(look_once(watched), view, filter, json=json, once=True)
        elif json or not _has_screen():
            _go_on(watched, view, filter, every, json=json)
        else:
            from beamstream.cli.top_screen import show

            show(watched, view or "streams", filter, every)
    return 0


def _has_screen() -> bool:
    return sys.platform != "win32" and sys.stdout.isatty() and sys.stdin.isatty()


def look_once(watched: Watching, seconds: float = 1.0) -> Look:
    """A look with rates, which take two.

    Raises
    ------
    TimedOut : the node does not answer.
    """
    from beamstream.errors import TimedOut

    watched.look()
    time.sleep(seconds)
    look = watched.look()
    if look is None:
        raise TimedOut("the node does not answer", hint="beamstream doctor")
    return look


def _go_on(watched: Watching, view: Only | None, wanted: str, every: float, *, json: bool) -> None:
    from beamstream.cli.top_watching import ticks

    for number, _ in enumerate(ticks(every)):
        look = watched.look()
        # Rates of the first look would be nothing but zeros.
        if look is not None and number:
            _print(look, view, wanted, json=json, once=False)


def _print(look: Look, view: Only | None, wanted: str, *, json: bool, once: bool) -> None:
    if json:
        (print_json if once else print_json_line)(document(look))
        return
    from beamstream.cli.top_view import lines

    clock = time.strftime("%H:%M:%S", time.localtime(look.time_ns / 1e9))
    for line in lines(look, (view,) if view else VIEWS, wanted):
        print(plain(f"{clock}  {line}"), flush=True)


def document(look: Look) -> dict[str, Any]:
    """A look as JSON has it: what the page is sent, and the streams."""
    import msgspec

    snapshot: dict[str, Any] = msgspec.to_builtins(look.snapshot)
    return {
        "time_ns": look.time_ns,
        "beamtime": look.beamtime,
        "stale_s": look.stale_s,
        **snapshot,
        "streams": msgspec.to_builtins(look.streams),
    }
