"""Conformance: datasets, their parts, and when they are complete."""

from __future__ import annotations

from beamstream.limits import DATASET_SIZE_MAX
from beamstream.model import Dataset
from beamstream.store.catalog.interface import (
    Ack,
    Acked,
    Catalog,
    Conflicted,
    Done,
    Duplicate,
    Finish,
    Put,
    Refused,
    Skip,
    Stored,
)
from beamstream.testing.catalog_ops import BT, NOW, SOURCE, STREAM, info, one, put


def part(ident: int, substream: int, expected: int = 2, **more: int) -> Put:
    return put(ident, substream=substream, expected=expected, **more)  # type: ignore[arg-type]


def datasets(catalog: Catalog) -> list[Dataset]:
    found = catalog.items_by_seq(BT, info(catalog).no, 0, 99)
    return [item for item in found if isinstance(item, Dataset)]


class DatasetTests:
    def test_a_dataset_is_one_item(self, catalog: Catalog) -> None:
        first = one(catalog, part(5, 2, 3), Stored)
        second = one(catalog, part(5, 1, 3), Stored)
        assert (first.seq, second.seq, second.ready_seq) == (1, 1, 0)
        assert first.stream.datasets
        (item,) = datasets(catalog)
        assert (item.seq, item.id, item.expected, item.ready_seq) == (1, 5, 3, 0)
        assert [record.substream for record in item.parts] == [1, 2]
        assert not item.complete
        last = one(catalog, part(5, 3, 3), Stored)
        assert (last.seq, last.ready_seq, last.stream.ready_seq) == (1, 1, 1)
        (item,) = datasets(catalog)
        assert (item.ready_seq, item.complete, len(item.parts)) == (1, True, 3)
        assert last.stream == info(catalog)
        assert (last.stream.last_seq, last.stream.count, last.stream.max_id) == (1, 1, 5)
        for items in (
            catalog.items_by_id(BT, last.stream.no, 5, 6, 1),
            [catalog.last_item(BT, last.stream.no, 9)],
        ):
            assert items == [item]

    def test_ready_seqs_follow_the_order_of_completion(self, catalog: Catalog) -> None:
        order = [part(1, 1), part(2, 1), part(3, 1), part(3, 2), part(1, 2), part(4, 1, 1)]
        results = catalog.apply(BT, order)
        ready = [result.ready_seq for result in results if isinstance(result, Stored)]
        assert ready == [0, 0, 0, 1, 2, 3]
        found = [(d.id, d.seq, d.ready_seq, d.expected) for d in datasets(catalog)]
        assert found == [(1, 1, 2, 2), (2, 2, 0, 2), (3, 3, 1, 2), (4, 4, 3, 1)]
        assert info(catalog).ready_seq == 3

    def test_parts_that_do_not_fit_are_conflicts(self, catalog: Catalog) -> None:
        one(catalog, part(1, 1, 2), Stored)
        before = datasets(catalog)
        for op in (
            part(1, 2, 3),
            part(1, 1, 3),
            part(1, 3, 2),
            part(2, 3, 2),
            part(1, 1, 2, size=7),
            put(1),
            put(2),
            put(0),
        ):
            one(catalog, op, Conflicted)
        duplicate = one(catalog, part(1, 1, 2), Duplicate)
        assert duplicate.record == before[0].parts[0]
        one(catalog, part(0, 1, 2), Refused)
        one(catalog, part(2, 1, DATASET_SIZE_MAX + 1), Refused)
        assert datasets(catalog) == before
        one(catalog, put(1, stream="single"), Stored)
        one(catalog, put(1, stream="single", substream=1, expected=2), Conflicted)
        one(catalog, put(2, stream="single", substream=1, expected=2), Conflicted)

    def test_parts_and_the_end_of_the_stream(self, catalog: Catalog) -> None:
        one(catalog, part(2, 1), Stored)
        one(catalog, Finish(SOURCE, STREAM, 3, "", NOW), Done)
        one(catalog, part(2, 2), Stored)
        one(catalog, part(3, 1), Stored)
        one(catalog, part(4, 1), Refused)
        one(catalog, Skip(SOURCE, STREAM, 2, 3, NOW), Conflicted)
        one(catalog, Skip(SOURCE, STREAM, 1, 2, NOW), Stored)
        one(catalog, part(1, 1), Conflicted)
        assert [(d.id, d.seq) for d in datasets(catalog)] == [(2, 1), (3, 2)]

    def test_last_and_counted_datasets(self, catalog: Catalog) -> None:
        ops = [part(1, 1), part(1, 2), part(2, 1), part(4, 1, 3), part(4, 3, 3), part(3, 1)]
        catalog.apply(BT, [*ops, part(3, 2)])
        no = info(catalog).no

        def last(min_parts: int, upto_seq: int) -> int:
            found = catalog.last_dataset(BT, no, min_parts, upto_seq)
            return found.id if found else 0

        assert [last(0, upto) for upto in (0, 1, 2, 3, 4, 9)] == [0, 1, 1, 1, 3, 3]
        assert [last(1, upto) for upto in (0, 1, 2, 3, 4)] == [0, 1, 2, 4, 4]
        assert [last(2, 9), last(3, 9), last(2, 2)] == [4, 0, 1]
        complete = [catalog.count_complete(BT, no, upto) for upto in (0, 1, 2, 3, 4, 9)]
        assert complete == [0, 1, 1, 1, 2, 2]
        assert catalog.ids(BT, no, 1, 9, 9) == [(1, 1), (2, 2), (3, 4), (4, 3)]
        assert catalog.ids(BT, no, 1, 9, 2) == [(1, 1), (2, 2)]
        found = catalog.items_by_id(BT, no, 2, 9, 2)
        assert [(item.id, len(item.parts)) for item in found if isinstance(item, Dataset)] == [
            (2, 1),
            (3, 2),
        ]

    def test_an_early_acknowledged_dataset(self, catalog: Catalog) -> None:
        assert one(catalog, Ack("g", SOURCE, STREAM, (), (3,)), Acked).count == 1
        one(catalog, part(3, 2), Stored)
        group = catalog.group(BT, "g", SOURCE, STREAM)
        assert group is not None
        assert (group.acked, group.early_acks) == (((1, 2),), ())
        one(catalog, part(3, 1), Stored)
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == 3
