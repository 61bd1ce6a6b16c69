"""A node under load, its monitor, and a real Prometheus that scrapes them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from beamstream.client.native.hub import Hub, connect
from beamstream.errors import BadQuery
from beamstream.monitor import jobs
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls
from docs.pages import table

ROOT: Final = Path(__file__).resolve().parents[2]
PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "beamstream.json"
FRAME_NBYTES: Final = 50_000
WAIT_S: Final = 60.0
_PAUSE_S: Final = 0.1

_COMPARED: Final = re.compile(r" (==|!=|<=|>=|<|>) ")


def missing_programs() -> list[str]:
    return [name for name in ("prometheus", "promtool") if shutil.which(name) is None]


def rules() -> dict[str, str]:
    """Expressions of the alerts, by name."""
    document = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return {rule["alert"]: rule["expr"] for group in document["groups"] for rule in group["rules"]}


def documented() -> dict[str, list[str]]:
    """Rows of the reference of metrics, by name: name, type, unit, labels, what it is."""
    rows = table(ROOT / "docs" / "reference" / "metrics.md")
    return {row[0]: row for row in rows if row[0].startswith("beamstream_")}


def as_bool(expression: str) -> str:
    """An expression that tells 0 or 1 where the alert's would tell nothing or something."""
    return _COMPARED.sub(r" \1 bool ", expression)


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Panels and their queries, as Grafana sends them when everything is chosen."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"]
            for name, value in (
                ("$instance", ".*"), ("$beamtime", ".*"), ("$__rate_interval", "10s"),
            ):  # fmt: skip
                text = text.replace(name, value)
            yield panel["title"], text


def until(what: Callable[[], Any], said: str) -> Any:
    """Ask again and again; a pause, as Prometheus has nothing new before it looks again."""
    deadline = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < deadline, said
        time.sleep(_PAUSE_S)
    return found


class Monitor:
    """The monitor of a node, where the node looks for it."""

    def __init__(self, node: NodeProcess) -> None:
        self.log = node.data.with_name("monitor.log")
        job = jobs.Job(
            url=node.connect["url"],
            token=node.connect["token"],
            socket=str(node.data / "monitor.sock"),
        )
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "beamstream.monitor"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(jobs.encode(job))
        self._process.stdin.flush()
        self._url = f"{node.connect['url']}/metrics"
        try:
            until(self._answers, "no metrics")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-4000:]
        try:
            return "beamstream_node_up 1" in self.text()
        except OSError:
            return False

    def text(self) -> str:
        """What it tells Prometheus."""
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            return answer.read().decode()

    def close(self) -> None:
        self._process.communicate(timeout=30)


class Load:
    """A detector, readers of all kinds, and somebody who makes mistakes, until it is closed."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._over = threading.Event()
        self._flows = threading.Event()
        self.failed: list[BaseException] = []
        with self._hub("show") as hub:
            step = {"name": "find", "step_id": "show.find", "reads": ["eiger"], "writes": None}
            document = {"pipeline": "show", "state": "up", "steps": [step]}
            hub.source("pipelines").stream("show").set_meta(document)
        parts = (self._detector, self._fast, self._slow, self._wrong)
        self._threads = [threading.Thread(target=self._run, args=(part,)) for part in parts]
        for thread in self._threads:
            thread.start()
        if not self._flows.wait(WAIT_S):
            self.close()
            raise AssertionError(f"nothing flows: {self.failed}")

    def _hub(self, step: str) -> Hub:
        connection = self._node.connect
        return connect(connection["url"], token=connection["token"], step=step)

    def _run(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:
            self.failed.append(error)

    def _detector(self) -> None:
        with self._hub("detector") as hub:
            writer = hub.stream("eiger/scan1").writer()
            while not self._over.wait(0.01):
                writer.send(b"x" * FRAME_NBYTES)

    def _fast(self) -> None:
        with self._hub("show.find") as hub:
            group = hub.stream("eiger/scan1").group("show.find", ack="manual", timeout=2.0)
            for message in group:
                message.ack()
                self._flows.set()
                if self._over.is_set():
                    return

    def _slow(self) -> None:
        with self._hub("slow") as hub:
            group = hub.stream("eiger/scan1").group(
                "slow", ack="manual", timeout=2.0, max_attempts=1
            )
            for number, message in enumerate(group):
                if number % 2:
                    message.nack()
                else:
                    message.ack()
                if self._over.wait(0.2):
                    return

    def _wrong(self) -> None:
        with self._hub("wrong") as hub:
            while not self._over.wait(0.1):
                try:
                    hub._call(calls.Search(source="eiger", stream="scan1", query="((("))
                except BadQuery:
                    continue

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)


class Prometheus:
    """Prometheus as its file in `deploy/` says, at another address and in a hurry."""

    def __init__(self, target: str, folder: Path) -> None:
        text = (PROMETHEUS / "beamstream.yml").read_text()
        config = yaml.safe_load(text)
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        [scraped] = config["scrape_configs"]
        assert scraped["static_configs"] == [{"targets": ["localhost:8400"]}]
        scraped["static_configs"] = [{"targets": [target]}]
        (folder / "beamstream.yml").write_text(yaml.safe_dump(config))
        shutil.copy(PROMETHEUS / "alerts.yml", folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._url = f"http://{address}/api/v1"
        self._process = subprocess.Popen(
            [
                "prometheus",
                "--config.file=beamstream.yml",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._ready = threading.Event()
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._ready.wait(WAIT_S), "".join(self.said)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line)
            if "ready to receive web requests" in line:
                self._ready.set()

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """What it answers: series with their values now."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self._url}/query?{query}", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def values(self, expression: str) -> dict[str, float]:
        """Values that are numbers, by all labels."""
        found = {json.dumps(row["metric"]): float(row["value"][1]) for row in self.ask(expression)}
        return {labels: value for labels, value in found.items() if value == value}

    def targets(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self._url}/targets", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["activeTargets"]
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._reader.join(30)
        assert self._process.stderr is not None
        self._process.stderr.close()
