"""Counters, tables of clients, and the lines of the log."""

from __future__ import annotations

import io
import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.model import Who
from beamstream.server import logs
from beamstream.server.stats import BUCKETS, Histogram, Stats
from beamstream.settings import Log

TOKEN = "eyJhbGciOiJIUzI1.eyJzdWIiOiJidCJ9.c2lnbmF0dXJl"


@given(st.lists(st.integers(100_000, 2**35 * 1000), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_within_a_quarter_of_an_octave(delays: list[int], share: float) -> None:
    histogram = Histogram()
    for delay in delays:
        histogram.add(delay)
    ordered = sorted(delays)
    exact = ordered[max(0, min(len(ordered), -int(-share * len(ordered) // 1)) - 1)]
    assert 0.8 < histogram.quantile(share) / exact < 1.25
    assert histogram.total == len(delays) == sum(histogram.counts)


def test_delays_outside_the_buckets_are_counted() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0
    for delay in (-5, 0, 999, 2**80):
        histogram.add(delay)
    assert histogram.counts[0] == 3
    assert histogram.counts[BUCKETS - 1] == 1


def test_tables_of_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENTS_MAX", 3)
    monkeypatch.setattr(limits, "EDGES_MAX", 2)
    stats = Stats()
    for number in range(10):
        who = Who(f"i{number}", "step", "1.2.3.4:5")
        stats.arrived("bt", "det", who, 100)
        stats.arrived("bt", "det", who, 100)
        stats.handed_out("bt", "det", "g", who, 5_000, count=1 + number % 2)
        stats.acknowledged("bt", "det", "g", who, 7_000)
    assert [key[3] for key in stats.producers] == ["i7", "i8", "i9"]
    assert all(row.messages == 2 and row.nbytes == 200 for row in stats.producers.values())
    assert [key[4] for key in stats.edges] == ["i8", "i9"]
    assert [(row.messages, row.again) for row in stats.edges.values()] == [(1, 0), (1, 1)]
    assert (stats.messages_in, stats.nbytes_in, stats.messages_out) == (20, 2000, 10)
    assert list(stats.lines()) == [
        "20 messages in, 0.000 GB",
        "10 messages handed out, 0.000 GB",
    ]


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_token_and_no_control_character_is_in_a_line(format: str) -> None:
    stream = io.StringIO()
    before = structlog.get_config()
    try:
        logs.configure(Log(format=format, level="info"), stream)  # type: ignore[arg-type]
        log = structlog.get_logger("test")
        log.debug("not shown")
        log.warning(
            "refused\n2026-01-01 [info] forged",
            reason=f"token {TOKEN} is\x1b[31m bad",
            files=[f"{TOKEN}\r", {"name": "a\u202eb"}],
            count=3,
        )
        try:
            raise ValueError(TOKEN)
        except ValueError:
            log.exception("fault")
    finally:
        structlog.configure(**before)
    text = stream.getvalue()
    first = text.splitlines()[0]
    assert "eyJ" not in text
    assert "<token>" in first
    assert "forged" in first
    assert not set(text) & set("\r\x1b\u202e")
    assert "not shown" not in text
    if format == "json":
        assert json.loads(first)["count"] == 3
        assert "ValueError" in json.loads(text.splitlines()[1])["exception"]


def test_a_flood_of_one_cause_is_counted_not_shown() -> None:
    flood = logs.Flood()
    shown = 0
    for _ in range(500):
        try:
            flood(None, "warning", {"event": "bad", "timestamp": "2026-01-01T00:00:00.1Z"})
            shown += 1
        except structlog.DropEvent:
            pass
    assert shown == 100
    flood(None, "warning", {"event": "other", "timestamp": "2026-01-01T00:00:00.2Z"})
    line = flood(None, "warning", {"event": "bad", "timestamp": "2026-01-01T00:00:01.0Z"})
    assert line["left_out"] == {"bad": 400}
