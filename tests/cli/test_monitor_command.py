"""`beamstream monitor`: for nodes elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from beamstream.cli.main import main
from beamstream.testing.node import NodeProcess


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--node", "a=http://x", "--node", "a=http://y"], "same name"),
        (["--node", "http://x", "--token-file", "a", "--token-file", "b"], "token files"),
        (["--node", "http://x", "--token-file", "/nowhere"], "cannot be read"),
        (["--node", "http://x", "--prefix", "no/slash"], "prefix"),
    ],
)
def test_what_cannot_be_is_wrong_usage(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["monitor", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_two_nodes_until_it_is_told_to_end(tmp_path: Path, number: int) -> None:
    with (
        NodeProcess(cache="64MiB", durability="os") as one,
        NodeProcess(cache="64MiB", durability="os") as two,
    ):
        words = ["monitor", "--listen", "127.0.0.1:0"]
        for name, node in (("one", one), ("two", two)):
            token = tmp_path / f"{name}.token"
            token.write_text(node.connect["token"])
            words += ["--node", f"{name}={node.connect['url']}", "--token-file", str(token)]
        process = subprocess.Popen(
            [sys.executable, "-m", "beamstream.cli.main", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if "BEAMSTREAM" not in name},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("monitor at http://127.0.0.1:")
            url = line.split()[-1].removesuffix("/ui/")
            with urllib.request.urlopen(f"{url}/api/v1/me", timeout=30) as answer:
                me = json.load(answer)
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()
    assert set(me["nodes"]) == {"one", "two"}
    assert (process.returncode, "Traceback" in errors) == (0, False), errors
