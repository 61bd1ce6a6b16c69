"""Streams and sources: what there is, and what is no more."""

from __future__ import annotations

import threading
import time

from official.clients import Lab, next_ids, refused, subject
from official.consumer_errors import AsapoNoDataError
from official.consumer_errors import AsapoWrongInputError as ConsumerRefused
from official.producer_errors import AsapoWrongInputError as ProducerRefused

KEYS = {"lastId", "name", "timestampCreated", "timestampLast", "finished", "nextStream"}


@subject("stream list")
def test_stream_list(lab: Lab) -> None:
    before_ns = time.time_ns()
    for count, stream in enumerate(("one", "two", "three"), 1):
        lab.fill(stream, range(1, count + 1))
    lab.sender.finish("two", 2, "three").ok()
    consumer = lab.consumer()
    streams = consumer.get_stream_list()
    assert all(set(stream) == KEYS for stream in streams)
    assert [(s["name"], s["lastId"], s["finished"], s["nextStream"]) for s in streams] == [
        ("one", 1, False, ""),
        ("two", 2, True, "three"),
        ("three", 3, False, ""),
    ]
    for stream in streams:
        created, last = stream["timestampCreated"], stream["timestampLast"]
        assert before_ns <= created <= last <= time.time_ns()

    def names(*arguments: object) -> list[str]:
        return [stream["name"] for stream in consumer.get_stream_list(*arguments)]

    assert names("two") == ["two", "three"]
    assert names("", "finished") == ["two"]
    assert names("", "unfinished") == ["one", "three"]
    assert names("two", "unfinished") == ["three"]
    assert names("", "all", False) == ["one", "two", "three"]
    assert names("nothing") == []
    refused(ConsumerRefused, consumer.get_stream_list, "", "wrong")


@subject("stream list")
def test_stream_info(lab: Lab) -> None:
    lab.fill("one", [1])
    lab.fill("two", [3, 7])
    consumer = lab.consumer()
    for client in (consumer, lab.sender.api):
        assert client.get_stream_info("two")["lastId"] == 7
        assert client.get_last_stream()["name"] == "two"
        unknown = client.get_stream_info("nothing")
        assert (unknown["lastId"], unknown["finished"], unknown["nextStream"]) == (0, False, "")
    lab.fill("one", [2])
    assert consumer.get_last_stream()["name"] == "two"
    assert lab.sender.api.stream_info("one")["lastId"] == 2
    assert lab.sender.api.last_stream()["name"] == "two"


@subject("source list")
def test_source_list(lab: Lab) -> None:
    sources = {f"{lab.source}_{name}" for name in ("A", "B", "c d")}
    for source in sources:
        lab.producer(source=source).send(1, b"x").ok()
    listed = lab.consumer().get_source_list()
    assert sources <= set(listed)
    assert len(listed) == len(set(listed))


@subject("empty source")
def test_source_without_streams(lab: Lab) -> None:
    consumer = lab.consumer()
    assert consumer.get_stream_list() == []
    last = consumer.get_last_stream()
    assert (last["lastId"], last["name"]) == (0, "")
    assert lab.sender.api.get_last_stream()["lastId"] == 0


@subject("delete")
def test_delete(lab: Lab) -> None:
    lab.fill("s", [1, 2])
    lab.fill("t", [1])
    consumer = lab.consumer()
    assert next_ids(consumer, "g", "s", 1) == [1]
    assert consumer.get_last(stream="s", group_id="g")[1]["_id"] == 2
    consumer.acknowledge("g", 1, "s")
    consumer.acknowledge("g", 1, "t")
    api = lab.sender.api
    api.delete_stream("s")
    refused(ProducerRefused, api.delete_stream, "s")
    refused(ConsumerRefused, consumer.delete_stream, "s")
    api.delete_stream("s", error_on_not_exist=False)
    consumer.delete_stream("s", error_on_not_exist=False)
    assert consumer.get_current_size("s") == 0
    assert [stream["name"] for stream in consumer.get_stream_list()] == ["t"]
    assert consumer.get_current_size("t") == 1
    assert consumer.get_last_acknowledged_message("g", "t") == 1
    lab.fill("s", [1])
    assert next_ids(consumer, "g", "s", 1) == [1]
    assert consumer.get_last(stream="s", group_id="g")[1]["_id"] == 1
    assert consumer.get_unacknowledged_messages("g", stream="s") == [1]
    consumer.delete_stream("s")
    assert consumer.get_current_size("s") == 0


@subject("delete")
def test_delete_under_a_reader(lab: Lab) -> None:
    lab.fill("s", range(1, 4))
    consumer = lab.consumer(10_000)
    assert next_ids(consumer, "g", "s", 3, ordered=False) == [1, 2, 3]

    def renew() -> None:
        lab.consumer().delete_stream("s")
        lab.sender.send(1, b"new")

    threading.Timer(0.25, renew).start()
    data, record = consumer.get_next("g", meta_only=False, stream="s", ordered=False)
    assert (record["_id"], bytes(data)) == (1, b"new")


@subject("delete metadata")
def test_delete_removes_metadata(lab: Lab) -> None:
    lab.fill("s", [1])
    lab.sender.stream_meta('{"a":1}', "s").ok()
    lab.sender.stream_meta('{"a":2}', "t").ok()
    lab.sender.api.delete_stream("s")
    consumer = lab.consumer()
    refused(AsapoNoDataError, consumer.get_stream_meta, "s")
    assert consumer.get_stream_meta("t") == {"a": 2}


@subject("persist")
def test_persist(lab: Lab) -> None:
    lab.fill("s", [1])
    for client in (lab.sender.api, lab.consumer(), lab.sender.api):
        client.set_stream_persistent("s")
    assert lab.read("s", 1) == b"data 1"
