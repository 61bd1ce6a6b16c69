from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_files import files_open

from beamstream.errors import BadName, Corrupt, NoSpace, ReadOnly, StoreTooNew
from beamstream.store.catalog import (
    sqlite_batches,
    sqlite_file,
    sqlite_reads,
    sqlite_results,
    sqlite_schema,
)
from beamstream.store.catalog.documents import merged, same_json
from beamstream.store.catalog.interface import (
    Ack,
    Claim,
    DefineRun,
    DeleteGroup,
    DeleteStream,
    Expire,
    Finish,
    Mark,
    Meta,
    MetaMode,
    Op,
    Persist,
    Refused,
    Skip,
    State,
    Stored,
    Unit,
)
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.testing.catalog_ops import (
    BT,
    SOURCE,
    STREAM,
    batch,
    info,
    one,
    put,
    records,
    result,
    results,
    store,
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqliteCatalog]:
    catalog = SqliteCatalog(tmp_path)
    yield catalog
    catalog.close()


def database(folder: Path, beamtime: str = BT) -> Path:
    return folder / f"{beamtime}.db"


class SlowDisk:
    """Stands in for `fdatasync`: tells that it was called, and goes on when told to."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, _descriptor: int) -> None:
        self.began.set()
        assert self.go_on.wait(60)


def broken_disk(_descriptor: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


# ------------------------------------------------------------------------------- reopening


def test_everything_is_there_after_closing(tmp_path: Path) -> None:
    catalog = SqliteCatalog(tmp_path)
    store(catalog, 3, 1)
    one(catalog, put(1, stream="set", substream=1, expected=2), Stored)
    one(catalog, Ack("g", SOURCE, STREAM, ((1, 2),), (8,)), object)
    one(catalog, Claim("g", SOURCE, STREAM, "me", 1, 9, 9, 1, 50), object)
    before = (records(catalog), info(catalog), catalog.groups(BT, SOURCE, STREAM))
    catalog.close()
    assert database(tmp_path).with_name(f"{BT}.db-wal").stat().st_size == 0

    catalog = SqliteCatalog(tmp_path)
    assert (records(catalog), info(catalog), catalog.groups(BT, SOURCE, STREAM)) == before
    assert store(catalog, 0, 8)[1].seq == 4
    assert catalog.groups(BT, SOURCE, STREAM)[0].acked == ((1, 2), (4, 5))
    claim = Claim("g", SOURCE, STREAM, "you", 1, 9, 9, 10, 50)
    assert one(catalog, claim, object).ranges == ()  # type: ignore[attr-defined]
    one(catalog, put(1, stream="set", substream=2, expected=2), Stored)
    assert info(catalog, "set").ready_seq == 1
    catalog.close()


def test_a_killed_process_loses_nothing(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """What the kernel has after `apply` is what a process that is killed leaves."""
    store(catalog, *range(1, 50))
    after = tmp_path / "after"
    after.mkdir()
    for name in (f"{BT}.db", f"{BT}.db-wal"):
        shutil.copy(tmp_path / name, after / name)
    again = SqliteCatalog(after)
    assert records(again) == records(catalog)
    again.close()


def test_a_cut_log_is_a_prefix(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """Wherever a power cut ends the log, whole commits up to there are left, acks included."""
    for n in range(1, 12):
        counted = batch(3, stream="result", producer=b"p" * 16, sequence=3 * n - 2)
        catalog.apply(BT, [put(n), counted, Ack("g", SOURCE, STREAM, ((n, n + 1),))])
    log = (tmp_path / f"{BT}.db-wal").read_bytes()
    seen = set()
    for number, length in enumerate(range(0, len(log), 4120 * 3 + 1000)):
        cut = tmp_path / f"cut{number}"
        cut.mkdir()
        shutil.copy(database(tmp_path), database(cut))
        (cut / f"{BT}.db-wal").write_bytes(log[:length])
        again = SqliteCatalog(cut)
        stream = again.stream(BT, SOURCE, STREAM)
        count = stream.last_seq if stream else 0
        seen.add(count)
        assert len(again.items_by_seq(BT, 1, 0, 99)) == count
        assert len(again.items_by_seq(BT, 2, 0, 99)) == 3 * count
        assert again.producer_position(BT, SOURCE, "result", b"p" * 16) == 3 * count
        group = again.group(BT, "g", SOURCE, STREAM)
        assert (group.acked if group else ()) == (((1, count + 1),) if count else ())
        again.close()
    assert {0, 5} < seen


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    catalog = SqliteCatalog(tmp_path)
    store(catalog, 1)
    catalog.close()
    connection = apsw.Connection(str(database(tmp_path)))
    connection.pragma("user_version", sqlite_schema.VERSION + 1)
    connection.close()
    before = database(tmp_path).read_bytes()
    catalog = SqliteCatalog(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreTooNew, match="newer Beamstream"):
            catalog.apply(BT, [put(2)])
        with pytest.raises(StoreTooNew):
            catalog.stream(BT, SOURCE, STREAM)
    catalog.apply("other", [put(1)])
    catalog.close()
    assert database(tmp_path).read_bytes() == before


def test_an_older_store_is_migrated_in_one_step_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = SqliteCatalog(tmp_path)
    store(catalog, 1, 2)
    before = records(catalog)
    catalog.close()

    def add(connection: apsw.Connection) -> None:
        connection.execute("ALTER TABLE stream ADD COLUMN mood TEXT NOT NULL DEFAULT 'good'")

    def fail(connection: apsw.Connection) -> None:
        connection.execute("DROP TABLE message")
        raise apsw.FullError("the disk is full")

    known = sqlite_schema.MIGRATIONS
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*known, add, fail))
    monkeypatch.setattr(sqlite_schema, "VERSION", len(known) + 2)
    catalog = SqliteCatalog(tmp_path)
    with pytest.raises(NoSpace):
        catalog.apply(BT, [put(3)])
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*known, add))
    monkeypatch.setattr(sqlite_schema, "VERSION", len(known) + 1)
    assert records(catalog) == before
    store(catalog, 3)
    catalog.close()
    connection = apsw.Connection(str(database(tmp_path)))
    assert connection.pragma("user_version") == len(known) + 1
    assert connection.execute("SELECT mood FROM stream").get == "good"
    connection.close()


def test_other_files_are_not_taken_for_ours(tmp_path: Path) -> None:
    database(tmp_path).write_bytes(b"no database at all " * 500)
    connection = apsw.Connection(str(database(tmp_path, "foreign")))
    connection.execute("CREATE TABLE their (own)")
    connection.close()
    catalog = SqliteCatalog(tmp_path)
    for beamtime in (BT, "foreign"):
        with pytest.raises(Corrupt):
            catalog.apply(beamtime, [put(1)])
    for bad in ("../x", "a/b", "", ".hidden", "a" * 65, "auto"):
        with pytest.raises(BadName):
            catalog.apply(bad, [put(1)])
    catalog.close()


def test_reading_an_unknown_beamtime_makes_no_file(catalog: SqliteCatalog, tmp_path: Path) -> None:
    assert catalog.sources("nothing") == []
    catalog.sync("nothing")
    assert catalog.purge("nothing", 10) is False
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- the disk


def test_nothing_waits_for_a_sync(catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    store(catalog, 1)
    disk = SlowDisk()
    monkeypatch.setattr(os, "fdatasync", disk)
    thread = threading.Thread(target=catalog.sync, args=(BT,))
    thread.start()
    assert disk.began.wait(60)
    store(catalog, 2, 3)
    assert [record.id for record in records(catalog)] == [1, 2, 3]
    assert thread.is_alive()
    disk.go_on.set()
    thread.join()


def test_after_a_failed_sync_nothing_is_written_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = SqliteCatalog(tmp_path, files_open_max=1)
    store(catalog, 1, 2)
    catalog.sync(BT)
    before = database(tmp_path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken_disk)
        with pytest.raises(ReadOnly, match=BT):
            catalog.sync(BT)
    for _ in range(2):
        with pytest.raises(ReadOnly):
            catalog.sync(BT)
        with pytest.raises(ReadOnly):
            catalog.apply(BT, [put(3)])
        assert not catalog.checkpoint(BT)
        assert not catalog.restart_wal(BT)
        assert [record.id for record in records(catalog)] == [1, 2]
        # The second time round the file has been closed and opened again.
        catalog.apply("other", [put(1)])
    catalog.close()
    assert database(tmp_path).read_bytes() == before
    again = SqliteCatalog(tmp_path)
    assert [record.id for record in records(again)] == [1, 2]
    store(again, 3)
    again.close()


class WatchedDisk(apsw.VFS):
    """SQLite's way to the disk while the block lasts: counts its syncs, or lets them fail."""

    def __init__(self) -> None:
        super().__init__("watched", "unix", makedefault=True)
        self.syncs = 0
        self.broken = False

    def __enter__(self) -> WatchedDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> WatchedFile:
        return WatchedFile(self, name, flags)


