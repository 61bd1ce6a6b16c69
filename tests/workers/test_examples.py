"""What lies in `examples` works."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beamstream.cli.demo_pipeline import PIPELINE
from beamstream.testing.steps import run_step
from beamstream.worker.loading import load
from beamstream.worker.pipelines.plan import load_plan

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_each_example_is_looked_at_here() -> None:
    found = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert found == {"first_worker.py", "pipeline.yaml"}


def test_the_first_worker_is_short_and_works() -> None:
    path = EXAMPLES / "first_worker.py"
    code = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(code) <= 10
    step = load(str(path))
    frames = [np.full((4, 4), k, "u2") for k in range(4)]
    frames[3][0, 0] = 65535
    made = run_step(step, frames, above=1)
    assert [(one.id, one.meta) for one in made] == [(3, {"mean": 2.0}), (4, {"mean": 3.0})]
    assert "counts per pixel" in step.doc


def test_the_pipeline_is_that_of_the_demo() -> None:
    assert (EXAMPLES / "pipeline.yaml").read_bytes() == PIPELINE.read_bytes()
    plan = load_plan(EXAMPLES / "pipeline.yaml")
    chain = [(step.name, str(step.reads_now), step.writes) for step in plan.steps]
    assert chain == [
        ("bin", "detector", "binned"),
        ("find_peaks", "binned", "found"),
        ("hits", "found", "hits"),
    ]
    assert [step.entry.replicas.min for step in plan.steps] == [1, 2, 1]
