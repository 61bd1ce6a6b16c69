from __future__ import annotations

import math
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.monitor import history
from beamstream.monitor.history import History, Key

SOURCE = Key("here", "demo", "source", "eiger")
NODE = Key("here", "", "node", "")


def fill(made: History, begin_s: int, seconds: int, every_s: int = 1) -> None:
    """The rate is the time."""
    for second in range(begin_s, begin_s + seconds, every_s):
        made.add(second + 0.25, [(SOURCE, {"rate": float(second - begin_s), "lost": None})])
        if second % 10 == 0:
            made.write(second)


def test_the_last_minutes_are_there_by_the_second() -> None:
    made = History(None)
    fill(made, 100_000, 900)
    found = made.series(SOURCE, 300, 100_899)
    assert found.times == tuple(float(at) for at in range(100_599, 100_900))
    assert found.values["rate"] == tuple(float(at) for at in range(599, 900))
    assert set(found.values["p50"]) == {None}
    assert set(found.values) == {"rate", "nbytes_rate", "p50", "p99", "lost"}


def test_what_lies_back_is_there_by_slots() -> None:
    made = History(None)
    fill(made, 100_000, 4_000)
    found = made.series(SOURCE, 3_600, 103_999)
    assert len(found.times) <= 720
    assert found.times[0] <= 100_410
    assert all(0 < b - a <= 20 for a, b in zip(found.times, found.times[1:], strict=False))
    for at, value in zip(found.times, found.values["rate"], strict=True):
        assert value is not None
        assert abs(value - (at - 100_000)) <= 10
    day = made.series(SOURCE, 86_400, 103_999)
    assert 60 <= len(day.times) <= 80


def test_a_ring_keeps_two_hours_and_a_day() -> None:
    made = History(None)
    fill(made, 100_000, 90_000, every_s=5)
    rows = dict(made._db.execute("SELECT tier, count(*) FROM slot GROUP BY 1").fetchall())
    assert rows == {0: 720, 1: 1440}


def test_it_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    made = History(path)
    fill(made, 100_000, 700)
    made.close()
    again = History(path)
    found = again.series(SOURCE, 600, 100_720)
    assert len(found.times) >= 50
    again.add(100_720, [(SOURCE, {"rate": 7.0})])
    assert again.series(SOURCE, 600, 100_720).values["rate"][-1] == 7.0
    again.close()


@pytest.mark.parametrize(
    "content", [b"no database at all" * 500, b"SQLite format 3\0" + b"x" * 8000]
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(content)
    made = History(path)
    fill(made, 1_000, 50)
    assert len(made.series(SOURCE, 100, 1_049).times) == 50
    assert path.with_name("history.db.aside").read_bytes() == content
    made.close()


def test_a_file_of_another_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    other = apsw.Connection(str(path))
    other.execute("PRAGMA user_version = 99")
    other.close()
    History(path).close()
    assert path.with_name("history.db.aside").exists()


def test_the_number_of_series_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SERIES_MAX", 10)
    made = History(None)
    for second in range(5_000, 5_050):
        made.add(second, [(Key("here", "demo", "source", f"s{second}"), {"rate": 1.0})])
        made.add(second, [(NODE, {"cpu": 1.0})])
        made.write(second)
    assert len(made) == 10
    assert len(made.series(NODE, 60, 5_049).times) == 50, "what is in use stays"
    assert made._db.execute("SELECT count(*) FROM series").get == 10
    assert made.series(Key("here", "demo", "source", "s5000"), 60, 5_049).times == ()


@given(
    values=st.lists(
        st.tuples(st.integers(1, 30), st.none() | st.floats(-1e6, 1e6, width=32)), max_size=40
    )
)
def test_recent_values_are_those_that_were_seen(
    values: list[tuple[int, float | None]],
) -> None:
    made, at, model = History(None), 5_000, {}
    for pause, value in values:
        at += pause
        made.add(at, [(SOURCE, {"rate": value})])
        model[at] = value
    found = made.series(SOURCE, 500, at)
    kept = {time: value for time, value in model.items() if time >= at - 500}
    assert list(found.times) == list(map(float, kept))
    for got, wanted in zip(found.values["rate"], kept.values(), strict=True):
        assert (got is None) == (wanted is None)
        assert wanted is None or math.isclose(got or 0.0, wanted, rel_tol=1e-6, abs_tol=1e-30)
    made.close()
