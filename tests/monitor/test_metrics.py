from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from beamstream.monitor import metrics
from beamstream.monitor.metrics import Histogram, Metric
from beamstream.server.sampling import delays_of
from beamstream.server.stats import Histogram as Counted
from beamstream.wire.native.sampling import Delays
from monitor.running import MonitorProcess, until

_LINE = re.compile(r'(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')
_LABEL = re.compile(r'(\w+)="((?:[^"\\\n]|\\.)*)"')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = _LINE.fullmatch(line)
            assert match, line
            found[match[1], tuple(_LABEL.findall(match[2] or ""))] = float(match[3])
    return found


@given(st.text(max_size=30))
def test_any_name_is_one_line(name: str) -> None:
    metric = Metric("m", "gauge", "text", ("source",))
    metric.add((name,), 1.5)
    text = "".join(metric.lines())
    line = text.split("\n")[2]
    found = _LABEL.search(line)
    assert text.count("\n") == 3
    assert found is not None
    plain = re.sub(r"\\(.)", lambda escaped: {"n": "\n"}.get(escaped[1], escaped[1]), found[2])
    assert plain == name


def test_a_metric_is_bounded() -> None:
    metric = Metric("m", "counter", "text", ("a", "b"))
    histogram = Histogram("h", "text", ("a",))
    for number in range(3 * metrics.SERIES_MAX):
        metric.add((f"a{number}", "b"), 1)
        histogram.add((f"a{number}",), Delays(10, (1,)))
    found = parse("".join(metric.lines()))
    assert len(found) == metrics.SERIES_MAX
    assert sum(found.values()) == 3 * metrics.SERIES_MAX
    assert found["m", (("a", "other"), ("b", "other"))] == 2 * metrics.SERIES_MAX + 1
    counts = parse("".join(histogram.lines()))
    assert sum(name == "h_count" for name, _ in counts) == metrics.SERIES_MAX


@given(st.lists(st.integers(1, 10**11), min_size=1, max_size=60))
def test_a_histogram_counts_what_is_below_each_bound(delays_ns: list[int]) -> None:
    counted = Counted()
    for delay_ns in delays_ns:
        counted.add(delay_ns)
    histogram = Histogram("h", "text", ())
    histogram.add((), delays_of(counted))
    found = parse("".join(histogram.lines()))
    bounds = [(dict(labels)["le"], n) for (name, labels), n in found.items() if labels]
    assert len(bounds) == 12
    for bound, count in bounds:
        below = sum(one < float(bound) * 1e9 for one in delays_ns)
        # Delays are counted by whole microseconds.
        assert abs(count - below) <= sum(
            abs(one - float(bound) * 1e9) < 1_000 for one in delays_ns
        ), bound
    assert found["h_count", ()] == len(delays_ns)
    # The smallest bucket reaches from 0 to 1 µs.
    slack_s = 2e-6 * len(delays_ns)
    assert abs(found["h_sum", ()] - sum(delays_ns) / 1e9) <= 0.2 * sum(delays_ns) / 1e9 + slack_s


def test_before_the_first_answer_there_is_one_number() -> None:
    text = metrics.text(None, None, 5.0, lambda _: True)
    assert parse(text) == {("beamstream_node_up", ()): 0.0}


def test_a_node_tells_all_that_is_documented(monitor: MonitorProcess, images: object) -> None:
    """But for what needs dead letters, pipelines, errors, or readers."""
    found = monitor.ask("GET", "/metrics")
    assert found.status == 200
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    told = until(
        lambda: {name for name, _ in parse(monitor.ask("GET", "/metrics").data.decode())},
        lambda names: "beamstream_bytes_in_total" in names,
    )
    page = Path(__file__).parents[2] / "docs/reference/metrics.md"
    documented = set(re.findall(r"^\| `(beamstream_\w+)`", page.read_text(), re.M))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in told} <= documented
    quiet = {name for name in documented if re.search("group|step|delay|out_|redeliv|errors", name)}
    assert documented - quiet <= told
