"""What makes results, written down: code, parameters, versions; so that it can be done again."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from beamstream import limits
from beamstream._version import __version__
from beamstream.errors import StepFailed
from beamstream.worker.parameters import plain
from beamstream.worker.steps import Step

GIT_S: Final = 5.0
"""How long git may take to say which commit it is."""

RUNS_KEPT: Final = 1_000
"""Numbers of runs that a worker remembers."""


class CodeVersion(msgspec.Struct, frozen=True):
    """Which code a step is.

    Parameters
    ----------
    where : for `beamstream.worker.loading.load`.
    file : path of the source of its module; empty when there is none.
    source : SHA-256 of that file, in hexadecimal digits; empty when there is none.
    commit : of the git work tree that the file lies in, with "+dirty" when its folder differs from
        it; empty when there is none.
    software : versions of numpy and the packages that the module imports.
    """

    where: str
    file: str
    source: str
    commit: str
    software: dict[str, str]


def code_version(step: Step) -> CodeVersion:
    """The version of the code that runs here; looks at the file of the step's module."""
    file = source_file(step)
    return CodeVersion(
        where=step.where,
        file=str(file or ""),
        source=source_digest(file),
        commit=commit_of(file) if file else "",
        software=software_of(step.module),
    )


def source_file(step: Step) -> Path | None:
    """The file that holds the code of a step; None when it was typed in."""
    try:
        found = inspect.getsourcefile(step.target)
    except (TypeError, OSError):
        return None
    if not found or not Path(found).is_file():
        return None
    return Path(found).resolve()


def source_digest(file: Path | None) -> str:
    """SHA-256 of a file, in hexadecimal digits; empty without one."""
    if file is None:
        return ""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


@functools.lru_cache(maxsize=256)
def commit_of(file: Path) -> str:
    """The commit of the work tree that a file lies in; empty when there is none, or no git."""
    folder = file.parent
    if not any((one / ".git").exists() for one in (folder, *folder.parents)):
        return ""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return ""
    return f"{commit}+dirty" if _git(folder, "status", "--porcelain", "--", ".") else commit


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=GIT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def software_of(module: ModuleType | None) -> dict[str, str]:
    """Versions of numpy and of the packages that a module imports."""
    names = {"numpy"}
    for value in vars(module).values() if module is not None else ():
        name = value.__name__ if isinstance(value, ModuleType) else _module_of(value)
        names.add(name.partition(".")[0])
    names -= {"", "beamstream", "builtins", getattr(module, "__name__", "").partition(".")[0]}
    found = {name: _version(name) for name in sorted(names - sys.stdlib_module_names)}
    return {name: version for name, version in found.items() if version}


def _module_of(value: object) -> str:
    name = getattr(value, "__module__", "")
    return name if isinstance(name, str) else ""


@functools.lru_cache(maxsize=256)
def _version(name: str) -> str:
    version = getattr(sys.modules.get(name), "__version__", "")
    if isinstance(version, str) and version:
        return version
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def run_document(
    step: Step,
    step_id: str,
    code: CodeVersion,
    values: Mapping[str, Any],
    *,
    parameters_version: int = 0,
    header_version: int = 0,
    reads: tuple[str, ...] = (),
    writes: str | None = None,
    replay_of: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a run says of itself; the same document is the same run.

    Parameters
    ----------
    values : parameters as the step got them, defaults and those from the header included.

    Raises
    ------
    StepFailed : it is too long: the parameters are.
    """
    document: dict[str, Any] = {
        "kind": "step",
        "step": step_id or step.name,
        "where": code.where,
        "file": code.file,
        "source": code.source,
        "commit": code.commit,
        "parameters": plain(values),
        "parameters_version": parameters_version,
        "header_version": header_version,
        "reads": list(reads) or [str(one) for one in step.reads],
        "writes": (step.writes if writes is None else writes) or "",
        "software": {"beamstream": __version__, **code.software},
        "python": platform.python_version(),
    }
    if replay_of is not None:
        document["replay_of"] = dict(replay_of)
    nbytes = len(msgspec.json.encode(document))
    if nbytes > limits.RUN_NBYTES_MAX:
        raise StepFailed(
            f"the run of step {step_id or step.name!r} has {nbytes} bytes to be written down, "
            f"{limits.RUN_NBYTES_MAX} are allowed",
            hint="large parameters belong into a file or the header of the stream",
        )
    return document


class RunBook:
    """Numbers of runs: one for each choice of parameters and headers that is met.

    Parameters
    ----------
    document : makes the document of (values, parameters version, header version).
    define : asks the node for its number.
    """

    def __init__(
        self,
        document: Callable[[Mapping[str, Any], int, int], dict[str, Any]],
        define: Callable[[Mapping[str, Any]], int],
    ) -> None:
        self._document = document
        self._define = define
        self._numbers: dict[tuple[int, int, bytes], int] = {}
        self.parameters_version = 0
        self.latest = 0

    def number(self, values: Mapping[str, Any], header_version: int) -> int:
        """The run of results that are made now."""
        # Values may come from a header, and headers of two streams have the same version.
        key = (self.parameters_version, header_version, msgspec.json.encode(values))
        found = self._numbers.get(key)
        if found is None:
            if len(self._numbers) >= RUNS_KEPT:
                self._numbers.clear()
            document = self._document(values, self.parameters_version, header_version)
            found = self._numbers[key] = self._define(document)
        self.latest = found
        return found
