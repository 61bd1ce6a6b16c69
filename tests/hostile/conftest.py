"""A node that is attacked, and after each attack has to be as it was before."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from beamstream.testing.native import NativeWire
from beamstream.testing.node import NodeProcess
from compat.doors import Doors
from compat.wire import OK, STORED
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


@contextlib.contextmanager
def attackable(node: NodeProcess) -> Iterator[Target]:
    """A running node that somebody else uses all the time."""
    with node:
        target = Target(Doors(node), Bystander(Doors(node)))
        warm_up(target.doors)
        target.bystander.check(rounds=20)
        yield target
        target.bystander.stop()


def warm_up(doors: Doors) -> None:
    """Use what the node loads when it is first asked for: that is no harm done by an attack."""
    with doors.receiver("warm") as wire:
        for id in range(1, 5):
            path = f"processed/warm/{id}"
            assert wire.put(id, bytes(2**20), path=path, mode=STORED).code == OK
    with NativeWire.of(doors.node) as native:
        native.login(doors.token)
        native.open_writer("src1", "warm native")
        assert native.put([bytes(1000)] * 10).count == 10
        assert len(native.fetch("src1", "warm native", 1, 11)) == 10
    cookie = {"Cookie": f"Authorization=Bearer {doors.folder_token()}"}
    fetch = '{"Folder":"auto","FileName":"processed/warm/1"}'
    search = f"{doors.base('s', 'warm')}/0/querymessages{doors.query()}"
    with doors.http() as http:
        assert len(http.post(search, "_id > 0 ORDER BY size").json) == 4
        assert len(http.post("/v0.2/transfer", fetch, **cookie).body) == 2**20


@contextlib.contextmanager
def unharmed(target: Target) -> Iterator[Doors]:
    """At the end the node has what it had, and nobody else has noticed anything."""
    node = target.node
    target.bystander.check()
    open_before, rss, logged = descriptors(node), node.rss_nbytes(), len(node.log_text())
    yield target.doors
    assert node.running
    target.bystander.check()
    wait_for_descriptors(node, open_before)
    grown = node.rss_nbytes() - rss
    assert grown < RSS_GROWTH_NBYTES_MAX, f"the node keeps {grown} bytes more"
    new = node.log_text()[logged:]
    assert new.count("\n") <= LOG_LINES_MAX, new
    assert "Traceback" not in new, new
    node.check_log()


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    data = tmp_path_factory.mktemp("hostile") / "data"
    with attackable(NodeProcess(data, cache="64MiB")) as target:
        yield target


@pytest.fixture(scope="session")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    data = tmp_path_factory.mktemp("impatient") / "data"
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    node = NodeProcess(
        data, cache="64MiB", module="hostile.impatient", env={"PYTHONPATH": path.rstrip(os.pathsep)}
    )
    with attackable(node) as target:
        yield target


@pytest.fixture
def doors(attacked: Target) -> Iterator[Doors]:
    """The attacked node."""
    with unharmed(attacked) as doors:
        yield doors


@pytest.fixture
def hurried(impatient: Target) -> Iterator[Doors]:
    """Another one, whose deadlines are short (`impatient`)."""
    with unharmed(impatient) as doors:
        yield doors


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """A data source of the test's own."""
    return "{}_{}".format(re.sub(r"\W+", "_", request.node.name)[:200], next(NUMBERS))
