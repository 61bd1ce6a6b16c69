"""When messages go out again."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadInput
from beamstream.worker.pacing import LATE_S, MAX, Pace, Rate, parse_rate

SECOND_NS = 1_000_000_000


def play(pace: Pace, times_ns: list[int], begin_s: float = 5.0) -> list[float]:
    """Seconds at which each goes out, by a clock that waits exactly as long as it is told."""
    now_s, out, at = begin_s, [], 0
    while at < len(times_ns):
        taken, wait_s = pace.take(now_s, times_ns[at:])
        out += [now_s - begin_s] * taken
        at += taken
        assert taken or wait_s > 0
        now_s += wait_s
    return out


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("max", MAX),
        ("100", Rate(hz=100)),
        ("0.5/s", Rate(hz=0.5)),
        ("original", Rate(factor=1)),
        ("Original * 2", Rate(factor=2)),
        ("original×0.5", Rate(factor=0.5)),
        ("original x 10", Rate(factor=10)),
    ],
)
def test_rates_as_they_are_typed(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "fast", "original*0", "original*-2"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(BadInput, match="is no rate"):
        parse_rate(text)


@given(st.text(max_size=20))
def test_any_text_is_a_rate_or_refused(text: str) -> None:
    try:
        rate = parse_rate(text)
    except BadInput:
        return
    assert rate == MAX or rate.hz > 0 or rate.factor > 0


def test_as_fast_as_it_goes() -> None:
    assert Pace(MAX).take(0.0, [0] * 1000) == (1000, 0.0)
    assert MAX.seconds(1000, 0, SECOND_NS) is None


def test_so_many_a_second() -> None:
    out = play(Pace(Rate(hz=4)), [0] * 5)
    assert out == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])


def test_as_they_once_came_with_their_pauses() -> None:
    times = [0, SECOND_NS, 61 * SECOND_NS, 61 * SECOND_NS]
    assert play(Pace(Rate(factor=2)), times) == pytest.approx([0, 0.5, 30.5, 30.5])


def test_times_that_go_back_do_not_hold_anything_up() -> None:
    times = [10 * SECOND_NS, 9 * SECOND_NS, 10 * SECOND_NS]
    assert play(Pace(Rate(factor=1)), times) == pytest.approx([0, 0, 1.0])


def test_a_short_delay_is_made_up_for_and_a_long_one_is_not() -> None:
    short, long = Pace(Rate(hz=10)), Pace(Rate(hz=10))
    assert short.take(0.0, [0])[0] == long.take(0.0, [0])[0] == 1
    assert short.take(0.55, [0] * 100)[0] == 5
    taken, wait_s = long.take(LATE_S + 60, [0] * 100)
    assert taken == 1
    assert wait_s == pytest.approx(0.1)


@given(
    st.lists(st.integers(0, 100 * SECOND_NS), min_size=1, max_size=30),
    st.one_of(
        st.floats(0.1, 1e6).map(lambda hz: Rate(hz=hz)),
        st.floats(0.01, 100).map(lambda factor: Rate(factor=factor)),
    ),
)
def test_nothing_goes_too_early_and_all_goes(times_ns: list[int], rate: Rate) -> None:
    out = play(Pace(rate), times_ns)
    assert len(out) == len(times_ns)
    assert out == sorted(out)
    rises_ns = sum(max(b - a, 0) for a, b in itertools.pairwise(times_ns))
    wanted = rate.seconds(len(times_ns) - 1, 0, rises_ns)
    assert wanted is not None
    assert out[-1] == pytest.approx(wanted, rel=1e-6, abs=1e-6)
