"""A real node with some data on it, and a real monitor that watches it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import beamstream as bs
from beamstream.monitor.jobs import Job
from beamstream.testing.node import NodeProcess
from monitor.running import MonitorProcess, admin_token, until

REPORT = "/api/v1/report?seconds=60"


@pytest.fixture(scope="package")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="128MiB", durability="os") as made:
        yield made


@pytest.fixture(scope="package")
def admin(node: NodeProcess) -> str:
    return admin_token(node)


@pytest.fixture(scope="package")
def monitor(
    node: NodeProcess, admin: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MonitorProcess]:
    folder = tmp_path_factory.mktemp("m")
    job = Job(
        name="here", url=node.connect["url"], token=admin, socket=str(folder / "m.sock"),
        data=str(folder / "history"),
    )  # fmt: skip
    with MonitorProcess(job) as made:
        # It answers before it has reached its node.
        until(lambda: made.ask("GET", REPORT).status, lambda status: status == 200)
        yield made


@pytest.fixture(scope="package")
def hub(node: NodeProcess) -> Iterator[bs.Hub]:
    with bs.connect(node.connect["url"], beamtime="demo", token=node.token()) as made:
        yield made


@pytest.fixture(scope="package")
def images(hub: bs.Hub) -> bs.Stream:
    """Images 1 … 30 without 11 … 15, with one bright pixel each, `meta.n` the id."""
    stream = hub.source("camera").stream("scan <1>")
    stream.set_meta({"distance_mm": 120})
    with stream.writer(finish=False) as writer:
        for id in [*range(1, 11), *range(16, 31)]:
            image = np.zeros((300, 400), np.uint16)
            image[id, 2 * id] = 60_000
            writer.send(image, {"n": id, "half": id % 2}, id=id)
    return stream
