"""On what was measured: commit, processor, kernel, file system, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def describe(folder: Path) -> dict[str, str]:
    """Return what a figure hangs on; `folder` is where the node's files are."""
    return {
        "commit": _commit(),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file system": _file_system(folder),
        "clients": ", ".join(map(_distribution, ("asapo-producer", "asapo-consumer"))),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _distribution(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"no {name}"


def _commit() -> str:
    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = " with changes" if git("status", "--porcelain", "src", "benchmarks") else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    path = folder.resolve()
    mounts = [line.split()[:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    fitting = [
        (len(where), kind)
        for _, where, kind in mounts
        if path == Path(where) or Path(where) in path.parents
    ]
    return max(fitting)[1] if fitting else "unknown"
