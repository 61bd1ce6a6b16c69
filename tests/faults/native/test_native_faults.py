"""Kills, freezes and cuts around the native clients: nothing is lost, wrong, or there twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamstream.testing.node import NodeProcess

from .rounds import run

pytestmark = [pytest.mark.system]


@pytest.mark.parametrize("shared", [False, True], ids=["sockets", "memory"])
def test_faults_of_all_kinds_lose_nothing(
    tmp_path: Path, seconds: float, seed: int, shared: bool
) -> None:
    with NodeProcess(tmp_path / "data", cache="16MiB", durability="disk") as node:
        verdict, history = run(node, tmp_path, seconds=seconds / 5, seed=seed, shared=shared)
        print(verdict)
        if not verdict:
            history.dump(tmp_path / "history.jsonl")
    assert verdict, str(verdict)
    assert verdict.puts
    assert verdict.gets
    assert verdict.acks
    assert verdict.faults >= 4
