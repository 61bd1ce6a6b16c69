"""`beamstream worker` at a real node; the fixtures of the testing kit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamstream.cli.main import main
from beamstream.client.native.hub import Hub
from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system
pytest_plugins = ["beamstream.testing.pytest_plugin"]
WAIT_S = 60.0

CODE = '''
from beamstream.worker import step

@step(reads="det", writes="out", header=["shift"])
def double(frame, *, factor: int = 2, shift: float = 0.0, how: str = "plain"):
    """Twice, or more often.

    Parameters
    ----------
    factor : how often.
    """
    if frame[0] == 7 and factor == 3:
        raise ValueError("seven")
    return frame * factor
'''


@pytest.fixture
def code(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return f"{path}:double"


@pytest.fixture
def environment(beamstream_node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("BEAMSTREAM_URL", beamstream_node.endpoint)
    monkeypatch.setenv("BEAMSTREAM_TOKEN", beamstream_node.token("test"))
    monkeypatch.setenv("BEAMSTREAM_BEAMTIME", "test")
    return dict(os.environ)


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < deadline, "it has not happened"
    return found


def count(hub: Hub, source: str) -> int:
    row = hub.source(source).stream("s").info()
    return 0 if row is None else row.count


def test_a_worker_from_the_command_line(
    beamstream_hub: Hub,
    environment: dict[str, str],
    code: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = beamstream_hub
    writer = hub.source("det").stream("s").writer()
    for value in range(1, 11):
        writer.send(np.full(2, value))
    writer.flush()
    command = ["worker", "run", code, "--replicas", "2", "--factor", "3", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "beamstream.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        try:
            until(lambda: count(hub, "out") == 9 and count(hub, "double.failed") == 1)

            assert main(["worker", "failed", "double"]) == 1
            told = capsys.readouterr().out
            assert "det/s[7]  attempt 1, dead" in told
            assert "    ValueError: seven" in told
            assert main(["worker", "failed", "double", "--json", "--stream", "other"]) == 0
            assert json.loads(capsys.readouterr().out) == []

            assert main(["worker", "set", "double", "factor=x"]) == 2
            assert "'factor' is int, not 'x'" in capsys.readouterr().err
            assert main(["worker", "set", "double", "factor=5", "how=odd"]) == 0
            assert "factor=5, how=odd (version 2" in capsys.readouterr().out
            assert main(["worker", "set", "double", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["version"] == 2

            assert main(["worker", "again", "double", "s[1:5]"]) == 0
            assert "no messages" in capsys.readouterr().out
            assert main(["worker", "again", "double", "s[7]"]) == 0
            assert "1 message offered again" in capsys.readouterr().out
            until(lambda: count(hub, "out") == 10)

            def listed() -> dict[str, Any]:
                assert main(["worker", "ls", "--json"]) == 0
                [row] = json.loads(capsys.readouterr().out)
                return row

            until(lambda: listed()["workers"] == 2)
            row = listed()
            assert (row["step"], row["reads"], row["writes"]) == ("double", ["det"], "out")
            assert (row["workers"], row["dead"], row["parameters_version"]) == (2, 0, 2)
            assert main(["worker", "ls"]) == 0
            assert "version 2" in capsys.readouterr().out
            writer.close()
            until(lambda: (row := hub.source("out").stream("s").info()) and row.last_id == 10)
        finally:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    last = json.loads(out.splitlines()[-1])
    assert (last["done"], last["failed"], last["behind"]) == (10, 1, 0)
    assert hub.source("out").stream("s")[7].array().tolist() == [35, 35]


def test_help_is_made_from_the_step(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "run", code, "--help"]) == 0
    told = capsys.readouterr().out
    assert "Twice, or more often." in told
    assert "Reads det, writes out." in told
    assert "--factor  int. how often. [default: 2]" in told
    assert "--shift   float. [default: 0.0, or from the header]" in told
    assert main(["worker", "run", "--help"]) == 0
    assert "--replicas" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--factr", "3"], "do you mean 'factor'"),
        (["--factor", "three"], "'factor' is int, not 'three'"),
        (["--replicas", "0"], "--replicas is 1"),
        (["--on-error", "never"], "error policy"),
        (["--start", "middle"], "begin or new"),
    ],
)
def test_wrong_usage(
    code: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", "run", code, *words]) == 2
    assert told in capsys.readouterr().err


def test_a_step_that_is_not_there(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", "run", "nosuch.py:x"]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main(["worker", "set", "nosuch", "n=1"]) == 1
    assert main(["worker", "again", "nosuch"]) == 1
    assert main(["worker", "failed", "nosuch"]) == 0
    assert main(["worker", "ls"]) == 0


def test_a_worker_whose_parameters_are_refused_ends(
    environment: dict[str, str], beamstream_node: NodeProcess, tmp_path: Path
) -> None:
    """The process says so, and is not started again."""
    (tmp_path / "two.py").write_text(
        "import os\nfrom beamstream.errors import BadStep\nfrom beamstream.worker import step\n"
        "if os.path.exists(__file__ + '.seen'):\n    raise BadStep('only once')\n"
        "open(__file__ + '.seen', 'w').close()\n"
        "@step(reads='det')\ndef once(frame):\n    return None\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "beamstream.cli.main", "worker", "run", f"{tmp_path}/two.py:once"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "ended with status 2" in done.stderr
    assert "only once" in done.stderr
