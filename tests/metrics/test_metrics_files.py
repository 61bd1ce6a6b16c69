"""What lies in `deploy/` for Prometheus and Grafana, and the page that lists the metrics."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from beamstream.cli.main import COMMANDS
from metrics.watched import (
    DASHBOARD,
    PROMETHEUS,
    ROOT,
    dashboard_queries,
    documented,
    missing_programs,
    rules,
)

needs_promtool = pytest.mark.skipif(
    "promtool" in missing_programs(), reason="Debian package prometheus is not there"
)
_METRIC = re.compile(r"beamstream_[a-z_]+")


def promtool(*words: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_finds_nothing_wrong() -> None:
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "beamstream.yml")
    assert "rules found" in promtool("check", "rules", PROMETHEUS / "alerts.yml")


@needs_promtool
def test_alerts_come_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", Path(__file__).with_name("alerts.test.yml"))


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tests = yaml.safe_load(Path(__file__).with_name("alerts.test.yml").read_text())["tests"]
    raised = {
        one["alertname"]
        for test in tests for one in test["alert_rule_test"] if one.get("exp_alerts")
    }  # fmt: skip
    assert raised == set(rules())
    commands = {name for name, _, _ in COMMANDS}
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "action"}
            assert rule["labels"]["severity"] in ("page", "warn")
            for command in re.findall(r"beamstream ([a-z]+)", rule["annotations"]["action"]):
                assert command in commands


def test_what_is_asked_is_documented() -> None:
    known = set(documented())
    known |= {f"{name}{end}" for name in known for end in ("_bucket", "_sum", "_count")}
    asked = [query for _, query in dashboard_queries()] + list(rules().values())
    for query in asked:
        assert set(_METRIC.findall(query)) <= known


def test_units_are_in_the_names() -> None:
    for name, (_, kind, unit, *_) in documented().items():
        assert name.endswith("_total") == (kind == "counter")
        if unit in ("seconds", "bytes", "messages"):
            assert unit in name or unit == "messages"
        assert kind in ("counter", "gauge", "histogram")


def test_the_dashboard_asks_the_source_that_was_chosen() -> None:
    document = json.loads(DASHBOARD.read_text())
    names = [one["name"] for one in document["templating"]["list"]]
    assert names == ["datasource", "instance", "beamtime"]
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'instance=~"$instance"' in target["expr"]
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_panels_do_not_cover_each_other() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        }  # fmt: skip
        assert not own & cells, panel["title"]
        cells |= own


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy").rglob("*.yml")), ids=lambda path: path.name
)
def test_yaml_is_yaml_and_names_files_that_are_there(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    for service in document.get("services", {}).values():
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (path.parent / volume.partition(":")[0]).exists()
