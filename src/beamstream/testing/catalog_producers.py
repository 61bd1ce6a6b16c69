"""Conformance: what a producer counts and sends again is stored once, with the ids it got."""

from __future__ import annotations

from msgspec.structs import replace

from beamstream.limits import ID_MAX
from beamstream.store.catalog.interface import (
    Catalog,
    Conflicted,
    DeleteStream,
    Done,
    Duplicate,
    Expire,
    Finish,
    Refused,
    Stored,
    StoredMany,
    Unit,
)
from beamstream.testing.catalog_ops import (
    BT,
    NOW,
    SOURCE,
    STREAM,
    batch,
    info,
    one,
    put,
    records,
    reopen,
)

P, Q = b"p" * 16, b"q" * 16


def position(catalog: Catalog, producer: bytes = P, stream: str = STREAM) -> int:
    return catalog.producer_position(BT, SOURCE, stream, producer)


class ProducerTests:
    def test_a_batch_sent_again_has_the_ids_it_got(self, catalog: Catalog) -> None:
        ops = [
            batch(3, producer=P, sequence=1),
            batch(2, producer=Q, sequence=1),
            batch(4, producer=P, sequence=4),
        ]
        first = [one(catalog, op, StoredMany) for op in ops]
        assert [(r.id, r.count) for r in first] == [(1, 3), (4, 2), (6, 4)]
        before = records(catalog)
        for _ in range(2):
            for op, there in zip(ops, first, strict=True):
                again = one(catalog, op, StoredMany)
                assert (again.id, again.ids, again.count) == (there.id, None, 0)
                assert again.duplicates == ((0, there.count),)
                assert (again.failures, again.stream) == ((), info(catalog))
            reopen(catalog)
        assert records(catalog) == before
        assert (position(catalog), position(catalog, Q)) == (7, 2)

    def test_a_batch_that_was_stored_in_part(self, catalog: Catalog) -> None:
        one(catalog, batch(3, producer=P, sequence=1), StoredMany)
        one(catalog, batch(10, 20), StoredMany)
        one(catalog, batch(2, producer=P, sequence=6), StoredMany)
        reopen(catalog)
        op = replace(batch(6, producer=P, sequence=2), sizes=(1001, 1002, 7, 7, 1000, 1001))
        result = one(catalog, op, StoredMany)
        assert result.ids == (2, 3, 32, 33, 30, 31)
        assert result.duplicates == ((0, 2), (4, 6))
        assert (result.seq, result.count, result.new(6)) == (16, 2, ((2, 4),))
        assert (position(catalog), info(catalog).count) == (7, 17)
        again = one(catalog, op, StoredMany)
        assert (again.ids, again.count, again.duplicates) == (result.ids, 0, ((0, 6),))

    def test_other_content_of_a_known_number_is_a_conflict(self, catalog: Catalog) -> None:
        op = batch(3, producer=P, sequence=5)
        one(catalog, op, StoredMany)
        for other in (batch(3, content=b"y", producer=P, sequence=5), replace(op, sizes=(1, 2, 3))):
            result = one(catalog, other, StoredMany)
            assert (result.count, result.duplicates) == (0, ())
            assert [index for index, _ in result.failures] == [0, 1, 2]
        counted = put(producer=P, sequence=6, size=1001, digest=b"x" * 16)
        one(catalog, counted, Duplicate)
        one(catalog, replace(counted, digest=b"y" * 16), Conflicted)
        assert info(catalog).count == 3

    def test_puts_are_counted_with_batches(self, catalog: Catalog) -> None:
        large = put(producer=P, sequence=3)
        one(catalog, batch(2, producer=P, sequence=1), StoredMany)
        # The large message took longer than the batch behind it.
        one(catalog, batch(2, producer=P, sequence=4), StoredMany)
        assert one(catalog, large, Stored).id == 5
        one(catalog, put(0), Stored)
        reopen(catalog)
        again = one(catalog, large, Duplicate)
        assert again.record is not None
        assert (again.id, again.record.seq, again.stream) == (5, 5, info(catalog))
        assert one(catalog, batch(2, producer=P, sequence=4), StoredMany).id == 3
        assert one(catalog, put(producer=P, sequence=6), Stored).id == 7
        assert position(catalog) == 6

    def test_given_ids_are_counted_and_compared(self, catalog: Catalog) -> None:
        op = batch(3, 10, producer=P, sequence=1)
        one(catalog, op, StoredMany)
        single = put(30, producer=P, sequence=4)
        one(catalog, single, Stored)
        assert position(catalog) == 4
        reopen(catalog)
        assert one(catalog, op, StoredMany).duplicates == ((0, 3),)
        one(catalog, single, Duplicate)
        assert one(catalog, batch(3, 10, content=b"y", producer=P, sequence=1), StoredMany).failures
        # It gave that number an id itself: to ask for an automatic one now is a mistake.
        one(catalog, replace(single, id=0), Conflicted)
        assert info(catalog).count == 4

    def test_parts_of_datasets_are_counted(self, catalog: Catalog) -> None:
        for part in (1, 2):
            op = put(1, substream=part, expected=2, producer=P, sequence=part)
            one(catalog, op, Stored)
            one(catalog, op, Duplicate)
        one(catalog, put(1, substream=1, expected=3, producer=P, sequence=3), Conflicted)
        assert position(catalog) == 2

    def test_what_failed_is_not_counted(self, catalog: Catalog) -> None:
        one(catalog, put(2), Stored)
        result = one(catalog, batch(3, producer=P, sequence=1), StoredMany)
        assert result.id == 3
        one(catalog, Finish(SOURCE, STREAM, 6, "", NOW), Done)
        result = one(catalog, batch(2, producer=P, sequence=4), StoredMany)
        assert [index for index, _ in result.failures] == [1]
        one(catalog, put(producer=P, sequence=6), Refused)
        assert position(catalog) == 4
        one(catalog, put(2, size=3, producer=Q, sequence=1), Conflicted)
        assert position(catalog, Q) == 0

    def test_a_fallen_unit_counts_nothing(self, catalog: Catalog) -> None:
        one(catalog, batch(2, producer=P, sequence=1), StoredMany)
        unit = Unit((batch(2, producer=P, sequence=3), put(1, size=5)))
        catalog.apply(BT, [unit])
        assert position(catalog) == 2
        (results,) = catalog.apply(BT, [Unit((batch(2, producer=P, sequence=3),))])
        assert isinstance(results, tuple)
        assert isinstance(results[0], StoredMany)
        assert (results[0].id, results[0].count, position(catalog)) == (3, 2, 4)
        # What is kept in memory of a producer was thrown away: it is read again.
        catalog.apply(BT, [unit])
        for sequence in (1, 3):
            again = one(catalog, batch(2, producer=P, sequence=sequence), StoredMany)
            assert (again.id, again.duplicates) == (sequence, ((0, 2),))

    def test_each_stream_and_producer_counts_alone(self, catalog: Catalog) -> None:
        for stream in (STREAM, "other"):
            for producer in (P, Q):
                op = batch(2, stream=stream, producer=producer, sequence=1)
                assert one(catalog, op, StoredMany).count == 2
        assert position(catalog, P) == position(catalog, Q, "other") == 2
        assert position(catalog, b"r" * 16) == position(catalog, P, "none") == 0
        one(catalog, DeleteStream(SOURCE, STREAM), Done)
        assert (position(catalog), position(catalog, stream="other")) == (0, 2)
        assert one(catalog, batch(2, producer=P, sequence=1), StoredMany).count == 2

    def test_producers_expire(self, catalog: Catalog) -> None:
        one(catalog, batch(2, producer=P, sequence=1, timestamp_ns=NOW), StoredMany)
        one(catalog, batch(2, producer=Q, sequence=1, timestamp_ns=NOW), StoredMany)
        one(catalog, batch(2, producer=Q, sequence=3, timestamp_ns=NOW + 9), StoredMany)
        one(catalog, Expire(NOW), Done)
        assert (position(catalog), position(catalog, Q)) == (2, 4)
        one(catalog, Expire(NOW + 1), Done)
        assert (position(catalog), position(catalog, Q)) == (0, 4)
        assert one(catalog, batch(2, producer=Q, sequence=1), StoredMany).duplicates == ((0, 2),)
        assert one(catalog, batch(2, producer=P, sequence=1), StoredMany).count == 2

    def test_a_count_that_cannot_be_is_refused(self, catalog: Catalog) -> None:
        for producer, sequence in ((b"short", 1), (P, 0), (P, -1), (P, ID_MAX)):
            for ident in (0, 1):
                one(catalog, put(ident, producer=producer, sequence=sequence), Refused)
        one(catalog, put(1, producer=P, sequence=ID_MAX - 1), Stored)
        assert position(catalog) == ID_MAX - 1
