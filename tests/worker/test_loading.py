"""Steps by name, jobs, policies, code versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadInput, BadPipeline, BadStep, DataLost, StepFailed
from beamstream.worker import jobs, loading, policy, runs
from beamstream.worker.jobs import Job
from beamstream.worker.policy import GiveUp, OnError, Retry
from beamstream.worker.runs import RunBook

CODE = """
import json
import numpy as np
from beamstream.worker import step
import helper_of_mine

@step(reads="eiger", writes="out", name="other")
def double(frame, *, factor: int = 2):
    return frame * helper_of_mine.times(factor)

def plain(frame):
    return frame
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "helper_of_mine.py").write_text("def times(n):\n    return n\n")
    path = tmp_path / "my.py"
    path.write_text(CODE)
    return path


def test_of_a_file(file: Path) -> None:
    found = loading.load(f"{file}:double")
    assert found(3, factor=2) == 6
    assert loading.load("my.py:double", file.parent) is found
    assert loading.load("my.py:other", file.parent) is found
    assert loading.load("my.py", file.parent) is found
    assert found.where == f"{file}:double"
    assert loading.load(found.where) is found


def test_of_a_module() -> None:
    assert loading.load("beamstream.workers.binning:bin").name == "bin"


def test_of_stock() -> None:
    assert loading.load("bin").name == "bin"
    assert loading.load("beamstream.workers:bin") is loading.load("bin")


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("nosuch", "no stock step 'nosuch'"),
        ("no.such.module:f", "cannot be imported"),
        ("no/such.py:f", "No such file"),
        ("my.py:plain", "decorate it"),
        ("my.py:nothing", "steps there: double"),
        ("beamstream.worker.steps", "which step"),
        ("broken.py:f", "SyntaxError"),
        ("raising.py:f", "RuntimeError: at import"),
    ],
)
def test_not_found(file: Path, where: str, told: str) -> None:
    (file.parent / "broken.py").write_text("def f(:\n")
    (file.parent / "raising.py").write_text("raise RuntimeError('at import')\n")
    with pytest.raises(BadStep) as caught:
        loading.load(where, file.parent)
    assert told in str(caught.value)


# -------------------------------------------------------------------------------- runs


def test_code_version_names_what_makes_results(file: Path) -> None:
    found = runs.code_version(loading.load(f"{file}:double"))
    assert found.file == str(file)
    assert len(found.source) == 64
    assert found.commit == ""
    assert "numpy" in found.software
    assert "json" not in found.software
    assert runs.source_digest(file) == found.source
    file.write_text(CODE + "\n")
    assert runs.source_digest(file) != found.source


def test_commit_of_a_work_tree(file: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(file.parent), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "HEAD")
    runs.commit_of.cache_clear()
    assert runs.commit_of(file) == head
    file.write_text(CODE + "\n")
    runs.commit_of.cache_clear()
    assert runs.commit_of(file) == f"{head}+dirty"


def test_run_document(file: Path) -> None:
    step = loading.load(f"{file}:double")
    version = runs.code_version(step)
    document = runs.run_document(
        step, "demo.double", version, {"factor": 4}, parameters_version=3, header_version=2,
        replay_of={"source": "eiger", "stream": "scan1"},
    )  # fmt: skip
    assert document["step"] == "demo.double"
    assert document["parameters"] == {"factor": 4}
    assert document["source"] == version.source
    assert document["reads"] == ["eiger"]
    assert document["writes"] == "out"
    assert document["replay_of"]["stream"] == "scan1"
    assert msgspec.json.decode(msgspec.json.encode(document)) == document
    with pytest.raises(StepFailed, match="are allowed"):
        runs.run_document(step, "x", version, {"big": "x" * 300_000})


def test_a_run_book_asks_once_for_each_choice() -> None:
    asked: list[dict[str, object]] = []

    def define(document: object) -> int:
        asked.append(document)  # type: ignore[arg-type]
        return len(asked)

    book = RunBook(lambda values, version, header: {**values, "v": version, "h": header}, define)
    numbers = [book.number({"a": 1}, 0), book.number({"a": 1}, 0), book.number({"a": 2}, 0)]
    book.parameters_version = 1
    numbers += [book.number({"a": 1}, 0), book.number({"a": 1}, 1)]
    assert numbers == [1, 1, 2, 3, 4]
    assert book.latest == 4


# -------------------------------------------------------------------------------- jobs


def test_jobs_go_through_their_line() -> None:
    job = Job("my.py:f", step_id="p.f", parameters={"n": [1, 2]}, on_error=OnError(retry=3))
    assert jobs.decode(jobs.encode(job)) == job
    assert jobs.encode(job).count(b"\n") == 1


@given(st.binary(max_size=200))
def test_any_line_is_a_job_or_refused(line: bytes) -> None:
    try:
        jobs.decode(line)
    except BadInput:
        return
    assert b"where" in line


def test_a_job_is_bounded() -> None:
    with pytest.raises(BadInput, match="allowed"):
        jobs.decode(b" " * (jobs.JOB_NBYTES_MAX + 1))


# ------------------------------------------------------------------------------ policy


@given(st.integers(0, 1_000), st.floats(0, 300), st.integers(1, 2_000))
def test_policy(retry: int, backoff_s: float, attempt: int) -> None:
    found = policy.decide(OnError(retry=retry, backoff_s=backoff_s, then="skip"), attempt)
    if attempt > retry:
        assert found == GiveUp("skip")
    else:
        assert isinstance(found, Retry)
        assert 0 <= found.after_s <= policy.BACKOFF_S_MAX
    assert policy.decide(OnError(retry=retry), attempt, lasting=True) == GiveUp("dead")


def test_policy_texts() -> None:
    assert policy.parse("") == OnError()
    assert policy.parse("retry=5, backoff_s=0.1, stop") == OnError(5, 0.1, "stop")
    for text in ("never", "retry=-1", "retry=x", "tries=3", "backoff_s=301"):
        with pytest.raises(BadPipeline, match="policy"):
            policy.parse(text)
    assert policy.lasting(DataLost("gone"))
    assert not policy.lasting(ValueError("x"))


def test_importing_the_decorator_is_light() -> None:
    code = "import sys, beamstream.worker; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "beamstream.worker.steps" in loaded
    assert not {"asyncio", "yaml", "cyclopts", "beamstream.server"} & loaded
