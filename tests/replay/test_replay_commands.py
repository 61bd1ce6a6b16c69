"""`beamstream replay` and `beamstream provenance`, as they are typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from beamstream.cli.main import main
from beamstream.client.native.hub import Hub
from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture
def run(
    node: NodeProcess,
    hub: Hub,
    steps: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command in this process, in the folder of the steps; there is a stream of 20."""
    monkeypatch.setenv("BEAMSTREAM_URL", node.connect["url"])
    monkeypatch.setenv("BEAMSTREAM_TOKEN", node.token(hub.beamtime))
    monkeypatch.chdir(steps.parent)
    with hub.source("eiger").stream("scan1").writer() as writer:
        for id in range(1, 21):
            writer.send(np.full((3, 4), id, "<u4"), {"angle": id / 10}, id=id)

    def run(*words: str) -> Said:
        status = main(words)
        return Said(status, *capsys.readouterr())

    return run


def test_a_dry_run_tells_and_does_nothing(run: Run, hub: Hub) -> None:
    said = run(
        "replay", "eiger/scan1[5:15]", "--to", "step:steps.py:scale", "--factor", "3",
        "--rate", "5", "--dry-run",
    )  # fmt: skip
    assert said.status == 0
    facts = dict(line.split(maxsplit=1) for line in said.out.splitlines() if line[0] != " ")
    assert facts["messages"] == "eiger/scan1[5:15]"
    assert facts["writes"] == "scaled/scan1~r2"
    assert facts["parameters"] == "factor=3, offset=0"
    assert facts["rate"] == "5/s: 2.00 s"
    assert "nothing was changed" in said.err
    assert [row.source for row in hub.streams()] == ["eiger"]


def test_a_replay_and_where_its_results_come_from(run: Run, hub: Hub) -> None:
    words = ("replay", "eiger/scan1[5:15]", "--to", "step:steps.py:scale", "--factor", "3")
    said = run(*words, "--json")
    assert said.status == 0
    assert said.json["finished"] is True
    assert said.json["to_stream"] == "scan1~r2"
    assert said.json["progress"]["results"] == 10
    assert said.err == ""
    told = run(*words)
    assert "scaled/scan1~r3 is finished (run 1)" in told.err
    assert "10 of 10 (100 %)" in told.err
    tree = run("provenance", "scaled/scan1~r3[7]", "--check")
    assert tree.status == 0
    assert tree.out.startswith("scaled/scan1~r3[7]  48 B  ")
    assert "made by step scale, run 1" in tree.out
    assert "parameters factor 3, offset 0" in tree.out
    assert "replay of eiger/scan1[5:15]" in tree.out
    assert "└ eiger/scan1[7]  48 B" in tree.out
    assert tree.err == "made again: the same\n"
    document = run("provenance", "scaled/scan1~r3[-1]", "--check", "--json").json
    assert (document["id"], document["check"]["verdict"]) == (14, "same")
    assert document["inputs"][0]["state"] == "written"


def test_what_differs_from_the_results_that_are_there_is_told(run: Run, hub: Hub) -> None:
    run("replay", "eiger/scan1", "--to", "step:steps.py:scale", "--into", "scan1")
    same = run("replay", "eiger/scan1[1:5]", "--to", "step:steps.py:scale", "--dry-run")
    assert "nothing: deterministic code gives the same bytes" in same.out
    other = run(
        "replay", "eiger/scan1[1:5]", "--to", "step:steps.py:scale", "--factor=9", "--dry-run"
    )
    assert "parameters.factor: 2 before, 9 now" in other.out


def test_failures_are_an_exit_status(run: Run) -> None:
    said = run("replay", "eiger/scan1", "--to", "step:steps.py:strict")
    assert said.status == 1
    assert "6 failed: scan1[18]: ValueError: no thirds: 18" in said.err


def test_a_copy(run: Run) -> None:
    said = run("replay", "eiger/scan1[1:3]", "--to", "stream:", "--rate", "original*1000")
    assert said.status == 0
    assert "eiger/scan1~r2 is finished" in said.err
    shown = run("provenance", "eiger/scan1~r2[2]")
    assert "recorded once more, run 1" in shown.out
    assert "replay of eiger/scan1[1:3]" in shown.out


def test_a_group_is_changed_with_yes_only(run: Run, hub: Hub) -> None:
    assert len(list(hub.stream("eiger/scan1").group("azint", timeout=5.0))) == 20
    words = ("replay", "eiger/scan1[4:8]", "--to", "group:azint")
    shown = run(*words)
    assert shown.status == 1
    assert "nothing was changed; --yes does it" in shown.err
    assert "twice" in shown.err
    row = hub.stream("eiger/scan1").group("azint").info()
    assert row is not None
    assert row.open == 0
    done = run(*words, "--yes")
    assert done.status == 0
    assert "4 messages offered to group azint again" in done.err
    row = hub.stream("eiger/scan1").group("azint").info()
    assert row is not None
    assert row.open == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--to", "nowhere"], "nothing to replay to"),
        (["--to", "step:steps.py:none"], "there is no step"),
        (["--to", "step:steps.py:scale", "--rate", "fast"], "is no rate"),
        (["--to", "step:steps.py:scale", "--factr", "3"], "there is no parameter 'factr'"),
        (["--to", "step:steps.py:scale", "--factor", "x"], "parameter 'factor' is int"),
        (["--to", "stream:", "--factor", "3"], "--factor belongs to a step"),
        ([], "--to"),
    ],
)
def test_what_is_typed_wrongly(run: Run, words: list[str], says: str) -> None:
    said = run("replay", "eiger/scan1", *words)
    assert said.status == 2
    assert says in said.err


def test_one_message_has_a_provenance(run: Run) -> None:
    assert run("provenance", "eiger/scan1").status == 2
    assert run("provenance", "eiger/scan1[99]").status != 0
    unknown = run("provenance", "eiger/scan1[3]", "--check")
    assert unknown.status == 1
    assert "cannot be checked: nobody has said" in unknown.err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_is_ended_the_same_command_goes_on(
    run: Run, hub: Hub, how: signal.Signals
) -> None:
    words = ["replay", "eiger/scan1", "--to", "step:steps.py:scale"]
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "beamstream.cli.main", *words, "--rate", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    # Results are the sign that it is under way.
    group = hub.source("scaled").streams().group("watch", timeout=60.0)
    with group.subscribe() as seen:
        assert next(iter(seen)).id == 1  # type: ignore[union-attr]
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert process.returncode == -how
    else:
        assert process.returncode == 130
        assert "interrupted" in err
        assert "the same command goes on" in err
    said = run(*words)
    assert said.status == 0
    assert "going on from id" in said.out
    assert "scaled/scan1~r2 is finished" in said.err
    row = hub.stream("scaled/scan1~r2").info()
    assert row is not None
    assert (row.count, row.last_id) == (20, 20)
