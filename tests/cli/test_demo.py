"""The demo as people run it: a process of its own, a real node below it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beamstream.cli.demo_figures import WINDOW_SECONDS, Figures, Histogram

pytestmark = pytest.mark.system


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "beamstream.cli.main", "demo", *arguments]


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo in a folder for temporary files of its own, which must be empty afterwards."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert list(tmp_path.iterdir()) == []
    return done


def test_figures_as_json(tmp_path: Path) -> None:
    done = run(tmp_path, "--seconds", "2", "--json", "--rate", "50", "--shape", "512,256")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert 1.9 < figures["seconds"] < 10
    assert figures["sent"]["frames"] > 20
    assert len(figures["groups"]) == 2
    for group in figures["groups"].values():
        assert group["frames"] == figures["sent"]["frames"]
        assert (group["lag"], group["lost"], group["damaged"]) == (0, 0, 0)
        assert 0 < group["delay_ms_p50"] <= group["delay_ms_p99"]
    assert figures["node"]["cpu_s"] > 0


def test_files_instead_of_the_detector(tmp_path: Path) -> None:
    fabio = pytest.importorskip("fabio", reason="the extra 'formats' is not installed")
    files = tmp_path / "files"
    files.mkdir()
    for k in range(3):
        data = np.full((100, 120), k, np.int32)
        fabio.cbfimage.CbfImage(data=data).write(str(files / f"{k}.cbf"))
    names = [str(path) for path in sorted(files.iterdir())]
    there = tmp_path / "there"
    there.mkdir()
    done = run(there, "--seconds", "1", "--json", "--store", "--rate", "40", "--frames", *names)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert figures["stored"]
    for group in figures["groups"].values():
        assert group["frames"] == figures["sent"]["frames"] > 3
        assert group["damaged"] == 0


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(tmp_path: Path, name: signal.Signals) -> None:
    process = subprocess.Popen(
        command("--rate", "50", "--shape", "256,256"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        line = process.stdout.readline().decode()
        assert re.search(r"detector \d+\.\d/s .* preview .* p50 .* reduction .* lag \d+", line)
        process.send_signal(name)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, b"")
    text = out.decode()
    assert re.search(r"\d+ frames in \d+\.\d s", text)
    assert re.search(r"Group preview got \d+, delay p50 .* all as they were sent", text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--shape", "12"), "ROWS,COLUMNS"),
        (("--rate", "0"), "rate"),
        (("--seconds", "-1"), "seconds"),
        (("--frames", "no/such/file.cbf"), "no/such/file.cbf"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: tuple[str, ...], what: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("beamstream: ")
    assert what in done.stderr
    assert done.stderr.count("\n") == 1


# -------------------------------------------------------------------------------- figures


def test_quantiles_are_right_within_a_bucket() -> None:
    histogram = Histogram()
    delays = np.random.default_rng(1).lognormal(1, 1, 5000)
    histogram.add(delays.tolist())
    for share in (0.5, 0.9, 0.99):
        assert histogram.quantile(share) == pytest.approx(np.quantile(delays, share), rel=0.05)


def test_delays_out_of_range_are_counted_at_the_ends() -> None:
    histogram = Histogram()
    histogram.add([-5.0, 0.0, 1e12])
    assert histogram.count == 3
    assert histogram.quantile(0.3) < 0.0011
    assert histogram.quantile(1.0) > 100_000


def test_rates_are_those_of_the_last_seconds() -> None:
    figures = Figures("x", 0.0)
    for tick in range(1, 101):
        figures.add(tick * 0.1, 1 if tick <= 40 else 10, 100, tick, [1.0 if tick <= 40 else 2.0])
    frames, nbytes = figures.rates()
    assert frames == pytest.approx(100, rel=0.03)
    assert nbytes == pytest.approx(1000, rel=0.03)
    assert figures.recent_quantiles() == (2.0, 2.0)
    assert figures.last_id == 100
    document = figures.document(10.0)
    assert document["frames"] == 40 + 600
    assert document["frames_per_s"] == 64.0
    assert WINDOW_SECONDS == 5.0
