"""ASAPO's clients on either end of a step, and in the place of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import beamstream as bs
from beamstream.worker import Step, step
from beamstream.worker.runner import Worker
from official.clients import Lab, refused, subject
from official.consumer_errors import AsapoStreamFinishedError

FRAMES = 20


@step()
def doubled(message: bs.Message) -> np.ndarray | None:
    """Twice the numbers of even messages; nothing for the others."""
    if message.id % 2:
        return None
    return 2 * np.frombuffer(message.data, np.uint16)


@step()
def summed(message: bs.Message) -> np.ndarray:
    """The sum of the numbers."""
    return np.array([np.frombuffer(message.data, np.uint16).sum()], np.int64)


@contextmanager
def working(lab: Lab, which: Step, reads: str, writes: str) -> Iterator[None]:
    """A worker of a step, in a thread."""
    stop = threading.Event()
    failed: list[BaseException] = []
    hub = bs.connect(str(lab.node.connect["url"]), beamtime=lab.beamtime, token=lab.token)

    def run() -> None:
        try:
            Worker(hub, which, step_id=f"{which.name} {reads}", reads=[reads], writes=writes).run(
                stop
            )
        except BaseException as error:
            failed.append(error)

    with hub:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
    if failed:
        raise failed[0]


def frame(id: int) -> np.ndarray:
    return np.arange(100, dtype=np.uint16) + id


def send_all(lab: Lab, stream: str = "scan1") -> None:
    sender = lab.sender
    tickets = [
        sender.send(id, frame(id), stream, user_meta={"shot": id}) for id in range(1, FRAMES + 1)
    ]
    for ticket in tickets:
        ticket.ok()
    sender.finish(stream, FRAMES, "scan2").ok()


@subject("step")
@pytest.mark.timeout(120)
def test_a_step_between_a_producer_and_a_consumer(lab: Lab) -> None:
    out = lab.beside(source=f"{lab.source} doubled")
    with working(lab, doubled, lab.source, out.source):
        send_all(lab)
        consumer = out.consumer(20_000)
        for id in range(2, FRAMES + 1, 2):
            data, record = consumer.get_next("g", meta_only=False, stream="scan1", ordered=False)
            assert record["_id"] == id
            assert record["meta"] == {"shot": id}
            assert np.array_equal(np.frombuffer(data, np.uint16), 2 * frame(id))
        error = refused(
            AsapoStreamFinishedError, consumer.get_next, "g", stream="scan1", ordered=False
        )
        assert (error.id_max, error.next_stream) == (FRAMES, "scan2")


@subject("work as a step")
@pytest.mark.timeout(120)
def test_a_consumer_and_producer_between_two_steps(lab: Lab) -> None:
    first = lab.beside(source=f"{lab.source} doubled")
    second = lab.beside(source=f"{lab.source} inverted")
    last = lab.beside(source=f"{lab.source} summed")
    with (
        working(lab, doubled, lab.source, first.source),
        working(lab, summed, second.source, last.source),
    ):
        send_all(lab)
        consumer, sender = first.consumer(20_000), second.sender
        for id in range(2, FRAMES + 1, 2):
            data, record = consumer.get_next("work", meta_only=False, stream="scan1", ordered=False)
            inverted = np.uint16(65_535) - np.frombuffer(data, np.uint16)
            sender.send(record["_id"], inverted, "scan1", user_meta=record["meta"]).ok()
            assert record["_id"] == id
        sender.finish("scan1", FRAMES).ok()
        reader = last.consumer(20_000)
        for id in range(2, FRAMES + 1, 2):
            data, record = reader.get_next("g", meta_only=False, stream="scan1", ordered=False)
            wanted = (65_535 - 2 * frame(id).astype(np.int64)).sum()
            assert (record["_id"], np.frombuffer(data, np.int64)[0]) == (id, wanted)
        refused(AsapoStreamFinishedError, reader.get_next, "g", stream="scan1", ordered=False)
    first.close()
    second.close()
    last.close()
