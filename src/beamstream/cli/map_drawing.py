"""A graph from left to right in plain characters. Pure.

Each node is drawn once; where it comes again, it says so. An edge has its rate above and its delay
below; one on which nothing flows is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from beamstream.cli.map_graph import Graph, MapEdge, MapNode
from beamstream.cli.terminal import plain, show_span
from beamstream.cli.top_view import bytes_per_s, per_s

LEGEND: Final = "(producer)  source  [group or step]   - - x - -> nothing flows"

_DEPTH_MAX: Final = 50
_NAME_NCHARS_MAX: Final = 32
_TIP: Final = "-> "


class _Place(NamedTuple):
    label: str
    depth: int
    children: tuple[tuple[MapEdge, _Place], ...]


class _Text(NamedTuple):
    """What stands at an edge: above and below."""

    above: str
    below: str


def draw(graph: Graph, width: int = 0) -> list[str]:
    """The lines of a map.

    Parameters
    ----------
    width : of the terminal; what does not fit is said shorter, but never left out. 0: any.
    """
    forest = _Planting(graph).forest()
    lines = _drawn(forest, wide=True)
    if width and max(map(len, lines), default=0) > width:
        lines = _drawn(forest, wide=False)
    return lines


def _drawn(forest: Sequence[_Place], *, wide: bool) -> list[str]:
    drawing = _Drawing(forest, wide=wide)
    lines = [line.rstrip() for tree in forest for line in drawing.block(tree)[0]]
    # Empty lines at both ends of a tree are room for what stands at edges.
    kept = [line for at, line in enumerate(lines) if line or (at and lines[at - 1])]
    while kept and not kept[-1]:
        kept.pop()
    return kept


class _Planting:
    """A graph as trees: from what nobody feeds to the right, each node in full once."""

    def __init__(self, graph: Graph) -> None:
        self._nodes = {node.id: node for node in graph.nodes}
        self._after: dict[str, list[MapEdge]] = {}
        for edge in sorted(graph.edges, key=lambda edge: (-edge.rate, edge.end)):
            self._after.setdefault(edge.start, []).append(edge)
        self._fed = {edge.end for edge in graph.edges}
        self._planted: set[str] = set()

    def forest(self) -> list[_Place]:
        def order(id: str) -> tuple[str, float, str]:
            rate = sum(edge.rate for edge in self._after.get(id, ()))
            return self._nodes[id].beamtime, -rate, self._nodes[id].name

        roots = sorted((id for id in self._nodes if id not in self._fed), key=order)
        found = [self._tree(id, 0) for id in roots]
        # What goes around in a circle has no beginning.
        for id in sorted(self._nodes, key=order):
            if id not in self._planted:
                found.append(self._tree(id, 0))
        return found

    def _tree(self, id: str, depth: int) -> _Place:
        node = self._nodes[id]
        edges = self._after.get(id, [])
        if id in self._planted:
            return _Place(f"{_named(node)} (above)" if edges else _label(node), depth, ())
        if depth >= _DEPTH_MAX:
            return _Place(f"{_named(node)} (goes on below)", depth, ())
        self._planted.add(id)
        children = tuple((edge, self._tree(edge.end, depth + 1)) for edge in edges)
        return _Place(_label(node), depth, children)


def _named(node: MapNode) -> str:
    name = plain(node.name)
    if len(name) > _NAME_NCHARS_MAX:
        name = f"{name[: _NAME_NCHARS_MAX - 1]}~"
    marks = {"producer": ("(", ")"), "source": ("", ""), "group": ("[", "]")}[node.kind]
    return name.join(marks)


def _label(node: MapNode) -> str:
    state = "" if node.state == "live" else f"!{node.state}"
    return " ".join(word for word in (_named(node), node.detail, state) if word)


class _Drawing:
    def __init__(self, forest: Sequence[_Place], *, wide: bool) -> None:
        self._wide = wide
        self._label_widths: dict[int, int] = {}
        self._edge_widths: dict[int, int] = {}
        for tree in forest:
            self._measure(tree)

    def _measure(self, place: _Place) -> None:
        at = place.depth
        self._label_widths[at] = max(self._label_widths.get(at, 0), len(place.label))
        for edge, child in place.children:
            width = max(map(len, self._text(edge)))
            self._edge_widths[at] = max(self._edge_widths.get(at, 0), width)
            self._measure(child)

    def _text(self, edge: MapEdge) -> _Text:
        if edge.stopped:
            since = "nothing yet" if edge.age_s is None else f"for {show_span(edge.age_s)}"
            return _Text(since, edge.state if edge.state in ("gone", "missing") else "")
        rate, nbytes = per_s(edge.rate), bytes_per_s(edge.nbytes_rate)
        below = ""
        if edge.p50_ms is not None:
            below = show_span(edge.p50_ms / 1000)
            if self._wide and edge.p99_ms is not None:
                below += f", p99 {show_span(edge.p99_ms / 1000)}"
        return _Text(f"{rate}  {nbytes}" if self._wide else rate, below)

    def block(self, place: _Place) -> tuple[list[str], int]:
        """The lines of a tree, and which of them its root is in."""
        if not place.children:
            return ["", place.label, ""], 1
        lines: list[str] = []
        anchor = 0
        last = len(place.children) - 1
        for number, (edge, child) in enumerate(place.children):
            below, root = self.block(child)
            if number == 0:
                anchor = root
            for at, line in enumerate(below):
                # The line down goes from the first child's arrow to that of the last.
                down = (at > root or number > 0) and (at < root or number < last)
                lines.append(self._before(place, edge, at - root, number, down=down) + line)
        return lines, anchor

    def _before(self, place: _Place, edge: MapEdge, off: int, number: int, *, down: bool) -> str:
        """What stands left of a line of a child; `off`: lines below the child's own."""
        width = self._label_widths[place.depth]
        edge_width = self._edge_widths[place.depth] + 2
        text = self._text(edge)
        if off:
            said = {-1: text.above, 1: text.below}.get(off, "")
            bar = "|" if down else " "
            return f"{'':{width}}  {bar} {said:<{edge_width}}{'':{len(_TIP) - 1}}"
        line = _arrow(edge_width, stopped=edge.stopped)
        if number:
            return f"{'':{width}}  +{line}{_TIP}"
        joint = "+" if len(place.children) > 1 else "-"
        return f"{(place.label + ' ').ljust(width + 1, '-')}-{joint}{line}{_TIP}"


def _arrow(width: int, *, stopped: bool) -> str:
    """
    >>> _arrow(9, stopped=False), _arrow(9, stopped=True)
    ('---------', ' - x - - ')
    """
    if not stopped:
        return "-" * width
    broken = (" -" * width)[:width]
    middle = width // 2 - (width // 2 + 1) % 2
    return f"{broken[:middle]}x{broken[middle + 1 :]}"
