"""`beamstream map`: what is connected, and how it is drawn."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.cli import map as map_command
from beamstream.cli.main import main
from beamstream.cli.map_drawing import draw
from beamstream.cli.map_graph import Graph, MapEdge, MapNode, graph_of
from beamstream.cli.top_watching import Look
from beamstream.client.native.hub import connect
from beamstream.monitor.documents import (
    CacheUse,
    DiskUse,
    EdgeState,
    Member,
    NodeRates,
    NodeState,
    Producer,
    Quantiles,
    Snapshot,
    SourceState,
    StepState,
)
from beamstream.testing.node import NodeProcess


def source(name: str, *producers: Producer) -> SourceState:
    return SourceState(
        beamtime="b", source=name, producers=producers, streams=1, rate=0.0, nbytes_rate=0.0,
        age_s=None, count=0, nbytes=0, last_stream="", last_id=0, lost=0, state="live",
    )  # fmt: skip


def producer(step: str, rate: float = 100.0, **more: object) -> Producer:
    facts = {
        "instance": "pc1", "address": "::1", "connected": True, "nbytes_rate": 1e6 * rate,
        "age_s": 0.01, "state": "live", **more,
    }  # fmt: skip
    return Producer(step=step, rate=rate, **facts)  # type: ignore[arg-type]


def edge(name: str, group: str, rate: float = 100.0, members: int = 1, **more: object) -> EdgeState:
    there = tuple(
        Member(step=group, instance=f"w{number}", connected=True) for number in range(members)
    )
    facts = {
        "nbytes_rate": 1e6 * rate, "delivered_ms": Quantiles(p50=1.2, p99=8.4),
        "acked_ms": Quantiles(), "age_s": 0.01, "state": "live", **more,
    }  # fmt: skip
    return EdgeState(beamtime="b", source=name, group=group, members=there, rate=rate, **facts)  # type: ignore[arg-type]


def snapshot(
    sources: Sequence[SourceState] = (),
    edges: Sequence[EdgeState] = (),
    steps: Sequence[StepState] = (),
) -> Snapshot:
    node = NodeState(
        name="n", version="1", state="live", up_s=1.0, cpu=0.0, rss_nbytes=0,
        cache=CacheUse(nbytes=1, used=0, pinned=0, evicted=0), disk=DiskUse(free=1, nbytes=1),
        rates=NodeRates(), connections=0,
    )  # fmt: skip
    return Snapshot(
        node=node, sources=tuple(sources), edges=tuple(edges), steps=tuple(steps), sentence="Fine."
    )


def step(name: str, reads: str, writes: str, **more: object) -> StepState:
    facts = {"pipeline": "p", "replicas": 2, "running": 0, "state": "missing", **more}
    return StepState(step=name, reads=(reads,), writes=writes, **facts)  # type: ignore[arg-type]


FLOW = snapshot(
    sources=[
        source("eiger", producer("detector")),
        source("hits", producer("p.find", rate=12.0)),
    ],
    edges=[
        edge("eiger", "p.find", members=2),
        edge("eiger", "slow", rate=0.0, age_s=12.0, state="idle", delivered_ms=Quantiles()),
    ],
    steps=[
        step("find", "eiger/scan*", "hits", running=2, state="live"),
        step("index", "hits", "peaks"),
    ],
)


def test_a_worker_that_writes_is_the_group_as_which_it_reads() -> None:
    graph = graph_of(FLOW)
    kinds = {(node.kind, node.name): node for node in graph.nodes}
    assert set(kinds) == {
        ("producer", "detector"), ("source", "eiger"), ("group", "p.find"), ("source", "hits"),
        ("group", "p.index"), ("source", "peaks"), ("group", "slow"),
    }  # fmt: skip
    assert kinds["group", "p.find"].detail == "2/2"
    assert (kinds["group", "p.index"].state, kinds["source", "peaks"].state) == (
        "missing",
        "missing",
    )
    [made] = [one for one in graph.edges if one.start.endswith("p.find")]
    assert (made.rate, made.stopped, made.end.rpartition("\n")[2]) == (12.0, False, "hits")


def test_the_map_is_drawn_from_left_to_right() -> None:
    lines = draw(graph_of(FLOW))
    assert lines == [
        "              100 /s  100 MB/s             100 /s  100 MB/s                        12 /s  12.0 MB/s            nothing yet                              nothing yet",  # noqa: E501
        "(detector) ---------------------> eiger -+-----------------------> [p.find] 2/2 ---------------------> hits -- - - x - - - -> [p.index] 0/2 !missing -- - - x - - - -> peaks !missing",  # noqa: E501
        "                                         | 1.20 ms, p99 8.40 ms                                                missing                                  missing",  # noqa: E501
        "                                         | for 12.0 s",
        "                                         + - - - - - x - - - - --> [slow] !idle",
    ]


def test_a_narrow_terminal_gets_a_narrow_map() -> None:
    wide, narrow = draw(graph_of(FLOW)), draw(graph_of(FLOW), width=100)
    assert max(map(len, narrow)) < max(map(len, wide))
    for name in ("detector", "p.find", "p.index", "slow", "100 /s", "1.20 ms"):
        assert any(name in line for line in narrow)
    assert draw(graph_of(FLOW), width=1000) == wide


def test_names_cannot_command_the_terminal() -> None:
    drawn = "\n".join(draw(graph_of(snapshot([source("\x1b[2J", producer("x\ny"))]))))
    assert "\x1b" not in drawn
    assert "(x\\ny)" in drawn


def test_instances_of_one_name_are_one_producer() -> None:
    two = source("eiger", producer("det", age_s=9.0, instance="a"), producer("det", instance="b"))
    graph = graph_of(snapshot([two]))
    [found] = graph.edges
    assert (found.rate, found.age_s) == (200.0, 0.01)


def node(number: int) -> MapNode:
    return MapNode(
        id=str(number), kind="source", beamtime="b", name=f"n{number}.", detail="", state="live"
    )


graphs = st.integers(1, 12).flatmap(
    lambda count: st.builds(
        lambda pairs: Graph(
            nodes=tuple(node(number) for number in range(count)),
            edges=tuple(
                MapEdge(start=str(a), end=str(b), rate=float(a), state="live") for a, b in pairs
            ),
        ),
        st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=30),
    )
)


@given(graphs)
def test_any_graph_is_drawn_with_each_node_and_edge_once(graph: Graph) -> None:
    lines = draw(graph)
    text = "\n".join(lines)
    assert text.isascii()
    for one in graph.nodes:
        found = re.findall(rf"(?:^|[ ]){re.escape(one.name)}(?! \(above\))", text, re.M)
        fed = sum(edge.end == one.id for edge in graph.edges)
        feeds = any(edge.start == one.id for edge in graph.edges)
        assert len(found) == (1 if feeds else max(fed, 1))
    assert text.count("-> ") == len(graph.edges)
    assert all(line == line.rstrip() for line in lines)


def test_a_very_long_chain_is_drawn_as_far_as_can_be() -> None:
    chain = Graph(
        nodes=tuple(node(number) for number in range(3000)),
        edges=tuple(
            MapEdge(start=str(number), end=str(number + 1), state="live") for number in range(2999)
        ),
    )
    text = "\n".join(draw(chain))
    assert all(f"n{number}." in text for number in range(3000))


def test_nothing_is_said_to_be_nothing() -> None:
    look = Look(time_ns=0, beamtime="b", stale_s=0.0, snapshot=snapshot(), streams=())
    assert map_command.lines(look) == ["Nobody is connected, and nothing is declared."]


@pytest.mark.system
def test_the_map_of_a_node_has_who_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with NodeProcess(cache="64MiB", durability="os") as running:
        url, token = running.connect["url"], running.connect["token"]
        monkeypatch.setenv("BEAMSTREAM_URL", url)
        monkeypatch.setenv("BEAMSTREAM_TOKEN", token)
        with (
            connect(url, token=token, step="detector") as detector,
            connect(url, token=token, step="show.find") as finder,
        ):
            document = {
                "pipeline": "show",
                "state": "up",
                "steps": [
                    {"name": "find", "step_id": "show.find", "reads": ["eiger"], "writes": "hits"},
                    {"name": "index", "step_id": "show.index", "reads": ["hits"], "writes": None},
                ],
            }
            detector.source("pipelines").stream("show").set_meta(document)
            for _ in range(5):
                detector.stream("eiger/scan1").writer().send(b"x" * 1000).result(10)
            group = finder.stream("eiger/scan1").group("show.find", ack="manual")
            out = finder.stream("hits/scan1").writer()
            for message in group:
                out.send(b"y").result(10)
                message.ack()
                if message.id == 5:
                    break
            assert main(["map", "--json"]) == 0
            told = json.loads(capsys.readouterr().out)
            assert main(["map"]) == 0
            text = capsys.readouterr().out
    nodes = {row["name"]: row for row in told["nodes"]}
    assert {"detector", "eiger", "show.find", "hits", "show.index"} <= set(nodes)
    assert (nodes["detector"]["kind"], nodes["show.find"]["kind"]) == ("producer", "group")
    assert nodes["show.index"]["state"] == "missing"
    ways = {tuple(edge[end].split("\n")[2] for end in ("start", "end")) for edge in told["edges"]}
    assert ways == {
        ("detector", "eiger"), ("eiger", "show.find"), ("show.find", "hits"),
        ("hits", "show.index"),
    }  # fmt: skip
    [line] = [line for line in text.splitlines() if "(detector)" in line]
    assert re.search(
        r"\(detector\).*eiger.*\[show\.find\].*hits.*\[show\.index\] 0/1 !missing", line
    )
