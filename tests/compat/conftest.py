from __future__ import annotations

from collections.abc import Iterator

import pytest

from beamstream.testing.node import NodeProcess
from compat.doors import Doors


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """A fresh node per module; its beamtime bt1 is open at beamline p01."""
    data = tmp_path_factory.mktemp("compat") / "data"
    with NodeProcess(data) as node:
        node.cli("beamtime", "open", "bt1", "--beamline", "p01", "--data", str(data))
        yield Doors(node)
