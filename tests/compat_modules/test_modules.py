"""The modules look like the official ones: every name, every argument, every class of errors."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from types import ModuleType
from typing import Any

import asapo_consumer
import asapo_producer
import pytest

import beamstream.compat.asapo_consumer
import beamstream.compat.asapo_producer

PAIRS = [
    (asapo_producer, beamstream.compat.asapo_producer),
    (asapo_consumer, beamstream.compat.asapo_consumer),
]
TESTED = pytest.mark.parametrize(("official", "ours"), PAIRS, ids=["producer", "consumer"])


def public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def errors(module: ModuleType) -> dict[str, type[Exception]]:
    names = getattr(module, "__all__", None) or public(module)
    found = {name: getattr(module, name) for name in names}
    return {
        name: thing
        for name, thing in found.items()
        if isinstance(thing, type) and issubclass(thing, Exception)
    }


def arguments(function: Any) -> list[tuple[str, Any]]:
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


@TESTED
def test_names_and_constants(official: ModuleType, ours: ModuleType) -> None:
    imported_there = {"atexit", "json", "np", "warnings"}
    assert public(official) - imported_there == set(ours.__all__)
    assert ours.__version__ == official.__version__
    for name in ours.__all__:
        value = getattr(official, name)
        if isinstance(value, int):
            assert getattr(ours, name) == value


@TESTED
def test_errors(official: ModuleType, ours: ModuleType) -> None:
    expected = errors(official)
    assert errors(ours).keys() == expected.keys()
    for name, theirs in expected.items():
        mine = errors(ours)[name]
        assert [c.__name__ for c in mine.__mro__] == [c.__name__ for c in theirs.__mro__]
        if "__init__" in vars(theirs):
            names = [argument for argument, _ in arguments(theirs.__init__)]
            assert [argument for argument, _ in arguments(mine.__init__)] == names


@TESTED
def test_signatures(official: ModuleType, ours: ModuleType) -> None:
    kind = official.__name__.removeprefix("asapo_")
    create = f"create_{kind}"
    assert arguments(getattr(ours, create)) == arguments(getattr(official, create))
    theirs, mine = (getattr(module, f"Py{kind.capitalize()}") for module in (official, ours))
    assert public(mine) == public(theirs)
    for name in public(theirs):
        assert arguments(getattr(mine, name)) == arguments(getattr(theirs, name)), name


def test_errors_survive_a_trip_to_another_process() -> None:
    kinds = beamstream.compat.asapo_consumer
    error = kinds.AsapoPartialDataError("partial", {"id": 3, "content": []})
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kinds.AsapoPartialDataError
    assert (str(again), again.partial_data) == ("partial", {"id": 3, "content": []})
    end = pickle.loads(pickle.dumps(kinds.AsapoStreamFinishedError("end", 7, "next")))
    assert (end.id_max, end.next_stream) == (7, "next")


def test_importing_them_loads_no_server() -> None:
    script = """
import sys
import beamstream.compat.asapo_consumer, beamstream.compat.asapo_producer
outside = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
packages = {name for name in outside if not name.startswith("_")}
print(*sorted(packages & {"apsw", "cyclopts", "jwt", "uvloop", "sqlglot", "structlog", "rich"}))
print(*sorted(name for name in sys.modules if name.startswith("beamstream.")
              and name.split(".")[1] in ("server", "store", "cli", "testing", "settings")))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
