"""Pipeline files: what they say, and all that is wrong with one at once."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadPipeline
from beamstream.worker.pipelines.pipeline_file import (
    PipelineFile,
    Replicas,
    load_file,
    parse,
    read_file,
)
from beamstream.worker.policy import OnError

FULL = """\
pipeline: demo
beamtime: 0110
inputs: [detector, motor]
steps:
  bin:
    run: beamstream.workers:bin
    reads: detector/scan*
    writes: binned
    parameters: {factor: 4, mode: on, sizes: [1, 2]}
    replicas: {min: 1, max: 8, lag_s: 2}
    on_error: {retry: 3, backoff_s: 0.5, then: skip}
    level: cache
    launcher: fast
    environment: {OMP_NUM_THREADS: 1, EMPTY: ""}
  merge:
    run: ./my.py:merge
    reads: [binned, motor]
    replicas: 2
    on_error: stop
launchers:
  fast: {kind: local, python: /opt/python}
"""


def wrong(text: str) -> list[str]:
    """What is wrong, as ``line: text``."""
    return [f"{line}: {text}" for line, text in parse(text, Path("p.yaml"))[1]]


def test_all_that_a_file_can_say() -> None:
    file, problems = parse(FULL, Path("folder/p.yaml"))
    assert problems == []
    assert isinstance(file, PipelineFile)
    assert (file.name, file.beamtime, file.inputs) == ("demo", "0110", ("detector", "motor"))
    assert file.folder == Path("folder")
    assert file.launchers == {"fast": {"kind": "local", "python": "/opt/python"}}
    first, second = file.steps
    assert (first.name, first.run, first.reads) == (
        "bin", "beamstream.workers:bin", ("detector/scan*",),
    )  # fmt: skip
    assert (first.writes, first.level, first.launcher) == ("binned", "cache", "fast")
    assert first.parameters == {"factor": 4, "mode": "on", "sizes": [1, 2]}
    assert first.replicas == Replicas(1, 8, 2.0)
    assert first.on_error == OnError(retry=3, backoff_s=0.5, then="skip")
    assert first.environment == {"OMP_NUM_THREADS": "1", "EMPTY": ""}
    assert (first.line, second.line) == (5, 15)
    assert second.reads == ("binned", "motor")
    assert second.replicas == Replicas(2, 2)
    assert second.on_error == OnError(then="stop")
    assert (second.writes, second.level, second.launcher) == (None, None, "local")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("pipeline: demo", "pipelin: demo"), "1: the file has no key 'pipelin'; is 'pipeline'"),
        (("pipeline: demo", "pipeline: a b"), "1: the file: 'a b' cannot be a name"),
        (("pipeline: demo", "pipeline: " + 65 * "x"), "cannot be a name: 1 to 64 letters"),
        (("beamtime: 0110", "beamtime: ../x"), "2: the file: beamtime '../x'"),
        (("detector, motor", "'a\"b'"), "3: the file: source name"),
        (("  bin:", "  b in:"), "5: 'b in' cannot name a step"),
        (("run: beamstream.workers:bin", "rum: x"), "step 'bin' has no key 'rum'; is 'run' meant?"),
        (("run: beamstream.workers:bin", "run:"), "step 'bin': the key 'run' is missing"),
        (("[binned, motor]", "[]"), "17: step 'merge': 'reads' is an empty list"),
        (("[binned, motor]", "{a: b}"), "17: step 'merge': 'reads' has to be text, or a list"),
        (("writes: binned", "writes: [a]"), "8: step 'bin': 'writes' has to be text"),
        (("{factor: 4, mode: on, sizes: [1, 2]}", "4"), "'parameters' has to be a mapping"),
        (("min: 1, max: 8", "min: 9, max: 8"), "10: step 'bin', 'replicas': at most 8 replicas"),
        (("min: 1, max: 8", "min: 0, max: 8"), "'min' has to be a whole number, 1 to 256"),
        (("lag_s: 2", "lag_s: soon"), "'lag_s' has to be a number, 0.01 to 86400"),
        (("lag_s: 2", "lags: 2"), "'replicas' has no key 'lags'; is 'lag_s' meant?"),
        (("replicas: 2", "replicas: true"), "18: step 'merge': 'replicas' has to be a"),
        (("on_error: stop", "on_error: retry"), "'then' is 'retry'; it has to be one of dead"),
        (("retry: 3", "retry: -1"), "'retry' has to be a whole number, 0 to 1000"),
        (("level: cache", "level: ram"), "'level' is 'ram'; it has to be one of cache, os, disk"),
        (("launcher: fast", "launcher: slurm"), "asks for the launcher 'slurm'; there is fast, lo"),
        (("kind: local", "kind: slurm"), "21: launcher 'fast': the kind 'slurm' is not known"),
        (("EMPTY: \"\"", "EMPTY: [1]"), "EMPTY has to be text, it is a list"),
        (("EMPTY: \"\"", "a-b: 1"), "'a-b' cannot name a variable"),
        (("EMPTY: \"\"", 'A: "\\0"'), "A must not hold a zero byte"),
    ],
)  # fmt: skip
def test_each_mistake_is_told(change: tuple[str, str], expected: str) -> None:
    text = FULL.replace(*change, 1)
    assert text != FULL
    found = wrong(text)
    assert any(expected in one for one in found), found


def test_all_mistakes_are_told_at_once() -> None:
    found = wrong("pipeline: 'a b'\nsteps:\n  x: 1\n  y: {run: a, writs: b}\nmore: 1\n")
    assert [one.partition(":")[0] for one in found] == ["1", "3", "4", "5"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "1: the file has to be a mapping, it is a list"),
        ("pipeline: a", "there is no step"),
        ("pipeline: a\nsteps: {}", "there is no step"),
        ("pipeline: a\nsteps: [b]", "2: the file: 'steps' has to be a mapping, it is a list"),
        (
            "pipeline: a\nsteps:\n" + "".join(f"  s{i}: {{run: a}}\n" for i in range(257)),
            "257 steps are too many",
        ),
    ],
)
def test_files_without_steps(text: str, expected: str) -> None:
    assert any(expected in one for one in wrong(text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadPipeline, match=r"cannot read the pipeline file .*No such file"):
        load_file(tmp_path / "none.yaml")
    path = tmp_path / "p.yaml"
    path.write_bytes(b"pipeline: a\nsteps: \xff")
    assert read_file(path) == (None, [(2, "the text is not UTF-8")])
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    assert read_file(path)[0] is None
    path.write_text("pipeline: a\nsteps: {x: {run: y, reeds: z}}\n")
    with pytest.raises(BadPipeline, match=r"p.yaml cannot work: line 2: .*is 'reads' meant\?"):
        load_file(path)
    path.write_text("pipeline: a\nsteps: {x: {run: y}}\n")
    assert load_file(path).steps[0].run == "y"


def test_the_first_ten_mistakes_stand_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("pipeline: a\nsteps:\n" + "".join(f"  s{i}: {{}}\n" for i in range(13)))
    with pytest.raises(BadPipeline, match="and 3 more problems"):
        load_file(path)


WORD = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(WORD, below, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["run", "reads", "writes", "parameters", "replicas", "on_error", "level", "launcher",
     "environment", "other"]
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["pipeline", "beamtime", "inputs", "steps", "launchers", "x"]),
        ANY | st.dictionaries(WORD, ANY | st.dictionaries(KEYS, ANY), max_size=3),
    )
)
def test_whatever_a_file_holds_it_is_taken_or_told(document: dict[str, object]) -> None:
    file, problems = parse(yaml.safe_dump(document), Path("p.yaml"))
    assert problems or (file is not None and file.name and file.steps)
    assert all(problem.line >= 0 and problem.text for problem in problems)