class WatchedFile(apsw.VFSFile):
    def __init__(
        self, disk: WatchedDisk, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        super().__init__("unix", name, flags)
        self.disk = disk

    def xSync(self, flags: int) -> None:
        self.disk.syncs += 1
        if self.disk.broken:
            raise apsw.IOError("input/output error")
        super().xSync(flags)


def test_apply_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    with WatchedDisk() as disk:
        catalog = SqliteCatalog(tmp_path)
        store(catalog, 1)
        for n in range(2, 6):
            before = disk.syncs
            store(catalog, n)
            one(catalog, Ack("g", SOURCE, STREAM, ((n, n + 1),)), object)
            assert disk.syncs == before
            assert catalog.restart_wal(BT)
            assert disk.syncs > before
        catalog.close()


def test_a_checkpoint_that_cannot_sync_makes_the_beamtime_read_only(tmp_path: Path) -> None:
    with WatchedDisk() as disk:
        catalog = SqliteCatalog(tmp_path)
        store(catalog, 1, 2)
        disk.broken = True
        with pytest.raises(ReadOnly):
            catalog.checkpoint(BT)
        disk.broken = False
        with pytest.raises(ReadOnly):
            catalog.apply(BT, [put(3)])
        with pytest.raises(ReadOnly):
            catalog.sync(BT)
        assert [record.id for record in records(catalog)] == [1, 2]
        catalog.close()


def test_a_full_disk_refuses_the_whole_call(catalog: SqliteCatalog) -> None:
    store(catalog, 1)
    writer = catalog._open[BT].file.writer
    pages = writer.pragma("page_count")
    writer.pragma("max_page_count", pages)
    with pytest.raises(NoSpace) as caught:
        catalog.apply(BT, [put(n, meta=b'{"x":"%s"}' % (b"y" * 3000)) for n in range(2, 9)])
    assert caught.value.retryable
    assert [record.id for record in records(catalog)] == [1]
    writer.pragma("max_page_count", 2**30)
    assert store(catalog, 0)[0].seq == 2


def test_an_unexpected_error_leaves_nothing_behind(catalog: SqliteCatalog) -> None:
    store(catalog, 1)
    ops: list[Op] = [put(2), put(0, stream="new"), put(3, name="not unicode \ud800")]
    with pytest.raises(UnicodeEncodeError):
        catalog.apply(BT, ops)
    assert [record.id for record in records(catalog)] == [1]
    assert catalog.stream(BT, SOURCE, "new") is None
    assert [(s.seq, s.id) for s in store(catalog, 0, 7)] == [(2, 2), (3, 7)]
    assert store(catalog, 0, stream="new")[0].id == 1


def test_damage_is_an_error(tmp_path: Path) -> None:
    catalog = SqliteCatalog(tmp_path)
    store(catalog, *range(1, 2000))
    no = info(catalog).no
    catalog.close()
    with database(tmp_path).open("r+b") as file:
        for page in range(3, 60):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    catalog = SqliteCatalog(tmp_path)
    with pytest.raises(Corrupt, match="restore"):
        catalog.items_by_seq(BT, no, 0, 5000)
    with pytest.raises(Corrupt):
        catalog.apply(BT, [put(n) for n in range(1, 2000)])
    catalog.close()


# -------------------------------------------------------------------------------- the log


def test_checkpoints_run_beside_writers_and_readers(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """The log stays bounded: copied by a thread, begun anew when the owner holds still."""
    store(catalog, 1)
    no = info(catalog).no
    over = threading.Event()
    problems: list[BaseException] = []

    def maintain() -> None:
        try:
            while not over.is_set():
                catalog.checkpoint(BT)
                catalog.sync(BT)
        except BaseException as error:
            problems.append(error)

    def read() -> None:
        try:
            while not over.is_set():
                items = catalog.items_by_seq(BT, no, 1, 400)
                assert [item.seq for item in items] == list(range(1, len(items) + 1))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for work in (maintain, read)]
    for thread in threads:
        thread.start()
    limit = 400_000
    largest = restarts = 0
    for _ in range(300):
        store(catalog, 0, 0, 0)
        if catalog.wal_nbytes(BT) > limit:
            restarts += catalog.restart_wal(BT)
        largest = max(largest, catalog.wal_nbytes(BT))
    over.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert catalog.restart_wal(BT)
    assert catalog.wal_nbytes(BT) == 0
    store(catalog, 0)
    assert 0 < catalog.wal_nbytes(BT) < 100_000
    assert [record.seq for record in records(catalog)] == list(range(1, 300 * 3 + 3))


def test_a_log_begun_anew_is_read_after_a_kill(catalog: SqliteCatalog, tmp_path: Path) -> None:
    store(catalog, *range(1, 100))
    assert catalog.checkpoint(BT)
    assert catalog.restart_wal(BT)
    store(catalog, 100, 101)
    after = tmp_path / "after"
    after.mkdir()
    for name in (f"{BT}.db", f"{BT}.db-wal"):
        shutil.copy(tmp_path / name, after / name)
    again = SqliteCatalog(after)
    assert [record.id for record in records(again)] == list(range(1, 102))
    again.close()


def test_a_long_read_does_not_stop_writers(catalog: SqliteCatalog) -> None:
    store(catalog, 1)
    with catalog._open[BT].file.reader() as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM message").get == 1
        store(catalog, 2)
        assert not catalog.restart_wal(BT)
        assert db.execute("SELECT count(*) FROM message").get == 1
        db.execute("COMMIT")
    assert catalog.restart_wal(BT)


def test_no_operation_leaves_a_read_open(catalog: SqliteCatalog) -> None:
    """An answer that was not read to its end would keep the log from beginning anew."""
    counted = put(0, stream="counted", producer=b"p" * 16, sequence=1)
    ops: list[Op] = [
        put(1),
        put(1),
        put(1, size=5),
        Skip(SOURCE, STREAM, 5, 8, 1),
        Skip(SOURCE, STREAM, 5, 8, 1),
        put(6),
        put(1, stream="sets", substream=1, expected=2),
        put(1, stream="sets", substream=1, expected=2),
        put(1, stream="sets", substream=2, expected=3),
        batch(3, stream="many"),
        batch(3, 2, stream="many"),
        counted,
        counted,
        Ack("g", SOURCE, STREAM, ((1, 2),), (1, 6, 9)),
        Ack("g", SOURCE, STREAM, ((1, 2),), (1, 9), True),
        Claim("g", SOURCE, STREAM, "me", 1, 9, 1, 1, 2),
        Mark("g", SOURCE, STREAM, State.DONE, ((1, 3),), owner="you"),
        Meta(SOURCE, STREAM, MetaMode.INSERT, False, b"{}"),
        Meta(SOURCE, STREAM, MetaMode.INSERT, False, b"{}"),
        Meta(SOURCE, STREAM, MetaMode.REPLACE, False, b'{"a":1}'),
        Meta(SOURCE, STREAM, MetaMode.REPLACE, False, b'{"a":1}'),
        DefineRun(b"{}", 1),
        DefineRun(b"{}", 1),
        DefineRun(b"[]", 1),
        Unit((put(2), put(2, size=1))),
        *[result(3, stream="made")] * 2,
        *[results(1, 2, 3, 4, stream="made")] * 2,
        results(7, 6, stream="made", ids=(2, 1)),
        results(8, 9, stream="made", ids=(1, 8)),
        results(1, 2, stream="made", run=2),
        *[Skip(SOURCE, "made", 20, 22, 1, True)] * 2,
        batch(2, stream="made", ids=(19, 20)),
        Unit((result(2, stream="made"), Ack("g", SOURCE, STREAM, ((1, 2),)))),
        Finish(SOURCE, STREAM, 9, "", 1),
        Finish(SOURCE, STREAM, 9, "", 1),
        DeleteGroup("none"),
        DeleteGroup("g"),
        Expire(1),
        Persist(SOURCE, STREAM),
        DeleteStream(SOURCE, "none"),
        DeleteStream(SOURCE, STREAM),
    ]
    for op in ops:
        catalog.apply(BT, [op])
        assert catalog.restart_wal(BT), op


def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    catalog = SqliteCatalog(tmp_path, files_open_max=2)
    before = files_open()
    for round_ in range(2):
        for n in range(6):
            (result,) = catalog.apply(f"bt{n}", [put(0)])
            assert isinstance(result, Stored)
            assert result.seq == round_ + 1
            stream = catalog.stream(f"bt{n}", SOURCE, STREAM)
            assert stream is not None
            assert len(catalog.items_by_seq(f"bt{n}", stream.no, 0, 9)) == round_ + 1
    assert catalog.opened() == ["bt4", "bt5"]
    assert files_open() - before < 2 * 12
    catalog.close()
    assert files_open() <= before


# ------------------------------------------------------------------------------- deleting


def test_purge_removes_the_rows_a_few_at_a_time(catalog: SqliteCatalog) -> None:
    tables = [table for table, _ in sqlite_schema.STREAM_TABLES]

    def rows() -> int:
        with catalog._open[BT].file.reader() as db:
            return sum(db.execute(f"SELECT count(*) FROM {table}").get for table in tables)

    for stream in ("keep", "go"):
        for n in range(1, 40):
            one(catalog, put(n, stream=stream, substream=1, expected=1), Stored)
        one(catalog, Ack("g", SOURCE, stream, ((1, 4), (7, 9)), (90,)), object)
        one(catalog, Claim("g", SOURCE, stream, "me", 1, 99, 3, 1, 2), object)
        for n in range(3):
            op = put(
                40 + n,
                stream=stream,
                substream=1,
                expected=1,
                producer=b"p" * 16,
                sequence=2 * n + 1,
            )
            one(catalog, op, Stored)
        if stream == "keep":
            kept = rows()
    assert rows() == 2 * kept
    one(catalog, DeleteStream(SOURCE, "go"), object)
    assert rows() == 2 * kept
    left = rows()
    while catalog.purge(BT, 10):
        assert rows() >= left - 10
        left = rows()
    assert rows() == kept
    assert info(catalog, "keep").count == 42
    assert not catalog.purge(BT, 10)
    assert one(catalog, put(1, stream="go"), Stored).stream.no == 3


# ------------------------------------------------------------------------------- speed


RESULT_STATEMENTS = (
    sqlite_results._ONE,
    sqlite_results._ANY,
    sqlite_results._MANY,
    sqlite_batches._ANY_ID,
    sqlite_batches._ANY_SKIPPED,
)


def test_units_that_succeed_are_one_transaction_without_savepoints(
    catalog: SqliteCatalog,
) -> None:
    store(catalog, *range(1, 40), stream="in")
    statements: list[str] = []
    writer = catalog._open[BT]
    writer._db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: statements.append(event["sql"]))
    done = [Ack("g", SOURCE, "in", ((n, n + 1),)) for n in range(1, 41)]
    units = [Unit((result(n, 0, n), done[n - 1])) for n in range(1, 31)]
    catalog.apply(BT, units)
    assert not [sql for sql in statements if "SAVEPOINT" in sql]
    assert len([sql for sql in statements if sql.startswith("UPDATE stream")]) == 1
    assert info(catalog).count == 30
    # One that fails is undone alone, in a second go.
    clash = [result(n, 0, n if n < 36 else 1, size=n) for n in range(31, 40)]
    catalog.apply(BT, [Unit((op, done[op.input_seq - 1])) for op in clash])
    writer._db.trace_v2(0, None)
    assert len([sql for sql in statements if sql.startswith("SAVEPOINT")]) == 9
    assert info(catalog).count == 35
    group = catalog.group(BT, "g", SOURCE, "in")
    assert group is not None
    assert group.acked == ((1, 36),)


