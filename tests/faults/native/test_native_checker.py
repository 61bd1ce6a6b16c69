"""What the checker knows of clients that read ahead, and of senders that are known again."""

from __future__ import annotations

import pytest

from beamstream.model import Level
from beamstream.testing.checker import Outcome, Verdict, verify

from ..test_checker import GROUP, STREAM, World

LEASE_S, AHEAD_S = 1_000.0, 20.0


@pytest.fixture
def world() -> World:
    world = World()
    world.history.ok(call := world.put(1, file=False, level=Level.OS))
    world.stored(call)
    return world


def judged(world: World) -> Verdict:
    world.snapshot.drained = set()
    return verify(world.history, world.snapshot, lease_s=LEASE_S, ahead_s=AHEAD_S)


def test_times_of_other_processes_are_taken_as_they_are(world: World) -> None:
    call = world.history.put("p", STREAM, 2, nbytes=1, level=Level.OS, at_s=0.25)
    world.history.ok(call, at_s=0.5)
    assert (call.began_s, call.ended_s, call.outcome) == (0.25, 0.5, Outcome.OK)


def test_a_fault_of_one_client_is_none_of_others(world: World) -> None:
    world.history.client_fault("r1", "freeze")
    now = world.now
    assert world.history.fault_between(now, now, "r1")
    assert not world.history.fault_between(now, now, "r2")
    assert not world.history.fault_between(now, now)
    assert judged(world).faults == 1


def test_a_second_reader_is_excused_by_a_fault_of_the_first(world: World) -> None:
    world.delivered(1, "r1")
    world.history.client_fault("r1", "freeze")
    world.delivered(1, "r2")
    assert judged(world)


def test_a_second_reader_is_not_excused_by_a_fault_of_a_third(world: World) -> None:
    world.delivered(1, "r1")
    world.history.client_fault("r3", "freeze")
    world.delivered(1, "r2")
    assert judged(world).counts == {"dup_deliver": 1}


def test_what_was_given_back_comes_again(world: World) -> None:
    world.delivered(1, "r1").given_back = True
    world.delivered(1, "r2")
    assert judged(world)


def test_who_was_cut_off_may_still_have_what_others_have_acknowledged(world: World) -> None:
    world.history.client_fault("r1", "freeze")
    world.delivered(1, "r2")
    world.acked(1)
    world.delivered(1, "r1")
    assert judged(world)


def test_but_not_for_long(world: World) -> None:
    world.history.client_fault("r1", "freeze")
    world.delivered(1, "r2")
    world.acked(1)
    world.now += AHEAD_S
    world.delivered(1, "r1")
    assert judged(world).counts["acked_redelivered"] == 1


def test_and_not_without_a_fault(world: World) -> None:
    world.delivered(1, "r2")
    world.acked(1)
    world.delivered(1, "r1")
    assert judged(world).counts["acked_redelivered"] == 1


def test_a_known_sender_is_stored_once_whatever_happened(world: World) -> None:
    call = world.put(7, auto=True)
    world.history.fault("kill")
    world.history.ok(call)
    world.snapshot.records.clear()
    world.snapshot.auto = {STREAM}
    world.history.calls.pop(0)
    world.stored(call, 1)
    world.stored(call, 2)
    world.snapshot.files.pop()
    assert judged(world)
    world.snapshot.once = {STREAM}
    assert judged(world).counts == {"dup_store": 1}


def test_the_id_of_the_answer_is_that_of_the_message(world: World) -> None:
    call = world.put(7, auto=True, file=False)
    world.history.ok(call, 3)
    world.history.calls.pop(0)
    world.snapshot.records.clear()
    world.snapshot.auto = {STREAM}
    world.stored(call, 1)
    assert judged(world).counts == {"corrupt": 1}


@pytest.mark.parametrize(
    ("level", "counts"), [(Level.CACHE, {}), (Level.OS, {"lost": 1}), (Level.DISK, {"lost": 1})]
)
def test_only_what_is_kept_in_memory_may_lose_its_payload(
    level: Level, counts: dict[str, int]
) -> None:
    world = World()
    call = world.put(1, file=False, level=level)
    world.history.ok(call)
    world.stored(call)
    world.history.fault("kill")
    get = world.history.get("r1", GROUP, STREAM)
    world.history.ok(get, 1, meta=world.history.metadata_of(call), error="DataLost")
    assert judged(world).counts == counts


def test_damage_on_the_way_is_told(world: World) -> None:
    get = world.history.get("r1", GROUP, STREAM)
    world.history.ok(get, 1, error="Corrupt")
    assert judged(world).counts == {"corrupt": 1}
