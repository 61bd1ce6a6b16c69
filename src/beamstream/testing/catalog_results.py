"""Conformance: what was made of an input is stored once, whoever makes it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from beamstream.errors import BadInput
from beamstream.limits import ID_MAX
from beamstream.model import Dataset, Record
from beamstream.store.catalog.interface import (
    Ack,
    Acked,
    Catalog,
    Claim,
    Conflicted,
    DeleteStream,
    Duplicate,
    Finish,
    Mark,
    Nack,
    Op,
    Put,
    PutMany,
    Refused,
    Result,
    Skip,
    State,
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
    result,
    results,
    state,
    store,
)
from beamstream.testing.memory_catalog import MemoryCatalog

ME, YOU = b"m" * 16, b"y" * 16
FAILURES = (Refused, Conflicted)


def skip(lo: int, hi: int, again: bool = True, stream: str = STREAM) -> Skip:
    return Skip(SOURCE, stream, lo, hi, NOW, again)


class ResultTests:
    # ---------------------------------------------------------------------- one result

    def test_a_result_comes_back_as_it_was_put(self, catalog: Catalog) -> None:
        op = replace(result(7, 2, 7, run=3), span=b"\x91\x92\x01\x05")
        stored = one(catalog, op, Stored)
        assert records(catalog) == [stored.record(op)]
        record = records(catalog)[0]
        assert (record.run, record.input_source, record.input_stream) == (3, "raw", "scan1")
        assert (record.input_seq, record.result_k, record.span) == (7, 2, b"\x91\x92\x01\x05")
        assert not record.shares

    def test_what_shares_a_payload_is_no_result(self, catalog: Catalog) -> None:
        copy = replace(put(1), input_source="raw", input_stream="scan1", input_seq=7)
        one(catalog, copy, Stored)
        one(catalog, copy, Duplicate)
        # Of the same input, and new: only results are known by their input.
        one(catalog, replace(copy, id=2, name="n2"), Stored)
        one(catalog, replace(copy, size=1), Conflicted)
        one(catalog, result(7, 0, 3), Stored)
        part = replace(copy, stream="joined", substream=1, expected=1)
        one(catalog, part, Stored)
        assert [(r.id, r.result_k, r.shares) for r in records(catalog)] == [
            (1, -1, True), (2, -1, True), (3, 0, False),
        ]  # fmt: skip
        joined = catalog.items_by_seq(BT, info(catalog, "joined").no, 0, 9)[0]
        assert isinstance(joined, Dataset)
        assert joined.parts[0].shares

    def test_a_result_is_there_once(self, catalog: Catalog) -> None:
        first = one(catalog, result(5, 0, 5), Stored)
        record = records(catalog)[0]
        for again in (
            result(5, 0, 5),
            result(5, 0, 0),
            result(5, 0, 9, size=3, digest=b"z" * 16, meta=b'{"a":1}', name="other"),
            replace(result(5, 0, 9), substream=1, expected=2),
            result(5, 0, -4),
        ):
            found = one(catalog, again, Duplicate)
            assert (found.id, found.record) == (5, record)
            reopen(catalog)
        assert info(catalog) == first.stream
        assert records(catalog) == [record]

    def test_another_result_is_another(self, catalog: Catalog) -> None:
        op = result(5)
        others = [
            op,
            replace(op, result_k=1),
            replace(op, input_seq=6),
            replace(op, input_seq=4),
            replace(op, input_stream="scan10"),
            replace(op, input_source="ra"),
            replace(op, run=2),
            replace(op, stream="other"),
        ]
        ops = [replace(other, name=f"n{n}") for n, other in enumerate(others)]
        stored = catalog.apply(BT, ops)
        assert [type(found) for found in stored] == [Stored] * len(ops)
        for again in (catalog.apply(BT, ops), [catalog.apply(BT, [op])[0] for op in ops]):
            assert [getattr(found, "id", 0) for found in again] == [1, 2, 3, 4, 5, 6, 7, 1]
            assert [type(found) for found in again] == [Duplicate] * len(ops)

    def test_a_new_result_may_not_take_an_id(self, catalog: Catalog) -> None:
        one(catalog, result(5, 0, 5), Stored)
        one(catalog, result(6, 0, 5, size=9), Conflicted)
        one(catalog, result(5, 0, 5, run=2, size=9), Conflicted)
        # The same content under the same id is no new message, whoever made it.
        one(catalog, result(5, 0, 5, run=2), Duplicate)
        assert info(catalog).count == 1

    def test_what_cannot_be_a_result_is_refused(self, catalog: Catalog) -> None:
        for op in (
            result(0),
            result(-1),
            result(ID_MAX + 1),
            result(1, ID_MAX + 1),
            replace(put(1), input_seq=-1),
            replace(put(1), input_seq=ID_MAX + 1),
            results(1, 0),
            results(1, ID_MAX + 1),
            results(1, 2, ks=(0, ID_MAX + 1)),
            results(1, 2, ks=(0,)),
            replace(results(1, 2), spans=(b"",)),
            replace(results(1, 2), input_seqs=(1,)),
            replace(batch(1), result_ks=(0,)),
            replace(batch(1), spans=(b"",)),
        ):
            refused = one(catalog, op, Refused)
            assert isinstance(refused.error, BadInput)
        assert catalog.streams(BT, SOURCE) == []
        one(catalog, result(ID_MAX, ID_MAX), Stored)
        one(catalog, result(ID_MAX, ID_MAX), Duplicate)

    def test_a_deleted_stream_has_no_results(self, catalog: Catalog) -> None:
        one(catalog, result(5), Stored)
        catalog.apply(BT, [DeleteStream(SOURCE, STREAM)])
        assert one(catalog, result(5), Stored).seq == 1

    def test_a_producer_is_told_which_result_is_there(self, catalog: Catalog) -> None:
        one(catalog, result(1, producer=ME, sequence=1), Stored)
        found = one(catalog, result(1, producer=YOU, sequence=1, size=5), Duplicate)
        assert found.id == 1
        # His number is remembered: sent again, it is what it was.
        assert catalog.producer_position(BT, SOURCE, STREAM, YOU) == 1
        one(catalog, result(2, producer=YOU, sequence=1, name="n"), Duplicate)
        one(catalog, result(2, producer=YOU, sequence=1, size=7), Conflicted)
        one(catalog, result(2, producer=YOU, sequence=2), Stored)
        one(catalog, result(3, producer=YOU, sequence=0), Refused)

    # ------------------------------------------------------------------------- batches

    def test_a_batch_of_results_is_as_many_puts(self, catalog: Catalog) -> None:
        op = replace(
            results(3, 3, 5, 4, ks=(0, 1, -1, 0), ids=(1, 2, 4, 9)), spans=(b"a", b"", b"c", b"d")
        )
        many = one(catalog, op, StoredMany)
        assert (many.seq, many.count, many.ids) == (1, 4, (1, 2, 4, 9))
        found = records(catalog)
        assert [(r.input_seq, r.result_k, r.span) for r in found] == [
            (3, 0, b"a"), (3, 1, b""), (5, -1, b"c"), (4, 0, b"d"),
        ]  # fmt: skip
        assert {(r.run, r.input_source, r.input_stream) for r in found} == {(1, "raw", "scan1")}
        one(catalog, results(8, 9), StoredMany)
        assert [(r.result_k, r.span) for r in records(catalog)[4:]] == [(0, b""), (0, b"")]

    def test_a_batch_made_again_is_stored_once(self, catalog: Catalog) -> None:
        one(catalog, results(1, 2, 3), StoredMany)
        for op in (
            results(1, 2, 3),
            results(1, 2, 3, content=b"z", names=("a", "b", "c")),
            results(1, 2, 3, ids=(11, 12, 13)),
            results(1, 2, 3, ids=(3, 2, 1)),
            results(1, 2, 3, producer=YOU, sequence=4),
        ):
            again = one(catalog, op, StoredMany)
            assert (again.id, again.ids, again.count) == (1, None, 0)
            assert again.duplicates == ((0, 3),)
            reopen(catalog)
        assert catalog.producer_position(BT, SOURCE, STREAM, YOU) == 6
        mixed = one(catalog, results(4, 3, 5, 5), StoredMany)
        assert (mixed.seq, mixed.count, mixed.duplicates) == (4, 2, ((1, 2), (3, 4)))
        assert mixed.ids == (4, 3, 5, 5)
        assert [r.input_seq for r in records(catalog)] == [1, 2, 3, 4, 5]

    def test_batches_of_several_workers_come_in_any_order(self, catalog: Catalog) -> None:
        given_ids = [(3, 7, 11), (1, 5, 9), (2, 6, 10), (4, 8)]
        for ids in given_ids:
            stored = one(catalog, results(*ids, ids=ids), StoredMany)
            assert (stored.count, stored.duplicates, stored.failures) == (len(ids), (), ())
        assert [r.id for r in records(catalog)] == [ident for ids in given_ids for ident in ids]
        assert not info(catalog).in_order
        assert (info(catalog).max_id, info(catalog).last_seq) == (11, 11)
        for ids in given_ids:
            assert one(catalog, results(*ids, ids=ids), StoredMany).count == 0

    def test_ids_between_are_looked_up(self, catalog: Catalog) -> None:
        one(catalog, batch(1, ids=(20,)), StoredMany)
        one(catalog, skip(5, 8), Stored)
        store(catalog, 12)
        early = Ack("g", SOURCE, STREAM, (), (3,), False, NOW)
        one(catalog, early, Acked)
        for ids, failed in (((2, 3, 9), ()), ((1, 7, 10), (1,)), ((4, 8, 12), (2,))):
            found = one(catalog, batch(3, ids=ids, content=b"q"), StoredMany)
            assert tuple(index for index, _ in found.failures) == failed
        assert [r.id for r in records(catalog)] == [20, 12, 2, 3, 9, 1, 10, 4, 8]
        assert state(catalog).acked == ((7, 8),)
        largest = one(catalog, batch(2, ids=(19, 21)), StoredMany)
        assert (largest.stream.max_id, largest.stream.in_order) == (21, False)

    def test_several_runs_share_a_stream(self, catalog: Catalog) -> None:
        for run in (1, 2, 3):
            assert one(catalog, results(1, 2, 3, run=run), StoredMany).count == 3
        for run in (3, 1, 2):
            again = one(catalog, results(3, 1, run=run), StoredMany)
            assert again.ids == (3 * run, 3 * run - 2)
        other = replace(results(1, 2, 3), input_stream="scan2")
        assert one(catalog, other, StoredMany).count == 3

    # --------------------------------------------------------------------------- units

    def test_result_skip_and_ack_are_one(self, catalog: Catalog) -> None:
        store(catalog, 1, 2, 3, 4, stream="in")
        ack = Ack("g", SOURCE, "in", ((1, 3),), (), False, NOW)
        dead = Mark("g", SOURCE, "in", State.DEAD, ((3, 4),), now_ns=NOW)
        unit = Unit((results(1, 2, ids=(1, 2)), skip(3, 4), ack, dead))
        first = one(catalog, unit, tuple)
        assert [type(part) for part in first[:3]] == [StoredMany, Stored, Acked]
        # Made again it changes nothing, and is no failure.
        after = info(catalog)
        again = one(catalog, unit, tuple)
        assert (again[0].duplicates, type(again[1]), again[2].count) == (((0, 2),), Duplicate, 0)
        assert info(catalog) == after
        assert state(catalog, stream="in").acked == ((1, 3),)
        assert state(catalog, stream="in").dead == ((3, 4),)

    def test_a_result_that_clashes_leaves_its_input_open(self, catalog: Catalog) -> None:
        store(catalog, 1, 2, 3, stream="in")
        store(catalog, 2)
        units = [
            Unit((result(n, 0, n, size=5), Ack("g", SOURCE, "in", ((n, n + 1),), (), False, NOW)))
            for n in (1, 2, 3)
        ]
        fallen = catalog.apply(BT, units)[1]
        assert isinstance(fallen, tuple)
        assert [type(part) for part in fallen] == [Conflicted, Acked]
        assert state(catalog, stream="in").acked == ((1, 2), (3, 4))
        assert [r.id for r in records(catalog)] == [2, 1, 3]
        claim = Claim("g", SOURCE, "in", "me", 1, 9, 9, NOW, NOW + 9)
        granted = catalog.apply(BT, [claim])[0]
        assert getattr(granted, "ranges", ()) == ((2, 3), (4, 9))

    # --------------------------------------------------------------------------- skips

    def test_a_skip_may_be_said_again(self, catalog: Catalog) -> None:
        one(catalog, skip(3, 6), Stored)
        one(catalog, skip(6, 7, again=False), Stored)
        one(catalog, skip(9, 10), Stored)
        before = info(catalog)
        for lo, hi in ((3, 6), (4, 5), (3, 7), (5, 7), (9, 10)):
            found = one(catalog, skip(lo, hi), Duplicate)
            assert (found.stream, found.id) == (before, hi - 1)
            one(catalog, skip(lo, hi, again=False), Conflicted)
        for lo, hi in ((2, 4), (3, 8), (6, 10), (9, 11)):
            one(catalog, skip(lo, hi), Conflicted)
        one(catalog, skip(5, 5), Refused)
        one(catalog, Finish(SOURCE, STREAM, 9, "", NOW), object)
        one(catalog, skip(9, 10), Duplicate)
        one(catalog, skip(9, 11), Refused)
        store(catalog, 1)
        one(catalog, skip(1, 2), Conflicted)

    # ------------------------------------------------------------------------- measure

    def test_measure(self, catalog: Catalog) -> None:
        assert catalog.measure(BT, 1, 0, 99, 99) == []
        ops: list[Op] = [put(n, size=n, place=n % 3) for n in range(1, 10)]
        catalog.apply(BT, [*ops, skip(20, 30)])
        no = info(catalog).no
        assert catalog.measure(BT, no, 0, 99, 99) == [(0, 3, 18), (1, 3, 12), (2, 3, 15)]
        assert catalog.measure(BT, no, 2, 6, 99) == [(0, 1, 3), (1, 1, 4), (2, 2, 7)]
        assert catalog.measure(BT, no, 1, 99, 4) == [(0, 1, 3), (1, 2, 5), (2, 1, 2)]
        assert catalog.measure(BT, no, 9, 9, 99) == catalog.measure(BT, no, 1, 99, 0) == []
        assert catalog.measure(BT, no, -(2**70), 2**70, 2**70) == catalog.measure(BT, no, 1, 10, 9)
        parts = [put(1, stream="s", substream=n, expected=3, size=ID_MAX) for n in (1, 3)]
        catalog.apply(BT, parts)
        assert catalog.measure(BT, info(catalog, "s").no, 1, 2, 9) == [(1, 2, 2 * ID_MAX)]
        catalog.apply(BT, [DeleteStream(SOURCE, STREAM)])
        assert catalog.measure(BT, no, 0, 99, 99) == []

    # -------------------------------------------------------------------------- anything

    result_examples = 60
    """How many sequences of operations are tried; more find more."""

    def test_results_as_in_memory(self, make_catalog: Callable[[], Catalog]) -> None:
        @settings(
            max_examples=self.result_examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(st.lists(operations, min_size=1, max_size=4), max_size=12), st.data())
        def same(calls: list[list[Op]], data: st.DataObject) -> None:
            catalog, memory = make_catalog(), MemoryCatalog()
            for ops in calls:
                found, expected = catalog.apply(BT, ops), memory.apply(BT, ops)
                assert [plain(one) for one in found] == [plain(one) for one in expected]
                if data.draw(st.integers(0, 4)) == 0:
                    reopen(catalog)
                assert everything(catalog) == everything(memory)
            catalog.close()

        same()


# What is drawn for the test above: few numbers, so that they meet.

_seqs = st.integers(1, 8)
_ks = st.integers(-1, 1)
_ids = st.integers(0, 9)
_producers = st.sampled_from([(b"", 0), (ME, 1), (ME, 2), (YOU, 1)])


@st.composite
def _results(draw: st.DrawFn) -> Put | PutMany:
    producer, sequence = draw(_producers)
    how: dict[str, Any] = {
        "producer": producer,
        "sequence": sequence,
        "run": draw(st.integers(1, 2)),
    }
    content = draw(st.sampled_from([b"a", b"b"]))
    if draw(st.booleans()):
        op = result(draw(_seqs), draw(_ks), draw(_ids), digest=content * 16, **how)
        return replace(op, name="", size=1000)
    seqs = draw(st.lists(_seqs, min_size=1, max_size=4))
    count = len(seqs)
    if draw(st.booleans()):
        seqs.sort()
    ids = draw(st.none() | st.just(tuple(seqs)) | st.tuples(*[st.integers(1, 9)] * count))
    ks = draw(st.none() | st.tuples(*[_ks] * count))
    many = results(*seqs, ks=ks, ids=ids, content=content, **how)
    return replace(many, sizes=(1000,) * count)


_skips = st.builds(
    lambda lo, n, again: skip(lo, lo + n, again),
    st.integers(1, 8),
    st.integers(1, 2),
    st.booleans(),
)
_acks = st.builds(
    lambda lo, early: Ack("g", SOURCE, STREAM, ((lo, lo + 2),), early, False, NOW),
    _seqs,
    st.sets(st.integers(1, 9), max_size=1).map(tuple),
)
_dead = st.builds(
    lambda lo: Mark("g", SOURCE, STREAM, State.DEAD, ((lo, lo + 2),), now_ns=NOW), _seqs
)
_opened = st.builds(lambda lo: Nack("g", SOURCE, STREAM, ((lo, lo + 3),), NOW + 1), _seqs)
_plain = _results() | _results() | _skips | _acks | _dead | _opened
operations = st.one_of(
    _plain,
    _plain,
    st.lists(_plain, max_size=4).map(lambda ops: Unit(tuple(ops))),
    st.just(DeleteStream(SOURCE, STREAM)),
)


def plain(found: Result) -> object:
    """A result without the words of its errors."""
    if isinstance(found, tuple):
        failed = any(isinstance(part, FAILURES) or getattr(part, "failures", ()) for part in found)
        # In a unit that falls, what came after the failure says nothing that holds.
        return [type(part) for part in found] if failed else [plain(part) for part in found]
    if isinstance(found, FAILURES):
        return type(found)
    if isinstance(found, StoredMany):
        failures = [(index, type(error)) for index, error in found.failures]
        return {**asdict(found), "failures": failures}
    return found


def everything(catalog: Catalog) -> object:
    """All that can be asked of the stream."""
    stream = catalog.stream(BT, SOURCE, STREAM)
    if stream is None:
        return None
    items = catalog.items_by_seq(BT, stream.no, 0, 99)
    assert all(isinstance(item, Record) for item in items)
    return (
        stream,
        items,
        catalog.gaps(BT, stream.no, 1, 12, 99),
        catalog.measure(BT, stream.no, 3, 8, 99),
        catalog.groups(BT, SOURCE, STREAM),
        [catalog.producer_position(BT, SOURCE, STREAM, who) for who in (ME, YOU)],
    )
