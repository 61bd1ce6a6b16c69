"""What was applied to make ``version2.db.gz``, by the last program that wrote version 2."""

from __future__ import annotations

import runpy
from pathlib import Path

from msgspec.structs import replace

from beamstream.model import Place
from beamstream.store.catalog.interface import Ack, Meta, MetaMode, Op
from beamstream.testing.catalog_ops import NOW, SOURCE, batch, put

_FIRST: tuple[Op, ...] = runpy.run_path(str(Path(__file__).with_name("version1.py")))["OPS"]

OPS: tuple[Op, ...] = (
    *_FIRST,
    batch(5, stream="log", infos=b"u2 2 2", place=Place.SEGMENT, producer=b"a" * 16, sequence=1),
    batch(3, 20, stream="log", metas=(b"{}", b'{"n": 2}', b"{}"), infos=(b"a", b"b", b"c")),
    batch(2, stream="log", producer=b"b" * 16, sequence=7),
    batch(2, stream="log", infos=b"u2", place=Place.SEGMENT, producer=b"a" * 16, sequence=6),
    *(
        replace(
            put(1, stream="joined", substream=n, expected=2),
            input_source=f"part{n}",
            input_stream="scan1",
            input_seq=n + 4,
        )
        for n in (1, 2)
    ),
    Ack("fit", SOURCE, "log", ((1, 4),), (), False, NOW + 8),
    Meta(SOURCE, "log", MetaMode.INSERT, False, b'{"motor":1}'),
    Meta(SOURCE, "log", MetaMode.UPDATE, False, b'{"motor":2}'),
)
