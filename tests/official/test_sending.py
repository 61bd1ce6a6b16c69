"""What producers send is what consumers get."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from official.clients import STORED, Lab, next_ids, refused, subject
from official.consumer_errors import (
    AsapoDataNotInCacheError,
    AsapoEndOfStreamError,
    AsapoWrongInputError,
)
from official.producer_errors import (
    AsapoLocalIOError,
    AsapoRequestsPoolIsFull,
    AsapoServerWarning,
)
from official.producer_errors import AsapoWrongInputError as Refused

RECORD_KEYS = {
    "_id", "time_id", "size", "name", "timestamp", "source", "ib_source", "buf_id", "stream",
    "dataset_substream", "ingest_mode", "meta",
}  # fmt: skip


@subject("bytes")
def test_bytes(lab: Lab) -> None:
    meta = {"nested": {"list": [1, 2.5, "x", None, True]}, "é": "ü"}
    before_ns = time.time_ns()
    payload = lab.sender.send(1, b"hello", path="processed/b1", user_meta=meta).ok()
    assert (payload["id"], payload["buffer"], payload["stream"]) == (1, "processed/b1", "s")
    assert bytes(payload["data"]) == b"hello"
    assert payload["server_response"] == b""
    data, record = lab.consumer(1000).get_by_id(1, meta_only=False, stream="s")
    assert bytes(data) == b"hello"
    assert set(record) >= RECORD_KEYS
    assert (record["_id"], record["size"], record["name"]) == (1, 5, "processed/b1")
    assert (record["stream"], record["dataset_substream"], record["ingest_mode"]) == ("s", 0, 9)
    assert record["meta"] == meta
    assert before_ns <= record["timestamp"] <= time.time_ns()


@subject("arrays")
def test_arrays(lab: Lab) -> None:
    image = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    lab.sender.send(1, image, user_meta='{"unit":"\\u00c5"}').ok()
    data, record = lab.consumer(1000).get_last(meta_only=False, stream="s")
    assert record["size"] == image.nbytes
    np.testing.assert_array_equal(data.view(np.float32).reshape(3, 4), image)
    assert record["meta"] == {"unit": "Å"}


@subject("no metadata")
def test_no_metadata(lab: Lab) -> None:
    lab.sender.send(1, b"x").ok()
    assert lab.consumer().get_by_id(1, stream="s")[1]["meta"] == {}


@subject("metadata kinds")
@pytest.mark.parametrize("meta", ["[1]", "5", '"text"', "null", "[" * 60 + "]" * 60])
def test_metadata_that_are_no_object(lab: Lab, meta: str) -> None:
    lab.sender.send(1, b"x", user_meta=meta).fails(Refused)
    lab.sender.send(2, b"x").ok()
    assert next_ids(lab.consumer(), "g", "s", 1, ordered=False) == [2]


@subject("duplicate")
def test_duplicate(lab: Lab) -> None:
    for mode in (9, STORED):
        stream = f"mode{mode}"
        lab.sender.send(1, b"abc", stream, mode=mode, user_meta={"k": 1}).ok()
        again = lab.sender.send(1, b"abc", stream, mode=mode, user_meta={"k": 1})
        remark = again.fails(AsapoServerWarning)
        assert "ignoring duplicate record for id 1" in str(remark)
        assert lab.consumer().get_current_size(stream) == 1
    lab.sender.send(2, b"abc", "mode9").ok()
    assert next_ids(lab.consumer(), "g", "mode9", 2, ordered=False) == [1, 2]


@subject("duplicate spelling")
def test_duplicate_with_other_spelling(lab: Lab) -> None:
    lab.sender.send(1, b"abc", user_meta='{"a":1,"b":"\\u00e9"}').ok()
    respelled = lab.sender.send(1, b"abc", user_meta='{ "b" : "é", "a" : 1 }')
    respelled.fails(AsapoServerWarning)
    lab.sender.send(1, b"abc", user_meta='{"a":2,"b":"é"}').fails(Refused)


@subject("id conflict")
def test_id_conflict(lab: Lab) -> None:
    lab.sender.send(1, b"abc", path="processed/first").ok()
    error = lab.sender.send(1, b"abcd", path="processed/second").fails(Refused)
    assert "already have record with same id" in str(error)
    lab.sender.send(1, b"abc", path="processed/third").fails(Refused)
    lab.sender.send(2, b"next").ok()
    data, record = lab.consumer(1000).get_by_id(1, meta_only=False, stream="s")
    assert (bytes(data), record["name"]) == (b"abc", "processed/first")


@subject("content conflict")
@pytest.mark.parametrize("mode", [9, STORED])
def test_content_conflict(lab: Lab, mode: int) -> None:
    path = f"processed/content{mode}"
    lab.sender.send(1, b"abc", path=path, mode=mode).ok()
    lab.sender.send(1, b"abX", path=path, mode=mode).fails(Refused)
    assert lab.read("s", 1) == b"abc"


@subject("metadata only")
def test_metadata_only(lab: Lab) -> None:
    lab.sender.send(1, None, mode=2, user_meta={"m": 1}).ok()
    lab.sender.send(2, None, mode=2 | 8).ok()
    lab.sender.send(3, b"only its size is sent", mode=2).ok()
    consumer = lab.consumer()
    first = consumer.get_next("g", stream="s", ordered=False)[1]
    assert (first["_id"], first["meta"], first["size"]) == (1, {"m": 1}, 0)
    assert consumer.get_by_id(3, stream="s")[1]["size"] == len(b"only its size is sent")
    for id in (1, 2, 3):
        refused(AsapoDataNotInCacheError, consumer.get_by_id, id, meta_only=False, stream="s")


@subject("automatic ids")
def test_automatic_ids(lab: Lab) -> None:
    sender = lab.producer(threads=4)
    tickets = [
        sender.send(0, b"auto %d" % i, path=f"processed/auto{i}", auto_id=True) for i in range(40)
    ]
    for ticket in tickets:
        ticket.ok()
    ids = next_ids(lab.consumer(), "g", "s", 40, ordered=False)
    assert sorted(ids) == list(range(1, 41))


@subject("automatic and own ids")
def test_automatic_after_own_ids(lab: Lab) -> None:
    lab.sender.send(10, b"own").ok()
    lab.sender.send(0, b"auto", path="processed/a", auto_id=True).ok()
    lab.sender.send(12, b"own").ok()
    lab.sender.send(0, b"auto", path="processed/b", auto_id=True).ok()
    assert next_ids(lab.consumer(), "g", "s", 4, ordered=False) == [10, 11, 12, 13]


@subject("send file")
def test_send_file(lab: Lab, tmp_path: Path) -> None:
    local = tmp_path / "frame"
    local.write_bytes(bytes(range(256)) * 100)
    path = f"processed/{lab.source}/frame"
    payload = lab.sender.file(1, str(local), path, user_meta={"f": 1}).ok()
    assert payload["id"] == 1
    lab.sender.file(2, str(local) + ".missing", path + "2").fails(AsapoLocalIOError)
    data, record = lab.consumer(1000).get_by_id(1, meta_only=False, stream="s")
    assert bytes(data) == local.read_bytes()
    assert (record["meta"], record["size"], record["ingest_mode"]) == ({"f": 1}, 25600, 13)
    assert lab.consumer().get_current_size("s") == 1


@subject("large message")
def test_large_message(lab: Lab) -> None:
    image = np.random.default_rng(7).integers(0, 2**16, 12_000_000, np.uint16)
    lab.sender.send(1, image).ok()
    data, _ = lab.consumer(20_000).get_by_id(1, meta_only=False, stream="s")
    assert np.array_equal(data.view(np.uint16), image)


@subject("throughput")
def test_many_messages_by_many_threads(lab: Lab) -> None:
    count = 2000
    sender = lab.producer(threads=8, timeout_ms=60_000)
    tickets = [sender.send(id, b"message %d" % id) for id in range(1, count + 1)]
    for ticket in tickets:
        ticket.ok(60)
    read: list[tuple[int, bytes]] = []

    def work() -> None:
        consumer = lab.consumer()
        while True:
            try:
                data, record = consumer.get_next("g", meta_only=False, stream="s", ordered=False)
            except AsapoEndOfStreamError:
                return
            read.append((record["_id"], bytes(data)))

    run_together(4, work)
    assert sorted(read) == [(id, b"message %d" % id) for id in range(1, count + 1)]


def run_together(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@subject("special names")
def test_special_names(lab: Lab) -> None:
    source = f"{lab.source} %c d/é§"
    group = "group %/1é+&"
    sender = lab.producer(source=source)
    names = [
        "default", "a b/c", "..", "a%d?&#+=;", "é§", "x.y_z~-", "a:b", "50%", "%41", "q" * 90,
        "漢字😀", "'", "<script>", "a//b", "$meta", "null", "0", "streams",
    ]  # fmt: skip
    for name in names:
        sender.send(1, name.encode(), name, path="processed/special").ok()
    consumer = lab.consumer(1000, source=source)
    for name in names:
        data, record = consumer.get_next(group, meta_only=False, stream=name, ordered=False)
        assert (bytes(data), record["stream"]) == (name.encode(), name)
        assert consumer.get_stream_info(name)["name"] == name
        assert sender.api.get_stream_info(name)["lastId"] == 1
        consumer.acknowledge(group, 1, name)
        assert consumer.get_last_acknowledged_message(group, name) == 1
        assert consumer.get_unacknowledged_messages(group, stream=name) == []
    listed = consumer.get_stream_list()
    assert sorted(info["name"] for info in listed) == sorted(names)
    assert consumer.get_stream_list("a b/c")[0]["name"] == "a b/c"
    assert source in consumer.get_source_list()
    sender.api.delete_stream("a b/c")
    assert consumer.get_current_size("a b/c") == 0
    refused(AsapoWrongInputError, consumer.delete_stream, "a%b-none")


@subject("distinct names")
def test_names_that_could_be_mistaken(lab: Lab) -> None:
    lab.fill("c", [1])
    lab.fill("b_c", [1])
    consumer = lab.consumer()
    assert next_ids(consumer, "a_b", "c", 1) == [1]
    assert next_ids(consumer, "a", "b_c", 1) == [1]
    consumer.acknowledge("a_b", 1, "c")
    assert consumer.get_unacknowledged_messages("a", stream="b_c") == [1]
    names = ["run1", "run10", "RUN1", "x_run1", "run1 ", "e\u0301", "\u00e9"]
    for name in names:
        lab.fill(name, [1])
        consumer.acknowledge("g", 1, name)
    lab.sender.api.delete_stream("run1")
    left = {info["name"] for info in consumer.get_stream_list()}
    assert left == {"c", "b_c", *names} - {"run1"}
    for name in names[1:]:
        assert consumer.get_last_acknowledged_message("g", name) == 1
    other = lab.beside(source=lab.source + "_c")
    assert other.consumer().get_stream_list() == []


@subject("sparse ids")
def test_ids_may_begin_anywhere(lab: Lab) -> None:
    largest = 2**63 - 1
    lab.fill("s", [1000, 1002, largest])
    consumer = lab.consumer()
    assert next_ids(consumer, "g", "s", 3, ordered=False) == [1000, 1002, largest]
    assert consumer.get_last(stream="s")[1]["_id"] == largest
    assert consumer.get_current_size("s") == 3
    assert consumer.get_unacknowledged_messages("g", stream="s") == [1000, 1002, largest]
    lab.sender.send(2**63, b"x").fails(Refused)
    lab.sender.send(2**64 - 1, b"x").fails(Refused)


@subject("queue limits")
def test_queue_limits(lab: Lab) -> None:
    api = lab.sender.api
    api.set_requests_queue_limits(0, 1)
    refused(AsapoRequestsPoolIsFull, api.send, 1, "processed/x", b"x" * 1_500_000, stream="s")
    api.set_requests_queue_limits(0, 0)
    lab.sender.send(1, b"x" * 1_500_000).ok()
    api.wait_requests_finished(5000)
    assert (api.get_requests_queue_size(), api.get_requests_queue_volume_mb()) == (0, 0)
