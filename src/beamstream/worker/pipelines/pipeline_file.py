"""Pipeline files: what is written in them, checked as far as that goes without the steps' code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from beamstream.errors import BadPipeline
from beamstream.model import check_beamtime, check_label
from beamstream.worker.pipelines.keys import NAME, NAME_HINT, Keys
from beamstream.worker.pipelines.yaml_text import NBYTES_MAX, Problem, Refused, Value, read
from beamstream.worker.policy import BACKOFF_S_MAX, OnError, Then

STEPS_MAX: Final = 256
REPLICAS_MAX: Final = 256
LEVELS: Final = ("cache", "os", "disk")
THEN: Final[tuple[Then, ...]] = get_args(Then)
LOCAL: Final = "local"
LAG_S: Final = 2.0
_ENVIRONMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PROBLEMS_TOLD: Final = 10


class Replicas(msgspec.Struct, frozen=True):
    """How many workers a step has; between two numbers, as many as keep the lag below `lag_s`."""

    min: int = 1
    max: int = 1
    lag_s: float = LAG_S

    @property
    def fixed(self) -> bool:
        return self.min == self.max


class StepEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it stands in the file; None: as the step's code says.

    Parameters
    ----------
    reads : ``source`` or ``source/pattern``; more than one are joined by id.
    line : where it begins in the file.
    """

    name: str
    run: str
    reads: tuple[str, ...] | None = None
    writes: str | None = None
    parameters: dict[str, Any] = {}
    replicas: Replicas = Replicas()
    on_error: OnError = OnError()
    level: str | None = None
    launcher: str = LOCAL
    environment: dict[str, str] = {}
    line: int = 0


