"""Builds the page (ui/) into the package, if one of its sources is newer than what is built.

tools/build_page.py [--out FOLDER] [--strict]

Without npm, or when the build fails, it says so, and the node serves its plain page; with --strict
that is an error. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UI = ROOT / "ui"
OUT = ROOT / "src" / "beamstream" / "monitor" / "web"
_NOT_SOURCES = {"node_modules", ".tests", "tests"}
_INSTALL = (
    "ci",
    "--include=dev",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
)


class CannotBuild(Exception):
    """The page cannot be built here."""


def sources(ui: Path) -> Iterator[Path]:
    """All files that the page is made of."""
    for path in sorted(ui.iterdir()):
        if path.name in _NOT_SOURCES:
            continue
        yield from (
            (found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
        )


def is_built(ui: Path, out: Path) -> bool:
    """Whether the page in `out` is not older than any of its sources."""
    page = out / "index.html"
    if not page.is_file() or not any((out / "assets").glob("*.js")):
        return False
    built = page.stat().st_mtime
    return all(path.stat().st_mtime <= built for path in sources(ui))


def build(ui: Path, out: Path) -> None:
    """Build the page into `out`.

    Raises
    ------
    CannotBuild : there is no npm, or it fails; the message has the end of what it says.
    """
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise CannotBuild("npm is not there (Debian: apt-get install npm)")
    lock, installed = ui / "package-lock.json", ui / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _run([npm, *_INSTALL], ui)
    _run([node, "build.mjs", "--out", str(out)], ui)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(  # noqa: S603
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        told = "\n    ".join(done.stdout.strip().splitlines()[-12:])
        raise CannotBuild(f"{Path(command[0]).name} {command[1]} failed:\n    {told}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the page into the package.")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--strict", action="store_true", help="fail when it cannot be built")
    asked = parser.parse_args()
    out = asked.out.resolve()
    if is_built(UI, out):
        return 0
    print("page: building", file=sys.stderr)  # noqa: T201
    try:
        build(UI, out)
    except CannotBuild as error:
        old = " The page that is there is older than its sources." if out.exists() else ""
        note = f"page: not built: {error}\npage: a node serves a plain page instead.{old}"
        print(note, file=sys.stderr)  # noqa: T201
        return 1 if asked.strict else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
