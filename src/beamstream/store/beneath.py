"""System calls that Python does not offer: open below a folder, rename without replacing.

A name that a producer chose must never lead out of its beamtime's folder, whatever links somebody
has put there. The kernel checks that in one call (`openat2`); where it cannot, each component is
opened on its own without following links.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_OPENAT2 = 437
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS | NO_SYMLINKS | BENEATH
_RENAME_NOREPLACE = 1


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


def _openat2(folder: int, path: str, flags: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE)
    fd: int = _LIBC.syscall(
        _SYS_OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd


def _open_by_components(folder: int, path: str, flags: int) -> int:
    *parents, last = path.split("/")
    fd = os.dup(folder)
    try:
        for name in parents:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    finally:
        os.close(fd)


def _has_openat2() -> bool:
    try:
        os.close(_openat2(_probe := os.open("/", os.O_RDONLY | os.O_DIRECTORY), "proc", os.O_PATH))
    except OSError:
        return False
    finally:
        os.close(_probe)
    return True


_OPENAT2 = _has_openat2()


def open_beneath(folder: int, path: str, flags: int) -> int:
    """Open `path` below the folder's descriptor, following no links; raise OSError as `os.open`."""
    return (_openat2 if _OPENAT2 else _open_by_components)(folder, path, flags)


def make_folders(folder: int, path: str, *, sync: bool) -> int:
    """Open the folder `path` below another, making what is missing; return its descriptor."""
    fd = os.dup(folder)
    try:
        for name in path.split("/"):
            try:
                os.mkdir(name, 0o755, dir_fd=fd)
            except FileExistsError:
                pass
            else:
                if sync:
                    os.fsync(fd)
            below = open_beneath(fd, name, os.O_RDONLY | os.O_DIRECTORY)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def sync_path(path: Path) -> None:
    """Sync the folders that lead to `path`, so that its name survives a power cut.

    Folders that this user may not read were there before and are left out.
    """
    for folder in path.absolute().parents:
        try:
            sync_folder(folder)
        except PermissionError:
            continue


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder; raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename_new(folder: int, old: str, new: str) -> None:
    """Rename within a folder; FileExistsError if the new name is taken."""
    if _RENAMEAT2 is not None:
        if _RENAMEAT2(folder, old.encode(), folder, new.encode(), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), new)
    # File systems without RENAME_NOREPLACE (NFS among them) have links that refuse to replace.
    os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    os.unlink(old, dir_fd=folder)


_RENAMEAT2 = getattr(_LIBC, "renameat2", None)
