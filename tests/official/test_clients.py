"""What the clients do beside their calls: interrupts, connections, long idling, restarts."""

from __future__ import annotations

import threading
import time

from asapo_consumer import AsapoInterruptedTransactionError

from compat.doors import until
from official.clients import STORED, Lab, next_ids, refused, subject

REFRESH_S = 10.0
"""How often producers ask for the list of receivers."""


@subject("interrupt")
def test_interrupt(lab: Lab) -> None:
    consumer = lab.consumer(30_000)
    begin = time.monotonic()
    threading.Timer(0.3, consumer.interrupt_current_operation).start()
    refused(AsapoInterruptedTransactionError, consumer.get_next, "g", stream="nothing")
    assert time.monotonic() - begin < 5
    lab.fill("s", [1])
    assert next_ids(consumer, "g", "s", 1) == [1]


@subject("connection type")
def test_connection_type_and_monitoring(lab: Lab) -> None:
    lab.fill("s", [1, 2])
    who = {"instance_id": "my instance §", "pipeline_step": "step 1/a"}
    consumer = lab.consumer(1000, **who)
    assert consumer.current_connection_type() == "No connection"
    consumer.force_no_rdma()
    assert bytes(consumer.get_by_id(1, meta_only=False, stream="s")[0]) == b"data 1"
    assert consumer.current_connection_type() == "TCP"
    consumer.disable_monitoring(True)
    assert bytes(consumer.get_by_id(2, meta_only=False, stream="s")[0]) == b"data 2"
    lab.producer(**who).send(3, b"x").ok()


@subject("advertised address")
def test_records_name_an_address_that_can_be_reached(lab: Lab) -> None:
    lab.fill("s", [1])
    record = lab.consumer().get_by_id(1, stream="s")[1]
    host, _, port = record["source"].rpartition(":")
    assert host == lab.node.endpoint.rpartition(":")[0]
    assert 0 < int(port) < 65536
    assert record["buf_id"] > 0


@subject("restart")
def test_clients_survive_a_restart(lab: Lab, veteran: tuple[Lab, float]) -> None:
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
