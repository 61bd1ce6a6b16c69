"""Our ASAPO producer and consumer against a real node."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from beamstream.client.asapo import (
    Consumer,
    EndReached,
    Finished,
    Incomplete,
    Missing,
    Producer,
    Resend,
)
from beamstream.errors import (
    AlreadyAcknowledged,
    BadInput,
    BadToken,
    Error,
    IdConflict,
    NotFound,
)
from beamstream.testing.node import NodeProcess

BEAMTIME = "client1"
NAMES = iter(f"stream {k}/ä" for k in range(10_000))

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="64MiB", durability="os") as node:
        yield node


@pytest.fixture(scope="module")
def producer(node: NodeProcess) -> Iterator[Producer]:
    token = node.token(BEAMTIME)
    # Not by `with`, whose end raises what a test has provoked.
    producer = Producer(node.endpoint, beamtime=BEAMTIME, source="det 1", token=token)
    yield producer
    producer.close(30)


@pytest.fixture(scope="module")
def consumer(node: NodeProcess) -> Iterator[Consumer]:
    with consuming(node) as consumer:
        yield consumer


@pytest.fixture
def stream() -> str:
    return next(NAMES)


def consuming(node: NodeProcess, timeout_s: float = 0.0, **settings: object) -> Consumer:
    token = node.token(BEAMTIME)
    return Consumer(
        node.endpoint,
        beamtime=BEAMTIME,
        source="det 1",
        token=token,
        timeout_s=timeout_s,
        **settings,  # type: ignore[arg-type]
    )


def fill(producer: Producer, stream: str, ids: range, mode: int = 9) -> None:
    answers = [
        producer.send(k, f"processed/{stream}/{k}", bytes([k]) * k, stream=stream, mode=mode)
        for k in ids
    ]
    for answer in answers:
        answer.result(30)


def test_frames_come_back_bit_for_bit(producer: Producer, consumer: Consumer, stream: str) -> None:
    frame = np.random.default_rng(3).integers(0, 2**16, (700, 900), np.uint16)
    meta = {"energy_eV": 12400, "ring": [1.5, {"ü": None}]}
    for id_, mode in ((1, 9), (2, 13)):
        name = f"processed/{stream}/f{id_}"
        sent = producer.send(id_, name, frame, stream=stream, meta=meta, mode=mode).result(30)
        assert not sent.duplicate
        message = consumer.next("g", stream)
        assert message.data is not None
        assert np.array_equal(np.frombuffer(message.data, np.uint16).reshape(frame.shape), frame)
        assert (message.id, message.name, message.meta) == (id_, name, meta)
        assert (message.size, message.stream, message.mode) == (frame.nbytes, stream, mode)
    with pytest.raises(EndReached) as end:
        consumer.next("g", stream)
    assert end.value.id_max == 2


def test_files_come_from_the_transfer_and_the_file_system(
    node: NodeProcess, producer: Producer, consumer: Consumer, stream: str
) -> None:
    data = bytes(range(256)) * 300
    producer.send(1, f"processed/{stream}/f", data, stream=stream).result(30)
    message = consumer.by_id(1, stream, data=False)
    message.buf_id = 0
    assert consumer.retrieve(message) == data
    message.size = 0
    assert consumer.retrieve(message) == data
    (root,) = {p for p in node.data.rglob(f"{stream}/f") if p.is_file()}
    folder = str(root)[: -len(f"/processed/{stream}/f")]
    with consuming(node, source_path=folder, filesystem=True) as other:
        assert other.retrieve(message) == data


def test_duplicates_and_conflicts(producer: Producer, stream: str) -> None:
    def send(data: bytes, meta: dict[str, int]) -> bool:
        future = producer.send(5, "processed/x/5", data, stream=stream, meta=meta, mode=9)
        return future.result(30).duplicate

    assert not send(b"abc", {"a": 1})
    assert send(b"abc", {"a": 1})
    with pytest.raises(IdConflict):
        send(b"abd", {"a": 1})


def test_ends_gaps_and_finish(producer: Producer, consumer: Consumer, stream: str) -> None:
    with pytest.raises(EndReached):
        consumer.next("g", stream)
    fill(producer, stream, range(1, 2))
    fill(producer, stream, range(3, 4))
    assert consumer.next("g", stream).id == 1
    with pytest.raises(Missing) as gap:
        consumer.next("g", stream)
    assert (gap.value.id, gap.value.id_max) == (2, 3)
    assert consumer.next("g", stream).id == 3
    assert not producer.send_stream_finished(stream, 3, "the next one").result(30).duplicate
    with pytest.raises(Finished) as end:
        consumer.next("g", stream)
    assert (end.value.id_max, end.value.next_stream) == (3, "the next one")
    info = consumer.stream_info(stream)
    assert info is not None
    assert (info.last_id, info.finished, info.next_stream) == (3, True, "the next one")
    assert consumer.size(stream) == 2
    assert stream in [s.name for s in consumer.streams(filter="finished")]
    assert consumer.stream_info("no such") is None


def test_a_waiting_consumer_is_woken(node: NodeProcess, producer: Producer, stream: str) -> None:
    got: list[int] = []
    with consuming(node, timeout_s=30) as waiting:
        thread = threading.Thread(target=lambda: got.append(waiting.next("g", stream).id))
        thread.start()
        fill(producer, stream, range(1, 2))
        thread.join(30)
    assert got == [1]


def test_each_message_goes_to_one_of_a_group(
    node: NodeProcess, producer: Producer, consumer: Consumer, stream: str
) -> None:
    fill(producer, stream, range(1, 101))
    producer.send_stream_finished(stream, 100).result(30)
    group = consumer.new_group()
    got: list[int] = []

    def read() -> None:
        with consuming(node, 5.0) as own:
            while True:
                try:
                    message = own.next(group, stream, ordered=False)
                except Finished:
                    return
                assert message.data == bytes([message.id]) * message.id
                got.append(message.id)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == list(range(1, 101))


def test_by_id_and_last(producer: Producer, consumer: Consumer, stream: str) -> None:
    fill(producer, stream, range(1, 4))
    assert consumer.by_id(2, stream).data == b"\2\2"
    assert consumer.last(stream).id == 3
    assert consumer.last(stream, group="g").id == 3
    with pytest.raises(EndReached):
        consumer.last(stream, group="g")
    with pytest.raises(EndReached):
        consumer.by_id(9, stream)


def test_acknowledging(producer: Producer, consumer: Consumer, stream: str) -> None:
    fill(producer, stream, range(1, 5))
    assert consumer.last_acked("g", stream) == 0
    for _ in range(4):
        consumer.next("g", stream, data=False)
    consumer.ack("g", 1, stream)
    consumer.ack("g", 3, stream)
    with pytest.raises(AlreadyAcknowledged):
        consumer.ack("g", 3, stream)
    assert consumer.unacknowledged("g", stream) == [2, 4]
    assert consumer.unacknowledged("g", stream, from_id=3) == [4]
    assert consumer.last_acked("g", stream) == 3
    consumer.nack("g", 2, stream)
    assert consumer.next("g", stream, data=False).id == 2
    consumer.set_marker("g", 3, stream)
    assert consumer.next("g", stream, data=False).id == 4


def test_what_is_not_acknowledged_comes_again(
    node: NodeProcess, producer: Producer, stream: str
) -> None:
    fill(producer, stream, range(1, 2))
    resend = Resend(0.2, 1)
    with consuming(node, timeout_s=10) as own:
        assert own.next("g", stream, data=False, resend=resend).id == 1
        assert own.next("g", stream, data=False, resend=resend).id == 1


def test_datasets(producer: Producer, consumer: Consumer, stream: str) -> None:
    def send(id_: int, part: int) -> None:
        name = f"processed/{stream}/{id_}_{part}"
        data = bytes([id_, part])
        future = producer.send(id_, name, data, stream=stream, dataset=(part, 2), mode=9)
        future.result(30)

    send(1, 1)
    send(1, 2)
    send(2, 1)
    whole = consumer.next_dataset("g", stream, data=True)
    assert whole.complete
    assert [part.data for part in whole.parts] == [b"\1\1", b"\1\2"]
    with pytest.raises(Incomplete) as incomplete:
        consumer.dataset_by_id(2, stream)
    assert [p.substream for p in incomplete.value.dataset.parts] == [1]
    assert consumer.last_dataset(stream).id == 1
    assert consumer.dataset_by_id(2, stream, min_size=1).id == 2
    assert consumer.size(stream, incomplete=True) == 2
    assert consumer.size(stream, incomplete=False) == 1


def test_metadata(producer: Producer, consumer: Consumer, stream: str) -> None:
    with pytest.raises(NotFound):
        consumer.meta(stream)
    producer.send_meta({"a": {"b": 1}}, stream=stream, mode="insert").result(30)
    producer.send_meta({"a": {"c": 2}}, stream=stream, mode="update").result(30)
    assert consumer.meta(stream) == {"a": {"b": 1, "c": 2}}
    producer.send_meta({"of": "beamtime"}).result(30)
    assert consumer.meta() == {"of": "beamtime"}
    assert producer.send_meta({}, stream="none", upsert=False).exception(30) is not None


def test_search(producer: Producer, consumer: Consumer, stream: str) -> None:
    for k in range(1, 6):
        meta = {"energy": k * 1000, "tag": f"t{k}"}
        producer.send(k, f"processed/{stream}/{k}", b"x", stream=stream, meta=meta, mode=9)
    producer.flush(30)
    found = consumer.search("meta.energy > 2000 AND meta.tag != 't4' ORDER BY _id DESC", stream)
    assert [m.id for m in found] == [5, 3]
    with pytest.raises(BadInput):
        consumer.search("DROP TABLE", stream)


def test_delete_and_persist(producer: Producer, consumer: Consumer, stream: str) -> None:
    fill(producer, stream, range(1, 3))
    consumer.persist(stream)
    assert "det 1" in consumer.sources()
    consumer.delete(stream)
    assert consumer.size(stream) == 0
    with pytest.raises(BadInput):
        consumer.delete(stream)
    consumer.delete(stream, must_exist=False)


def test_automatic_ids(producer: Producer, consumer: Consumer, stream: str) -> None:
    for k in range(3):
        producer.send(0, f"processed/{stream}/{k}", b"x", stream=stream, mode=9, auto_id=True)
    producer.flush(30)
    assert [consumer.next("g", stream).id for _ in range(3)] == [1, 2, 3]


def test_wrong_tokens(node: NodeProcess, stream: str) -> None:
    foreign = node.token("other1")
    for token in ("no.such.token", foreign):
        with (
            Consumer(node.endpoint, beamtime=BEAMTIME, token=token) as consumer,
            pytest.raises(BadToken),
        ):
            consumer.size(stream)
    own = Producer(node.endpoint, beamtime=BEAMTIME, token=foreign)
    error = own.send(1, "processed/f", b"x", stream=stream).exception(30)
    assert isinstance(error, Error)
    assert not error.retryable
    own.close()


def test_version(consumer: Consumer) -> None:
    assert consumer.version().supports


def test_both_survive_a_restart_of_the_node(tmp_path: Path) -> None:
    """What was sent before, during and after it is all there, each once."""
    with NodeProcess(tmp_path / "data", cache="32MiB", durability="os") as node:
        token = node.token(BEAMTIME)
        with (
            Producer(node.endpoint, beamtime=BEAMTIME, token=token, retry_s=0.05) as producer,
            Consumer(node.endpoint, beamtime=BEAMTIME, token=token, timeout_s=30) as consumer,
        ):
            send = [
                producer.send(k, f"processed/{k}", bytes([k]) * 1000, stream="s")
                for k in range(1, 6)
            ]
            assert all(f.result(30).id for f in send)
            assert [consumer.next("g", "s").id for _ in range(3)] == [1, 2, 3]
            node.kill()
            during = producer.send(6, "processed/6", bytes([6]) * 1000, stream="s")
            node.start()
            assert during.result(30).id == 6
            # A crash may deliver again, never skip.
            after = [consumer.next("g", "s").id]
            while after[-1] != 6:
                after.append(consumer.next("g", "s").id)
            assert after == sorted(after)
            assert {4, 5, 6} <= set(after)
            for k in range(1, 7):
                assert consumer.by_id(k, "s").data == bytes([k]) * 1000
            assert consumer.size("s") == 6
