"""Power cuts: every state that the disk may be left in keeps what had been answered.

A node works under the recorder; then the folder is made to hold what two models of file systems
allow after each single operation, and the node's own recovery opens it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamstream.store.files import digest_of
from beamstream.testing.checker import metadata, payload
from beamstream.testing.node import NodeProcess
from beamstream.wire.asapo.structs import Code

from .power_loss.disk import Model
from .power_loss.promises import Promises, Sent
from .power_loss.recording import Recording, differences, image_of
from .power_loss.replay import Report, replay
from .power_loss.workload import Workload, record_node
from .raw import RawProducer, Target
from .readback import files_folder

pytestmark = pytest.mark.system

MESSAGES = 6


def replay_node(
    workload: Workload,
    model: Model,
    seed: int,
    *,
    seconds: float | None = None,
    stop_at_bad: int = 0,
) -> Report:
    """Check the states of a recording, in the very folder that was recorded."""
    recording = workload.recording
    report = replay(
        recording,
        recording.ops(),
        model,
        workload.promises.check,
        # The node notes absolute paths: only in its own place does it find its files again.
        out=recording.root,
        seed=seed,
        seconds=seconds,
        stop_at_bad=stop_at_bad,
    )
    print(report)
    return report


@pytest.mark.parametrize("kill_after", [0, 12], ids=["", "after a kill"])
def test_power_cuts_lose_nothing(
    library: Path, scratch: Path, seconds: float, seed: int, kill_after: int
) -> None:
    """Also when the node was killed before, and its clients have sent again."""
    workload = record_node(library, scratch, seed, MESSAGES, kill_after=kill_after)
    recording = workload.recording
    ops = recording.ops()
    assert differences(recording.final_image(ops), image_of(recording.root)) == []
    reports = [
        replay_node(workload, model, seed, seconds=seconds / 4, stop_at_bad=50) for model in Model
    ]
    for report in reports:
        assert not report.bad, str(report)
        assert report.answers >= 5 * MESSAGES
        assert report.states >= 50 * MESSAGES


LEAVE = """
import os, sys
folder, part = sys.argv[1:]
os.mkdir(folder)
fd = os.open(part, os.O_WRONLY | os.O_CREAT)
os.write(fd, sys.stdin.buffer.read())
os.fdatasync(fd)
os.rename(part, folder + "/2")
"""


def test_what_a_killed_node_left_unsynced_is_made_safe(
    library: Path, scratch: Path, seed: int
) -> None:
    """A folder that it had just made, and a whole file without a record: both are used again."""
    root = scratch / "root"
    root.mkdir()
    recording = Recording(library, root, scratch / "record")
    promises = Promises()
    node = NodeProcess(recording.root / "data", cache="64MiB", env=recording.env)
    node.log = scratch / "log"
    try:
        put(node, promises, seed, 1, "processed/1")
        node.kill()
        recording.killed()
        node.start()
        left = files_folder(node) / "processed" / "left"
        content = payload(seed, 2, 5000)
        command = [sys.executable, "-c", LEAVE, str(left), str(recording.root / "part")]
        subprocess.run(command, input=content, env={**os.environ, **recording.env}, check=True)
        put(node, promises, seed, 2, "processed/left/2")
        put(node, promises, seed, 3, "processed/left/3")
        promises.key = (node.data / "key").read_bytes()
        node.terminate()
    finally:
        node.kill()
    workload = Workload(recording, seed, 3)
    workload.promises = promises
    for model in Model:
        report = replay_node(workload, model, seed)
        assert not report.bad, str(report)
        assert report.states >= 50


def put(node: NodeProcess, promises: Promises, seed: int, id: int, name: str) -> None:
    """Send one message on a connection of its own, and note what its answer promises."""
    node.start()
    data, meta = payload(seed, id, 5000), metadata(seed, id)
    text = json.dumps(meta).encode()
    with RawProducer(Target(node)) as producer:
        promises.add(producer.port, Sent(""))
        promises.add(producer.port, Sent("put", "s", id, name, 5000, digest_of(data), text))
        assert producer.put(id, name, data, meta, stream="s").code == Code.SUCCESS
