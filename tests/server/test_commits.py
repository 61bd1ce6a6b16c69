"""Group commit over a real catalog and a real event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from beamstream import limits
from beamstream.errors import Error, NoSpace, ReadOnly, StorageError
from beamstream.server.commits import Commits, Maintenance
from beamstream.store import catalog as ops
from beamstream.store.catalog import Op, Result
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.store.files import OpenFolder, RootFolder

BT = "bt1"


def put(id: int, stream: str = "s", size: int = 3) -> ops.Put:
    return ops.Put(
        "det", stream, id, f"f{id}", size, bytes(16), b"{}", 1000, 1000, mode=13, level=2, place=2
    )  # fmt: skip


class Disk(SqliteCatalog):
    """The real catalog; the test decides when a disk is slow and when it fails."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.may_apply = threading.Event()
        self.may_apply.set()
        self.syncing = threading.Event()
        self.applying = threading.Event()
        self.fault: BaseException | None = None
        self.sync_fault: BaseException | None = None
        self.loop_thread = threading.get_ident()

    def apply(self, beamtime: str, ops: Sequence[Op]) -> list[Result]:
        if self.fault is not None:
            raise self.fault
        if threading.get_ident() != self.loop_thread:
            self.applying.set()
            assert self.may_apply.wait(30)
        return super().apply(beamtime, ops)

    def sync(self, beamtime: str) -> None:
        self.syncing.set()
        assert self.may_sync.wait(30)
        if self.sync_fault is not None:
            raise self.sync_fault
        super().sync(beamtime)


class Bench:
    """Commits on a running loop, and what they answered."""

    def __init__(self, disk: Disk, behind: Callable[[str], list[Op]]) -> None:
        self.disk = disk
        self.loop = asyncio.get_running_loop()
        self.commits = Commits(disk, self.loop, behind)
        self.order: list[str] = []

    def submit(
        self, *batch: Op, name: str = "", synced: bool = False, folders: Sequence[OpenFolder] = ()
    ) -> asyncio.Future[Sequence[Result] | Error]:
        answer: asyncio.Future[Sequence[Result] | Error] = self.loop.create_future()

        def done(outcome: Sequence[Result] | Error) -> None:
            self.order.append(name)
            answer.set_result(outcome)

        if synced:
            self.commits.submit_synced(BT, batch, done, folders)
        else:
            self.commits.submit(BT, batch, done)
        return answer

    async def event(self, event: threading.Event) -> None:
        assert await asyncio.to_thread(event.wait, 30)


def run(
    folder: Path,
    test: Callable[[Bench], Awaitable[None]],
    behind: Callable[[str], list[Op]] = lambda beamtime: [],
) -> None:
    async def main() -> None:
        bench = Bench(disk, behind)
        try:
            async with asyncio.timeout(60):
                await test(bench)
        finally:
            disk.may_sync.set()
            disk.may_apply.set()
            bench.commits.close()

    disk = Disk(folder)
    try:
        asyncio.run(main())
    finally:
        disk.close()


def stored(outcome: Sequence[Result] | Error) -> list[tuple[int, int]]:
    """(seq, id) of puts that were recorded."""
    assert not isinstance(outcome, Error), outcome
    found = []
    for result in outcome:
        assert isinstance(result, ops.Stored), result
        found.append((result.seq, result.id))
    return found


def test_what_comes_in_one_turn_of_the_loop_is_one_transaction(tmp_path: Path) -> None:
    calls: list[int] = []

    async def test(bench: Bench) -> None:
        apply = bench.disk.apply

        def counted(beamtime: str, ops: Sequence[Op]) -> list[Result]:
            calls.append(len(ops))
            return apply(beamtime, ops)

        bench.disk.apply = counted  # type: ignore[method-assign]
        answers = [bench.submit(put(id), put(id + 100, "t")) for id in range(1, 11)]
        assert not any(answer.done() for answer in answers)
        found = [stored(await answer) for answer in answers]
        assert found == [[(n, n), (n, n + 100)] for n in range(1, 11)]
        assert calls == [20]

    run(tmp_path, test)


