"""Messages of one id from several substreams."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from official.clients import Lab, refused, subject
from official.consumer_errors import (
    AsapoEndOfStreamError,
    AsapoPartialDataError,
    AsapoStreamFinishedError,
    AsapoWrongInputError,
)
from official.producer_errors import AsapoServerWarning
from official.producer_errors import AsapoWrongInputError as Refused


def substreams(dataset: dict[str, Any]) -> list[int]:
    return sorted(part["dataset_substream"] for part in dataset["content"])


@subject("datasets")
def test_whole_datasets(lab: Lab) -> None:
    for id in (1, 2):
        lab.sender.parts(id, (3, 1, 2), 3)
    consumer = lab.consumer(1000)
    for id in (1, 2):
        dataset = consumer.get_next_dataset("g", stream="d")
        assert (dataset["id"], dataset["expected_size"]) == (id, 3)
        assert substreams(dataset) == [1, 2, 3]
        for part in dataset["content"]:
            number = part["dataset_substream"]
            assert (part["_id"], part["meta"]) == (id, {"part": number})
            assert bytes(consumer.retrieve_data(part)) == b"%d/%d" % (id, number)
    consumer.set_timeout(0)
    refused(AsapoEndOfStreamError, consumer.get_next_dataset, "g", stream="d")
    assert consumer.get_next_dataset("u", stream="d", ordered=False)["id"] == 1
    assert consumer.get_last_dataset(stream="d")["id"] == 2
    assert consumer.get_last_dataset(stream="d", group_id="l")["id"] == 2
    refused(AsapoEndOfStreamError, consumer.get_last_dataset, stream="d", group_id="l")
    patient = lab.consumer(100)
    assert patient.get_dataset_by_id(2, stream="d")["id"] == 2
    refused(AsapoEndOfStreamError, patient.get_dataset_by_id, 7, stream="d")


@subject("partial dataset")
def test_partial_dataset(lab: Lab) -> None:
    lab.sender.parts(1, (1, 2), 3)
    consumer = lab.consumer(100)
    partial = refused(
        AsapoPartialDataError, consumer.get_next_dataset, "g", stream="d"
    ).partial_data
    assert (partial["id"], partial["expected_size"], substreams(partial)) == (1, 3, [1, 2])
    refused(AsapoEndOfStreamError, consumer.get_next_dataset, "g", stream="d")
    by_id = refused(AsapoPartialDataError, consumer.get_dataset_by_id, 1, stream="d")
    assert substreams(by_id.partial_data) == [1, 2]
    refused(AsapoEndOfStreamError, consumer.get_last_dataset, stream="d")
    assert consumer.get_current_dataset_count("d") == 0
    assert consumer.get_current_dataset_count("d", include_incomplete=True) == 1
    assert consumer.get_current_size("d") == 1


@subject("minimum size")
def test_minimum_size(lab: Lab) -> None:
    lab.sender.parts(1, (1, 2), 3)
    lab.sender.parts(2, (1,), 3)
    consumer = lab.consumer()
    for ordered in (True, False):
        dataset = consumer.get_next_dataset(f"{ordered}", min_size=2, stream="d", ordered=ordered)
        assert (dataset["id"], dataset["expected_size"], substreams(dataset)) == (1, 3, [1, 2])
    assert consumer.get_last_dataset(min_size=2, stream="d")["id"] == 1
    assert consumer.get_last_dataset(min_size=1, stream="d")["id"] == 2
    patient = lab.consumer(100)
    assert substreams(patient.get_dataset_by_id(1, min_size=2, stream="d")) == [1, 2]


@subject("minimum missed")
def test_minimum_not_reached(lab: Lab) -> None:
    lab.sender.parts(1, (1, 2), 4)
    consumer = lab.consumer(100)
    for call in (
        lambda: consumer.get_next_dataset("g", min_size=3, stream="d"),
        lambda: consumer.get_dataset_by_id(1, min_size=3, stream="d"),
    ):
        assert substreams(refused(AsapoPartialDataError, call).partial_data) == [1, 2]
    refused(AsapoEndOfStreamError, consumer.get_last_dataset, min_size=3, stream="d")


@subject("dataset completed")
def test_dataset_is_completed_while_waiting(lab: Lab) -> None:
    lab.sender.parts(1, (1,), 2)
    threading.Timer(0.25, lab.sender.parts, (1, (2,), 2)).start()
    dataset = lab.consumer(10_000).get_next_dataset("g", stream="d")
    assert (dataset["id"], substreams(dataset)) == (1, [1, 2])


@subject("unordered completed")
def test_unordered_dataset_is_completed_while_waiting(lab: Lab) -> None:
    lab.sender.parts(10, (1,), 2)
    threading.Timer(0.25, lab.sender.parts, (10, (2,), 2)).start()
    dataset = lab.consumer(10_000).get_next_dataset("g", stream="d", ordered=False)
    assert (dataset["id"], substreams(dataset)) == (10, [1, 2])


@subject("substream")
def test_one_substream(lab: Lab) -> None:
    lab.sender.parts(1, (1, 2, 3), 3)
    lab.sender.parts(2, (2,), 3)
    consumer = lab.consumer(100)
    for id in (1, 2):
        dataset = consumer.get_dataset_by_id(id, stream="d", substream=2)
        assert (dataset["id"], substreams(dataset)) == (id, [2])
        dataset = consumer.get_next_dataset("g", stream="d", substream=2)
        assert (dataset["id"], dataset["expected_size"], substreams(dataset)) == (id, 3, [2])
    partial = refused(AsapoPartialDataError, consumer.get_dataset_by_id, 2, stream="d", substream=1)
    assert partial.partial_data["id"] == 2


@subject("dataset duplicate")
def test_duplicate_part(lab: Lab) -> None:
    lab.sender.parts(1, (1,), 2)
    again = lab.sender.send(1, b"1/1", "d", dataset=(1, 2), user_meta={"part": 1})
    again.fails(AsapoServerWarning)
    lab.sender.send(1, b"1/X", "d", dataset=(1, 2), user_meta={"part": 1}).fails(Refused)
    lab.sender.send(1, b"1/1", "d", dataset=(1, 2), path="processed/elsewhere").fails(Refused)
    assert lab.consumer().get_current_dataset_count("d", include_incomplete=True) == 1


@subject("dataset size")
def test_first_part_tells_the_size(lab: Lab) -> None:
    lab.sender.parts(1, (1,), 2)
    lab.sender.send(1, b"x", "d", dataset=(2, 3)).fails(Refused)
    lab.sender.send(1, b"x", "d", dataset=(3, 2)).fails(Refused)
    lab.sender.send(1, b"single", "d").fails(Refused)
    lab.sender.send(9, b"single", "d").fails(Refused)
    lab.sender.parts(1, (2,), 2)
    lab.fill("s", [1])
    lab.sender.send(2, b"x", "s", dataset=(1, 2)).fails(Refused)
    assert substreams(lab.consumer().get_next_dataset("g", stream="d")) == [1, 2]


@subject("dataset count")
def test_count_of_single_messages(lab: Lab) -> None:
    lab.fill("s", [1])
    consumer = lab.consumer()
    for incomplete in (False, True):
        with pytest.raises(AsapoWrongInputError, match="no datasets found"):
            consumer.get_current_dataset_count("s", include_incomplete=incomplete)


@subject("dataset finished")
def test_finished_stream_of_datasets(lab: Lab) -> None:
    lab.sender.parts(1, (1, 2), 2)
    lab.sender.finish("d", 1, "nx").ok()
    consumer = lab.consumer()
    for ordered in (True, False):
        group = f"{ordered}"
        assert consumer.get_next_dataset(group, stream="d", ordered=ordered)["id"] == 1
        end = refused(
            AsapoStreamFinishedError,
            consumer.get_next_dataset,
            group,
            stream="d",
            ordered=ordered,
        )
        assert (end.id_max, end.next_stream) == (1, "nx")
    refused(AsapoStreamFinishedError, consumer.get_last_dataset, stream="d")
    assert consumer.get_current_dataset_count("d") == 1
    assert consumer.get_current_size("d") == 1
