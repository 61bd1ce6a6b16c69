"""The random kill: clients at work, the node killed at any moment and started again, many times."""

from __future__ import annotations

import random
import time

from beamstream.testing.checker import History, Verdict, verify
from beamstream.testing.node import NodeProcess

from .actors import (
    LEASE_S,
    Actor,
    Gate,
    OfficialReader,
    OfficialSender,
    RawReader,
    RawSender,
)
from .raw import RawConsumer, Target
from .readback import read_back

AUTO, SHARED, CACHED = "automatic ids", "two senders", "cached"
OFFICIAL, LARGE = "official", "official large"
STREAMS = [AUTO, SHARED, CACHED, OFFICIAL, LARGE]
BY_ARRIVAL, BY_ID = "by arrival", "by id"
READ = {BY_ARRIVAL: STREAMS, BY_ID: [AUTO, OFFICIAL, LARGE]}
"""Two senders of one stream are not in the order of ids: only the group by arrival reads that."""

_ANSWERS_BETWEEN_KILLS = ((1, 120), (1, 120), (1, 30), (300, 500))
"""In turn; ASAPO's producer pauses for a second after a lost connection and needs the long one."""
_STALL_S = 60.0
_DRAIN_S = 5 * LEASE_S


def make_actors(gate: Gate, history: History, target: Target) -> tuple[list[Actor], list[Actor]]:
    """Producers and consumers."""
    common = (gate, history, target)
    senders: list[Actor] = [
        RawSender("raw auto", *common, AUTO, auto=True, sizes=(1_000, 300_000)),
        RawSender("raw odd", *common, SHARED, first=1, step=2, sizes=(1_000, 1_000_000)),
        RawSender("raw even", *common, SHARED, first=2, step=2, sizes=(1_000, 100_000)),
        RawSender("raw cached", *common, CACHED, cached=True, sizes=(1_000, 100_000)),
        OfficialSender("official", *common, OFFICIAL, sizes=(1_000, 50_000)),
        # A cache of 16 MiB takes up to 2 MiB: some of these are written as they come.
        OfficialSender("official large", *common, LARGE, sizes=(100_000, 4_000_000)),
    ]
    readers: list[Actor] = [
        RawReader("raw 1", *common, BY_ARRIVAL, READ[BY_ARRIVAL]),
        RawReader("raw 2", *common, BY_ARRIVAL, READ[BY_ARRIVAL]),
        RawReader("raw by id", *common, BY_ID, READ[BY_ID], by_id=True),
        OfficialReader("official by id", *common, BY_ID, READ[BY_ID], by_id=True),
    ]
    return senders, readers


def kill_rounds(node: NodeProcess, *, seconds: float, seed: int, kills: int = 0) -> Verdict:
    """Let clients work while the node is killed again and again; then read back and judge.

    Stops after `seconds`, or after so many `kills` if they are given.
    """
    schedule = random.Random(seed)
    history = History(seed)
    gate = Gate()
    node.start()
    target = Target(node)
    senders, readers = make_actors(gate, history, target)
    gate.open()
    for actor in senders + readers:
        actor.start()
    try:
        _kill_again_and_again(node, gate, history, schedule, senders + readers, seconds, kills)
        gate.stop.set()
        for actor in senders:
            actor.join(120)
        left = _wait_for_readers(target, readers)
    finally:
        gate.stop.set()
        gate.drain.set()
        gate.open()
    for actor in readers:
        actor.join(60)
    # The cache is gone: all payloads are read from the disk.
    _kill(node, gate, history)
    snapshot = read_back(node, STREAMS)
    snapshot.auto.add(AUTO)
    snapshot.drained = {(group, stream) for group, streams in READ.items() for stream in streams}
    snapshot.left = left
    node.check_log()
    return verify(history, snapshot, lease_s=LEASE_S)


def _kill_again_and_again(
    node: NodeProcess,
    gate: Gate,
    history: History,
    schedule: random.Random,
    actors: list[Actor],
    seconds: float,
    kills: int,
) -> None:
    ends = time.monotonic() + seconds
    done = 0
    while time.monotonic() < ends if not kills else done < kills:
        lo, hi = _ANSWERS_BETWEEN_KILLS[done % len(_ANSWERS_BETWEEN_KILLS)]
        _wait_for_answers(history, schedule.randint(lo, hi), actors)
        _kill(node, gate, history)
        done += 1


def _wait_for_answers(history: History, count: int, actors: list[Actor]) -> None:
    alive = history.wait_for(history.answered + count, _STALL_S)
    for actor in actors:
        actor.check()
    assert alive, f"not {count} answers within {_STALL_S} s"


def _kill(node: NodeProcess, gate: Gate, history: History) -> None:
    assert node.running, f"the node has ended by itself:\n{node.log_tail()}"
    gate.close()
    history.fault("kill")
    node.restart(kill=True)
    history.fault("up")
    gate.open()


def _wait_for_readers(target: Target, readers: list[Actor]) -> set[tuple[str, str, int]]:
    """Wait until every group has acknowledged everything; return what they do not come to."""
    with RawConsumer(target) as raw:
        before: set[tuple[str, str, int]] = set()
        deadline = 0.0
        while left := {
            (group, stream, id)
            for group, streams in READ.items()
            for stream in streams
            for id in raw.unacknowledged(group, stream)
        }:
            for actor in readers:
                actor.check()
            if left != before:
                before, deadline = left, time.monotonic() + _DRAIN_S
            elif time.monotonic() > deadline:
                break
            # Not on every turn of a loop that keeps the node from its readers.
            for _ in range(5):
                # A held `next` of a group that nobody is in: waits without being asked.
                raw.next("waiting", "nowhere")
        return left
