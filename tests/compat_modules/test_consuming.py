"""What the drop-in consumer does around its calls: waiting, interrupts, payloads, threads."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

from beamstream.compat.asapo_consumer import (
    AsapoDataNotInCacheError,
    AsapoEndOfStreamError,
    AsapoInterruptedTransactionError,
    AsapoLocalIOError,
    AsapoNoDataError,
    AsapoUnavailableServiceError,
    AsapoWrongInputError,
)
from official.clients import STORED, Lab, next_ids


def in_thread(work: Any, count: int = 1) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_metadata_are_waited_for(lab: Lab) -> None:
    consumer = lab.consumer(20_000)
    found: list[Any] = []
    threads = in_thread(lambda: found.append(consumer.get_stream_meta("s")))
    lab.sender.stream_meta('{"scan": 7}', "s").ok()
    for thread in threads:
        thread.join(20)
    assert found == [{"scan": 7}]
    with pytest.raises(AsapoNoDataError) as absent:
        lab.consumer().get_stream_meta("other")
    assert (absent.value.id, absent.value.id_max) == (None, None)


def test_interrupt_ends_all_that_wait(lab: Lab) -> None:
    consumer = lab.consumer(60_000)
    waiting = threading.Barrier(4)
    ended: list[type[BaseException]] = []

    def work() -> None:
        waiting.wait(20)
        with pytest.raises(AsapoInterruptedTransactionError) as caught:
            consumer.get_next("g", stream="none", ordered=False)
        ended.append(type(caught.value))

    threads = in_thread(work, 3)
    waiting.wait(20)
    while any(thread.is_alive() for thread in threads):
        # An interrupt is for calls that have begun.
        consumer.interrupt_current_operation()
        threads[0].join(0.05)
    assert ended == [AsapoInterruptedTransactionError] * 3
    lab.fill("s", [1])
    assert next_ids(consumer, "g", "s", 1) == [1]


def test_one_consumer_in_many_threads(lab: Lab) -> None:
    lab.fill("s", range(1, 201))
    consumer = lab.consumer()
    read: list[tuple[int, bytes]] = []

    def work() -> None:
        while True:
            try:
                data, record = consumer.get_next("g", False, "s", False)
            except AsapoEndOfStreamError:
                return
            read.append((record["_id"], bytes(data)))

    for thread in in_thread(work, 8):
        thread.join(60)
    assert sorted(read) == [(id, b"data %d" % id) for id in range(1, 201)]


def test_the_timeout_can_be_changed(lab: Lab) -> None:
    consumer = lab.consumer(60_000)
    consumer.set_timeout(0)
    with pytest.raises(AsapoEndOfStreamError):
        consumer.get_next("g", stream="s", ordered=False)
    consumer.set_timeout(2**63)
    lab.fill("s", [1])
    assert next_ids(consumer, "g", "s", 1, ordered=False) == [1]


def test_arrays_can_be_written_to(lab: Lab) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    lab.sender.send(1, image).ok()
    data, _ = lab.consumer(1000).get_last(False, "s")
    assert (data.dtype, data.shape, data.flags.writeable) == (np.int8, (48,), True)
    again = data.view(np.float32).reshape(3, 4)
    again += 1
    np.testing.assert_array_equal(again, image + 1)


def test_records_need_their_keys_and_nothing_else(lab: Lab) -> None:
    lab.fill("s", [1])
    consumer = lab.consumer(500)
    record = consumer.get_by_id(1, stream="s")[1]
    needless = {"time_id", "ib_source", "stream", "ingest_mode"}
    for key in record:
        rest = {k: v for k, v in record.items() if k != key}
        if key in needless:
            assert bytes(consumer.retrieve_data(rest)) == b"data 1"
        else:
            with pytest.raises(AsapoWrongInputError, match="wrong metadata"):
                consumer.retrieve_data(rest)
    assert bytes(consumer.retrieve_data(record | {"mine": 5})) == b"data 1"
    for wrong in ({"size": "6"}, {"size": -1}, {"buf_id": 2**64}, {"meta": None}, {"name": 1}):
        with pytest.raises(AsapoWrongInputError, match="wrong metadata"):
            consumer.retrieve_data(record | wrong)


def test_payloads_that_are_gone(lab: Lab) -> None:
    lab.sender.send(1, b"cached").ok()
    lab.sender.send(2, b"stored", mode=STORED, path=f"processed/{lab.source}/2").ok()
    consumer = lab.consumer()
    cached, stored = (consumer.get_by_id(id, stream="s")[1] for id in (1, 2))
    for wrong in ({"buf_id": 2**62 + 7}, {"buf_id": 0}, {"size": 5}, {"source": "nobody"}):
        with pytest.raises(AsapoDataNotInCacheError):
            consumer.retrieve_data(cached | wrong)
    for wrong in ({}, {"size": 0}):
        assert bytes(consumer.retrieve_data(stored | {"buf_id": 0} | wrong)) == b"stored"
    for size in (5, 7):
        with pytest.raises(AsapoInterruptedTransactionError):
            consumer.retrieve_data(stored | {"buf_id": 0, "size": size})
    for name in ("processed/none", "../x"):
        with pytest.raises(AsapoUnavailableServiceError):
            consumer.retrieve_data(stored | {"buf_id": 0, "name": name})


def test_a_folder_that_the_reader_sees(lab: Lab) -> None:
    name = f"processed/{lab.source}/1"
    lab.sender.send(1, b"stored", mode=STORED, path=name).ok()
    folder = lab.node.data / "beamtimes" / lab.beamtime
    consumer = lab.consumer(path=str(folder), file_system=True)
    record = consumer.get_by_id(1, stream="s")[1] | {"buf_id": 0}
    assert bytes(consumer.retrieve_data(record)) == b"stored"
    for wrong in ({"name": "processed/none"}, {"name": "../../node.db"}, {"size": 99}):
        with pytest.raises(AsapoLocalIOError):
            consumer.retrieve_data(record | wrong)


def test_resends_can_be_switched_off_again(lab: Lab) -> None:
    lab.fill("s", [1])
    consumer = lab.consumer()
    consumer.set_resend_nacs(True, 0, 3)
    assert next_ids(consumer, "g", "s", 2) == [1, 1]
    consumer.set_resend_nacs(False, 0, 0)
    assert next_ids(consumer, "g", "s", 1) == [1]
    consumer.acknowledge("g", 1, "s")
    with pytest.raises(AsapoEndOfStreamError):
        consumer.get_next("g", stream="s")


def test_a_consumer_that_nobody_holds_leaves_no_connection(lab: Lab) -> None:
    lab.fill("s", [1])
    for _ in range(3):
        data, _ = lab.consumer(1000).get_by_id(1, meta_only=False, stream="s")
        assert bytes(data) == b"data 1"
    # An open socket that is collected is a warning, and warnings are errors here.
    gc.collect()


def test_names_that_no_server_takes(lab: Lab) -> None:
    consumer = lab.consumer()
    for name in ('"', "a\\b", "\n", "x" * 2000):
        with pytest.raises(AsapoWrongInputError):
            consumer.get_next("g", stream=name, ordered=False)
        with pytest.raises(AsapoWrongInputError):
            consumer.get_next(name, stream="s", ordered=False)
    with pytest.raises(UnicodeEncodeError):
        consumer.get_current_size("\ud800")
