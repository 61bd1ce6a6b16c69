"""Replays by the node: messages once more, what ranges amount to, ranges that are open again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from beamstream.errors import Error
from beamstream.testing.native import NativeWire
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls, frames

pytestmark = pytest.mark.system

BT = "bt1"
LEVELS = pytest.mark.parametrize("level", [0, 1, 2])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("copies") / "data", cache="16MiB") as node:
        yield node


@pytest.fixture
def wire(node: NodeProcess) -> Iterator[NativeWire]:
    with NativeWire.of(node) as wire:
        wire.login(node.token(BT))
        yield wire


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    return name


def copy(wire: NativeWire, stream: str, to: str, lo: int, hi: int, **more: Any) -> calls.Copied:
    params = calls.Copy(
        source="det", stream=stream, lo=lo, hi=hi, to_source="det", to_stream=to, **more
    )
    found: calls.Copied = wire.call("copy", params)
    return found


def fill(wire: NativeWire, nbytes: int = 32 * 2**20) -> None:
    """Drive everything else out of the cache."""
    wire.open_writer("filler", "f", channel=90, level=0)
    for _ in range(nbytes // 2**20):
        wire.begin_put([bytes(2**20)], channel=90)
        wire.until(frames.Receipt)


@LEVELS
def test_messages_come_once_more(wire: NativeWire, stream: str, level: int) -> None:
    wire.open_writer("det", stream, level=level)
    payloads = [b"%d" % k * 500 for k in range(1, 11)]
    wire.put(payloads, [b'{"k":%d}' % k for k in range(1, 11)], ids=tuple(range(10, 110, 10)))
    wire.subscribe("det", f"{stream}~r2", "g", start=frames.Start.NEW)
    copied = copy(wire, stream, f"{stream}~r2", 20, 90, limit=5, run=3)
    assert (copied.count, copied.nbytes, copied.next_id) == (5, 2500, 61)
    seen: list[int] = []
    while len(seen) < 5:
        batch = wire.until(frames.Deliver).batch
        seen += batch.ids or range(batch.id, batch.id + batch.count)
    assert seen == [20, 30, 40, 50, 60]
    rest = copy(wire, stream, f"{stream}~r2", copied.next_id, 90)
    assert (rest.count, rest.next_id) == (2, 81)
    assert copy(wire, stream, f"{stream}~r2", 81, 90).next_id == 90
    assert wire.fetch("det", f"{stream}~r2", 1, 200) == payloads[1:8]
    origin = wire.call("origin", calls.GetOrigin(source="det", stream=f"{stream}~r2", id=50))
    assert (origin.run, origin.k) == (3, -1)
    assert [(one.stream, one.seq, one.id) for one in origin.inputs] == [(stream, 5, 50)]
    again = copy(wire, stream, f"{stream}~r2", 1, 200)
    assert again.count == 10
    row = wire.call("stream", calls.GetStream(source="det", stream=f"{stream}~r2"))
    assert row.count == 10
    fill(wire)
    if level:
        assert wire.fetch("det", f"{stream}~r2", 10, 200) == payloads
    else:
        reply, _ = wire.ask("fetch", calls.Fetch(source="det", stream=f"{stream}~r2", lo=10, hi=11))
        batch = calls.decode_result("fetch", reply.result).batch
        assert [lost.code for lost in batch.lost] == ["E504"]


@LEVELS
def test_a_copy_of_a_copy_has_the_payload(wire: NativeWire, stream: str, level: int) -> None:
    wire.open_writer("det", stream, level=level)
    wire.put([b"original"])
    for k in range(4):
        copy(wire, stream + "+" * k, stream + "+" * (k + 1), 1, 2)
    assert wire.fetch("det", f"{stream}++++", 1) == [b"original"]
    origin = wire.call("origin", calls.GetOrigin(source="det", stream=f"{stream}++++", id=1))
    assert [one.stream for one in origin.inputs] == [f"{stream}+++"]
    wire.call(
        "join", calls.Join(source="det", stream=f"{stream} j", inputs=(("det", f"{stream}+"),))
    )
    wire.subscribe("det", f"{stream} j", "g")
    wire.until(frames.Deliver)
    assert wire.fetch("det", f"{stream} j", 1) == [b"original"]


def test_a_stream_made_anew_is_not_taken_for_the_original(wire: NativeWire, stream: str) -> None:
    wire.open_writer("det", stream, level=0)
    wire.put([b"the first"])
    copy(wire, stream, f"{stream}~", 1, 2)
    wire.call("stream.delete", calls.DeleteStream(source="det", stream=stream))
    wire.open_writer("det", stream, channel=2, level=0)
    wire.put([b"the other"], channel=2)
    reply, body = wire.ask("fetch", calls.Fetch(source="det", stream=f"{stream}~", lo=1, hi=2))
    batch = calls.decode_result("fetch", reply.result).batch
    assert ([lost.code for lost in batch.lost], body) == (["E504"], b"")


@LEVELS
def test_datasets_are_copied_part_by_part(wire: NativeWire, stream: str, level: int) -> None:
    wire.open_writer("det", stream, level=level)
    for id in (1, 2):
        for part in (1, 2, 3):
            if (id, part) != (2, 2):
                wire.put([b"%d.%d" % (id, part)], id=id, substream=part, expected=3)
    copied = copy(wire, stream, f"{stream}~", 1, 9)
    assert (copied.count, copied.nbytes) == (2, 15)
    wire.put([b"2.2"], id=2, substream=2, expected=3)
    assert copy(wire, stream, f"{stream}~", 1, 9).count == 2
    reply, body = wire.ask("fetch", calls.Fetch(source="det", stream=f"{stream}~", lo=1, hi=9))
    batch = calls.decode_result("fetch", reply.result).batch
    assert body == b"1.11.21.32.12.22.3"
    assert [(one.expected, one.present) for one in batch.datasets] == [(3, 3), (3, 3)]
    origin = wire.call("origin", calls.GetOrigin(source="det", stream=f"{stream}~", id=2))
    assert [(one.id, one.substream) for one in origin.inputs] == [(2, 1), (2, 2), (2, 3)]


def test_files_are_shared_too(node: NodeProcess, wire: NativeWire, stream: str) -> None:
    wire.open_writer("det", stream)
    wire.put([b"of a file"], name=f"processed/{stream}")
    copy(wire, stream, f"{stream}~", 1, 2)
    fill(wire)
    assert wire.fetch("det", f"{stream}~", 1) == [b"of a file"]
    params = calls.DeleteStream(source="det", stream=f"{stream}~", files=True)
    assert wire.call("stream.delete", params).files == 0
    assert (node.data / "beamtimes" / BT / "processed" / stream).exists()


def test_what_cannot_be_copied(wire: NativeWire, stream: str) -> None:
    wire.open_writer("det", stream)
    wire.put([b"1", b"2", b"3"])
    wire.open_writer("det", f"{stream}~", channel=2)
    wire.put([b"other"], id=2, channel=2)
    with pytest.raises(Error, match="E401"):
        copy(wire, stream, f"{stream}~", 1, 4)
    row = wire.call("stream", calls.GetStream(source="det", stream=f"{stream}~"))
    assert row.count == 1, "nothing is copied"
    assert copy(wire, stream, f"{stream}~", 3, 4).count == 1
    with pytest.raises(Error, match="E100"):
        copy(wire, stream, stream, 1, 4)
    with pytest.raises(Error, match="E100"):
        copy(wire, stream, "x", 1, 4, limit=1_001)
    with pytest.raises(Error, match="E101"):
        copy(wire, stream, 'a"', 1, 4)
    wire.call("finish", calls.Finish(source="det", stream=f"{stream}~"))
    wire.put([b"4"])
    with pytest.raises(Error, match="E403"):
        copy(wire, stream, f"{stream}~", 4, 5)
    assert copy(wire, "never", f"{stream}~", 1, 5).next_id == 5


def measure(wire: NativeWire, stream: str, lo: int = 1, hi: int = 2**62) -> calls.Measured:
    params = calls.Measure(source="det", stream=stream, lo=lo, hi=hi)
    found: calls.Measured = wire.call("measure", params)
    return found


def test_what_a_range_amounts_to(wire: NativeWire, stream: str) -> None:
    assert measure(wire, stream).count == 0
    wire.open_writer("det", stream, level=2)
    wire.put([b"a" * 10] * 3)
    wire.put([b"b" * 20], name=f"processed/{stream}")
    wire.open_writer("det", stream, channel=2, level=0)
    wire.put([b"c" * 30] * 4, channel=2)
    wire.put([b""], [b'{"a":1}'], channel=2)
    found = measure(wire, stream)
    assert (found.count, found.nbytes) == (9, 170)
    assert (found.cached, found.files, found.log, found.gone) == (4, 1, 3, 0)
    assert 0 < found.first_ns <= found.last_ns
    part = measure(wire, stream, 3, 6)
    assert (part.count, part.nbytes, part.cached, part.files, part.log) == (3, 60, 1, 1, 1)
    assert part.first_ns == found.first_ns
    fill(wire)
    found = measure(wire, stream)
    assert (found.cached, found.gone, found.log) == (0, 4, 3)


def test_the_oldest_leave_the_cache_first(wire: NativeWire, stream: str) -> None:
    wire.open_writer("det", stream, level=0)
    for _ in range(40):
        wire.put([os.urandom(2**20)])
        wire.put([b""] * 9)
    found = measure(wire, stream)
    assert found.cached + found.gone == 40
    assert found.count == 400
    assert 4 <= found.cached < 20
    first = 401 - 10 * found.cached
    assert len(wire.fetch("det", stream, first)[0]) == 2**20
    reply, _ = wire.ask(
        "fetch", calls.Fetch(source="det", stream=stream, lo=first - 10, hi=first - 9)
    )
    batch = calls.decode_result("fetch", reply.result).batch
    assert [lost.code for lost in batch.lost] == ["E504"]


def reopen(wire: NativeWire, stream: str, lo: int, hi: int, group: str = "g") -> int:
    params = calls.Reopen(source="det", stream=stream, group=group, lo=lo, hi=hi)
    count: int = wire.call("group.reopen", params)
    return count


def test_a_range_is_open_again(node: NodeProcess, wire: NativeWire, stream: str) -> None:
    wire.open_writer("det", stream)
    wire.put([b"x"] * 10)
    wire.subscribe("det", stream, "g", credit_messages=10)
    delivered = wire.until(frames.Deliver)
    wire.send(frames.Ack(9, delivered.ref, delivered.tag, ((1, 11),), call=77))
    wire.answer(77)
    wire.send(frames.Unsubscribe(9))
    assert reopen(wire, stream, 3, 6) == 3
    row = wire.call("group", calls.GetGroup(source="det", stream=stream, group="g"))
    assert (row.acked, row.open, row.position) == (7, 3, 3)
    wire.close()
    node.restart(kill=True)
    with NativeWire.of(node) as later:
        later.login(node.token(BT))
        row = later.call("group", calls.GetGroup(source="det", stream=stream, group="g"))
        assert (row.acked, row.open) == (7, 3)
        later.subscribe("det", stream, "g", mode=frames.Mode.ORDERED)
        batch = later.until(frames.Deliver).batch
        assert (batch.id, batch.count) == (3, 3)
        assert reopen(later, stream, 100, 200) == 0
        assert reopen(later, stream, 4, 5) == 1
        assert later.until(frames.Deliver).batch.id == 4
        with pytest.raises(Error, match="E300"):
            reopen(later, stream, 1, 2, "never")
