"""`beamstream top`: its keys and tables by themselves, its lines and its screen at a real node."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.cli import top_keys, top_view
from beamstream.cli.main import main
from beamstream.cli.top_keys import FILTER_NCHARS_MAX, Screen, keys_of, press
from beamstream.cli.top_screen import drawn, fitted
from beamstream.cli.top_watching import Look, Rates, Watching, stream_lines
from beamstream.client.native.hub import Hub, connect
from beamstream.monitor.documents import CacheUse, DiskUse, NodeRates, NodeState, Snapshot
from beamstream.testing.node import NodeProcess
from beamstream.wire.native.sampling import NodeStat, Stats, StreamStat

# -------------------------------------------------------------------------------- keys

KEYS = [*"sgpqjkx/", "enter", "escape", "backspace", "up", "down", "page up", "page down"]


@given(st.lists(st.sampled_from(KEYS), max_size=60))
def test_any_keys_make_a_screen_that_can_be_shown(keys: list[str]) -> None:
    screen = Screen()
    for key in keys:
        before, screen = screen, press(screen, key)
        assert screen.first >= 0
        assert len(screen.wanted) <= FILTER_NCHARS_MAX
        assert screen.over == (before.over or (key == "q" and not before.typing))


@given(st.text(max_size=200))
def test_whatever_a_terminal_sends_is_keys(text: str) -> None:
    assert all(len(key) == 1 or key in KEYS for key in keys_of(text))


@given(st.text(st.characters(categories=["L", "N"]), max_size=FILTER_NCHARS_MAX))
def test_a_filter_is_what_was_typed(text: str) -> None:
    screen = Screen(first=5)
    for key in ["/", *keys_of(text)]:
        screen = press(screen, key)
    assert (screen.typing, screen.wanted, screen.first) == (True, text, 0)
    assert press(screen, "enter") == replace(screen, typing=False)
    assert press(screen, "escape").wanted == ""
    assert press(screen, "backspace").wanted == text[:-1]


# ------------------------------------------------------------------------------ tables


def stats(at_s: float, *streams: StreamStat) -> Stats:
    zeros = {
        field: 0.0 if "_s" in field[-2:] else 0 for field in NodeStat.__struct_fields__
    }  # fmt: skip
    node = NodeStat(**{**zeros, "software": "Beamstream 1.0", "connections": {}})
    return Stats(time_ns=int(at_s * 1e9), node=node, streams=streams)


def stream(name: str, count: int, at_s: float = 1.0, **more: int) -> StreamStat:
    facts = {"max_id": count, "last_id": -1, "skipped": 0, "created_ns": 0, **more}
    return StreamStat(
        beamtime="b", source="s", stream=name, count=count, last_ns=int(at_s * 1e9), **facts
    )


def look_at(*streams: StreamStat, stale_s: float = 0.0) -> Look:
    rates = Rates()
    told = stats(10.0, *streams)
    rates.take(told)
    node = NodeState(
        name="here", version="Beamstream 1.0", state="live", up_s=5.0, cpu=0.5, rss_nbytes=0,
        cache=CacheUse(nbytes=1000, used=500, pinned=0, evicted=0),
        disk=DiskUse(free=10**9, nbytes=10**10, full_in_s=1800.0), rates=NodeRates(),
        connections=1,
    )  # fmt: skip
    snapshot = Snapshot(node=node, sentence="Nobody reads anything.")
    lines = stream_lines(told, rates, ())
    return Look(time_ns=0, beamtime="b", stale_s=stale_s, snapshot=snapshot, streams=lines)


def test_the_rate_of_a_stream_is_that_of_the_last_seconds() -> None:
    rates = Rates()
    for second in range(20):
        rates.take(stats(second, stream("a", 100 * second), stream("b", 7)))
    assert rates.of(stream("a", 0)) == 100.0
    assert rates.of(stream("b", 0)) == 0.0
    assert rates.of(stream("never", 0)) == 0.0


def test_streams_that_are_told_no_more_are_forgotten() -> None:
    rates = Rates()
    for number in range(1000):
        rates.take(stats(number, stream(f"run {number}", 1)))
    assert len(rates._windows) <= 102


def test_rows_say_what_is_missing_and_finished() -> None:
    look = look_at(stream("gap", 90, max_id=100, skipped=4), stream("end", 5, last_id=5))
    rows = {row.cells[0]: row.cells for row in top_view.table(look, "streams").rows}
    assert rows["s/gap"][1] == "idle"
    assert rows["s/gap"][-1] == "6"
    assert rows["s/end"][1] == "finished"


def test_a_filter_looks_at_names_only_and_at_no_numbers() -> None:
    look = look_at(stream("Run12", 90), stream("run3", 12))
    assert [row.cells[0] for row in top_view.table(look, "streams", "RUN1").rows] == ["s/Run12"]
    assert len(top_view.table(look, "streams", "").rows) == 2


def test_the_head_says_how_full_and_until_when() -> None:
    text = "\n".join(line for line, _ in top_view.head_lines(look_at()))
    assert "cache 50% of 1.00 kB" in text
    assert "full in 30.0 min" in text
    assert {mood for _, mood in top_view.head_lines(look_at(stale_s=9.0))} == {"bad"}


def text_of(screen: Screen, look: Look, height: int = 24) -> str:
    from rich.console import Console

    console = Console(width=120, height=height, color_system=None)
    with console.capture() as captured:
        console.print(drawn(look, screen, 120, height))
    return captured.get()


def test_names_are_text_whatever_is_in_them() -> None:
    look = look_at(stream("[bold red]x", 1), stream("\x1b[2J", 1))
    text = text_of(Screen(), look)
    assert "s/[bold red]x" in text
    assert "\x1b[2J" not in text
    assert "\\x1b[2J" in text


@given(st.integers(1, 200))
def test_a_narrow_screen_leaves_out_what_matters_least(width: int) -> None:
    whole = top_view.table(look_at(stream("scan1", 12_345)), "streams")
    part = top_view.narrowed(whole, width)
    assert {"STREAM", "STATE", "RATE", "AGE"} <= set(part.head) <= set(whole.head)
    assert [row.cells[0] for row in part.rows] == ["s/scan1"]
    assert all(len(row.cells) == len(part.head) for row in part.rows)
    assert part == whole or not set(whole.spare[:1]) & set(part.head)


@given(count=st.integers(0, 60), first=st.integers(0, 100), height=st.integers(1, 40))
def test_a_screen_is_never_higher_than_the_terminal_has_lines(
    count: int, first: int, height: int
) -> None:
    look = look_at(*(stream(f"r{number}", 1) for number in range(count)))
    screen = fitted(Screen(first=first), look, height)
    assert 0 <= screen.first <= max(count - 1, 0)
    lines = text_of(screen, look, height).splitlines()
    assert len(lines) <= max(height, 9)
    if count and height > 9:
        shown = sum("s/r" in line for line in lines)
        assert shown == min(count, height - 7)


# ---------------------------------------------------------------------------- at a node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(
        tmp_path_factory.mktemp("node") / "data", cache="64MiB", durability="os"
    ) as node:
        with hub_of(node) as hub:
            with hub.stream("eiger/scan1").writer() as writer:
                for number in range(40):
                    writer.send(np.full((8, 8), number, "<u2"))
            hub.stream("slits/log").writer().send(b"one").result(10)
            group = hub.stream("eiger/scan1").group("hits", ack="manual")
            for message in group:
                message.ack()
                if message.id == 10:
                    break
        yield node


def hub_of(node: NodeProcess) -> Hub:
    return connect(node.connect["url"], token=node.connect["token"], step="detector")


@pytest.fixture
def here(node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> NodeProcess:
    monkeypatch.setenv("BEAMSTREAM_URL", node.connect["url"])
    monkeypatch.setenv("BEAMSTREAM_TOKEN", node.connect["token"])
    return node


@pytest.mark.system
def test_once_as_json_has_what_was_sent(
    here: NodeProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", "--once", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    streams = {f"{row['source']}/{row['stream']}": row for row in told["streams"]}
    assert (streams["eiger/scan1"]["count"], streams["eiger/scan1"]["max_id"]) == (40, 40)
    assert streams["eiger/scan1"]["finished"]
    assert not streams["slits/log"]["finished"]
    [source] = [row for row in told["sources"] if row["source"] == "eiger"]
    assert (source["count"], source["nbytes"]) == (40, 40 * 128)
    [group] = told["groups"]
    assert (group["group"], group["lag"]) == ("hits", 30)
    assert told["beamtime"] == "demo"
    assert told["stale_s"] < 1.0


@pytest.mark.system
def test_once_as_lines_names_each_thing(
    here: NodeProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", "--once"]) == 0
    text = capsys.readouterr().out
    stream = r"^\d\d:\d\d:\d\d  stream  eiger/scan1  finished .* messages 40  missing 0$"
    assert re.search(stream, text, re.M)
    assert re.search(r"  group   hits  eiger/scan1  \w+  behind 30  by ", text)
    assert main(["top", "groups", "--once", "--filter", "nobody"]) == 0
    assert "  group   " not in capsys.readouterr().out


@pytest.mark.system
def test_a_node_that_is_away_is_shown_as_it_was() -> None:
    now = [100.0]
    with NodeProcess(cache="64MiB", durability="os") as node, hub_of(node) as hub:
        hub.stream("eiger/scan1").writer().send(b"x").result(10)
        hub._call_timeout = 0.2
        watched = Watching(hub, "here", lambda: now[0])
        look = watched.look()
        assert look is not None
        assert not look.stale
        os.kill(node.pid, signal.SIGSTOP)
        try:
            now[0] += 7.0
            look = watched.look()
        finally:
            os.kill(node.pid, signal.SIGCONT)
        assert look is not None
        assert look.stale
        assert look.snapshot.node.state == "stale"
        assert look.snapshot.sentence == "The node has not answered for 7 s."
        assert [row.stream for row in look.streams] == ["scan1"]


@pytest.mark.system
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", [("top", "--json"), ("map", "--watch", "--json")])
def test_in_a_pipe_each_look_is_a_line(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "beamstream.cli.main", *words, "--every", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert first["time_ns"] < second["time_ns"]
    assert (process.returncode, errors) == (0, b"")


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, *words: str) -> None:
        self._main, self.line = pty.openpty()
        termios.tcsetwinsize(self.line, (30, 160))
        self.before = termios.tcgetattr(self.line)
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "beamstream.cli.main", *words],
            stdin=self.line,
            stdout=self.line,
            stderr=self.line,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
        )

    def until(self, wanted: str) -> None:
        """Read until it shows that; the test's own limit of time ends what never comes."""
        at = len(self.text)
        while wanted not in self.text[at:]:
            ready, _, _ = select.select([self._main], [], [], 60)
            assert ready, f"no {wanted!r} in {self.text[at:]!r}"
            self.text += os.read(self._main, 65536).decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        os.close(self._main)
        os.close(self.line)


