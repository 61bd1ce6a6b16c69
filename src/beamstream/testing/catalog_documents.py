"""Conformance: versions of metadata, and runs."""

from __future__ import annotations

import json

from beamstream.errors import BadInput, TooLarge
from beamstream.limits import HEADER_VERSIONS_MAX, ID_MAX, RUN_NBYTES_MAX
from beamstream.model import Run
from beamstream.store.catalog.interface import (
    Catalog,
    Conflicted,
    DefineRun,
    DeleteStream,
    Done,
    Meta,
    MetaMode,
    Refused,
    Skip,
    Unit,
)
from beamstream.testing.catalog_ops import BT, NOW, SOURCE, STREAM, one, put, reopen, store


def write(document: str, at: int, mode: MetaMode = MetaMode.REPLACE, stream: str = STREAM) -> Meta:
    return Meta(SOURCE, stream, mode, True, document.encode(), NOW + at)


def told(
    catalog: Catalog, version: int = 0, stream: str = STREAM
) -> tuple[int, object, int] | None:
    """Version, document and time of a header."""
    found = catalog.header(BT, SOURCE, stream, version)
    return (
        None
        if found is None
        else (found.version, json.loads(found.document), found.changed_ns - NOW)
    )


class DocumentTests:
    def test_every_change_of_metadata_is_a_version(self, catalog: Catalog) -> None:
        assert told(catalog) is None
        one(catalog, write('{"a":1}', 10, MetaMode.INSERT), Done)
        assert told(catalog) == told(catalog, 1) == (1, {"a": 1}, 10)
        one(catalog, write('{"b":{"c":2}}', 20, MetaMode.UPDATE), Done)
        one(catalog, write('{"d":3}', 30), Done)
        one(catalog, Meta(SOURCE, STREAM, MetaMode.INSERT, False, b"{}", NOW + 40), Refused)
        reopen(catalog)
        assert told(catalog) == told(catalog, 3) == (3, {"d": 3}, 30)
        assert told(catalog, 2) == (2, {"a": 1, "b": {"c": 2}}, 20)
        assert told(catalog, 1) == (1, {"a": 1}, 10)
        for version in (4, -1, ID_MAX, 2**70):
            assert told(catalog, version) is None

    def test_writing_what_is_there_is_no_version(self, catalog: Catalog) -> None:
        one(catalog, write('{"a":1,"b":[true]}', 10), Done)
        one(catalog, write('{"b": [true], "a": 1}', 20), Done)
        one(catalog, write('{"a":1}', 30, MetaMode.UPDATE), Done)
        assert told(catalog) == (1, {"a": 1, "b": [True]}, 10)
        one(catalog, write('{"b":[1]}', 40, MetaMode.UPDATE), Done)
        one(catalog, write('{"a":1,"b":[true]}', 50), Done)
        assert told(catalog) == (3, {"a": 1, "b": [True]}, 50)
        found = told(catalog, 2)
        assert found is not None
        assert json.dumps(found[1]) == '{"a": 1, "b": [1]}'

    def test_the_newest_versions_are_kept(self, catalog: Catalog) -> None:
        last = HEADER_VERSIONS_MAX + 3
        catalog.apply(BT, [write(f'{{"n":{n}}}', n) for n in range(1, last + 1)])
        assert told(catalog) == (last, {"n": last}, last)
        assert told(catalog, 4) == (4, {"n": 4}, 4)
        assert told(catalog, 3) is None

    def test_streams_have_versions_of_their_own(self, catalog: Catalog) -> None:
        for stream in ("", STREAM, "scan", "scan10"):
            one(catalog, write('{"n":1}', 1, stream=stream), Done)
        one(catalog, write('{"n":2}', 2), Done)
        for stream in ("", "scan", "scan10"):
            assert told(catalog, 0, stream) == (1, {"n": 1}, 1)
            assert told(catalog, 2, stream) is None
        assert catalog.header(BT, "other", STREAM, 0) is None
        assert catalog.header("11000002", SOURCE, STREAM, 0) is None

    def test_deleting_removes_all_versions(self, catalog: Catalog) -> None:
        store(catalog, 1)
        catalog.apply(BT, [write('{"n":1}', 1), write('{"n":2}', 2)])
        one(catalog, DeleteStream(SOURCE, STREAM, with_meta=False), Done)
        assert told(catalog, 1) == (1, {"n": 1}, 1)
        store(catalog, 1)
        one(catalog, DeleteStream(SOURCE, STREAM), Done)
        assert told(catalog) is None
        assert told(catalog, 1) is None
        one(catalog, write('{"n":3}', 3), Done)
        assert told(catalog) == (1, {"n": 3}, 3)
        assert told(catalog, 2) is None

    def test_a_fallen_unit_has_no_version_and_no_run(self, catalog: Catalog) -> None:
        one(catalog, write('{"n":1}', 1), Done)
        store(catalog, 1)
        clash = Skip(SOURCE, STREAM, 1, 2, NOW)
        unit = Unit((write('{"n":2}', 2), DefineRun(b'{"a":1}', NOW), clash))
        made = one(catalog, unit, tuple)
        assert [type(part) for part in made] == [Done, Run, Conflicted]
        assert told(catalog) == (1, {"n": 1}, 1)
        assert catalog.runs(BT, 0, 9) == []
        assert one(catalog, DefineRun(b'{"b":1}', NOW), Run).no == 1

    # ------------------------------------------------------------------------------ runs

    def test_the_same_document_is_the_same_run(self, catalog: Catalog) -> None:
        document = b'{"step": "bin", "parameters": {"factor": 2, "b": 1}}'
        first = one(catalog, DefineRun(document, NOW), Run)
        assert first == Run(1, document, NOW)
        again = b'{"parameters":{"b":1,"factor":2},"step":"bin"}'
        assert one(catalog, DefineRun(document, NOW + 1), Run) == first
        reopen(catalog)
        assert one(catalog, DefineRun(again, NOW + 2), Run) == first
        # A whole number and a real one are two to the code that gets them.
        for other in (b"2.0", b"true", b'"2"', b"3"):
            changed = document.replace(b"2", other)
            found = one(catalog, DefineRun(changed, NOW + 3), Run)
            assert (found.document, found.created_ns) == (changed, NOW + 3)
        assert [run.no for run in catalog.runs(BT, 0, 99)] == [5, 4, 3, 2, 1]

    def test_runs_are_found(self, catalog: Catalog) -> None:
        assert catalog.run(BT, 1) is None
        assert catalog.runs(BT, 0, 9) == []
        ops = [DefineRun(b'{"n":%d}' % n, NOW + n) for n in range(1, 6)]
        made = catalog.apply(BT, ops)
        assert [catalog.run(BT, n) for n in range(1, 6)] == made
        assert catalog.runs(BT, 0, 2) == [made[4], made[3]]
        assert catalog.runs(BT, 4, 2) == [made[2], made[1]]
        assert catalog.runs(BT, 3, 99) == [made[1], made[0]]
        assert catalog.runs(BT, 1, 99) == catalog.runs(BT, 0, 0) == catalog.runs(BT, 0, -1) == []
        assert catalog.runs(BT, 2**70, 2**70) == made[::-1]
        for no in (0, 6, -1, 2**70):
            assert catalog.run(BT, no) is None
        assert catalog.runs("11000002", 0, 9) == []
        assert catalog.run("11000002", 1) is None

    def test_a_run_is_an_object(self, catalog: Catalog) -> None:
        deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
        for document in (b"", b"[1]", b"null", b"{", b'{"a":1} x', b"\xff{}", b'"{}"', deep):
            refused = one(catalog, DefineRun(document, NOW), Refused)
            assert isinstance(refused.error, BadInput)
        assert catalog.runs(BT, 0, 9) == []

    def test_a_run_is_not_too_large(self, catalog: Catalog) -> None:
        room = RUN_NBYTES_MAX - len(b'{"a":""}')
        one(catalog, DefineRun(b'{"a":"%s"}' % (b"x" * room), NOW), Run)
        refused = one(catalog, DefineRun(b'{"a":"%s"}' % (b"x" * (room + 1)), NOW), Refused)
        assert isinstance(refused.error, TooLarge)

    def test_beamtimes_count_runs_alone(self, catalog: Catalog) -> None:
        for beamtime in (BT, "11000002"):
            catalog.apply(beamtime, [put(1)])
            assert catalog.apply(beamtime, [DefineRun(b"{}", NOW)]) == [Run(1, b"{}", NOW)]
