"""Subscriptions by id, of the newest only, and of datasets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import GROUP, STREAM, Client, Stage, run

from beamstream.errors import Conflict, NotFound
from beamstream.model import Dataset
from beamstream.wire.native.calls import GroupRow
from beamstream.wire.native.frames import Ack, Gaps, Mode, Start

ORDERED, NEWEST = Mode.ORDERED, Mode.NEWEST


def test_ids_in_order_wait_for_what_is_missing(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=ORDERED)
        stage.put(1, 2, 5, 6)
        await stage.turns.settle()
        assert client.runs == [[1, 2]]
        stage.put(4)
        await stage.turns.settle()
        assert client.ids == [1, 2]
        stage.put(3)
        await stage.turns.settle()
        assert client.ids == [1, 2, 3, 4, 5, 6]
        stage.skip(7, 9)
        stage.put(9, 10)
        await stage.turns.settle()
        assert client.ids[6:] == [9, 10]

    run(tmp_path, test)


@pytest.mark.parametrize(("gaps", "told"), [(Gaps.SKIP, []), (Gaps.REPORT, [(3, 5), (7, 8)])])
def test_missing_ids_are_left_out(tmp_path: Path, gaps: Gaps, told: list[tuple[int, int]]) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=ORDERED, gaps=gaps)
        stage.put(1, 2, 5, 6)
        stage.put(8)
        await stage.turns.settle()
        assert client.ids == [1, 2, 5, 6, 8]
        assert client.gaps == told
        stage.put(3)
        stage.put(9)
        await stage.turns.settle()
        assert client.ids[5:] == [3, 9], "late, and not lost"
        stage.finish(10)
        for got in client.take():
            await client.ack(got)
        (end,) = client.ends
        assert end.missing == ((4, 5), (7, 8), (10, 11))

    run(tmp_path, test)


def test_missing_ids_are_waited_for_until_the_stream_is_finished(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=ORDERED, gaps=Gaps.FINISHED)
        stage.put(1, 2, 5)
        stage.skip(6, 8)
        stage.put(9)
        await stage.turns.settle()
        assert (client.ids, client.gaps) == ([1, 2], [])
        stage.put(3)
        await stage.turns.settle()
        assert (client.ids, client.gaps) == ([1, 2, 3], [])
        stage.finish(10)
        await stage.turns.settle()
        assert (client.ids, client.gaps) == ([1, 2, 3, 5, 9], [(4, 5), (8, 9)])
        stage.put(4)
        await stage.turns.settle()
        assert client.ids[5:] == [4], "late, and not lost"
        assert client.ends == []
        for got in client.take():
            assert await stage.store(client.settle(got))
        (end,) = client.ends
        assert end.missing == ((8, 9), (10, 11))

    run(tmp_path, test)


def test_what_is_leased_elsewhere_does_not_hold_up(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        clients = [Client(stage, name) for name in "ab"]
        for client in clients:
            client.subscribe(mode=ORDERED, batch_max=2, lease_s=5.0)
        stage.put(count=8)
        await stage.turns.settle()
        assert [client.runs for client in clients] == [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]
        for client in clients:
            for got in client.take()[1:]:
                await client.ack(got)
        await stage.turns.pass_time(5.0)
        assert sorted(clients[0].ids + clients[1].ids) == [1, 2, 3, 4]

    run(tmp_path, test)


def test_the_position_by_id_survives_a_start(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=ORDERED, credit_messages=3)
        stage.put(3, 1, 2, 5, 4)
        await stage.turns.settle()
        assert client.ids == [1, 2, 3]
        assert await client.ack(client.got[0]) is None
        stage.turns.now += 1
        stage.commits.submit(stage.view().beamtime, (), lambda outcome: None)
        stage.commits.flush()
        await stage.restart()
        again = Client(stage)
        again.subscribe(mode=ORDERED)
        await stage.turns.settle()
        assert again.ids == [3, 4, 5], "of leases only what was acknowledged is known"

    run(tmp_path, test)


@pytest.mark.parametrize("mode", [ORDERED, Mode.UNORDERED])
@pytest.mark.parametrize("group", [GROUP, ""])
def test_a_group_begins_at_an_id_that_is_not_there_yet(
    tmp_path: Path, mode: Mode, group: str
) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=mode, start=Start.ID, start_at=100, group=group)
        stage.put(5, 6)
        stage.put(100, 101)
        await stage.turns.settle()
        assert client.ids == [100, 101]
        stage.put(50, 102, 51, 103)
        await stage.turns.settle()
        assert client.ids == [100, 101, 102, 103]

    run(tmp_path, test)


def test_what_an_ordered_member_leaves_behind_goes_to_the_next(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        first, second = Client(stage, "a"), Client(stage, "b")
        first.subscribe(mode=ORDERED)
        stage.put(count=5)
        await stage.turns.settle()
        second.subscribe(mode=ORDERED)
        stage.put(count=2)
        await stage.turns.settle()
        stage.subscriptions.close(first, 1)
        await stage.turns.settle()
        assert sorted(second.ids) == list(range(1, 8))

    run(tmp_path, test)


def test_a_seek_by_another_door_is_noticed(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        ordered, of_sets = Client(stage, "o"), Client(stage, "d")
        ordered.subscribe(mode=ORDERED, lease_s=0.0)
        stage.put(count=5)
        for id in (1, 2):
            stage.part(id, 1, 1, stream="sets")
        of_sets.subscribe(stream="sets", lease_s=0.0)
        await stage.turns.settle()
        for name in (STREAM, "sets"):
            answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            stage.deliveries.seek(stage.view(name), GROUP, 0, answer.set_result)
            assert await answer is None
        await stage.turns.settle()
        assert ordered.ids == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
        assert of_sets.ids == [1, 2, 1, 2]

    run(tmp_path, test)


def test_what_does_not_fit_into_the_credit_does_not_keep_the_loop_busy(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(lease_s=5.0, credit_messages=9, credit_nbytes=15)
        stage.put(count=1)
        await stage.turns.settle()
        stage.turns.now += 6.0
        client.credit(1)
        await stage.turns.pass_time(0.0)
        assert client.ids == [1]
        client.credit(1, 10)
        await stage.turns.settle()
        assert client.ids == [1, 1]

    run(tmp_path, test)


@settings(max_examples=25, deadline=None)
@given(
    st.permutations(range(1, 13)),
    st.lists(st.integers(1, 4), min_size=12, max_size=12),
    st.integers(1, 4),
    st.booleans(),
)
def test_whatever_order_they_come_in(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    widths: list[int],
    batch_max: int,
    remembered: bool,
) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        if remembered:
            client.subscribe(mode=ORDERED, batch_max=batch_max)
        rest, at = list(order), iter(widths)
        while rest:
            width = next(at)
            stage.put(*rest[:width])
            rest = rest[width:]
            await stage.turns.settle()
            seen = set(order) - set(rest)
            expected = next(id for id in range(1, 14) if id not in seen) - 1
            if remembered:
                assert client.ids == list(range(1, expected + 1))
        if not remembered:
            await stage.restart()
            client = Client(stage)
            client.subscribe(mode=ORDERED, batch_max=batch_max)
            await stage.turns.settle()
        assert client.ids == list(range(1, 13))

    run(tmp_path_factory.mktemp("order"), test)


def test_only_the_newest(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=NEWEST, credit_messages=0, lease_s=5.0)
        stage.put(count=10)
        client.credit(1)
        await stage.turns.settle()
        assert client.runs == [[10]]
        stage.put(count=5)
        stage.put(count=5)
        await stage.turns.pass_time(6.0)
        assert client.runs == [[10]]
        client.credit(1, 100)
        await stage.turns.settle()
        assert client.runs == [[10], [20]], "what was overtaken does not come again"
        client.credit(1, 100)
        stage.finish(20)
        await stage.turns.pass_time(6.0)
        assert client.runs == [[10], [20], [20]], "the last one does"
        await client.ack(client.got[-1])
        assert [end.reason for end in client.ends] == ["finished"]
        row = stage.subscriptions.group_row(stage.view(), GROUP)
        assert row is not None
        assert (row.done, row.acked, row.open) == (19, 1, 0)

    run(tmp_path, test)


def test_the_newest_is_that_of_the_largest_id(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=NEWEST)
        stage.put(3, 9, 4)
        await stage.turns.settle()
        stage.put(5)
        await stage.turns.settle()
        assert client.ids == [9]

    run(tmp_path, test)


# ------------------------------------------------------------------------------- datasets


def parts(client: Client) -> list[list[int]]:
    return [
        [part.substream for part in item.parts]
        for got in client.got
        for item in got.items
        if isinstance(item, Dataset)
    ]


def test_datasets_come_when_they_are_complete(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe()
        for id in (1, 2, 3):
            stage.part(id, 1, 2)
        await stage.turns.settle()
        assert client.got == []
        stage.part(2, 2, 2)
        await stage.turns.settle()
        stage.part(3, 2, 2)
        stage.part(1, 2, 2)
        await stage.turns.settle()
        assert client.ids == [2, 1, 3]
        assert parts(client) == [[1, 2]] * 3
        stage.part(4, 1, 2)
        stage.finish(4)
        for got in client.take():
            assert await client.ack(got) is None
        (end,) = client.ends
        assert end.missing == ((4, 5),)

    run(tmp_path, test)


def test_some_parts_are_enough_after_a_while(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(min_parts=2, wait_s=3.0)
        stage.part(1, 1, 4)
        await stage.turns.pass_time(2.0)
        stage.part(1, 3, 4)
        stage.part(2, 1, 4)
        await stage.turns.pass_time(0.9)
        assert client.got == []
        await stage.turns.pass_time(0.2)
        assert parts(client) == [[1, 3]]
        await stage.turns.pass_time(10.0)
        assert client.ids == [1]
        stage.part(2, 2, 4)
        await stage.turns.settle()
        assert client.ids == [1, 2]

    run(tmp_path, test)


def test_many_datasets_are_looked_through_in_pieces(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        for id in range(1, 700):
            stage.part(id, 1, 2)
            if id % 7 == 0:
                stage.part(id, 2, 2)
        client = Client(stage)
        client.subscribe(credit_messages=20, batch_max=4)
        await stage.turns.settle()
        assert client.ids == list(range(7, 71, 7)), "twenty parts"
        client.credit(1000, 10**6)
        await stage.turns.settle()
        assert client.ids == list(range(7, 700, 7))

    run(tmp_path, test)


def test_datasets_are_leased_and_come_again(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(lease_s=5.0, attempts_max=2)
        for id in (1, 2, 3):
            for part in (1, 2):
                stage.part(id, part, 2)
        await stage.turns.settle()
        assert client.runs == [[1, 2, 3]]
        (got,) = client.take()
        await client.ack(got, (1, 2))
        await client.nack(got, (2, 3))
        assert [(again.ids, again.deliveries) for again in client.take()] == [([2], (2,))]
        await stage.turns.pass_time(6.0)
        assert client.ids == [3]
        view = stage.view()
        assert [item.id for item in stage.subscriptions.dead(view, GROUP, 9)] == [2]

    run(tmp_path, test)


def test_a_dataset_larger_than_the_credit_goes_alone(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(credit_messages=1, credit_nbytes=5)
        for id in (1, 2):
            for part in (1, 2, 3):
                stage.part(id, part, 3)
        await stage.turns.settle()
        assert client.ids == [1]
        client.credit(3, 30)
        await stage.turns.settle()
        assert client.ids == [1, 2]

    run(tmp_path, test)


def test_the_newest_dataset(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=NEWEST, credit_messages=0)
        for id in range(1, 6):
            stage.part(id, 1, 2)
            stage.part(id, 2, 2)
        stage.part(6, 1, 2)
        for _ in range(2):
            client.credit(1, 20)
            await stage.turns.settle()
        assert client.ids == [5]
        stage.part(6, 2, 2)
        await stage.turns.settle()
        assert client.ids == [5, 6]

    run(tmp_path, test)


def test_a_group_is_moved(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(mode=ORDERED)
        for _ in range(6):
            stage.put(count=1)
            stage.turns.now += 1
        await stage.turns.settle()
        for got in client.take():
            await client.ack(got)
        view, seek = stage.view(), stage.subscriptions.seek
        for to, at, expected in (
            ("id", 4, [4, 5, 6]),
            ("time", int(1001e9), [2, 3, 4, 5, 6]),
            ("end", 0, []),
            ("begin", 0, [1, 2, 3, 4, 5, 6]),
        ):
            answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            seek(view, GROUP, to, at, answer.set_result)
            await stage.turns.settle()
            assert client.ids == expected
            for got in client.take():
                await client.ack(got)
            assert isinstance(await answer, GroupRow)
            row = stage.subscriptions.group_row(view, GROUP)
            assert row is not None
            assert (row.position, row.open, row.leased) == (7, 0, 0)

    run(tmp_path, test)


def test_what_was_acknowledged_before_a_seek_does_not_undo_it(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe()
        stage.put(count=5)
        await stage.turns.settle()
        (got,) = client.take()
        loop = asyncio.get_running_loop()
        acked: asyncio.Future[object] = loop.create_future()
        sought: asyncio.Future[object] = loop.create_future()
        frame = Ack(1, got.ref, got.tag, ((1, 6),), 1)
        stage.subscriptions.ack(client, frame, acked.set_result)
        stage.subscriptions.seek(stage.view(), GROUP, "begin", 0, sought.set_result)
        assert await acked is None
        assert isinstance(await sought, GroupRow)
        await stage.restart()
        again = Client(stage)
        again.subscribe()
        await stage.turns.settle()
        assert again.ids == [1, 2, 3, 4, 5]

    run(tmp_path, test)


def test_rows_of_groups(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        assert stage.subscriptions.group_row(stage.view(), GROUP) is None
        client, private = Client(stage, "a"), Client(stage, "p")
        client.subscribe(credit_messages=4)
        private.subscribe(group="")
        stage.put(count=10)
        await stage.turns.settle()
        stage.turns.now += 2
        await client.ack(client.got[0], (1, 3))
        (row,) = stage.subscriptions.group_rows(stage.view().beamtime, "", "")
        assert (row.group, row.stream, row.position, row.open) == (GROUP, STREAM, 3, 6)
        assert (row.leased, row.acked, row.done, row.dead) == (2, 2, 0, 0)
        assert (row.lag_s, row.unacked_s, row.members) == (2.0, 2.0, ("a",))
        assert stage.subscriptions.group_rows(stage.view().beamtime, "other", "") == []

    run(tmp_path, test)


def test_groups_are_deleted_when_nobody_reads(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe()
        stage.put(count=2)
        await stage.turns.settle()
        await client.ack(client.got[0])
        call = stage.subscriptions.delete_group
        beamtime, source = stage.view().beamtime, stage.view().source
        with pytest.raises(Conflict):
            call(beamtime, GROUP, source, STREAM, lambda error: None)
        stage.subscriptions.close(client, 1)
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        call(beamtime, GROUP, source, STREAM, answer.set_result)
        assert await answer is None
        assert stage.subscriptions.group_row(stage.view(), GROUP) is None
        with pytest.raises(NotFound):
            stage.subscriptions.dead(stage.view(), GROUP, 1)

    run(tmp_path, test)
