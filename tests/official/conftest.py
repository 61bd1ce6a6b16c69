"""One node for all tests with ASAPO's clients; each test has a data source of its own.

Every test runs twice: with the official modules, and with the drop-in ones.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamstream.testing.node import NodeProcess
from official.clients import Lab
from official.implementations import IMPLEMENTATIONS, Clients

NUMBERS = itertools.count()
COLLECTED = pytest.StashKey[set[tuple[str, str]]]()
"""(implementation, subject) of all tests that there are, whichever process runs them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    found = config.stash.setdefault(COLLECTED, set())
    for item in items:
        if here not in item.path.parents:
            continue
        # Half of the clients' calls warn that they are old; they are what has to work.
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
        assert isinstance(item, pytest.Function)
        which = item.callspec.params["implementation"]
        found |= {(which, name) for mark in item.iter_markers("official") for name in mark.args}


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def clients(implementation: str) -> Clients:
    return IMPLEMENTATIONS[implementation]


@pytest.fixture
def subjects_collected(request: pytest.FixtureRequest, implementation: str) -> set[str]:
    return {name for which, name in request.config.stash[COLLECTED] if which == implementation}


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("official") / "data") as node:
        node.cli("beamtime", "open", "blt1", "--beamline", "p01", "--data", str(node.data))
        yield node


@pytest.fixture(scope="session")
def veterans(node: NodeProcess) -> Iterator[dict[str, tuple[Lab, float]]]:
    """Clients that have been connected since the beginning, and when that was."""
    found = {}
    for name, clients in IMPLEMENTATIONS.items():
        lab = Lab(node, f"veteran {name}", clients=clients)
        lab.fill("s", [1])
        assert lab.read("s", 1) == b"data 1"
        found[name] = (lab, time.monotonic())
    yield found
    for lab, _ in found.values():
        lab.close()


@pytest.fixture
def veteran(veterans: dict[str, tuple[Lab, float]], implementation: str) -> tuple[Lab, float]:
    return veterans[implementation]


@pytest.fixture
def lab(
    node: NodeProcess,
    veteran: tuple[Lab, float],
    clients: Clients,
    request: pytest.FixtureRequest,
) -> Iterator[Lab]:
    source = "{}_{}".format(re.sub(r"\W+", "_", request.node.name), next(NUMBERS))
    lab = Lab(node, source, clients=clients)
    yield lab
    lab.close()
