from __future__ import annotations

import itertools
import json
import threading
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from beamstream.errors import IdConflict
from beamstream.model import Record, Run
from beamstream.store.catalog.interface import (
    Ack,
    AlreadyAcked,
    Catalog,
    Claim,
    Conflicted,
    DefineRun,
    DeleteStream,
    Done,
    Duplicate,
    Finish,
    Mark,
    Meta,
    MetaMode,
    Op,
    Put,
    PutMany,
    Result,
    Skip,
    Stored,
    StoredMany,
    Unit,
)
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.store.catalog.sqlite_batches import Batches
from beamstream.store.catalog.sqlite_groups import Groups
from beamstream.store.catalog.sqlite_producers import Producers, Runs
from beamstream.store.catalog.sqlite_results import Results
from beamstream.store.catalog.sqlite_streams import Streams
from beamstream.store.catalog.sqlite_writer import Writer
from beamstream.testing.catalog import CatalogTests, failures
from beamstream.testing.catalog_ops import BT, put
from beamstream.testing.memory_catalog import MemoryCatalog
from beamstream.testing.memory_state import Beamtime
from beamstream.testing.memory_streams import Entry, Stream


class ThatReopens(SqliteCatalog):
    def reopen(self) -> None:
        """Files that are closed are opened when they are asked for."""
        self.close()


def sqlite_maker(folder: Path) -> Callable[[], Catalog]:
    numbers = itertools.count()

    def make() -> Catalog:
        own = folder / f"catalog{next(numbers)}"
        own.mkdir()
        return ThatReopens(own)

    return make


class TestSqlite(CatalogTests):
    @pytest.fixture
    def make_catalog(self, tmp_path: Path) -> Callable[[], Catalog]:
        return sqlite_maker(tmp_path)


class TestMemory(CatalogTests):
    @pytest.fixture
    def make_catalog(self) -> Callable[[], Catalog]:
        return MemoryCatalog


def test_several_threads_may_write_to_memory() -> None:
    catalog = MemoryCatalog()
    start = threading.Barrier(3)
    seen: list[Result] = []

    def write() -> None:
        start.wait()
        for _ in range(30):
            seen.extend(catalog.apply(BT, [put(0), put(0)]))

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = sorted((result.seq, result.id) for result in seen if isinstance(result, Stored))
    assert numbers == [(n, n) for n in range(1, 181)]


# ------------------------------------------------------- mistakes that the suite must find


class SeqBeforeCommit(MemoryCatalog):
    """Numbers are reserved when writing starts."""

    def __init__(self) -> None:
        super().__init__()
        self.reserved = 0

    def begin(self, beamtime: str, ops: Sequence[Op]) -> Callable[[], list[Result]]:
        first = self.reserved + 1
        self.reserved += len(ops)

        def commit() -> list[Result]:
            results: list[Result] = []
            for seq, result in enumerate(self.apply(beamtime, ops), first):
                assert isinstance(result, Stored)
                stream = self._stream(beamtime, result.stream.no)
                entry = stream.at(result.id)
                assert entry
                entry.seq = seq
                entry.records[0] = replace(entry.records[0], seq=seq)
                results.append(replace(result, seq=seq))
            return results

        return commit


class IdBeforeCommit(MemoryCatalog):
    """Automatic ids are taken when writing starts."""

    def begin(self, beamtime: str, ops: Sequence[Op]) -> Callable[[], list[Result]]:
        there = self.stream(beamtime, "det", "scan1")
        first = there.max_id + 1 if there else 1
        numbered = [replace(op, id=first + n) for n, op in enumerate(ops)]
        return super().begin(beamtime, numbered)


def wrong(state: type[Beamtime]) -> type[MemoryCatalog]:
    return type(f"Memory{state.__name__}", (MemoryCatalog,), {"state": state})


class AutoIdFromACounter(Beamtime):
    def put(self, op: Put) -> Result:
        if op.id == 0 and not op.substream:
            counters = self.__dict__.setdefault("counters", {})
            key = (op.source, op.stream)
            counters[key] = counters.get(key, 0) + 1
            op = replace(op, id=counters[key])
        return super().put(op)


class DuplicateIgnoresMetadata(Beamtime):
    def same(self, record: Record, op: Put) -> bool:
        return super().same(record, replace(op, meta=record.meta))


class DuplicateIgnoresContent(Beamtime):
    def same(self, record: Record, op: Put) -> bool:
        return super().same(record, replace(op, digest=record.digest))


