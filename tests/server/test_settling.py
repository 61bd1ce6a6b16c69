"""What is settled together with what was made of it: one unit, or as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage import BT, GROUP, SOURCE, STREAM, Client, Got, Stage, run

from beamstream import limits
from beamstream.errors import StaleLease, TooMany
from beamstream.store import catalog as ops
from beamstream.store.catalog.interface import GroupState
from beamstream.wire.native.frames import Held, Scope, Settle

REFUSED = ops.DeleteStream("no such source", "s")
"""No unit with this in it can be stored."""


async def three(stage: Stage, name: str = "c", **more: Any) -> tuple[Client, Got]:
    """A client that was handed three messages under one lease."""
    client = Client(stage, name)
    client.subscribe(**more)
    stage.put(count=3)
    await stage.turns.settle()
    (got,) = client.take()
    assert got.ids == [1, 2, 3]
    return client, got


def written(stage: Stage, stream: str = STREAM) -> GroupState:
    state = stage.catalog.group(BT, GROUP, SOURCE, stream)
    assert state is not None
    return state


def test_it_is_settled_from_its_submission_on_and_ends_when_it_is_stored(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage, lease_s=5.0, settled=True)
        stage.finish(3)
        settling = client.settle(got)
        await stage.turns.settle()
        assert client.got == []
        assert client.settled_seqs == [1, 4]
        assert client.ends == [], "it is not stored yet"
        assert settling.ops == (ops.Ack(GROUP, SOURCE, STREAM, ((1, 4),), now_ns=stage.wall_ns()),)
        assert await stage.store(settling)
        assert [end.reason for end in client.ends] == ["finished"]
        (edge,) = stage.stats.edges.values()
        assert sum(edge.acknowledged.counts) == 3
        await stage.restart()
        assert written(stage).acked == ((1, 4),)

    run(tmp_path, test)


def test_what_is_refused_leaves_the_lease_as_it_was(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage, lease_s=5.0)
        assert not await stage.store(client.settle(got, (2, 4)), REFUSED)
        assert await client.ack(got, (1, 3)) is None
        await stage.turns.pass_time(4.0)
        assert client.got == []
        await stage.turns.pass_time(1.0)
        (again,) = client.take()
        assert (again.ids, again.deliveries) == ([3], (2,))
        with pytest.raises(StaleLease, match=f"message 3 .*{STREAM}.*{GROUP}"):
            client.settle(got, (3, 4))
        assert await stage.store(client.settle(again))

    run(tmp_path, test)


def test_of_several_settles_all_are_checked_before_one_counts(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        assert await client.nack(got, (3, 4)) is None
        good, bad = (Settle(1, got.ref, got.tag, ranges) for ranges in (((1, 3),), ((3, 4),)))
        with pytest.raises(StaleLease):
            stage.subscriptions.settle(client, (good, bad))
        assert stage.deliveries.group(stage.view(), GROUP).acked.to_tuple() == ()
        dead = Settle(1, got.ref, got.tag, ((2, 3),), dead=True)
        first = Settle(1, got.ref, got.tag, ((1, 2),))
        settling = stage.subscriptions.settle(client, (first, dead, first))
        assert [type(op) for op in settling.ops] == [ops.Ack, ops.Mark]
        assert await stage.store(settling)
        state = written(stage)
        assert (state.acked, state.dead) == (((1, 2),), ((2, 3),))

    run(tmp_path, test)


def test_given_up_ones_are_dead_letters(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage, lease_s=5.0)
        stage.finish(3)
        assert await stage.store(client.settle(got, (2, 3), dead=True))
        assert await stage.store(client.settle(got, (1, 2), (3, 4)))
        assert [end.reason for end in client.ends] == ["finished"]
        await stage.restart()
        (item,) = stage.subscriptions.dead(stage.view(), GROUP, 10)
        assert item.id == 2
        last = Client(stage, "last")
        last.subscribe()
        await stage.turns.settle()
        assert (last.ids, len(last.ends)) == ([], 1)

    run(tmp_path, test)


def test_what_is_given_up_and_refused_is_offered_again(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage, lease_s=5.0)
        assert not await stage.store(client.settle(got, dead=True), REFUSED)
        assert stage.subscriptions.dead(stage.view(), GROUP, 10) == []
        await stage.turns.pass_time(5.0)
        assert client.ids == [1, 2, 3]

    run(tmp_path, test)


def test_the_same_again_is_fine_also_while_the_first_is_under_way(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage, lease_s=5.0)
        first, again = client.settle(got), client.settle(got)
        assert not await stage.store(first, REFUSED)
        assert await stage.store(again)
        await stage.turns.pass_time(10.0)
        assert client.got == []
        assert written(stage).acked == ((1, 4),)
        assert await stage.store(client.settle(got))
        stage.put(count=1)
        await stage.turns.settle()
        (other,) = client.take()
        assert await stage.store(client.settle(other, dead=True))
        assert await stage.store(client.settle(other, dead=True))
        with pytest.raises(StaleLease):
            client.settle(other)

    run(tmp_path, test)


def test_a_connection_may_be_gone_meanwhile(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        stage.subscriptions.disconnected(client)
        assert await stage.store(client.settle(got, (1, 2)))
        again = Client(stage, session=client.session)
        held = (Held(SOURCE, STREAM, got.tag, ((2, 4),)),)
        again.subscribe(held=held)
        assert await stage.store(client.settle(got, (2, 3))), "by the connection before"
        await stage.turns.settle()
        (opened,) = again.opened
        assert opened.held == held
        late = Got(1, opened.ref, got.tag, STREAM, [3], [3], None, [])
        assert await stage.store(again.settle(late))
        assert written(stage).acked == ((1, 4),)
        stage.subscriptions.disconnected(again)
        with pytest.raises(StaleLease, match="channel 1"):
            client.settle(got, (1, 2))

    run(tmp_path, test)


def test_who_does_not_come_again_can_settle_nothing(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        stage.subscriptions.disconnected(client)
        await stage.turns.pass_time(limits.NATIVE_RESUME_SECONDS)
        with pytest.raises(StaleLease):
            client.settle(got)
        closed, other = await three(stage, "d", group="h", credit_messages=3)
        stage.subscriptions.close(closed, 1)
        with pytest.raises(StaleLease):
            closed.settle(other)

    run(tmp_path, test)


def test_refused_after_its_member_has_left_it_is_due_at_once(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        settling = client.settle(got, (1, 2))
        stage.subscriptions.close(client, 1)
        other = Client(stage, "d")
        other.subscribe()
        await stage.turns.settle()
        assert other.ids == [2, 3]
        assert not await stage.store(settling, REFUSED)
        assert other.ids == [2, 3, 1]
        assert other.got[-1].deliveries == (2,), "it may be what the other has died of"

    run(tmp_path, test)


@pytest.mark.parametrize("stored", [True, False])
def test_a_seek_meanwhile_has_the_last_word(tmp_path: Path, stored: bool) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        settling = client.settle(got)
        stage.subscriptions.seek(stage.view(), GROUP, "id", 3, lambda row: None)
        await stage.turns.settle()
        (again,) = client.take()
        assert (again.ids, again.deliveries) == ([3], None)
        assert await stage.store(settling, *(() if stored else (REFUSED,))) == stored
        assert client.got == [], "what was passed is not offered again"
        await stage.restart()
        other = Client(stage, "d")
        other.subscribe()
        await stage.turns.settle()
        assert other.ids == [3]

    run(tmp_path, test)


def test_dead_letters_can_be_opened_again_while_they_are_stored(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        settling = client.settle(got, (2, 3), dead=True)
        stage.subscriptions.redeliver(stage.view(), GROUP, (), lambda count: None)
        await stage.turns.settle()
        assert client.ids == [2]
        assert await stage.store(settling)
        await stage.restart()
        assert written(stage).dead == ()

    run(tmp_path, test)


def test_a_group_of_its_own_writes_nothing(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage, group="", lease_s=5.0)
        stage.finish(3)
        settling = client.settle(got, (1, 3))
        assert settling.ops == ()
        settling.undo()
        settling = client.settle(got)
        settling.done()
        await stage.turns.settle()
        assert len(client.ends) == 1

    run(tmp_path, test)


def test_streams_that_have_ended_are_known_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(stage: Stage) -> None:
        monkeypatch.setattr("beamstream.server.subscriptions_members._CLOSED_MAX", 2)
        client = Client(stage)
        client.subscribe(scope=Scope.SOURCE)
        done: list[Got] = []
        for name in ("s0", "s1", "s2"):
            stage.put(count=1, stream=name)
            await stage.turns.settle()
            (got,) = client.take()
            assert await stage.store(client.settle(got))
            stage.finish(1, stream=name)
            await stage.turns.settle()
            done.append(got)
        assert len(client.ends) == 3
        for got in done[1:]:
            assert await stage.store(client.settle(got)), "said for the second time"
        with pytest.raises(StaleLease, match="number 0"):
            client.settle(done[0])
        with pytest.raises(StaleLease, match="number 7"):
            stage.subscriptions.settle(client, (Settle(1, 7, 1, ((1, 2),)),))

    run(tmp_path, test)


def test_a_deleted_input_is_settled_without_a_trace(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        stage.delete()
        settling = client.settle(got)
        assert settling.ops == ()
        settling.done()
        await stage.turns.settle()
        assert [end.reason for end in client.ends] == ["gone"]
        assert stage.catalog.group(BT, GROUP, SOURCE, STREAM) is None

    run(tmp_path, test)


def test_more_ranges_than_a_frame_may_have(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        ranges = tuple((1, 2) for _ in range(limits.NATIVE_BATCH_MAX + 1))
        with pytest.raises(TooMany):
            client.settle(got, *ranges)

    run(tmp_path, test)


def test_groups_with_something_under_way_are_kept(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, got = await three(stage)
        settling = client.settle(got)
        view, group = stage.view(), stage.deliveries.group(stage.view(), GROUP)
        stage.subscriptions.close(client, 1)
        assert (group.users, view.busy, group.settling()) == (1, 1, True)
        settling.undo()
        assert (group.users, view.busy, group.settling()) == (0, 0, False)

    run(tmp_path, test)
