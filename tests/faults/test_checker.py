"""The checker itself: each verdict is given when, and only when, it is deserved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.model import Level
from beamstream.store.files import digest_of
from beamstream.testing.checker import (
    VERDICTS,
    Call,
    History,
    SeenFile,
    SeenRecord,
    Snapshot,
    Verdict,
    metadata,
    payload,
    payload_nbytes,
    verify,
    walk,
)

STREAM, GROUP = "scan1", "online"


class World:
    """A history with a clock of its own, and what is there, to be spoiled by a test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.history = History(seed=7, clock=self._tick)
        self.snapshot = Snapshot(drained={(GROUP, STREAM)})

    def _tick(self) -> float:
        self.now += 1.0
        return self.now

    def put(self, id: int, *, auto: bool = False, file: bool = True, **changes: Any) -> Call:
        name = f"processed/{id}" if file else ""
        level = Level.DISK if file else Level.CACHE
        call = self.history.put(
            "p", STREAM, 0 if auto else id, nbytes=100 + id, level=level, key=id, name=name
        )
        for field, value in changes.items():
            setattr(call, field, value)
        return call

    def stored(self, call: Call, id: int = 0) -> None:
        content = self.history.payload_of(call)
        meta = self.history.metadata_of(call)
        self.snapshot.records.append(
            SeenRecord(STREAM, id or call.id, call.nbytes, meta, digest_of(content))
        )
        if call.name:
            self.snapshot.files.append(SeenFile(call.name, call.nbytes, digest_of(content)))

    def sent(self, id: int, *, file: bool = True) -> Call:
        call = self.put(id, file=file)
        self.history.ok(call)
        self.stored(call)
        return call

    def delivered(self, id: int, client: str = "c", group: str = GROUP) -> Call:
        call = self.history.get(client, group, STREAM)
        put = self.put(id)
        self.history.calls.remove(put)
        content, meta = self.history.payload_of(put), self.history.metadata_of(put)
        self.history.ok(call, id, digest=digest_of(content), meta=meta)
        return call

    def acked(self, id: int) -> Call:
        call = self.history.ack("c", GROUP, STREAM, id)
        self.history.ok(call)
        return call

    def spoil(self, index: int, **changes: Any) -> None:
        old = self.snapshot.records[index]
        fields = {name: getattr(old, name) for name in SeenRecord.__struct_fields__}
        self.snapshot.records[index] = SeenRecord(**(fields | changes))

    def verdict(self, lease_s: float = 1000.0) -> Verdict:
        return verify(self.history, self.snapshot, lease_s=lease_s)


@pytest.fixture
def world() -> World:
    """Three messages sent, stored, delivered and acknowledged."""
    world = World()
    for id in (1, 2, 3):
        world.sent(id)
        world.delivered(id)
        world.acked(id)
    return world


def only(verdict: Verdict, kind: str, count: int = 1) -> None:
    assert dict(verdict.counts) == {kind: count}, verdict
    assert not verdict
    assert f"seed {verdict.seed}" in str(verdict)
    assert verdict.examples[kind]


def test_nothing_is_wrong(world: World) -> None:
    verdict = world.verdict()
    assert verdict
    assert (verdict.puts, verdict.gets, verdict.acks) == (3, 3, 3)
    assert "all kept" in str(verdict)
    assert "seed 7" in str(verdict)


# ---------------------------------------------------------------------------- stored


def test_lost(world: World) -> None:
    del world.snapshot.records[1]
    only(world.verdict(), "lost")


def test_lost_payload_of_a_file(world: World) -> None:
    world.history.fault("kill")
    world.spoil(1, error="DataLost", digest=b"")
    only(world.verdict(), "lost")


def test_an_unknown_send_may_be_there_or_not(world: World) -> None:
    world.snapshot.drained.clear()
    world.history.unknown(world.put(4))
    there = world.put(5)
    world.history.unknown(there)
    world.stored(there)
    world.put(6)
    assert world.verdict(), world.verdict()


def test_an_unknown_send_without_its_file_is_partial(world: World) -> None:
    world.snapshot.drained.clear()
    world.history.fault("kill")
    call = world.put(4)
    world.history.unknown(call)
    world.stored(call)
    world.spoil(3, error="DataLost", digest=b"")
    only(world.verdict(), "partial")


