"""Steps by the names that people write: of a module, of a file, of stock."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from beamstream.errors import BadStep
from beamstream.worker.steps import Step

STOCK: Final = "beamstream.workers"


def load(where: str, folder: Path | None = None) -> Step:
    """The step that `where` names.

    Parameters
    ----------
    where : ``package.module:name``, ``path/file.py:name``, or the name of a stock step. ``:name``
        may be left out where a module or file has only one step.
    folder : that paths of files are relative to; the present one without it.

    Raises
    ------
    BadStep : there is none, or its module cannot be imported.

    >>> load("beamstream.worker.steps:step")
    Traceback (most recent call last):
      ...
    beamstream.errors.BadStep: 'beamstream.worker.steps:step' is no step (decorate it with @step)
    """
    place, _, name = where.rpartition(":") if ":" in where else (where, "", "")
    if place.endswith(".py"):
        module = _import_file(Path(folder or ".", place), where)
    elif not name and "." not in place:
        module, name = _import(STOCK, where), place
    else:
        module = _import(place, where)
    found = _find(module, name, where)
    # Whoever starts it again elsewhere has to find it by the same words.
    if place.endswith(".py"):
        found.where = f"{Path(folder or '.', place).resolve()}:{found.__name__}"
    return found


def steps_of(module: ModuleType) -> dict[str, Step]:
    """Steps of a module, by name."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Step)}


def _find(module: ModuleType, name: str, where: str) -> Step:
    steps = steps_of(module)
    there = f"steps there: {', '.join(steps) or 'none'}"
    if not name:
        own = [one for one in steps.values() if one.__module__ == module.__name__]
        if len(own) != 1:
            raise BadStep(f"{where!r} does not say which step", hint=there)
        return own[0]
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Step):
        return found
    by_name = [one for one in steps.values() if one.name == name]
    if len(by_name) == 1:
        return by_name[0]
    if found is not None:
        raise BadStep(f"{where!r} is no step", hint="decorate it with @step")
    if module.__name__ == STOCK and ":" not in where:
        raise BadStep(
            f"there is no stock step {where!r}",
            hint=f"{there}; others are named package.module:name or file.py:name",
        )
    raise BadStep(f"there is no step {where!r}", hint=there)


def _import(place: str, where: str) -> ModuleType:
    # A program that is started in a folder finds what lies there, as `python -m` does.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise _unimportable(where, error) from error


def _import_file(path: Path, where: str) -> ModuleType:
    try:
        path = path.resolve(strict=True)
        mark = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    except OSError as error:
        raise BadStep(f"step {where!r}: {error.strerror or error}: {path}") from None
    # Two files of one name are two modules.
    module_name = f"{path.stem}_{mark}"
    loaded = sys.modules.get(module_name)
    if loaded is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise BadStep(f"step {where!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise _unimportable(where, error) from error
    return module


def _unimportable(where: str, error: Exception) -> BadStep:
    return BadStep(
        f"step {where!r} cannot be imported: {type(error).__name__}: {error}",
        hint="is it installed in this environment, and free of errors?",
    )
