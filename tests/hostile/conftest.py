"""A node that is attacked, and after each attack has to be as it was before."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from beamstream.testing.node import NodeProcess
from compat.doors import Doors
from hostile.bystander import Bystander
from hostile.descriptors import descriptors, wait_for_descriptors

RSS_GROWTH_NBYTES_MAX = 8 * 2**20
"""What an allocator may keep for itself; what is announced below is a thousand times as much."""

LOG_LINES_MAX = 120
"""Per test: an attack must not fill the disk by way of the log."""


NUMBERS = itertools.count()


@dataclass
class Target:
    doors: Doors
    bystander: Bystander

    @property
    def node(self) -> NodeProcess:
        return self.doors.node


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    data = tmp_path_factory.mktemp("hostile") / "data"
    with NodeProcess(data, cache="64MiB") as node:
        target = Target(Doors(node), Bystander(Doors(node)))
        target.bystander.check(rounds=20)
        yield target
        target.bystander.stop()


@pytest.fixture
def target(attacked: Target) -> Iterator[Target]:
    """The node; when the test ends it has what it had, and nobody else has noticed."""
    node = attacked.node
    attacked.bystander.check()
    fds, rss, logged = descriptors(node), node.rss_nbytes(), len(node.log_text())
    yield attacked
    assert node.running
    attacked.bystander.check()
    wait_for_descriptors(node, fds)
    grown = node.rss_nbytes() - rss
    assert grown < RSS_GROWTH_NBYTES_MAX, f"the node keeps {grown} bytes more"
    new = node.log_text()[logged:]
    assert new.count("\n") <= LOG_LINES_MAX, new
    assert "Traceback" not in new, new
    node.check_log()


@pytest.fixture
def doors(target: Target) -> Doors:
    return target.doors


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """A data source of the test's own."""
    return "{}_{}".format(re.sub(r"\W+", "_", request.node.name)[:200], next(NUMBERS))


@pytest.fixture
def core(doors: Doors) -> Path:
    return doors.core
