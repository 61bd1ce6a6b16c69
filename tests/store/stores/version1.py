"""What was applied to make ``version1.db.gz``, by the last program that wrote version 1."""

from __future__ import annotations

from beamstream.model import Place
from beamstream.store.catalog.interface import (
    Ack,
    Claim,
    DeleteStream,
    Finish,
    Mark,
    Meta,
    MetaMode,
    Nack,
    Op,
    Persist,
    Put,
    Seek,
    Skip,
    State,
)
from beamstream.testing.catalog_ops import NOW, SOURCE, put


def _part(ident: int, substream: int, expected: int) -> Put:
    return put(ident, stream="sets", substream=substream, expected=expected)


OPS: tuple[Op, ...] = (
    *(put(0, stream="scan1", meta=b'{"n": %d}' % n) for n in range(1, 21)),
    *(put(n, stream="mixed", place=Place.FILE) for n in (5, 2, 9, 1)),
    put(30, stream="mixed", name="metadata/only", digest=b"", place=Place.NOWHERE),
    Skip(SOURCE, "mixed", 10, 15, NOW),
    Skip(SOURCE, "mixed", 3, 4, NOW),
    *(_part(1, n, 3) for n in (1, 3, 2)),
    *(_part(2, n, 3) for n in (2, 3)),
    _part(4, 1, 1),
    put(1, stream="gone", name="gone/1"),
    DeleteStream(SOURCE, "gone"),
    put(7, stream="gone", name="back/7"),
    put(3, stream="scan1", source="andere/Quelle ä"),
    Finish(SOURCE, "scan1", 22, "scan2", NOW + 900),
    Finish(SOURCE, "empty", 0, "", NOW + 901),
    Persist(SOURCE, "mixed"),
    Meta(SOURCE, "", MetaMode.INSERT, False, b'{"sample": "LaB6"}'),
    Meta(SOURCE, "scan1", MetaMode.INSERT, False, b'{"a": {"x": 1}}'),
    Meta(SOURCE, "scan1", MetaMode.UPDATE, False, b'{"a": {"y": 2}}'),
    Claim("fit", SOURCE, "scan1", "node1", 1, 2**62, 8, NOW, NOW + 10**12),
    Ack("fit", SOURCE, "scan1", ((1, 5), (9, 11)), (), True, NOW + 1),
    Mark("fit", SOURCE, "scan1", State.DEAD, ((7, 8),), -1, (), "", NOW + 2),
    Mark("fit", SOURCE, "scan1", State.DONE, ((12, 15),), 14, ((13, 3),), "", NOW + 3),
    Nack("fit", SOURCE, "scan1", ((2, 3),), NOW + 4),
    Seek("view", SOURCE, "mixed", 5, ((1, 3),), ((3, 9),), NOW + 5),
    Ack("view", SOURCE, "mixed", (), (40, 41), False, NOW + 6),
    Ack("early", SOURCE, "awaited", (), (1,), False, NOW + 7),
)
