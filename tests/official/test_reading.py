"""Messages one by one: in order, as they arrive, by number, the last one, to the end."""

from __future__ import annotations

import threading
import time

from official.clients import Lab, next_ids, refused, subject
from official.consumer_errors import (
    AsapoEndOfStreamError,
    AsapoNoDataError,
    AsapoStreamFinishedError,
    AsapoWrongInputError,
)
from official.producer_errors import AsapoWrongInputError as Refused


@subject("next")
def test_next_in_order(lab: Lab) -> None:
    lab.fill("s", [3, 1, 4, 2])
    consumer = lab.consumer(1000)
    for id in range(1, 5):
        data, record = consumer.get_next("g", meta_only=False, stream="s")
        assert (bytes(data), record["_id"]) == (b"data %d" % id, id)
        assert record["meta"] == {"i": id, "square": id * id}
    consumer.set_timeout(0)
    for _ in range(2):
        assert refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="s").id_max == 4
    lab.fill("s", [5])
    assert next_ids(consumer, "g", "s", 1) == [5]
    assert next_ids(lab.consumer(), "h", "s", 5) == [1, 2, 3, 4, 5]


@subject("missing stream")
def test_missing_stream(lab: Lab) -> None:
    consumer = lab.consumer()
    for more in ({}, {"ordered": False}):
        error = refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="none", **more)
        assert error.id_max == 0
    for call in (
        lambda: consumer.get_last(stream="none"),
        lambda: consumer.get_last(stream="none", group_id="g"),
    ):
        assert refused(AsapoEndOfStreamError, call).id_max == 0
    patient = lab.consumer(100)
    assert refused(AsapoEndOfStreamError, patient.get_by_id, 1, stream="none").id_max == 0
    assert consumer.get_current_size("none") == 0
    lab.fill("none", [1])
    assert next_ids(consumer, "g", "none", 1) == [1]


@subject("waiting")
def test_next_waits(lab: Lab) -> None:
    delay_s = 0.35
    sender = lab.sender
    begin = time.monotonic()
    timers = [
        threading.Timer(delay_s, sender.send, (1, b"late", stream)) for stream in ("a", "b", "c")
    ]
    for timer in timers:
        timer.start()
    consumer = lab.consumer(10_000)
    data, _ = consumer.get_next("g", meta_only=False, stream="a", ordered=False)
    assert bytes(data) == b"late"
    assert delay_s <= time.monotonic() - begin < 5
    assert next_ids(consumer, "g", "b", 1) == [1]
    assert consumer.get_last(stream="c")[1]["_id"] == 1


@subject("gap")
def test_gap(lab: Lab) -> None:
    lab.fill("s", [1, 4])
    consumer = lab.consumer(150)
    assert next_ids(consumer, "g", "s", 1) == [1]
    for missing in (2, 3):
        error = refused(AsapoNoDataError, consumer.get_next, "g", stream="s")
        assert (error.id, error.id_max) == (missing, 4)
    assert next_ids(consumer, "g", "s", 1) == [4]
    refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="s")


@subject("gap filled")
def test_gap_is_filled_while_waiting(lab: Lab) -> None:
    lab.fill("s", [1, 3])
    consumer = lab.consumer(10_000)
    assert next_ids(consumer, "g", "s", 1) == [1]
    threading.Timer(0.25, lab.sender.send, (2, b"two", "s")).start()
    assert next_ids(consumer, "g", "s", 2) == [2, 3]


@subject("arrival order")
def test_order_of_arrival(lab: Lab) -> None:
    lab.fill("s", [5, 2, 9])
    consumer = lab.consumer()
    assert next_ids(consumer, "g", "s", 3, ordered=False) == [5, 2, 9]
    refused(AsapoEndOfStreamError, consumer.get_next, "g", stream="s", ordered=False)
    lab.fill("s", [1])
    assert next_ids(consumer, "g", "s", 1, ordered=False) == [1]


@subject("last")
def test_last(lab: Lab) -> None:
    lab.fill("s", [1, 7, 4])
    consumer = lab.consumer(500)
    data, record = consumer.get_last(meta_only=False, stream="s")
    assert (record["_id"], bytes(data)) == (7, b"data 7")
    consumer.set_timeout(0)
    assert consumer.get_last(stream="s")[1]["_id"] == 7
    for group in ("g", "h"):
        assert consumer.get_last(stream="s", group_id=group)[1]["_id"] == 7
        again = refused(AsapoEndOfStreamError, consumer.get_last, stream="s", group_id=group)
        assert again.id_max == 7
    assert next_ids(consumer, "g", "s", 1, ordered=False) == [1]
    lab.fill("s", [8])
    assert consumer.get_last(stream="s", group_id="g")[1]["_id"] == 8


@subject("by id")
def test_by_id(lab: Lab) -> None:
    lab.fill("s", [1, 2, 4])
    consumer = lab.consumer(150)
    for id in (4, 1, 4):
        data, record = consumer.get_by_id(id, meta_only=False, stream="s")
        assert (record["_id"], bytes(data)) == (id, b"data %d" % id)
    gap = refused(AsapoNoDataError, consumer.get_by_id, 3, stream="s")
    assert (gap.id, gap.id_max) == (3, 4)
    assert refused(AsapoEndOfStreamError, consumer.get_by_id, 9, stream="s").id_max == 4
    refused(AsapoWrongInputError, consumer.get_by_id, 0, stream="s")


