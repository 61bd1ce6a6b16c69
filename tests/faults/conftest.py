"""How long the fault tests run, and what they need."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .power_loss.recording import build_recorder

SHORT_S = float(os.environ.get("FAULT_SECONDS", "60"))
LONG_S = float(os.environ.get("FAULT_LONG_SECONDS", "900"))


@pytest.fixture(
    params=[
        pytest.param(SHORT_S, id="short", marks=pytest.mark.timeout(SHORT_S + 300)),
        pytest.param(
            LONG_S, id="long", marks=[pytest.mark.long, pytest.mark.timeout(LONG_S + 900)]
        ),
    ]
)
def seconds(request: pytest.FixtureRequest) -> float:
    """How long a big test goes on; FAULT_SECONDS sets it."""
    return float(request.param)


@pytest.fixture
def seed() -> int:
    """A new seed for each run, or FAULT_SEED; printed with the result."""
    text = os.environ.get("FAULT_SEED", "")
    seed = int(text) if text else secrets.randbelow(10**6)
    print(f"FAULT_SEED={seed}")
    return seed


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is such a file system: thousands of states are laid there."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="beamstream-faults-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorder of file operations."""
    return build_recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture(scope="session")
def strace() -> str:
    path = shutil.which("strace")
    assert path, "strace is needed for the fault tests: apt-get install strace"
    return path
