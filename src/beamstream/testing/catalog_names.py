"""Conformance: names that must not meet, and units that stand or fall together."""

from __future__ import annotations

import unicodedata

import msgspec

from beamstream.store.catalog.interface import (
    Ack,
    AlreadyAcked,
    Catalog,
    Conflicted,
    Done,
    Duplicate,
    Finish,
    Meta,
    MetaMode,
    Put,
    Stored,
    Unit,
)
from beamstream.testing.catalog_ops import (
    BT,
    SOURCE,
    STREAM,
    info,
    one,
    put,
    records,
    store,
)


class NameTests:
    # ---------------------------------------------------------------------------- names

    def test_different_names_never_meet(self, catalog: Catalog) -> None:
        composed = unicodedata.normalize("NFC", "ä")
        decomposed = unicodedata.normalize("NFD", "ä")
        pairs = [("a", "b_c"), ("a_b", "c"), ("a", "b"), ("A", "b"), ("a", "B"), ("a", " b")]
        pairs += [("a/b", "c"), ("a", "b/c"), (composed, "x"), (decomposed, "x"), ("a", "b%")]
        pairs += [("det", "run1"), ("det", "run10"), ("det", "1"), ("det", "01"), ("det", "1.0")]
        for n, (source, stream) in enumerate(pairs, 1):
            one(catalog, put(n, source=source, stream=stream), Stored)
            one(catalog, Meta(source, stream, MetaMode.INSERT, False, b'{"n":%d}' % n), Done)
            one(catalog, Ack(f"g{n}", source, stream, ((1, 2),)), object)
        for n, (source, stream) in enumerate(pairs, 1):
            assert [r.id for r in records(catalog, stream, source)] == [n]
            found = catalog.meta(BT, source, stream)
            assert found is not None
            assert msgspec.json.decode(found) == {"n": n}
            assert [g.group for g in catalog.groups(BT, source, stream)] == [f"g{n}"]
        assert len({info(catalog, stream, source).no for source, stream in pairs}) == len(pairs)
        assert catalog.sources(BT) == sorted({source for source, _ in pairs})

    def test_beamtimes_never_meet(self, catalog: Catalog) -> None:
        for beamtime in ("bt1", "bt10", "BT1", "bt-1", "bt.1", "bt_1"):
            (result,) = catalog.apply(beamtime, [put(0)])
            assert isinstance(result, Stored)
            assert (result.seq, result.id) == (1, 1)
        assert catalog.stream("bt", SOURCE, STREAM) is None

    # ---------------------------------------------------------------------------- units

    def test_a_unit_stands_or_falls_together(self, catalog: Catalog) -> None:
        store(catalog, 1)
        before = info(catalog)
        ops = (put(2), put(0, stream="new"), Ack("g", SOURCE, STREAM, ((1, 2),)), put(1, size=3))
        results = one(catalog, Unit(ops), tuple)
        assert isinstance(results[-1], Conflicted)
        assert len(results) == 4
        assert info(catalog) == before
        assert catalog.stream(BT, SOURCE, "new") is None
        assert catalog.group(BT, "g", SOURCE, STREAM) is None
        assert [r.id for r in records(catalog)] == [1]
        results = one(catalog, Unit(ops[:3]), tuple)
        assert [type(result).__name__ for result in results] == ["Stored", "Stored", "Acked"]
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == 1
        assert [(r.seq, r.id) for r in records(catalog)] == [(1, 1), (2, 2)]

    def test_a_fallen_unit_leaves_its_neighbours(self, catalog: Catalog) -> None:
        """A result is published and its input acknowledged together, or neither."""
        store(catalog, 1, 2)
        one(catalog, Ack("g", SOURCE, STREAM, ((1, 2),)), object)
        ack = Ack("g", SOURCE, STREAM, ((1, 2),), strict=True)
        unit = Unit(
            (put(0, stream="result"), Unit((put(9), Finish(SOURCE, STREAM, 9, "", 1))), ack)
        )
        results = catalog.apply(BT, [put(3), unit, put(0), put(0, stream="result")])
        assert isinstance(results[1], tuple)
        assert isinstance(results[1][2], AlreadyAcked)
        assert isinstance(results[2], Stored)
        assert (results[2].seq, results[2].id) == (4, 4)
        assert isinstance(results[3], Stored)
        assert (results[3].seq, results[3].id) == (1, 1)
        assert [(r.seq, r.id) for r in records(catalog)] == [(1, 1), (2, 2), (3, 3), (4, 4)]
        assert not info(catalog).finished

    def test_a_unit_sees_what_came_before_it(self, catalog: Catalog) -> None:
        ops: list[Put | Unit] = [put(1), Unit((put(1), put(2))), put(2), put(3)]
        results = catalog.apply(BT, ops)
        assert isinstance(results[1], tuple)
        assert [type(result) for result in results[1]] == [Duplicate, Stored]
        assert [type(results[2]), type(results[3])] == [Duplicate, Stored]
        assert [(r.seq, r.id) for r in records(catalog)] == [(1, 1), (2, 2), (3, 3)]
