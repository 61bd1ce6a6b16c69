"""Files sent by the official producer come back bit for bit, by every way there is."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beamstream.testing.node import NodeProcess
from compat.doors import BEAMTIME, shared_folder
from official.clients import Lab

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SHARED = shared_folder("data")
REAL = sorted(path for path in SHARED.iterdir() if path.suffix != ".md") if SHARED else []


def made_up(folder: Path) -> list[Path]:
    """Files of sizes around the borders inside the node; one is larger than its cache takes."""
    rng = random.Random(20)
    files = []
    for nbytes in (1, 511, 4096, 32_767, 32_768, 65_536, 1_000_003, 9_000_000, 30_000_001):
        path = folder / f"made_{nbytes}.bin"
        path.write_bytes(rng.randbytes(nbytes))
        files.append(path)
    return files


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("real") / "data", cache="64MiB") as node:
        yield node


def digest(data: Any) -> str:
    return hashlib.sha256(bytes(data)).hexdigest()


def check_round_trip(node: NodeProcess, source: str, files: list[Path]) -> None:
    lab = Lab(node, source)
    wanted = {id: digest(path.read_bytes()) for id, path in enumerate(files, 1)}
    names = {id: f"processed/{source}/{path.name}" for id, path in enumerate(files, 1)}
    for id, path in enumerate(files, 1):
        lab.sender.file(id, str(path), names[id], user_meta={"sha256": wanted[id]}).ok(60)

    consumer = lab.consumer(10_000)
    for id in wanted:
        data, record = consumer.get_next("g", meta_only=False, stream="s")
        assert (record["_id"], record["name"]) == (id, names[id])
        assert digest(data) == wanted[id] == record["meta"]["sha256"]
    check_files(lab, wanted, names)

    node.restart()
    check_files(lab, wanted, names)
    node.restart(kill=True)
    check_files(lab, wanted, names)
    again = lab.sender.file(1, str(files[0]), names[1], user_meta={"sha256": wanted[1]})
    assert type(again.outcome(60)[1]).__name__ == "AsapoServerWarning"
    lab.close()


def check_files(lab: Lab, wanted: dict[int, str], names: dict[int, str]) -> None:
    """By the normal way, by file transfer with and without a size, by reader, in the folder."""
    core = lab.node.data / "beamtimes" / BEAMTIME
    consumer = lab.consumer(20_000)
    reader = lab.consumer(20_000, path=str(core), file_system=True)
    for id, expected in wanted.items():
        data, record = consumer.get_by_id(id, meta_only=False, stream="s")
        assert digest(data) == expected
        by_transfer = record | {"buf_id": 0}
        assert digest(consumer.retrieve_data(by_transfer)) == expected
        assert digest(consumer.retrieve_data(by_transfer | {"size": 0})) == expected
        assert digest(reader.retrieve_data(by_transfer)) == expected
        assert digest((core / names[id]).read_bytes()) == expected


def test_made_up_files(node: NodeProcess, tmp_path: Path) -> None:
    check_round_trip(node, "made_up", made_up(tmp_path))


@pytest.mark.skipif(not REAL, reason="no detector frames: set BEAMSTREAM_SHARED to their folder")
def test_real_files(node: NodeProcess) -> None:
    assert len(REAL) == 6
    check_round_trip(node, "real", REAL)
