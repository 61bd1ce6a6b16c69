from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"


def check_sizes(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOLS / "check_sizes.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("x = 1\n" * 700, ""),
        ("x = 1\n" * 701, "module has 701 lines"),
        ("def f():\n" + "    x = 1\n" * 69, ""),
        ("def f():\n" + "    x = 1\n" * 70, "f has 71 lines"),
        ('def f():\n    """' + "a\n" * 50 + '"""\n' + "    x = 1\n" * 60, ""),
        ("class C:\n    async def g(self):\n" + "        x = 1\n" * 70, "g has 71 lines"),
    ],
)
def test_sizes_are_checked(tmp_path: Path, text: str, finding: str) -> None:
    (tmp_path / "module.py").write_text(text)
    done = check_sizes(tmp_path)
    assert done.returncode == (1 if finding else 0)
    assert finding in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("python", ["/bin/false", "/nonexistent/python"])
def test_setup_says_what_it_needs(python: str, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "setup").write_bytes((TOOLS / "setup").read_bytes())
    done = subprocess.run(
        ["sh", str(tmp_path / "tools" / "setup"), "run", "true"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": python},
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"PYTHON={python}" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tools"]
