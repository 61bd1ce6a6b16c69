"""Clients that live long: idle for a while, and through a restart of the node. These come last."""

from __future__ import annotations

import time

from compat.doors import until
from official.clients import STORED, Lab, next_ids, subject

REFRESH_S = 10.0
"""How often producers ask for the list of receivers."""


@subject("idle connections")
def test_idle_connections(veteran: tuple[Lab, float]) -> None:
    lab, since = veteran
    until(
        lambda: time.monotonic() - since > REFRESH_S + 1,
        "the producer has renewed its list of receivers",
        seconds=REFRESH_S + 5,
        step=0.2,
    )
    lab.fill("s", [2])
    assert lab.read("s", 2) == b"data 2"


@subject("restart")
def test_clients_survive_a_restart(lab: Lab) -> None:
    sender = lab.sender
    for id in (1, 2, 3):
        sender.send(id, b"%d" % id, mode=STORED).ok()
    consumer = lab.consumer(20_000)
    assert next_ids(consumer, "g", "s", 1) == [1]
    consumer.acknowledge("g", 1, "s")
    lab.node.restart()
    assert next_ids(consumer, "g", "s", 2) == [2, 3]
    sender.send(4, b"4", mode=STORED).ok(60)
    data, _ = consumer.get_next("g", meta_only=False, stream="s")
    assert bytes(data) == b"4"
    assert bytes(consumer.get_by_id(1, meta_only=False, stream="s")[0]) == b"1"
    assert consumer.get_unacknowledged_messages("g", stream="s") == [2, 3, 4]
