"""What a pipeline file comes to, with the code of its steps: who reads and writes what."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from beamstream.errors import BadInput, BadPipeline, Error
from beamstream.model import check_label
from beamstream.worker.joining import join_source
from beamstream.worker.loading import load
from beamstream.worker.parameters import plain
from beamstream.worker.pipelines.pipeline_file import PipelineFile, StepEntry, read_file, refusal
from beamstream.worker.pipelines.yaml_text import Problem
from beamstream.worker.steps import Read, Step, parse_read

RESERVED: Final = ("parameters", "pipelines")
"""Sources in which the framework keeps its own."""


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it runs.

    Parameters
    ----------
    step_id : ``PIPELINE.STEP``, the name of its group.
    where : of its code.
    reads : what is read, or joined; `reads_now`: the one that its workers read.
    parameters : those that the file gives.
    """

    step_id: str
    where: str
    reads: tuple[Read, ...]
    writes: str | None
    parameters: dict[str, Any]
    exclusive: bool
    ordered: bool
    entry: StepEntry

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def joins(self) -> bool:
        return len(self.reads) > 1

    @property
    def reads_now(self) -> Read:
        first = self.reads[0]
        return Read(join_source(self.step_id), first.pattern) if self.joins else first

    @property
    def failures(self) -> str:
        """Data source of what it failed on."""
        return f"{self.step_id}.failed"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline whose file and code fit together."""

    name: str
    file: PipelineFile
    steps: tuple[PlannedStep, ...]

    def step(self, name: str) -> PlannedStep:
        """A step by its name, or its id.

        Raises
        ------
        BadPipeline : there is none.
        """
        for step in self.steps:
            if name in (step.name, step.step_id):
                return step
        there = ", ".join(step.name for step in self.steps)
        raise BadPipeline(
            f"pipeline {self.name!r} has no step {name[:80]!r}", hint=f"it has {there}"
        )

    def document(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {
            "pipeline": self.name,
            "beamtime": self.file.beamtime,
            "inputs": list(self.file.inputs),
            "steps": [_step_document(step) for step in self.steps],
        }


def load_plan(path: Path) -> Plan:
    """The plan of a pipeline file; imports the code of its steps.

    Raises
    ------
    BadPipeline : file or code is wrong; the text has all that was found.
    """
    plan, problems, _ = make_plan(path)
    if plan is None or problems:
        raise refusal(str(path), problems)
    return plan


def make_plan(path: Path) -> tuple[Plan | None, list[Problem], dict[str, Step]]:
    """The plan of a pipeline file, as far as it goes; what is wrong; the steps by name.

    Raises
    ------
    BadPipeline : there is no such file.
    """
    file, problems = read_file(path)
    if file is None:
        return None, problems, {}
    steps: dict[str, Step] = {}
    with _importing_from(file.folder):
        for entry in file.steps:
            if not entry.run:
                continue
            try:
                steps[entry.name] = load(entry.run, file.folder)
            except Error as error:
                problems.append(Problem(entry.line, f"step {entry.name!r}: {error}"))
    plan, more = resolve(file, steps)
    return plan, sorted(problems + more), steps


def resolve(file: PipelineFile, steps: Mapping[str, Step]) -> tuple[Plan, list[Problem]]:
    """Put a file and the code of its steps together; those without code are left out."""
    problems: list[Problem] = []
    found = []
    for entry in file.steps:
        step = steps.get(entry.name)
        if step is None:
            continue
        planned = _planned(file.name, entry, step, problems)
        if planned is not None:
            found.append(planned)
    return Plan(name=file.name, file=file, steps=tuple(found)), problems


def _planned(
    pipeline: str, entry: StepEntry, step: Step, problems: list[Problem]
) -> PlannedStep | None:
    def wrong(text: str) -> None:
        problems.append(Problem(entry.line, f"step {entry.name!r}: {text}"))

    try:
        reads = step.reads if entry.reads is None else tuple(map(parse_read, entry.reads))
        writes = step.writes if entry.writes is None else check_label("source", entry.writes)
    except BadInput as error:
        wrong(str(error))
        return None
    if not reads:
        wrong("nobody says what it reads; write 'reads: SOURCE'")
        return None
    if writes in RESERVED:
        wrong(f"the source {writes!r} is kept for the framework; choose another name to write to")
    _check_reads(step, reads, wrong)
    _check_parameters(step, entry.parameters, wrong)
    return PlannedStep(
        step_id=f"{pipeline}.{entry.name}",
        where=step.where,
        reads=reads,
        writes=writes,
        parameters=plain(entry.parameters),
        exclusive=step.exclusive,
        ordered=step.ordered,
        entry=entry,
    )


def _check_reads(step: Step, reads: tuple[Read, ...], wrong: Callable[[str], None]) -> None:
    if len(reads) != len({read.source for read in reads}):
        wrong("it joins a source with itself")
    if len({read.pattern for read in reads[1:]} - {reads[0].pattern, "*"}):
        wrong("streams of one name are joined: the patterns of its sources must not differ")
    takes = step.inputs
    if not step.takes_message and takes and takes != len(reads):
        wrong(f"its code takes {takes} inputs for each id, and it reads {len(reads)} sources")


def _check_parameters(step: Step, given: dict[str, Any], wrong: Callable[[str], None]) -> None:
    for name, value in given.items():
        try:
            step.parameters[name].check(value)
        except BadInput as error:
            wrong(str(error))
    for one in step.parameters:
        if one.required and one.name not in given and one.name not in step.header:
            wrong(f"parameter {one.name!r} is missing; it is {one.type_name}")


def _step_document(step: PlannedStep) -> dict[str, Any]:
    entry = step.entry
    return {
        "name": step.name,
        "step_id": step.step_id,
        "run": entry.run,
        "where": step.where,
        "reads": [str(read) for read in step.reads],
        "writes": step.writes,
        "parameters": step.parameters,
        "replicas": msgspec.to_builtins(entry.replicas),
        "on_error": msgspec.to_builtins(entry.on_error),
        "level": entry.level,
        "launcher": entry.launcher,
    }


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Modules beside the pipeline file are found, here as by the workers that run in its folder."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)
