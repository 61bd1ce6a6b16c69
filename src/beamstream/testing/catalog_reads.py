"""Conformance: what readers are told."""

from __future__ import annotations

import threading

import msgspec
import pytest

from beamstream.errors import TimedOut
from beamstream.model import Dataset, Place
from beamstream.store.catalog.interface import Catalog, Finish, Ranges, Skip, Stored
from beamstream.store.query import parse
from beamstream.testing.catalog_ops import BT, NOW, SOURCE, STREAM, info, one, put, records, store


class ReadTests:
    def test_streams_by_time_of_creation(self, catalog: Catalog) -> None:
        for stream, at in (("c", 30), ("a", 10), ("b", 20)):
            one(catalog, put(1, stream=stream, timestamp_ns=at), Stored)
        one(catalog, put(2, stream="c", timestamp_ns=5), Stored)
        one(catalog, put(1, source="zz", stream="d", timestamp_ns=1), Stored)
        one(catalog, put(1, source="Zz", stream="d", timestamp_ns=1), Stored)
        assert [s.name for s in catalog.streams(BT, SOURCE)] == ["a", "b", "c"]
        assert catalog.streams(BT, SOURCE)[2] == info(catalog, "c")
        assert catalog.sources(BT) == ["Zz", SOURCE, "zz"]

    def test_times_of_a_stream(self, catalog: Catalog) -> None:
        one(catalog, put(5, timestamp_ns=50), Stored)
        one(catalog, put(3, timestamp_ns=60), Stored)
        one(catalog, Skip(SOURCE, STREAM, 6, 9, 65), Stored)
        found = info(catalog)
        assert (found.created_ns, found.last_ns) == (50, 50)
        one(catalog, put(9, timestamp_ns=70), Stored)
        assert info(catalog).last_ns == 70
        catalog.apply(BT, [Finish(SOURCE, STREAM, 20, "", 80)])
        one(catalog, put(10, timestamp_ns=90), Stored)
        assert (info(catalog).created_ns, info(catalog).last_ns) == (50, 80)

    def test_items_by_seq_and_by_id(self, catalog: Catalog) -> None:
        store(catalog, 4, 2, 9, 7)
        no = info(catalog).no
        assert [i.seq for i in catalog.items_by_seq(BT, no, 2, 4)] == [2, 3]
        assert [i.id for i in catalog.items_by_id(BT, no, 3, 9, 9)] == [4, 7]
        assert [i.id for i in catalog.items_by_id(BT, no, 0, 99, 3)] == [2, 4, 7]
        assert catalog.items_by_id(BT, no, 5, 7, 9) == []
        assert catalog.items_by_id(BT, no, 0, 99, 0) == []
        assert catalog.items_by_seq(BT, no, 9, 3) == []
        assert catalog.items_by_seq(BT, no + 1, 0, 99) == []
        assert catalog.ids(BT, no, 4, 9, 9) == [(4, 1), (7, 4)]
        assert catalog.ids(BT, no, 0, 99, 1) == [(2, 2)]

    def test_the_last_item_up_to_a_seq(self, catalog: Catalog) -> None:
        store(catalog, 4, 2, 9, 7)
        no = info(catalog).no
        found = [catalog.last_item(BT, no, upto) for upto in range(6)]
        assert [item.id if item else 0 for item in found] == [0, 4, 4, 9, 9, 9]

    def test_the_seq_at_a_time(self, catalog: Catalog) -> None:
        for n in range(1, 8):
            one(catalog, put(n, timestamp_ns=10 * n), Stored)
        one(catalog, Skip(SOURCE, STREAM, 20, 30, 75), Stored)
        for n in range(30, 33):
            one(catalog, put(n, timestamp_ns=10 * n), Stored)
        no = info(catalog).no

        def at(timestamp_ns: int, upto_seq: int = 99) -> int:
            return catalog.seq_at(BT, no, timestamp_ns, upto_seq)

        assert [at(t) for t in (0, 10, 11, 40, 69, 70, 71, 300, 301, 320, 321)] == [
            1, 1, 2, 4, 7, 7, 18, 18, 19, 20, 21,
        ]  # fmt: skip
        assert [at(30, upto) for upto in (0, 2, 3, 20)] == [1, 3, 3, 3]
        assert [at(71, upto) for upto in (7, 12, 17, 18, -5)] == [8, 13, 18, 18, 1]
        assert catalog.seq_at(BT, no + 5, 0, 9) == catalog.seq_at("nothing", 1, 0, 9) == 1
        for n in (1, 2, 3):
            for part in (2, 1):
                op = put(n, stream="sets", substream=part, expected=2, timestamp_ns=10 * n + part)
                one(catalog, op, Stored)
        no = info(catalog, "sets").no
        assert [at(t) for t in (5, 11, 22, 31, 40)] == [1, 1, 3, 3, 4]

    def test_gaps_between_ids(self, catalog: Catalog) -> None:
        store(catalog, 3, 4, 8, 1)
        one(catalog, Skip(SOURCE, STREAM, 5, 7, NOW), Stored)
        one(catalog, Skip(SOURCE, STREAM, 12, 15, NOW), Stored)
        no = info(catalog).no
        everything = ((2, 3), (7, 8), (9, 12), (15, 20))

        def gaps(lo: int, hi: int, limit: int = 99) -> Ranges:
            return catalog.gaps(BT, no, lo, hi, limit)

        assert gaps(1, 20) == gaps(-3, 20) == everything
        assert [gaps(1, 20, limit) for limit in (0, 1, 3)] == [(), everything[:1], everything[:3]]
        assert [gaps(5, 8), gaps(6, 7), gaps(6, 11), gaps(10, 11), gaps(13, 15)] == [
            ((7, 8),), (), ((7, 8), (9, 11)), ((10, 11),), (),
        ]  # fmt: skip
        assert [gaps(14, 16), gaps(40, 42), gaps(9, 9), gaps(9, 5)] == [
            ((15, 16),),
            ((40, 42),),
            (),
            (),
        ]
        assert gaps(14, 2**63) == ((15, 2**63),)
        assert catalog.gaps(BT, no + 5, 2, 4, 9) == catalog.gaps("nothing", 1, 2, 4, 9) == ((2, 4),)
        store(catalog, 1, 2, 3, stream="dense")
        dense = info(catalog, "dense").no
        assert catalog.gaps(BT, dense, 1, 4, 9) == ()
        assert catalog.gaps(BT, dense, 2, 9, 9) == ((4, 9),)
        for n in (2, 2**63 - 1):
            op = put(n, stream="sets", substream=1, expected=2, timestamp_ns=NOW)
            one(catalog, op, Stored)
        sets = info(catalog, "sets").no
        assert catalog.gaps(BT, sets, 1, 2**64, 9) == ((1, 2), (3, 2**63 - 1))

    def test_the_end_of_a_segment(self, catalog: Catalog) -> None:
        assert catalog.segment_end(BT, 4) == catalog.segment_end("nothing", 4) == 0
        for n, (place, segment, position) in enumerate(
            [(3, 4, 100), (3, 4, 900), (3, 5, 5000), (1, 4, 7000)], 1
        ):
            op = msgspec.structs.replace(
                put(n), place=place, segment=segment, position=position, size=50
            )
            one(catalog, op, Stored)
        ends = [catalog.segment_end(BT, segment) for segment in (3, 4, 5)]
        assert ends == [0, 950, 5050]

    def test_seqs_above_an_id(self, catalog: Catalog) -> None:
        store(catalog, 1, 2, 5)
        one(catalog, Skip(SOURCE, STREAM, 6, 9, NOW), Stored)
        no = info(catalog).no
        ordered = [catalog.seqs_above(BT, no, ident) for ident in (0, 2, 4, 5, 6, 8, 9)]
        assert ordered == [((1, 7),), ((3, 7),), ((3, 7),), ((4, 7),), ((5, 7),), (), ()]
        store(catalog, 20, 4)
        assert info(catalog).in_order is False
        assert catalog.seqs_above(BT, no, 2) == ((3, 9),)
        assert catalog.seqs_above(BT, no, 4) == ((3, 8),)
        assert catalog.seqs_above(BT, no, 7) == ((6, 8),)
        store(catalog, 30)
        assert catalog.seqs_above(BT, no, 7) == ((6, 8), (9, 10))

    def test_files_by_name(self, catalog: Catalog) -> None:
        place = Place.FILE
        one(catalog, put(1, name="raw/a", place=place), Stored)
        one(catalog, put(2, name="raw/b"), Stored)
        op = put(1, name="raw/c", place=place, stream="set", substream=2, expected=2)
        one(catalog, op, Stored)
        found = catalog.file(BT, "raw/a")
        assert found == (SOURCE, STREAM, records(catalog)[0])
        assert catalog.file(BT, "raw/b") is None
        assert catalog.file(BT, "RAW/a") is None
        part = catalog.file(BT, "raw/c")
        assert part is not None
        assert (part[1], part[2].substream, part[2].place) == ("set", 2, place)

    def test_search(self, catalog: Catalog) -> None:
        for n in range(1, 8):
            one(catalog, put(n, meta=b'{"n":%d,"s":{"t":"x%d"}}' % (8 - n, n % 3)), Stored)
        no = info(catalog).no

        def found(text: str, upto: int = 99, offset: int = 0, limit: int = 99) -> list[int]:
            return [
                record.id
                for record in catalog.search(
                    BT, no, parse(text), upto_seq=upto, offset=offset, limit=limit, seconds_max=9
                )
            ]

        assert found("meta.n > 3") == [1, 2, 3, 4]
        assert found("meta.n > 3 ORDER BY meta.n") == [4, 3, 2, 1]
        assert found("meta.s.t = 'x1' AND _id < 6") == [1, 4]
        assert found("meta.s.t REGEXP '^x[02]$' ORDER BY _id DESC") == [6, 5, 3, 2]
        assert found("_id > 0", upto=3) == [1, 2, 3]
        assert found("_id > 0", offset=2, limit=2) == [3, 4]
        assert found("_id > 0", limit=0) == []
        assert found(f"name = 'processed/f2.0' AND timestamp = {NOW + 2}") == [2]
        hit = catalog.search(BT, no, parse("_id = 3"), upto_seq=9, limit=1, seconds_max=9)
        assert hit == [records(catalog)[2]]
        assert (
            catalog.search(BT, no + 9, parse("_id = 3"), upto_seq=9, limit=1, seconds_max=9) == []
        )

    def test_a_search_of_datasets_finds_parts(self, catalog: Catalog) -> None:
        for substream in (2, 1, 3):
            op = put(1, substream=substream, expected=3, meta=b'{"m":%d}' % substream)
            one(catalog, op, Stored)
        no = info(catalog).no
        hits = catalog.search(BT, no, parse("meta.m >= 2"), upto_seq=9, limit=9, seconds_max=9)
        assert [(hit.id, hit.substream) for hit in hits] == [(1, 2), (1, 3)]

    def test_a_search_ends_in_time(self, catalog: Catalog) -> None:
        catalog.apply(BT, [put(n) for n in range(1, 2000)])
        no = info(catalog).no
        query = parse("name REGEXP 'x+y' AND meta.a = 1")
        with pytest.raises(TimedOut):
            catalog.search(BT, no, query, upto_seq=9999, limit=9, seconds_max=-1.0)
        assert catalog.search(BT, no, query, upto_seq=9999, limit=9, seconds_max=60.0) == []

    def test_readers_in_threads_see_whole_commits(self, catalog: Catalog) -> None:
        """Each commit writes one part of two datasets; no reader sees one of them alone."""
        no = one(catalog, put(1, substream=1, expected=99), Stored).stream.no
        one(catalog, put(2, substream=1, expected=99), Stored)
        torn: list[object] = []
        ready = threading.Barrier(3)
        over = threading.Event()

        def read() -> None:
            ready.wait()
            while not over.is_set():
                items = catalog.items_by_seq(BT, no, 1, 3)
                sizes = {len(item.parts) for item in items if isinstance(item, Dataset)}
                if len(sizes) != 1:
                    torn.append(sizes)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in readers:
            thread.start()
        ready.wait()
        for substream in range(2, 60):
            ops = [put(ident, substream=substream, expected=99) for ident in (1, 2)]
            catalog.apply(BT, ops)
        over.set()
        for thread in readers:
            thread.join()
        assert not torn
