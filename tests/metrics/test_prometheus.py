"""A real Prometheus scrapes a loaded node, and can answer what its dashboard and alerts ask."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from beamstream.testing.node import NodeProcess
from metrics.watched import (
    FRAME_NBYTES,
    Load,
    Monitor,
    Prometheus,
    as_bool,
    dashboard_queries,
    documented,
    missing_programs,
    rules,
    until,
)

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(missing_programs()), reason="Debian package prometheus is not there"),
]


class Watched(NamedTuple):
    node: NodeProcess
    monitor: Monitor
    load: Load
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    with NodeProcess(
        tmp_path_factory.mktemp("node") / "data", cache="64MiB", durability="os"
    ) as node:
        load = Load(node)
        try:
            monitor = Monitor(node)
            try:
                prometheus = Prometheus(node.endpoint, folder)
                try:
                    yield Watched(node, monitor, load, prometheus)
                finally:
                    prometheus.close()
            finally:
                monitor.close()
        finally:
            load.close()
    assert load.failed == []


def test_the_target_is_up_and_is_understood(watched: Watched) -> None:
    def scraped() -> bool:
        targets = watched.prometheus.targets()
        assert [target["lastError"] for target in targets] in ([], [""])
        return [target["health"] for target in targets] == ["up"]

    until(scraped, "Prometheus has not scraped")
    assert watched.prometheus.values("beamstream_node_up") != {}


@pytest.mark.parametrize(("panel", "query"), list(dashboard_queries()))
def test_each_query_of_the_dashboard_is_answered(watched: Watched, panel: str, query: str) -> None:
    found = until(lambda: watched.prometheus.values(query), f"{panel}: no answer to {query}")
    assert all(value >= 0 for value in found.values())


@pytest.mark.parametrize("name", list(rules()))
def test_each_rule_has_something_to_look_at(watched: Watched, name: str) -> None:
    asked = as_bool(rules()[name])
    found = until(lambda: watched.prometheus.values(asked), f"{name}: no answer to {asked}")
    if "predict_linear" not in asked:
        assert set(found.values()) <= {0.0, 1.0} or " and " in asked


def test_rates_are_those_of_the_load(watched: Watched) -> None:
    messages = 'sum(rate(beamstream_messages_in_total{source="eiger"}[10s]))'
    nbytes = 'sum(rate(beamstream_bytes_in_total{source="eiger"}[10s]))'
    both = f"{nbytes} / {messages}"
    [size] = until(lambda: watched.prometheus.values(both), "no rates").values()
    assert size == pytest.approx(FRAME_NBYTES, rel=0.05)


def test_a_group_that_falls_behind_is_told_and_one_that_does_not_is_not(watched: Watched) -> None:
    expression = rules()["BeamstreamGroupLoses"]
    found = until(lambda: watched.prometheus.ask(expression), "nobody loses")
    assert {row["metric"]["group"] for row in found} == {"slow"}


def test_messages_that_are_given_up_are_told(watched: Watched) -> None:
    expression = rules()["BeamstreamGivenUp"]
    found = until(lambda: watched.prometheus.ask(expression), "nothing is given up")
    assert {row["metric"]["group"] for row in found} == {"slow"}


def test_errors_are_told_by_code(watched: Watched) -> None:
    expression = rules()["BeamstreamErrors"]
    found = until(lambda: watched.prometheus.ask(expression), "no errors")
    assert {row["metric"]["code"] for row in found} == {"E103"}


def test_what_is_told_is_what_is_documented(watched: Watched) -> None:
    text = watched.monitor.text()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    rows = documented()
    assert types == {name: kind for name, (_, kind, *_) in rows.items()}
    for name, (_, _, _, said, _) in rows.items():
        found = set()
        for labels in re.findall(rf"^{name}(?:_bucket|_sum|_count)?(?:{{(.*)}})? ", text, re.M):
            found.update(re.findall(r'(?:^|,)([a-z_]+)="', labels))
        assert found == {label for label in said.split(", ") if label}, name


def test_a_frozen_node_is_told_within_seconds(watched: Watched) -> None:
    """The last one: it comes back for those who clean up."""
    # While it is frozen nobody gets through its port: the monitor is asked where it listens.
    before = watched.prometheus.values("beamstream_node_stale_seconds")
    assert all(value < 2.5 for value in before.values())
    os.kill(watched.node.pid, signal.SIGSTOP)
    try:
        down = rules()["BeamstreamNotReached"]
        until(lambda: watched.prometheus.ask(down), "nobody has noticed")
    finally:
        os.kill(watched.node.pid, signal.SIGCONT)
    up = "beamstream_node_up == 1 and beamstream_node_stale_seconds < 2.5"
    until(lambda: watched.prometheus.ask(up), "it has not come back")
