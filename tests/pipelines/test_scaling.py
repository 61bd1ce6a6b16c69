"""How many workers a step gets, from its lag."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamstream.worker.pipelines.pipeline_file import Replicas
from beamstream.worker.pipelines.scaling import HOLD_S, IDLE_S, SAMPLES, Scaler


def looks(scaler: Scaler, lag_s: float, begin_s: int, end_s: int) -> list[int]:
    return [scaler.observe(float(at_s), lag_s) for at_s in range(begin_s, end_s)]


def test_one_look_behind_changes_nothing() -> None:
    scaler = Scaler(Replicas(1, 8, 2.0))
    assert looks(scaler, 3.0, 0, 1) == [1]
    assert looks(scaler, 1.0, 1, 2) == [1]
    assert looks(scaler, 3.0, 2, 3) == [1]


def test_a_little_behind_gives_one_more() -> None:
    assert looks(Scaler(Replicas(1, 8, 2.0)), 3.0, 0, 14) == [1] + 6 * [2] + 6 * [3] + [4]


def test_far_behind_doubles_up_to_the_most() -> None:
    found = looks(Scaler(Replicas(1, 6, 2.0)), 60.0, 0, 40)
    assert list(dict.fromkeys(found)) == [1, 2, 4, 6]


def test_idle_gives_one_less_each_time_down_to_the_least() -> None:
    scaler = Scaler(Replicas(2, 8, 2.0))
    looks(scaler, 60.0, 0, 20)
    assert scaler.wanted == 8
    found = looks(scaler, 0.0, 20, 400)
    assert list(dict.fromkeys(found)) == [8, 7, 6, 5, 4, 3, 2]
    assert found.index(7) == IDLE_S
    assert found.count(7) >= IDLE_S


def test_between_a_quarter_and_the_wanted_lag_nothing_changes() -> None:
    scaler = Scaler(Replicas(1, 8, 2.0))
    looks(scaler, 3.0, 0, 3)
    assert set(looks(scaler, 0.6, 3, 300)) == {2}


def test_a_breath_starts_the_idle_time_anew() -> None:
    scaler = Scaler(Replicas(1, 8, 2.0))
    looks(scaler, 3.0, 0, 3)
    for begin_s in range(3, 300, 20):
        looks(scaler, 0.0, begin_s, begin_s + 19)
        assert looks(scaler, 1.0, begin_s + 19, begin_s + 20) == [2]


@given(
    st.integers(1, 5),
    st.integers(0, 20),
    st.floats(0.1, 100.0),
    st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 1e5)), max_size=200),
)
def test_it_keeps_its_bounds_and_its_patience(
    least: int, more: int, lag_s: float, walk: list[tuple[float, float]]
) -> None:
    scaler = Scaler(Replicas(least, least + more, lag_s))
    now_s, changed_s, before, behind = 0.0, float("-inf"), least, 0
    for passed_s, seen_s in walk:
        now_s += passed_s
        wanted = scaler.observe(now_s, seen_s)
        behind = behind + 1 if seen_s > lag_s else 0
        assert least <= wanted <= least + more
        if wanted != before:
            assert now_s - changed_s >= HOLD_S
            assert before < wanted <= 2 * before or wanted == before - 1
            assert wanted < before or behind >= SAMPLES
            assert wanted > before or seen_s < lag_s / 4
            changed_s = now_s
        before = wanted
