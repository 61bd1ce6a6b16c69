"""Shared memory with a real node, and clients that freeze, die and come again."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import beamstream as bs
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.packing import digest
from beamstream.client.native.writer import Writer
from beamstream.testing.node import NodeProcess

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux only"),
]
SHAPE = (256, 1024)
NBYTES = 256 * 1024

CHILD = """
import gc, os, sys
import numpy as np
import beamstream as bs

def say(*words):
    print(*words, flush=True)

def heard():
    return sys.stdin.readline().strip()

hub = bs.connect(sys.argv[1], beamtime="demo", token=sys.argv[2])
stream = hub.source("eiger").stream(sys.argv[3])
"""


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="64MiB", durability="cache") as made:
        yield made


def connected(node: NodeProcess) -> bs.Hub:
    return bs.connect(node.connect["url"], beamtime="demo", token=node.token())


@pytest.fixture
def hub(node: NodeProcess) -> Iterator[bs.Hub]:
    with connected(node) as made:
        yield made


@pytest.fixture
def stream(hub: bs.Hub, request: pytest.FixtureRequest) -> bs.Stream:
    return hub.source("eiger").stream(request.node.name)


@contextmanager
def child(node: NodeProcess, stream: bs.Stream, text: str) -> Iterator[subprocess.Popen[str]]:
    """Another process with a connection of its own; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD + text, node.connect["url"], node.token(), stream.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the other process has ended"
    return line.strip()


def tell(process: subprocess.Popen[str], text: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def frame(number: int) -> np.ndarray[Any, Any]:
    return np.full(SHAPE, number % 251 + 1, "u1")


def fill(stream: bs.Stream, numbers: range, *, finish: bool = False) -> None:
    with stream.writer(finish=finish) as writer:
        for number in numbers:
            writer.send(frame(number))


def until_pinned(hub: bs.Hub, nbytes: int) -> None:
    """Wait until the node holds no more than so much for readers."""
    deadline = time.monotonic() + 20
    while hub.info().cache_pinned_nbytes > nbytes:
        assert time.monotonic() < deadline


def shared(message: Any) -> bool:
    arrived: Arrived = message._columns.arrived
    return arrived.batch.places is not None and arrived.views is not None


def lent(writer: Writer) -> int:
    return len(writer._link.session.lending._pieces)


def test_frames_are_written_and_read_where_they_lie(hub: bs.Hub, stream: bs.Stream) -> None:
    with stream.writer() as writer:
        writer.send(frame(1), {"n": 1})
        line = hub._link.line
        assert line is not None
        assert any(writable for _, writable in line._maps)
        with writer.frame(SHAPE, "u1", {"n": 2}) as memory:
            memory[:] = frame(2)
        with pytest.raises(ZeroDivisionError), writer.frame(SHAPE, "u1"):
            raise ZeroDivisionError
        writer.send(np.arange(50_000, dtype="<u4"), {"n": 3})
        writer.send(b"small", {"n": 4})
        writer.flush()
        assert lent(writer) == 0
    seen = []
    for message in stream.group("viewer"):
        assert isinstance(message, bs.Message)
        seen.append(message.meta["n"])
        if message.id <= 2:
            array = message.array()
            assert shared(message)
            assert np.array_equal(array, frame(message.id))
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="cannot set WRITEABLE"):
                array.flags.writeable = True
        elif message.id == 3:
            assert np.array_equal(message.array(), np.arange(50_000))
        else:
            assert not shared(message)
            assert bytes(message.data) == b"small"
    assert seen == [1, 2, 3, 4]
    del message, array
    gc.collect()
    until_pinned(hub, 0)
    assert np.array_equal(stream[1].array(), frame(1)), "a fetch copies"


def test_what_is_handed_on_has_the_same_digest(hub: bs.Hub, stream: bs.Stream) -> None:
    fill(stream, range(1, 3), finish=True)
    onwards = hub.source("eiger").stream(f"{stream.name}-on")
    with onwards.writer() as writer:
        for message in stream.group("passing"):
            assert isinstance(message, bs.Message)
            assert shared(message)
            writer.send(message.array(), id=message.id)
            writer.send(message.array()[::-1], id=message.id + 10)
            writer.send(message.array()[1:], id=message.id + 20)
    for id in (1, 2):
        assert onwards[id].digest == stream[id].digest
        assert np.array_equal(onwards[id].array(), frame(id))
        assert np.array_equal(onwards[id + 10].array(), frame(id)[::-1])
        assert np.array_equal(onwards[id + 20].array(), frame(id)[1:])
        for message in (onwards[id], onwards[id + 10], onwards[id + 20]):
            assert isinstance(message, bs.Message)
            assert message.digest == digest(message.data)


def test_parts_of_datasets_and_sizes_that_vary(stream: bs.Stream) -> None:
    with stream.writer() as writer:
        for id in range(1, 6):
            for part in (1, 2):
                payload = bytes([id * part]) * (65_536 * id + part)
                writer.send(payload, id=id, substream=part, of=2)
    count = 0
    for dataset in stream.group("all"):
        assert isinstance(dataset, bs.DatasetMessage)
        for part in (1, 2):
            expected = bytes([dataset.id * part]) * (65_536 * dataset.id + part)
            assert bytes(dataset[part].data) == expected
        assert shared(dataset)
        count += 1
    assert count == 5


