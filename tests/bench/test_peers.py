"""The second table: real runs of those peers that are installed, and what is made of figures."""

from __future__ import annotations

import doctest
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from beamstream.errors import Error
from benchmarks.figures import PEERS_BEGIN, PEERS_END, peers_markdown, write
from benchmarks.peers import environment, report
from benchmarks.peers.__main__ import main, parse_sizes
from benchmarks.peers.interface import CannotBeHad, Peer
from benchmarks.peers.measure import Found, measure
from benchmarks.peers.ports import NotUp, free_port, running
from benchmarks.peers.registry import PEERS, REFERENCE

RUNS = {1: (100, 1.0), 2: (300, 1.0), 3: (200, 1.0)}
QUICK = [peer for peer in PEERS if peer.durability in ("keeps nothing", "memory")]


@pytest.fixture(autouse=True)
def _install_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMSTREAM_BENCH_PEERS_NO_INSTALL", "1")


@pytest.mark.system
@pytest.mark.parametrize("peer", QUICK, ids=lambda peer: peer.title)
def test_a_real_case(peer: Peer, tmp_path: Path) -> None:
    try:
        peer.python()
    except CannotBeHad as error:
        pytest.skip(f"{peer.title}: {error}")
    found = measure(peer, 10_000, 0.05, tmp_path)
    assert found.count >= 2
    assert found.wall_s > 0
    assert found.cpu_s > 0
    assert bool(found.delays_ns) is not peer.alone
    # A delay is of one machine's monotonic clock, and nobody waited for minutes.
    assert all(0 < delay < 60e9 for delay in found.delays_ns)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    assert (
        main(["--quick", "--only", "memcpy", "--folder", str(tmp_path), "--json", str(path)]) == 0
    )
    shown = capsys.readouterr()
    assert "of the raw socket" in shown.out
    assert "NOT FOR FIGURES: QUICK RUN, ONLY memcpy" in shown.out
    result = json.loads(path.read_text())
    assert result["complete"]
    assert [row["title"] for row in result["rows"]] == ["raw socket", "memcpy"]
    assert result["rows"][0]["cells"]["1 MB"]["share"] == 1.0
    assert result["rows"][1]["cells"]["1 MB"]["p50_ms"] is None
    assert {"commit", "processor", "python"} <= result["settings"].keys()
    with pytest.raises(SystemExit, match="not complete"):
        peers_markdown(result)


@pytest.mark.system
def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"No module named .*benchmarks\.peers\.nowhere"):
        measure(replace(REFERENCE, module="nowhere"), 1_000, 0.05, tmp_path)


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room here')"]
    with pytest.raises(NotUp, match="no room here"), running(command, tmp_path, free_port()):
        pytest.fail("it did not run")


def test_what_cannot_be_had_is_left_out_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "FOLDER", tmp_path / "nowhere")
    for function in (environment._make, environment._versions):
        function.cache_clear()
        monkeypatch.setattr(environment, function.__name__, function.__wrapped__)
    path = tmp_path / "result.json"
    arguments = ["--quick", "--sizes", "1kB", "--only", "zmq", "--json", str(path)]
    assert main([*arguments, "--folder", str(tmp_path)]) == 0
    assert "left out: ZeroMQ PUSH/PULL: " in capsys.readouterr().out
    reason = json.loads(path.read_text())["left out"]["ZeroMQ PUSH/PULL"]
    assert reason.endswith("is not installed, and BEAMSTREAM_BENCH_PEERS_NO_INSTALL is set")


@pytest.mark.parametrize("text", ["", "1", "999", "8 GB", "-1kB", "1kB,,2kB", "1.5MB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_sizes(text)


def test_rows_are_told_apart() -> None:
    assert len({peer.title for peer in PEERS}) == len(PEERS)


def measured(peer: Peer, factor: float) -> dict[tuple[Peer, int], dict[int, Found]]:
    runs = {
        number: Found(int(count * factor), wall_s, 0.5, 0.25, [1_000_000] * 100)
        for number, (count, wall_s) in RUNS.items()
    }
    return {(peer, 1_000_000): runs}


def result() -> dict[str, Any]:
    zmq = next(peer for peer in PEERS if peer.key == "zmq")
    lines = report.lines(
        PEERS, [1_000_000], measured(REFERENCE, 1.0) | measured(zmq, 0.5), REFERENCE
    )
    return {
        "what": "peers",
        "complete": True,
        "left out": {"NATS JetStream, memory": "no server"},
        "versions": {"ZeroMQ": "pyzmq 27"},
        "settings": {"runs": "3", "commit": "abc", "processor": "P", "kernel": "Linux 6",
                     "file system": "ext4", "shortened": ""},
        "rows": json.loads(json.dumps(report.document(lines))),
    }  # fmt: skip


def test_figures_are_medians_and_shares_of_the_same_run() -> None:
    raw, zmq = report.from_document(result()["rows"])
    cell = zmq.cells["1 MB"]
    assert (cell.rate_min, cell.rate, cell.rate_max) == (50.0, 100.0, 150.0)
    assert cell.gb_s == pytest.approx(0.1)
    assert cell.share == 0.5
    assert (cell.p50_ms, cell.p99_ms, cell.delays) == (1.0, 1.0, 300)
    assert cell.cpu_s_per_gb == pytest.approx(5.0)
    assert cell.server_cpu_s_per_gb == pytest.approx(2.5)
    assert raw.cells["1 MB"].share == 1.0
    text = report.table([raw, zmq], [1_000_000, 8_000_000])
    assert "ZeroMQ PUSH/PULL   100     -" in text
    assert "5.00 (2.50)" in text


def test_the_readme_has_them_between_their_own_marks(tmp_path: Path) -> None:
    text = peers_markdown(result())
    assert "| ZeroMQ PUSH/PULL | 100 (0.5) |" in text
    assert "| ZeroMQ PUSH/PULL | 1.00 / 1.00 |" in text
    assert "Left out: NATS JetStream, memory (no server)." in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{PEERS_BEGIN}\nold\n{PEERS_END}\nafter\n")
    write(page, text, PEERS_BEGIN, PEERS_END)
    assert page.read_text() == f"before\n{PEERS_BEGIN}\n\n{text}\n\n{PEERS_END}\nafter\n"


def test_a_page_without_marks_stays_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    with pytest.raises(SystemExit, match="to write the figures between"):
        write(page, "text", PEERS_BEGIN, PEERS_END)
    assert page.read_text() == "no marks\n"


@pytest.mark.parametrize("change", [{"complete": False}, {"settings": {"shortened": "QUICK RUN"}}])
def test_a_shortened_run_gives_no_figures(change: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="not complete"):
        peers_markdown(result() | change)


@pytest.mark.parametrize(
    "name", ["interface", "measure", "report", "registry", "__main__", "environment"]
)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"benchmarks.peers.{name}"))
    assert found.failed == 0
    assert found.attempted > 0
