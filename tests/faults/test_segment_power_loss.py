"""A power cut at any moment: payloads that were synced into segments are there, and intact."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from beamstream.errors import Error
from beamstream.store.files import digest_of
from beamstream.store.segments import Segments

from .power_loss import segment_writer
from .power_loss.disk import Answer, Model
from .power_loss.recording import Recording, differences, image_of
from .power_loss.replay import replay

ROUNDS = 12


def record(library: Path, folder: Path) -> Recording:
    root = folder / "root"
    root.mkdir()
    recording = Recording(library, root, folder / "log")
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        command = [sys.executable, segment_writer.__file__, str(root), str(ROUNDS), str(port)]
        with subprocess.Popen(command, env=recording.env) as process:
            connection, _ = door.accept()
            with connection:
                nbytes = 0
                while got := connection.recv(4096):
                    nbytes += len(got)
            assert process.wait(60) == 0
    assert nbytes == 2 * ROUNDS * segment_writer.ANSWER.size
    return recording


def check(folder: Path, answers: Sequence[Answer]) -> list[str]:
    """Open what the power cut has left, look for all that was promised, and go on writing."""
    promised = [
        found
        for answer in answers
        for found in segment_writer.payloads(answer.head[: segment_writer.ANSWER.size])
    ]

    def referenced(segment: int) -> int:
        ends = (place.offset + len(data) for place, data in promised if place.segment == segment)
        return max(ends, default=0)

    wrong: list[str] = []
    for start in ("first", "second"):
        try:
            log = Segments(folder, referenced=referenced)
        except Error as error:
            return [*wrong, f"{start} start: {error}"]
        if start == "second" and log.recovery.scanned_nbytes:
            wrong.append(f"scanned again: {log.recovery}")
        for place, payload in promised:
            try:
                log.read(*place, len(payload), digest_of(payload))
            except Error as error:
                wrong.append(f"lost at the {start} start: {place} {error}")
        more = log.append([b"more"])
        log.close()
        promised.append((more, b"more"))
    return wrong


@pytest.mark.parametrize("model", Model)
def test_what_was_synced_is_there(library: Path, scratch: Path, model: Model, seed: int) -> None:
    recording = record(library, scratch)
    ops = recording.ops()
    assert differences(recording.final_image(ops), image_of(recording.root)) == []
    report = replay(recording, ops, model, check, out=scratch / "out", seed=seed)
    print(report)
    assert report.states > 300
    assert not report.bad, report


def test_a_missing_sync_would_be_found(library: Path, scratch: Path, seed: int) -> None:
    """Without the syncs of the recording, the same check complains."""
    recording = record(library, scratch)
    ops = [op for op in recording.ops() if op.kind not in "BS"]
    report = replay(
        recording, ops, Model.EXT4, check, out=scratch / "out", seed=seed, stop_at_bad=5
    )
    assert report.kinds["lost at the first start"]
