"""Who feeds whom, from what is declared and what is seen; the page's map has the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from beamstream.cli.top_view import largest, step_name
from beamstream.monitor.documents import (
    EdgeState,
    Health,
    Producer,
    Snapshot,
    SourceState,
    StepState,
)

Kind = Literal["producer", "source", "group"]


class MapNode(msgspec.Struct, frozen=True, kw_only=True):
    """A producer, a source, or a group, which is what a step reads as.

    Parameters
    ----------
    detail : how many programs, "1/2" of those that are declared; empty for one.
    """

    id: str
    kind: Kind
    beamtime: str
    name: str
    detail: str
    state: Health


class MapEdge(msgspec.Struct, frozen=True, kw_only=True):
    """What flows between two nodes; delays are from arrival to delivery."""

    start: str
    end: str
    rate: float = 0.0
    nbytes_rate: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    age_s: float | None = None
    state: Health

    @property
    def stopped(self) -> bool:
        return self.rate <= 0


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    nodes: tuple[MapNode, ...]
    edges: tuple[MapEdge, ...]


def graph_of(snapshot: Snapshot) -> Graph:
    """All that is connected, was until an hour ago, or is declared."""
    made = _Making(snapshot)
    for source in snapshot.sources:
        made.source(source)
    for edge in snapshot.edges:
        made.reader(edge)
    for step in snapshot.steps:
        made.step(step)
    return Graph(nodes=tuple(made.nodes.values()), edges=tuple(made.edges.values()))


class _Making:
    def __init__(self, snapshot: Snapshot) -> None:
        self.nodes: dict[str, MapNode] = {}
        self.edges: dict[tuple[str, str], MapEdge] = {}
        self._groups = {(edge.beamtime, edge.group) for edge in snapshot.edges}
        self._steps = {step_name(step): step for step in snapshot.steps}
        beamtimes = [row.beamtime for row in snapshot.sources]
        self._beamtime = beamtimes[0] if beamtimes else ""
        self._where = {step: beamtime for beamtime, step in sorted(self._groups)}

    def source(self, row: SourceState) -> None:
        end = self._node("source", row.beamtime, row.source, "", row.state)
        for producer in row.producers:
            start = self._producer(row.beamtime, producer)
            self._edge(
                MapEdge(
                    start=start,
                    end=end,
                    rate=producer.rate,
                    nbytes_rate=producer.nbytes_rate,
                    age_s=producer.age_s,
                    state=producer.state,
                )
            )

    def _producer(self, beamtime: str, row: Producer) -> str:
        # A worker that writes is drawn as the group as which it reads.
        if row.step and ((beamtime, row.step) in self._groups or row.step in self._steps):
            return self._node("group", beamtime, row.step, "", row.state)
        name = row.step or row.instance or row.address or "unnamed"
        return self._node("producer", beamtime, name, "", row.state)

    def reader(self, edge: EdgeState) -> None:
        there = sum(member.connected for member in edge.members)
        detail = f"x{there}" if there > 1 else ""
        self._edge(
            MapEdge(
                start=self._node("source", edge.beamtime, edge.source, "", "idle"),
                end=self._node("group", edge.beamtime, edge.group, detail, edge.state, seen=True),
                rate=edge.rate,
                nbytes_rate=edge.nbytes_rate,
                p50_ms=edge.delivered_ms.p50,
                p99_ms=edge.delivered_ms.p99,
                age_s=edge.age_s,
                state=edge.state,
            )
        )

    def step(self, step: StepState) -> None:
        name = step_name(step)
        beamtime = self._where.get(name, self._beamtime)
        detail = f"{step.running}/{step.replicas}"
        group = self._node("group", beamtime, name, detail, step.state, seen=True)
        for read in step.reads:
            source = self._node("source", beamtime, read.partition("/")[0], "", "missing")
            self._declared(source, group)
        if step.writes:
            self._declared(group, self._node("source", beamtime, step.writes, "", "missing"))

    def _declared(self, start: str, end: str) -> None:
        if (start, end) not in self.edges:
            self._edge(MapEdge(start=start, end=end, state="missing"))

    def _node(
        self,
        kind: Kind,
        beamtime: str,
        name: str,
        detail: str,
        state: Health,
        *,
        seen: bool = False,
    ) -> str:
        """Its id; what is `seen` of it, or declared, replaces what was concluded before."""
        id = "\n".join((kind, beamtime, name))
        if id not in self.nodes or seen:
            self.nodes[id] = MapNode(
                id=id, kind=kind, beamtime=beamtime, name=name, detail=detail, state=state
            )
        return id

    def _edge(self, edge: MapEdge) -> None:
        key = (edge.start, edge.end)
        known = self.edges.get(key)
        self.edges[key] = edge if known is None else _merged((known, edge))


def _merged(edges: Iterable[MapEdge]) -> MapEdge:
    """Several instances with one name."""
    both = sorted(edges, key=lambda edge: float("inf") if edge.age_s is None else edge.age_s)
    return msgspec.structs.replace(
        both[0],
        rate=sum(edge.rate for edge in both),
        nbytes_rate=sum(edge.nbytes_rate for edge in both),
        p50_ms=largest(edge.p50_ms for edge in both),
        p99_ms=largest(edge.p99_ms for edge in both),
    )