class PipelineFile(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as it stands in its file.

    Parameters
    ----------
    inputs : sources that others write: detectors, programs.
    launchers : settings of each launcher, by name.
    """

    name: str
    path: Path
    steps: tuple[StepEntry, ...]
    beamtime: str = ""
    inputs: tuple[str, ...] = ()
    launchers: dict[str, dict[str, Any]] = {}

    @property
    def folder(self) -> Path:
        return self.path.parent


def load_file(path: Path) -> PipelineFile:
    """Read a pipeline file.

    Raises
    ------
    BadPipeline : it is wrong; the text has all that was found.
    """
    found, problems = read_file(path)
    if found is None or problems:
        raise refusal(str(path), problems)
    return found


def read_file(path: Path) -> tuple[PipelineFile | None, list[Problem]]:
    """Read a pipeline file and say all that is wrong with it; None if nothing can be made of it.

    Raises
    ------
    BadPipeline : there is no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(NBYTES_MAX + 1)
    except OSError as error:
        raise BadPipeline(f"cannot read the pipeline file {path}: {error.strerror}") from None
    if len(data) > NBYTES_MAX:
        return None, [Problem(0, f"the file has more than {NBYTES_MAX} bytes")]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return None, [Problem(line, "the text is not UTF-8")]
    return parse(text, path)


def refusal(file: str, problems: Iterable[Problem]) -> BadPipeline:
    """The error that tells all problems of a file.

    >>> print(refusal("a.yaml", [Problem(3, "there is no step")]))
    a.yaml cannot work: line 3: there is no step
    """
    found = list(problems)
    told = [f"line {line}: {text}" if line else text for line, text in found[:_PROBLEMS_TOLD]]
    if len(found) > _PROBLEMS_TOLD:
        told.append(f"and {len(found) - _PROBLEMS_TOLD} more problems")
    return BadPipeline(f"{file} cannot work: {'; '.join(told)}")


def parse(text: str, path: Path) -> tuple[PipelineFile | None, list[Problem]]:
    """As `read_file`, from the text of the file.

    >>> file, problems = parse("pipeline: a\\nsteps: {bin: {run: bin, writs: b}}", Path("a.yaml"))
    >>> problems[0].at("a.yaml")
    "a.yaml:2: step 'bin' has no key 'writs'; is 'writes' meant?"
    """
    try:
        top = read(text)
    except Refused as error:
        return None, [error.problem]
    problems: list[Problem] = []
    if not isinstance(top.value, dict):
        return None, [Problem(top.line, f"the file has to be a mapping, it is {top.kind}")]
    keys = Keys(top, "the file", problems)
    name = keys.name("pipeline", needed=True)
    beamtime = keys.text("beamtime")
    if beamtime:
        keys.check("beamtime", partial(check_beamtime, beamtime))
    inputs = keys.texts("inputs") or ()
    for source in inputs:
        keys.check("inputs", partial(check_label, "source", source))
    launchers = _launchers(keys, problems)
    steps = _steps(keys, problems)
    keys.end()
    for step in steps:
        if step.launcher != LOCAL and step.launcher not in launchers:
            known = ", ".join(sorted({LOCAL, *launchers}))
            what = f"step {step.name!r} asks for the launcher {step.launcher!r}; there is {known}"
            problems.append(Problem(step.line, what))
    problems.sort()
    file = PipelineFile(
        name=name,
        path=path,
        beamtime=beamtime,
        steps=tuple(steps),
        inputs=inputs,
        launchers=launchers,
    )
    return file, problems


def _launchers(keys: Keys, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in keys.mapping("launchers").items():
        below = Keys(value, f"launcher {name!r}", problems)
        kind = below.text("kind") or LOCAL
        if kind != LOCAL:
            below.wrong("kind", f"the kind {kind!r} is not known; there is {LOCAL!r}")
        python = below.text("python")
        below.end()
        found[name] = {"kind": kind, **({"python": python} if python else {})}
    return found


def _steps(keys: Keys, problems: list[Problem]) -> list[StepEntry]:
    entries = keys.mapping("steps")
    if not entries:
        keys.wrong("steps", "there is no step; under 'steps:' there has to be at least one")
    if len(entries) > STEPS_MAX:
        keys.wrong("steps", f"{len(entries)} steps are too many, {STEPS_MAX} are allowed")
        return []
    return [_step(name, value, problems) for name, value in entries.items()]


def _step(name: str, value: Value, problems: list[Problem]) -> StepEntry:
    keys = Keys(value, f"step {name!r}", problems)
    if not NAME.fullmatch(name):
        problems.append(Problem(value.line, f"{name[:80]!r} cannot name a step: {NAME_HINT}"))
    reads = keys.texts("reads")
    writes = keys.text("writes")
    entry = StepEntry(
        name=name,
        run=keys.text("run", needed=True),
        reads=reads,
        writes=writes or None,
        parameters={key: below.plain() for key, below in keys.mapping("parameters").items()},
        replicas=_replicas(keys, problems),
        on_error=_on_error(keys, problems),
        level=keys.one_of("level", LEVELS),
        launcher=keys.text("launcher") or LOCAL,
        environment=_environment(keys),
        line=value.line,
    )
    keys.end()
    return entry


def _replicas(keys: Keys, problems: list[Problem]) -> Replicas:
    value = keys.take("replicas")
    if value is None:
        return Replicas()
    if not isinstance(value.value, dict):
        count = keys.whole("replicas", value, 1, 1, REPLICAS_MAX)
        return Replicas(count, count)
    below = Keys(value, f"{keys.what}, 'replicas'", problems)
    lowest = below.whole("min", below.take("min"), 1, 1, REPLICAS_MAX)
    highest = below.whole("max", below.take("max"), max(lowest, 1), 1, REPLICAS_MAX)
    lag_s = below.number("lag_s", LAG_S, 0.01, 86_400.0)
    below.end()
    if highest < lowest:
        below.wrong("max", f"at most {highest} replicas and at least {lowest} is not possible")
        highest = lowest
    return Replicas(lowest, highest, lag_s)


def _on_error(keys: Keys, problems: list[Problem]) -> OnError:
    value = keys.take("on_error")
    if value is None:
        return OnError()
    if isinstance(value.value, str):
        value = Value(value.line, {"then": value})
    below = Keys(value, f"{keys.what}, 'on_error'", problems)
    then = below.one_of("then", THEN)
    entry = OnError(
        retry=below.whole("retry", below.take("retry"), 0, 0, 1000),
        backoff_s=below.number("backoff_s", 1.0, 0.0, BACKOFF_S_MAX),
        then=next((word for word in THEN if word == then), "dead"),
    )
    below.end()
    return entry


def _environment(keys: Keys) -> dict[str, str]:
    found = {}
    for name, value in keys.mapping("environment").items():
        if not _ENVIRONMENT.fullmatch(name):
            keys.wrong("environment", f"{name[:80]!r} cannot name a variable", value.line)
        elif not value.text and value.value is not None and value.value != "":
            keys.wrong("environment", f"{name} has to be text, it is {value.kind}", value.line)
        elif "\0" in value.text:
            keys.wrong("environment", f"{name} must not hold a zero byte", value.line)
        else:
            found[name] = value.text
    return found
