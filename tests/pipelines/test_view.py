"""How a pipeline looks: as a table, a line, sentences."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from beamstream.cli import pipeline_view
from beamstream.cli.pipeline_logs import Tail
from beamstream.worker.pipelines.running import Snapshot, StepRow
from beamstream.worker.pipelines.watching import Figures

BIN = StepRow(
    name="bin", state="running", wanted=2, running=2, auto=True, restarts=1,
    figures=Figures(done=100, made=90, behind=12, lag_s=0.5, in_hz=99.96, out_hz=80, delay_s=0.01),
)  # fmt: skip
FIND = StepRow(
    name="find", state="starting", wanted=3, running=1, auto=False, restarts=0,
    figures=Figures(failed=4), note="worker 1 ended with status 1: [red]oops\x1b[2J",
)  # fmt: skip
SEEN = Snapshot(pipeline="p", beamtime="b", state="up", up_s=75.0, steps=(BIN, FIND))


def test_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline_view.print_snapshot(SEEN)
    shown = capsys.readouterr()
    first, second = shown.out.splitlines()[1:]
    assert first.split() == [
        "bin", "running", "2", "auto", "100", "80", "12", "500", "ms", "10.0", "ms", "0", "1",
    ]  # fmt: skip
    assert second.split() == ["find", "starting", "1/3", "0", "0", "0", "-", "-", "4", "0"]
    assert shown.err == "find: worker 1 ended with status 1: [red]oops\\x1b[2J\n"


def test_as_a_line() -> None:
    assert pipeline_view.line(SEEN) == (
        "bin 2 auto: 100/s -12 (500 ms) | find starting 1/3: 0/s failed 4"
    )


def test_live_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import rich
    from rich.console import Console

    screen = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    monkeypatch.setattr(rich, "_console", screen)

    def run(each: object) -> Snapshot:
        assert callable(each)
        each(SEEN)
        return SEEN

    assert pipeline_view.live(run) is SEEN
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert "pipeline p of beamtime b: up" in shown
    assert "[red]oops\\x1b[2J" in shown


def test_only_what_changes_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    tell = pipeline_view.Events()
    tell(SEEN)
    tell(SEEN)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        "step bin: running",
        "step find: starting; worker 1 ended with status 1: [red]oops\\x1b[2J",
        "pipeline p: up",
    ]


def test_notes_of_all() -> None:
    ended = Snapshot(
        pipeline="p", beamtime="b", state="ended", up_s=1.0, steps=(BIN,), note="inputs are left"
    )
    assert pipeline_view.notes(ended) == ["inputs are left"]
    assert pipeline_view.document(ended)["steps"][0]["figures"]["behind"] == 12
    assert ended.all_running
    assert not SEEN.all_running


# ------------------------------------------------------------------------------ logs


def test_a_log_is_followed_when_it_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"1\n2\n3\nhalf")
    with Tail(path) as tail:
        assert tail.last(2) == ["2", "3"]
        with path.open("ab") as file:
            file.write(b" done\nlast\n")
        path.rename(tmp_path / "a.log.1")
        assert tail.new() == ["half done", "last"]
        assert tail.new() == []
        path.write_bytes(b"new\n")
        assert tail.new() == ["new"]


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    with Tail(tmp_path / "a.log") as tail:
        assert tail.last(0) == []
        (tmp_path / "a.log").write_bytes(b"x\n")
        assert tail.new() == ["x"]
