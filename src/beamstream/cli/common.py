"""What the commands share: settings, the data folder, tables, clocks."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from beamstream import settings
from beamstream.settings import Settings
from beamstream.store.folder import DataFolder
from beamstream.store.registry import Registry

Data = Annotated[Path | None, Parameter(name="--data", help="Data folder.")]
Config = Annotated[Path | None, Parameter(name="--config", help="TOML file with settings.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


def load(config: Path | None, **flags: object) -> tuple[Settings, settings.Origins]:
    """Read the settings as every command sees them."""
    named = os.environ.get(f"{settings.ENVIRONMENT_PREFIX}CONFIG")
    return settings.load(flags, os.environ, config or (Path(named) if named else None))


@contextlib.contextmanager
def opened(
    data: Path | None, config: Path | None, *, create: bool = False
) -> Iterator[tuple[DataFolder, Registry]]:
    """Open the data folder and its registry, beside a running node or without one."""
    folder = DataFolder(load(config, data=data)[0].data, create=create)
    registry = Registry(folder.node_db)
    try:
        yield folder, registry
    finally:
        registry.close()


def now_ns() -> int:
    return time.time_ns()


def show_time(ns: int) -> str:
    """Write a time of the registry for people; ``-`` for none."""
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC") if ns else "-"


def print_rows(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table with aligned columns; nothing in it can command the terminal."""
    table = [list(head), *([_plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
