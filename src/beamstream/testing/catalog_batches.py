"""Conformance: many messages in one operation are as many puts, and told apart in its result."""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from beamstream.errors import BadInput, IdConflict, StreamFinished
from beamstream.limits import ID_MAX, NATIVE_BATCH_MAX
from beamstream.model import Place, Record
from beamstream.store.catalog.interface import (
    Ack,
    Acked,
    Catalog,
    Conflicted,
    DeleteStream,
    Done,
    Duplicate,
    Finish,
    Op,
    Put,
    PutMany,
    Refused,
    Skip,
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
    state,
    store,
)


def same_one_by_one(op: PutMany) -> list[Put]:
    """What the batch means, spelled out for batches of these tests."""
    return [
        Put(
            SOURCE, "single", op.ids[n] if op.ids else op.id + n if op.id else 0,
            op.names[n] if op.names else "", 1000 + n, op.digests[16 * n : 16 * n + 16],
            op.metas[n] if op.metas else b"{}", NOW, NOW - 5, 9, 1, op.place, root=1,
            segment=2, position=70 + (1000 * n + n * (n - 1) // 2 if op.place == 3 else 0),
            node=3, boot=4, run=5, info=op.infos if isinstance(op.infos, bytes) else op.infos[n],
        )
        for n in range(len(op.sizes))
    ]  # fmt: skip


BATCHES = (
    batch(5),
    batch(1, 8),
    batch(4, 7, place=Place.SEGMENT, infos=b"\x93\xa3|u2"),
    batch(
        3, ids=(3, 4, 9), names=("a", "b/c", ""), metas=(b'{"x": 1}', b"{}", b'{"y":"\xc3\xa4"}')
    ),
    batch(3, ids=(9, 4, 5), infos=(b"1", b"", b"333")),
    replace(batch(2, place=Place.NOWHERE), digests=b""),
)


class BatchTests:
    def test_a_batch_is_as_many_puts(self, catalog: Catalog) -> None:
        for number, (before, op) in enumerate(itertools.product(((), (2, 6)), BATCHES)):
            name = f"batch{number}"
            store(catalog, *before, stream=name)
            store(catalog, *before, stream="single")
            one(catalog, replace(op, stream=name), StoredMany)
            results = catalog.apply(BT, list(same_one_by_one(op)))
            assert {type(result) for result in results} == {Stored}
            assert records(catalog, name) == records(catalog, "single")
            expected = info(catalog, "single")
            assert replace(info(catalog, name), no=expected.no, name="single") == expected
            one(catalog, DeleteStream(SOURCE, "single"), Done)

    def test_the_result_of_a_new_batch(self, catalog: Catalog) -> None:
        first = one(catalog, batch(200), StoredMany)
        assert (first.seq, first.count, first.id, first.ids) == (1, 200, 1, None)
        assert (first.duplicates, first.failures) == ((), ())
        assert first.stream == info(catalog)
        assert first.new(200) == ((0, 200),)
        assert (first.stream.last_seq, first.stream.max_id, first.stream.in_order) == (
            200,
            200,
            True,
        )
        assert first.stream.created_ns == first.stream.last_ns == NOW
        second, third = catalog.apply(
            BT, [batch(3, ids=(300, 301, 400), timestamp_ns=NOW + 1), batch(2)]
        )
        assert isinstance(second, StoredMany)
        assert isinstance(third, StoredMany)
        assert (second.seq, second.id, second.ids) == (201, 300, (300, 301, 400))
        assert (third.seq, third.id, third.ids, third.count) == (204, 401, None, 2)
        assert (info(catalog).created_ns, info(catalog).last_ns) == (NOW, NOW)
        assert [r.seq for r in records(catalog)] == list(range(1, 206))

    def test_a_batch_and_puts_of_one_call_see_each_other(self, catalog: Catalog) -> None:
        ops: list[Op] = [put(0), batch(2), put(0), put(2, size=1), batch(2, 4), put(9)]
        results = catalog.apply(BT, ops)
        kinds = [Stored, StoredMany, Stored, Conflicted, StoredMany, Stored]
        assert [type(result) for result in results] == kinds
        assert isinstance(results[4], StoredMany)
        assert results[4].new(2) == ((1, 2),)
        assert [(r.seq, r.id) for r in records(catalog)] == [(n, n) for n in range(1, 6)] + [(6, 9)]

    def test_a_batch_sent_again_is_a_duplicate(self, catalog: Catalog) -> None:
        op = batch(6, 10, infos=b"u2")
        one(catalog, op, StoredMany)
        before = records(catalog)
        again = one(catalog, op, StoredMany)
        assert (again.count, again.seq, again.id, again.ids) == (0, 0, 10, None)
        assert (again.duplicates, again.failures, again.new(6)) == (((0, 6),), (), ())
        assert records(catalog) == before
        described = one(catalog, replace(op, infos=b""), StoredMany)
        assert described.duplicates == ((0, 6),)
        otherwise = one(catalog, replace(op, infos=b"i4"), StoredMany)
        assert [index for index, _ in otherwise.failures] == [0, 1, 2, 3, 4, 5]

    def test_what_was_there_is_told_from_what_is_new(self, catalog: Catalog) -> None:
        one(catalog, batch(2, 3), StoredMany)
        one(catalog, put(7, name=""), Stored)
        one(catalog, Skip(SOURCE, STREAM, 9, 10, NOW), Stored)
        op = replace(batch(8, 2), sizes=(5, 1000, 1001, 5, 5, 5, 5, 5))
        result = one(catalog, op, StoredMany)
        assert result.duplicates == ((1, 3),)
        assert [index for index, _ in result.failures] == [5, 7]
        assert all(isinstance(error, IdConflict) for _, error in result.failures)
        assert (result.seq, result.count, result.id, result.ids) == (5, 4, 2, None)
        assert result.new(8) == ((0, 1), (3, 5), (6, 7))
        assert [(r.seq, r.id) for r in records(catalog)] == [
            (1, 3), (2, 4), (3, 7), (5, 2), (6, 5), (7, 6), (8, 8),
        ]  # fmt: skip
        assert result.stream == info(catalog)
        assert not result.stream.in_order

    def test_an_id_twice_in_a_batch(self, catalog: Catalog) -> None:
        op = replace(batch(4, ids=(5, 5, 6, 5)), sizes=(1, 1, 1, 2))
        result = one(catalog, op, StoredMany)
        assert (result.seq, result.count, result.ids) == (1, 2, (5, 5, 6, 5))
        assert (result.duplicates, [index for index, _ in result.failures]) == (((1, 2),), [3])

    def test_ids_beyond_the_end_are_refused_one_by_one(self, catalog: Catalog) -> None:
        one(catalog, Finish(SOURCE, STREAM, 4, "", NOW + 50), Done)
        result = one(catalog, batch(6), StoredMany)
        assert (result.count, result.new(6)) == (4, ((0, 4),))
        assert [index for index, _ in result.failures] == [4, 5]
        assert all(isinstance(error, StreamFinished) for _, error in result.failures)
        assert (info(catalog).count, info(catalog).last_ns) == (4, NOW + 50)
        assert one(catalog, batch(2, 20), StoredMany).count == 0

    def test_ids_reach_up_to_the_largest_in_a_batch(self, catalog: Catalog) -> None:
        result = one(catalog, batch(3, ID_MAX - 1), StoredMany)
        assert (result.count, result.new(3)) == (2, ((0, 2),))
        ((index, error),) = result.failures
        assert (index, type(error)) == (2, BadInput)
        assert one(catalog, batch(2), StoredMany).count == 0
        result = one(catalog, batch(2, ids=(8, ID_MAX + 1)), StoredMany)
        assert (result.ids, result.new(2)) == ((8, ID_MAX + 1), ((0, 1),))
        assert info(catalog).max_id == ID_MAX

    def test_sizes_of_a_batch_are_possible(self, catalog: Catalog) -> None:
        result = one(catalog, replace(batch(3), sizes=(1, -1, 2**63)), StoredMany)
        assert (result.count, [index for index, _ in result.failures]) == (1, [1, 2])

    def test_no_batch_into_a_stream_of_datasets(self, catalog: Catalog) -> None:
        one(catalog, put(1, substream=1, expected=2), Stored)
        for op in (batch(3), batch(2, 5), batch(1, ids=(7,))):
            one(catalog, op, Conflicted)
        assert info(catalog).count == 1

    def test_what_cannot_be_a_batch_is_refused(self, catalog: Catalog) -> None:
        op = batch(3)
        for bad in (
            batch(0),
            batch(NATIVE_BATCH_MAX + 1),
            replace(op, digests=b"x" * 47),
            replace(op, digests=b"x" * 64),
            replace(op, metas=(b"{}",) * 2),
            replace(op, names=("",) * 4),
            replace(op, infos=(b"",)),
            replace(op, ids=(1, 2)),
            replace(op, ids=(1, 2, 3), id=4),
            replace(op, id=-1),
            replace(op, ids=(0, 1, 2)),
            replace(op, producer=b"short", sequence=1),
            replace(op, producer=b"p" * 16, sequence=0),
            replace(op, producer=b"p" * 16, sequence=ID_MAX - 2),
        ):
            one(catalog, bad, Refused)
        assert catalog.stream(BT, SOURCE, STREAM) is None
        assert one(catalog, batch(NATIVE_BATCH_MAX), StoredMany).count == NATIVE_BATCH_MAX

    def test_a_unit_falls_with_one_message_of_a_batch(self, catalog: Catalog) -> None:
        store(catalog, 3)
        before = (records(catalog), info(catalog))
        ops = (put(0, stream="other"), batch(3, 2))
        (results,) = catalog.apply(BT, [Unit(ops)])
        assert isinstance(results, tuple)
        assert [type(result) for result in results] == [Stored, StoredMany]
        assert (records(catalog), info(catalog)) == before
        assert catalog.stream(BT, SOURCE, "other") is None
        (results,) = catalog.apply(BT, [Unit((put(0, stream="other"), batch(3, 4)))])
        assert info(catalog).count == 4

    def test_early_acks_turn_into_acks_for_batches(self, catalog: Catalog) -> None:
        assert one(catalog, Ack("g", SOURCE, STREAM, (), (2, 7, 8, 20)), Acked).count == 4
        one(catalog, batch(3), StoredMany)
        one(catalog, batch(4, ids=(5, 7, 8, 11)), StoredMany)
        found = state(catalog)
        assert (found.acked, found.early_acks) == (((2, 3), (5, 7)), (20,))

    def test_parts_and_files_of_a_batch_are_found(self, catalog: Catalog) -> None:
        op = batch(3, names=("a/1", "a/2", "a/3"), place=Place.FILE)
        no = one(catalog, op, StoredMany).stream.no
        found = catalog.file(BT, "a/2")
        assert found is not None
        assert (found[0], found[1], found[2].id) == (SOURCE, STREAM, 2)
        last = catalog.last_item(BT, no, 2)
        assert isinstance(last, Record)
        assert (last.id, last.name) == (2, "a/2")
        assert catalog.ids(BT, no, 2, 9, 9) == [(2, 2), (3, 3)]
        one(catalog, put(2, name="a/2", size=1001, digest=b"x" * 16), Duplicate)