def test_everything_arrives_however_slow_the_reader_is(hub: bs.Hub, stream: bs.Stream) -> None:
    """What a reader holds is bounded; beyond, payloads come by the socket."""
    fill(stream, range(40), finish=True)
    kept = [message.array() for message in stream.group("g", ack="none")]
    assert [int(array[0, 0]) for array in kept] == [number % 251 + 1 for number in range(40)]
    assert 0 < hub.info().cache_pinned_nbytes <= 64 * 2**20 // 20
    fill(hub.source("other").stream(stream.name), range(400))
    for number, array in enumerate(kept):
        assert np.array_equal(array, frame(number))


def test_views_outlive_their_connection(node: NodeProcess, hub: bs.Hub, stream: bs.Stream) -> None:
    fill(stream, range(3), finish=True)
    with connected(node) as other:
        theirs = other.source("eiger").stream(stream.name)
        kept = [message.array()[10:20] for message in theirs.group("g")]
    assert other.closed
    assert hub.info().cache_pinned_nbytes == 3 * NBYTES
    fill(hub.source("other").stream(stream.name), range(400))
    for number, array in enumerate(kept):
        assert np.array_equal(array, frame(number)[10:20])
    del array
    kept.clear()
    gc.collect()
    until_pinned(hub, 0)


READER = """
kept = []
for message in stream.group("g", ack="none"):
    kept.append(message.array())
say(len(kept), sum(message.nbytes for message in kept))
heard()
say(*(int(array.min()) for array in kept), *(int(array.max()) for array in kept))
"""


def test_a_frozen_reader_is_stepped_over(node: NodeProcess, hub: bs.Hub, stream: bs.Stream) -> None:
    fill(stream, range(5), finish=True)
    with child(node, stream, READER) as reader:
        assert heard(reader) == f"5 {5 * NBYTES}"
        os.kill(reader.pid, signal.SIGSTOP)
        other = hub.source("other").stream(stream.name)
        fill(other, range(600))
        with other.writer(finish=False) as writer:
            for number in range(300):
                writer.send(bytes([number % 251]) * 50_000)
        assert hub.info().cache_pinned_nbytes == 5 * NBYTES
        os.kill(reader.pid, signal.SIGCONT)
        tell(reader)
        expected = [number + 1 for number in range(5)]
        assert [int(word) for word in heard(reader).split()] == expected + expected


def test_a_killed_reader_holds_nothing(node: NodeProcess, hub: bs.Hub, stream: bs.Stream) -> None:
    fill(stream, range(5), finish=True)
    with child(node, stream, READER) as reader:
        heard(reader)
        assert hub.info().cache_pinned_nbytes == 5 * NBYTES
        reader.kill()
        until_pinned(hub, 0)


WRITER = """
writer = stream.writer(finish=False)
writer.send(np.full((256, 1024), 9, "u1")).result(20)
frame = writer.frame((256, 1024), "u1")
with frame as memory:
    memory[:100] = 5
    say("half")
    heard()
"""


def test_a_writer_that_dies_in_the_middle_of_a_frame(
    node: NodeProcess, hub: bs.Hub, stream: bs.Stream
) -> None:
    with child(node, stream, WRITER) as writer:
        assert heard(writer) == "half"
        assert hub.info().cache_pinned_nbytes > 0
        writer.kill()
        until_pinned(hub, 0)
    assert len(stream) == 1
    assert np.array_equal(stream[1].array(), np.full(SHAPE, 9, "u1"))
    fill(stream, range(1, 300), finish=True)
    assert len(stream) == 300


def cut(hub: bs.Hub) -> None:
    """Break the connection, if there is one."""
    transport = hub._link._transport
    if transport is not None:
        transport.shutdown()


def test_connections_that_break_lose_and_double_nothing(hub: bs.Hub, stream: bs.Stream) -> None:
    with stream.writer() as writer:
        for number in range(60):
            receipt = writer.send(frame(number), {"n": number})
            if number % 20 == 10:
                cut(hub)
            if number == 30:
                with writer.frame(SHAPE, "u1", {"n": 1000}) as memory:
                    memory[:] = 77
                    cut(hub)
        receipt.result(20)
    kept = []
    seen = []
    for message in stream.group("g"):
        assert isinstance(message, bs.Message)
        seen.append(message.meta["n"])
        array = message.array()
        expected = frame(seen[-1]) if seen[-1] < 1000 else np.full(SHAPE, 77, "u1")
        assert np.array_equal(array, expected)
        if len(seen) % 25 == 5:
            kept.append((array, expected))
            cut(hub)
    assert sorted(seen) == [*range(60), 1000]
    for array, expected in kept:
        assert np.array_equal(array, expected)
    del array, message
    kept.clear()
    gc.collect()
    until_pinned(hub, 0)


def test_a_node_that_dies_leaves_views_as_they_are() -> None:
    with NodeProcess(cache="64MiB", durability="os") as node, connected(node) as hub:
        stream = hub.source("eiger").stream("s")
        fill(stream, range(3))
        group = stream.group("g")
        arrays = []
        for message in group:
            assert shared(message)
            arrays.append(message.array())
            if len(arrays) == 3:
                break
        node.kill()
        node.start()
        fill(stream, range(3, 200), finish=True)
        for number, array in enumerate(arrays):
            assert np.array_equal(array, frame(number))
        assert len(stream) == 200
        assert np.array_equal(stream[-1].array(), frame(199))


def test_it_is_off_where_it_is_not_wanted(
    node: NodeProcess, stream: bs.Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAMSTREAM_SHM", "0")
    with connected(node) as hub:
        assert hub._link.line is None
        theirs = hub.source("eiger").stream(stream.name)
        fill(theirs, range(3), finish=True)
        for message in theirs.group("g"):
            assert not shared(message)
            assert np.array_equal(message.array(), frame(message.id - 1))
