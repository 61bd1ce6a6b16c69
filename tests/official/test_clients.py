"""What the clients do beside their calls: interrupts, connections."""

from __future__ import annotations

import threading
import time
from typing import Any

from official.clients import Lab, next_ids, refused, subject
from official.consumer_errors import AsapoInterruptedTransactionError


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
    who: dict[str, Any] = {"instance_id": "my instance §", "pipeline_step": "step 1/a"}
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
