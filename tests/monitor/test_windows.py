from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.monitor.windows import Trend, Window, quantile_ns
from beamstream.server.stats import Histogram


def test_a_restarted_node_begins_anew() -> None:
    window = Window(10.0)
    window.add(0.0, (1_000.0,))
    window.add(1.0, (1_100.0,))
    window.add(2.0, (50.0,))
    assert window.rates() == (0.0,)
    window.add(3.0, (80.0,))
    assert window.rates() == (30.0,)


@given(st.lists(st.floats(0.01, 5.0), min_size=2, max_size=50), st.floats(0, 1e4))
def test_a_steady_rate_is_told_whatever_the_times_of_looking(
    pauses: list[float], rate: float
) -> None:
    window, now = Window(10.0), 0.0
    for pause in pauses:
        now += pause
        window.add(now, (rate * now,))
    assert window.rates()[0] == pytest.approx(rate, rel=1e-6, abs=1e-6)


def test_what_stopped_is_zero_when_the_window_has_passed() -> None:
    window = Window(2.0)
    for tenth in range(20):
        window.add(tenth / 10, (float(tenth),))
    for tenth in range(20, 50):
        window.add(tenth / 10, (19.0,))
    assert window.rates() == (0.0,)


@given(st.lists(st.integers(20_000, 10**12), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_quantiles_are_within_a_bucket_of_the_truth(delays: list[int], share: float) -> None:
    histogram = Histogram()
    for delay in delays:
        histogram.add(delay)
    found = quantile_ns(histogram.counts, share)
    delays.sort()
    true = delays[min(int(share * len(delays)), len(delays) - 1)]
    below = delays[max(int(share * len(delays)) - 1, 0)]
    assert found is not None
    assert below / 1.3 <= found <= true * 1.3
    assert quantile_ns([], share) is None


@pytest.mark.parametrize(
    ("lags", "word"),
    [
        ([0.0] * 10, "idle"),
        ([1_000.0 + 3 * (-1) ** k for k in range(10)], "steady"),
        ([100.0 * k for k in range(10)], "losing"),
        ([1_000.0 - 100 * k for k in range(10)], "gaining"),
    ],
)
def test_trends(lags: list[float], word: str) -> None:
    trend = Trend(10.0)
    for second, lag in enumerate(lags):
        trend.add(float(second), lag)
    assert trend.word() == word
