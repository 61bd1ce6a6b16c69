"""Conformance: numbering, duplicates, finish flags, skips, metadata and deletion."""

from __future__ import annotations

import threading

import msgspec

from beamstream.errors import IdConflict, NotFound, StreamFinished
from beamstream.limits import ID_MAX
from beamstream.model import Record
from beamstream.store.catalog.interface import (
    Ack,
    Catalog,
    Conflicted,
    DeleteStream,
    Done,
    Duplicate,
    Finish,
    Meta,
    MetaMode,
    Persist,
    Refused,
    Skip,
    Stored,
)
from beamstream.testing.catalog_ops import (
    BT,
    NOW,
    SOURCE,
    STREAM,
    begin,
    info,
    one,
    put,
    records,
    store,
)


def finish(last_id: int, next_stream: str = "", at: int = NOW + 500) -> Finish:
    return Finish(SOURCE, STREAM, last_id, next_stream, at)


def skip(lo: int, hi: int) -> Skip:
    return Skip(SOURCE, STREAM, lo, hi, NOW)


def meta(mode: MetaMode, document: bytes, upsert: bool = False, stream: str = STREAM) -> Meta:
    return Meta(SOURCE, stream, mode, upsert, document)


class StreamTests:
    # ------------------------------------------------------------------------ numbering

    def test_nothing_is_known_of_unknown_names(self, catalog: Catalog) -> None:
        assert catalog.stream(BT, "a", "b") is None
        assert catalog.streams(BT, "a") == []
        assert catalog.sources(BT) == []
        assert catalog.items_by_seq(BT, 1, 0, 9) == []
        assert catalog.items_by_id(BT, 1, 0, 9, 9) == []
        assert catalog.last_item(BT, 1, 9) is None
        assert catalog.last_dataset(BT, 1, 0, 9) is None
        assert catalog.count_complete(BT, 1, 9) == 0
        assert catalog.ids(BT, 1, 0, 9, 9) == []
        assert catalog.seqs_above(BT, 1, 0) == ()
        assert catalog.file(BT, "x") is None
        assert catalog.meta(BT, "a", "") is None
        assert catalog.group(BT, "g", "a", "b") is None
        assert catalog.groups(BT, "a", "b") == []
        assert catalog.last_acked_id(BT, "g", "a", "b") == 0
        assert catalog.groups_of(BT) == []
        assert catalog.seq_at(BT, 1, 0, 9) == 1
        assert catalog.gaps(BT, 1, 2, 5, 9) == ((2, 5),)
        assert catalog.producer_position(BT, "a", "b", b"p" * 16) == 0
        assert catalog.apply(BT, []) == []
        catalog.sync(BT)

    def test_a_record_comes_back_as_it_was_put(self, catalog: Catalog) -> None:
        op = put(7, name="raw/ä b.cbf", meta=b'{"a" : [1, null]}', timestamp_ns=2**62)
        op = msgspec.structs.replace(
            op, segment=9, position=2**40, info=b"\x93\x00", input_source="det/ö",
            input_stream="raw", input_seq=2**61,
        )  # fmt: skip
        stored = one(catalog, op, Stored)
        assert (stored.seq, stored.id, stored.ready_seq) == (1, 7, 0)
        expected = Record(
            1, 7, 0, op.name, op.size, op.digest, op.meta, op.timestamp_ns, op.arrived_ns,
            op.mode, op.level, op.place, op.root, op.node, op.boot, op.run, 9, 2**40,
            b"\x93\x00", "det/ö", "raw", 2**61,
        )  # fmt: skip
        assert records(catalog) == [expected]
        assert catalog.items_by_id(BT, stored.stream.no, 7, 8, 1) == [expected]
        assert catalog.last_item(BT, stored.stream.no, 1) == expected

    def test_seqs_have_no_holes_whatever_is_refused(self, catalog: Catalog) -> None:
        ops = [put(3), put(3), put(3, size=9), put(1), put(0), put(0), put(-1)]
        results = catalog.apply(BT, ops)
        kinds = [type(result) for result in results]
        assert kinds == [Stored, Duplicate, Conflicted, Stored, Stored, Stored, Refused]
        assert [(r.seq, r.id) for r in records(catalog)] == [(1, 3), (2, 1), (3, 4), (4, 5)]

    def test_the_result_is_the_stream_after_the_operation(self, catalog: Catalog) -> None:
        first, second = store(catalog, 5, 2)
        assert (first.stream.last_seq, first.stream.max_id, first.stream.in_order) == (1, 5, True)
        assert (second.stream.last_seq, second.stream.max_id) == (2, 5)
        assert not second.stream.in_order
        assert second.stream == info(catalog)
        assert second.stream.created_ns == second.stream.last_ns == NOW + 5
        assert (second.stream.source, second.stream.name) == (SOURCE, STREAM)

    def test_automatic_ids_are_the_largest_plus_one(self, catalog: Catalog) -> None:
        assert [stored.id for stored in store(catalog, 0, 0, 10, 3, 0, 0)] == [1, 2, 10, 3, 11, 12]
        one(catalog, skip(20, 30), Stored)
        assert one(catalog, put(0), Stored).id == 30
        assert one(catalog, put(0, stream="other"), Stored).id == 1

    def test_ids_reach_up_to_the_largest(self, catalog: Catalog) -> None:
        stored = one(catalog, put(ID_MAX, timestamp_ns=NOW), Stored)
        no = stored.stream.no
        assert stored.stream.max_id == ID_MAX
        assert [i.id for i in catalog.items_by_id(BT, no, ID_MAX, ID_MAX + 1, 5)] == [ID_MAX]
        assert catalog.ids(BT, no, 1, ID_MAX + 1, 5) == [(ID_MAX, 1)]
        assert catalog.seqs_above(BT, no, ID_MAX - 1) == ((1, 2),)
        assert catalog.seqs_above(BT, no, ID_MAX) == ()
        for ident in (0, ID_MAX + 1):
            one(catalog, put(ident, timestamp_ns=NOW), Refused)
        one(catalog, put(ID_MAX), Duplicate)
        assert one(catalog, put(1), Stored).seq == 2

    def test_seq_follows_the_order_of_commits(self, catalog: Catalog) -> None:
        first = begin(catalog, [put(0, name="a"), put(0, name="b")])
        second = begin(catalog, [put(0, name="c"), put(0, name="d")])
        late, early = second(), first()
        assert [r.seq for r in late + early if isinstance(r, Stored)] == [1, 2, 3, 4]
        found = [(r.seq, r.id, r.name) for r in records(catalog)]
        assert found == [(1, 1, "c"), (2, 2, "d"), (3, 3, "a"), (4, 4, "b")]

    def test_two_threads_leave_no_holes(self, catalog: Catalog) -> None:
        """Each applies under a lock, as the one who calls `apply` has to."""
        lock, start = threading.Lock(), threading.Barrier(2)
        seen: list[tuple[int, int]] = []

        def write(writer: int) -> None:
            start.wait()
            for n in range(25):
                ops = [put(0, name=f"{writer}/{n}"), put(0, name=f"{writer}/{n}/b")]
                with lock:
                    results = catalog.apply(BT, ops)
                    seen.extend((r.seq, r.id) for r in results if isinstance(r, Stored))

        threads = [threading.Thread(target=write, args=(n,)) for n in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [(n, n) for n in range(1, 101)]
        assert [(r.seq, r.id) for r in records(catalog)] == seen

    # ----------------------------------------------------------------------- duplicates

    def test_the_same_again_is_a_duplicate(self, catalog: Catalog) -> None:
        op = put(4, meta=b'{"a": 1, "b": {"c": [1, 2]}}')
        one(catalog, op, Stored)
        (before,) = records(catalog)
        again = msgspec.structs.replace(
            op, meta=b'{"b":{"c":[1,2]},"a":1}', timestamp_ns=1, mode=13, level=2, place=2, node=9
        )
        duplicate = one(catalog, again, Duplicate)
        assert (duplicate.id, duplicate.record) == (4, before)
        assert duplicate.stream == info(catalog)
        assert records(catalog) == [before]

    def test_every_difference_is_a_conflict(self, catalog: Catalog) -> None:
        op = put(4, meta=b'{"a": [1, 2], "b": true}')
        one(catalog, op, Stored)
        before = records(catalog)
        others = [b"{}", b'{"a": [2, 1], "b": true}', b'{"a": [1, 2], "b": 1}']
        differing = [msgspec.structs.replace(op, meta=other) for other in others]
        differing += [put(4, meta=op.meta, name="x"), put(4, meta=op.meta, size=1)]
        differing += [put(4, meta=op.meta, digest=b"f" * 16)]
        for other in differing:
            conflict = one(catalog, other, Conflicted)
            assert isinstance(conflict.error, IdConflict)
            assert "4" in str(conflict.error)
            assert STREAM in str(conflict.error)
        assert records(catalog) == before
        assert info(catalog).last_seq == 1

    def test_a_refused_operation_stops_nobody_else(self, catalog: Catalog) -> None:
        results = catalog.apply(BT, [put(1), put(1, size=5), put(2), put(1), put(2, size=5)])
        kinds = [type(result) for result in results]
        assert kinds == [Stored, Conflicted, Stored, Duplicate, Conflicted]
        assert [r.id for r in records(catalog)] == [1, 2]

    def test_numbers_too_large_are_refused_alone(self, catalog: Catalog) -> None:
        """What no database holds must not spoil the transaction for others."""
        results = catalog.apply(BT, [put(1), put(2, size=2**63), put(3, size=-1), put(4)])
        assert [type(result) for result in results] == [Stored, Refused, Refused, Stored]
        early = Ack("g", SOURCE, STREAM, (), (2**63,))
        assert isinstance(catalog.apply(BT, [early])[0], Refused)
        assert [(r.seq, r.id) for r in records(catalog)] == [(1, 1), (2, 4)]

    def test_a_refused_put_creates_no_stream(self, catalog: Catalog) -> None:
        one(catalog, put(-3), Refused)
        one(catalog, put(1, substream=3, expected=2), Conflicted)
        one(catalog, skip(5, 5), Refused)
        assert catalog.stream(BT, SOURCE, STREAM) is None

    # --------------------------------------------------------------------------- finish

    def test_finish(self, catalog: Catalog) -> None:
        store(catalog, 1, 2)
        done = one(catalog, finish(5, "scan2"), Done)
        after = info(catalog)
        assert done.stream == after
        assert (after.last_id, after.next_stream, after.finished) == (5, "scan2", True)
        assert (after.last_ns, after.created_ns, after.last_seq) == (NOW + 500, NOW + 1, 2)
        again = one(catalog, finish(5, "scan2", NOW + 900), Duplicate)
        assert again.record is None
        assert isinstance(one(catalog, finish(6, "scan2"), Conflicted).error, StreamFinished)
        one(catalog, finish(5, "scan3"), Conflicted)
        assert info(catalog) == after

    def test_ids_up_to_the_last_are_taken_after_the_end(self, catalog: Catalog) -> None:
        one(catalog, finish(5), Done)
        assert one(catalog, put(5), Stored).seq == 1
        assert one(catalog, put(2), Stored).seq == 2
        refused = one(catalog, put(6), Refused)
        assert isinstance(refused.error, StreamFinished)
        assert isinstance(one(catalog, put(0), Refused).error, StreamFinished)
        one(catalog, skip(3, 8), Refused)
        one(catalog, put(7, substream=1, expected=2), Conflicted)
        one(catalog, skip(3, 5), Stored)
        assert info(catalog).last_ns == NOW + 500
        assert [r.id for r in records(catalog)] == [5, 2]

    def test_a_stream_cannot_end_before_what_it_has(self, catalog: Catalog) -> None:
        store(catalog, 1, 9)
        one(catalog, finish(8), Conflicted)
        assert not info(catalog).finished
        one(catalog, finish(9), Done)
        one(catalog, Skip(SOURCE, "skipped", 5, 9, NOW), Stored)
        one(catalog, Finish(SOURCE, "skipped", 7, "", NOW), Conflicted)

    def test_a_finish_flag_makes_a_stream(self, catalog: Catalog) -> None:
        one(catalog, finish(0), Done)
        assert info(catalog).created_ns == NOW + 500
        assert [s.name for s in catalog.streams(BT, SOURCE)] == [STREAM]
        assert isinstance(one(catalog, put(1), Refused).error, StreamFinished)

    # ---------------------------------------------------------------------------- skips

    def test_skips_take_seqs_and_are_passed_over(self, catalog: Catalog) -> None:
        store(catalog, 1)
        stored = one(catalog, skip(2, 5), Stored)
        assert (stored.seq, stored.id) == (4, 4)
        store(catalog, 5)
        after = info(catalog)
        assert (after.last_seq, after.skipped, after.count, after.max_id) == (5, 3, 2, 5)
        assert after.in_order
        assert [(r.seq, r.id) for r in records(catalog)] == [(1, 1), (5, 5)]
        assert catalog.ids(BT, after.no, 1, 9, 9) == [(1, 1), (5, 5)]
        assert [i.id for i in catalog.items_by_id(BT, after.no, 2, 9, 9)] == [5]

    def test_a_skipped_id_never_comes(self, catalog: Catalog) -> None:
        store(catalog, 10)
        one(catalog, skip(3, 6), Stored)
        for ident in (3, 4, 5):
            one(catalog, put(ident), Conflicted)
        for lo, hi in ((5, 7), (1, 4), (4, 5), (10, 11), (9, 20), (3, 6)):
            one(catalog, skip(lo, hi), Conflicted)
        store(catalog, 2, 6)
        assert info(catalog).last_seq == 6
        assert not info(catalog).in_order

    def test_a_stream_of_skips_only_is_not_listed(self, catalog: Catalog) -> None:
        one(catalog, skip(1, 4), Stored)
        assert catalog.streams(BT, SOURCE) == []
        assert catalog.sources(BT) == []
        assert info(catalog).count == 0
        store(catalog, 4)
        assert info(catalog).created_ns == NOW + 4

    # ------------------------------------------------------------------------- metadata

    def test_metadata_modes(self, catalog: Catalog) -> None:
        for stream in (STREAM, ""):
            one(catalog, meta(MetaMode.REPLACE, b'{"a":1}', stream=stream), Refused)
            refused = one(catalog, meta(MetaMode.UPDATE, b'{"a":1}', stream=stream), Refused)
            assert isinstance(refused.error, NotFound)
            assert catalog.meta(BT, SOURCE, stream) is None
            one(catalog, meta(MetaMode.INSERT, b'{"a":1,"b":{"c":2}}', stream=stream), Done)
            one(catalog, meta(MetaMode.INSERT, b'{"z":1}', True, stream), Refused)
            one(catalog, meta(MetaMode.REPLACE, b'{"a":{"x":1}}', stream=stream), Done)
            found = catalog.meta(BT, SOURCE, stream)
            assert found is not None
            assert msgspec.json.decode(found) == {"a": {"x": 1}}
        assert catalog.meta(BT, "other", "") is None
        assert catalog.stream(BT, SOURCE, STREAM) is None

    def test_an_update_merges_deeply(self, catalog: Catalog) -> None:
        old = b'{"a":{"x":1,"y":{"z":1,"w":[1,2]}},"b":[1,{"c":2}],"n":1,"o":{"p":1}}'
        new = b'{"a":{"y":{"w":[3],"v":null},"t":"u"},"b":[],"o":5,"q":{"r":{}}}'
        one(catalog, meta(MetaMode.UPDATE, old, True), Done)
        one(catalog, meta(MetaMode.UPDATE, new), Done)
        found = catalog.meta(BT, SOURCE, STREAM)
        assert found is not None
        assert msgspec.json.decode(found) == {
            "a": {"x": 1, "y": {"z": 1, "w": [3], "v": None}, "t": "u"},
            "b": [],
            "n": 1,
            "o": 5,
            "q": {"r": {}},
        }
        one(catalog, meta(MetaMode.REPLACE, b'{"r":1}', True, "later"), Done)
        assert (
            catalog.meta(BT, SOURCE, "later") == b'{"r":1}'
            or catalog.meta(BT, SOURCE, "later") == b'{"r": 1}'
        )

    def test_persist(self, catalog: Catalog) -> None:
        one(catalog, Persist(SOURCE, STREAM), Refused)
        store(catalog, 1)
        assert not info(catalog).persistent
        one(catalog, Persist(SOURCE, STREAM), Done)
        assert info(catalog).persistent

    # --------------------------------------------------------------------------- delete

    def test_a_deleted_stream_is_gone_at_once(self, catalog: Catalog) -> None:
        one(catalog, put(1, place=2, name="raw/x"), Stored)
        one(catalog, Ack("g", SOURCE, STREAM, ((1, 2),), (9,)), object)
        one(catalog, meta(MetaMode.INSERT, b"{}"), Done)
        one(catalog, skip(5, 8), Stored)
        old = info(catalog).no
        one(catalog, DeleteStream(SOURCE, STREAM), Done)
        assert catalog.stream(BT, SOURCE, STREAM) is None
        assert catalog.streams(BT, SOURCE) == []
        assert catalog.sources(BT) == []
        assert catalog.items_by_seq(BT, old, 0, 99) == []
        assert catalog.items_by_id(BT, old, 0, 99, 99) == []
        assert catalog.last_item(BT, old, 99) is None
        assert catalog.ids(BT, old, 0, 99, 99) == []
        assert catalog.seqs_above(BT, old, 0) == ()
        assert catalog.file(BT, "raw/x") is None
        assert catalog.meta(BT, SOURCE, STREAM) is None
        assert catalog.groups(BT, SOURCE, STREAM) == []
        one(catalog, DeleteStream(SOURCE, STREAM), Refused)

        stored = one(catalog, put(0, size=5), Stored)
        assert (stored.seq, stored.id) == (1, 1)
        assert stored.stream.no != old
        assert catalog.group(BT, "g", SOURCE, STREAM) is None
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == 0
        one(catalog, put(9), Stored)
        assert catalog.groups(BT, SOURCE, STREAM) == []

    def test_metadata_may_outlive_its_stream(self, catalog: Catalog) -> None:
        store(catalog, 1)
        one(catalog, meta(MetaMode.INSERT, b"{}"), Done)
        one(catalog, DeleteStream(SOURCE, STREAM, with_meta=False), Done)
        assert catalog.meta(BT, SOURCE, STREAM) == b"{}"

    def test_numbers_are_never_used_twice(self, catalog: Catalog) -> None:
        seen = set()
        for _ in range(4):
            seen.add(store(catalog, 1)[0].stream.no)
            one(catalog, DeleteStream(SOURCE, STREAM), Done)
        assert len(seen) == 4

    def test_deleting_touches_no_other_stream(self, catalog: Catalog) -> None:
        names = ["run1", "run10", "run", "Run1", "run1/", "run1%", "run_"]
        for name in names:
            store(catalog, 1, stream=name)
            one(catalog, meta(MetaMode.INSERT, b"{}", stream=name), Done)
        one(catalog, DeleteStream(SOURCE, "run1"), Done)
        left = [name for name in names if catalog.stream(BT, SOURCE, name)]
        assert left == [name for name in names if name != "run1"]
        assert [name for name in names if catalog.meta(BT, SOURCE, name)] == left
