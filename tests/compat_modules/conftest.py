"""One node for the tests of the drop-in modules."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest

from beamstream.testing.node import NodeProcess
from official.clients import Lab
from official.implementations import IMPLEMENTATIONS

NUMBERS = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "compat_modules" in item.path.parts:
            # As with the official modules, half of the calls warn that they are old.
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("dropin") / "data") as node:
        yield node


@pytest.fixture
def labs(node: NodeProcess, request: pytest.FixtureRequest) -> Iterator[dict[str, Lab]]:
    """The same data source for each implementation, by its name."""
    source = "{}_{}".format(re.sub(r"\W+", "_", request.node.name), next(NUMBERS))
    found = {name: Lab(node, source, clients=pair) for name, pair in IMPLEMENTATIONS.items()}
    yield found
    for lab in found.values():
        lab.close()


@pytest.fixture
def lab(labs: dict[str, Lab]) -> Lab:
    return labs["drop-in"]
