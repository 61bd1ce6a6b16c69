"""Results and events over a real socket, whose other side is played frame by frame."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import beamstream as bs
from beamstream import errors, limits
from beamstream.client.native.aio import AsyncGroup, AsyncWriter
from beamstream.client.native.asking import SETTLES_MAX
from beamstream.client.native.events import Gap, Header, Settled, StreamEnd
from beamstream.client.native.messages import Batch
from beamstream.client.native.origins import Origin
from beamstream.client.native.subscription import Subscription
from beamstream.wire.native import calls, frames
from beamstream.wire.native.frames import (
    Ack,
    Call,
    CallFailed,
    Failed,
    OpenWriter,
    Put,
    Reply,
    Settle,
    StreamOpened,
    Subscribe,
    Unsubscribe,
)
from client.native.scripted import Peer, connect


def reading(hub: bs.Hub, played: Peer, *payloads: bytes, **how: Any) -> tuple[Subscription, Batch]:
    """A member with a batch in hand."""
    member = hub.source("s").stream("in").group("g", **{"ack": "manual", **how}).subscribe()
    channel = played.until(Subscribe).channel
    played.send(StreamOpened(channel, 0, "s", "in"))
    played.deliver(channel, payloads, seq=1)
    batch = member.next_event(20)
    assert isinstance(batch, Batch)
    return member, batch


# ---------------------------------------------------------------------------- results


def test_publishing_one_result(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    member, batch = reading(hub, played, b"one", b"two")
    writer = hub.source("s").stream("out").writer()
    played.until(OpenWriter)
    made = Origin(4, "s", "in", (1,), settles=(batch.held(0, 1),), skips=((7, 9),))
    frame = np.arange(4, dtype="<u2")
    receipt = writer.publish([frame], [{"n": 1}], made=made, ids=[1])
    put, body = played.read()
    assert body == frame.tobytes()
    assert (put.id, put.metas, put.name) == (1, (b'{"n":1}',), "")
    assert put.made == frames.Made(
        4, "s", "in", (1,), settles=(Settle(1, 0, 1, ((1, 2),)),), skips=((7, 9),)
    )
    assert not receipt.done()
    played.receipt(put, 1)
    assert receipt.result(20).id == 1
    # What is left of the lease is the other message.
    [message] = list(batch)[1:]
    message.ack()
    ack = played.until(Ack)
    assert ack.ranges == ((2, 3),)
    played.send(Reply(ack.call, calls.encode(None)))
    member.sync(20)
    member.close()
    hub.close()


def test_publishing_several_results_is_one_frame(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    _, batch = reading(hub, played, b"one")
    writer = hub.source("s").stream("out").writer()
    big = [np.full(300_000, n, "u1") for n in range(5)]
    made = Origin(4, "s", "in", (1,) * 5, ks=tuple(range(5)), settles=(batch.held(),))
    receipt = writer.publish(big, [None, {"a": 1}, None, None, None], made=made)
    put, body = threads.submit(played.read_put).result(20)
    assert (put.count, put.id, len(body)) == (5, 0, 1_500_000)
    assert body[300_000] == 1
    assert put.metas == (b"{}", b'{"a":1}', b"{}", b"{}", b"{}")
    assert put.made is not None
    assert put.made.ks == (0, 1, 2, 3, 4)
    played.receipt(put, 10)
    assert list(receipt.result(20).ids) == [10, 11, 12, 13, 14]
    hub.close()


def test_what_cannot_be_published(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    _, batch = reading(hub, played, b"one")
    writer = hub.source("s").stream("out").writer()
    made = Origin(1, "s", "in", (1, 1), settles=(batch.held(),))
    with pytest.raises(errors.BadInput, match="come with 2 seqs"):
        writer.publish([b"x"], made=made)
    with pytest.raises(errors.BadInput, match="one unit"):
        writer.publish([b"x", b"y"], made=made, name="a/b")
    with pytest.raises(errors.BadInput, match="come with 1 metas"):
        writer.publish([b"x", b"y"], [{}], made=made)
    with pytest.raises(errors.BadInput, match="no messages"):
        writer.publish([], made=Origin(1, "s", "in", ()))
    many = limits.NATIVE_BATCH_MAX + 1
    with pytest.raises(errors.BadInput, match="one unit"):
        writer.publish([b""] * many, made=Origin(1, "s", "in", (1,) * many))
    heavy = {"x": "y" * 900_000}
    with pytest.raises(errors.TooLarge, match="may go in one unit"):
        writer.publish([b""] * 8, [heavy] * 8, made=Origin(1, "s", "in", (1,) * 8))
    with pytest.raises(errors.BadInput):
        batch.held(0, 2)
    assert writer.waiting == 0
    hub.close()


def test_metadata_of_many_messages_are_cut_into_frames(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    """The header of a frame is bounded, and metadata travel in it."""
    hub = connect(played, threads)
    writer = hub.source("s").stream("out").writer()
    heavy = {"x": "y" * 700_000}

    def answer(count: int) -> list[int]:
        sizes = []
        while count:
            put = played.until(Put)
            played.receipt(put, 1)
            count -= put.count
            sizes.append(put.count)
        return sizes

    answered = threads.submit(answer, 24)
    many = writer.send_many([b"x"] * 12, [heavy] * 12)
    for _ in range(12):
        writer.send(b"x", heavy)
    writer.flush(20)
    assert many.done()
    assert max(answered.result(20)) <= 3
    hub.close()


def test_a_result_is_sent_again_with_new_names(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    _, batch = reading(hub, played, b"one", b"two")
    writer = hub.source("s").stream("out").writer()
    array = np.zeros(100_000, "u1")
    receipt = writer.publish([array], made=Origin(1, "s", "in", (1,), settles=(batch.held(0, 1),)))
    put = played.until(Put)
    played.cut()
    played.accept()
    opening, subscribe = played.until(OpenWriter), played.until(Subscribe)
    assert opening.producer
    assert subscribe.held == (frames.Held("s", "in", 1, ((1, 3),)),)
    # It does not come before its stream is open; then it is the same, under another name.
    held = (frames.Held("s", "in", 1, ((1, 3),)),)
    played.send(StreamOpened(subscribe.channel, 6, "s", "in", held))
    again = played.until(Put)
    assert again.made is not None
    assert again.made.settles == (Settle(subscribe.channel, 6, 1, ((1, 2),)),)
    assert (again.sequence, again.digests) == (put.sequence, put.digests)
    played.receipt(again, 5)
    assert receipt.result(20).id == 5
    hub.close()


def test_what_waits_for_its_stream_is_copied(played: Peer, threads: ThreadPoolExecutor) -> None:
    """Arrays may be changed when `publish` is back, also when it could not be sent yet."""
    hub = connect(played, threads)
    _, batch = reading(hub, played, b"one")
    writer = hub.source("s").stream("out").writer()
    played.until(OpenWriter)
    played.cut()
    played.accept()
    subscribe = played.until(Subscribe)
    array = np.zeros(100_000, "u1")
    receipt = writer.publish([array], made=Origin(1, "s", "in", (1,), settles=(batch.held(),)))
    behind = writer.send(array)
    array[:] = 9
    played.send(StreamOpened(subscribe.channel, 0, "s", "in", subscribe.held))
    for sent in (receipt, behind):
        put, body = threads.submit(played.read_put).result(20)
        assert set(body) == {0}
        played.receipt(put, 1)
        assert sent.result(20).id == 1
    hub.close()


def test_settling_what_nothing_is_made_of(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    _, batch = reading(hub, played, b"1", b"2", b"3")
    writer = hub.source("s").stream("out").writer()
    called = threading.Event()
    settlement = writer.settle([batch.held(0, 1)], [(1, 2)])
    settlement.add_done_callback(lambda _: called.set())
    assert not settlement.done()
    params = played.answer("skip", None)
    assert params.settles == (Settle(1, 0, 1, ((1, 2),)),)
    assert (params.source, params.stream, params.ranges) == ("s", "out", ((1, 2),))
    settlement.result(20)
    assert called.wait(20)
    refused = writer.settle([batch.held(1, 2)])
    call = played.until(Call)
    played.send(CallFailed(call.number, "E405", "the lease has ended"))
    with pytest.raises(errors.StaleLease):
        refused.result(20)
    answered = threads.submit(played.answer, "skip", None)
    hub.source("s").stream("out").settle([batch.held(2).dead()], [(3, 4)])
    assert answered.result(20).settles == (Settle(1, 0, 1, ((3, 4),), True),)
    with pytest.raises(errors.BadInput, match="nothing is to be settled"):
        writer.settle([], [(1, 2)])
    hub.close()


def test_what_is_settled_is_waited_for_at_the_end(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    """A stream must not be finished before what is skipped in it is known."""
    hub = connect(played, threads)
    _, batch = reading(hub, played, b"1", b"2")
    writer = hub.source("s").stream("out").writer()
    settlement = writer.settle([batch.held(0, 1)], [(1, 2)])
    with pytest.raises(errors.TimedOut):
        writer.flush(0.05)
    finishing = threads.submit(writer.finish)
    played.answer("skip", None)
    played.answer("finish", calls.Finished(last_id=1))
    assert finishing.result(20) == 1
    assert settlement.done()
    writer.settle([batch.held(1, 2)])
    call = played.until(Call)
    played.send(CallFailed(call.number, "E405", "the lease has ended"))
    with pytest.raises(errors.StaleLease):
        writer.flush(20)
    writer.flush(20)
    hub.close()


def test_settlements_wait_for_room(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    count = SETTLES_MAX + 3
    _, batch = reading(hub, played, *[b"x"] * count)
    writer = hub.source("s").stream("out").writer()
    patient = hub.source("s").stream("out").writer(timeout=0.05)
    made = [writer.settle([batch.held(n, n + 1)]) for n in range(SETTLES_MAX)]
    with pytest.raises(errors.TimedOut, match="no room"):
        patient.settle([batch.held(count - 1)])

    def rest() -> None:
        made.extend(writer.settle([batch.held(n, n + 1)]) for n in range(SETTLES_MAX, count))

    waiting = threads.submit(rest)
    for _ in range(count):
        played.answer("skip", None)
    waiting.result(20)
    for settlement in made:
        settlement.result(20)
    hub.close()


def test_a_message_in_hand_is_settled_by_what_is_made_of_it(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    hub = connect(played, threads)
    member = hub.source("s").stream("in").group("g").subscribe()
    channel = played.until(Subscribe).channel
    played.send(StreamOpened(channel, 0, "s", "in"))
    played.deliver(channel, [b"1", b"2", b"3"], seq=1)
    first = member.take(20)
    assert isinstance(first, bs.Message)
    held = first.held()
    assert (held.source, held.stream, held.count, held.ranges) == ("s", "in", 1, [(1, 2)])
    second = member.take(20)
    assert isinstance(second, bs.Message)
    # Only the second one is acknowledged by the next turn.
    assert member.take(20) is not None
    assert played.until(Ack).ranges == ((2, 3),)
    hub.close()


def test_without_leases_nothing_is_settled(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    member = hub.source("s").stream("in").group("g", ack="none").subscribe()
    channel = played.until(Subscribe).channel
    played.send(StreamOpened(channel, 0, "s", "in"))
    played.deliver(channel, [b"1"], seq=1, tag=0)
    message = member.take(20)
    assert isinstance(message, bs.Message)
    with pytest.raises(errors.BadInput, match="without a lease"):
        message.held()
    hub.close()


# ---------------------------------------------------------------------------- events


def test_all_that_happens_comes_in_order(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    streams = hub.source("s").streams("scan*")
    group = streams.group(
        "g", ack="manual", mode="ordered", gaps="finished", settled=True, headers=True
    )
    member = group.subscribe()
    subscribe = played.until(Subscribe)
    channel = subscribe.channel
    assert (subscribe.settled, subscribe.headers, subscribe.gaps) == (
        True,
        True,
        frames.Gaps.FINISHED,
    )
    played.send(StreamOpened(channel, 0, "s", "scan1"))
    played.send(frames.Header(channel, 0, 2, b'{"factor":3}'))
    played.deliver(channel, [b"a", b"b"], seq=1)
    played.send(frames.Settled(channel, 0, 1))
    played.send(frames.Settled(channel, 0, 2))
    played.send(frames.Gap(channel, 0, 3, 5))
    played.send(frames.End(channel, 0, "finished", "scan2", 4, ((3, 5),)))
    played.send(StreamOpened(channel, 1, "s", "scan2"))
    played.send(frames.Header(channel, 1, 0, b""))
    header = member.next_event(20)
    assert header == Header("s", "scan1", 2, {"factor": 3})
    batch = member.next_event(20)
    assert isinstance(batch, Batch)
    assert (list(batch.ids), list(batch.seqs)) == ([1, 2], [1, 2])
    rest = [member.next_event(20) for _ in range(4)]
    while isinstance(rest[0], Settled) and rest[0].seq == 1:
        # The second one had not come when the first was looked at.
        rest = [*rest[1:], member.next_event(20)]
    assert rest == [
        Settled("s", "scan1", 2),
        Gap("s", "scan1", 3, 5),
        StreamEnd("s", "scan1", "finished", "scan2", 4, ((3, 5),)),
        Header("s", "scan2", 0, {}),
    ]
    assert member.opened == (("s", "scan1"), ("s", "scan2"))
    assert member.next_event(0.01) is None
    assert member.end is None
    batch.ack()
    assert played.until(Ack).ranges == ((1, 3),)
    member.close()
    assert member.next_event() is None
    hub.close()


def test_the_same_is_not_told_twice(played: Peer, threads: ThreadPoolExecutor) -> None:
    """A new connection tells headers and ends again."""
    hub = connect(played, threads)
    group = hub.source("s").group("g", ack="manual", headers=True, settled=True)
    member = group.subscribe()

    def begin() -> int:
        channel = played.until(Subscribe).channel
        played.send(StreamOpened(channel, 0, "s", "t"))
        played.send(frames.Header(channel, 0, 1, b'{"a":1}'))
        played.send(frames.End(channel, 0, "finished", "", 4))
        return channel

    begin()
    assert [member.next_event(20) for _ in range(2)] == [
        Header("s", "t", 1, {"a": 1}),
        StreamEnd("s", "t", "finished", "", 4),
    ]
    played.cut()
    played.accept()
    channel = begin()
    played.send(frames.Header(channel, 0, 2, b'{"a":2}'))
    assert member.next_event(20) == Header("s", "t", 2, {"a": 2})
    # What comes again after its end ends once more.
    played.deliver(channel, [b"again"], seq=1)
    played.send(frames.End(channel, 0, "finished", "", 4))
    assert isinstance(member.next_event(20), Batch)
    assert member.next_event(20) == StreamEnd("s", "t", "finished", "", 4)
    played.send(frames.End(channel, -1, "gone"))
    assert list(member.events()) == []
    assert member.end is not None
    assert member.end.reason == "gone"
    hub.close()


def test_a_large_header_is_asked_for(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    member = hub.source("s").stream("t").group("g", ack="manual", headers=True).subscribe()
    channel = played.until(Subscribe).channel
    played.send(StreamOpened(channel, 0, "s", "t"))
    played.send(frames.Header(channel, 0, 7, b""))

    def answer() -> list[int]:
        asked = [played.answer("header", None).version]
        row = calls.HeaderRow(version=9, document=b'{"big":true}', changed_ns=1)
        return [*asked, played.answer("header", row).version]

    answered = threads.submit(answer)
    assert member.next_event(20) == Header("s", "t", 9, {"big": True})
    assert answered.result(20) == [7, 0]
    hub.close()


def test_a_stream_without_header_has_an_empty_one(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    hub = connect(played, threads)
    member = hub.source("s").stream("t").group("g", ack="manual", headers=True).subscribe()
    channel = played.until(Subscribe).channel
    played.send(StreamOpened(channel, 0, "s", "t"))
    for seq in (1, 2):
        played.deliver(channel, [b"x"], seq=seq)
    played.send(frames.Header(channel, 0, 0, b""))
    played.send(frames.Header(channel, 0, 1, b'{"a":1}'))
    found = [member.next_event(20) for _ in range(4)]
    assert (found[0], found[3]) == (Header("s", "t", 0, {}), Header("s", "t", 1, {"a": 1}))
    assert all(isinstance(batch, Batch) for batch in found[1:3])
    hub.close()


def test_those_who_only_take_messages_see_nothing_else(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    hub = connect(played, threads)
    member = hub.source("s").stream("t").group("g", headers=True, settled=True).subscribe()
    channel = played.until(Subscribe).channel
    played.send(StreamOpened(channel, 0, "s", "t"))
    played.send(frames.Header(channel, 0, 1, b"{}"))
    played.send(frames.Settled(channel, 0, 1))
    played.deliver(channel, [b"x"], seq=1)
    played.send(frames.Settled(channel, 0, 2))
    played.send(frames.End(channel, 0, "finished", "", 1))
    found = list(member)
    assert [item.id for item in found if isinstance(item, bs.Message)] == [1]
    assert len(found) == 1
    assert member.end is not None
    hub.close()


def test_waiting_for_an_event_ends_when_the_member_is_closed(
    played: Peer, threads: ThreadPoolExecutor
) -> None:
    hub = connect(played, threads)
    member = hub.source("s").group("g").subscribe()
    played.until(Subscribe)
    waiting = threads.submit(member.next_event)
    member.close()
    assert waiting.result(20) is None
    played.until(Unsubscribe)
    hub.close()


@pytest.mark.parametrize(
    "how",
    [
        {"exclusive": True, "sticky": 5},
        {"sticky": 5, "key": "run"},
        {"sticky": -1},
        {"batch_max": 0},
        {"batch_max": limits.NATIVE_BATCH_MAX + 1},
        {"gaps": "never"},
    ],
)
def test_groups_that_cannot_be(
    played: Peer, threads: ThreadPoolExecutor, how: dict[str, Any]
) -> None:
    hub = connect(played, threads)
    with pytest.raises(errors.BadInput):
        hub.source("s").stream("t").group("g", **how)
    hub.close()


def test_how_members_are_chosen(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    stream = hub.source("s").stream("t")
    for how, told in (
        ({"exclusive": True}, (True, 0, "")),
        ({"sticky": 100}, (False, 100, "")),
        ({"key": "module"}, (False, 0, "module")),
    ):
        with stream.group("g", batch_max=17, **how).subscribe():
            asked = played.until(Subscribe)
            assert (asked.exclusive, asked.sticky, asked.key) == told
            assert asked.batch_max == 17
    hub.close()


# ---------------------------------------------------------------------------- questions


def test_runs_and_origins(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)
    stream = hub.source("s").stream("t")

    def ask(method: str, result: Any, call: Any, *args: Any, **how: Any) -> tuple[Any, Any]:
        answered = threads.submit(played.answer, method, result)
        return call(*args, **how), answered.result(20)

    row = calls.RunRow(no=3, document=b"{}", created_ns=1)
    found, params = ask("run.define", row, hub.define_run, {"step": "bin", "code": np.int64(5)})
    assert (found, params.document) == (row, b'{"code":5,"step":"bin"}')
    assert ask("run", row, hub.run, 3)[0] == row
    found, params = ask("runs", [row], hub.runs, 7)
    assert (found, params.limit, params.before) == ([row], 7, 0)
    origin = calls.OriginRow(id=1, seq=1, run=3, k=0, digest=bytes(16), timestamp_ns=1)
    found, params = ask("origin", origin, stream.origin, 1)
    assert (found, params.id) == (origin, 1)
    copied = calls.Copied(count=2, nbytes=9, next_id=3)
    other = hub.source("s").stream("t~r1")
    found, params = ask("copy", copied, stream.copy_to, other, 1, 3, run=3)
    assert found == copied
    assert (params.to_source, params.to_stream, params.lo, params.hi) == ("s", "t~r1", 1, 3)
    assert (params.run, params.limit) == (3, 1000)
    measured = calls.Measured(count=1, nbytes=2, cached=1, files=0, log=0, gone=0)
    assert ask("measure", measured, stream.measure, 1, 5)[0] == measured
    header = calls.HeaderRow(version=1, document=b"{}", changed_ns=1)
    assert ask("header", header, stream.header)[0] == header
    found, params = ask("group.reopen", 2, stream.group("g").reopen, 1, 3)
    assert (found, params.group, params.lo, params.hi) == (2, "g", 1, 3)
    with pytest.raises(errors.BadInput):
        stream.group("g").reopen(3, 3)
    with pytest.raises(errors.TooLarge):
        hub.define_run({"x": "y" * limits.RUN_NBYTES_MAX})
    hub.close()


def test_with_asyncio(played: Peer, threads: ThreadPoolExecutor) -> None:
    hub = connect(played, threads)

    def play() -> None:
        channel = played.until(Subscribe).channel
        played.send(StreamOpened(channel, 0, "s", "in"))
        played.send(frames.Header(channel, 0, 1, b""))
        played.answer("header", calls.HeaderRow(version=1, document=b'{"a":1}', changed_ns=1))
        played.deliver(channel, [b"x"], seq=1)
        put = played.until(Put)
        played.send(Failed(put.channel, put.sequence, 1, "E405", "stale"))
        played.send(frames.End(channel, 0, "finished", "", 1))

    playing: list[Future[None]] = []

    async def program() -> list[Any]:
        group = AsyncGroup(hub.source("s").stream("in").group("g", ack="manual", headers=True))
        found: list[Any] = []
        async with (
            group.subscribe() as member,
            AsyncWriter(lambda: hub.source("s").stream("out").writer(finish=False)) as writer,
        ):
            assert await member.next_event(0.01) is None
            playing.append(threads.submit(play))
            found.append(await member.next_event())
            batch = await member.next_event()
            assert isinstance(batch, Batch)
            made = Origin(1, "s", "in", (1,), settles=(batch.held(),))
            receipt = await writer.publish([b"r"], made=made)
            with pytest.raises(errors.StaleLease):
                await receipt
            found += [await member.next_event(), await member.next_event()]
        return found

    assert asyncio.run(program()) == [
        Header("s", "in", 1, {"a": 1}),
        StreamEnd("s", "in", "finished", "", 1),
        None,
    ]
    playing[0].result(20)
    hub.close()
