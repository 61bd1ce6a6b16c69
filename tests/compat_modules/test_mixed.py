"""Official and drop-in modules in one stream, in both directions and in one group."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from official.clients import STORED, Lab, next_ids
from official.consumer_errors import AsapoEndOfStreamError

WAYS = [("official", "drop-in"), ("drop-in", "official")]
BOTH_WAYS = pytest.mark.parametrize(("sends", "reads"), WAYS, ids=["to ours", "from ours"])


@BOTH_WAYS
def test_messages_arrive_whole(labs: dict[str, Lab], sends: str, reads: str) -> None:
    image = np.arange(300_000, dtype=np.uint16).reshape(3, 100_000)
    meta = {"energy": 12.4, "é": ["ü", None, True], "n": 2**53}
    sender = labs[sends].sender
    sender.send(1, image, user_meta=meta).ok()
    sender.send(2, b"on disk", mode=STORED, path=f"processed/{sender.source}/2").ok()
    sender.send(0, b"auto", auto_id=True, path="processed/auto").ok()
    sender.finish("s", 3, "next one").ok()
    consumer = labs[reads].consumer(5000)
    data, record = consumer.get_next("g", meta_only=False, stream="s", ordered=False)
    assert data.dtype == np.int8
    np.testing.assert_array_equal(data.view(np.uint16).reshape(3, 100_000), image)
    assert record["meta"] == meta
    data, record = consumer.get_next("g", meta_only=False, stream="s", ordered=False)
    assert bytes(data) == b"on disk"
    assert bytes(consumer.retrieve_data(record | {"buf_id": 0})) == b"on disk"
    assert consumer.get_next("g", stream="s", ordered=False)[1]["_id"] == 3
    with pytest.raises(Exception, match="finished") as end:
        consumer.get_next("g", stream="s", ordered=False)
    assert type(end.value).__name__ == "AsapoStreamFinishedError"
    assert (end.value.id_max, end.value.next_stream) == (3, "next one")


@BOTH_WAYS
def test_datasets_and_metadata(labs: dict[str, Lab], sends: str, reads: str) -> None:
    sender = labs[sends].sender
    sender.parts(1, (2, 1), 2)
    sender.parts(2, (1,), 2)
    sender.stream_meta('{"scan": {"points": 3}}', "d").ok()
    consumer = labs[reads].consumer()
    dataset = consumer.get_next_dataset("g", stream="d", ordered=False)
    assert (dataset["id"], dataset["expected_size"]) == (1, 2)
    parts = {part["dataset_substream"]: part for part in dataset["content"]}
    assert {k: bytes(consumer.retrieve_data(part)) for k, part in parts.items()} == {
        1: b"1/1",
        2: b"1/2",
    }
    with pytest.raises(Exception, match="partial") as partial:
        consumer.get_next_dataset("g", stream="d", ordered=False)
    assert len(partial.value.partial_data["content"]) == 1
    assert consumer.get_stream_meta("d") == {"scan": {"points": 3}}


def test_records_are_the_same_to_the_last_key(labs: dict[str, Lab]) -> None:
    labs["official"].fill("s", range(1, 4))
    labs["drop-in"].sender.parts(1, (1, 2), 2)
    official, ours = (lab.consumer(1000) for lab in labs.values())
    for call in (
        lambda c: c.get_by_id(2, stream="s"),
        lambda c: c.get_last(stream="s"),
        lambda c: c.query_messages("meta.i > 1", stream="s"),
        lambda c: c.get_dataset_by_id(1, stream="d"),
        lambda c: c.get_stream_list(),
        lambda c: c.get_stream_info("s"),
        lambda c: c.get_stream_info("none"),
        lambda c: c.get_last_stream(),
        lambda c: c.get_version_info()["server"],
    ):
        expected = call(official)
        found = call(ours)
        assert found == expected
        assert keys(found) == keys(expected)
    (sends, ours_sends) = (lab.sender.api for lab in labs.values())
    assert ours_sends.get_stream_info("s") == sends.get_stream_info("s")
    assert ours_sends.get_version_info()["server"] == sends.get_version_info()["server"]


def keys(found: Any) -> Any:
    """The keys, in their order, of a record or of what holds some."""
    if isinstance(found, dict):
        return [(key, keys(value)) for key, value in found.items()]
    if isinstance(found, list | tuple):
        return [keys(value) for value in found]
    return None


def test_a_record_of_one_is_retrieved_by_the_other(labs: dict[str, Lab]) -> None:
    labs["official"].fill("s", [1])
    official, ours = (lab.consumer(1000) for lab in labs.values())
    for asks, retrieves in ((official, ours), (ours, official)):
        record = asks.get_by_id(1, stream="s")[1]
        assert bytes(retrieves.retrieve_data(record)) == b"data 1"


def test_one_group_of_both(labs: dict[str, Lab]) -> None:
    count = 300
    labs["drop-in"].fill("s", range(1, count + 1))
    read: dict[str, list[int]] = {name: [] for name in labs}
    begin = threading.Barrier(len(labs))

    def work(name: str) -> None:
        consumer = labs[name].consumer()
        begin.wait(30)
        while len(read["official"]) + len(read["drop-in"]) < count:
            try:
                read[name].append(consumer.get_next("g", stream="s", ordered=False)[1]["_id"])
            except AsapoEndOfStreamError:
                return

    threads = [threading.Thread(target=work, args=(name,)) for name in labs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(read.values()), "one of them got nothing"
    assert sorted(read["official"] + read["drop-in"]) == list(range(1, count + 1))


def test_acknowledgements_are_shared(labs: dict[str, Lab]) -> None:
    labs["official"].fill("s", range(1, 4))
    official, ours = (lab.consumer() for lab in labs.values())
    assert next_ids(official, "g", "s", 2) == [1, 2]
    ours.acknowledge("g", 1, "s")
    assert official.get_unacknowledged_messages("g", stream="s") == [2, 3]
    official.acknowledge("g", 2, "s")
    assert ours.get_last_acknowledged_message("g", "s") == 2
    assert next_ids(ours, "g", "s", 1) == [3]
    ours.neg_acknowledge("g", 2, 0, "s")
    assert next_ids(official, "g", "s", 1) == [2]
