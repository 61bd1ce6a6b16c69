"""Segments for tests, and what was written into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from beamstream import limits
from beamstream.errors import Corrupt, DataLost
from beamstream.store.files import digest_of
from beamstream.store.segment_files import name_of
from beamstream.store.segment_format import ENTRY_NBYTES
from beamstream.store.segments import Location, Segments


def nothing(_segment: int) -> int:
    return 0


def opened(folder: Path, rotate_nbytes: int = limits.SEGMENT_NBYTES) -> Segments:
    return Segments(folder, referenced=nothing, rotate_nbytes=rotate_nbytes)


def path_of(log: Segments, segment: int = 1) -> Path:
    return log.path / name_of(segment)


class Written:
    """Payloads and where they are said to lie."""

    def __init__(self, log: Segments, body: list[bytes]) -> None:
        self.place = log.append(body)
        self.body = body

    def places(self) -> Iterator[tuple[Location, bytes]]:
        offset = self.place.offset
        for payload in self.body:
            yield Location(self.place.segment, offset), payload
            offset += len(payload)

    @property
    def start(self) -> int:
        return self.place.offset - ENTRY_NBYTES

    @property
    def end(self) -> int:
        return self.place.offset + sum(map(len, self.body))

    def check(self, log: Segments) -> None:
        for place, payload in self.places():
            assert log.read(*place, len(payload), digest_of(payload)) == payload


def is_damaged(log: Segments, written: Written) -> bool:
    """Whether any payload cannot be read; none may be read as something else."""
    bad = False
    for place, payload in written.places():
        try:
            assert log.read(*place, len(payload), digest_of(payload)) == payload
        except (Corrupt, DataLost):
            bad = True
    return bad


def change(path: Path, edit: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    edit(content)
    path.write_bytes(content)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    def edit(content: bytearray) -> None:
        content[offset] ^= 1 << bit

    change(path, edit)
