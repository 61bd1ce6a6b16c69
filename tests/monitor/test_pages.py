from __future__ import annotations

import base64
import gzip
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import beamstream as bs
from beamstream.monitor import documents as doc
from beamstream.monitor import pages, report
from beamstream.monitor.history import Key
from beamstream.monitor.markup import STYLE, Html, tag
from beamstream.monitor.pages import Pages
from monitor.running import ELSEWHERE, MonitorProcess

NODE = doc.NodeState(
    name="n", version="v", state="live", up_s=5.0, cpu=0.1, rss_nbytes=10**8,
    cache=doc.CacheUse(nbytes=10**9, used=10**8, pinned=0, evicted=0),
    disk=doc.DiskUse(free=10**9, nbytes=10**10), rates=doc.NodeRates(), connections=3,
)  # fmt: skip


class Parsed(HTMLParser):
    """Tags and texts of a page; unbalanced ones are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def source(name: str) -> doc.SourceState:
    return doc.SourceState(
        beamtime="b", source=name, producers=(), streams=1, rate=98.7, nbytes_rate=8e8,
        age_s=0.04, count=5, nbytes=10, last_stream=name, last_id=5, lost=0, state="live",
    )  # fmt: skip


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_any_text_is_text(name: str, why: str) -> None:
    found = doc.Snapshot(node=NODE, sources=(source(name),), sentence=why)
    for page in (
        pages.plain(found, 0.1, ""),
        report.html(found, {}, seconds=60.0, made_ns=10**18),
    ):
        names = {one for one, _ in Parsed(page).tags}
        assert not names & {"script", "img", "iframe", "b"}
        assert all(key[:2] != "on" for _, attrs in Parsed(page).tags for key in attrs)
    piece = str(tag("td", name, Html("<i>x</i>"), title=name))
    assert Parsed(piece).tags[0][1]["title"] is not None


def test_a_report_is_one_file() -> None:
    times = tuple(float(at) for at in range(940, 1000))
    rates = tuple(None if at == 970 else 50.0 for at in range(940, 1000))
    series = {
        Key("n", "b", "source", "e"): doc.Series(times=times, values={"rate": rates}),
        Key("n", "b", "group", "g\ne/s"): doc.Series(times=times, values={"lag": rates}),
    }
    found = doc.Snapshot(node=NODE, sources=(source("e"),), sentence="All is well.")
    text = report.html(found, series, seconds=60.0, made_ns=1_000 * 10**9)
    parsed = Parsed(text)
    assert [one for one, _ in parsed.tags].count("svg") == 2
    assert [one for one, _ in parsed.tags].count("polyline") == 4, "a gap is a gap"
    assert not re.search(r"(src|href)=", text)
    assert "url(" not in text
    assert "98.7 Hz" in text
    assert "800 MB/s" in text
    assert "All is well." in text


def test_points_are_where_they_belong() -> None:
    drawn = str(
        report.chart("t", "Hz", (0.0, 50.0, 100.0), [("a", (0.0, 50.0, 100.0))], 0.0, 100.0)
    )
    found = re.search(r'points="([^"]+)"', drawn)
    assert found is not None
    points = [tuple(map(float, one.split(","))) for one in found[1].split()]
    left, right = report._LEFT, report.WIDTH - report._RIGHT
    top, bottom = report._TOP, report.HEIGHT - report._BOTTOM
    assert points == [
        (left, bottom), ((left + right) / 2, (top + bottom) / 2), (right, top),
    ]  # fmt: skip


def test_the_policy_of_reports_names_their_style(monitor: MonitorProcess) -> None:
    found = monitor.ask("GET", "/api/v1/report?seconds=60")
    assert found.status == 200
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert digest in found.headers["content-security-policy"]
    assert f"<style>{STYLE}</style>" in found.data.decode()


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    for name in ("index.html", "assets/app-0123.js", "assets/app-0123.css"):
        path = tmp_path / name
        path.write_text(f"this is {name}")
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path.parent / "secret").write_text("secret")
    return tmp_path


def test_files_of_the_page(built: Path) -> None:
    files = Pages(built)
    assert files.built
    index = files.file("")
    assert index is not None
    assert index is files.file("index.html")
    assert (index.cache, index.media) == ("no-store", "text/html; charset=utf-8")
    script = files.file("assets/app-0123.js")
    assert script is not None
    assert "immutable" in script.cache
    assert script.media == "text/javascript; charset=utf-8"
    assert script.packed is not None
    assert gzip.decompress(script.packed) == script.data
    for name in ("../secret", "assets/../../secret", "assets", "assets/app-0123.js.gz", "/etc/x"):
        assert files.file(name) is None


def test_without_a_page_there_is_the_plain_one(tmp_path: Path) -> None:
    files = Pages(tmp_path)
    assert not files.built
    assert files.file("") is None
    assert files.file("plain.css") is not None


def test_the_page_is_sent_packed(monitor: MonitorProcess, images: bs.Stream) -> None:
    if not Pages().built:
        found = monitor.ask("GET", "/ui/")
        assert b"camera" in found.data
        assert b"<script" not in found.data
        assert b"camera" not in monitor.ask("GET", "/ui/", None, ELSEWHERE).data
        return
    plain = monitor.ask("GET", "/ui/")
    packed = monitor.ask("GET", "/ui/", None, {"Host": "localhost", "Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert plain.headers["cache-control"] == "no-store"
    for name in re.findall(r'(?:src|href)="(assets/[^"]+)"', plain.data.decode()):
        found = monitor.ask("GET", f"/ui/{name}")
        assert found.status == 200
        assert "immutable" in found.headers["cache-control"]
