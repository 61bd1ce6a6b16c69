"""The process: when its node hangs, over several nodes, elsewhere; how it begins and ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import beamstream as bs
from beamstream.errors import BadInput
from beamstream.monitor import jobs
from beamstream.monitor.__main__ import job_of
from beamstream.monitor.jobs import Job, NodeJob
from beamstream.testing.node import NodeProcess
from monitor.running import LOCAL, MonitorProcess, admin_token, until
from monitor.test_feed import snapshot, tell


@pytest.fixture(scope="module")
def second() -> Iterator[NodeProcess]:
    with NodeProcess(cache="64MiB", durability="os") as made:
        hub = bs.connect(made.connect["url"], beamtime="demo", token=made.token())
        with hub, hub.source("elsewhere").stream("s").writer() as writer:
            writer.send(b"x")
        yield made


def test_a_node_that_hangs_makes_numbers_stale_and_nothing_else(
    second: NodeProcess, tmp_path: Path
) -> None:
    job = Job(
        name="n", url=second.connect["url"], token=admin_token(second),
        socket=str(tmp_path / "m.sock"),
    )  # fmt: skip
    with MonitorProcess(job) as monitor, monitor.feed() as tab:
        tell(tab, watch={"overview": {"beamtime": ""}})
        assert snapshot(tab)["data"]["node"]["state"] == "live"
        os.kill(second.pid, signal.SIGSTOP)
        try:
            stopped = snapshot(tab, lambda told: told["stale_s"] > 2.5, 5.0)
            assert stopped["data"]["node"]["state"] == "stale"
            assert "has not answered" in stopped["data"]["sentence"]
            assert monitor.get("me")["nodes"] == ["n"]
            assert b"beamstream_node_up 0" in monitor.ask("GET", "/metrics").data
            assert monitor.get("history", kind="node")["times"]
            assert monitor.get("health")["nodes"][0]["error"] == "E801"
        finally:
            os.kill(second.pid, signal.SIGCONT)
        assert snapshot(tab, lambda told: told["stale_s"] < 1)["data"]["node"]["state"] == "live"


def test_several_nodes_elsewhere(
    node: NodeProcess, admin: str, second: NodeProcess, tmp_path: Path
) -> None:
    nodes = (
        NodeJob(name="first", url=node.connect["url"], token=admin),
        NodeJob(name="other", url=second.connect["url"], token=admin_token(second)),
    )
    job = Job(nodes=nodes, listen="127.0.0.1:0", data=str(tmp_path), prefix="/p11/eyes")
    with MonitorProcess(job) as monitor:
        assert "/p11/eyes/ui/" in monitor.at
        host = {"Host": monitor.at.split("/")[2]}
        found = monitor.ask("GET", "/p11/eyes/api/v1/overview?node=other", None, host)
        assert found.json["node"] == "other"
        assert [row["source"] for row in found.json["data"]["sources"]] == ["elsewhere"]
        assert monitor.ask("GET", "/api/v1/me", None, host).json["nodes"] == ["first", "other"]
        assert monitor.ask("GET", "/api/v1/overview?node=third", None, host).status == 404
        # The header is only believed where nobody but the node can write it.
        forged = host | {"x-beamstream-peer": "192.0.2.1:1"}
        assert monitor.ask("GET", "/api/v1/health", None, forged).status == 200
        other = {"Host": "rebound.example"}
        assert monitor.ask("GET", "/api/v1/health", None, other).status == 401
        moved = monitor.ask("GET", "/p11/eyes/", None, host)
        assert (moved.status, moved.headers["location"]) == (307, "ui/")
        headers = host | {"Content-Type": "application/json", "X-Beamstream": "1"}
        entered = monitor.ask("POST", "/api/v1/login", {"token": node.token()}, headers)
        assert "path=/p11/eyes" in entered.headers["set-cookie"].lower()


def test_a_node_that_is_not_there_is_told(tmp_path: Path) -> None:
    job = Job(url="tcp://127.0.0.1:9", token="t", socket=str(tmp_path / "m.sock"))
    with MonitorProcess(job) as monitor:
        found = monitor.ask("GET", "/api/v1/overview")
        assert found.status == 503
        assert found.json["code"] == "E800"
        assert monitor.get("health")["nodes"][0]["name"] == "127.0.0.1:9"
        with monitor.feed() as tab:
            assert json.loads(tab.recv(timeout=10))["code"] == "E800"


def test_history_survives_a_restart(node: NodeProcess, admin: str, tmp_path: Path) -> None:
    job = Job(
        name="n", url=node.connect["url"], token=admin, socket=str(tmp_path / "m.sock"),
        data=str(tmp_path / "data"),
    )  # fmt: skip
    with MonitorProcess(job) as monitor:
        until(lambda: monitor.get("history", kind="node")["times"], bool)
    assert (tmp_path / "data" / "history.db").exists()
    with MonitorProcess(job) as monitor:
        assert monitor.get("health")["series"] >= 1


def test_its_socket_is_for_this_user_alone(monitor: MonitorProcess) -> None:
    mode = Path(monitor.job.socket).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_it_ends_with_its_stdin_and_by_signal(tmp_path: Path) -> None:
    job = Job(url="tcp://127.0.0.1:9", token="t", socket=str(tmp_path / "m.sock"))
    with MonitorProcess(job) as monitor:
        pass
    assert monitor.status == 0
    assert not Path(job.socket).exists()
    with MonitorProcess(job) as monitor:
        monitor.process.send_signal(signal.SIGTERM)
        assert monitor.process.wait(20) in (0, -signal.SIGTERM)
        monitor.process.returncode = 0


@pytest.mark.parametrize("line", [b"no job\n", b"{}\n", b'{"socket": "/nowhere/m.sock"}\n', b""])
def test_a_job_that_cannot_be_done_is_refused(line: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "beamstream.monitor"], input=line, capture_output=True, timeout=60
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(b"E")
    assert b"Traceback" not in done.stderr


# ------------------------------------------------------------------------------ jobs


def test_a_job_from_the_command_line(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / name)
        files[-1].write_text(f"token {name}\n")
    given = ["--listen", "[::1]:0", "--node", "one=http://a:8400", "--node", "http://b:8400"]
    given += ["--token-file", str(files[0]), "--token-file", str(files[1]), "--prefix", "/x"]
    job = job_of(given, {})
    assert [(one.label, one.token) for one in job.watched] == [
        ("one", "token a"), ("b:8400", "token b"),
    ]  # fmt: skip
    assert job.prefix == "/x"
    assert (
        job_of(["--listen", "h:1", "--node", "u"], {"BEAMSTREAM_TOKEN": "t"}).watched[0].token
        == "t"
    )
    with pytest.raises(BadInput):
        job_of([*given, "--token-file", str(files[0])], {})
    assert "token a" not in repr(job)


@pytest.mark.parametrize(
    "job",
    [
        Job(),
        Job(socket="s", listen="h:1"),
        Job(socket="s", prefix="x"),
        Job(socket="s", nodes=(NodeJob(url="http://a"), NodeJob(url="http://a"))),
    ],
)
def test_wrong_jobs(job: Job) -> None:
    with pytest.raises(BadInput):
        jobs.decode(jobs.encode(job))


# ------------------------------------------------------------------------------ many


def test_questions_at_once(monitor: MonitorProcess, images: bs.Stream) -> None:
    """More than there are threads: each is answered, or told to come again."""
    seen: list[int] = []

    def ask() -> None:
        try:
            seen.append(monitor.ask("GET", "/api/v1/streams?beamtime=demo", None, LOCAL).status)
        except (OSError, http.client.HTTPException):
            seen.append(0)

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(seen) <= {200, 503}
    assert seen.count(200) >= 50
