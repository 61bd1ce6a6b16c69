"""Graphs of pipelines: what cannot work, what is odd, how they look."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadPipeline
from beamstream.worker.pipelines.graph import Graph
from beamstream.worker.pipelines.pipeline_file import PipelineFile, StepEntry
from beamstream.worker.pipelines.plan import Plan, PlannedStep, load_plan, make_plan
from beamstream.worker.steps import Read, parse_read

CODE = '''
from beamstream.worker import step

@step(reads="raw", writes="binned")
def bin(frame, *, factor: int = 2, mode: str = "sum"):
    """Sum pixels."""

@step(reads="binned", writes="found")
def find(frame, *, sigma: float):
    """Find spots."""

@step(reads=["raw", "motor"], writes="whole", mode="ordered")
def merge(frame, motor):
    """Put two things together."""

@step
def sink(frame):
    """Look at it."""

@step(reads="found", window=10, writes="mean")
def mean(frames):
    """Average."""
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(CODE)
    return tmp_path


def plan_of(folder: Path, steps: str, more: str = "") -> tuple[Plan, list[str]]:
    """The plan of these steps, and what is wrong with them."""
    path = folder / "p.yaml"
    path.write_text(f"pipeline: p\n{more}\nsteps:\n{textwrap.indent(textwrap.dedent(steps), '  ')}")
    plan, problems, _ = make_plan(path)
    assert plan is not None
    return plan, [problem.text for problem in problems]


CHAIN = """\
bin: {run: own.py:bin, parameters: {factor: 4}}
find: {run: own.py:find, parameters: {sigma: 6}, replicas: {min: 1, max: 4}}
sink: {run: own.py:sink, reads: found/scan*}
"""


def test_what_is_not_in_the_file_is_as_the_code_says(folder: Path) -> None:
    plan, problems = plan_of(folder, CHAIN)
    assert problems == []
    assert [(step.reads, step.writes) for step in plan.steps] == [
        ((Read("raw"),), "binned"),
        ((Read("binned"),), "found"),
        ((Read("found", "scan*"),), None),
    ]
    step = plan.step("bin")
    assert step.step_id == "p.bin"
    assert step.failures == "p.bin.failed"
    assert step.where == f"{folder}/own.py:bin"
    assert step.parameters == {"factor": 4}
    assert plan.step("p.find").name == "find"
    with pytest.raises(BadPipeline, match="no step 'bim'"):
        plan.step("bim")


def test_joined_sources_are_read_as_one(folder: Path) -> None:
    plan, problems = plan_of(folder, "merge: {run: own.py:merge, reads: [raw/s*, motor]}")
    assert problems == []
    [step] = plan.steps
    assert step.joins
    assert step.reads_now == Read("p.merge.join", "s*")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("a: {run: own.py:bim}", "there is no step 'own.py:bim' (steps there: bin, find"),
        ("a: {run: none.py:bin}", "none.py"),
        ("a: {run: nowhere.such:bin}", "cannot be imported: ModuleNotFoundError"),
        ("a: {run: own.py:bin, parameters: {factor: x}}", "parameter 'factor' is int, not 'x'"),
        ("a: {run: own.py:bin, parameters: {facto: 1}}", "there is no parameter 'facto'"),
        ("a: {run: own.py:find}", "parameter 'sigma' is missing; it is float"),
        ("a: {run: own.py:sink}", "nobody says what it reads"),
        ("a: {run: own.py:sink, reads: ['']}", "'reads' has to be text"),
        ("a: {run: own.py:sink, reads: /x}", "is nothing to read"),
        ("a: {run: own.py:bin, writes: \"a\\\"b\"}", "source name"),
        ("a: {run: own.py:bin, writes: parameters}", "kept for the framework"),
        ("a: {run: own.py:merge, reads: raw}", "takes 2 inputs for each id, and it reads 1"),
        ("a: {run: own.py:bin, reads: [raw, motor]}", "takes 1 inputs for each id, and it reads 2"),
        ("a: {run: own.py:merge, reads: [raw, raw]}", "it joins a source with itself"),
        ("a: {run: own.py:merge, reads: [raw/a, motor/b]}", "must not differ"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_code(folder: Path, steps: str, expected: str) -> None:
    _, problems = plan_of(folder, steps)
    assert any(expected in problem for problem in problems), problems
    with pytest.raises(BadPipeline, match="cannot work"):
        load_plan(folder / "p.yaml")


def test_modules_beside_the_file_are_found(folder: Path) -> None:
    (folder / "beside_the_file.py").write_text(CODE)
    plan, problems = plan_of(folder, "a: {run: 'beside_the_file:bin'}")
    assert problems == []
    assert plan.steps[0].where == "beside_the_file:bin"


# ------------------------------------------------------------------------------ checks


def problems_of(plan: Plan) -> list[str]:
    return [problem.text for problem in Graph(plan).problems()]


def warnings_of(plan: Plan, known: list[str] | None = None) -> list[str]:
    return [problem.text for problem in Graph(plan, known).warnings()]


def test_a_chain_is_well(folder: Path) -> None:
    plan, _ = plan_of(folder, CHAIN, "inputs: raw")
    assert problems_of(plan) == []
    assert warnings_of(plan) == []


def test_two_steps_must_not_write_one_source(folder: Path) -> None:
    plan, _ = plan_of(folder, CHAIN + "other: {run: own.py:bin, reads: x}\n")
    [problem] = Graph(plan).problems()
    assert problem.text.startswith("step 'other' writes 'binned', as 'bin' does")
    assert problem.line == 7


def test_cycles_are_found(folder: Path) -> None:
    plan, _ = plan_of(
        folder,
        """\
        bin: {run: own.py:bin, reads: found}
        find: {run: own.py:find, parameters: {sigma: 6}}
        """,
    )
    assert problems_of(plan) == ["a cycle: found -> bin -> binned -> find -> found"]
    plan, _ = plan_of(folder, "bin: {run: own.py:bin, reads: binned}")
    assert problems_of(plan) == ["a cycle: binned -> bin -> binned"]


def test_sources_that_nobody_writes(folder: Path) -> None:
    plan, _ = plan_of(folder, "find: {run: own.py:find, reads: bined, parameters: {sigma: 6}}")
    [warning] = warnings_of(plan)
    assert warning.startswith("step 'find' reads 'bined', which nobody writes; if it comes later")
    assert "is 'binned' meant?" in warnings_of(plan, ["binned", "raw"])[0]
    assert warnings_of(plan, ["bined"]) == []


def test_inputs_that_are_written(folder: Path) -> None:
    plan, _ = plan_of(folder, "bin: {run: own.py:bin}", "inputs: [raw, binned]")
    assert warnings_of(plan) == ["step 'bin' writes 'binned', which 'inputs:' says others write"]


def test_replicas_that_do_not_help(folder: Path) -> None:
    plan, _ = plan_of(
        folder,
        """\
        one: {run: own.py:mean, reads: found/scan1, replicas: 3}
        all: {run: own.py:mean, writes: x, replicas: {max: 4}}
        bin: {run: own.py:bin, replicas: 4}
        """,
        "inputs: [found, raw]",
    )
    one, all_ = warnings_of(plan)
    assert "reads stream 'scan1': the other 2 stand by" in one
    assert "4 help when so many streams are read" in all_


def test_order_behind_dead_letters(folder: Path) -> None:
    steps = """\
    bin: {run: own.py:bin, on_error: THEN}
    find: {run: own.py:find, parameters: {sigma: 6}, on_error: skip}
    mean: {run: own.py:mean, on_error: skip}
    """
    plan, _ = plan_of(folder, steps.replace("THEN", "dead"), "inputs: raw")
    [warning] = warnings_of(plan)
    assert warning.startswith("step 'mean' goes by order, and waits for each id that 'bin' gives")
    plan, _ = plan_of(folder, steps.replace("THEN", "skip"), "inputs: raw")
    assert warnings_of(plan) == []


# ------------------------------------------------------------------------------ looks


def test_how_it_looks(folder: Path) -> None:
    plan, _ = plan_of(
        folder,
        CHAIN + "merge: {run: own.py:merge, reads: [binned, motor]}\n",
        "inputs: [raw, motor]",
    )
    assert Graph(plan).draw() == textwrap.dedent(
        """\
        raw
          |
          +-> [ bin ] factor=4
                |
                +-> binned
                      |
                      +-> [ find ] x 1..4 sigma=6
                      |     |
                      |     +-> found
                      |           |
                      |           +-> [ sink ] of scan*
                      |
                      +-> [ merge ] joined with motor
                            |
                            +-> whole
        motor
          |
          +-> [ merge ] (above)"""
    )


def test_as_a_document(folder: Path) -> None:
    plan, _ = plan_of(folder, CHAIN, "inputs: raw")
    document = json.loads(json.dumps(Graph(plan).document()))
    assert document["sources"][1] == {
        "source": "binned",
        "written_by": ["bin"],
        "read_by": ["find"],
    }
    assert document["steps"][1]["replicas"] == {"min": 1, "max": 4, "lag_s": 2.0}


SOURCES = st.sampled_from("abcdef")


@given(st.lists(st.tuples(st.lists(SOURCES, min_size=1, max_size=2, unique=True), SOURCES)))
def test_any_graph_is_checked_and_drawn(edges: list[tuple[list[str], str]]) -> None:
    steps = tuple(
        PlannedStep(
            step_id=f"p.s{i}", where="x:y", reads=tuple(map(parse_read, reads)), writes=writes,
            parameters={}, exclusive=False, ordered=False,
            entry=StepEntry(name=f"s{i}", run="x:y", line=i + 1),
        )
        for i, (reads, writes) in enumerate(edges)
    )  # fmt: skip
    file = PipelineFile(name="p", path=Path("p.yaml"), steps=tuple(step.entry for step in steps))
    graph = Graph(Plan(name="p", file=file, steps=steps))
    found = [problem.text for problem in graph.problems()]
    assert any(text.startswith("a cycle") for text in found) == goes_around(edges)
    drawn = graph.draw()
    assert all(f"[ s{i} ]" in drawn for i in range(len(edges)))


def goes_around(edges: list[tuple[list[str], str]]) -> bool:
    """Whether taking away sources that nobody writes, again and again, leaves something."""
    left = list(edges)
    while True:
        written = {writes for _, writes in left}
        kept = [edge for edge in left if written & set(edge[0])]
        if len(kept) == len(left):
            return bool(left)
        left = kept