class ConflictOverwrites(Beamtime):
    def put(self, op: Put) -> Result:
        result = super().put(op)
        stream = self.streams.get((op.source, op.stream))
        entry = stream.at(op.id) if stream else None
        if isinstance(result, Conflicted) and entry and op.substream in entry.records:
            entry.records[op.substream] = self.record(op, entry.seq, op.id)
        return result


class UnitHalfApplied(Beamtime):
    def unit(self, op: Unit) -> Result:
        return tuple(self.do(part) for part in op.ops)


class DeleteByPrefix(Beamtime):
    def deletestream(self, op: DeleteStream) -> Result:
        result = super().deletestream(op)
        for source, name in list(self.streams):
            if source == op.source and name.startswith(op.stream):
                del self.streams[source, name]
        return result


class NumbersUsedTwice(Beamtime):
    def deletestream(self, op: DeleteStream) -> Result:
        result = super().deletestream(op)
        self.next_no = max((stream.no for stream in self.streams.values()), default=0) + 1
        return result


class Joined(dict[Any, Any]):
    def spelled(self, key: tuple[str, str]) -> str:
        return "_".join(key)

    def short(self, key: Any) -> str:
        return key if isinstance(key, str) else self.spelled(key)

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(self.short(key))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.short(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(self.short(key), value)

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(self.short(key), default)

    def pop(self, key: Any, *default: Any) -> Any:
        return super().pop(self.short(key), *default)


class Folded(Joined):
    def spelled(self, key: tuple[str, str]) -> str:
        return "\0".join(key).casefold()


class Normalised(Joined):
    def spelled(self, key: tuple[str, str]) -> str:
        return unicodedata.normalize("NFC", "\0".join(key))


class JoinedNames(Beamtime):
    names: type[Joined] = Joined

    def __init__(self) -> None:
        super().__init__()
        self.streams = self.names()
        self.metas = self.names()


class NamesWithoutCase(JoinedNames):
    names = Folded


class NamesNormalised(JoinedNames):
    names = Normalised


class MarkOverAck(Beamtime):
    def mark(self, op: Mark) -> Result:
        result = super().mark(op)
        if isinstance(result, Done):
            group = self.streams[op.source, op.stream].groups[op.group]
            group.become(op.ranges, op.state)
        return result


class MarkWithoutClaim(Beamtime):
    def mark(self, op: Mark) -> Result:
        return super().mark(replace(op, owner=""))


class ClaimsNeverExpire(Beamtime):
    def claim(self, op: Claim) -> Result:
        return super().claim(replace(op, now_ns=0))


class ClaimsShared(Beamtime):
    def claim(self, op: Claim) -> Result:
        return super().claim(replace(op, owner="everybody"))


class IdsBeyondTheEnd(Beamtime):
    def put(self, op: Put) -> Result:
        stream = self.streams.get((op.source, op.stream))
        end = stream.finish if stream else None
        if stream:
            stream.finish = None
        try:
            return super().put(op)
        finally:
            if stream:
                stream.finish = end


class FinishAgainChangesIt(Beamtime):
    def finish(self, op: Finish) -> Result:
        self.made(op.source, op.stream).finish = None
        return super().finish(op)


class StrictAckHalfDone(Beamtime):
    def ack(self, op: Ack) -> Result:
        result = super().ack(op)
        if isinstance(result, AlreadyAcked):
            super().ack(replace(op, strict=False))
        return result


class EarlyAcksForgotten(Beamtime):
    def arrived(self, stream: Stream, entry: Entry) -> None:
        pass


class ShallowUpdate(Beamtime):
    def meta(self, op: Meta) -> Result:
        versions = self.metas.get((op.source, op.stream))
        old = versions[-1][0] if versions else {}
        result = super().meta(op)
        if op.mode is MetaMode.UPDATE and old:
            self.metas[op.source, op.stream][-1] = (old | json.loads(op.document), op.changed_ns)
        return result


class SkipsWithoutSeqs(Beamtime):
    def skip(self, op: Skip) -> Result:
        return super().skip(replace(op, hi=min(op.hi, op.lo + 1)))


class ForgetsProducers(MemoryCatalog):
    """Counts in memory only: what is sent again after reopening is stored twice."""

    def reopen(self) -> None:
        for state in self._beamtimes.values():
            for stream in state.streams.values():
                stream.sent.clear()


class SentAgainWithNewIds(Beamtime):
    def putmany(self, op: PutMany) -> Result:
        result = super().putmany(op)
        if isinstance(result, StoredMany) and result.duplicates and not op.id and not op.ids:
            return replace(result, id=result.stream.max_id + 1, ids=None)
        return result


class CountsOverAllStreams(Beamtime):
    def putmany(self, op: PutMany) -> Result:
        for stream in self.streams.values():
            self.made(op.source, op.stream).sent.update(stream.sent)
        return super().putmany(op)


class BatchStopsAtAConflict(Beamtime):
    def putmany(self, op: PutMany) -> Result:
        results = self.unit(Unit(tuple(self.one_of(op, n) for n in range(len(op.sizes)))))
        assert isinstance(results, tuple)
        return next((r for r in results if isinstance(r, Conflicted)), super().putmany(op))


class PositionsForgotten(Beamtime):
    def one_of(self, op: PutMany, index: int) -> Put:
        return replace(super().one_of(op, index), position=op.position)


class ResultsKnownByTheirId(Beamtime):
    def made_before(self, there: Stream, op: Put) -> Result | None:
        return None


class ResultsOfAllRunsAreOne(Beamtime):
    def same_result(self, record: Record, op: Put) -> bool:
        return super().same_result(replace(record, run=op.run), op)


class OneResultOfAnInput(Beamtime):
    def same_result(self, record: Record, op: Put) -> bool:
        k = op.result_k if record.result_k >= 0 else -1
        return super().same_result(replace(record, result_k=k), op)


class ResultsConflictByContent(Beamtime):
    def made_before(self, there: Stream, op: Put) -> Result | None:
        found = super().made_before(there, op)
        assert found is None or isinstance(found, Duplicate)
        if found and found.record and not self.same_payload(found.record, op):
            return Conflicted(IdConflict("another result"))
        return found


class CopiesAreResults(Beamtime):
    def made_before(self, there: Stream, op: Put) -> Result | None:
        return super().made_before(there, replace(op, result_k=max(op.result_k, 0)))

    def record(self, op: Put, seq: int, ident: int) -> Record:
        k = max(op.result_k, 0) if op.input_seq else op.result_k
        return super().record(replace(op, result_k=k), seq, ident)


class SkipsAgainWithHoles(Beamtime):
    def skip(self, op: Skip) -> Result:
        there = self.streams.get((op.source, op.stream))
        skips = [entry for entry in there.entries if entry.skipped] if there else []
        if there and op.again and any(skip.lo < op.hi and op.lo < skip.hi for skip in skips):
            return Duplicate(there.info(), op.hi - 1)
        return super().skip(op)


class EveryWriteIsAVersion(Beamtime):
    def meta(self, op: Meta) -> Result:
        before = len(self.metas.get((op.source, op.stream), ()))
        result = super().meta(op)
        if isinstance(result, Done) and len(self.metas[op.source, op.stream]) == before:
            self.metas[op.source, op.stream].append((json.loads(op.document), op.changed_ns))
        return result


class EveryRunIsNew(Beamtime):
    def definerun(self, op: DefineRun) -> Result:
        known, self.runs = self.runs, []
        result = super().definerun(op)
        self.runs = known
        if isinstance(result, Run):
            result = replace(result, no=len(known) + 1)
            known.append(result)
        return result


MISTAKES: list[tuple[str, type[MemoryCatalog]]] = [
    ("seq_follows_the_order_of_commits", SeqBeforeCommit),
    ("seq_follows_the_order_of_commits", IdBeforeCommit),
    ("automatic_ids_are_the_largest_plus_one", wrong(AutoIdFromACounter)),
    ("every_difference_is_a_conflict", wrong(DuplicateIgnoresMetadata)),
    ("every_difference_is_a_conflict", wrong(DuplicateIgnoresContent)),
    ("parts_that_do_not_fit_are_conflicts", wrong(ConflictOverwrites)),
    ("a_unit_stands_or_falls_together", wrong(UnitHalfApplied)),
    ("deleting_touches_no_other_stream", wrong(DeleteByPrefix)),
    ("numbers_are_never_used_twice", wrong(NumbersUsedTwice)),
    ("different_names_never_meet", wrong(JoinedNames)),
    ("different_names_never_meet", wrong(NamesWithoutCase)),
    ("different_names_never_meet", wrong(NamesNormalised)),
    ("marks_keep_what_is_stronger", wrong(MarkOverAck)),
    ("marks_need_the_claim_of_their_owner", wrong(MarkWithoutClaim)),
    ("a_claim_ends_with_its_time", wrong(ClaimsNeverExpire)),
    ("two_owners_share_nothing", wrong(ClaimsShared)),
    ("ids_up_to_the_last_are_taken_after_the_end", wrong(IdsBeyondTheEnd)),
    ("finish", wrong(FinishAgainChangesIt)),
    ("a_strict_ack_is_refused_the_second_time", wrong(StrictAckHalfDone)),
    ("early_acks_turn_into_acks", wrong(EarlyAcksForgotten)),
    ("an_update_merges_deeply", wrong(ShallowUpdate)),
    ("skips_take_seqs_and_are_passed_over", wrong(SkipsWithoutSeqs)),
    ("a_batch_sent_again_has_the_ids_it_got", ForgetsProducers),
    ("a_batch_sent_again_has_the_ids_it_got", wrong(SentAgainWithNewIds)),
    ("each_stream_and_producer_counts_alone", wrong(CountsOverAllStreams)),
    ("what_was_there_is_told_from_what_is_new", wrong(BatchStopsAtAConflict)),
    ("a_batch_is_as_many_puts", wrong(PositionsForgotten)),
    ("a_result_is_there_once", wrong(ResultsKnownByTheirId)),
    ("results_as_in_memory", wrong(ResultsKnownByTheirId)),
    ("several_runs_share_a_stream", wrong(ResultsOfAllRunsAreOne)),
    ("results_as_in_memory", wrong(ResultsOfAllRunsAreOne)),
    ("another_result_is_another", wrong(OneResultOfAnInput)),
    ("a_batch_made_again_is_stored_once", wrong(ResultsConflictByContent)),
    ("what_shares_a_payload_is_no_result", wrong(CopiesAreResults)),
    ("a_skip_may_be_said_again", wrong(SkipsAgainWithHoles)),
    ("writing_what_is_there_is_no_version", wrong(EveryWriteIsAVersion)),
    ("the_same_document_is_the_same_run", wrong(EveryRunIsNew)),
]


@pytest.mark.parametrize(("test", "mistake"), MISTAKES, ids=[m[1].__name__ for m in MISTAKES])
def test_the_suite_finds(test: str, mistake: type[MemoryCatalog]) -> None:
    assert failures(mistake, [f"test_{test}"])


def test_the_suite_finds_nothing_wrong_with_either_catalog(tmp_path: Path) -> None:
    """By the same machinery that finds the mistakes."""
    assert failures(MemoryCatalog) == []
    assert failures(sqlite_maker(tmp_path)) == []


def nothing(*_: object) -> None:
    pass


def with_jokers(self: Streams, op: DeleteStream) -> Result:
    self._db.execute("UPDATE stream SET dead = no WHERE name LIKE ?", (f"{op.stream}%",))
    return DELETE(self, op)


DELETE = Streams.delete


def half(self: Writer, op: Unit) -> Result:
    return tuple([self._do[type(part)](part) for part in op.ops])


SQLITE_MISTAKES: list[tuple[str, type, str, Callable[..., Any]]] = [
    ("a_unit_stands_or_falls_together", Streams, "forget", nothing),
    ("a_fallen_unit_leaves_its_neighbours", Writer, "_unit", half),
    ("a_record_comes_back_as_it_was_put", Streams, "flush", nothing),
    ("deleting_touches_no_other_stream", Streams, "delete", with_jokers),
    ("a_skipped_id_never_comes", Streams, "skipped", nothing),
    ("early_acks_turn_into_acks", Groups, "arrived", nothing),
    ("marks_carry_position_and_counts", Groups, "_drop_counts", nothing),
    ("two_owners_share_nothing", Groups, "_replace_claims", nothing),
    ("a_strict_ack_is_refused_the_second_time", Groups, "_any_acked", nothing),
    ("a_batch_sent_again_has_the_ids_it_got", Producers, "write_back", nothing),
    ("a_batch_sent_again_has_the_ids_it_got", Runs, "id_of", nothing),
    ("a_fallen_unit_counts_nothing", Producers, "forget", nothing),
    ("producers_expire", Producers, "expire", nothing),
    ("a_group_is_forgotten", Groups, "_forget", nothing),
    ("the_last_use_counts", Groups, "forget", nothing),
    ("the_last_use_counts", Groups, "write_back", nothing),
    ("a_result_is_there_once", Results, "find", nothing),
    ("a_batch_made_again_is_stored_once", Results, "any_known", nothing),
    ("several_runs_share_a_stream", Results, "any_known", nothing),
    ("ids_between_are_looked_up", Batches, "_any_there", nothing),
    ("a_skip_may_be_said_again", Streams, "_all_skipped", nothing),
]


@pytest.mark.parametrize(
    ("test", "owner", "name", "instead"), SQLITE_MISTAKES, ids=[m[2] for m in SQLITE_MISTAKES]
)
def test_the_suite_finds_a_broken_part_of_sqlite(
    test: str,
    owner: type,
    name: str,
    instead: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, name, instead)
    assert failures(sqlite_maker(tmp_path), [f"test_{test}"])
