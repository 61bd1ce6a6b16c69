"""The folders below which beamtimes keep their files: open, with space left, and remembered.

Before the first file is written into a folder, the folder is noted in a journal of the node. After
a crash only noted folders need to be looked at for what unfinished writes have left there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from beamstream import limits
from beamstream.errors import NoSpace
from beamstream.model import Root
from beamstream.server.beamtimes import BeamtimeFolders
from beamstream.store.beneath import sync_path
from beamstream.store.files import RootFolder, storage_error


class FolderNote(msgspec.Struct, frozen=True):
    """Files were written below `root` of a beamtime, into the folder `below` ("" for itself)."""

    beamtime: str
    root: str
    below: str


class Roots:
    """Root folders, opened when first used; methods may be called from any thread."""

    def __init__(self, journal: Path) -> None:
        self._lock = threading.Lock()
        self._open: dict[Path, RootFolder] = {}
        self._noted: set[FolderNote] = set()
        self._journal = os.open(
            journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640
        )
        sync_path(journal)

    def folder(self, folders: BeamtimeFolders, root: int, name: str) -> RootFolder:
        """The root folder for writing the file `name`, whose folder is noted before."""
        opened = self.existing(folders, root)
        note = FolderNote(folders.beamtime, str(opened.path), name.rpartition("/")[0])
        if note not in self._noted:
            self._note(note)
        return opened

    def existing(self, folders: BeamtimeFolders, root: int) -> RootFolder:
        """The root folder, for reading."""
        path = folders.path(Root(root))
        opened = self._open.get(path)
        if opened is None:
            with self._lock:
                opened = self._open.get(path)
                if opened is None:
                    opened = self._open[path] = RootFolder(path)
        return opened

    def check_space(self, folders: BeamtimeFolders, root: int, nbytes: int) -> None:
        """Raise `NoSpace` if a file of `nbytes` would eat the reserve for records."""
        opened = self.existing(folders, root)
        status = os.fstatvfs(opened.fd)
        free = status.f_bavail * status.f_frsize
        reserve = min(limits.DISK_RESERVE_NBYTES_MIN, status.f_blocks * status.f_frsize // 16)
        if free - nbytes < reserve or (status.f_files and status.f_favail < 16):
            raise NoSpace(
                f"no space left for a file of {nbytes} bytes below {opened.path} "
                f"({free // limits.MIB} MiB free)",
                hint="free some space; sending again will work",
            )

    def forget_notes(self) -> None:
        """All files that were begun have ended: nothing needs to be looked for after this run."""
        os.ftruncate(self._journal, 0)

    def close(self) -> None:
        for opened in self._open.values():
            opened.close()
        self._open.clear()
        os.close(self._journal)

    def _note(self, note: FolderNote) -> None:
        with self._lock:
            if note in self._noted:
                return
            if len(self._noted) >= limits.FOLDER_NOTES_MAX:
                self._noted.clear()
            try:
                os.write(self._journal, msgspec.json.encode(note) + b"\n")
                os.fdatasync(self._journal)
            except OSError as error:
                raise storage_error(error, "the journal of folders") from error
            self._noted.add(note)


def read_journal(journal: Path) -> Iterator[FolderNote]:
    """The folders noted in a journal, each once; a torn last line is left out."""
    seen: set[FolderNote] = set()
    try:
        lines = journal.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            note = msgspec.json.decode(line, type=FolderNote)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if note not in seen:
            seen.add(note)
            yield note
