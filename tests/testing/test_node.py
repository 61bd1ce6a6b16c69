"""NodeProcess against programs that start, die, hang and complain as nodes may."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from beamstream.errors import ConnectionLost, TimedOut
from beamstream.testing.node import NodeProcess, UnexpectedLog

PROGRAM = """
import json, os, signal, sys
from pathlib import Path

arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
data = Path(arguments["--data"])
data.mkdir(parents=True, exist_ok=True)
what = os.environ["WHAT"]
print("starting", flush=True)
if what == "dies":
    sys.exit("ERROR no room on this disk")
if what == "hangs":
    signal.pause()
port = int(arguments["--http"].rpartition(":")[2]) or 4711
document = {"url": f"http://127.0.0.1:{port}", "ingest": "127.0.0.1:4712", "pid": os.getpid()}
(data / "connect.json").write_text(json.dumps(document))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what == "complains":
    print("ERROR unexpected: division by zero", file=sys.stderr, flush=True)
(data / "arguments").open("a").write(arguments["--http"] + " " + arguments["--ingest"] + "\\n")
print("  export BEAMSTREAM_URL=x BEAMSTREAM_TOKEN=y", flush=True)
while True:
    signal.pause()
"""


def program(tmp_path: Path, what: str, **settings: Any) -> NodeProcess:
    (tmp_path / "pretend.py").write_text(PROGRAM)
    env = {"WHAT": what, "PYTHONPATH": str(tmp_path)}
    return NodeProcess(tmp_path / "data", module="pretend", env=env, **settings)


def test_start_and_end(tmp_path: Path) -> None:
    with program(tmp_path, "works") as node:
        assert node.running
        assert node.endpoint == "127.0.0.1:4711"
        assert node.rss_nbytes() > 1_000_000
        assert node.peak_rss_nbytes() >= node.rss_nbytes()
        assert node.cpu_s() >= 0
        assert node.fds() >= 3
        pid = node.pid
        assert node.terminate() == 0
    assert not node.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_restart_keeps_the_ports(tmp_path: Path) -> None:
    with program(tmp_path, "works") as node:
        first = node.pid
        node.restart()
        second = node.pid
        node.restart(kill=True)
        assert len({first, second, node.pid}) == 3
    lines = (tmp_path / "data" / "arguments").read_text().splitlines()
    assert lines == ["127.0.0.1:0 127.0.0.1:0", *["127.0.0.1:4711 127.0.0.1:4712"] * 2]


def test_a_node_below_another_command(tmp_path: Path) -> None:
    with program(tmp_path, "works", wrap=["sh", "-c", '"$0" "$@"; exit $?']) as node:
        assert Path(f"/proc/{node.pid}/cmdline").read_bytes().split(b"\0")[2] == b"pretend"
        assert node.terminate() == 0


def test_a_node_that_does_not_start_tells_why(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match="no room on this disk"):
        program(tmp_path, "dies").start()


def test_a_node_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    node = program(tmp_path, "hangs", start_s=1.0)
    with pytest.raises(TimedOut):
        node.start()
    assert not node.running


def test_a_node_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    node = program(tmp_path, "deaf").start()
    with pytest.raises(TimedOut):
        node.terminate(timeout_s=0.2)
    assert not node.running
    assert node.wait() == -signal.SIGKILL


def test_unexpected_errors_in_the_log_are_not_overlooked(tmp_path: Path) -> None:
    node = program(tmp_path, "complains").start()
    with pytest.raises(UnexpectedLog, match="division by zero"):
        node.terminate()


def test_a_temporary_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "pretend.py").write_text(PROGRAM)
    env = {"WHAT": "works", "PYTHONPATH": str(tmp_path)}
    with NodeProcess(module="pretend", env=env) as node:
        folder = node.data.parent
        assert folder.exists()
    assert not folder.exists()
