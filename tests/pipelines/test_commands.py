"""`beamstream pipeline` as people type it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from beamstream.cli.main import main
from beamstream.client.native.hub import Hub
from beamstream.client.native.places import Access
from pipelines.conftest import Write

pytestmark = pytest.mark.system


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]
CHAIN = """\
  double: {run: own.py:double, replicas: 2}
  total: {run: own.py:total}
"""


@pytest.fixture
def at_node(access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMSTREAM_URL", access.url)
    monkeypatch.setenv("BEAMSTREAM_TOKEN", access.token)
    monkeypatch.setenv("BEAMSTREAM_BEAMTIME", access.beamtime)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(at_node: None, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command in this process; whatever it leaves running is stopped."""

    def run(*words: str | Path) -> Said:
        if "--detach" in words:
            # What it leaves running is no child of this process.
            command = [sys.executable, "-m", "beamstream.cli.main", "pipeline", *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
            return Said(done.returncode, done.stdout, done.stderr)
        capfd.readouterr()
        status = main(["pipeline", *map(str, words)])
        return Said(status, *capfd.readouterr())

    yield run
    for snapshot in run("ps", "--json").json:
        run("down", snapshot["pipeline"])


Up = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def up(at_node: None) -> Iterator[Up]:
    """`up` in a process of its own, at no terminal."""
    started: list[subprocess.Popen[str]] = []

    def up(*words: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "beamstream.cli.main", "pipeline", "up", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield up
    for process in started:
        process.kill()
        process.communicate()


def until_line(process: subprocess.Popen[str], word: str) -> str:
    """Read what it prints up to a line with this word."""
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return line
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


# ------------------------------------------------------------------------------ check


def test_check_shows_the_graph(run: Run, write: Write) -> None:
    said = run("check", write(CHAIN))
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[0] == "raw"
    assert "+-> [ double ] x 2" in said.out


def test_check_tells_all_that_is_wrong(run: Run, write: Write) -> None:
    path = write("  a: {run: own.py:double, reeds: x}\n  b: {run: own.py:triple, level: ram}\n")
    said = run("check", path)
    assert said.status == 1
    lines = said.err.splitlines()
    assert lines[0] == f"{path}:4: step 'a' has no key 'reeds'; is 'reads' meant?"
    assert "'level' is 'ram'" in lines[1]
    assert "no step 'own.py:triple'" in lines[2]
    found = run("check", path, "--json")
    assert found.status == 1
    assert [problem["line"] for problem in found.json["problems"]] == [4, 5, 5]
    assert not found.json["ok"]


def test_check_asks_the_node_what_there_is(
    run: Run, write: Write, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("  a: {run: own.py:double, reads: other}\n")
    assert "which nobody writes" in run("check", path).err
    hub.source("other").stream("scan1").writer().send(b"x").result()
    assert run("check", path).err == ""
    monkeypatch.setenv("BEAMSTREAM_URL", "tcp://127.0.0.1:9")
    assert "(warning)" in run("check", path).err


# --------------------------------------------------------------------- in the background


def test_a_day_in_the_life_of_a_pipeline(run: Run, write: Write, hub: Hub) -> None:
    path = write(CHAIN)
    assert run("ps").err == "no pipeline runs\n"
    said = run("up", path, "--detach")
    assert said.status == 0, said.err
    assert "pipeline demo runs as process" in said.err

    said = run("up", path)
    assert said.status == 1
    assert "runs already" in said.err
    assert run("up", path, "--detach").status == 1

    with hub.source("raw").stream("scan1").writer() as writer:
        writer.send_many([np.full(4, i, "i8") for i in range(20)])
    shown = run("ps", path)
    assert shown.out.splitlines()[0].split()[:3] == ["STEP", "STATE", "WORKERS"]
    assert shown.out.splitlines()[1].split()[:3] == ["double", "running", "2"]
    assert [one["pipeline"] for one in run("ps", "--json").json] == ["demo"]

    assert run("scale", path, "double", "1").err == "step double: 1 workers\n"
    assert run("ps", "demo", "--json").json["steps"][0]["wanted"] == 1
    assert "no step 'triple'" in run("scale", path, "triple", "1").err

    said = run("drain", path)
    assert (said.status, said.err) == (0, "pipeline demo has ended\n")
    assert hub.source("total").stream("scan1").info().count == 20
    assert "step double: running" in run("logs", path).out
    said = run("ps", path)
    assert said.status == 1
    assert "does not run" in said.err


def test_one_that_cannot_work_does_not_stay(run: Run, write: Write) -> None:
    path = write("  a: {run: own.py:double, environment: {BROKEN: 1}}\n" + CHAIN)
    path.write_text(path.read_text().replace("  total", "  sink", 1))
    path.write_text(path.read_text().replace("run: own.py:double, replicas", "run: own.py:slow, r"))
    path.write_text(path.read_text().replace("r: 2", "replicas: 1"))
    said = run("up", path, "--detach")
    assert said.status == 1
    assert "a failed" in said.err
    assert "this file is broken today" in said.err
    assert run("ps").err == "no pipeline runs\n"
    log = run("logs", path, "a")
    assert "this file is broken today" in log.out


def test_files_that_cannot_work_do_not_start(run: Run, write: Write) -> None:
    path = write("  a: {run: own.py:double, writes: raw}\n")
    said = run("up", path)
    assert said.status == 1
    assert "a cycle: raw -> a -> raw" in said.err
    said = run("up", write("  a: {run: own.py:triple}\n"), "--detach")
    assert "there is no step 'own.py:triple'" in said.err
    assert run("ps", "--json").json == []
    assert "has not been started here" in run("logs", path).err
    assert run("down", "none").status == 1


# ---------------------------------------------------------------------- in the foreground


def test_ctrl_c_ends_it(up: Up, write: Write, run: Run) -> None:
    process = up(write(CHAIN))
    until_line(process, "double 2: ")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "step double: running" in err
    assert "workers finish what they have in hand" in err
    assert run("ps").err == "no pipeline runs\n"


def test_workers_do_not_outlive_their_supervisor(up: Up, write: Write, run: Run) -> None:
    path = write(CHAIN)
    process = up(path)
    until_line(process, "double 2: ")
    pids = [pid for step in run("ps", path, "--json").json["steps"] for pid in step["pids"]]
    assert len(pids) == 3
    watched = [os.pidfd_open(pid) for pid in pids]
    process.kill()
    while watched:
        ready, _, _ = select.select(watched, [], [], 30)
        assert ready, "a worker is still there"
        for fd in ready:
            watched.remove(fd)
            os.close(fd)
    said = run("down", path)
    assert "does not run" in said.err
    # Nothing that it has left is in the way.
    assert run("up", path, "--detach").status == 0


def test_down_ends_one_in_the_foreground(up: Up, write: Write, run: Run) -> None:
    path = write(CHAIN)
    process = up(path, "--quiet")
    assert process.stderr is not None
    for line in process.stderr:
        if "total: running" in line:
            break
    assert run("down", path).err == "pipeline demo has ended\n"
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")


def test_logs_go_on_as_they_grow(up: Up, write: Write, run: Run, at_node: None) -> None:
    path = write("  a: {run: own.py:double}\n")
    process = up(path)
    until_line(process, "a 1: ")
    log = next((path.parent / "state").rglob("logs")) / "a.1.log"
    log.write_text("--- process 1\nsomething \x1b[2J new\n")
    command = ["pipeline", "logs", str(path), "a", "-f"]
    with subprocess.Popen(
        [sys.executable, "-m", "beamstream.cli.main", *command], stdout=subprocess.PIPE, text=True
    ) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline() == "--- process 1\n"
            assert following.stdout.readline() == "something \\x1b[2J new\n"
            with log.open("a") as file:
                file.write("more\n")
            assert following.stdout.readline() == "a.1: more\n"
            run("down", path)
            assert following.wait(30) == 0
        finally:
            following.kill()