@pytest.mark.parametrize("statement", RESULT_STATEMENTS)
def test_what_is_known_of_results_and_ids_is_looked_up(
    catalog: SqliteCatalog, statement: str
) -> None:
    """The list of what is asked for is gone through, never the stream."""
    store(catalog, 1)
    values = (1,) * max(n for n in range(1, 7) if f"?{n}" in statement)
    db = catalog._open[BT].file.writer
    plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + statement, values)]
    assert [step for step in plan if "INDEX" in step or "PRIMARY KEY" in step]
    assert not [step for step in plan if "SCAN" in step and "json_each" not in step]
    assert not [step for step in plan if "B-TREE" in step]


@pytest.mark.parametrize("name", ["_BY_SEQ", "_BY_ID", "_LAST", "_LAST_DATASET", "_IDS"])
def test_no_read_scans_a_stream(catalog: SqliteCatalog, name: str) -> None:
    store(catalog, 1)
    with catalog._open[BT].file.reader() as db:
        sql = getattr(sqlite_reads, name)
        values = (1,) * max(n for n in (2, 3, 4) if f"?{n}" in sql)
        plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, values)]
    assert plan
    assert not [step for step in plan if "SCAN" in step or "TEMP B-TREE" in step]


# ------------------------------------------------------------------------------- documents

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)
objects = st.dictionaries(st.text(max_size=3), json_values, max_size=4)