def test_cache_payloads_may_be_lost_after_a_fault_only(world: World) -> None:
    world.sent(4, file=False)
    world.delivered(4)
    world.spoil(3, error="DataLost", digest=b"")
    only(world.verdict(), "lost")
    world.history.fault("kill")
    assert world.verdict()
    del world.snapshot.records[3]
    only(world.verdict(), "lost")


@pytest.mark.parametrize(
    "change",
    [
        {"digest": b"x" * 16},
        {"nbytes": 1},
        {"meta": {}},
        {"meta": None},
        {"error": "Corrupt"},
    ],
)
def test_corrupt(world: World, change: dict[str, Any]) -> None:
    world.spoil(2, **change)
    only(world.verdict(), "corrupt")


def test_two_payloads_swapped_are_corrupt() -> None:
    world = World()
    calls = [world.history.put("p", STREAM, id, nbytes=50, level=Level.CACHE) for id in (1, 2)]
    world.snapshot.drained.clear()
    for call in calls:
        world.history.ok(call)
        world.stored(call)
    one, two = (record.digest for record in world.snapshot.records)
    world.spoil(0, digest=two)
    world.spoil(1, digest=one)
    only(world.verdict(), "corrupt", 2)


def test_phantom_record(world: World) -> None:
    world.snapshot.drained.clear()
    world.stored(world.put(4, file=False, stream="other"))
    world.history.calls.pop()
    only(world.verdict(), "phantom")


def test_a_refused_send_that_is_stored_is_a_phantom(world: World) -> None:
    world.snapshot.drained.clear()
    call = world.put(4, file=False, allowed=frozenset({"IdConflict"}))
    world.history.fail(call, "IdConflict")
    assert world.verdict()
    world.stored(call)
    only(world.verdict(), "phantom")


def test_phantom_file(world: World) -> None:
    world.snapshot.files.append(SeenFile("processed/nobody", 1, b"x" * 16))
    only(world.verdict(), "phantom")


@pytest.mark.parametrize("name", ["processed/2", "processed/.part-0123"])
def test_partial_file(world: World, name: str) -> None:
    if name == "processed/2":
        del world.snapshot.files[1]
    world.snapshot.files.append(SeenFile(name, 10, b"x" * 16))
    only(world.verdict(), "partial")


def test_corrupt_file(world: World) -> None:
    world.snapshot.files[0] = SeenFile("processed/1", 101, b"x" * 16)
    only(world.verdict(), "corrupt")


def test_a_complete_file_without_record_is_an_orphan_and_fine(world: World) -> None:
    call = world.put(4)
    world.history.unknown(call)
    world.stored(call)
    world.snapshot.records.pop()
    assert world.verdict()


def test_dup_store(world: World) -> None:
    world.snapshot.records.append(world.snapshot.records[0])
    only(world.verdict(), "dup_store")


def test_wrong_error(world: World) -> None:
    world.history.fail(world.put(4), "IdConflict")
    only(world.verdict(), "wrong_error")


def test_wrong_error_of_a_read(world: World) -> None:
    world.spoil(0, error="TimedOut", digest=b"")
    only(world.verdict(), "wrong_error")


# ---------------------------------------------------------------------------- automatic ids


def auto_world(ids: list[int]) -> World:
    world = World()
    world.snapshot.drained.clear()
    world.snapshot.auto.add(STREAM)
    for key, id in enumerate(ids, 1):
        call = world.put(key, auto=True, file=False)
        world.history.ok(call)
        world.stored(call, id)
    return world


def test_automatic_ids_in_order() -> None:
    assert auto_world([1, 2, 3]).verdict()


@pytest.mark.parametrize("ids", [[1, 3, 4], [2, 1, 3], [1, 3, 2]])
def test_order(ids: list[int]) -> None:
    assert auto_world(ids).verdict().counts == {"order": 1}


def test_sends_at_the_same_time_have_no_order() -> None:
    world = World()
    world.snapshot.drained.clear()
    world.snapshot.auto.add(STREAM)
    calls = [world.put(key, auto=True, file=False) for key in (1, 2)]
    for call, id in zip(calls, (2, 1), strict=True):
        world.history.ok(call)
        world.stored(call, id)
    assert world.verdict()


def test_an_automatic_id_may_be_given_twice_only_around_a_fault() -> None:
    world = auto_world([1, 2])
    call = world.history.calls[1]
    world.stored(call, 3)
    only(world.verdict(), "dup_store")
    world.history.faults.append((call.ended_s, "kill"))
    assert world.verdict()


