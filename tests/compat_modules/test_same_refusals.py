"""What a call is refused for, and how, is the same with the official modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from official.implementations import IMPLEMENTATIONS, Clients

NOWHERE = "127.0.0.1:1"
W = "processed/a"

SENDS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "no stream": ((1, W, b"x"), {"stream": ""}),
    "no path": ((1, "", b"x"), {}),
    "long path": ((1, "p" * 1025, b"x"), {}),
    "long path in bytes": ((1, "é" * 513, b"x"), {}),
    "id 0": ((0, W, b"x"), {}),
    "id below 0": ((-1, W, b"x"), {}),
    "id too large": ((2**64, W, b"x"), {}),
    "id as text": (("1", W, b"x"), {}),
    "id as None": ((None, W, b"x"), {}),
    "automatic with id": ((1, W, b"x"), {"auto_id": True}),
    "automatic dataset": ((0, W, b"x"), {"auto_id": True, "dataset": (1, 2)}),
    "automatic": ((0, W, b"x"), {"auto_id": True}),
    "dataset of 0": ((1, W, b"x"), {"dataset": (1, 0)}),
    "no dataset": ((1, W, b"x"), {"dataset": (0, 0)}),
    "dataset list": ((1, W, b"x"), {"dataset": [1, 2]}),
    "half a dataset": ((1, W, b"x"), {"dataset": (1,)}),
    "dataset number": ((1, W, b"x"), {"dataset": 5}),
    "negative dataset": ((1, W, b"x"), {"dataset": (-1, 2)}),
    "no data": ((1, W, None), {}),
    "no data, cache": ((1, W, None), {"ingest_mode": 9}),
    "no data, metadata only": ((1, W, None), {"ingest_mode": 2}),
    "text as data": ((1, W, "x"), {}),
    "list as data": ((1, W, [1]), {}),
    "number as data": ((1, W, 5), {}),
    "transposed": ((1, W, np.zeros((3, 4)).T), {}),
    "sliced": ((1, W, np.zeros(10)[::2]), {}),
    "bytearray": ((1, W, bytearray(b"x")), {}),
    "memoryview": ((1, W, memoryview(b"x")), {}),
    "read-only array": ((1, W, np.frombuffer(b"abc", np.uint8)), {}),
    "scalar": ((1, W, np.float64(2)), {}),
    "array without dimensions": ((1, W, np.array(2.5)), {}),
    "bad JSON": ((1, W, b"x"), {"user_meta": "{"}),
    "empty JSON": ((1, W, b"x"), {"user_meta": ""}),
    "JSON in bytes": ((1, W, b"x"), {"user_meta": b"{}"}),
    "list as metadata": ((1, W, b"x"), {"user_meta": [1]}),
    "number as metadata": ((1, W, b"x"), {"user_meta": 5}),
    "object in metadata": ((1, W, b"x"), {"user_meta": {"a": object()}}),
    "path as None": ((1, None, b"x"), {}),
    "path in bytes": ((1, b"processed/a", b"x"), {}),
    "path object": ((1, Path(W), b"x"), {}),
    "stream as number": ((1, W, b"x"), {"stream": 7}),
    "stream in bytes": ((1, W, b"x"), {"stream": b"s"}),
    "mode as None": ((1, W, b"x"), {"ingest_mode": None}),
    "mode as text": ((1, W, b"x"), {"ingest_mode": "9"}),
    "mode below 0": ((1, W, b"x"), {"ingest_mode": -1}),
} | {f"mode {mode}": ((1, W, b"x"), {"ingest_mode": mode}) for mode in range(64)}

PRODUCER: dict[str, Callable[[Any], Any]] = {
    "file without local path": lambda p: p.send_file(1, "", W, stream="s"),
    "file without path": lambda p: p.send_file(1, "/dev/null", "", stream="s"),
    "file as None": lambda p: p.send_file(1, None, W, stream="s"),
    "file as path object": lambda p: p.send_file(1, Path("/dev/null"), W, stream="s"),
    "finish nothing": lambda p: p.send_stream_finished_flag("", 1),
    "finish None": lambda p: p.send_stream_finished_flag(None, 1),
    "finish below 0": lambda p: p.send_stream_finished_flag("s", -1),
    "finish with number": lambda p: p.send_stream_finished_flag("s", 1, 5),
    "beamtime dict": lambda p: p.send_beamtime_meta({"a": 1}),
    "beamtime mode": lambda p: p.send_beamtime_meta("{}", "other"),
    "stream dict": lambda p: p.send_stream_meta({"a": 1}, stream="s"),
    "metadata of no stream": lambda p: p.send_stream_meta("{}", stream=""),
    "info of no stream": lambda p: p.get_stream_info(""),
    "info timeout": lambda p: p.get_stream_info("s", -1),
    "info of number": lambda p: p.get_stream_info(5),
    "old info of no stream": lambda p: p.stream_info(""),
    "limits below 0": lambda p: p.set_requests_queue_limits(-1, 0),
    "wait for text": lambda p: p.wait_requests_finished("a"),
    "wait below 0": lambda p: p.wait_requests_finished(-1),
    "level as number": lambda p: p.set_log_level(5),
    "unknown level": lambda p: p.set_log_level("loud"),
    "metadata, nobody there": lambda p: p.get_beamtime_meta(0),
    "delete, nobody there": lambda p: p.delete_stream("s", 0),
    "version, nobody there": lambda p: p.get_version_info()["supported"],
}

CONSUMER: dict[str, Callable[[Any], Any]] = {
    "next of no stream": lambda c: c.get_next("g", stream="", ordered=False),
    "next of number": lambda c: c.get_next("g", stream=5, ordered=False),
    "next of numbered group": lambda c: c.get_next(5, stream="s", ordered=False),
    "next, nobody there": lambda c: c.get_next("g", stream="s", ordered=False),
    "last of no stream": lambda c: c.get_last(stream=""),
    "id 0": lambda c: c.get_by_id(0, stream="s"),
    "id below 0": lambda c: c.get_by_id(-1, stream="s"),
    "id too large": lambda c: c.get_by_id(2**64, stream="s"),
    "id as text": lambda c: c.get_by_id("1", stream="s"),
    "id of no stream": lambda c: c.get_by_id(1, stream=""),
    "dataset 0": lambda c: c.get_dataset_by_id(0, stream="s"),
    "dataset minimum": lambda c: c.get_next_dataset("g", -1, "s", False),
    "acknowledge text": lambda c: c.acknowledge("g", "1", "s"),
    "acknowledge below 0": lambda c: c.acknowledge("g", -1, "s"),
    "acknowledge in no stream": lambda c: c.acknowledge("g", 1, ""),
    "negative delay": lambda c: c.neg_acknowledge("g", 1, -1, "s"),
    "resend below 0": lambda c: c.set_resend_nacs(True, -1, 0),
    "marker below 0": lambda c: c.set_lastread_marker("g", -1, "s"),
    "marker as text": lambda c: c.set_lastread_marker("g", "a", "s"),
    "filter": lambda c: c.get_stream_list("", "some"),
    "list from None": lambda c: c.get_stream_list(None, "all", False),
    "list, nobody there": lambda c: c.get_stream_list("", "all", False),
    "info of no stream": lambda c: c.get_stream_info(""),
    "info of None": lambda c: c.get_stream_info(None),
    "timeout below 0": lambda c: c.set_timeout(-1),
    "timeout as text": lambda c: c.set_timeout("a"),
    "record without keys": lambda c: c.retrieve_data({}),
    "record as None": lambda c: c.retrieve_data(None),
    "record as text": lambda c: c.retrieve_data("{}"),
    "version, nobody there": lambda c: c.get_version_info(),
    "group, nobody there": lambda c: c.generate_group_id(),
}

CREATE: dict[str, Callable[[Clients], Any]] = {
    "type": lambda m: producer(m, type="other"),
    "no threads": lambda m: producer(m, nthreads=0),
    "33 threads": lambda m: producer(m, nthreads=33),
    "300 threads": lambda m: producer(m, nthreads=300),
    "threads as text": lambda m: producer(m, nthreads="1"),
    "neither beamtime nor beamline": lambda m: producer(m, beamtime_id="auto"),
    "both empty": lambda m: producer(m, beamtime_id="", beamline=""),
    "timeout below 0": lambda m: producer(m, timeout_ms=-1),
    "endpoint as None": lambda m: producer(m, endpoint=None),
    "endpoint without port": lambda m: producer(m, endpoint="localhost"),
    "consumer's timeout": lambda m: consumer(m, timeout_ms=-1),
    "consumer's endpoint": lambda m: consumer(m, server_name=5),
}


def producer(clients: Clients, **changed: Any) -> Any:
    given = {
        "endpoint": NOWHERE, "type": "processed", "beamtime_id": "bt1", "beamline": "auto",
        "data_source": "s", "token": "T", "nthreads": 1, "timeout_ms": 100,
    }  # fmt: skip
    made = clients.producer.create_producer(**given | changed)
    made.set_log_level("none")
    return made


def consumer(clients: Clients, **changed: Any) -> Any:
    given = {
        "server_name": NOWHERE, "source_path": "auto", "has_filesystem": False,
        "beamtime_id": "bt1", "data_source": "s", "token": "T", "timeout_ms": 0,
    }  # fmt: skip
    return clients.consumer.create_consumer(**given | changed)


Made = dict[str, tuple[Any, Any]]


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    """(producer, consumer) by implementation; nobody is at their endpoint."""
    found = {name: (producer(pair), consumer(pair)) for name, pair in IMPLEMENTATIONS.items()}
    yield found
    for sender, _ in found.values():
        sender.cleanup()


def outcome(call: Callable[[], Any]) -> str:
    """The name of what is raised, and the categories of the warnings before it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
            result = "nothing"
        except Exception as error:
            result = type(error).__name__
    for warning in caught:
        assert warning.filename == __file__, "the warning is about the program, not the module"
    return " ".join([result, *(warning.category.__name__ for warning in caught)])


