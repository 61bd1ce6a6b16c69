"""The demo as people run it: a process of its own, a real node below it."""

from __future__ import annotations

import itertools
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
from hypothesis import given
from hypothesis import strategies as st

from beamstream.cli.demo_chain import GIVEN_UP, Chain, Ids, Seen
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


def test_groups_of_asapo_as_json(tmp_path: Path) -> None:
    shape = ("--rate", "50", "--shape", "512,256")
    done = run(tmp_path, "--no-pipeline", "--seconds", "2", "--json", *shape)
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
    how = ("--seconds", "1", "--json", "--store", "--rate", "40", "--frames", *names)
    done = run(there, "--no-pipeline", *how)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert figures["stored"]
    for group in figures["groups"].values():
        assert group["frames"] == figures["sent"]["frames"] > 3
        assert group["damaged"] == 0
    done = run(there, *how)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert figures["steps"]["find_peaks"]["frames"] == figures["sent"]["frames"] > 3
    assert figures["steps"]["hits"]["frames"] == 0
    assert figures["problems"] == []


def test_the_pipeline_as_json(tmp_path: Path) -> None:
    done = run(tmp_path, "--seconds", "3", "--json", "--rate", "30", "--shape", "512,512")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    sent, steps = figures["sent"], figures["steps"]
    assert figures["problems"] == []
    assert sent["frames"] > 40
    assert list(steps) == ["bin", "find_peaks", "hits"]
    assert steps["bin"]["frames"] == steps["find_peaks"]["frames"] == sent["frames"]
    assert steps["hits"]["frames"] + steps["hits"]["skipped"] == sent["frames"]
    # What the simulated detector has put there is what the pipeline has found.
    assert 0 < steps["hits"]["frames"] == sent["with_spots"]
    for before, after in itertools.pairwise(steps.values()):
        assert 0 < before["delay_ms_p50"] < after["delay_ms_p50"]
        assert (after["failed"], after["twice"]) == (0, 0)
    assert steps["find_peaks"]["workers"] == 2


def workers(pid: int) -> dict[int, str]:
    """Worker processes of a running demo, with their command lines."""
    found = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "beamstream.worker" in line:
                found[int(child)] = line
    return found


def test_killed_workers_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--rate", "40", "--shape", "512,512", "--no-page"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert next(lines).startswith("# ")
        assert next(lines).startswith("export BEAMSTREAM_URL=http://")
        for _ in range(3):
            assert re.search(r"detector .* bin x\d .* find_peaks x\d .* hits x\d .*", next(lines))
            there = workers(process.pid)
            assert there
            os.kill(min(there), signal.SIGKILL)
            os.kill(max(there), signal.SIGKILL)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
    assert "restarts" in out
    assert (
        out.splitlines()[-2] == "All counts agree along the chain; each hit is there exactly once."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(tmp_path: Path, name: signal.Signals) -> None:
    process = subprocess.Popen(
        command("--no-pipeline", "--no-page", "--rate", "50", "--shape", "256,256"),
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


# ---------------------------------------------------------------------------------- chain


def chain() -> Chain:
    steps = [("bin", "binned"), ("find_peaks", "found"), ("hits", "hits")]
    return Chain("detector", steps, 0.0, kept_from=5)


def fill(made: Chain, *, hits: list[int]) -> None:
    """Ten frames, of which 2, 4, 6 … have nine peaks; each step takes a millisecond."""
    made.saw("detector", 0.0, [Seen(id, id * 1_000_000, 8) for id in range(1, 11)])
    made.saw("binned", 0.0, [Seen(id, (id + 1) * 1_000_000, 2) for id in range(10, 0, -1)])
    found = [Seen(id, (id + 2) * 1_000_000, 2, peaks=9 * (id % 2 == 0)) for id in range(1, 11)]
    made.saw("found", 0.0, found)
    made.saw("hits", 0.0, [Seen(id, (id + 3) * 1_000_000, 2) for id in hits])
    made.steps[2].skipped = 5


def test_a_chain_that_agrees() -> None:
    made = chain()
    fill(made, hits=[2, 4, 6, 8, 10])
    assert made.check() == []
    document = made.document(10.0)
    assert document["bin"]["frames"] == 10
    assert [step.out.recent_quantiles()[1] for step in made.steps] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("hits", "problem"),
    [
        ([2, 4, 6, 8], "1 hits are missing, 0 are none"),
        ([2, 4, 6, 8, 9], "1 hits are missing, 1 are none"),
        ([2, 4, 6, 8, 10, 10], "step 'hits' wrote 1 messages twice"),
        ([2, 4, 6, 8, 11], "step 'hits' wrote 1 ids that it never read"),
        ([2, 4, 6, 8, 10, 7], "step 'hits' read 10, and wrote 6, skipped 5, failed on 0"),
    ],
)
def test_a_chain_that_does_not(hits: list[int], problem: str) -> None:
    made = chain()
    fill(made, hits=hits)
    assert problem in made.check()


def test_what_is_on_its_way() -> None:
    made = chain()
    made.saw("found", 0.0, [Seen(id, 0, 0) for id in (1, 2, 4)])
    assert made.through.first_missing == 3
    made.saw(GIVEN_UP, 0.0, [Seen(3, 0, 0)])
    assert made.through.first_missing == 5


def test_results_may_be_seen_before_their_frames() -> None:
    made = chain()
    made.saw("binned", 1.0, [Seen(7, 9_000_000, 2)])
    assert made.steps[0].out.frames == 0
    made.saw("detector", 1.1, [Seen(7, 4_000_000, 8)])
    assert made.steps[0].out.recent_quantiles() == (5.0, 5.0)


@given(st.lists(st.integers(1, 5000)), st.lists(st.integers(1, 5000)))
def test_ids_are_a_set(first: list[int], second: list[int]) -> None:
    one, other = Ids(), Ids()
    assert [one.add(id) for id in first] == [id not in first[:k] for k, id in enumerate(first)]
    for id in second:
        other.add(id)
    assert (len(one), len(other)) == (len(set(first)), len(set(second)))
    assert one.first_missing == next(id for id in itertools.count(1) if id not in first)
    assert one.without(other) == len(set(first) - set(second))
    assert other.without(one) == len(set(second) - set(first))
