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

RAN = pytest.StashKey[set[tuple[str, str]]]()
"""(implementation, subject) of the tests that passed."""
NUMBERS = itertools.count()
LAST = "test_every_subject_ran"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        # Half of the clients' calls warn that they are old; they are what has to work.
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
    items.sort(key=lambda item: item in ours and item.name.startswith(LAST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    result = yield
    if Path(__file__).parent in item.path.parents:
        with_which = item.callspec.params["implementation"]
        subjects = [subject for mark in item.iter_markers("official") for subject in mark.args]
        item.config.stash.setdefault(RAN, set()).update((with_which, s) for s in subjects)
    return result


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def clients(implementation: str) -> Clients:
    return IMPLEMENTATIONS[implementation]


@pytest.fixture
def subjects_ran(request: pytest.FixtureRequest, implementation: str) -> set[str]:
    ran = request.config.stash.setdefault(RAN, set())
    return {subject for with_which, subject in ran if with_which == implementation}


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
