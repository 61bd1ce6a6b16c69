"""Results of steps on a real node: what is made, skipped and settled stands or falls together."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beamstream.errors import ConnectionLost, Error
from beamstream.testing.native import NativeWire, settle
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls, frames

pytestmark = pytest.mark.system

BT, GROUP, RUN = "bt1", "bin", 7
LEVELS = pytest.mark.parametrize("level", [0, 1, 2])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("results") / "data", cache="64MiB") as node:
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


def give(wire: NativeWire, stream: str, count: int, *, channel: int = 5) -> None:
    """So many messages in the stream of the detector."""
    wire.open_writer("det", stream, channel=channel)
    wire.put([b"frame %d" % k for k in range(1, count + 1)], channel=channel)


def take(wire: NativeWire, stream: str, count: int, **more: Any) -> frames.Deliver:
    """So many messages as one delivery."""
    wire.subscribe("det", stream, GROUP, **more)
    delivered = wire.until(frames.Deliver)
    assert delivered.batch.count == count
    return delivered


def made(stream: str, seqs: tuple[int, ...], *settles: frames.Settle, **more: Any) -> frames.Made:
    return frames.Made(RUN, "det", stream, seqs, settles=settles, **more)


def group(wire: NativeWire, stream: str) -> calls.GroupRow:
    row = wire.call("group", calls.GetGroup(source="det", stream=stream, group=GROUP))
    assert isinstance(row, calls.GroupRow)
    return row


def count(wire: NativeWire, stream: str) -> int:
    row = wire.call("stream", calls.GetStream(source="out", stream=stream))
    return 0 if row is None else row.count


@LEVELS
def test_results_and_their_inputs_are_one(wire: NativeWire, stream: str, level: int) -> None:
    give(wire, stream, 3)
    delivered = take(wire, stream, 3)
    assert group(wire, stream).leased == 3
    wire.open_writer("out", stream, level=level)
    receipt = wire.put(
        [b"one", b"two", b"three"], ids=(1, 2, 3), made=made(stream, (1, 2, 3), settle(delivered))
    )
    assert (receipt.level, receipt.duplicate) == (level, False)
    row = group(wire, stream)
    assert (row.acked, row.leased, row.open) == (3, 0, 0)
    assert wire.fetch("out", stream, 1, 4) == [b"one", b"two", b"three"]
    origin = wire.call("origin", calls.GetOrigin(source="out", stream=stream, id=2))
    assert (origin.run, origin.k) == (RUN, 0)
    assert [(one.source, one.stream, one.seq, one.id) for one in origin.inputs] == [
        ("det", stream, 2, 2)
    ]


def test_a_result_that_is_there_is_not_stored_again(wire: NativeWire, stream: str) -> None:
    """By whomever, under whatever id, whatever it holds: another try at the same."""
    give(wire, stream, 2)
    delivered = take(wire, stream, 2)
    wire.open_writer("out", stream)
    first = wire.put([b"a", b"b"], made=made(stream, (1, 1), settle(delivered), ks=(0, 1)))
    assert first.id == 1
    wire.open_writer("out", stream, channel=2)
    again = wire.put(
        [b"B", b"A"], channel=2, made=made(stream, (1, 1), settle(delivered), ks=(1, 0))
    )
    assert (again.duplicate, again.ids or (again.id, again.id + 1)) == (True, (2, 1))
    wire.begin_put([b"B", b"c"], channel=2, made=made(stream, (1, 1), ks=(1, 2)))
    one, two = (wire.expect(frames.Receipt) for _ in range(2))
    assert {(one.duplicate, one.id), (two.duplicate, two.id)} == {(True, 2), (False, 3)}
    other_run = wire.put([b"d"], channel=2, made=frames.Made(8, "det", stream, (1,)))
    assert (other_run.duplicate, other_run.id) == (False, 4)
    assert wire.fetch("out", stream, 1, 9) == [b"a", b"b", b"c", b"d"]


def test_a_lease_that_has_ended_refuses_all(
    node: NodeProcess, wire: NativeWire, stream: str
) -> None:
    give(wire, stream, 2)
    slow = take(wire, stream, 2)
    tag, ranges = slow.tag, ((1, 3),)
    wire.send(frames.Nack(slow.channel, slow.ref, tag, ranges))
    other = wire.until(frames.Deliver)
    assert other.tag != tag
    wire.open_writer("out", stream)
    for level in range(3):
        wire.open_writer("out", stream, channel=20 + level, level=level)
        with pytest.raises(Error, match="E405"):
            wire.put(
                [b"x"],
                channel=20 + level,
                made=made(stream, (1,), settle(slow), skips=((2, 3),)),
            )
    with pytest.raises(Error, match="E405"):
        wire.put([b"x"], name=f"processed/{stream}", made=made(stream, (1,), settle(slow)))
    assert not (node.data / "beamtimes" / BT / "processed" / stream).exists()
    with pytest.raises(Error, match="E405"):
        wire.call(
            "skip",
            calls.Skip(source="out", stream=stream, ranges=((1, 3),), settles=(settle(slow),)),
        )
    assert count(wire, stream) == 0
    row = group(wire, stream)
    assert (row.leased, row.acked) == (2, 0)
    receipt = wire.put([b"x"], made=made(stream, (1,), settle(other), skips=((2, 3),)))
    assert receipt.id == 1
    assert group(wire, stream).acked == 2


@LEVELS
def test_skips_come_with_results(wire: NativeWire, stream: str, level: int) -> None:
    give(wire, stream, 5)
    delivered = take(wire, stream, 5)
    wire.open_writer("out", stream, level=level)
    wire.subscribe("out", stream, "next", channel=10, mode=frames.Mode.ORDERED)
    wire.begin_put(
        [b"2", b"4"],
        ids=(2, 4),
        made=made(stream, (2, 4), settle(delivered), skips=((1, 2), (3, 4), (5, 6))),
    )
    seen: list[int] = []
    while len(seen) < 2:
        batch = wire.until(frames.Deliver).batch
        seen += batch.ids or range(batch.id, batch.id + batch.count)
    assert seen == [2, 4]
    wire.until(frames.Receipt)
    row = wire.call("stream", calls.GetStream(source="out", stream=stream))
    assert (row.count, row.skipped, row.max_id) == (2, 3, 5)
    assert group(wire, stream).acked == 5


def test_ids_that_were_skipped_in_other_ranges(wire: NativeWire, stream: str) -> None:
    """A batch that is put together anew skips what parts of it have skipped before."""
    give(wire, stream, 9)
    delivered = take(wire, stream, 9)
    wire.call("skip", calls.Skip(source="out", stream=stream, ranges=((2, 4), (6, 7))))
    wire.open_writer("out", stream)
    skips = ((1, 5), (6, 10))
    receipt = wire.put([b"5"], id=5, made=made(stream, (5,), settle(delivered), skips=skips))
    assert receipt.id == 5
    row = wire.call("stream", calls.GetStream(source="out", stream=stream))
    assert (row.count, row.skipped, row.max_id) == (1, 8, 9)
    wire.call("skip", calls.Skip(source="out", stream=stream, ranges=((6, 12),)))
    with pytest.raises(Error, match="E401"):
        wire.put([b"5"], id=12, made=made(stream, (6,), skips=((5, 6),)))
    assert count(wire, stream) == 1


def test_a_skip_settles_by_itself(wire: NativeWire, stream: str) -> None:
    give(wire, stream, 3)
    delivered = take(wire, stream, 3, batch_max=3)
    first = frames.Settle(delivered.channel, delivered.ref, delivered.tag, ((1, 2),))
    rest = frames.Settle(delivered.channel, delivered.ref, delivered.tag, ((2, 4),), dead=True)
    wire.call(
        "skip", calls.Skip(source="out", stream=stream, ranges=((1, 2),), settles=(first, rest))
    )
    row = group(wire, stream)
    assert (row.acked, row.dead, row.leased) == (1, 2, 0)
    wire.call("skip", calls.Skip(source="out", stream=stream, ranges=(), settles=(first,)))
    with pytest.raises(Error, match="E100"):
        wire.call("skip", calls.Skip(source="out", stream=stream, ranges=()))


def test_what_is_given_up_is_told_in_the_same_unit(wire: NativeWire, stream: str) -> None:
    give(wire, stream, 1)
    delivered = take(wire, stream, 1)
    wire.open_writer("out.failed", stream)
    wire.put([b""], [b'{"error":"boom"}'], made=made(stream, (1,), settle(delivered, dead=True)))
    row = group(wire, stream)
    assert (row.dead, row.acked, row.leased) == (1, 0, 0)
    again = calls.Redeliver(source="det", stream=stream, group=GROUP)
    assert wire.call("group.redeliver", again) == 1
    assert wire.until(frames.Deliver).batch.seq == 1


@LEVELS
def test_a_conflict_leaves_the_lease(wire: NativeWire, stream: str, level: int) -> None:
    give(wire, stream, 2)
    delivered = take(wire, stream, 2)
    wire.open_writer("out", stream, level=level)
    wire.put([b"there"], id=2)
    wire.begin_put(
        [b"1", b"2"], ids=(1, 2), made=made(stream, (1, 2), settle(delivered), skips=((3, 4),))
    )
    failed = wire.expect(frames.Failed)
    assert (failed.sequence, failed.count, failed.code) == (2, 2, "E401")
    row = group(wire, stream)
    assert (row.leased, row.acked) == (2, 0)
    assert (count(wire, stream), wire.fetch("out", stream, 1)) == (1, [])
    wire.put([b"1", b"2"], ids=(1, 4), made=made(stream, (1, 2), settle(delivered)))
    assert group(wire, stream).acked == 2


def test_a_result_with_a_name_is_a_file(node: NodeProcess, wire: NativeWire, stream: str) -> None:
    give(wire, stream, 2)
    delivered = take(wire, stream, 2)
    one = frames.Settle(delivered.channel, delivered.ref, delivered.tag, ((1, 2),))
    wire.open_writer("out", stream)
    name = f"processed/{stream}/1.h5"
    receipt = wire.put([b"file"], name=name, made=made(stream, (1,), one, skips=((7, 8),)))
    assert (receipt.id, receipt.duplicate) == (1, False)
    row = group(wire, stream)
    assert (row.acked, row.leased) == (1, 1)
    wire.open_writer("out", stream, channel=2)
    again = wire.put([b"other bytes"], name=name, channel=2, made=made(stream, (1,), one))
    assert (again.id, again.duplicate) == (1, True)
    path = node.data / "beamtimes" / BT / name
    assert path.read_bytes() == b"file"
    assert wire.fetch("out", stream, 1) == [b"file"]
    wire.call("skip", calls.Skip(source="out", stream=stream, ranges=((10, 12),)))
    skipped = made(stream, (9,), skips=((9, 13),))
    assert wire.put([b"nine"], id=20, name=f"{name}.9", made=skipped).id == 20
    with pytest.raises(Error, match="E402"):
        wire.put([b"taken"], name=name, made=made(stream, (2,), settle(delivered)))
    row = group(wire, stream)
    assert (row.acked, row.leased) == (1, 1), "the refused one goes on"


def test_several_inputs_make_one_result(wire: NativeWire, stream: str) -> None:
    give(wire, stream, 6)
    delivered = take(wire, stream, 6)
    wire.open_writer("out", stream)
    spans = (frames.pack_span(((1, 4),)), frames.pack_span(((4, 5), (6, 7))))
    wire.put([b"mean", b"rest"], made=made(stream, (1, 4), settle(delivered), spans=spans))
    origins = [
        wire.call("origin", calls.GetOrigin(source="out", stream=stream, id=id)) for id in (1, 2)
    ]
    assert [[one.id for one in origin.inputs] for origin in origins] == [[1, 2, 3], [4, 6]]
    wire.call("stream.delete", calls.DeleteStream(source="det", stream=stream))
    gone = wire.call("origin", calls.GetOrigin(source="out", stream=stream, id=1))
    assert [(one.seq, one.id) for one in gone.inputs] == [(1, 0), (2, 0), (3, 0)]
    assert wire.call("origin", calls.GetOrigin(source="out", stream=stream, id=3)) is None


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"seqs": (1, 2)}, "E702"),
        ({"ks": (0, 1)}, "E702"),
        ({"spans": (b"", b"")}, "E702"),
        ({"seqs": (0,)}, "E100"),
        ({"ks": (-1,)}, "E100"),
        ({"spans": (b"\xff",)}, "E100"),
        ({"spans": (frames.pack_span(((5, 7), (6, 8))),)}, "E100"),
        ({"run": -1}, "E100"),
        ({"source": ""}, "E101"),
        ({"stream": 'a"'}, "E101"),
        ({"skips": ((3, 3),)}, "E100"),
        ({"skips": ((0, 3),)}, "E100"),
        ({"settles": (frames.Settle(9, 0, 1, ((4, 4),)),)}, "E100"),
        ({"settles": (frames.Settle(9, 0, 1, ((1, 2),)),)}, "E405"),
    ],
)
def test_results_that_cannot_be(
    wire: NativeWire, stream: str, more: dict[str, Any], code: str
) -> None:
    wire.open_writer("out", stream)
    said: dict[str, Any] = {"run": 1, "source": "det", "stream": "t", "seqs": (1,), **more}
    with pytest.raises(Error, match=code):
        wire.put([b"x"], made=frames.Made(**said))
    with pytest.raises(Error, match="E100"):
        wire.put([b"x"], id=1, substream=1, expected=2, made=frames.Made(1, "det", "t", (1,)))
    assert count(wire, stream) == 0


def test_the_connection_breaks_before_the_receipt(node: NodeProcess, stream: str) -> None:
    """The put goes on; sent again by the same session, it is there already."""
    producer = bytes(range(16))
    with NativeWire.of(node) as wire:
        wire.login(node.token(BT))
        give(wire, stream, 4)
        delivered = take(wire, stream, 4)
        wire.open_writer("out", stream, producer=producer)
        sent = made(stream, (1, 2, 3, 4), settle(delivered))
        wire.begin_put([b"1", b"2", b"3", b"4"], id=1, made=sent)
        wire.abort()
        session = wire.session
    with NativeWire.of(node) as wire:
        wire.login(node.token(BT), session=session)
        held = frames.Held("det", stream, delivered.tag, ((1, 5),))
        wire.subscribe("det", stream, GROUP, held=(held,))
        wire.open_writer("out", stream, producer=producer)
        wire.begin_put([b"1", b"2", b"3", b"4"], id=1, sequence=1, made=sent)
        receipt = wire.until(frames.Receipt)
        assert (receipt.id, receipt.count) == (1, 4)
        assert wire.fetch("out", stream, 1, 9) == [b"1", b"2", b"3", b"4"]
        row = group(wire, stream)
        assert (row.acked, row.leased, row.open) == (4, 0, 0)


@pytest.mark.parametrize("level", [1, 2])
def test_a_killed_node_has_both_or_neither(tmp_path: Path, level: int) -> None:
    """At whatever moment it dies: results and what is acknowledged are the same set."""
    total, rng = 3_000, random.Random(level)
    with NodeProcess(tmp_path / "data", cache="16MiB") as node:
        token = node.token(BT)
        with NativeWire.of(node) as wire:
            wire.login(token)
            give(wire, "t", total)
        for moment in (0.0, rng.uniform(0.0, 0.02), rng.uniform(0.0, 0.05)):
            killer = threading.Timer(moment, node.kill)
            with NativeWire.of(node) as wire, contextlib.suppress(ConnectionLost, OSError):
                wire.login(token)
                work(wire, level, killer)
            killer.join()
            node.start()
            with NativeWire.of(node) as wire:
                wire.login(token)
                assert results(wire) == acknowledged(wire)
        with NativeWire.of(node) as wire:
            wire.login(token)
            work(wire, level, None)
            assert results(wire) == set(range(1, total + 1))
            row = group(wire, "t")
            assert (row.acked, row.open, row.leased) == (total, 0, 0)


def work(wire: NativeWire, level: int, killer: threading.Thread | None) -> None:
    """Make a result of whatever is open, until nothing is; the killer starts in the middle."""
    wire.open_writer("out", "t", level=level)
    wire.subscribe("det", "t", GROUP, batch_max=3)
    row = group(wire, "t")
    left, unanswered = row.open + row.leased, 0
    while left or unanswered:
        if left:
            delivered = wire.until(frames.Deliver)
            batch = delivered.batch
            seqs = tuple(batch.seqs or range(batch.seq, batch.seq + batch.count))
            made_of = [b"result of %d" % seq for seq in seqs]
            wire.begin_put(made_of, ids=seqs, made=made("t", seqs, settle(delivered)))
            wire.send(frames.Credit(delivered.channel, len(seqs), 1_000))
            unanswered += len(seqs)
            left -= len(seqs)
        while unanswered > (30 if left else 0):
            unanswered -= wire.until(frames.Receipt).count
            if killer is not None:
                killer.start()
                killer = None


def results(wire: NativeWire) -> set[int]:
    found = wire.fetch("out", "t", 1, 10_000, limit=4_000)
    seqs = [int(result.rpartition(b" ")[2]) for result in found]
    assert len(set(seqs)) == len(seqs)
    return set(seqs)


def acknowledged(wire: NativeWire) -> set[int]:
    row = group(wire, "t")
    total = row.acked + row.open + row.leased
    wire.subscribe("det", "t", GROUP, channel=11, credit_messages=9_000)
    open_seqs: set[int] = set()
    while len(open_seqs) < row.open:
        batch = wire.until(frames.Deliver).batch
        open_seqs |= set(batch.seqs or range(batch.seq, batch.seq + batch.count))
    wire.send(frames.Unsubscribe(11))
    return set(range(1, total + 1)) - open_seqs
