"""`beamstream map`: producers, sources, groups and steps from left to right."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, flag
from beamstream.cli.terminal import print_json, print_json_line, until_stopped

if TYPE_CHECKING:
    from beamstream.cli.top_watching import Look

_CLEAR: Final = "\x1b[H\x1b[J"
_EVERY_S_MIN: Final = 0.1


def map(
    *,
    watch: Annotated[bool, flag("Draw it again and again.")] = False,
    every: Annotated[float, Parameter(help="Seconds between drawings.")] = 1.0,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Draw who feeds whom, from left to right.

    From declared pipelines and from what is seen. Above an edge messages and
    bytes per second, below it the delay from arrival to delivery, half of all
    and 99 %, of the last 10 s. An edge on which nothing flows is broken, and
    says for how long.

    $ beamstream map --watch
    """
    from beamstream.cli.top import look_once
    from beamstream.cli.top_watching import ticks, watching

    if not _EVERY_S_MIN <= every <= 3600:
        raise Usage(f"--every {every:g} is not possible; {_EVERY_S_MIN} … 3600 seconds")
    with until_stopped(), watching(node, step="map") as watched:
        look = look_once(watched)
        if not watch:
            if json:
                print_json(document(look))
            else:
                _show(look)
            return 0
        for _ in ticks(every):
            look = watched.look() or look
            if json:
                print_json_line(document(look))
            else:
                _show(look, clear=sys.stdout.isatty())
    return 0


def _show(look: Look, *, clear: bool = False) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    text = "\n".join(lines(look, width))
    print(f"{_CLEAR}{text}" if clear else text, flush=True)


def lines(look: Look, width: int = 0) -> list[str]:
    """The map with what is above and below it."""
    from beamstream.cli.map_drawing import LEGEND, draw
    from beamstream.cli.map_graph import graph_of
    from beamstream.cli.terminal import plain

    drawn = draw(graph_of(look.snapshot), width)
    if not drawn:
        return ["Nobody is connected, and nothing is declared."]
    return [plain(look.snapshot.sentence), "", *drawn, "", LEGEND]


def document(look: Look) -> dict[str, Any]:
    """The map as JSON has it."""
    import msgspec

    from beamstream.cli.map_graph import graph_of

    graph: dict[str, Any] = msgspec.to_builtins(graph_of(look.snapshot))
    return {"time_ns": look.time_ns, "stale_s": look.stale_s, **graph}