def test_what_needs_no_disk_is_answered_while_the_disk_is_slow(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.disk.may_sync.clear()
        slow = bench.submit(put(1), synced=True)
        await bench.event(bench.disk.syncing)
        for id in range(2, 30):
            assert stored(await bench.submit(put(id))) == [(id, id)]
        assert not slow.done()
        bench.disk.may_sync.set()
        assert stored(await slow) == [(1, 1)]

    run(tmp_path, test)


def test_the_loop_never_waits_for_the_thread_that_has_the_catalog(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.disk.may_apply.clear()
        slow = bench.submit(put(1), name="synced", synced=True)
        await bench.event(bench.disk.applying)
        quick = [bench.submit(put(id), name=f"quick{id}") for id in range(2, 5)]
        turns = 0
        while turns < 50:
            await asyncio.sleep(0)
            turns += 1
        assert not any(answer.done() for answer in quick)
        bench.disk.may_apply.set()
        assert [stored(await answer) for answer in quick] == [[(id, id)] for id in range(2, 5)]
        assert stored(await slow) == [(1, 1)]

    run(tmp_path, test)


def test_synced_batches_that_come_meanwhile_share_the_next_sync(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        syncs: list[int] = []
        sync = bench.disk.sync

        def counted(beamtime: str) -> None:
            syncs.append(1)
            sync(beamtime)

        bench.disk.sync = counted  # type: ignore[method-assign]
        bench.disk.may_sync.clear()
        first = bench.submit(put(1), synced=True)
        await bench.event(bench.disk.syncing)
        rest = [bench.submit(put(id), synced=True) for id in range(2, 40)]
        bench.disk.may_sync.set()
        assert stored(await first) == [(1, 1)]
        assert [stored(await answer) for answer in rest] == [[(id, id)] for id in range(2, 40)]
        assert len(syncs) == 2

    run(tmp_path, test)


def test_a_refused_operation_stops_nobody_elses(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        good, bad, late = bench.submit(put(1)), bench.submit(put(1, size=4)), bench.submit(put(2))
        assert stored(await good) == [(1, 1)]
        outcome = await bad
        assert not isinstance(outcome, Error)
        assert isinstance(outcome[0], ops.Conflicted)
        assert stored(await late) == [(2, 2)]

    run(tmp_path, test)


def test_a_sync_that_fails_is_told_and_nothing_is_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: Bench) -> None:
        assert stored(await bench.submit(put(1), synced=True)) == [(1, 1)]

        def fails(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("os.fdatasync", fails)
        bench.disk.may_sync.clear()
        bench.disk.syncing.clear()
        needs = bench.submit(put(2), synced=True)
        await bench.event(bench.disk.syncing)
        assert stored(await bench.submit(put(3))) == [(3, 3)]
        bench.disk.may_sync.set()
        assert isinstance(await needs, ReadOnly)
        monkeypatch.undo()
        for synced in (False, True):
            assert isinstance(await bench.submit(put(4), synced=synced), ReadOnly)

    run(tmp_path, test)


@pytest.mark.parametrize("synced", [False, True])
def test_a_full_disk_is_told_to_all_of_the_transaction(tmp_path: Path, synced: bool) -> None:
    async def test(bench: Bench) -> None:
        bench.disk.fault = NoSpace("no space left for records")
        answers = [bench.submit(put(id), synced=synced) for id in (1, 2)]
        assert [await answer for answer in answers] == [bench.disk.fault] * 2
        bench.disk.fault = None
        assert stored(await bench.submit(put(1), synced=synced)) == [(1, 1)]

    run(tmp_path, test)


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("where", ["fault", "sync_fault"])
def test_whatever_goes_wrong_everybody_gets_an_answer(
    tmp_path: Path, synced: bool, where: str
) -> None:
    async def test(bench: Bench) -> None:
        setattr(bench.disk, where, ZeroDivisionError("a fault of ours"))
        answers = [bench.submit(put(id), synced=synced) for id in (1, 2)]
        outcomes = [await answer for answer in answers]
        if synced or where == "fault":
            assert [type(outcome) for outcome in outcomes] == [StorageError] * 2
        setattr(bench.disk, where, None)
        assert len(stored(await bench.submit(put(3), synced=synced))) == 1

    run(tmp_path, test)


def test_an_answer_that_fails_does_not_cost_the_others_theirs(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        def breaks(outcome: object) -> None:
            raise ZeroDivisionError

        bench.commits.submit(BT, [put(1)], breaks)
        assert stored(await bench.submit(put(2))) == [(2, 2)]

    run(tmp_path, test)


def test_positions_go_with_the_commits_of_the_loop(tmp_path: Path) -> None:
    mark = ops.Mark("g", "det", "s", ops.State.DONE, ((1, 2),), id_position=1)
    waiting: dict[str, list[Op]] = {BT: [mark]}

    async def test(bench: Bench) -> None:
        assert len(stored(await bench.submit(put(1)))) == 1
        state = bench.disk.group(BT, "g", "det", "s")
        assert state is not None
        assert (state.done, state.id_position) == (((1, 2),), 1)
        assert waiting == {}

    run(tmp_path, test, lambda beamtime: waiting.pop(beamtime, []))


def test_flush_applies_at_once_and_close_finishes_everything(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        flushed = bench.submit(put(1))
        bench.commits.flush()
        assert stored(flushed.result()) == [(1, 1)]
        bench.disk.may_sync.clear()
        waiting = [bench.submit(put(id), synced=True) for id in range(2, 20)]
        await bench.event(bench.disk.syncing)
        waiting += [bench.submit(put(id), synced=True) for id in range(20, 30)]
        waiting.append(bench.submit(put(30)))
        bench.disk.may_sync.set()
        bench.commits.close()
        assert all([len(stored(await answer)) == 1 for answer in waiting])
        info = bench.disk.stream(BT, "det", "s")
        assert info is not None
        assert info.last_seq == 30

    run(tmp_path, test)


def test_folders_are_synced_once_before_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = RootFolder(tmp_path / "files")
    folder = root.folder("raw", sync=False)
    synced: list[int] = []
    broken: list[OSError] = []

    def fsync(fd: int) -> None:
        synced.append(fd)
        if broken:
            raise broken[0]

    async def test(bench: Bench) -> None:
        assert len(stored(await bench.submit(put(1), synced=True))) == 1
        monkeypatch.setattr("os.fsync", fsync)
        bench.disk.may_sync.clear()
        bench.disk.syncing.clear()
        first = bench.submit(put(2), synced=True)
        await bench.event(bench.disk.syncing)
        rest = [bench.submit(put(id), synced=True, folders=[folder]) for id in range(3, 9)]
        bench.disk.may_sync.set()
        assert all([len(stored(await answer)) == 1 for answer in [first, *rest]])
        assert synced == [folder.fd]
        broken.append(OSError(5, "Input/output error"))
        bad = bench.submit(put(10), synced=True, folders=[folder])
        assert isinstance(await bad, StorageError)
        assert bench.disk.items_by_id(BT, 1, 10, 11, 1) == []
        monkeypatch.undo()

    try:
        run(tmp_path, test)
    finally:
        root.close()


def test_upkeep_keeps_the_log_short_beside_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WAL_CHECKPOINT_NBYTES", 100 * limits.KIB)
    monkeypatch.setattr(limits, "WAL_RESTART_NBYTES", 200 * limits.KIB)

    async def test(bench: Bench) -> None:
        maintenance = Maintenance(bench.disk, bench.commits, period_s=3600)
        try:
            highest = id = 0
            for _ in range(40):
                answers = [bench.submit(put(id := id + 1)) for _ in range(100)]
                assert all([len(stored(await answer)) == 1 for answer in answers])
                maintenance.look_after(BT, 1e9)
                between: asyncio.Future[Any] = bench.loop.create_future()
                tell = partial(bench.loop.call_soon_threadsafe, between.set_result, None)
                bench.commits.between(tell)
                await between
                highest = max(highest, bench.disk.wal_nbytes(BT))
            assert highest < 600 * limits.KIB
            info = bench.disk.stream(BT, "det", "s")
            assert info is not None
            assert info.last_seq == 4000
        finally:
            maintenance.close()

    run(tmp_path, test)


def test_upkeep_that_fails_stops_neither_thread(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        for fault in (StorageError("no"), ZeroDivisionError("a fault of ours")):

            def chore(fault: Exception = fault) -> None:
                raise fault

            bench.commits.between(chore)
        assert len(stored(await bench.submit(put(1), synced=True))) == 1

        rounds = threading.Semaphore(0)

        class Broken(Maintenance):
            def look_after(self, beamtime: str, now: float) -> None:
                rounds.release()
                raise ZeroDivisionError

        maintenance = Broken(bench.disk, bench.commits, period_s=0.001)
        try:
            for _ in range(3):
                assert await asyncio.to_thread(rounds.acquire, timeout=30)
        finally:
            maintenance.close()

    run(tmp_path, test)
