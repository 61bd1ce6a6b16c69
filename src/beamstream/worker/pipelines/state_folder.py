"""Where a pipeline that runs keeps its lock, its socket and its logs.

::

    $XDG_STATE_HOME/beamstream/pipelines/BEAMTIME/NAME/
        lock            locked while it runs; holds the process id
        address         path of its control socket
        control.sock
        logs/           STEP.N.log of each worker, supervisor.log of one without terminal
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from beamstream.errors import BadPipeline, NotFound

_MODE: Final = 0o700
_LOCK_ATTEMPTS: Final = 10
_LOCK_EVERY_S: Final = 0.02
_SOCKET_NBYTES_MAX: Final = 100
"""Paths of Unix sockets have 107 bytes, on some systems 103."""


class StateFolder:
    """The folder of one pipeline in one beamtime, of one user."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def beamtime(self) -> str:
        return self.path.parent.name

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def address(self) -> Path:
        return self.path / "address"

    def make(self) -> None:
        """Make it, for this user alone.

        Raises
        ------
        BadPipeline : it cannot be made, or is somebody else's.
        """
        try:
            self.logs.mkdir(_MODE, parents=True, exist_ok=True)
            self.path.chmod(_MODE)
        except OSError as error:
            raise BadPipeline(
                f"cannot use the folder {self.path}: {error.strerror}",
                hint="XDG_STATE_HOME names another place for it",
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one supervisor of this pipeline.

        Raises
        ------
        BadPipeline : there is another one.
        """
        self.make()
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _lock(fd):
                raise BadPipeline(
                    f"pipeline {self.name!r} of beamtime {self.beamtime!r} runs already, as "
                    f"process {self.pid or '?'}",
                    hint="beamstream pipeline ps shows it, beamstream pipeline down ends it",
                )
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            yield
        finally:
            os.close(fd)

    @property
    def pid(self) -> int:
        """Process id that is written in the lock; 0 for none."""
        try:
            return int(self.lock.read_text() or 0)
        except (OSError, ValueError):
            return 0

    @property
    def running(self) -> bool:
        """Whether a supervisor holds the lock."""
        try:
            fd = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def socket_path(self) -> Iterator[Path]:
        """A path for the control socket that is short enough, told to others of this user."""
        path, short = self.path / "control.sock", None
        if len(os.fsencode(path)) > _SOCKET_NBYTES_MAX:
            short = Path(tempfile.mkdtemp(prefix="beamstream-"))
            path = short / "control.sock"
        path.unlink(missing_ok=True)
        try:
            yield path
        finally:
            self.address.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            if short is not None:
                shutil.rmtree(short, ignore_errors=True)


def _lock(fd: int) -> bool:
    """Lock a file; whoever only looks whether it is locked holds it for a moment."""
    for attempt in range(_LOCK_ATTEMPTS):
        if attempt:
            time.sleep(_LOCK_EVERY_S)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def root(environ: Mapping[str, str]) -> Path:
    """Where the folders of all pipelines of this user are.

    >>> root({"XDG_STATE_HOME": "/state"}).as_posix()
    '/state/beamstream/pipelines'
    """
    state = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "beamstream" / "pipelines"


def folder_of(environ: Mapping[str, str], beamtime: str, name: str) -> StateFolder:
    """The folder of a pipeline; it need not be there."""
    return StateFolder(root(environ) / beamtime / name)


def folders(environ: Mapping[str, str], name: str = "", beamtime: str = "") -> list[StateFolder]:
    """Folders that there are, of all pipelines or those of that name and beamtime."""
    found = sorted(root(environ).glob("*/*/lock"))
    every = [StateFolder(path.parent) for path in found]
    return [one for one in every if name in ("", one.name) and beamtime in ("", one.beamtime)]


def the_folder(environ: Mapping[str, str], name: str, beamtime: str = "") -> StateFolder:
    """The one folder of a pipeline: of the one that runs, else of the one that there is.

    Raises
    ------
    NotFound : it has not run here.
    BadPipeline : it runs, or has run, for several beamtimes.
    """
    found = folders(environ, name, beamtime)
    found = [one for one in found if one.running] or found
    if not found:
        of = f" of beamtime {beamtime!r}" if beamtime else ""
        raise NotFound(
            f"pipeline {name!r}{of} has not been started here by this user",
            hint="beamstream pipeline up FILE",
        )
    if len(found) > 1:
        beamtimes = ", ".join(one.beamtime for one in found)
        raise BadPipeline(f"there are pipelines {name!r} of {beamtimes}", hint="say --beamtime")
    return found[0]
