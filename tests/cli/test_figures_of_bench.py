from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.cli.bench import lines
from beamstream.cli.bench_figures import Done, delays, percentile, summary

times = st.lists(st.floats(1e-6, 1e3, allow_nan=False), min_size=1)


@given(times, st.floats(0, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(
    values: list[float], percent: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= percent / 100 * len(ordered) - 1e-9
    below = sum(value < found for value in ordered)
    assert below <= percent / 100 * len(ordered)


@given(times)
def test_percentiles_grow(values: list[float]) -> None:
    found = delays(values)
    assert found is not None
    in_order = [found[f"{name}_ms"] for name in ("min", "p50", "p90", "p99", "p99.9", "max")]
    assert in_order == sorted(in_order)
    assert found["count"] == len(values)


def test_without_a_measurement_there_are_none() -> None:
    assert delays([]) is None


def test_clients_are_shown_one_by_one() -> None:
    both = [Done(100, 10**8, 0.0, 1.0, [0.001]), Done(300, 3 * 10**8, 0.0, 2.0, [0.003], lost=2)]
    shown = "\n".join(lines("put", summary(both), "receipts"))
    assert shown.splitlines()[0] == "put   200 msgs/s ~ 200 MB/s   400 messages in 2.00 s"
    assert "[1] 100 msgs/s" in shown
    assert "[2] 150 msgs/s" in shown
    assert "min 100 | avg 125 | max 150 | stddev 25" in shown
    assert "2 messages were not kept" in shown
    assert "p50 1.00" in shown
    alone = lines("get", summary(both[:1]), "")
    assert len(alone) == 1


def test_a_client_that_did_nothing_has_a_rate() -> None:
    assert summary([Done(0, 0, 5.0, 5.0)])["rate_hz"] == pytest.approx(0.0)
