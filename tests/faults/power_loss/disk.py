"""What a disk may hold after a power cut, computed from a recording of file operations.

Two models. *ext4-like*: changes of names reach the disk in their order (a journal); a sync of any
file brings all earlier ones with it, `fdatasync` only if the file has grown. *Strict POSIX*: only a
sync of a folder makes the names in it durable, each name on its own; a sync of a file says nothing
about its name. In both, bytes are safe once a sync that began after their write has ended; without
one, any of their 4 KiB pages may be there or not.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import enum
import posixpath
import random
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

PAGE_NBYTES: Final = 4096
_HEAD: Final = struct.Struct("<cIIQQQ")


class RecordingError(Exception):
    """The recording has what cannot be followed: its states would prove nothing."""


class Op(NamedTuple):
    """One record; `kind` is a letter of recorder.c."""

    kind: str
    path: str
    other: str
    a: int
    b: int
    data: bytes

    def encode(self) -> bytes:
        """The record as the recorder writes it."""
        path, other = self.path.encode(), self.other.encode()
        head = _HEAD.pack(self.kind.encode(), len(path), len(other), self.a, self.b, len(self.data))
        return head + path + other + self.data


class Answer(NamedTuple):
    """Bytes that were sent on a socket: to which port, how many, and the first of them."""

    port: int
    nbytes: int
    head: bytes


def load(log: bytes) -> list[Op]:
    """Decode the recorder's log; a record that was cut off at its end is left out.

    Sockets, too: they hold nothing, and are made by no call that is recorded.
    """
    ops: list[Op] = []
    at = 0
    while at + _HEAD.size <= len(log):
        kind, path_nbytes, other_nbytes, a, b, nbytes = _HEAD.unpack_from(log, at)
        end = at + _HEAD.size + path_nbytes + other_nbytes + nbytes
        if end > len(log):
            break
        other_at = at + _HEAD.size + path_nbytes
        data_at = other_at + other_nbytes
        path = log[at + _HEAD.size : other_at].decode()
        if not path.endswith(".sock"):
            other = log[other_at:data_at].decode()
            ops.append(Op(kind.decode(), path, other, a, b, log[data_at:end]))
        at = end
    return ops


class Model(enum.Enum):
    EXT4 = "ext4-like"
    STRICT = "strict POSIX"


class Style(enum.Enum):
    """Which part of what is not safe is there all the same."""

    NONE = "nothing unsynced"
    ALL = "everything"
    RANDOM = "some of it, torn"


class Image(NamedTuple):
    """The folders and files of a state, by path."""

    folders: set[str]
    files: dict[str, bytes]


class _Change(NamedTuple):
    """A change of bytes: `data` at `offset`; a new length (`data` None) or a growth to it."""

    offset: int
    data: bytes | None
    grows: bool = False


class _File:
    """A file whatever its name: what is safe, and what has been changed since."""

    def __init__(self, content: bytes = b"") -> None:
        self.safe = bytearray(content)
        self.changes: list[_Change] = []
        self.folded = 0
        self.nbytes = len(content)
        self.nbytes_journaled = len(content)
        self._frozen: bytes | None = content

    def change(self, change: _Change) -> None:
        self.changes.append(change)
        if change.data is None:
            self.nbytes = max(self.nbytes, change.offset) if change.grows else change.offset
        else:
            self.nbytes = max(self.nbytes, change.offset + len(change.data))

    @property
    def count(self) -> int:
        return self.folded + len(self.changes)

    def make_safe(self, count: int) -> None:
        """The first `count` changes ever are on disk."""
        for change in self.changes[: max(0, count - self.folded)]:
            _apply(self.safe, change)
            self._frozen = None
        del self.changes[: max(0, count - self.folded)]
        self.folded = max(self.folded, count)

    def content(self, style: Style, rng: random.Random) -> bytes:
        if style is Style.NONE or not self.changes:
            if self._frozen is None:
                self._frozen = bytes(self.safe)
            return self._frozen
        buffer = bytearray(self.safe)
        if style is Style.ALL:
            for change in self.changes:
                _apply(buffer, change)
            return bytes(buffer)
        share = rng.choice((0.1, 0.5, 0.9))
        for change in self.changes:
            if change.data is None:
                if rng.random() < share:
                    _apply(buffer, change)
                continue
            for page in _pages(change.offset, change.data):
                if rng.random() < share:
                    _apply(buffer, page)
        if rng.random() < 0.3 and len(buffer) < self.nbytes:
            buffer.extend(bytes(self.nbytes - len(buffer)))
        return bytes(buffer)


def _apply(buffer: bytearray, change: _Change) -> None:
    if change.data is None:
        if not change.grows:
            del buffer[change.offset :]
        buffer.extend(bytes(max(0, change.offset - len(buffer))))
        return
    buffer.extend(bytes(max(0, change.offset - len(buffer))))
    buffer[change.offset : change.offset + len(change.data)] = change.data


def _pages(offset: int, data: bytes) -> Iterator[_Change]:
    at = 0
    while at < len(data):
        nbytes = PAGE_NBYTES - (offset + at) % PAGE_NBYTES
        yield _Change(offset + at, data[at : at + nbytes])
        at += nbytes


class _Naming:
    """One change of names that the file system makes at once, whole or not at all."""

    __slots__ = ("add", "folders", "remove", "safe")

    def __init__(self, add: Mapping[str, _File | None], remove: tuple[str, ...]) -> None:
        self.add = add
        self.remove = remove
        self.safe = False
        self.folders = {posixpath.dirname(path) for path in (*add, *remove)}

    def apply(self, names: dict[str, _File | None]) -> None:
        for path in self.remove:
            names.pop(path, None)
        names.update(self.add)


class _Sync(NamedTuple):
    """What was there when a sync began; only that is safe when it ends."""

    file: _File | None
    changes: int
    namings: int
    journals: bool
    nbytes: dict[_File, int]


class Disk:
    """The disk below `root` while the operations of a recording pass.

    Parameters
    ----------
    root : absolute path of the recorded folder.
    image : what lay there before, all of it safe.
    """

    def __init__(self, root: str, model: Model, image: Image | None = None) -> None:
        self.root = root
        self.model = model
        self.answers: list[Answer] = []
        start = image or Image(set(), {})
        # A folder is a name without a file.
        self._safe_names: dict[str, _File | None] = {root: None, **dict.fromkeys(start.folders)}
        self._safe_names |= {path: _File(content) for path, content in start.files.items()}
        self._names = dict(self._safe_names)
        self._namings: list[_Naming] = []
        self._folded = 0
        self._syncs: dict[int, _Sync] = {}

    # ------------------------------------------------------------------ operations

    def feed(self, op: Op) -> bool:
        """Let one operation happen; return whether it can have changed what the disk holds."""
        if op.kind == "A":
            self.answers.append(Answer(op.a, op.b, op.data))
            return False
        if op.kind == "X":
            raise RecordingError(f"{op.other} on {op.path} cannot be followed")
        if op.path.endswith(" (deleted)"):
            if op.kind in "WTF":
                raise RecordingError(f"{op.path} was written: it may still have another name")
            return False
        match op.kind:
            case "C":
                if op.path in self._names:
                    return False
                self._parent(op.path)
                self._rename({op.path: _File()}, ())
            case "D":
                self._parent(op.path)
                self._rename({op.path: None}, ())
            case "W":
                self._file(op.path).change(_Change(op.a, op.data))
            case "T":
                self._file(op.path).change(_Change(op.a, None))
            case "F":
                self._file(op.path).change(_Change(op.a + op.b, None, grows=True))
            case "U" | "E":
                self._known(op.path)
                self._rename({}, (op.path,))
            case "L":
                self._parent(op.other)
                self._rename({op.other: self._file(op.path)}, ())
            case "R":
                self._move(op.path, op.other)
            case "B":
                self._begin(op)
                return False
            case "S":
                self._end(op)
            case _:
                raise RecordingError(f"unknown record {op.kind!r}")
        return True

    def _move(self, old: str, new: str) -> None:
        file = self._file(old)
        self._parent(new)
        if self.model is Model.STRICT and posixpath.dirname(old) != posixpath.dirname(new):
            # Two folders, two names: nothing ties them together.
            self._rename({new: file}, ())
            self._rename({}, (old,))
        else:
            self._rename({new: file}, (old,))

    def _rename(self, add: Mapping[str, _File | None], remove: tuple[str, ...]) -> None:
        naming = _Naming(add, remove)
        naming.apply(self._names)
        self._namings.append(naming)

    def _begin(self, op: Op) -> None:
        file = self._known(op.path)
        # ext4's fdatasync of a file that has not grown leaves the journal alone.
        journals = file is None or op.other == "fsync" or file.nbytes != file.nbytes_journaled
        namings = self._folded + len(self._namings)
        nbytes = {one: one.nbytes for one in self._names.values() if one is not None}
        self._syncs[op.a] = _Sync(file, file.count if file else 0, namings, journals, nbytes)

    def _end(self, op: Op) -> None:
        sync = self._syncs.pop(op.a)
        if sync.file is not None:
            sync.file.make_safe(sync.changes)
        pending = self._namings[: max(0, sync.namings - self._folded)]
        if self.model is Model.EXT4:
            if sync.journals:
                for naming in pending:
                    naming.safe = True
                for file, nbytes in sync.nbytes.items():
                    file.nbytes_journaled = nbytes
        elif sync.file is None:
            for naming in pending:
                # All names of one change are in one folder here.
                if op.path in naming.folders:
                    naming.safe = True
        while self._namings and self._namings[0].safe:
            self._namings.pop(0).apply(self._safe_names)
            self._folded += 1

    def _known(self, path: str) -> _File | None:
        try:
            return self._names[path]
        except KeyError:
            raise RecordingError(f"{path} was used, its creation has not been seen") from None

    def _file(self, path: str) -> _File:
        file = self._known(path)
        if file is None:
            raise RecordingError(f"{path} is a folder and was used as a file")
        return file

    def _parent(self, path: str) -> None:
        if self._known(posixpath.dirname(path)) is not None:
            raise RecordingError(f"{path} lies in what is not a folder")

    # ------------------------------------------------------------------ states

    def image(self, style: Style, rng: random.Random) -> Image:
        """What a power cut at this moment may leave."""
        names = dict(self._safe_names)
        for naming in self._survivors(style, rng):
            naming.apply(names)
        folders: set[str] = set()
        files: dict[str, bytes] = {}
        for path in sorted(names):
            if path != self.root and posixpath.dirname(path) not in folders:
                continue  # its folder is gone, and it with it
            file = names[path]
            if file is None:
                folders.add(path)
            else:
                files[path] = file.content(style, rng)
        return Image(folders, files)

    def _survivors(self, style: Style, rng: random.Random) -> Iterator[_Naming]:
        if style is Style.ALL:
            yield from self._namings
        elif self.model is Model.EXT4:
            safe = sum(naming.safe for naming in self._namings)
            # The journal is in order: a prefix survives, at least all that is safe.
            count = safe if style is Style.NONE else rng.randint(safe, len(self._namings))
            yield from self._namings[:count]
        else:
            for naming in self._namings:
                if naming.safe or (style is Style.RANDOM and rng.random() < 0.5):
                    yield naming
