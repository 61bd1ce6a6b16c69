"""What a node does about what the last one left half done.

Unfinished writes are removed before the doors open, from the folders that the last run has noted.
Files without a record are listed afterwards, beside the traffic, and never deleted: a producer
that sends again adopts them, and a person may want them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from beamstream import limits
from beamstream.errors import StorageError
from beamstream.model import PART_PREFIX
from beamstream.server.roots import FolderNote, read_journal
from beamstream.store.beneath import sync_path
from beamstream.store.catalog import Catalog
from beamstream.store.files import remove_parts, storage_error

log = structlog.get_logger("recovery")


class Recovered(msgspec.Struct):
    """What was found.

    Parameters
    ----------
    notes : folders that were written to since the last clean stop.
    parts : unfinished writes that were removed.
    orphans : files without a record, the first of them by path.
    """

    notes: list[FolderNote] = []
    parts: int = 0
    orphans_count: int = 0
    orphans: list[str] = []

    @property
    def folders(self) -> int:
        return len(self.notes)


def recover(journal: Path, catalog: Catalog) -> Recovered:
    """Clean up after the last run and list orphans; for a folder on which no node runs."""
    found = clean_up(journal)
    list_orphans(found, journal, catalog, time.time_ns())
    return found


def clean_up(journal: Path) -> Recovered:
    """Remove unfinished writes; the journal of the last run is put aside until `list_orphans`.

    Raises
    ------
    StorageError : the journal cannot be put aside.
    """
    found = Recovered()
    last = _last(journal)
    try:
        _append(journal, last)
    except OSError as error:
        raise storage_error(error, "the journal of folders") from error
    for note in read_journal(last):
        found.notes.append(note)
        try:
            found.parts += remove_parts(Path(note.root) / note.below)
        except OSError as error:
            log.warning("a folder cannot be cleaned up", folder=note.below, reason=str(error))
    if found.parts:
        log.warning("removed unfinished writes", count=found.parts)
    return found


def list_orphans(found: Recovered, journal: Path, catalog: Catalog, before_ns: int) -> None:
    """Find files without a record that were written before `before_ns`; may take a while."""
    for note in found.notes:
        for name in _orphans(note, catalog, before_ns):
            found.orphans_count += 1
            if len(found.orphans) < limits.ORPHANS_LISTED_MAX:
                found.orphans.append(f"{note.root}/{name}")
    _last(journal).unlink(missing_ok=True)
    if found.orphans_count:
        log.warning(
            "files without a record; sending them again adopts them",
            count=found.orphans_count,
            files=found.orphans[:20],
        )


def _last(journal: Path) -> Path:
    return journal.with_name(journal.name + ".last")


def _append(journal: Path, last: Path) -> None:
    """Move the lines of one journal behind those of another, without a moment without them."""
    if not journal.exists():
        return
    with last.open("ab") as file:
        # A torn line must not swallow the first one behind it.
        file.write(b"\n" + journal.read_bytes() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_path(last)
    journal.unlink()


def _orphans(note: FolderNote, catalog: Catalog, before_ns: int) -> Iterator[str]:
    folder = Path(note.root) / note.below
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        try:
            new = entry.stat(follow_symlinks=False).st_ctime_ns >= before_ns
            regular = entry.is_file(follow_symlinks=False)
        except OSError:
            continue
        if new or not regular or entry.name.startswith(PART_PREFIX):
            continue
        name = f"{note.below}/{entry.name}" if note.below else entry.name
        try:
            recorded = catalog.file(note.beamtime, name) is not None
        except StorageError:
            return
        if not recorded:
            yield name