@pytest.fixture
def terminal(here: NodeProcess) -> Iterator[Terminal]:
    terminal = Terminal("top")
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.system
def test_keys_change_what_the_screen_shows(terminal: Terminal) -> None:
    terminal.until("eiger/scan1")
    assert "\x1b[?1049h" in terminal.text
    terminal.press("g")
    terminal.until("BEHIND")
    terminal.press("p")
    terminal.until("no steps")
    terminal.press("s/slits\r")
    terminal.until("filter: slits")
    terminal.press("q")
    terminal.until("\x1b[?1049l")
    assert terminal.process.wait(30) == 0
    assert termios.tcgetattr(terminal.line) == terminal.before


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_set_back_whatever_ends_it(terminal: Terminal, number: int) -> None:
    terminal.until("eiger/scan1")
    assert termios.tcgetattr(terminal.line) != terminal.before
    terminal.process.send_signal(number)
    terminal.until("\x1b[?1049l")
    assert terminal.process.wait(30) == 0
    assert termios.tcgetattr(terminal.line) == terminal.before


def test_an_end_of_the_keyboard_is_an_end() -> None:
    read, write = os.pipe()
    os.write(write, "ä/".encode()[:1])
    keys = top_keys.Keyboard(read)
    assert keys.wait(0) == []
    os.write(write, "ä/".encode()[1:])
    assert keys.wait(0) == ["ä", "/"]
    os.close(write)
    assert keys.wait(0) == ["q"]
    os.close(read)


def test_json_of_a_look_is_plain() -> None:
    from beamstream.cli.top import document

    told = document(look_at(stream("a", 3)))
    assert json.loads(json.dumps(told))["streams"][0]["count"] == 3
    assert msgspec.convert(told, Snapshot, strict=False).sentence == "Nobody reads anything."
