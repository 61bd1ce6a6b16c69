"""The node's own recovery."""

from __future__ import annotations

from pathlib import Path

from beamstream.server.recovery import recover as recover_parts
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.store.folder import DataFolder
from beamstream.store.registry import Registry


def recover(path: Path) -> SqliteCatalog:
    """Do to a data folder what a node does at its start; return its catalog."""
    folder = DataFolder(path, create=True)
    registry = Registry(folder.node_db)
    registry.close()
    catalog = SqliteCatalog(folder.catalog)
    try:
        recover_parts(folder.path / "folders.journal", catalog)
    except BaseException:
        catalog.close()
        raise
    return catalog
