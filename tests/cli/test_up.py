"""`beamstream up` as a real process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system

REVOKED_WITHIN_S = 5.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path / "data", cache="64MiB") as node:
        yield node


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "beamstream.cli.main", "up", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def status(connection: http.client.HTTPConnection, token: str) -> tuple[int, bytes]:
    connection.request("GET", f"/v0.7/beamtime/bt1/detector/s/size?token={token}")
    reply = connection.getresponse()
    return reply.status, reply.read()


def token_id(node: NodeProcess, subject: str) -> str:
    rows = json.loads(node.cli("token", "ls", "--json", "--data", str(node.data)))
    return next(str(row["token_id"]) for row in rows if row["subject"] == subject)


def test_the_banner_has_the_real_addresses(node: NodeProcess) -> None:
    text = node.log_text()
    url, token = re.findall("export BEAMSTREAM_URL=(.+) BEAMSTREAM_TOKEN=(.+)", text)[0]
    assert (url, token) == (node.connect["url"], node.connect["token"])
    for name in ("http", "ingest", "data_port"):
        host, port = node.connect[name].split(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert node.connect[name] in text
    assert (node.data / "connect.json").stat().st_mode & 0o777 == 0o600
    assert node.connect["pid"] == node.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly(node: NodeProcess, number: signal.Signals) -> None:
    os.kill(node.pid, number)
    assert node.wait(30) == 0
    node.check_log()
    node.start()


def test_a_second_start_is_refused(node: NodeProcess) -> None:
    done = start("--data", str(node.data), "--http", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"beamstream: a node with process id {node.pid} runs on ")
    assert done.stderr.count("\n") == 1
    assert node.running


def test_a_port_in_use_is_told(node: NodeProcess, tmp_path: Path) -> None:
    done = start(
        *("--data", str(tmp_path / "other"), "--cache", "16MiB"),
        *("--http", node.endpoint, "--ingest", ":0", "--data-port", ":0"),
    )
    assert done.returncode == 1
    assert f"cannot listen at {node.endpoint}" in done.stderr.splitlines()[-1]


def test_revocation_reaches_an_open_connection(node: NodeProcess) -> None:
    token = node.token("bt1")
    connection = http.client.HTTPConnection(node.endpoint, timeout=30)
    assert status(connection, token) == (200, b'{"size":0}')
    node.cli("token", "revoke", token_id(node, "bt_bt1"), "--data", str(node.data))
    deadline = time.monotonic() + REVOKED_WITHIN_S
    reply = status(connection, token)
    while reply[0] == 200 and time.monotonic() < deadline:
        reply = status(connection, token)
    connection.close()
    assert reply == (401, b"authorizer rejected to authorize: wrong or expired JWT token")
    node.restart(kill=True)
    connection = http.client.HTTPConnection(node.endpoint, timeout=30)
    assert status(connection, token)[0] == 401
    connection.close()


def test_tokens_reach_no_log(node: NodeProcess) -> None:
    token = node.token("bt1")
    connection = http.client.HTTPConnection(node.endpoint, timeout=30)
    assert status(connection, token)[0] == 200
    assert status(connection, token[:-1])[0] == 401
    connection.close()
    node.terminate()
    text = node.log_text()
    assert token not in text
    assert token.split(".")[1] not in text


def test_the_folder_is_private(node: NodeProcess) -> None:
    for name in ("key", "node.db", "connect.json"):
        assert (node.data / name).stat().st_mode & 0o077 == 0
