"""What the commands that work on a data folder share: settings, the folder, its registry."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from beamstream.cli.options import Config, Data, Json
from beamstream.cli.terminal import print_json, print_rows, show_time

if TYPE_CHECKING:
    from beamstream import settings
    from beamstream.settings import Settings
    from beamstream.store.folder import DataFolder
    from beamstream.store.registry import Registry

__all__ = [
    "Config", "Data", "Json", "load", "now_ns", "opened", "print_json", "print_rows", "show_time",
]  # fmt: skip


def load(config: Path | None, **flags: object) -> tuple[Settings, settings.Origins]:
    """Read the settings as every command sees them."""
    from beamstream import settings

    named = os.environ.get(f"{settings.ENVIRONMENT_PREFIX}CONFIG")
    return settings.load(flags, os.environ, config or (Path(named) if named else None))


@contextlib.contextmanager
def opened(
    data: Path | None, config: Path | None, *, create: bool = False
) -> Iterator[tuple[DataFolder, Registry]]:
    """Open the data folder and its registry, beside a running node or without one."""
    from beamstream.store.folder import DataFolder
    from beamstream.store.registry import Registry

    folder = DataFolder(load(config, data=data)[0].data, create=create)
    registry = Registry(folder.node_db)
    try:
        yield folder, registry
    finally:
        registry.close()


def now_ns() -> int:
    return time.time_ns()
