"""Programs run with the drop-in modules, and what they start as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamstream import compat

ORIGIN = "beamstream.compat.asapo_consumer"


def run(*args: str, folder: Path, env: dict[str, str] | None = None) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [sys.executable, "-m", "beamstream.compat", *args],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | (env or {}),
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


SHOW = """
import sys, asapo_consumer, asapo_producer
print(asapo_consumer.__name__, asapo_producer.create_producer.__module__)
print(__name__, sys.argv)
print(repr(sys.path[0]))
"""


def test_a_program(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    program = tmp_path / "here" / "program.py"
    program.write_text(SHOW + "import beside\nprint(__file__)\nsys.exit(3)\n")
    (tmp_path / "here" / "beside.py").write_text("import __main__\nprint(__main__.__name__)\n")
    code, lines, problems = run("here/program.py", "-m", "x", folder=tmp_path)
    assert (code, problems) == (3, "")
    assert lines == [
        f"{ORIGIN} beamstream.compat.asapo_producer",
        "__main__ ['here/program.py', '-m', 'x']",
        repr(str(tmp_path / "here")),
        "__main__",
        "here/program.py",
    ]


def test_a_module(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(SHOW + "print(__package__)\n")
    code, lines, problems = run("-m", "package", "a", folder=tmp_path)
    assert (code, problems) == (0, "")
    assert lines[0].startswith(ORIGIN)
    assert lines[1] == f"__main__ {[str(tmp_path / 'package' / '__main__.py'), 'a']}"
    assert lines[2:] == [repr(str(tmp_path)), "package"]


def test_code(tmp_path: Path) -> None:
    code, lines, problems = run("-c", SHOW + "print(sorted(vars()))", "a b", folder=tmp_path)
    assert (code, problems) == (0, "")
    assert lines[0].startswith(ORIGIN)
    assert lines[1:3] == ["__main__ ['-c', 'a b']", "''"]
    assert "main" not in lines[3]


def test_a_failing_program_shows_its_own_traceback(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("def f():\n    raise KeyError('mine')\n\nf()\n")
    code, _, problems = run("fails.py", folder=tmp_path)
    assert code == 1
    assert problems.rstrip().endswith("KeyError: 'mine'")
    assert 'fails.py", line 4' in problems


@pytest.mark.parametrize("args", [(), ("-x",), ("-m",), ("none.py",)])
def test_wrong_arguments(args: tuple[str, ...], tmp_path: Path) -> None:
    code, lines, problems = run(*args, folder=tmp_path)
    assert (code, lines) == (1, [])
    assert problems.rstrip().splitlines()[-1].startswith("usage: python -m beamstream.compat")


def test_programs_that_a_program_starts(tmp_path: Path) -> None:
    program = tmp_path / "starts.py"
    program.write_text(
        """
import multiprocessing, subprocess, sys
import asapo_consumer

def inside(_):
    import asapo_consumer
    return asapo_consumer.__name__, asapo_consumer.AsapoEndOfStreamError("end", 3)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        [(name, error)] = pool.map(inside, [0])
    print(name, type(error) is asapo_consumer.AsapoEndOfStreamError, error.id_max)
    subprocess.run(
        [sys.executable, "-c", "import asapo_consumer; print(asapo_consumer.__name__)"],
        check=True,
    )
"""
    )
    code, lines, problems = run("starts.py", folder=tmp_path, env={"PYTHONPATH": ""})
    assert (code, problems) == (0, "")
    assert lines == [f"{ORIGIN} True 3", ORIGIN]


def test_the_folder_for_the_module_path(tmp_path: Path) -> None:
    code, [folder], problems = run("--path", folder=tmp_path)
    assert (code, problems) == (0, "")
    assert Path(folder) == compat.FOLDER
    found = subprocess.run(
        [sys.executable, "-c", "from asapo_producer import PyProducer as P; print(P.__module__)"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": folder},
        timeout=60,
        check=True,
    )
    assert found.stdout.strip() == "beamstream.compat.asapo_producer"


def test_install(tmp_path: Path) -> None:
    script = "from beamstream import compat; compat.install(); import asapo_consumer as c; "
    done = subprocess.run(
        [sys.executable, "-c", script + "print(c.__name__, c.create_consumer.__name__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == [ORIGIN, "create_consumer"]
