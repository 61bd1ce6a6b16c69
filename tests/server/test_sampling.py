"""What a node tells those who watch over it, and whom it tells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

import beamstream as bs
from beamstream.errors import BadInput, NotAllowed, NotFound
from beamstream.server.sampling import delays_of
from beamstream.server.stats import Histogram
from beamstream.testing.native import NativeWire
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls
from beamstream.wire.native.frames import Deliver
from beamstream.wire.native.sampling import GetStats, Stats

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="16MiB") as node:
        yield node


@pytest.fixture(scope="module")
def admin(node: NodeProcess) -> str:
    return node.cli("token", "new", "--data", str(node.data), "--admin").strip()


def connect(node: NodeProcess, token: str, **how: str) -> bs.Hub:
    return bs.connect(str(node.connect["url"]), token=token, **how)


def stats(hub: bs.Hub, **how: object) -> Stats:
    found: Stats = hub._call(GetStats(**how))  # type: ignore[arg-type]
    return found


def test_counters_are_those_of_what_was_done(node: NodeProcess) -> None:
    token = node.token("counted")
    with (
        connect(node, token, instance="camera", step="acquire") as writing,
        connect(node, token, instance="viewer", step="look") as reading,
    ):
        stream = writing.source("det").stream("scan1")
        with stream.writer(finish=False) as writer:
            writer.send_many([b"x" * 1000] * 100)
        group = reading.source("det").stream("scan1").group("readers", ack="manual")
        with group.subscribe() as member:
            batch = next(iter(member.batches()))
            for message in list(batch)[:40]:
                message.ack()
            member.sync(30)
            found = stats(writing)
        [producer] = found.producers
        assert (producer.source, producer.step, producer.instance) == ("det", "acquire", "camera")
        assert (producer.messages, producer.nbytes, producer.connected) == (100, 100_000, True)
        assert 0 <= time.time_ns() - producer.last_ns < 60e9
        [edge] = found.edges
        assert (edge.group, edge.step, edge.instance) == ("readers", "look", "viewer")
        assert (edge.messages, edge.nbytes, edge.acks, edge.again) == (100, 100_000, 40, 0)
        assert sum(edge.delivered.counts) == 100
        assert sum(edge.acknowledged.counts) == 40
        [group_row] = found.groups
        assert (group_row.open, group_row.leased, group_row.members) == (0, 60, ("viewer",))
        [row] = found.streams
        assert (row.stream, row.count, row.max_id, row.last_id) == ("scan1", 100, 100, -1)
        assert found.node.connections["native"] >= 2
        assert {limit.name for limit in found.limits} >= {"cache", "disk"}
        again = stats(writing, streams=False)
        assert again.streams == again.groups == ()
        assert again.node.messages_in == found.node.messages_in


def test_who_has_gone_is_not_connected(node: NodeProcess) -> None:
    token = node.token("gone")
    with connect(node, token, instance="camera") as hub:
        with hub.source("det").stream("s").writer(finish=False) as writer:
            writer.send(b"x")
        assert [row.connected for row in stats(hub).producers] == [True]
    with connect(node, token, instance="other") as hub:
        assert [row.connected for row in stats(hub).producers] == [False]


def test_errors_are_counted_by_code(node: NodeProcess) -> None:
    with connect(node, node.token("errors")) as hub:
        before = {row.code: row.count for row in stats(hub).errors}
        for _ in range(3):
            with pytest.raises(NotFound):
                hub.source("det").stream("none").group("g").delete()
        after = {row.code: row for row in stats(hub).errors}
        assert after["E300"].count == before.get("E300", 0) + 3
        assert "none" in after["E300"].text or after["E300"].text


def test_only_an_admin_sees_all_beamtimes(node: NodeProcess, admin: str) -> None:
    for beamtime in ("first", "second"):
        with connect(node, node.token(beamtime)) as hub:
            with hub.source("det").stream("s").writer(finish=False) as writer:
                writer.send(b"x")
            assert {row.beamtime for row in stats(hub).producers} == {beamtime}
            assert hub._call(calls.ListBeamtimes()) == [beamtime]
            with pytest.raises(NotAllowed):
                stats(hub, beamtime="*")
    with connect(node, admin, beamtime="first") as hub:
        assert "admin" in hub.access
        assert {row.beamtime for row in stats(hub, beamtime="*").producers} >= {"first", "second"}
        assert {"first", "second"} <= set(hub._call(calls.ListBeamtimes()))
        assert len(hub.source("det").stream("s")) == 1


def test_an_admin_token_is_for_the_node_alone(node: NodeProcess) -> None:
    for more in (["--beamtime", "bt1"], ["--beamline", "p01"]):
        with pytest.raises(bs.Error, match="--admin is for the whole node"):
            node.cli("token", "new", "--data", str(node.data), "--admin", *more)


def test_a_session_that_is_known_to_be_dead_keeps_nothing(node: NodeProcess) -> None:
    token = node.token("dead")
    session = os.urandom(16)
    with connect(node, token) as hub:
        with hub.source("det").stream("s").writer() as writer:
            writer.send_many([b"x"] * 5)
        with NativeWire.of(node) as wire:
            wire.login(token, session=session)
            wire.subscribe("det", "s", "g", credit_messages=10, credit_nbytes=1000, batch_max=10)
            wire.until(Deliver)
            group = hub.source("det").stream("s").group("g", timeout=30)
            info = group.info()
            assert info is not None
            assert info.leased == 5
            # Said before the node has noticed that the connection is gone.
            hub.end_session(session)
            wire.abort()
            assert [message.delivery for message in group] == [2] * 5
        with pytest.raises(BadInput):
            hub.end_session(b"short")


def test_empty_buckets_at_both_ends_are_not_told() -> None:
    histogram = Histogram()
    assert delays_of(histogram).counts == ()
    for delay_ns in (1_000_000, 2_000_000, 2_000_000):
        histogram.add(delay_ns)
    found = delays_of(histogram)
    assert found.counts[0] == 1
    assert found.counts[-1] == 2
    assert sum(found.counts) == 3
