"""Standing by, headers and what is settled, over connections to a real node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from beamstream.testing.native import NativeWire, settle
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls, frames

pytestmark = pytest.mark.system

BT, GROUP = "bt1", "hits"


def set_header(wire: NativeWire, document: bytes) -> None:
    wire.call("meta.set", calls.SetMeta(source="det", stream="scan1", document=document))


def read(node: NodeProcess) -> NativeWire:
    """A member of the group, which reads the stream alone or stands by."""
    wire = NativeWire.of(node)
    wire.login(node.token(BT))
    opened = wire.subscribe(
        "det",
        "scan1",
        GROUP,
        mode=frames.Mode.ORDERED,
        gaps=frames.Gaps.FINISHED,
        credit_messages=4,
        batch_max=2,
        exclusive=True,
        headers=True,
        settled=True,
    )
    assert (opened.source, opened.stream) == ("det", "scan1")
    return wire


def ids(delivered: frames.Deliver) -> list[int]:
    batch = delivered.batch
    return list(batch.ids or range(batch.id, batch.id + batch.count))


def make(wire: NativeWire, delivered: frames.Deliver) -> None:
    """Publish a result for each message, and settle them."""
    batch = delivered.batch
    seqs = tuple(batch.seqs or range(batch.seq, batch.seq + batch.count))
    made = frames.Made(1, "det", "scan1", seqs, settles=(settle(delivered),))
    wire.begin_put([b"result"] * batch.count, channel=2, ids=tuple(ids(delivered)), made=made)


def test_two_members_of_which_one_dies(node_with_frames: NodeProcess) -> None:
    node = node_with_frames
    with NativeWire.of(node) as detector, read(node) as first:
        detector.login(node.token(BT))
        header = first.expect(frames.Header)
        assert (header.version, header.document) == (1, b'{"energy":12}')
        assert first.expect(frames.Settled).seq == 1
        one, two = first.expect(frames.Deliver), first.expect(frames.Deliver)
        assert (ids(one), ids(two)) == ([1, 2], [4, 5])

        with read(node) as second:
            assert second.expect(frames.Header) == header
            assert second.expect(frames.Settled).seq == 1
            second.open_writer("hits", "scan1", channel=2)
            first.open_writer("hits", "scan1", channel=2)
            make(first, one)
            assert first.until(frames.Receipt).count == 2
            assert second.expect(frames.Settled).seq == 4, "3 is a skip"
            set_header(detector, b'{"energy":13}')
            assert second.expect(frames.Header).version == 2

            first.abort()
            again = second.expect(frames.Deliver)
            assert (ids(again), again.batch.deliveries) == ([4, 5], (2, 2))
            make(second, again)
            assert second.until(frames.Receipt).count == 2
            assert second.until(frames.Settled).seq == 6
            detector.call("finish", calls.Finish(source="det", stream="scan1", last_id=6))
            end = second.until(frames.End)
            assert (end.reason, end.last_id, end.missing) == ("finished", 6, ((6, 7),))
            row = detector.call("stream", calls.GetStream(source="hits", stream="scan1"))
            assert row.count == 4


@pytest.fixture
def node_with_frames() -> Iterator[NodeProcess]:
    """Ids 1, 2, 4, 5 of a stream whose id 3 was skipped, and a header."""
    with NodeProcess(cache="64MiB") as node, NativeWire.of(node) as wire:
        wire.login(node.token(BT))
        wire.open_writer("det", "scan1")
        wire.put([b"f1", b"f2"])
        wire.call("skip", calls.Skip(source="det", stream="scan1", ranges=((3, 4),)))
        wire.put([b"f4", b"f5"], ids=(4, 5))
        set_header(wire, b'{"energy":12}')
        yield node
