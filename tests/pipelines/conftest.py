"""A node for all tests of pipelines, and a beamtime of its own for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from beamstream.client.native.hub import Hub, connect
from beamstream.client.native.places import Access
from beamstream.testing.node import NodeProcess

CODE: Final = '''
import os
import time

import numpy as np

from beamstream.worker import step

if os.environ.get("BROKEN"):
    raise RuntimeError("this file is broken today")

@step(reads="raw", writes="double")
def double(frame, *, factor: int = 2):
    """Multiply."""
    return frame * factor

@step(reads="double", writes="total")
def total(frame):
    """Add all up."""
    return {"total": int(frame.sum())}

@step(reads="raw", writes="slow")
def slow(frame, *, seconds: float = 0.05):
    """Take time."""
    time.sleep(seconds)
    return frame

@step(reads="raw", writes="picky")
def picky(frame, *, refuses: int = 7):
    """Fail on one number."""
    if int(frame[0]) == refuses:
        raise ValueError(f"{refuses} is refused")
    return frame

@step(reads=["raw", "double"], writes="sums")
def add(one, other):
    """Add two frames."""
    return one + other
'''

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("node") / "data", cache="64MiB") as node:
        yield node


@pytest.fixture
def access(node: NodeProcess) -> Access:
    beamtime = f"bt{next(_numbers)}"
    return Access(node.connect["url"], beamtime, node.token(beamtime))


@pytest.fixture
def hub(access: Access) -> Iterator[Hub]:
    with connect(access.url, beamtime=access.beamtime, token=access.token) as hub:
        yield hub


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a pipeline with these steps, beside `CODE`, and return its path."""
    (tmp_path / "own.py").write_text(CODE)

    def write(steps: str) -> Path:
        path = tmp_path / "pipeline.yaml"
        path.write_text(f"pipeline: demo\ninputs: [raw]\nsteps:\n{steps}")
        return path

    return write
