"""Stores that earlier versions have written, opened by this one."""

from __future__ import annotations

import gzip
import runpy
from pathlib import Path

import apsw
import pytest

from beamstream.model import Dataset, Header, Run
from beamstream.store.catalog import sqlite_schema
from beamstream.store.catalog.interface import (
    Catalog,
    Claim,
    Claimed,
    Conflicted,
    DefineRun,
    Done,
    Duplicate,
    Meta,
    MetaMode,
    Op,
    Stored,
    StoredMany,
)
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.testing.catalog_ops import (
    BT,
    NOW,
    SOURCE,
    batch,
    info,
    one,
    put,
    records,
    result,
    results,
)
from beamstream.testing.memory_catalog import MemoryCatalog

STORES = Path(__file__).parent / "stores"
VERSIONS = sorted(STORES.glob("version*.db.gz"))


def unpacked(store: Path, folder: Path) -> tuple[Catalog, tuple[Op, ...]]:
    """A copy of the store, opened; and the operations that had made it."""
    (folder / f"{BT}.db").write_bytes(gzip.decompress(store.read_bytes()))
    made = runpy.run_path(str(store.with_name(f"{store.name.removesuffix('.db.gz')}.py")))
    return SqliteCatalog(folder), made["OPS"]


def everything(catalog: Catalog) -> dict[str, object]:
    """All that can be asked."""
    found: dict[str, object] = {"groups": catalog.groups_of(BT)}
    for source in catalog.sources(BT):
        found[source] = (catalog.streams(BT, source), catalog.meta(BT, source, ""))
        for stream in catalog.streams(BT, source):
            no = stream.no
            found[f"{source}/{stream.name}"] = (
                catalog.items_by_seq(BT, no, 0, 99),
                catalog.items_by_id(BT, no, 0, 99, 99),
                catalog.ids(BT, no, 0, 99, 99),
                catalog.gaps(BT, no, 1, 99, 99),
                catalog.seqs_above(BT, no, 5),
                catalog.last_item(BT, no, 99),
                catalog.last_dataset(BT, no, 0, 99),
                catalog.count_complete(BT, no, 99),
                catalog.groups(BT, source, stream.name),
                [catalog.last_acked_id(BT, g, source, stream.name) for g in ("fit", "view")],
                catalog.seq_at(BT, no, NOW + 3, 99) if stream.in_order else None,
            )
    found["files"] = [catalog.file(BT, f"processed/f{n}.0") for n in range(10)]
    return found


@pytest.mark.parametrize("store", VERSIONS, ids=lambda path: path.name.split(".")[0])
def test_a_store_of_an_earlier_version_has_all_it_had(store: Path, tmp_path: Path) -> None:
    catalog, ops = unpacked(store, tmp_path)
    expected = MemoryCatalog()
    for op in ops:
        expected.apply(BT, [op])
    there = everything(catalog)
    assert there == everything(expected)
    assert len(there) > 7
    document = catalog.meta(BT, SOURCE, "scan1")
    assert document == b'{"a":{"x":1,"y":2}}'
    catalog.close()
    connection = apsw.Connection(str(tmp_path / f"{BT}.db"))
    assert connection.pragma("user_version") == sqlite_schema.VERSION
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


@pytest.mark.parametrize("store", VERSIONS, ids=lambda path: path.name.split(".")[0])
def test_a_store_of_an_earlier_version_goes_on(store: Path, tmp_path: Path) -> None:
    catalog, _ = unpacked(store, tmp_path)
    one(catalog, put(0, stream="scan1"), Stored)
    old = records(catalog, "mixed")[0]
    assert (old.id, old.info, old.segment, old.input_source, old.input_seq) == (5, b"", 0, "", 0)
    assert (old.result_k, old.span) == (-1, b"")
    one(catalog, put(5, stream="mixed", place=2), Duplicate)
    one(catalog, put(5, stream="mixed", place=2, size=1), Conflicted)
    one(catalog, put(11, stream="mixed"), Conflicted)
    one(catalog, put(2, stream="sets", substream=1, expected=3), Stored)
    assert info(catalog, "sets").ready_seq == 3
    # The claim of the earlier process lasts, and early acknowledgements wait.
    claim = Claim("fit", SOURCE, "scan1", "node2", 1, 9, 9, NOW + 8, NOW + 9)
    assert one(catalog, claim, Claimed).ranges == ()
    one(catalog, put(41, stream="mixed"), Stored)
    group = catalog.group(BT, "view", SOURCE, "mixed")
    assert group is not None
    assert group.early_acks == (40,)
    op = batch(3, stream="mixed", producer=b"p" * 16, sequence=1, infos=b"u2")
    new = one(catalog, op, StoredMany)
    assert (new.count, new.id) == (3, 42)
    catalog.close()
    assert one(catalog, op, StoredMany).duplicates == ((0, 3),)
    assert records(catalog, "mixed")[-1].info == b"u2"
    assert one(catalog, put(1, stream="new"), Stored).stream.no > info(catalog, "gone").no
    catalog.close()


@pytest.mark.parametrize("store", VERSIONS, ids=lambda path: path.name.split(".")[0])
def test_a_store_of_an_earlier_version_takes_results_runs_and_headers(
    store: Path, tmp_path: Path
) -> None:
    catalog, _ = unpacked(store, tmp_path)
    document = b'{"a":{"x":1,"y":2}}'
    assert catalog.header(BT, SOURCE, "scan1", 0) == Header(1, document, 0)
    assert catalog.header(BT, SOURCE, "", 1) == Header(1, b'{"sample": "LaB6"}', 0)
    one(catalog, Meta(SOURCE, "scan1", MetaMode.REPLACE, False, b'{"b":1}', NOW), Done)
    assert catalog.header(BT, SOURCE, "scan1", 0) == Header(2, b'{"b":1}', NOW)
    assert catalog.header(BT, SOURCE, "scan1", 1) == Header(1, document, 0)
    assert catalog.runs(BT, 0, 9) == []
    assert one(catalog, DefineRun(b"{}", NOW), Run) == Run(1, b"{}", NOW)
    made = result(3, 0, 31, stream="mixed")
    one(catalog, made, Stored)
    one(catalog, results(1, 2, 3, stream="mixed"), StoredMany)
    catalog.close()
    one(catalog, made, Duplicate)
    again = one(catalog, results(3, 2, 1, stream="mixed"), StoredMany)
    assert (again.count, again.ids) == (0, (31, 33, 32))
    assert [r.result_k for r in records(catalog, "mixed")][-3:] == [0, 0, 0]
    catalog.close()


def test_what_the_second_version_knew_of_inputs_and_segments_is_there(tmp_path: Path) -> None:
    catalog, _ = unpacked(STORES / "version2.db.gz", tmp_path)
    log = records(catalog, "log")
    assert [r.id for r in log] == [1, 2, 3, 4, 5, 20, 21, 22, 23, 24, 25, 26]
    assert [r.info for r in log[4:8]] == [b"u2 2 2", b"a", b"b", b"c"]
    assert [r.position for r in log[:3]] == [70, 1070, 2071]
    joined = catalog.items_by_seq(BT, info(catalog, "joined").no, 0, 9)[0]
    assert isinstance(joined, Dataset)
    assert [(p.input_source, p.input_seq, p.shares) for p in joined.parts] == [
        ("part1", 5, True), ("part2", 6, True),
    ]  # fmt: skip
    for producer, last in ((b"a", 7), (b"b", 8)):
        assert catalog.producer_position(BT, SOURCE, "log", producer * 16) == last
    catalog.close()
