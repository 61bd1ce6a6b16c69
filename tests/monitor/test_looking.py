"""Streams, messages, searches, notes, groups: asked of a real monitor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import beamstream as bs
from beamstream.monitor import previews
from beamstream.monitor.looking import strip
from beamstream.testing.node import NodeProcess
from monitor.running import MonitorProcess

WHERE = {"beamtime": "demo", "source": "camera", "stream": "scan <1>"}


# ------------------------------------------------------------------------------ streams


def test_all_about_a_stream(monitor: MonitorProcess, images: bs.Stream) -> None:
    found = monitor.get("stream", **WHERE)
    row = found["row"]
    assert (row["count"], row["max_id"], row["last_id"]) == (25, 30, -1)
    assert row["nbytes"] == 25 * 300 * 400 * 2
    assert row["strip"] == [1.0] * 10 + [0.0] * 5 + [1.0] * 15
    assert found["gaps"] == [[11, 16]]
    assert found["gaps_more"] is False
    assert found["header"] == {"distance_mm": 120}
    assert found["header_version"] == 1


def test_streams_come_page_by_page(monitor: MonitorProcess, hub: bs.Hub) -> None:
    names = [f"p{number:02}" for number in range(23)]
    for name in names:
        with hub.source("paged").stream(name).writer() as writer:
            writer.send(b"x")
    seen: list[str] = []
    after = ""
    while True:
        found = monitor.get("streams", beamtime="demo", source="paged", limit=5, after=after)
        seen += [row["stream"] for row in found["rows"]]
        after = found["more"]
        if not after:
            break
        assert len(found["rows"]) == 5
    assert seen == names[::-1], "the newest first, each once"
    some = monitor.get("streams", beamtime="demo", source="paged", pattern="p1?")["rows"]
    assert sorted(row["stream"] for row in some) == names[10:20]


def model_strip(last: int, gaps: list[tuple[int, int]], max_id: int) -> list[float]:
    cells = min(100, last)
    found: list[list[bool]] = [[] for _ in range(cells)]
    for id in range(1, last + 1):
        there = id <= max_id and not any(lo <= id < hi for lo, hi in gaps)
        found[(id - 1) * cells // last].append(there)
    return [sum(cell) / len(cell) for cell in found]


@given(
    max_id=st.integers(1, 700),
    more=st.integers(0, 300),
    edges=st.sets(st.integers(1, 699), max_size=12),
)
def test_a_strip_says_which_share_is_there(max_id: int, more: int, edges: set[int]) -> None:
    some = sorted(one for one in edges if one < max_id)
    gaps = list(zip(some[::2], some[1::2], strict=False))
    found = strip(max_id + more, max_id, tuple(gaps))
    assert found == pytest.approx(tuple(model_strip(max_id + more, gaps, max_id)))


# ------------------------------------------------------------------------------ messages


def test_messages_by_id(monitor: MonitorProcess, images: bs.Stream) -> None:
    rows = monitor.get("messages", **WHERE, lo=9, hi=18)["rows"]
    assert [row["id"] for row in rows] == [9, 10, 16, 17]
    assert rows[0]["meta"] == {"n": 9, "half": 1}
    assert rows[0]["size"] == 300 * 400 * 2
    assert len(monitor.get("messages", **WHERE, limit=3)["rows"]) == 3


def test_one_message(monitor: MonitorProcess, images: bs.Stream) -> None:
    found = monitor.get("message", **WHERE, id=-1)
    message = images[30]
    assert isinstance(message, bs.Message)
    assert found["id"] == 30
    assert found["digest"] == message.digest.hex()
    assert (found["dtype"], found["shape"]) == ("<u2", [300, 400])
    assert found["timestamp_ns"] == message.timestamp_ns
    assert found["origin"]["run"] == 0
    assert found["origin"]["inputs"] == []


def frame(monitor: MonitorProcess, **asked: Any) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
    from urllib.parse import urlencode

    found = monitor.ask("GET", f"/api/v1/frame?{urlencode(WHERE | asked)}")
    assert found.status == 200, found.data
    _, number, *about = previews.HEAD.unpack_from(found.data)
    pixels = np.frombuffer(found.data, "<" + previews._DTYPES[number], offset=32)
    return pixels.reshape(about[1], about[2]), tuple(about)


def test_a_frame_is_small_or_whole(monitor: MonitorProcess, images: bs.Stream) -> None:
    small, about = frame(monitor, id=20, max_px=50)
    assert about == (8, 38, 50, 300, 400, 20)
    assert small[20 // 8, 40 // 8] == 60_000
    whole, about = frame(monitor, id=20, max_px=4_000)
    assert about[0] == 1
    assert np.array_equal(whole, images[20].array())  # type: ignore[union-attr]
    part, _ = frame(monitor, id=20, x0=30, x1=50, y0=10, y1=25, max_px=4_000)
    assert np.array_equal(part, whole[10:25, 30:50])


def test_what_is_too_large_is_not_drawn(monitor: MonitorProcess, hub: bs.Hub) -> None:
    stream = hub.source("large").stream("s")
    with stream.writer() as writer:
        # As it lies there it is small, unpacked it would fill our memory.
        writer.send(np.zeros((9_000, 9_000), np.uint16), codec="bslz4")
    found = monitor.ask("GET", "/api/v1/frame?beamtime=demo&source=large&stream=s&id=1")
    assert found.status == 413
    assert "beamstream get" in found.json["hint"]


# ------------------------------------------------------------------------------ searching


def test_messages_are_found_by_metadata(monitor: MonitorProcess, images: bs.Stream) -> None:
    found = monitor.get("search", **WHERE, query="meta.n > 7 AND meta.half = 0")
    assert [hit["id"] for hit in found["hits"]] == [8, 10, 16, 18, 20, 22, 24, 26, 28, 30]
    assert found["more"] is False
    assert found["looked"]
    assert {hit["stream"] for hit in found["hits"]} == {"scan <1>"}
    last = monitor.get("search", **WHERE, query="meta.n > 7 ORDER BY _id DESC", limit=100)
    assert last["hits"]
    none = monitor.get("search", **WHERE, query="meta.n = 12")
    assert (none["hits"], none["more"]) == ([], False)


def test_a_search_goes_on_where_it_was(monitor: MonitorProcess, hub: bs.Hub) -> None:
    for number in range(4):
        with hub.source("found").stream(f"f{number}").writer() as writer:
            writer.send_many([b"x"] * 30, [{"k": k % 3} for k in range(30)])
    seen, after, turns = [], "", 0
    while True:
        asked = {"beamtime": "demo", "source": "found", "query": "meta.k = 1", "limit": 7}
        found = monitor.get("search", **asked, after=after)
        seen += [(hit["stream"], hit["id"]) for hit in found["hits"]]
        turns += 1
        assert len(found["hits"]) <= 7
        assert found["more"] == bool(found["after"])
        after = found["after"]
        if not after:
            break
    assert turns >= 5
    wanted = [(f"f{number}", id) for number in range(3, -1, -1) for id in range(2, 31, 3)]
    assert seen == wanted


def test_a_search_is_what_it_says(monitor: MonitorProcess, images: bs.Stream) -> None:
    """Parentheses of somebody do not close ours."""
    path = "/api/v1/search?beamtime=demo&query=meta.n+%3D+1)+OR+(meta.n+%3D+2"
    assert monitor.ask("GET", path).status == 400


# ------------------------------------------------------------------------------ notes


def test_a_note_is_kept(monitor: MonitorProcess, node: NodeProcess, images: bs.Stream) -> None:
    note = WHERE | {"comment": "<b>good</b>", "tags": ["calibration", "ü"]}
    assert monitor.post("streams/note", note, node.token()).status == 200
    row = monitor.get("stream", **WHERE)["row"]
    assert row["comment"] == "<b>good</b>"
    assert row["tags"] == ["calibration", "ü"]
    listed = monitor.get("streams", beamtime="demo", source="camera")["rows"]
    assert listed[0]["comment"] == "<b>good</b>"
    every = monitor.get("streams", beamtime="demo", limit=1000)["rows"]
    assert "notes" not in {row["source"] for row in every}
    assert "notes" not in {one["source"] for one in monitor.get("overview")["data"]["sources"]}
    monitor.post("streams/note", note | {"comment": "", "tags": []}, node.token())
    assert monitor.get("stream", **WHERE)["row"]["tags"] == []


# ------------------------------------------------------------------------------ groups


@pytest.fixture
def read(hub: bs.Hub, request: pytest.FixtureRequest) -> tuple[bs.Stream, dict[str, Any]]:
    """A stream of 20 messages, of which group `g` has done 12."""
    stream = hub.source("sought").stream(request.node.name.replace("[", "-").strip("]"))
    with stream.writer(finish=False) as writer:
        writer.send_many([b"x"] * 20)
    row = stream.group("g").seek(13)
    assert (row.open, row.leased) == (8, 0)
    return stream, {"beamtime": "demo", "source": "sought", "stream": stream.name, "group": "g"}


@pytest.mark.parametrize(
    ("to", "at", "skipped", "reopened"),
    [
        ("begin", 0, 0, 12),
        ("end", 0, 8, 0),
        ("id", 5, 0, 8),
        ("id", 13, 0, 0),
        ("id", 18, 5, 0),
    ],
)
def test_a_seek_does_what_its_preview_says(
    monitor: MonitorProcess, node: NodeProcess, read: tuple[bs.Stream, dict[str, Any]], to: str,
    at: int, skipped: int, reopened: int,
) -> None:  # fmt: skip
    stream, where = read
    asked = where | {"to": to, "at": at}
    found = monitor.post("groups/seek", asked | {"dry_run": True}, node.token())
    assert found.json == {"skipped": skipped, "reopened": reopened}
    before = stream.group("g").info()
    assert before is not None
    assert before.open + before.leased == 8, "a preview changes nothing"
    assert monitor.post("groups/seek", asked | {"dry_run": False}, node.token()).json == found.json
    after = stream.group("g").info()
    assert after is not None
    assert after.open + after.leased == 8 - skipped + reopened


def test_a_seek_by_time(
    monitor: MonitorProcess, node: NodeProcess, read: tuple[bs.Stream, dict[str, Any]]
) -> None:
    stream, where = read
    with stream.writer(finish=False) as writer:
        writer.send(b"later")
    last = stream[21]
    assert isinstance(last, bs.Message)
    asked = where | {"to": "time", "at": last.timestamp_ns, "dry_run": True}
    assert monitor.post("groups/seek", asked, node.token()).json == {"skipped": 8, "reopened": 0}


def test_dead_letters_are_shown_and_offered_again(
    monitor: MonitorProcess, node: NodeProcess, hub: bs.Hub
) -> None:
    stream = hub.source("dying").stream("s")
    with stream.writer() as writer:
        writer.send_many([b"x"] * 3)
    with hub.source("g.failed").stream("s").writer(finish=False) as writer:
        meta = {"source": "dying", "stream": "s", "id": 2, "error": "no <peak>", "traceback": "T"}
        writer.send(b"", meta)
    with stream.group("g", ack="manual", max_attempts=1).subscribe() as member:
        while (item := member.take(timeout=20)) is not None:
            assert isinstance(item, bs.Message)
            if item.id == 2:
                item.nack()
            else:
                item.ack()
    where = {"beamtime": "demo", "source": "dying", "stream": "s", "group": "g"}
    found = monitor.get("groups/dead", **where)["letters"]
    assert found == [{"id": 2, "error": "no <peak>", "traceback": "T"}]
    assert monitor.post("groups/redeliver", where, node.token()).json == {"count": 1}
    assert monitor.get("groups/dead", **where)["letters"] == []


def test_a_group_that_is_not_there(monitor: MonitorProcess, node: NodeProcess) -> None:
    asked = WHERE | {"group": "nobody", "to": "begin"}
    assert monitor.post("groups/seek", asked, node.token()).status == 404