def by_hand(old: object, new: object) -> object:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: by_hand(old.get(key), value) for key, value in new.items()}


@given(objects, objects, st.sampled_from([None, 2]))
def test_documents_are_merged_and_compared(
    old: dict[str, object], new: dict[str, object], indent: int | None
) -> None:
    import json

    a = json.dumps(old, indent=indent).encode()
    b = json.dumps(new, ensure_ascii=False).encode()
    result = merged(a, b)
    assert json.loads(result) == by_hand(old, new)
    assert same_json(a, json.dumps(old, sort_keys=True).encode())
    assert same_json(a, b) == (json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True))


def test_digits_survive_a_merge(catalog: SqliteCatalog) -> None:
    one(catalog, Meta(SOURCE, "", MetaMode.INSERT, False, b'{"a":{"x":1.10,"y":2e400}}'), object)
    one(catalog, Meta(SOURCE, "", MetaMode.UPDATE, False, b'{"a":{"z":9007199254740993}}'), object)
    merged_text = b'{"a":{"x":1.10,"y":2e400,"z":9007199254740993}}'
    assert catalog.meta(BT, SOURCE, "") == merged_text
    broken = Meta(SOURCE, "", MetaMode.UPDATE, False, b'{"a":[}')
    one(catalog, broken, Refused)
    assert catalog.meta(BT, SOURCE, "") == merged_text


def test_the_folder_is_synced_for_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(sqlite_file, "sync_folder", synced.append)
    catalog = SqliteCatalog(tmp_path)
    catalog.apply(BT, [put(1)])
    catalog.apply(BT, [put(2)])
    assert synced == [tmp_path]
    catalog.close()