@subject("markers")
def test_markers(lab: Lab) -> None:
    lab.fill("s", range(1, 6))
    consumer = lab.consumer()
    assert consumer.get_current_size("s") == 5
    assert next_ids(consumer, "g", "s", 1) == [1]
    consumer.set_lastread_marker("g", 3, stream="s")
    assert next_ids(consumer, "g", "s", 2) == [4, 5]
    consumer.set_lastread_marker("g", 1, stream="s")
    assert next_ids(consumer, "g", "s", 2) == [2, 3]
    consumer.acknowledge("g", 2, "s")
    consumer.reset_lastread_marker("g", stream="s")
    assert next_ids(consumer, "g", "s", 5) == [1, 2, 3, 4, 5]
    consumer.set_lastread_marker("unordered", 3, stream="s")
    assert next_ids(consumer, "unordered", "s", 2, ordered=False) == [4, 5]


@subject("group names")
def test_group_names(lab: Lab) -> None:
    consumer = lab.consumer()
    names = {consumer.generate_group_id() for _ in range(10)}
    assert len(names) == 10
    assert all(names)


@subject("finished")
def test_finished_stream(lab: Lab) -> None:
    lab.fill("s", [1, 2])
    lab.sender.finish("s", 2, "next one").ok()
    consumer = lab.consumer()
    for ordered in (True, False):
        group = f"{ordered}"
        assert next_ids(consumer, group, "s", 2, ordered=ordered) == [1, 2]
        for _ in range(2):
            end = refused(
                AsapoStreamFinishedError, consumer.get_next, group, stream="s", ordered=ordered
            )
            assert (end.id_max, end.next_stream) == (2, "next one")
    for more in ({}, {"group_id": "last"}):
        end = refused(AsapoStreamFinishedError, consumer.get_last, stream="s", **more)
        assert (end.id_max, end.next_stream) == (2, "next one")
    patient = lab.consumer(100)
    end = refused(AsapoStreamFinishedError, patient.get_by_id, 3, stream="s")
    assert (end.id_max, end.next_stream) == (2, "next one")
    assert consumer.get_by_id(2, stream="s")[1]["_id"] == 2
    assert consumer.get_current_size("s") == 2
    info = consumer.get_stream_info("s")
    assert (info["lastId"], info["finished"], info["nextStream"]) == (2, True, "next one")


@subject("finished")
def test_finished_without_next_stream(lab: Lab) -> None:
    lab.sender.finish("empty", 0).ok()
    consumer = lab.consumer()
    end = refused(AsapoStreamFinishedError, consumer.get_next, "g", stream="empty")
    assert (end.id_max, end.next_stream) == (0, "asapo_no_next")
    assert consumer.get_stream_info("empty")["nextStream"] == ""
    assert lab.sender.api.get_stream_info("empty")["finished"] is True


@subject("beyond the end")
def test_ids_beyond_the_end(lab: Lab) -> None:
    lab.fill("s", [1, 2])
    lab.sender.finish("s", 2, "n").ok()
    consumer = lab.consumer(100)
    for id in (4, 50, 2**63 - 1):
        end = refused(AsapoStreamFinishedError, consumer.get_by_id, id, stream="s")
        assert end.next_stream == "n"


@subject("late data")
def test_data_after_the_finish_flag(lab: Lab) -> None:
    lab.fill("s", [1, 2])
    lab.sender.finish("s", 4, "n").ok()
    consumer = lab.consumer()
    assert next_ids(consumer, "u", "s", 2, ordered=False) == [1, 2]
    refused(AsapoStreamFinishedError, consumer.get_next, "u", stream="s", ordered=False)
    lab.fill("s", [4, 3])
    assert next_ids(consumer, "u", "s", 2, ordered=False) == [4, 3]
    assert next_ids(consumer, "g", "s", 4) == [1, 2, 3, 4]
    for group, ordered in (("u", False), ("g", True)):
        end = refused(
            AsapoStreamFinishedError, consumer.get_next, group, stream="s", ordered=ordered
        )
        assert end.id_max == 4
    lab.sender.send(5, b"beyond").fails(Refused)
    assert consumer.get_current_size("s") == 4
    assert consumer.get_stream_info("s")["lastId"] == 4


@subject("late data")
def test_finish_flags_are_messages_for_duplicates(lab: Lab) -> None:
    lab.fill("s", [1, 2, 3])
    lab.sender.finish("s", 2, "n").fails(Refused)
    lab.sender.finish("s", 3, "n").ok()
    remark = lab.sender.finish("s", 3, "n").outcome()[1]
    assert type(remark).__name__ == "AsapoServerWarning"
    lab.sender.finish("s", 3, "m").fails(Refused)
    lab.sender.finish("s", 7, "n").fails(Refused)
    assert lab.consumer().get_stream_info("s")["nextStream"] == "n"


@subject("shared group")
def test_members_share_a_growing_stream(lab: Lab) -> None:
    count = 80
    read: list[int] = []

    def work() -> None:
        consumer = lab.consumer(20_000)
        while True:
            try:
                read.append(consumer.get_next("g", stream="s", ordered=False)[1]["_id"])
            except AsapoStreamFinishedError:
                return

    members = [threading.Thread(target=work) for _ in range(3)]
    for member in members:
        member.start()
    sender = lab.producer(threads=2)
    for ticket in [sender.send(id, b"x") for id in range(1, count + 1)]:
        ticket.ok()
    sender.finish("s", count).ok()
    for member in members:
        member.join(30)
        assert not member.is_alive()
    assert sorted(read) == list(range(1, count + 1))
