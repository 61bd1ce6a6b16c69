"""kill -9 at random during puts, gets and acknowledgements, with restarts: nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamstream.testing.node import NodeProcess

from .killing import kill_rounds

pytestmark = [
    pytest.mark.system,
    pytest.mark.official,
]


def test_random_kills_lose_nothing(tmp_path: Path, seconds: float, seed: int) -> None:
    with NodeProcess(tmp_path / "data", cache="16MiB", durability="disk") as node:
        verdict = kill_rounds(node, seconds=seconds, seed=seed)
        print(verdict)
    assert verdict, str(verdict)
    assert verdict.puts
    assert verdict.gets
    assert verdict.acks
    assert verdict.faults >= 4
