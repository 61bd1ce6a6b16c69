from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import beamstream as bs
from beamstream.monitor.replays import _file_of
from beamstream.testing.node import NodeProcess
from beamstream.worker.pipelines.state_folder import folder_of
from monitor.running import MonitorProcess, until


@pytest.fixture(scope="module")
def stream(hub: bs.Hub) -> bs.Stream:
    found = hub.source("once").stream("s")
    with found.writer() as writer:
        for number in range(40):
            writer.send(np.full((8, 8), number, np.uint16))
    return found


def asked(**more: Any) -> dict[str, Any]:
    return {"beamtime": "demo", "source": "once", "stream": "s", "rate": "max"} | more


def jobs(monitor: MonitorProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = monitor.get("replays", beamtime="demo")["jobs"]
    return found


def test_a_replay_is_what_its_preview_says(
    monitor: MonitorProcess, node: NodeProcess, hub: bs.Hub, stream: bs.Stream
) -> None:
    wish = asked(range="[11:31]")
    plan = monitor.post("replays", wish, node.token()).json
    assert (plan["count"], plan["nbytes"]) == (20, 20 * 128)
    assert sum(plan[key] for key in ("cached", "files", "log", "gone")) == 20
    assert plan["target"] == "once/s~r2"
    assert not hub.source("once").stream("s~r2").exists
    begun = monitor.post("replays", wish | {"dry_run": False}, node.token()).json
    assert begun["address"] == "once/s[11:31]"
    over = until(lambda: jobs(monitor)[0], lambda job: job["state"] != "running")
    assert (over["id"], over["state"], over["done"]) == (begun["id"], "done", 20)
    copy = hub.source("once").stream("s~r2")
    assert [message.id for message in copy] == list(range(11, 31))


def test_a_replay_to_a_step_of_stock(
    monitor: MonitorProcess, node: NodeProcess, hub: bs.Hub, stream: bs.Stream
) -> None:
    wish = asked(to="step:bin", range="[1:11]", dry_run=False)
    begun = monitor.post("replays", wish, node.token())
    if begun.status != 200:
        # A step that says nowhere where it writes has no place for what it makes.
        assert begun.json["code"].startswith("E1"), begun.data
        return
    over = until(lambda: jobs(monitor)[0], lambda job: job["state"] != "running")
    assert over["state"] == "done", over


def test_a_replay_can_be_cancelled(
    monitor: MonitorProcess, node: NodeProcess, stream: bs.Stream
) -> None:
    begun = monitor.post("replays", asked(rate="1", dry_run=False), node.token()).json
    running = until(lambda: jobs(monitor)[0], lambda job: job["done"] > 0)
    assert running["state"] == "running"
    assert monitor.post(f"replays/{begun['id']}/cancel", {}, node.token("other")).status == 403
    assert monitor.post(f"replays/{begun['id']}/cancel", {}, node.token()).json == {"done": True}
    over = until(lambda: jobs(monitor)[0], lambda job: job["state"] != "running")
    assert over["state"] == "cancelled"
    assert 0 < over["done"] < 40


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"to": "moon:x"}, 400),
        ({"rate": "fast"}, 400),
        ({"range": "[90:95]"}, 404),
        ({"range": "[1:"}, 400),
        ({"to": "step:/tmp/evil.py:step"}, 403),
        ({"to": "step:module:join"}, 400),
        ({"to": "step:pipeline.step"}, 403),
        ({"to": "group:nobody"}, 404),
    ],
)
def test_what_cannot_be_replayed(
    monitor: MonitorProcess, node: NodeProcess, stream: bs.Stream, wish: dict[str, Any], status: int
) -> None:
    assert monitor.post("replays", asked(**wish), node.token()).status == status


def test_metadata_do_not_say_which_code_runs(
    monitor: MonitorProcess, node: NodeProcess, hub: bs.Hub, stream: bs.Stream, tmp_path: Path
) -> None:
    """Whoever may write to a beamtime could name any file as that of a pipeline."""
    file = tmp_path / "evil.yaml"
    file.write_text("pipeline: evil\nsteps:\n- name: step\n  run: evil.py:step\n  reads: once\n")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    document = {"pipeline": "evil", "host": socket.gethostname(), "pid": 1, "file": str(file)}
    hub.source("pipelines").stream("evil").set_meta(document)
    found = monitor.post("replays", asked(to="step:evil.step"), node.token())
    assert found.status == 403
    assert not (tmp_path / "ran").exists()


def test_a_file_is_that_of_the_process_that_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = folder_of(os.environ, "demo", "mine")
    assert _file_of("demo", "mine", __file__) is None, "nothing runs"
    with folder.locked():
        own = Path(Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()).resolve()
        assert _file_of("demo", "mine", str(own)) == own
        assert _file_of("demo", "mine", str(tmp_path / "other.yaml")) is None
        assert _file_of("demo", "mine", None) is None
