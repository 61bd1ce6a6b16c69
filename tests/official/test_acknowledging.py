"""Acknowledgements, and messages that come again."""

from __future__ import annotations

import threading
import time

from official.clients import Lab, next_ids, refused, subject
from official.consumer_errors import (
    AsapoEndOfStreamError,
    AsapoNoDataError,
    AsapoWrongInputError,
)


@subject("acknowledge")
def test_acknowledge(lab: Lab) -> None:
    lab.fill("s", range(1, 6))
    consumer = lab.consumer()
    assert consumer.get_unacknowledged_messages("g", stream="s") == [1, 2, 3, 4, 5]
    refused(AsapoNoDataError, consumer.get_last_acknowledged_message, "g", stream="s")
    for id in (4, 2):
        consumer.acknowledge("g", id, "s")
    again = refused(AsapoWrongInputError, consumer.acknowledge, "g", 2, "s")
    assert "already acknowledged" in str(again)
    assert consumer.get_unacknowledged_messages("g", stream="s") == [1, 3, 5]
    assert consumer.get_unacknowledged_messages("g", 2, 4, stream="s") == [3]
    assert consumer.get_unacknowledged_messages("g", 4, stream="s") == [5]
    assert consumer.get_last_acknowledged_message("g", stream="s") == 4
    lab.sender.finish("s", 5).ok()
    assert consumer.get_unacknowledged_messages("g", stream="s") == [1, 3, 5]
    assert consumer.get_unacknowledged_messages("other", stream="s") == [1, 2, 3, 4, 5]
    assert consumer.get_unacknowledged_messages("g", stream="none") == []


@subject("acknowledge")
def test_acknowledge_before_the_message_exists(lab: Lab) -> None:
    lab.fill("s", [1])
    consumer = lab.consumer()
    consumer.acknowledge("g", 3, "s")
    refused(AsapoWrongInputError, consumer.acknowledge, "g", 3, "s")
    lab.fill("s", [2, 3])
    assert consumer.get_unacknowledged_messages("g", stream="s") == [1, 2]
    assert consumer.get_last_acknowledged_message("g", stream="s") == 3


@subject("resend")
def test_resend(lab: Lab) -> None:
    lab.fill("s", [1, 2])
    consumer = lab.consumer(700)
    consumer.set_resend_nacs(True, 150, 2)
    assert next_ids(consumer, "g", "s", 2) == [1, 2]
    consumer.acknowledge("g", 1, "s")
    assert next_ids(consumer, "g", "s", 2) == [2, 2]
    refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="s")
    assert consumer.get_unacknowledged_messages("g", stream="s") == [2]


@subject("resend")
def test_resend_reaches_members_that_did_not_ask_for_it(lab: Lab) -> None:
    lab.fill("s", [1])
    careful = lab.consumer()
    careful.set_resend_nacs(True, 100, 3)
    assert next_ids(careful, "g", "s", 1, ordered=False) == [1]
    assert next_ids(lab.consumer(5000), "g", "s", 1, ordered=False) == [1]


@subject("resend delay")
def test_resend_is_on_time(lab: Lab) -> None:
    lab.fill("s", [1])
    delay_s = 0.4
    consumer = lab.consumer()
    consumer.set_resend_nacs(True, int(delay_s * 1000), 1)
    begin = time.monotonic()
    assert next_ids(consumer, "g", "s", 1) == [1]
    refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="s")
    consumer.set_timeout(10_000)
    assert next_ids(consumer, "g", "s", 1) == [1]
    assert delay_s <= time.monotonic() - begin < delay_s + 3


@subject("resend delay")
def test_due_messages_come_before_new_ones(lab: Lab) -> None:
    lab.fill("s", [1, 2, 3])
    consumer = lab.consumer()
    consumer.set_resend_nacs(True, 60_000, 0)
    assert next_ids(consumer, "g", "s", 1) == [1]
    consumer.neg_acknowledge("g", 1, 0, "s")
    assert next_ids(consumer, "g", "s", 3) == [1, 2, 3]


@subject("resend unlimited")
def test_resend_without_a_limit(lab: Lab) -> None:
    lab.fill("s", [1])
    consumer = lab.consumer(5000)
    consumer.set_resend_nacs(True, 20, 0)
    assert next_ids(consumer, "g", "s", 6) == [1] * 6
    consumer.acknowledge("g", 1, "s")
    consumer.set_timeout(150)
    refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="s")


@subject("negative acknowledge")
def test_negative_acknowledge(lab: Lab) -> None:
    lab.fill("s", [1, 2])
    consumer = lab.consumer()
    assert next_ids(consumer, "g", "s", 2) == [1, 2]
    begin = time.monotonic()
    consumer.neg_acknowledge("g", 1, 300, "s")
    refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="s")
    consumer.set_timeout(10_000)
    assert next_ids(consumer, "g", "s", 1) == [1]
    assert 0.3 <= time.monotonic() - begin < 3
    consumer.set_timeout(0)
    refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="s")


@subject("negative acknowledge")
def test_negative_acknowledge_wakes_a_waiting_member(lab: Lab) -> None:
    lab.fill("s", [1])
    consumer = lab.consumer(10_000)
    assert next_ids(consumer, "g", "s", 1, ordered=False) == [1]
    other = lab.consumer()
    threading.Timer(0.25, other.neg_acknowledge, ("g", 1, 0, "s")).start()
    assert next_ids(consumer, "g", "s", 1, ordered=False) == [1]


@subject("acknowledged again")
def test_negative_after_positive(lab: Lab) -> None:
    lab.fill("s", [1, 2])
    consumer = lab.consumer(2000)
    assert next_ids(consumer, "g", "s", 2) == [1, 2]
    consumer.acknowledge("g", 1, "s")
    consumer.neg_acknowledge("g", 1, 0, "s")
    assert next_ids(consumer, "g", "s", 1) == [1]
    assert consumer.get_unacknowledged_messages("g", stream="s") == [1, 2]
    consumer.acknowledge("g", 1, "s")
    assert consumer.get_unacknowledged_messages("g", stream="s") == [2]
