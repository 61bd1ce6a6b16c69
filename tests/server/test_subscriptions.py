"""Subscriptions over a real catalog: unordered reading, leases, credit, members, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from stage import BT, GROUP, SOURCE, STREAM, Client, Stage, run

from beamstream import limits
from beamstream.errors import (
    BadInput,
    BadName,
    RemoteProtocolError,
    StaleLease,
    StorageError,
    TooMany,
)
from beamstream.server import subscriptions
from beamstream.store import catalog as ops
from beamstream.wire.native.frames import Credit, Extend, Held, Scope, Start


def test_runs_are_pushed_as_they_come_and_acknowledged(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        stage.put(count=3)
        client.subscribe()
        await stage.turns.settle()
        assert client.runs == [[1, 2, 3]]
        stage.put(count=150)
        await stage.turns.settle()
        assert [len(run) for run in client.runs] == [3, 100, 50]
        assert client.ids == list(range(1, 154))
        for got in client.take():
            assert got.tag >> 32 == stage.boot
            assert got.deliveries is None
            assert await client.ack(got) is None
        await stage.restart()
        state = stage.catalog.group(BT, GROUP, SOURCE, STREAM)
        assert state is not None
        assert state.acked == ((1, 154),)
        again = Client(stage)
        again.subscribe()
        stage.put(count=1)
        await stage.turns.settle()
        assert again.ids == [154]

    run(tmp_path, test)


def test_many_acknowledgements_of_a_turn_are_one_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(batch_max=10)
        stage.put(count=30)
        await stage.turns.settle()
        applied: list[ops.Op] = []
        apply = stage.catalog.apply

        def noting(beamtime: str, batch: Sequence[ops.Op]) -> list[ops.Result]:
            applied.extend(batch)
            return apply(beamtime, batch)

        monkeypatch.setattr(stage.catalog, "apply", noting)
        await asyncio.gather(*(client.ack(got) for got in client.got))
        acks = [op for op in applied if isinstance(op, ops.Ack)]
        assert [ack.ranges for ack in acks] == [((1, 31),)]
        assert await client.ack(client.got[0]) is None, "again is harmless"

    run(tmp_path, test)


def test_credit_bounds_what_is_pushed(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(credit_messages=5, credit_nbytes=1000)
        stage.put(count=20)
        await stage.turns.settle()
        assert client.runs == [[1, 2, 3, 4, 5]]
        client.credit(2, 20)
        await stage.turns.settle()
        assert client.runs[1:] == [[6, 7]]
        client.credit(100, 0)
        await stage.turns.settle()
        assert client.ids == list(range(1, 21)), "950 bytes are left"
        stage.put(count=1, size=2000)
        stage.put(count=1, size=3)
        await stage.turns.settle()
        assert len(client.ids) == 20, "larger than the credit, and something is still out"
        client.credit(0, 200)
        await stage.turns.settle()
        assert client.ids[20:] == [21], "alone, for all else has been given back"
        client.credit(0, 1999)
        await stage.turns.settle()
        assert client.ids[20:] == [21, 22]
        with pytest.raises(RemoteProtocolError):
            client.credit(-1)
        with pytest.raises(RemoteProtocolError):
            stage.subscriptions.credit(client, Credit(7, 1, 1))

    run(tmp_path, test)


def test_an_unwritable_connection_pauses_its_subscriptions(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.writable = False
        client.subscribe()
        stage.put(count=3)
        await stage.turns.settle()
        assert client.ids == []
        client.writable = True
        stage.subscriptions.resume(client)
        await stage.turns.settle()
        assert client.ids == [1, 2, 3]

    run(tmp_path, test)


def test_members_take_turns(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        clients = [Client(stage, name) for name in "abc"]
        for client in clients:
            client.subscribe(batch_max=10)
        stage.put(count=90)
        await stage.turns.settle()
        assert [len(client.ids) for client in clients] == [30, 30, 30]
        assert sorted(id for client in clients for id in client.ids) == list(range(1, 91))

    run(tmp_path, test)


def test_a_turn_of_the_loop_is_bounded(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(credit_messages=65_536, credit_nbytes=limits.GIB, batch_max=1)
        stage.put(count=200)
        assert stage.turns.waiting == 1
        turns = 0
        while stage.turns.waiting:
            before = len(client.got)
            await asyncio.sleep(0)
            assert len(client.got) - before <= 16
            turns += 1
        assert len(client.got) == 200
        assert turns >= 13

    run(tmp_path, test)


def test_what_is_not_acknowledged_comes_again_to_another_member(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        first, second = Client(stage, "a"), Client(stage, "b")
        first.subscribe(lease_s=10.0)
        stage.put(count=5)
        await stage.turns.settle()
        (got,) = first.take()
        assert await first.ack(got, (2, 4)) is None
        stage.subscriptions.disconnected(first)
        second.subscribe(lease_s=10.0)
        await stage.turns.pass_time(9.0)
        assert second.ids == []
        await stage.turns.pass_time(1.0)
        assert second.runs == [[1], [4, 5]]
        assert [run.deliveries for run in second.got] == [(2,), (2, 2)]
        late = await first.ack(got, (1, 2))
        assert late is None, "the channel is gone: nothing to say"
        error = await second.ack(second.got[1], (3, 6))
        assert error is None

    run(tmp_path, test)


def test_a_stale_lease_is_refused_by_name(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        slow, quick = Client(stage, "slow"), Client(stage, "quick")
        slow.subscribe(lease_s=5.0)
        stage.put(count=2)
        await stage.turns.settle()
        quick.subscribe(lease_s=5.0)
        slow.writable = False
        await stage.turns.pass_time(6.0)
        assert quick.ids == [1, 2]
        error = await slow.ack(slow.got[0])
        assert isinstance(error, StaleLease)
        assert "'scan1'" in str(error)
        assert "'g'" in str(error)
        assert isinstance(await slow.nack(slow.got[0]), StaleLease)
        assert await quick.ack(quick.got[0]) is None

    run(tmp_path, test)


def test_attempts_are_bounded_and_the_dead_are_listed_and_redelivered(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(attempts_max=2)
        stage.put(count=3)
        await stage.turns.settle()
        (got,) = client.take()
        assert await client.ack(got, (1, 2), (3, 4)) is None
        assert await client.nack(got, (2, 3)) is None
        (again,) = client.take()
        assert (again.ids, again.deliveries) == ([2], (2,))
        assert await client.nack(again) is None
        assert client.got == []
        view = stage.view()
        assert [item.id for item in stage.subscriptions.dead(view, GROUP, 10)] == [2]
        row = stage.subscriptions.group_row(view, GROUP)
        assert row is not None
        assert (row.acked, row.dead, row.open, row.leased, row.redelivered) == (2, 1, 0, 0, 1)
        outcomes: list[object] = []
        stage.subscriptions.redeliver(view, GROUP, (), outcomes.append)
        await stage.turns.settle()
        assert client.ids == [2]
        assert client.got[0].deliveries is None
        await client.ack(client.got[0])
        assert outcomes == [1]
        await stage.restart()
        state = stage.catalog.group(BT, GROUP, SOURCE, STREAM)
        assert state is not None
        assert (state.acked, state.dead) == (((1, 4),), ())

    run(tmp_path, test)


def test_a_refusal_that_does_not_count_leaves_no_trace(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(attempts_max=1, credit_messages=3)
        stage.put(count=3)
        await stage.turns.settle()
        (got,) = client.take()
        assert await client.nack(got, delay_s=2.0, counted=False) is None
        client.credit(3)
        await stage.turns.pass_time(1.9)
        assert client.got == []
        await stage.turns.pass_time(0.2)
        assert client.runs == [[1, 2, 3]]
        assert client.got[0].deliveries is None

    run(tmp_path, test)


def test_a_broken_connection_finds_its_leases(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, other = Client(stage, "a"), Client(stage, "b")
        client.subscribe(batch_max=5)
        stage.put(count=10)
        await stage.turns.settle()
        first, second = client.take()
        stage.subscriptions.disconnected(client)
        other.subscribe()
        await stage.turns.pass_time(limits.NATIVE_RESUME_SECONDS - 1)
        assert other.ids == []
        back = Client(stage, "a")
        back.subscribe(held=(Held(SOURCE, STREAM, first.tag, ((2, 6),)),))
        await stage.turns.settle()
        held = (Held(SOURCE, STREAM, first.tag, ((2, 6),)),)
        assert [frame.held for frame in back.opened] == [held]
        assert sorted(back.ids + other.ids) == [1, 6, 7, 8, 9, 10], "what it did not name"
        assert await back.ack(first, (2, 6)) is None
        assert isinstance(await back.ack(second), StaleLease)
        await stage.turns.pass_time(20.0)
        assert 2 not in back.ids + other.ids

    run(tmp_path, test)


def test_a_client_comes_again_before_its_end_is_noticed(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        old, new = Client(stage, "a"), Client(stage, "a")
        old.subscribe(lease_s=100.0)
        stage.put(count=5)
        await stage.turns.settle()
        (got,) = old.take()
        new.subscribe(held=(Held(SOURCE, STREAM, got.tag, ((1, 6),)),), lease_s=100.0)
        stage.put(count=5)
        await stage.turns.settle()
        assert (old.ids, new.ids) == ([], [6, 7, 8, 9, 10])
        stage.subscriptions.disconnected(old)
        await stage.turns.pass_time(limits.NATIVE_RESUME_SECONDS + 1)
        assert new.ids == [6, 7, 8, 9, 10], "nothing was taken from it"
        assert await new.ack(got) is None

    run(tmp_path, test)


def test_a_node_that_was_restarted_gives_leases_back(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage, "a")
        client.subscribe()
        stage.put(count=10)
        await stage.turns.settle()
        (got,) = client.take()
        assert await client.ack(got, (1, 3)) is None
        await stage.restart()
        other, back = Client(stage, "b"), Client(stage, "a")
        held = (Held(SOURCE, STREAM, got.tag, ((2, 9),)),)
        back.subscribe(held=held)
        other.subscribe()
        await stage.turns.settle()
        assert back.opened[0].held == (Held(SOURCE, STREAM, got.tag, ((3, 9),)),)
        assert sorted(back.ids + other.ids) == [9, 10]
        assert await back.ack(got, (1, 9)) is None
        invented = Client(stage, "c")
        invented.subscribe(held=(Held(SOURCE, STREAM, (stage.boot << 32) + 99, ((9, 11),)),))
        await stage.turns.settle()
        assert invented.opened[0].held == ()

    run(tmp_path, test)


def test_leases_of_who_leaves_are_offered_at_once_as_if_never_sent(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        first, second = Client(stage, "a"), Client(stage, "b")
        first.subscribe(attempts_max=1)
        stage.put(count=3)
        await stage.turns.settle()
        second.subscribe(attempts_max=1)
        stage.subscriptions.close(first, 1)
        await stage.turns.settle()
        assert second.ids == [1, 2, 3]
        assert second.got[0].deliveries is None
        stage.subscriptions.close(first, 1)

    run(tmp_path, test)


def test_without_a_lease_messages_are_done_when_they_are_handed_out(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(lease_s=0.0)
        stage.put(count=3)
        await stage.turns.settle()
        assert [(got.tag, got.ids) for got in client.got] == [(0, [1, 2, 3])]
        stage.turns.now += 1
        stage.commits.submit(BT, (), lambda outcome: None)
        stage.commits.flush()
        await stage.restart()
        again = Client(stage)
        again.subscribe()
        await stage.turns.settle()
        assert again.ids == []

    run(tmp_path, test)


def test_leases_can_be_extended(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(lease_s=5.0)
        stage.put(count=1)
        await stage.turns.settle()
        (got,) = client.take()
        await stage.turns.pass_time(4.0)
        stage.subscriptions.extend(client, Extend(1, got.ref, got.tag, 5.0))
        await stage.turns.pass_time(4.0)
        assert client.got == []
        await stage.turns.pass_time(1.5)
        assert client.ids == [1]

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("start", "at", "expected"),
    [
        (Start.BEGINNING, 0, [1, 2, 3, 4, 5, 6]),
        (Start.NEW, 0, [6]),
        (Start.ID, 4, [4, 5, 6]),
        (Start.TIME, int(1002e9), [3, 4, 5, 6]),
        (Start.TIME, int(9999e9), [6]),
    ],
)
@pytest.mark.parametrize("group", [GROUP, ""])
def test_new_groups_begin_where_they_want(
    tmp_path: Path, start: Start, at: int, expected: list[int], group: str
) -> None:
    async def test(stage: Stage) -> None:
        for _ in range(5):
            stage.put(count=1)
            stage.turns.now += 1
        client = Client(stage)
        client.subscribe(start=start, start_at=at, group=group)
        await stage.turns.settle()
        stage.put(count=1)
        await stage.turns.settle()
        assert client.ids == expected
        other = Client(stage, "b")
        other.subscribe(start=Start.BEGINNING, group=group)
        await stage.turns.settle()
        assert other.ids == ([] if group else [1, 2, 3, 4, 5, 6]), "only a new group begins"

    run(tmp_path, test)


def test_skipped_ids_are_passed_over(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        stage.put(count=2)
        stage.skip(3, 2000)
        stage.put(count=2)
        client.subscribe()
        await stage.turns.settle()
        assert client.ids == [1, 2, 2000, 2001]
        stage.skip(2002, 2010)
        stage.finish(2009)
        for got in client.take():
            await client.ack(got)
        await stage.turns.settle()
        assert [(end.reason, end.missing) for end in client.ends] == [("finished", ())]

    run(tmp_path, test)


def test_a_group_has_ended_when_nothing_is_open_or_leased(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, other = Client(stage, "a"), Client(stage, "b")
        client.subscribe()
        other.subscribe()
        stage.put(1, 2, 5)
        stage.finish(7, next_stream="scan2")
        await stage.turns.settle()
        assert client.ends == other.ends == []
        got = (client.got + other.got)[0]
        owner = client if client.got else other
        await owner.ack(got, (1, 3))
        assert client.ends == []
        await owner.ack(got, (3, 4))
        for each in (client, other):
            (end,) = each.ends
            assert (end.reason, end.next_stream, end.last_id) == ("finished", "scan2", 7)
            assert end.missing == ((3, 5), (6, 8))
        assert await owner.ack(got, (3, 4)) is None

    run(tmp_path, test)


def test_a_stream_that_is_deleted_is_gone(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe()
        stage.put(count=1)
        await stage.turns.settle()
        stage.delete()
        await stage.turns.settle()
        assert [end.reason for end in client.ends] == ["gone"]
        assert await client.ack(client.got[0]) is None

    run(tmp_path, test)


def test_a_stream_is_followed(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(follow=True, lease_s=0.0)
        stage.put(count=1)
        stage.finish(1, next_stream="scan2")
        await stage.turns.settle()
        stage.put(count=2, stream="scan2")
        stage.finish(2, stream="scan2", next_stream=STREAM)
        await stage.turns.settle()
        assert [(got.stream, got.ref, got.ids) for got in client.got] == [
            (STREAM, 0, [1]),
            ("scan2", 1, [1, 2]),
        ]
        assert [end.ref for end in client.ends] == [0, 1, -1], "not in a circle"

    run(tmp_path, test)


def test_new_streams_join_by_themselves(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        stage.put(count=1, stream="a1")
        stage.put(count=1, stream="b1")
        some, every = Client(stage, "some"), Client(stage, "every")
        some.subscribe(scope=Scope.PATTERN, stream="a*", group="some")
        every.subscribe(scope=Scope.SOURCE, stream="", group="every")
        await stage.turns.settle()
        stage.put(count=2, stream="a2")
        stage.finish(0, stream="c1")
        await stage.turns.settle()
        assert [(got.stream, got.ids) for got in some.got] == [("a1", [1]), ("a2", [1, 2])]
        assert {got.stream for got in every.got} == {"a1", "b1", "a2"}
        assert [frame.stream for frame in every.opened] == ["a1", "b1", "a2", "c1"]
        assert [end.ref for end in every.ends] == [3]
        stage.delete("a2")
        await stage.turns.settle()
        stage.put(count=1, stream="a2")
        await stage.turns.settle()
        assert [(got.stream, got.ids) for got in some.got[2:]] == [("a2", [1])]

    run(tmp_path, test)


def test_members_are_told_when_records_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECENT_RECORDS_MAX", 0)

    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe()
        error = StorageError("the disk is gone")

        def fail(*words: object) -> NoReturn:
            raise error

        monkeypatch.setattr(stage.catalog, "items_by_seq", fail)
        stage.put(count=1)
        await stage.turns.settle()
        assert client.errors == [(1, error)]
        assert not stage.subscriptions._desks
        stage.subscriptions.close(client, 1)

    run(tmp_path, test)


def test_a_group_that_began_at_the_end_of_nothing_loses_nothing(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(start=Start.NEW)
        stage.put(count=3)
        await stage.turns.settle()
        assert client.ids == [1, 2, 3]
        await stage.restart()
        again = Client(stage)
        again.subscribe(start=Start.NEW)
        await stage.turns.settle()
        assert again.ids == [1, 2, 3]

    run(tmp_path, test)


def test_a_subscription_is_over_so_many_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_STREAMS_MAX", 2)

    async def test(stage: Stage) -> None:
        client, other = Client(stage, "a"), Client(stage, "b")
        client.subscribe(scope=Scope.SOURCE)
        for name in ("s1", "s2", "s3"):
            stage.put(count=1, stream=name)
        await stage.turns.settle()
        assert {got.stream for got in client.got} == {"s1", "s2"}
        assert [channel for channel, _ in client.errors] == [1]
        with pytest.raises(TooMany):
            other.subscribe(scope=Scope.SOURCE)
        other.subscribe(scope=Scope.PATTERN, stream="s3")
        await stage.turns.settle()
        assert {got.stream for got in other.got} == {"s3"}

    run(tmp_path, test)


def test_what_cannot_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NATIVE_CHANNELS_MAX", 1)

    async def test(stage: Stage) -> None:
        client = Client(stage)
        for more, error in (
            ({"source": ""}, BadName),
            ({"stream": ""}, BadName),
            ({"group": 'a"b'}, BadName),
            ({"credit_messages": -1}, BadInput),
            ({"lease_s": float("nan")}, BadInput),
            ({"min_parts": -1}, BadInput),
            ({"scope": Scope.PATTERN, "stream": "x" * 2000}, BadInput),
        ):
            with pytest.raises(error):
                client.subscribe(**more)
        client.subscribe()
        with pytest.raises(RemoteProtocolError):
            client.subscribe()
        with pytest.raises(TooMany):
            client.subscribe(channel=2)
        stage.subscriptions.disconnected(client)
        stage.subscriptions.disconnected(client)
        await stage.turns.pass_time(limits.NATIVE_RESUME_SECONDS + 1)
        assert not stage.subscriptions._lost
        assert not stage.subscriptions._desks
        assert all(not view.waiters for view in stage.streams.views())

    run(tmp_path, test)
