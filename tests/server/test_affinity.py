"""Messages that belong to members: by blocks of ids, or a value of the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import Client, Stage, run

from beamstream.errors import BadInput
from beamstream.server.affinity import Affinity, block_of, value_of
from beamstream.wire.native.frames import Gaps, Mode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)

# -------------------------------------------------------------------------------- pure


@given(first=VALUES, second=VALUES, indent=st.none() | st.integers(0, 3))
def test_the_same_value_is_the_same_key(first: object, second: object, indent: int | None) -> None:
    def key(value: object) -> bytes | None:
        return value_of(json.dumps({"a": 1, "k": value}, indent=indent).encode(), "k")

    def plain(value: object) -> str:
        return json.dumps(value, sort_keys=True)

    assert key(first) == value_of(json.dumps({"k": first}).encode(), "k")
    assert (key(first) == key(second)) == (plain(first) == plain(second))
    assert len(key(first) or b"") <= 64


@pytest.mark.parametrize("meta", [b"", b"{", b"[1]", b'{"a":1}', b'{"k":\xff}', b'{"k":"\\ud800"}'])
def test_without_a_value_a_message_belongs_to_nobody(meta: bytes) -> None:
    assert value_of(meta, "k") is None


def test_blocks_of_ids() -> None:
    assert [block_of(id, 3) for id in range(1, 8)] == [0, 0, 0, 1, 1, 1, 2]


@given(
    st.lists(
        st.tuples(st.just("take"), st.integers(0, 30), st.sampled_from("ab"))
        | st.tuples(st.just("forget"), st.just(0), st.sampled_from("ab"))
        | st.tuples(st.just("passed"), st.integers(0, 30), st.just(""))
    )
)
def test_owners_against_a_dict(steps: list[tuple[str, int, str]]) -> None:
    affinity, model = Affinity(most=8), dict[int, str]()
    for what, key, owner in steps:
        version = affinity.version
        if what == "take" and key not in model:
            if len(model) == 8:
                del model[next(iter(model))]
                version += 1
            model[key] = owner
            affinity.take(key, owner)
        elif what == "forget":
            kept = {key: one for key, one in model.items() if one != owner}
            version += len(kept) < len(model)
            model = kept
            affinity.forget(owner)
        elif what == "passed":
            model = {one: owner for one, owner in model.items() if one >= key}
            affinity.passed(key)
        assert affinity.version == version
        assert len(affinity) == len(model)
        assert {key: affinity.owner(key) for key in model} == model


# -------------------------------------------------------------------------------- at a desk


def member(stage: Stage, name: str, **more: Any) -> Client:
    client = Client(stage, name)
    client.subscribe(**more)
    return client


def keyed(stage: Stage, *values: object) -> None:
    """One message for each value, together."""
    for value in values:
        stage.put(count=1, meta=json.dumps({"module": value}).encode())


async def work(client: Client) -> list[int]:
    """Acknowledge what it has, and let it have more."""
    done = []
    for got in client.take():
        done += got.ids
        assert await client.ack(got) is None
        client.credit(len(got.ids), 1000)
    await client.stage.turns.settle()
    return done


def test_sticky_blocks_go_to_one_member_each(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        clients = [member(stage, name, sticky=10, credit_messages=8) for name in "ab"]
        stage.put(count=100)
        await stage.turns.settle()
        done: list[list[int]] = [[], []]
        for _ in range(20):
            for ids, client in zip(done, clients, strict=True):
                ids += await work(client)
        assert sorted(done[0] + done[1]) == list(range(1, 101))
        blocks = [{block_of(id, 10) for id in ids} for ids in done]
        assert not blocks[0] & blocks[1]
        assert len(blocks[0]) > 2
        assert len(blocks[1]) > 2
        assert done[0] == sorted(done[0])

    run(tmp_path, test)


def test_who_has_no_credit_keeps_its_messages_and_others_go_on(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        slow = member(stage, "slow", key="module", credit_messages=1)
        keyed(stage, "m1")
        await stage.turns.settle()
        quick = member(stage, "quick", key="module")
        keyed(stage, "m1", "m2", "m1", "m2", "m3", "m1")
        await stage.turns.settle()
        assert (slow.ids, quick.ids) == ([1], [3, 5, 6])
        await work(slow)
        await work(slow)
        slow.credit(5, 1000)
        await stage.turns.settle()
        assert slow.ids == [4, 7]
        stage.subscriptions.close(slow, 1)
        await stage.turns.settle()
        assert sorted(quick.ids) == [3, 4, 5, 6, 7], "it has left: they are for anyone"

    run(tmp_path, test)


def test_messages_without_the_key_are_for_anyone(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        slow = member(stage, "slow", key="module", credit_messages=1)
        keyed(stage, 1)
        await stage.turns.settle()
        quick = member(stage, "quick", key="module")
        stage.put(count=2)
        stage.put(count=1, meta=b'{"other":1}')
        keyed(stage, 1)
        await stage.turns.settle()
        assert (slow.ids, quick.ids) == ([1], [2, 3, 4])

    run(tmp_path, test)


def test_what_is_due_again_goes_to_its_owner_and_waits_for_nobody_else(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        slow = member(stage, "slow", key="module", credit_messages=1, lease_s=5.0)
        keyed(stage, 1)
        await stage.turns.settle()
        quick = member(stage, "quick", key="module", lease_s=8.0)
        keyed(stage, 2, 2)
        await stage.turns.settle()
        (mine,), theirs = slow.take(), quick.take()
        assert [got.ids for got in theirs] == [[2], [3]]
        await stage.turns.pass_time(5.0)
        assert (slow.ids, quick.ids) == ([], []), "its owner has no credit"
        assert await quick.nack(theirs[1], delay_s=1.0) is None
        await stage.turns.pass_time(1.0)
        assert quick.ids == [3]
        await stage.turns.pass_time(2.0)
        assert quick.ids == [3, 2]
        slow.credit(1, 1000)
        await stage.turns.settle()
        assert [(got.ids, got.deliveries) for got in slow.got] == [(mine.ids, (2,))]
        stage.subscriptions.disconnected(slow)
        await stage.turns.pass_time(11.0)
        assert quick.ids[2:].count(1) == 1, "it has left: it is for anyone"

    run(tmp_path, test)


def test_what_has_been_tried_often_enough_is_dead_for_all(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = member(stage, "a", sticky=2, lease_s=5.0, attempts_max=2)
        stage.put(count=4)
        stage.finish(4)
        await stage.turns.pass_time(11.0)
        assert sorted(client.ids) == [1, 1, 2, 2, 3, 3, 4, 4]
        assert len(client.ends) == 1
        assert [item.id for item in stage.subscriptions.dead(stage.view(), "g", 9)] == [1, 2, 3, 4]

    run(tmp_path, test)


def test_skips_and_a_long_way_to_the_next_own_message(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        slow = member(stage, "slow", key="module", credit_messages=1)
        keyed(stage, 1)
        await stage.turns.settle()
        for _ in range(5):
            stage.put(count=2_000, meta=b'{"module":1}')
        stage.skip(10_002, 10_600)
        keyed(stage, 2)
        quick = member(stage, "quick", key="module")
        await stage.turns.settle()
        assert quick.ids == [10_600]
        keyed(stage, 2)
        await stage.turns.settle()
        assert quick.ids == [10_600, 10_601]
        assert slow.ids == [1]
        stage.subscriptions.seek(stage.view(), "g", "begin", 0, lambda row: None)
        await stage.turns.settle()
        assert quick.ids[2:] == [10_600, 10_601]

    run(tmp_path, test)


def test_forgotten_owners_do_not_hide_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(stage: Stage) -> None:
        monkeypatch.setattr("beamstream.server.subscriptions_owned._TIDY", 4)
        clients = [member(stage, name, sticky=1, credit_messages=3) for name in "ab"]
        stage.put(count=40)
        await stage.turns.settle()
        seen: list[int] = []
        for _ in range(30):
            for client in clients:
                seen += await work(client)
        assert sorted(seen) == list(range(1, 41))
        desk = stage.subscriptions._desks[stage.view(), "g"]
        assert len(desk._picks.owned._affinity) < 12

    run(tmp_path, test)


@pytest.mark.parametrize(
    "more",
    [
        {"sticky": -1},
        {"sticky": 2**63},
        {"key": "k" * 2000},
        {"sticky": 2, "key": "k"},
        {"sticky": 2, "mode": Mode.ORDERED},
        {"key": "k", "mode": Mode.NEWEST},
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, more: dict[str, object]) -> None:
    async def test(stage: Stage) -> None:
        with pytest.raises(BadInput):
            member(stage, "a", **more)

    run(tmp_path, test)


def test_one_member_alone_needs_no_owners(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = member(stage, "a", sticky=2, exclusive=True, mode=Mode.ORDERED, gaps=Gaps.FINISHED)
        other = member(stage, "b", sticky=2, exclusive=True, mode=Mode.ORDERED)
        stage.put(count=6)
        await stage.turns.settle()
        assert (client.runs, other.ids) == ([[1, 2, 3, 4, 5, 6]], [])

    run(tmp_path, test)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sticky=st.sampled_from([0, 0, 3]))
def test_each_key_has_one_member_at_a_time_and_nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sticky: int
) -> None:
    async def test(stage: Stage) -> None:
        how = {"sticky": sticky} if sticky else {"key": "module"}
        clients: dict[str, Client] = {}
        keys: dict[int, object] = {}
        sent, done = 0, set[int]()

        def key(id: int) -> object:
            return block_of(id, sticky) if sticky else keys[id]

        def check() -> None:
            out = [{key(id) for got in c.got for id in got.ids} for c in clients.values()]
            for at, mine in enumerate(out):
                for theirs in out[:at]:
                    assert not (mine & theirs) - {None}

        for step in data.draw(st.lists(st.sampled_from("ppccgwww"), max_size=30)):
            if step == "p":
                for value in data.draw(st.lists(st.sampled_from([1, 2, 3, None]), max_size=5)):
                    sent += 1
                    keys[sent] = value
                    meta = b"{}" if value is None else b'{"module":%d}' % value
                    stage.put(count=1, meta=meta)
            elif step == "c":
                name = data.draw(st.sampled_from("abc"))
                if name not in clients:
                    credit = data.draw(st.integers(1, 4))
                    clients[name] = member(stage, name, credit_messages=credit, **how)
            elif clients:
                name = data.draw(st.sampled_from(sorted(clients)))
                if step == "g":
                    stage.subscriptions.close(clients.pop(name), 1)
                else:
                    done |= set(await work(clients[name]))
            await stage.turns.settle()
            check()
        for client in clients.values():
            stage.subscriptions.close(client, 1)
        last = member(stage, "last", **how)
        await stage.turns.settle()
        assert done | set(last.ids) == set(range(1, sent + 1))
        assert not done & set(last.ids)

    run(Path(tmp_path_factory.mktemp("owned")), test)
