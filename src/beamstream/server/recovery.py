"""What a node does before it opens its doors: clean up what the last one left half done.

Unfinished writes are removed from the folders that the last run has noted. Files without a record
are listed, never deleted: a producer that sends again adopts them, and a person may want them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from beamstream import limits
from beamstream.model import PART_PREFIX
from beamstream.server.roots import FolderNote, read_journal
from beamstream.store.catalog import Catalog
from beamstream.store.files import remove_parts

log = structlog.get_logger("recovery")


class Recovered(msgspec.Struct):
    """What was found.

    Parameters
    ----------
    folders : that the last run wrote to.
    parts : unfinished writes that were removed.
    orphans : files without a record; the first of them by path.
    """

    folders: int = 0
    parts: int = 0
    orphans_count: int = 0
    orphans: list[str] = []


def recover(journal: Path, catalog: Catalog) -> Recovered:
    """Clean up after the last run; afterwards the journal is empty."""
    found = Recovered()
    for note in read_journal(journal):
        folder = Path(note.root) / note.below
        found.folders += 1
        found.parts += remove_parts(folder)
        for name in _orphans(note, folder, catalog):
            found.orphans_count += 1
            if len(found.orphans) < limits.ORPHANS_LISTED_MAX:
                found.orphans.append(f"{note.root}/{name}")
    if found.folders:
        fd = os.open(journal, os.O_WRONLY)
        try:
            os.ftruncate(fd, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
    return found


def report(found: Recovered) -> None:
    if found.parts:
        log.warning("removed unfinished writes", count=found.parts)
    if found.orphans_count:
        log.warning(
            "files without a record; sending them again adopts them",
            count=found.orphans_count,
            files=found.orphans[:20],
        )


def _orphans(note: FolderNote, folder: Path, catalog: Catalog) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith(PART_PREFIX) or not entry.is_file(follow_symlinks=False):
            continue
        name = f"{note.below}/{entry.name}" if note.below else entry.name
        if catalog.file(note.beamtime, name) is None:
            yield name
