"""What the doctor says about the flow of data: from facts, and at real nodes."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.cli import doctor_flow as flow
from beamstream.cli import monitor_api
from beamstream.cli.main import main
from beamstream.client.native.hub import connect
from beamstream.client.native.places import Access
from beamstream.errors import ConnectionLost, NotAllowed, RemoteProtocolError
from beamstream.monitor.documents import (
    CacheUse,
    DiskUse,
    ErrorState,
    GroupState,
    LimitState,
    NodeRates,
    NodeState,
    Snapshot,
)
from beamstream.testing.node import NodeProcess

GROUP = GroupState(
    beamtime="b", source="eiger", stream="scan1", group="azint", lag=0, lag_s=0.0, trend="idle",
    unacked_s=0.0, redelivered=0, dead=0, members=("pc1:77",), rate=10.0, evict_in_s=None,
    state="ok",
)  # fmt: skip


def group(**more: object) -> GroupState:
    return msgspec.structs.replace(GROUP, **more)


def snapshot(*groups: GroupState, cache: int = 2**30) -> Snapshot:
    node = NodeState(
        name="n", version="1", state="live", up_s=1.0, cpu=0.5, rss_nbytes=0,
        cache=CacheUse(nbytes=cache, used=cache, pinned=0, evicted=5),
        disk=DiskUse(free=10**12, nbytes=10**12), rates=NodeRates(), connections=1,
    )  # fmt: skip
    return Snapshot(node=node, groups=groups)


def test_groups_that_keep_up_are_well() -> None:
    [finding] = flow.groups([GROUP, group(state="gone", members=())])
    assert (finding.name, finding.ok, finding.detail) == (
        "groups",
        True,
        "1 group read, and keep up",
    )


def test_a_stuck_group_is_told_with_who_holds_it() -> None:
    [finding] = flow.groups([group(state="stuck", lag=30, lag_s=40.0, unacked_s=39.0)])
    assert (finding.name, finding.ok) == ("group azint", False)
    assert finding.detail == "stuck: 30 messages (40.0 s) behind in eiger/scan1"
    assert "pc1:77 holds messages for 39.0 s" in finding.remedy
    [idle] = flow.groups([group(state="stuck", lag=30, lag_s=40.0)])
    assert "asks for nothing" in idle.remedy


def test_a_slow_group_and_dead_letters_have_commands() -> None:
    slow, dead = flow.groups([group(state="slow", lag=9, lag_s=3.0, trend="losing", dead=2)])
    assert "slow, losing: 9 messages" in slow.detail
    assert "beamstream group seek eiger/scan1 azint end" in slow.remedy
    assert "beamstream group redeliver eiger/scan1 azint" in dead.remedy
    well, gone = flow.groups([group(state="gone", lag=9, members=(), dead=2)])
    assert (well.ok, gone.ok) == (True, None)


def test_a_cache_that_ends_soon_is_told_with_its_size() -> None:
    late = group(state="slow", lag=9, lag_s=30.0, evict_in_s=20.0)
    [finding] = flow.cache_ends(snapshot(GROUP, late))
    assert finding.ok is False
    assert "for azint the cache ends in 20.0 s" in finding.detail
    assert "beamstream up --cache 2GiB" in finding.remedy
    [over] = flow.cache_ends(snapshot(group(state="slow", lag=9, evict_in_s=0.0)))
    assert "has ended" in over.detail
    [well] = flow.cache_ends(snapshot(GROUP, group(state="slow", lag=9, evict_in_s=600.0)))
    assert well.ok


def test_a_disk_that_fills_says_when() -> None:
    def told(full_in_s: float | None, seen_long: bool) -> bool | None:
        disk = DiskUse(free=10**9, nbytes=10**12, full_in_s=full_in_s)
        return flow.disk_full(disk, seen_long=seen_long).ok

    assert [told(None, long) for long in (True, False)] == [True, True]
    assert [told(7200.0, long) for long in (True, False)] == [True, True]
    # Of a few seconds somebody else's file makes an alarm.
    assert [told(600.0, long) for long in (True, False)] == [False, None]
    soon = flow.disk_full(DiskUse(free=1, nbytes=10, full_in_s=600.0), seen_long=True)
    assert soon.detail.startswith("10.0 min at the rate of the last minute")


@given(share=st.floats(0, 1), name=st.sampled_from(["streams in use", "connections native", "x"]))
def test_a_limit_is_near_above_four_fifths(share: float, name: str) -> None:
    finding = flow.limits([LimitState(name=name, used=1000 * share, limit=1000, unit="")])
    assert finding.ok == (1000 * share <= 800)
    assert finding.ok or (name in finding.detail and finding.remedy)


def test_a_full_cache_is_no_limit_that_is_reached() -> None:
    assert flow.limits([LimitState(name="cache", used=10, limit=10, unit="B")]).ok


def test_old_errors_are_history() -> None:
    error = ErrorState(code="E401", count=3, last_s=30.0, text="id 7 is there", hint="")
    told = flow.errors([error])
    assert told.ok is None
    assert "E401 x3, last 30.0 s ago: id 7 is there" in told.detail
    assert flow.errors([msgspec.structs.replace(error, last_s=7200.0)]).ok


def test_a_certificate_that_ends_soon_is_told() -> None:
    assert flow.tls("http", loopback=True, left_s=None).ok is None
    assert "in" in flow.tls("http", loopback=False, left_s=None).detail
    assert flow.tls("https", loopback=False, left_s=30 * 86_400.0).ok
    assert flow.tls("https", loopback=False, left_s=3 * 86_400.0).ok is False


# -------------------------------------------------------------------- asking the monitor


class _Answers(http.server.BaseHTTPRequestHandler):
    answers = {  # noqa: RUF012
        "/good?a=b%26c": (200, b"yes"),
        "/away": (503, b"The monitor of this node is not running.\nMore.\n"),
        "/denied": (403, json.dumps({"code": "E203", "message": "not you", "hint": "h"}).encode()),
        "/broken": (500, b"[1, 2]"),
    }
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        status, body = self.answers[self.path]
        self.asked.append(self.headers["authorization"])
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def access() -> Iterator[Access]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Access(url=f"http://127.0.0.1:{server.server_port}", token="t.o.k")
        finally:
            server.shutdown()
            thread.join()


def test_answers_of_the_monitor_are_told_apart(access: Access) -> None:
    def get(path: str, **query: str) -> bytes:
        return monitor_api.get(access, path, query, timeout_s=10)

    assert get("/good", a="b&c") == b"yes"
    assert _Answers.asked[-1] == "Bearer t.o.k"
    with pytest.raises(monitor_api.NoMonitor, match=r"not running.$"):
        get("/away")
    with pytest.raises(NotAllowed, match="not you") as denied:
        get("/denied")
    assert denied.value.hint == "h"
    with pytest.raises(RemoteProtocolError, match="500"):
        get("/broken")


def test_an_address_without_http_has_no_monitor() -> None:
    with pytest.raises(monitor_api.NoMonitor, match="HTTP door"):
        monitor_api.get(Access(url="unix:/run/x.sock"), "/x", {}, timeout_s=1)
    with pytest.raises(ConnectionLost):
        monitor_api.get(Access(url="http://127.0.0.1:1"), "/x", {}, timeout_s=1)


@pytest.mark.system
def test_a_node_with_a_dead_letter_is_not_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with NodeProcess(cache="64MiB", durability="os") as node:
        url, token = node.connect["url"], node.connect["token"]
        monkeypatch.setenv("BEAMSTREAM_URL", url)
        monkeypatch.setenv("BEAMSTREAM_TOKEN", token)
        with connect(url, token=token) as hub:
            hub.stream("eiger/scan1").writer().send(b"x").result(10)
            group = hub.stream("eiger/scan1").group("azint", ack="manual", max_attempts=1)
            readers = iter(group)
            next(readers).nack()
            # Answered after what was sent before.
            hub.groups()
            assert main(["doctor", "--json"]) == 1
            told = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert told["group azint"]["ok"] is False
    assert "beamstream group dead eiger/scan1 azint" in told["group azint"]["remedy"]
    assert told["TLS"]["ok"] is None
    assert {"monitor", "limits", "errors", "disk is full in", "answers of the node"} <= set(told)
