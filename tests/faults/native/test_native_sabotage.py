"""The tests of the native lane notice faults: nodes with a planted one are caught by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beamstream.testing.checker import Verdict
from beamstream.testing.node import NodeProcess

from . import sabotage
from .rounds import AHEAD_S, run
from .sabotage import FAULTS, sabotaged

pytestmark = [pytest.mark.system]


def test_forgotten_producers_are_told(tmp_path: Path, seed: int) -> None:
    """What was stored and not answered before the connection broke is stored once more."""
    fault = sabotage.forgets_producers
    verdict = _caught(tmp_path, seed, fault, ("cut_often", "kill_node"), faults=10)
    assert verdict.counts["dup_store"], str(verdict)


def test_receipts_for_nothing_are_told(tmp_path: Path, seed: int) -> None:
    verdict = _caught(tmp_path, seed, sabotage.answers_without_storing, ("cut_all",))
    assert verdict.counts["lost"], str(verdict)


def test_payloads_that_are_only_in_memory_are_told(tmp_path: Path, seed: int) -> None:
    verdict = _caught(tmp_path, seed, sabotage.answers_before_the_segment, ("kill_node",))
    assert verdict.counts["lost"], str(verdict)


def test_wrong_bytes_are_told(tmp_path: Path, seed: int) -> None:
    verdict = _caught(tmp_path, seed, sabotage.mixes_payloads, ("cut_all",))
    assert verdict.counts["corrupt"], str(verdict)


def test_forgotten_acknowledgements_are_told(tmp_path: Path, seed: int) -> None:
    """Of messages that were acknowledged too long ago for anyone to have them still."""
    fault = sabotage.forgets_acknowledgements
    verdict = _caught(tmp_path, seed, fault, ("kill_node",), seconds=AHEAD_S + 2)
    assert verdict.counts["acked_redelivered"], str(verdict)


def _caught(
    tmp_path: Path,
    seed: int,
    fault: Callable[[], None],
    kinds: tuple[str, ...],
    *,
    seconds: float = 0.0,
    faults: int = 2,
) -> Verdict:
    with NodeProcess(tmp_path / "data", cache="16MiB", **sabotaged(fault)) as node:
        verdict, _ = run(node, tmp_path, seconds=seconds, seed=seed, faults=faults, kinds=kinds)
        print(verdict)
        node.kill()
    return verdict


def test_every_planted_fault_is_tried_here() -> None:
    source = Path(__file__).read_text()
    assert [name for name in FAULTS if f"sabotage.{name}" not in source] == []
