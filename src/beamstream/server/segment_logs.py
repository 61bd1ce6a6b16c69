"""The logs of beamtimes for messages without a name: opened, recovered, written before records.

Called from threads: opening a log reads through what the last run left open, and appending waits
for the disk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from beamstream import limits
from beamstream.errors import DataLost, Error, NoSpace, StorageError
from beamstream.server.commits import Prepared
from beamstream.store.segments import Segments

log = structlog.get_logger("segments")

Referenced = Callable[[str, int], int]
"""(beamtime, segment) -> how far into that segment its records reach."""


class SegmentLogs:
    """One log for each beamtime, below `folder`.

    Parameters
    ----------
    referenced : asked for segments with a torn end.
    """

    def __init__(self, folder: Path, referenced: Referenced) -> None:
        self._folder = folder
        self._referenced = referenced
        self._lock = threading.Lock()
        self._logs: dict[str, Segments] = {}

    def recover(self, beamtime: str) -> None:
        """Open the log of a beamtime, if there is one: what was torn is cut off, and logged.

        Raises
        ------
        StorageError : it cannot be opened.
        """
        if beamtime not in self._logs and (self._folder / beamtime).is_dir():
            self.of(beamtime)

    def of(self, beamtime: str) -> Segments:
        """The log of a beamtime, made if it is not there."""
        found = self._logs.get(beamtime)
        if found is None:
            with self._lock:
                found = self._logs.get(beamtime)
                if found is None:
                    found = self._logs[beamtime] = self._open(beamtime)
        return found

    def existing(self, beamtime: str) -> Segments:
        """The log of a beamtime that has records in it.

        Raises
        ------
        DataLost : the log is gone.
        """
        if beamtime not in self._logs and not (self._folder / beamtime).is_dir():
            raise DataLost(
                f"the segments of beamtime {beamtime} are not in {self._folder}",
                hint="restore them from a copy",
            )
        return self.of(beamtime)

    def _open(self, beamtime: str) -> Segments:
        opened = Segments(
            self._folder / beamtime,
            referenced=lambda segment: self._referenced(beamtime, segment),
        )
        found = opened.recovery
        for torn in found.torn:
            log.warning("a torn end was cut off", beamtime=beamtime, **torn._asdict())
        for damage in found.damaged:
            log.error("a segment is damaged", beamtime=beamtime, **damage._asdict())
        return opened

    def prepare(self, beamtime: str, batches: list[Prepared]) -> None:
        """Append the bodies of batches as one entry; synced if one of them needs it."""
        try:
            opened = self.of(beamtime)
            self._check_space(opened.path, sum(batch.body.nbytes for batch in batches))
            place = opened.append([batch.body for batch in batches])
            if any(batch.syncs for batch in batches):
                opened.sync()
        except Error as error:
            for batch in batches:
                batch.outcome = error
            return
        position = place.offset
        for batch in batches:
            batch.ops = batch.placed(place.segment, position)
            position += batch.body.nbytes

    def _check_space(self, folder: Path, nbytes: int) -> None:
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        reserve = min(limits.DISK_RESERVE_NBYTES_MIN, status.f_blocks * status.f_frsize // 16)
        if free - nbytes < reserve:
            raise NoSpace(
                f"no space left for {nbytes} bytes in {folder} ({free // limits.MIB} MiB free)",
                hint="free some space; sending again will work",
            )

    def close(self) -> None:
        """Bring all to disk and close."""
        for beamtime, opened in self._logs.items():
            try:
                opened.close()
            except StorageError as error:
                log.error("segments could not be synced", beamtime=beamtime, reason=str(error))
        self._logs.clear()
