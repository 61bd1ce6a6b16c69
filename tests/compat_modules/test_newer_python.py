"""On a Python for which there are no official modules."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import beamstream
from beamstream.testing.node import NodeProcess
from compat.doors import shared_folder

NEEDED = ["numpy", "msgspec", "xxhash"]
VERSIONS = ["3.13", "3.14"]
PLACES = [
    "/usr/bin/python{}", "/usr/local/bin/python{}", "~/.pyenv/versions/{}.*/bin/python",
    "~/.local/share/uv/python/cpython-{}.*/bin/python",
]  # fmt: skip
SOURCE = Path(beamstream.__file__).parent

PROGRAM = """
    import json, sys
    import asapo_consumer, asapo_producer
    endpoint, token = sys.argv[1:]
    outcome = []
    producer = asapo_producer.create_producer(
        endpoint, "processed", "bt1", "auto", "newer", token, 2, 20_000
    )
    for number in range(1, 21):
        producer.send(
            number, f"processed/newer/{number}", b"frame %d" % number, {"n": number},
            ingest_mode=asapo_producer.CACHE_ONLY_INGEST_MODE, stream="s",
            callback=lambda payload, error: outcome.append((payload["id"], repr(error))),
        )
    producer.wait_requests_finished(20_000)
    producer.send_stream_finished_flag("s", 20)
    producer.wait_requests_finished(20_000)
    consumer = asapo_consumer.create_consumer(
        endpoint, "auto", False, "bt1", "newer", token, 5_000
    )
    read = []
    try:
        while True:
            data, record = consumer.get_next("g", meta_only=False, stream="s", ordered=False)
            read.append((record["_id"], record["meta"]["n"], bytes(data).decode()))
    except asapo_consumer.AsapoStreamFinishedError as end:
        print(json.dumps([sorted(outcome), sorted(read), end.id_max, sys.version_info[:2]]))
"""


def newer_pythons() -> list[str]:
    wanted = os.environ.get("BEAMSTREAM_NEWER_PYTHON")
    if wanted:
        return [wanted]
    patterns = [os.path.expanduser(place).format(v) for v in VERSIONS for place in PLACES]
    return [found for pattern in patterns for found in sorted(glob.glob(pattern))]


def works(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, timeout=240, check=False)
    return done.returncode == 0


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python newer than 3.12 with Beamstream's client and nothing else."""
    folder = tmp_path_factory.mktemp("newer") / "venv"
    for candidate in newer_pythons():
        newer = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 13))"
        if not works(candidate, "-c", newer):
            continue
        if works(candidate, "-c", f"import {', '.join(NEEDED)}"):
            return candidate
        made = str(folder / "bin" / "python")
        pip = [made, "-m", "pip", "--disable-pip-version-check", "install", "--only-binary=:all:"]
        if works(candidate, "-m", "venv", str(folder)) and works(*pip, *NEEDED):
            return made
        pytest.skip(f"{' '.join(NEEDED)} cannot be installed for {candidate}")
    pytest.skip("there is no Python newer than 3.12 here (BEAMSTREAM_NEWER_PYTHON names one)")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Only this package is on the module path, as after an installation of it alone."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "beamstream").symlink_to(SOURCE)
    return os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_program(python: str, env: dict[str, str], node: NodeProcess, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [python, "-W", "error", "-m", "beamstream.compat", str(program), node.endpoint,
         node.token("bt1")],
        capture_output=True, text=True, env=env, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    outcome, read, last, version = json.loads(done.stdout)
    assert outcome == [[n, "None"] for n in range(1, 21)]
    assert read == [[n, n, f"frame {n}"] for n in range(1, 21)]
    assert last == 20
    assert tuple(version) > (3, 12)


def run_probe(python: str, node: NodeProcess, env: dict[str, str]) -> str:
    folder = shared_folder("asapo")
    if folder is None:
        pytest.skip("the probe is not beside the checkout (BEAMSTREAM_SHARED names its folder)")
    done = subprocess.run(
        [
            python, "-m", "beamstream.compat", str(folder / "compat_probe.py"), "--quick",
            "--endpoint", node.endpoint, "--beamtime", "bt1", "--token", node.token("bt1"),
            "--ro-token", node.token("bt1", "read"),
            "--root", str(node.data / "beamtimes" / "bt1"),
        ],
        capture_output=True, text=True, env=env, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_the_probe(python: str, env: dict[str, str], node: NodeProcess) -> None:
    summary = run_probe(python, node, env)
    assert " 0 failed, " in summary
    assert summary.rstrip().endswith("0 skipped")


def test_the_probe_on_this_python(env: dict[str, str], node: NodeProcess) -> None:
    summary = run_probe(sys.executable, node, env)
    assert " 0 failed, " in summary
    assert summary.rstrip().endswith("0 skipped")
