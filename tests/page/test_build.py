"""The page is built when its sources are newer, and says so when it cannot be."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "build_page.py"
NODE = shutil.which("node") is not None and (ROOT / "ui" / "node_modules").is_dir()
GZIP_NBYTES_MAX = 80_000

needs_node = pytest.mark.skipif(not NODE, reason="node is not there, or npm ci has not run")


def build(*flags: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ) if path is None else {**os.environ, "PATH": path}
    return subprocess.run(
        [sys.executable, str(TOOL), *flags],
        env=env, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "web"
    done = build("--strict", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


@needs_node
def test_page_is_small_and_complete(web: Path) -> None:
    files = [path for path in web.rglob("*") if path.is_file() and path.suffix != ".gz"]
    assert {path.suffix for path in files} == {".html", ".js", ".css"}
    packed = 0
    for path in files:
        copy = path.with_name(f"{path.name}.gz").read_bytes()
        assert gzip.decompress(copy) == path.read_bytes()
        packed += len(copy)
    assert packed <= GZIP_NBYTES_MAX
    index = (web / "index.html").read_text()
    for path in (web / "assets").glob("app-*"):
        if path.suffix != ".gz":
            assert f"assets/{path.name}" in index


@needs_node
def test_page_names_nobody_else(web: Path) -> None:
    for path in web.rglob("*"):
        if path.is_file() and path.suffix != ".gz":
            # Names of XML's languages are no addresses that are asked.
            found = set(re.findall(r"https?://[\w.-]+", path.read_text())) - {"http://www.w3.org"}
            assert found == set(), path.name


@needs_node
def test_built_page_is_left_alone(web: Path) -> None:
    before = (web / "index.html").stat().st_mtime_ns
    # Without a PATH there is no npm: it is not asked for.
    done = build("--strict", "--out", str(web), path="")
    assert (done.returncode, done.stderr) == (0, "")
    assert (web / "index.html").stat().st_mtime_ns == before


@needs_node
def test_older_page_is_built_again(web: Path) -> None:
    index = web / "index.html"
    os.utime(index, (0, 0))
    assert build("--strict", "--out", str(web)).returncode == 0
    assert index.stat().st_mtime > 0


def test_without_npm_it_is_a_note_or_an_error(tmp_path: Path) -> None:
    out = str(tmp_path / "web")
    lenient, strict = build("--out", out, path=""), build("--strict", "--out", out, path="")
    assert (lenient.returncode, strict.returncode) == (0, 1)
    for done in (lenient, strict):
        assert "npm is not there" in done.stderr
        assert "plain page" in done.stderr
