"""The data folder of a node: what lies in it, its key, and the lock that keeps a second node out.

::

    DIR/key             32 random bytes, mode 0600: all tokens of the node hang on it
    DIR/lock            locked while a node runs; holds its process id
    DIR/node.db         tokens, revocations, beamtimes (store.registry)
    DIR/catalog/        records
    DIR/beamtimes/      files of beamtimes
    DIR/beamlines/      files that producers sent as raw data of a beamline
    DIR/segments/       payloads of messages without a name (store.segments)
    DIR/native.sock     Unix socket of the native door, while a node runs
    DIR/connect.json    address and token for programs of the same user, mode 0600
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from beamstream.errors import NotFound, StorageError, StoreInUse
from beamstream.store.beneath import sync_folder, sync_path

KEY_NBYTES: Final = 32
FOLDER_MODE: Final = 0o750
_SECRET_MODE: Final = 0o600
_KEY_DIFFERENT_BYTES_MIN: Final = 12
"""32 random bytes have 30 different ones; fewer than 12 is somebody's example, not a key."""


class DataFolder:
    """A data folder; made if `create` and it is not there yet.

    Raises
    ------
    NotFound : there is no such folder (without `create`).
    StorageError : it cannot be made, or its key is unusable.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     folder = DataFolder(Path(parent) / "data", create=True)
    ...     len(folder.key), folder.node_db.name
    (32, 'node.db')
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path.absolute()
        if create:
            try:
                self.path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
                for folder in (self.catalog, self.segments, self.beamtimes, self.beamlines):
                    folder.mkdir(FOLDER_MODE, exist_ok=True)
                sync_path(self.catalog)
            except OSError as error:
                raise StorageError(
                    f"cannot make the data folder {self.path}: {error.strerror}",
                    hint="choose another one with --data",
                ) from None
        elif not self.path.is_dir():
            raise NotFound(
                f"there is no data folder {self.path}", hint="say which one with --data DIR"
            )
        self.key = self._read_key()

    def __repr__(self) -> str:
        return f"DataFolder({str(self.path)!r})"

    @property
    def node_db(self) -> Path:
        return self.path / "node.db"

    @property
    def catalog(self) -> Path:
        return self.path / "catalog"

    @property
    def segments(self) -> Path:
        return self.path / "segments"

    @property
    def native_socket(self) -> Path:
        return self.path / "native.sock"

    @property
    def monitor_socket(self) -> Path:
        return self.path / "monitor.sock"

    @property
    def arenas_socket(self) -> Path:
        return self.path / "arenas.sock"

    @property
    def beamtimes(self) -> Path:
        return self.path / "beamtimes"

    @property
    def beamlines(self) -> Path:
        return self.path / "beamlines"

    @property
    def connect_file(self) -> Path:
        return self.path / "connect.json"

    @property
    def nbytes_free(self) -> int:
        """What this user may still write on the file system of the folder."""
        usage = os.statvfs(self.path)
        return usage.f_bavail * usage.f_frsize

    def disk_nbytes(self) -> tuple[int, int]:
        """What this user may still write, and the size of the file system of the folder."""
        usage = os.statvfs(self.path)
        return usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises
        ------
        StoreInUse : another node runs on it.
        """
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, _SECRET_MODE)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise StoreInUse(
                    f"a node with process id {owner} runs on {self.path}",
                    hint="stop it first, or choose another folder with --data",
                ) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def write_connect(self, text: bytes) -> None:
        """Replace `connect.json`; only this user can read it."""
        part = self.path / f".connect-{secrets.token_hex(8)}"
        _write_new(part, text)
        os.replace(part, self.connect_file)

    def _read_key(self) -> bytes:
        path = self.path / "key"
        try:
            return _checked_key(path)
        except FileNotFoundError:
            pass
        part = self.path / f".key-{secrets.token_hex(8)}"
        try:
            _write_new(part, secrets.token_bytes(KEY_NBYTES))
            # Two first starts at once must end with one key: a link never replaces.
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
            part.unlink()
            sync_folder(self.path)
            return _checked_key(path)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"cannot make the key {path}: {error.strerror}") from None


def _checked_key(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot read the key {path}: {error.strerror}", hint="it must be a file of this user"
        ) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise StorageError(f"the key {path} is not a file of this user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise StorageError(
                f"others can read or change the key {path}",
                hint=f"if it can still be trusted: chmod 600 {path}",
            )
        key = os.read(fd, KEY_NBYTES + 1)
    finally:
        os.close(fd)
    if len(key) != KEY_NBYTES or len(set(key)) < _KEY_DIFFERENT_BYTES_MIN:
        raise StorageError(
            f"the key {path} is not {KEY_NBYTES} random bytes",
            hint="move it away; the next start makes a new one and all tokens end",
        )
    return key


def _write_new(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET_MODE)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