# ---------------------------------------------------------------------------- delivered


def test_skipped(world: World) -> None:
    world.sent(4)
    only(world.verdict(), "skipped")
    world.snapshot.drained.clear()
    assert world.verdict()


def test_skipped_after_its_first_delivery(world: World) -> None:
    world.snapshot.left.add((GROUP, STREAM, 3))
    only(world.verdict(), "skipped")


def test_dup_deliver(world: World) -> None:
    world.sent(4)
    world.delivered(4)
    world.delivered(4, "d")
    only(world.verdict(), "dup_deliver")
    assert world.verdict(lease_s=2.0)


def test_another_group_gets_it_too(world: World) -> None:
    world.delivered(1, group="other")
    assert world.verdict()


def test_a_crash_may_deliver_again(world: World) -> None:
    world.sent(4)
    world.delivered(4)
    world.history.fault("kill")
    world.delivered(4)
    assert world.verdict()


def test_acked_redelivered(world: World) -> None:
    world.history.fault("kill")
    world.delivered(1)
    only(world.verdict(), "acked_redelivered")


def test_a_delivery_under_way_during_the_ack_is_fine(world: World) -> None:
    world.sent(4)
    world.delivered(4)
    late = world.history.get("d", GROUP, STREAM)
    world.history.fault("kill")
    world.acked(4)
    world.history.ok(late, 4)
    assert world.verdict()


def test_an_ack_without_an_answer_promises_nothing(world: World) -> None:
    world.sent(4)
    world.delivered(4)
    world.history.unknown(world.history.ack("c", GROUP, STREAM, 4))
    world.history.fault("kill")
    world.delivered(4)
    assert world.verdict()


def test_delivered_bytes_are_compared(world: World) -> None:
    world.history.ok(world.history.get("c", "other", STREAM), 1, digest=b"x" * 16)
    only(world.verdict(), "corrupt")


def test_delivered_metadata_is_compared(world: World) -> None:
    world.history.ok(world.history.get("c", "other", STREAM), 1, meta={"key": 2})
    only(world.verdict(), "corrupt")


def test_a_delivery_of_what_was_never_sent_is_a_phantom(world: World) -> None:
    world.history.ok(world.history.get("c", "other", STREAM), 99)
    only(world.verdict(), "phantom")


def test_all_verdicts_are_provoked_here() -> None:
    source = Path(__file__).read_text()
    assert [kind for kind in VERDICTS if f'"{kind}"' not in source] == []


# ---------------------------------------------------------------------------- content


@given(st.integers(0, 2**48), st.integers(1, 2**63 - 1), st.integers(0, 5000))
def test_content_is_made_from_seed_and_id(seed: int, id: int, nbytes: int) -> None:
    data = payload(seed, id, nbytes)
    assert len(data) == nbytes
    assert data == payload(seed, id, nbytes)
    assert payload(seed, id, nbytes + 9)[:nbytes] == data
    if nbytes >= 16:
        assert data != payload(seed, id + 1, nbytes)
        assert data != payload(seed + 1, id, nbytes)
    meta = metadata(seed, id)
    assert json.loads(json.dumps(meta)) == meta
    assert meta != metadata(seed, id + 1)


def test_content_is_the_same_for_ever() -> None:
    assert payload(1, 1, 8).hex() == "8a25b5b3a9479cb5"


@given(
    st.integers(0, 2**48), st.integers(1, 2**63 - 1), st.integers(1, 1000), st.integers(0, 10**6)
)
def test_sizes_are_within_their_bounds(seed: int, id: int, lo: int, more: int) -> None:
    assert lo <= payload_nbytes(seed, id, lo, lo + more) <= lo + more


def test_streams_differ_in_content() -> None:
    history = History(seed=1)
    assert history.seed_of("a") != history.seed_of("b")
    assert history.seed_of("a") != History(seed=2).seed_of("a")


def test_walk_and_dump(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"hello")
    assert walk(tmp_path) == [SeenFile("a/b/c", 5, digest_of(b"hello"))]
    world = World()
    world.sent(1)
    world.history.fault("kill")
    world.history.dump(tmp_path / "history")
    head, line = (json.loads(text) for text in (tmp_path / "history").read_text().splitlines())
    assert head["seed"] == 7
    assert head["faults"][0][1] == "kill"
    assert line["outcome"] == "ok"
