"""Fixtures of pytest for tests of workers: a node, and a connection to it.

``pytest -p beamstream.testing.pytest_plugin``, or ``pytest_plugins =
["beamstream.testing.pytest_plugin"]`` in ``conftest.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from beamstream.client.native.hub import Hub, connect
from beamstream.testing.node import NodeProcess

BEAMTIME = "test"


@pytest.fixture
def beamstream_node() -> Iterator[NodeProcess]:
    """A node of its own, on free ports; its log is looked through at the end."""
    with NodeProcess(cache="64MiB", durability="os") as node:
        yield node


@pytest.fixture
def beamstream_hub(beamstream_node: NodeProcess) -> Iterator[Hub]:
    """A connection to that node, for beamtime ``test``."""
    token = beamstream_node.token(BEAMTIME)
    with connect(beamstream_node.endpoint, beamtime=BEAMTIME, token=token) as hub:
        yield hub
