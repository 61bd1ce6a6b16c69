"""Results with what they were made of, and all that happens to a group, with a real node."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import beamstream as bs
from beamstream import errors
from beamstream.client.native.events import Header, Settled, StreamEnd
from beamstream.client.native.messages import Batch
from beamstream.client.native.origins import Origin
from beamstream.testing.node import NodeProcess
from client.native.test_cuts import Cutter

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="128MiB", durability="os") as made:
        yield made


@pytest.fixture(scope="module")
def hub(node: NodeProcess) -> Iterator[bs.Hub]:
    with bs.connect(node.connect["url"], beamtime="demo", token=node.token()) as made:
        yield made


@pytest.fixture
def stream(hub: bs.Hub, request: pytest.FixtureRequest) -> bs.Stream:
    """A stream that nobody else uses."""
    return hub.source("raw").stream(request.node.name.replace("[", "-").strip("]"))


def fill(stream: bs.Stream, count: int, nbytes: int = 10) -> None:
    with stream.writer() as writer:
        writer.send_many([b"%0*d" % (nbytes, number) for number in range(1, count + 1)])


def of(stream: bs.Stream, run: int, batch: Batch, lo: int, hi: int, **more: Any) -> Origin:
    return Origin(
        run,
        stream.source,
        stream.name,
        tuple(batch.seqs)[lo:hi],
        settles=(batch.held(lo, hi),),
        **more,
    )


def result_of(hub: bs.Hub, stream: bs.Stream) -> bs.Stream:
    return hub.source("made").stream(stream.name)


def test_a_step_by_hand(hub: bs.Hub, stream: bs.Stream) -> None:
    fill(stream, 20)
    stream.set_meta({"factor": 3})
    run = hub.define_run({"step": "upper", "code": "1"})
    assert hub.define_run({"code": "1", "step": "upper"}).no == run.no
    out = result_of(hub, stream)
    told: list[Any] = []
    with (
        stream.group(
            "step", ack="manual", headers=True, settled=True, gaps="finished", mode="ordered"
        ).subscribe() as member,
        out.writer(finish=False) as writer,
    ):
        for event in member.events():
            told.append(event)
            if not isinstance(event, Batch):
                continue
            for index, message in enumerate(event):
                assert isinstance(message, bs.Message)
                if message.id % 4 == 0:
                    writer.settle([message.held()], [(message.id, message.id + 1)])
                else:
                    made = of(stream, run.no, event, index, index + 1)
                    value = b"made of " + bytes(message.data)
                    writer.publish([value], [{"n": message.id}], made=made, ids=[message.id])
        assert member.end is not None
        assert member.end.reason == "finished"
    assert told[0] == Header(stream.source, stream.name, 1, {"factor": 3})
    assert told[-1] == StreamEnd(stream.source, stream.name, "finished", "", 20)
    settled = [event.seq for event in told if isinstance(event, Settled)]
    assert settled == sorted(settled)
    row = stream.group("step").info()
    assert row is not None
    assert (row.position, row.open, row.leased, row.dead) == (21, 0, 0, 0)
    found = list(out)
    assert [message.id for message in found] == [n for n in range(1, 20) if n % 4]
    assert [message.meta["n"] for message in found] == [message.id for message in found]
    info = out.info()
    assert info is not None
    assert info.skipped == 5
    origin = out.origin(3)
    assert origin is not None
    assert (origin.run, origin.k) == (run.no, 0)
    assert [(one.source, one.stream, one.seq, one.id) for one in origin.inputs] == [
        (stream.source, stream.name, 3, 3)
    ]
    again = hub.run(run.no)
    assert again is not None
    assert again.document == run.document
    assert run.no in [row.no for row in hub.runs()]
    header = stream.header()
    assert header is not None
    assert (header.version, header.document) == (1, b'{"factor":3}')


def test_results_that_are_there_are_not_made_twice(hub: bs.Hub, stream: bs.Stream) -> None:
    """A worker that was overtaken has its lease refused, and stores nothing."""
    fill(stream, 3)
    run = hub.define_run({"step": "twice"}).no
    out = result_of(hub, stream)
    with out.writer(finish=False) as writer:
        with stream.group("step", ack="manual").subscribe() as slow:
            batch = slow.next_event(20)
            assert isinstance(batch, Batch)
            late = of(stream, run, batch, 0, 3)
            assert stream.group("step").seek("begin") is not None
            with pytest.raises(errors.StaleLease):
                writer.publish([b"late"] * 3, made=late).result(20)
        assert len(out) == 0
        for name in ("step", "another"):
            with stream.group(name, ack="manual").subscribe() as member:
                batch = member.next_event(20)
                while not isinstance(batch, Batch):
                    batch = member.next_event(20)
                receipt = writer.publish([b"1", b"2", b"3"], made=of(stream, run, batch, 0, 3))
                assert list(receipt.ids) == [1, 2, 3]
                assert receipt.duplicate is (name == "another")
    assert len(out) == 3
    for name in ("step", "another"):
        row = stream.group(name).info()
        assert row is not None
        assert (row.open, row.leased) == (0, 0)


def test_giving_up_and_opening_again(hub: bs.Hub, stream: bs.Stream) -> None:
    fill(stream, 4)
    failed = hub.source("step.failed").stream(stream.name)
    group = stream.group("step", ack="manual")
    with group.subscribe() as member, failed.writer(finish=False) as writer:
        batch = member.next_event(20)
        assert isinstance(batch, Batch)
        assert len(batch) == 4
        made = Origin(0, "raw", stream.name, (2,), settles=(batch.held(1, 2).dead(),))
        writer.publish([b""], [{"error": "boom"}], made=made).result(20)
        writer.settle([batch.held(0, 1), batch.held(2, 4)]).result(20)
    assert [message.id for message in group.dead()] == [2]
    assert [message.meta for message in failed] == [{"error": "boom"}]
    assert group.reopen(2, 4) == 2
    assert [message.id for message in stream.group("step")] == [2, 3]
    assert group.dead() == []


def test_large_results_through_shared_memory(hub: bs.Hub, stream: bs.Stream) -> None:
    frame = np.arange(1 << 20, dtype="<u2").reshape(1024, 1024)
    with stream.writer() as writer:
        for number in range(6):
            writer.send(frame + np.uint16(number))
    run = hub.define_run({"step": "invert"}).no
    out = result_of(hub, stream)
    with (
        stream.group("step", ack="manual", batch_max=1).subscribe() as member,
        out.writer() as writer,
    ):
        for batch in member.events():
            if isinstance(batch, Batch):
                [message] = batch
                assert isinstance(message, bs.Message)
                made = of(stream, run, batch, 0, 1)
                writer.publish([~message.array()], made=made, ids=[message.id])
    found = list(out)
    assert len(found) == 6
    for message in found:
        assert isinstance(message, bs.Message)
        assert np.array_equal(message.array(), ~(frame + np.uint16(message.id - 1)))


def test_a_large_header_comes_whole(hub: bs.Hub, stream: bs.Stream) -> None:
    fill(stream, 1)
    large = {"table": "x" * (2 << 20)}
    stream.set_meta(large)
    with stream.group("g", ack="manual", headers=True).subscribe() as member:
        header = member.next_event(20)
    assert isinstance(header, Header)
    assert (header.version, header.meta) == (1, large)


def test_a_member_that_leaves_at_once(hub: bs.Hub, stream: bs.Stream) -> None:
    """What is on its way with its leases is settled, the rest is offered to others."""
    fill(stream, 500)
    run = hub.define_run({"step": "hasty"}).no
    out = result_of(hub, stream)
    with out.writer(finish=False) as writer:
        receipts = []
        with stream.group("step", ack="manual", batch_max=500).subscribe() as member:
            batch = member.next_event(20)
            assert isinstance(batch, Batch)
            for n in range(len(batch) - 1):
                made = of(stream, run, batch, n, n + 1)
                receipts.append(writer.publish([b"r"], made=made, ids=[batch.ids[n]]))
        for receipt in receipts:
            assert not receipt.result(20).duplicate
    with stream.group("step", timeout=20).subscribe() as other:
        left = [message.id for message in other if isinstance(message, bs.Message)]
        assert left == list(range(len(batch), 501))
    assert len(out) == len(batch) - 1


def test_copying_and_measuring(hub: bs.Hub, stream: bs.Stream) -> None:
    fill(stream, 10, nbytes=100)
    measured = stream.measure(2, 6)
    assert (measured.count, measured.nbytes, measured.gone) == (4, 400, 0)
    target = hub.source("raw").stream(f"{stream.name}~r1")
    copied = stream.copy_to(target, 3, 6)
    assert (copied.count, copied.nbytes, copied.next_id) == (3, 300, 6)
    assert [message.id for message in target] == [3, 4, 5]
    origin = target.origin(4)
    assert origin is not None
    assert [(one.stream, one.id) for one in origin.inputs] == [(stream.name, 4)]


def test_ends_of_many_streams(hub: bs.Hub, stream: bs.Stream) -> None:
    source = hub.source(stream.name)
    fill(source.stream("scan1"), 3)
    with source.group("g", ack="manual", headers=True).subscribe() as member:
        ended: list[str] = []
        counts: dict[str, int] = {}
        for event in member.events():
            match event:
                case Batch():
                    counts[event.stream] = counts.get(event.stream, 0) + len(event)
                    event.ack()
                case StreamEnd():
                    ended.append(event.stream)
                    if event.stream == "scan1":
                        fill(source.stream("scan2"), 4)
                    else:
                        break
                case Header():
                    assert event.stream not in counts
        assert ended == ["scan1", "scan2"]
        assert counts == {"scan1": 3, "scan2": 4}
        assert member.opened == ((stream.name, "scan1"), (stream.name, "scan2"))


@pytest.mark.parametrize("seed", range(8))
def test_cut_anywhere(node: NodeProcess, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between put and receipt, too: one result of each input, and each input settled once."""
    monkeypatch.setenv("BEAMSTREAM_SHM", "0")
    chance = random.Random(seed)
    cuts = [chance.choice((1_000, 4_000, 12_000)) for _ in range(12)]
    # The first connection lasts until it is welcome.
    cuts = [5_000, *[chance.randrange(cut // 2, cut) for cut in cuts]]
    count = 300
    with bs.connect(node.connect["url"], token=node.token()) as other:
        stream = other.source("raw").stream(f"cut-{seed}")
        with stream.writer() as writer:
            for number in range(count):
                writer.send(b"%d" % number * chance.choice((1, 100)))
        run = other.define_run({"seed": seed}).no
        with (
            Cutter(node.connect["native"], cuts) as cutter,
            bs.connect(cutter.url, token=node.token()) as hub,
        ):
            out = hub.source("made").stream(f"cut-{seed}")
            work(hub, hub.source("raw").stream(f"cut-{seed}"), out, run, chance, many=seed % 2)
            assert cutter.made > 5
        made = other.source("made").stream(f"cut-{seed}")
        wanted = {
            m.id: bytes(m.data)[::-1] for m in stream if m.id % 5 and isinstance(m, bs.Message)
        }
        found = [(m.meta["of"], bytes(m.data)) for m in made if isinstance(m, bs.Message)]
        if seed % 2:
            assert [message.id for message in made] == list(range(1, 2 * len(wanted) + 1))
            assert sorted(found) == sorted([*wanted.items(), *wanted.items()])
        else:
            assert [message.id for message in made] == sorted(wanted)
            assert dict(found) == wanted
        row = stream.group("step").info()
        assert row is not None
        assert (row.position, row.open, row.leased, row.dead) == (count + 1, 0, 0, 0)


def work(
    hub: bs.Hub, stream: bs.Stream, out: bs.Stream, run: int, chance: random.Random, *, many: int
) -> None:
    """Reverses every message but each fifth, `many` twice; what was offered again, again."""
    group = stream.group("step", ack="manual", batch_max=7, ahead_messages=40)
    with group.subscribe() as member, out.writer(finish=False) as writer:
        under_way: list[Any] = []
        for batch in member.events():
            if isinstance(batch, StreamEnd):
                break
            if not isinstance(batch, Batch):
                continue
            for message in batch:
                assert isinstance(message, bs.Message)
                held, id = message.held(), message.id
                if id % 5 == 0:
                    under_way.append(writer.settle([held], [] if many else [(id, id + 1)]))
                    continue
                values = [bytes(message.data)[::-1]] * (1 + many)
                made = Origin(
                    run,
                    stream.source,
                    stream.name,
                    (message.seq,) * len(values),
                    ks=tuple(range(len(values))),
                    settles=(held,),
                )
                ids = None if many else [id]
                metas = [{"of": id}] * len(values)
                under_way.append(writer.publish(values, metas, made=made, ids=ids))
            while under_way and (len(under_way) > 20 or chance.random() < 0.1):
                check(under_way.pop(0))
        for promise in under_way:
            check(promise)


def check(promise: Any) -> None:
    error = promise.exception(60)
    assert error is None or isinstance(error, errors.StaleLease), error


def test_the_node_is_killed_amid_results() -> None:
    """It finds leases and results again: each input is settled once, whatever it had answered."""
    with (
        NodeProcess(cache="64MiB", durability="disk") as own,
        bs.connect(own.connect["url"], beamtime="demo", token=own.token()) as hub,
    ):
        stream = hub.source("raw").stream("killed")
        fill(stream, 300)
        run = hub.define_run({"step": "killed"}).no
        out = result_of(hub, stream)
        made = 0
        with (
            stream.group("step", ack="manual", batch_max=10).subscribe() as member,
            out.writer(finish=False) as writer,
        ):
            under_way: list[Any] = []
            for batch in member.events():
                if not isinstance(batch, Batch):
                    continue
                for index, id in enumerate(batch.ids):
                    origin = of(stream, run, batch, index, index + 1)
                    under_way.append(writer.publish([b"%d" % id], made=origin, ids=[id]))
                    made += 1
                    if made in (50, 150, 250):
                        own.restart(kill=True)
                while len(under_way) > 30:
                    check(under_way.pop(0))
            for promise in under_way:
                check(promise)
        assert [message.id for message in out] == list(range(1, 301))
        row = stream.group("step").info()
        assert row is not None
        assert (row.position, row.open, row.leased) == (301, 0, 0)


def test_large_results_over_broken_connections(hub: bs.Hub, stream: bs.Stream) -> None:
    """What lay in the memory of the node goes by the socket then."""
    count = 40
    with stream.writer() as writer:
        for number in range(count):
            writer.send(np.full(100_000, number, "u1"))
    run = hub.define_run({"step": "broken"}).no
    out = result_of(hub, stream)
    with (
        stream.group("step", ack="manual", batch_max=4).subscribe() as member,
        out.writer(finish=False) as writer,
    ):
        for batch in member.events():
            if not isinstance(batch, Batch):
                continue
            for index, message in enumerate(batch):
                assert isinstance(message, bs.Message)
                array = message.array() + np.uint8(1)
                transport = hub._link._transport
                if message.id % 5 == 0 and transport is not None:
                    transport.shutdown()
                made = of(stream, run, batch, index, index + 1)
                receipt = writer.publish([array], made=made, ids=[message.id])
                check(receipt)
    found = [message for message in out if isinstance(message, bs.Message)]
    assert [message.id for message in found] == list(range(1, count + 1))
    assert all(set(bytes(message.data)) == {message.id} for message in found)
