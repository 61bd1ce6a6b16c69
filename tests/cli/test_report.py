"""`beamstream report`: from a node without a monitor, and what it writes."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.cli.main import main
from beamstream.cli.options import Usage
from beamstream.cli.report import Record, seconds_of
from beamstream.cli.top_watching import Watching
from beamstream.client.native.hub import Hub, connect
from beamstream.errors import TimedOut
from beamstream.testing.node import NodeProcess
from metrics.watched import Monitor


@given(st.integers(1, 86_400))
def test_spans_in_any_unit_are_the_same(seconds: int) -> None:
    assert seconds_of(f"{seconds}s") == seconds
    if seconds % 60 == 0:
        assert seconds_of(f"{seconds // 60}m") == seconds_of(f" {seconds // 60} min ") == seconds


@given(st.text(max_size=12))
def test_any_text_is_a_span_or_wrong_usage(text: str) -> None:
    try:
        seconds = seconds_of(text)
    except Usage:
        return
    assert 1 <= seconds <= 86_400


@pytest.mark.parametrize("text", ["0s", "2d", "10", "-5s", "1e3s", "ten m"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        seconds_of(text)


class Outside(html.parser.HTMLParser):
    """What a page asks others for, and what it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object"):
            self.found.append(tag)
        self.found += [f"{name}={value}" for name, value in attrs if name in ("src", "href")]
        self.found += [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(
        tmp_path_factory.mktemp("node") / "data", cache="64MiB", durability="os"
    ) as node:
        yield node


@pytest.fixture
def hub(node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("BEAMSTREAM_URL", node.connect["url"])
    monkeypatch.setenv("BEAMSTREAM_TOKEN", node.connect["token"])
    with connect() as hub:
        yield hub


@pytest.mark.system
def test_a_report_has_what_went_on_and_needs_nothing_else(hub: Hub) -> None:
    writer = hub.stream("<script>/a").writer()
    wall = [1_767_225_600.0]
    record = Record(Watching(hub, "node1"), lambda: wall[0])
    for second in range(30):
        wall[0] = 1_767_225_600.0 + second
        writer.send(b"x" * 1000).result(10)
        record.take()
    page = record.page(30.0)
    assert record.looks == 30
    assert "node1, 2026-01-01 00:00:29 UTC" in page
    assert "&lt;script&gt;" in page
    assert "<polyline" in page
    assert "rate (Hz" in page
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)


@pytest.mark.system
def test_nothing_seen_is_nothing_to_write(hub: Hub) -> None:
    with pytest.raises(TimedOut):
        Record(Watching(hub, "node1")).page(10.0)


@pytest.mark.system
@pytest.mark.usefixtures("hub")
def test_the_command_writes_one_file_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.html"
    assert main(["report", "--last", "1s", "-o", str(path)]) == 0
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    page = path.read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "report.html" in capsys.readouterr().err
    assert main(["report", "--last", "1s", "-o", str(path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == page
    assert main(["report", "--last", "1s", "-o", str(path), "--force"]) == 0
    assert main(["report", "--last", "1s", "-o", "-"]) == 0
    assert capsys.readouterr().out.lower().startswith("<!doctype html>")


@pytest.mark.system
def test_a_monitor_is_asked_for_what_it_has_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with NodeProcess(cache="64MiB", durability="os") as node:
        monkeypatch.setenv("BEAMSTREAM_URL", node.connect["url"])
        monkeypatch.setenv("BEAMSTREAM_TOKEN", node.connect["token"])
        with connect() as hub:
            hub.stream("eiger/scan1").writer().send(b"x").result(10)
        monitor = Monitor(node)
        try:
            # It has seen the last day already: nobody waits for another one.
            assert main(["report", "--last", "1d", "-o", "-", "--beamtime", "demo"]) == 0
            said = capsys.readouterr()
            assert main(["doctor", "--json"]) in (0, 1)
            found = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
        finally:
            monitor.close()
    assert said.err == ""
    assert "eiger" in said.out
    assert found["monitor"]["ok"], found["monitor"]
