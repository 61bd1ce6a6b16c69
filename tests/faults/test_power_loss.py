"""Power cuts: every state that the disk may be left in keeps what had been answered.

A node works under the recorder; then the folder is made to hold what two models of file systems
allow after each single operation, and the node's own recovery opens it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .power_loss.disk import Model
from .power_loss.recording import image_of
from .power_loss.replay import Report, differences, final_image, replay
from .power_loss.workload import Workload, record_node

pytestmark = pytest.mark.system

MESSAGES = 6


def replay_node(
    workload: Workload, model: Model, seed: int, *, seconds: float = 0.0, stop_at_bad: int = 0
) -> Report:
    """Check the states of a recording, in the very folder that was recorded."""
    recording = workload.recording
    report = replay(
        recording,
        recording.ops(),
        model,
        workload.promises.check,
        # The node notes absolute paths: only in its own place does it find its files again.
        out=recording.root,
        seed=seed,
        seconds=seconds,
        stop_at_bad=stop_at_bad,
    )
    print(report)
    return report


@pytest.mark.parametrize("kill_after", [0, 12], ids=["", "after a kill"])
def test_power_cuts_lose_nothing(
    library: Path, tmp_path: Path, seconds: float, seed: int, kill_after: int
) -> None:
    """Also when the node was killed before, and its clients have sent again."""
    workload = record_node(library, tmp_path, seed, MESSAGES, kill_after=kill_after)
    recording = workload.recording
    ops = recording.ops()
    assert differences(final_image(recording, ops), image_of(recording.root)) == []
    reports = [
        replay_node(workload, model, seed, seconds=seconds / 4, stop_at_bad=50) for model in Model
    ]
    for report in reports:
        assert not report.bad, str(report)
        assert report.answers >= 5 * MESSAGES
        assert report.states >= 100 * MESSAGES
