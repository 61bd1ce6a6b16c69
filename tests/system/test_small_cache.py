"""Much more data than the cache holds: producers wait instead of failing, nothing is lost silently.

The files come back whole; what was only in memory comes back or is said to be gone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from asapo_consumer import AsapoDataNotInCacheError
from asapo_producer import AsapoWrongInputError

from beamstream import limits
from beamstream.testing.node import NodeProcess
from official.clients import STORED, Lab

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

COUNT = 60
FRAME_NBYTES = 1_000_000


def frame(number: int) -> np.ndarray:
    """The payload of message `number`."""
    return np.random.default_rng(number).integers(0, 256, FRAME_NBYTES, np.uint8)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with NodeProcess(tmp_path_factory.mktemp("small") / "data", cache="16MiB") as node:
        lab = Lab(node, "small")
        yield lab
        lab.close()


def test_files_flow_through(lab: Lab) -> None:
    sender = lab.producer(threads=4, timeout_ms=60_000)
    tickets = [sender.send(id, frame(id), "files", mode=STORED) for id in range(1, COUNT + 1)]
    for ticket in tickets:
        ticket.ok(60)
    consumer = lab.consumer(10_000)
    for id in range(1, COUNT + 1):
        data, _ = consumer.get_by_id(id, meta_only=False, stream="files")
        assert np.array_equal(data.view(np.uint8), frame(id))
    assert lab.node.rss_nbytes() < 16 * limits.MIB + limits.NODE_OVERHEAD_NBYTES


def test_memory_is_overwritten_never_mixed_up(lab: Lab) -> None:
    sender = lab.producer(threads=4, timeout_ms=60_000)
    tickets = [sender.send(id, frame(id), "memory") for id in range(1, COUNT + 1)]
    for ticket in tickets:
        ticket.ok(60)
    consumer = lab.consumer()
    there, gone = 0, 0
    for id in range(1, COUNT + 1):
        try:
            data, _ = consumer.get_by_id(id, meta_only=False, stream="memory")
        except AsapoDataNotInCacheError:
            gone += 1
            continue
        assert np.array_equal(data.view(np.uint8), frame(id))
        there += 1
    assert there >= 3
    assert gone >= COUNT - 16
    assert consumer.get_current_size("memory") == COUNT


def test_messages_larger_than_the_cache(lab: Lab) -> None:
    large = np.random.default_rng(1).integers(0, 256, 20_000_000, np.uint8)
    lab.sender.send(1, large, "large").fails(AsapoWrongInputError)
    lab.sender.send(2, large, "large", mode=STORED).ok()
    consumer = lab.consumer(10_000)
    data, _ = consumer.get_by_id(2, meta_only=False, stream="large")
    assert np.array_equal(data.view(np.uint8), large)
    assert consumer.get_current_size("large") == 1
