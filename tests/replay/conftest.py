"""A node, and steps in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from beamstream.client.native.hub import Hub, connect
from beamstream.testing.node import NodeProcess

STEPS = '''
"""Steps for tests of replays."""

import numpy as np

from beamstream.worker import Result, step


@step(reads="eiger", writes="scaled", header=["offset"])
def scale(frame, meta, *, factor: int = 2, offset: int = 0):
    """Multiply and add."""
    return Result(frame * factor + offset, {**meta, "mean": float(frame.mean())})


@step(reads="eiger", writes="even")
def even(frame, message):
    """Keep those of even ids."""
    return frame if message.id % 2 == 0 else None


@step(reads="eiger", writes="rows", many=True)
def rows(frame):
    """A message for each row."""
    return list(frame)


@step(reads="scaled", writes="mean", window=4)
def mean4(frames):
    """The mean of four ids."""
    return np.mean(frames, axis=0)


@step(reads="eiger", writes="mean", window=20)
def mean20(frames):
    """The mean of twenty ids."""
    return np.mean(frames, axis=0)


@step(reads="eiger", writes="summed", mode="ordered")
class Summed:
    """The sum since the stream began."""

    def on_stream_start(self, header):
        self.sum = 0

    def process(self, frame):
        self.sum += int(frame.sum())
        return {"sum": self.sum}


@step(reads="eiger", writes="strict")
def strict(frame, message):
    """Fail on each third."""
    if message.id % 3 == 0:
        raise ValueError(f"no thirds: {message.id}")
    return frame


@step(reads=["a", "b"], writes="both")
def both(a, b):
    """Add up."""
    return a + b


@step(reads="eiger")
def plain(frame):
    """Say nothing of where to."""
    return frame


@step(reads="eiger")
def sink(frame):
    """Give nothing."""
'''


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("node") / "data", cache="64MiB") as node:
        yield node
        node.check_log()


@pytest.fixture
def hub(node: NodeProcess, request: pytest.FixtureRequest) -> Iterator[Hub]:
    """A connection to a beamtime of its own."""
    beamtime = f"b{abs(hash(request.node.nodeid)) % 10**12}"
    with connect(node.connect["url"], token=node.token(beamtime)) as hub:
        yield hub


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    path = tmp_path / "steps.py"
    path.write_text(STEPS)
    return path
