"""Run a program with the modules of `beamstream.compat` in place of ASAPO's.

::

    python -m beamstream.compat program.py ARGS
    python -m beamstream.compat -m module ARGS
    python -m beamstream.compat -c code ARGS
    python -m beamstream.compat --path             print the folder for PYTHONPATH

Python programs that it starts have them as well.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from beamstream.compat import FOLDER, install

USAGE = "usage: python -m beamstream.compat (PROGRAM.py | -m MODULE | -c CODE | --path) [ARGS...]"


def main(args: list[str]) -> None:
    """Do what `args`, those of the command line, say."""
    match args:
        case ["--path"]:
            sys.stdout.write(f"{FOLDER}\n")
            return
        case ["-m", module, *rest]:
            _prepare([module, *rest], os.getcwd())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            _prepare(["-c", *rest], "")
            _run_code(code)
        case [program, *rest] if not program.startswith("-"):
            path = Path(program)
            if not path.exists():
                sys.exit(f"{program}: there is no such program\n{USAGE}")
            # Folders and archives with a __main__.py are put on the path by runpy itself.
            folder = None if path.is_dir() else str(path.resolve().parent)
            _prepare([program, *rest], folder)
            runpy.run_path(program, run_name="__main__")
        case _:
            sys.exit(USAGE)


def _prepare(argv: list[str], program: str | None) -> None:
    """Make arguments and module path those that Python itself would give the program.

    `program` is the folder of the program; None if that is put on the path by others.
    """
    install()
    sys.argv = argv
    safe = sys.flags.safe_path
    if not safe:
        del sys.path[0]  # what `python -m beamstream.compat` brought in
    # Processes of multiprocessing get this path, not PYTHONPATH.
    sys.path.insert(0, str(FOLDER))
    if program is not None and not safe:
        sys.path.insert(0, program)
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *([others] if others else [])])


def _run_code(code: str) -> None:
    names = sys.modules["__main__"].__dict__
    for name in [key for key in names if not key.startswith("__")]:
        del names[name]
    names.update({"__doc__": None, "__spec__": None, "__file__": None, "__package__": None})
    exec(compile(code, "<string>", "exec"), names)  # noqa: S102


if __name__ == "__main__":
    main(sys.argv[1:])
