"""One member at a time reads a stream, the others stand by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import SOURCE, STREAM, Client, Stage, run

from beamstream import limits
from beamstream.errors import StaleLease
from beamstream.wire.native.frames import Gaps, Held, Mode, Scope


def member(stage: Stage, name: str, **more: Any) -> Client:
    client = Client(stage, name)
    client.subscribe(**({"exclusive": True, "mode": Mode.ORDERED, "batch_max": 2} | more))
    return client


def test_the_first_gets_all_and_the_next_takes_over(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        first, second, third = (member(stage, name, credit_messages=4) for name in "abc")
        stage.put(count=6)
        await stage.turns.settle()
        assert first.runs == [[1, 2], [3, 4]]
        assert second.ids == third.ids == []
        assert await first.ack(first.got[0]) is None
        stage.subscriptions.close(first, 1)
        await stage.turns.settle()
        assert second.ids == [3, 4, 5, 6], "what the first had comes first"
        assert [got.deliveries for got in second.got] == [None, None]
        assert third.ids == []

    run(tmp_path, test)


def test_a_broken_connection_is_not_waited_for(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        first, second = member(stage, "a", credit_messages=4), member(stage, "b")
        stage.put(count=6)
        await stage.turns.settle()
        (one, two) = first.take()
        settling = first.settle(one)
        stage.subscriptions.disconnected(first)
        await stage.turns.settle()
        assert second.runs == [[3, 4], [5, 6]]
        assert second.got[0].deliveries == (2, 2), "it may be what the first has died of"
        assert await stage.store(settling), "submitted before"
        with pytest.raises(StaleLease):
            first.settle(two)
        again = Client(stage, session=first.session)
        again.subscribe(
            exclusive=True, mode=Mode.ORDERED, held=(Held(SOURCE, STREAM, two.tag, ((3, 5),)),)
        )
        await stage.turns.settle()
        (opened,) = again.opened
        assert opened.held == ()
        stage.put(count=2)
        await stage.turns.settle()
        assert again.got == [], "it stands by now"
        assert second.ids == [3, 4, 5, 6, 7, 8]

    run(tmp_path, test)


def test_who_comes_in_place_of_a_dead_one_need_not_wait(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        first = member(stage, "a")
        stage.put(count=4)
        await stage.turns.settle()
        stage.subscriptions.disconnected(first)
        stage.put(count=1)
        second = member(stage, "b")
        await stage.turns.settle()
        assert second.ids == [1, 2, 3, 4, 5]
        await stage.turns.pass_time(limits.NATIVE_RESUME_SECONDS)
        assert second.ids == [1, 2, 3, 4, 5]

    run(tmp_path, test)


def test_a_broken_connection_that_comes_again_goes_on(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        first = member(stage, "a")
        stage.put(count=4)
        await stage.turns.settle()
        held = tuple(Held(SOURCE, STREAM, got.tag, ((got.seqs[0], 5),)) for got in first.got)
        stage.subscriptions.disconnected(first)
        await stage.turns.settle()
        again = member(stage, "a", held=held)
        stage.put(count=1)
        await stage.turns.settle()
        assert again.ids == [5]
        assert {lease.tag for frame in again.opened for lease in frame.held} == {
            got.tag for got in first.got
        }

    run(tmp_path, test)


def test_streams_are_spread_over_members(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        clients = [member(stage, name, scope=Scope.SOURCE) for name in "abc"]
        for number in range(6):
            stage.put(count=1, stream=f"s{number}")
            await stage.turns.settle()
        streams = [sorted(got.stream for got in client.got) for client in clients]
        assert streams == [["s0", "s3"], ["s1", "s4"], ["s2", "s5"]]
        stage.finish(1, stream="s1")
        assert await clients[1].ack(clients[1].got[0]) is None
        assert all(len(client.ends) == 1 for client in clients), "all are told of the end"
        stage.put(count=1, stream="s6")
        await stage.turns.settle()
        assert clients[1].got[-1].stream == "s6", "it has fewest now"
        stage.subscriptions.close(clients[0], 1)
        await stage.turns.settle()
        later = [[got.stream for got in client.take()[2:]] for client in clients[1:]]
        assert sorted(later[0] + later[1]) == ["s0", "s3", "s6"]

    run(tmp_path, test)


def test_one_without_credit_is_still_the_only_one(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        first = member(stage, "a", credit_messages=1)
        second = member(stage, "b")
        stage.put(count=3)
        await stage.turns.settle()
        assert (first.ids, second.ids) == ([1], [])
        first.credit(2, 100)
        await stage.turns.settle()
        assert (first.ids, second.ids) == ([1, 2, 3], [])

    run(tmp_path, test)


def test_members_who_did_not_ask_for_it_stand_by_as_well(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        shared = Client(stage, "s")
        shared.subscribe()
        stage.put(count=1)
        await stage.turns.settle()
        only = member(stage, "a", mode=Mode.UNORDERED)
        stage.put(count=2)
        await stage.turns.settle()
        assert (shared.ids, only.ids) == ([1], [2, 3])
        assert await shared.ack(shared.got[0]) is None, "what it had is not taken from it"
        stage.subscriptions.close(only, 1)
        await stage.turns.settle()
        assert shared.ids == [1, 2, 3]

    run(tmp_path, test)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), shuffled=st.booleans())
def test_whoever_comes_and_goes_the_order_is_kept(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shuffled: bool
) -> None:
    """What is settled in a stream, one after the other, is 1, 2, 3 … whatever happens."""

    async def test(stage: Stage) -> None:
        clients: dict[str, Client] = {}
        settled: list[int] = []
        sent = 0

        async def put() -> None:
            nonlocal sent
            count = data.draw(st.integers(1, 5))
            ids = list(range(sent + 1, sent + count + 1))
            stage.put(*(data.draw(st.permutations(ids)) if shuffled else ids))
            sent += count

        async def come() -> None:
            name = data.draw(st.sampled_from("abc"))
            if name not in clients:
                clients[name] = member(
                    stage, name, gaps=Gaps.FINISHED, lease_s=1e6,
                    credit_messages=data.draw(st.integers(1, 5)),
                )  # fmt: skip

        async def go() -> None:
            if clients:
                client = clients.pop(data.draw(st.sampled_from(sorted(clients))))
                how: Callable[[], None] = data.draw(
                    st.sampled_from(
                        [
                            lambda: stage.subscriptions.close(client, 1),
                            lambda: stage.subscriptions.disconnected(client),
                        ]
                    )
                )
                how()

        async def work() -> None:
            for client in clients.values():
                if client.got:
                    got = client.got.pop(0)
                    assert await stage.store(client.settle(got))
                    settled.extend(got.ids)
                    client.credit(len(got.ids), 1000)
                    return

        for step in data.draw(st.lists(st.sampled_from([put, come, go, work, work]), max_size=30)):
            await step()
            await stage.turns.settle()
        stage.finish(sent)
        last = member(stage, "last")
        for client in clients.values():
            stage.subscriptions.disconnected(client)
        clients.clear()
        await stage.turns.settle()
        for got in last.take():
            assert await stage.store(last.settle(got))
            settled.extend(got.ids)
        assert settled == list(range(1, sent + 1))
        assert [end.reason for end in last.ends] == ["finished"]

    run(Path(tmp_path_factory.mktemp("exclusive")), test)
