"""One node for all tests with the official clients; each test has a data source of its own."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamstream.testing.node import NodeProcess
from official.clients import Lab

RAN = pytest.StashKey[set[str]]()
NUMBERS = itertools.count()
LAST = "test_every_subject_ran"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        # Half of the clients' calls warn that they are old; they are what has to work.
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
    items.sort(key=lambda item: item in ours and item.name == LAST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    result = yield
    ran = item.config.stash.setdefault(RAN, set())
    ran.update(subject for mark in item.iter_markers("official") for subject in mark.args)
    return result


@pytest.fixture(scope="session")
def subjects_ran(request: pytest.FixtureRequest) -> set[str]:
    return request.config.stash.setdefault(RAN, set())


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("official") / "data") as node:
        node.cli("beamtime", "open", "blt1", "--beamline", "p01", "--data", str(node.data))
        yield node


@pytest.fixture(scope="session")
def veteran(node: NodeProcess) -> Iterator[tuple[Lab, float]]:
    """Clients that have been connected since the beginning, and when that was."""
    lab = Lab(node, "veteran")
    lab.fill("s", [1])
    assert lab.read("s", 1) == b"data 1"
    yield lab, time.monotonic()
    lab.close()


@pytest.fixture
def lab(
    node: NodeProcess, veteran: tuple[Lab, float], request: pytest.FixtureRequest
) -> Iterator[Lab]:
    lab = Lab(node, "{}_{}".format(re.sub(r"\W+", "_", request.node.name), next(NUMBERS)))
    yield lab
    lab.close()