def same(results: list[str]) -> None:
    official, ours = results
    assert ours == official


@pytest.mark.parametrize("name", SENDS)
def test_send(made: Made, name: str) -> None:
    given, more = SENDS[name]
    more = {"stream": "s"} | more
    same([outcome(lambda p=p: p.send(*given, **more)) for p, _ in made.values()])


@pytest.mark.parametrize("name", PRODUCER)
def test_producer(made: Made, name: str) -> None:
    same([outcome(lambda p=p: PRODUCER[name](p)) for p, _ in made.values()])


@pytest.mark.parametrize("name", CONSUMER)
def test_consumer(made: Made, name: str) -> None:
    same([outcome(lambda c=c: CONSUMER[name](c)) for _, c in made.values()])


@pytest.mark.parametrize("name", CREATE)
def test_create(name: str) -> None:
    same([outcome(lambda pair=pair: CREATE[name](pair)) for pair in IMPLEMENTATIONS.values()])


OLD: dict[str, Callable[[Any, Any], Any]] = {
    "send": lambda p, c: p.send(1, W, b"x"),
    "info": lambda p, c: p.get_stream_info(None, 0),
    "alias": lambda p, c: p.stream_info("s", 0),
    "alias of last": lambda p, c: p.last_stream(0),
    "ordered": lambda p, c: c.get_next("g", stream="s"),
    "default stream": lambda p, c: c.get_last(),
    "both": lambda p, c: c.get_next("g"),
    "count": lambda p, c: c.get_current_dataset_count("s"),
    "query": lambda p, c: c.query_messages("a = 1", "s"),
    "unacknowledged": lambda p, c: c.get_unacknowledged_messages("g", stream="s"),
    "last acknowledged": lambda p, c: c.get_last_acknowledged_message("g", "s"),
    "marker": lambda p, c: c.set_lastread_marker("g", 1, "s"),
    "reset": lambda p, c: c.reset_lastread_marker("g", "s"),
    "detailed": lambda p, c: c.get_stream_list(),
    "consumer's persistent": lambda p, c: c.set_stream_persistent("s"),
}


@pytest.mark.parametrize("name", OLD)
def test_old_calls_warn(made: Made, name: str) -> None:
    results = [outcome(lambda p=p, c=c: OLD[name](p, c)) for p, c in made.values()]
    assert "DeprecationWarning" in results[0]
    same(results)
