"""Deliveries over a real catalog: what is handed out, written behind, and found at a start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from beamstream import limits
from beamstream.errors import AlreadyAcknowledged, BadInput, Error, TooMany
from beamstream.model import Dataset, Item, Record, Who
from beamstream.server.commits import Commits
from beamstream.server.delivery import Deliveries, Found, Nothing, Want
from beamstream.server.groups import Terms
from beamstream.server.stats import Stats
from beamstream.server.streams import Streams, View
from beamstream.store import catalog as ops
from beamstream.store.catalog import GroupState
from beamstream.store.catalog.sqlite import SqliteCatalog

BT, SOURCE, STREAM, GROUP = "bt1", "det", "scan1", "g"
NOBODY = Who()


def put(id: int, substream: int = 0, expected: int = 0) -> ops.Put:
    return ops.Put(
        SOURCE, STREAM, id, f"f{id}", 3, bytes(16), b"{}", 1000, 1000, mode=13, level=2, place=2,
        substream=substream, expected=expected,
    )  # fmt: skip


class Desk:
    """Deliveries as a node has them; `restart` is a crash and a start."""

    def __init__(self, folder: Path, *batch: ops.Op) -> None:
        self.folder = folder
        self.now = 1000.0
        self.catalog = SqliteCatalog(folder)
        if batch:
            self.catalog.apply(BT, batch)
        self.start()

    def start(self) -> None:
        self.streams = Streams(self.catalog)
        self.stats = Stats()
        self.commits = Commits(self.catalog, asyncio.get_running_loop(), self.marks)
        self.deliveries = Deliveries(
            self.catalog, self.streams, self.commits, self.stats, syncs=True, clock=lambda: self.now
        )

    def marks(self, beamtime: str) -> list[ops.Op]:
        return self.deliveries.write_behind(beamtime)

    def restart(self) -> None:
        self.commits.close()
        self.catalog.close()
        self.catalog = SqliteCatalog(self.folder)
        self.start()

    @property
    def view(self) -> View:
        return self.streams.view(BT, SOURCE, STREAM)

    def next(self, terms: Terms | None = None, by_id: bool = False) -> int | None:
        found = self.found(terms, by_id)
        return found.item.id if isinstance(found, Found) else None

    def found(self, terms: Terms | None = None, by_id: bool = False) -> Found | Nothing:
        want = Want() if self.view.datasets else None
        return self.deliveries.next(self.view, GROUP, by_id=by_id, terms=terms, want=want)

    def write_behind(self) -> None:
        self.now += 1
        self.commits.submit(BT, (), lambda outcome: None)
        self.commits.flush()

    def state(self) -> GroupState:
        state = self.catalog.group(BT, GROUP, SOURCE, STREAM)
        assert state is not None
        return state

    async def safe(self, call: Callable[..., None], *arguments: object) -> Error | None:
        """The answer of something that is answered when it is safe."""
        answer: asyncio.Future[Error | None] = asyncio.get_running_loop().create_future()
        call(self.view, GROUP, *arguments, answer.set_result)
        return await answer

    def close(self) -> None:
        self.commits.close()
        self.catalog.close()


def run(folder: Path, test: Callable[[Desk], object], *batch: ops.Op) -> None:
    async def main() -> None:
        desk = Desk(folder, *batch)
        try:
            async with asyncio.timeout(60):
                outcome = test(desk)
                if asyncio.iscoroutine(outcome):
                    await outcome
        finally:
            desk.close()

    asyncio.run(main())


FIVE = [put(id) for id in range(1, 6)]


@pytest.mark.parametrize("by_id", [False, True])
def test_positions_are_written_behind_and_survive_a_start(tmp_path: Path, by_id: bool) -> None:
    def test(desk: Desk) -> None:
        assert [desk.next(by_id=by_id) for _ in range(3)] == [1, 2, 3]
        desk.write_behind()
        desk.restart()
        assert [desk.next(by_id=by_id) for _ in range(3)] == [4, 5, None]
        desk.restart()
        assert desk.next(by_id=by_id) == 4, "a crash repeats what was not written, never skips"

    run(tmp_path, test, *FIVE)


@pytest.mark.parametrize("by_id", [False, True])
def test_what_never_left_is_not_lost_by_a_crash(tmp_path: Path, by_id: bool) -> None:
    def test(desk: Desk) -> None:
        found = desk.found(by_id=by_id)
        assert isinstance(found, Found)
        desk.write_behind()
        assert desk.state().done == ((1, 2),)
        desk.deliveries.give_back(desk.view, GROUP, found)
        desk.write_behind()
        assert desk.state().done == ()
        desk.restart()
        assert [desk.next(by_id=by_id) for _ in range(2)] == [1, 2]

    run(tmp_path, test, *FIVE)


def test_dead_messages_are_written_though_nothing_else_comes(tmp_path: Path) -> None:
    def test(desk: Desk) -> None:
        terms = Terms(10.0, 1)
        assert desk.next(terms) == 1
        desk.now += 20
        assert desk.next(terms) == 1
        desk.now += 20
        assert desk.next(terms) is None
        assert desk.deliveries.dirty_beamtimes() == [BT]
        desk.write_behind()
        desk.restart()
        assert desk.state().dead == ((1, 2),)
        assert desk.next() is None

    run(tmp_path, test, put(1))


def test_skips_are_passed_over_in_both_orders(tmp_path: Path) -> None:
    skip = ops.Skip(SOURCE, STREAM, 2, 4, 5)

    def test(desk: Desk) -> None:
        assert [desk.next() for _ in range(3)] == [1, 4, None]
        desk.write_behind()
        assert desk.state().done == ((1, 5),)

    run(tmp_path, test, put(1), skip, put(4))


def test_an_ordered_reader_reports_a_hole_once(tmp_path: Path) -> None:
    def test(desk: Desk) -> None:
        assert desk.next(by_id=True) == 1
        assert desk.found(by_id=True) == Nothing(2, 3)
        assert desk.next(by_id=True) == 3
        assert desk.found(by_id=True) == Nothing(3, 3)

    run(tmp_path, test, put(1), put(3))


def test_acknowledgements_are_safe_when_they_are_answered(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert desk.next(Terms(10, 0)) == 1
        for id in (1, 3, 9):
            assert await desk.safe(desk.deliveries.acknowledge, id, NOBODY) is None
            with pytest.raises(AlreadyAcknowledged):
                await desk.safe(desk.deliveries.acknowledge, id, NOBODY)
        assert desk.deliveries.unacknowledged(desk.view, GROUP, 1, 9) == [2, 4, 5]
        desk.restart()
        assert desk.deliveries.last_acknowledged(desk.view, GROUP) == 9
        assert [desk.next() for _ in range(4)] == [2, 4, 5, None]
        assert await desk.safe(desk.deliveries.refuse, 1, 0.0) is None
        assert desk.next() == 1
        assert desk.next() is None

    run(tmp_path, test, *FIVE)


def test_a_seek_undoes_marks_that_are_on_their_way(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert [desk.next() for _ in range(5)] == [1, 2, 3, 4, 5]
        assert await desk.safe(desk.deliveries.seek, 2) is None
        desk.restart()
        assert desk.state().id_position == 2
        assert [desk.next() for _ in range(4)] == [3, 4, 5, None]
        assert await desk.safe(desk.deliveries.seek, 4) is None
        assert [desk.next() for _ in range(2)] == [5, None]

    run(tmp_path, test, *FIVE)


def test_a_busy_beamtime_does_not_keep_the_marks_of_a_quiet_one(tmp_path: Path) -> None:
    def test(desk: Desk) -> None:
        desk.catalog.apply("bt2", [put(1), put(2)])
        other = desk.streams.view("bt2", SOURCE, STREAM)
        for view in (desk.view, other):
            desk.deliveries.next(view, GROUP, by_id=False, terms=None, want=None)
        assert desk.deliveries.write_behind(BT)
        assert desk.deliveries.write_behind("bt2")
        desk.next()
        assert desk.deliveries.write_behind(BT) == [], "not with each of thousands in a second"
        assert desk.deliveries.write_behind(BT, at_once=True)

    run(tmp_path, test, *FIVE)


def test_datasets_are_asked_for_as_such(tmp_path: Path) -> None:
    def test(desk: Desk) -> None:
        with pytest.raises(BadInput, match="datasets"):
            desk.deliveries.next(desk.view, GROUP, by_id=False, terms=None, want=None)
        found = desk.found()
        assert isinstance(found, Found)
        assert not found.partial
        partial = desk.found()
        assert isinstance(partial, Found)
        assert partial.partial
        assert parts(partial.item) == [1]

    run(tmp_path, test, put(1, 1, 2), put(1, 2, 2), put(2, 1, 2))


def parts(item: Item) -> list[int]:
    assert isinstance(item, Dataset)
    return [part.substream for part in item.parts]


def test_early_acknowledgements_and_groups_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EARLY_ACKS_MAX", 2)
    monkeypatch.setattr(limits, "GROUPS_PER_STREAM_MAX", 3)

    async def test(desk: Desk) -> None:
        for id in (10, 11):
            await desk.safe(desk.deliveries.acknowledge, id, NOBODY)
        with pytest.raises(TooMany, match="do not exist"):
            await desk.safe(desk.deliveries.acknowledge, 12, NOBODY)
        for number in range(10):
            desk.deliveries.group(desk.view, f"idle{number}")
        assert len(desk.view.groups) <= 3
        desk.view.groups.clear()
        for number in range(3):
            desk.deliveries.group(desk.view, f"busy{number}").next(0.0, 1, Terms(1.0, 0))
        with pytest.raises(TooMany, match="too many groups"):
            desk.deliveries.group(desk.view, "one more")

    run(tmp_path, test, *FIVE)


def test_a_redelivery_is_counted_for_the_edge(tmp_path: Path) -> None:
    def test(desk: Desk) -> None:
        for _ in range(2):
            found = desk.found(Terms(1.0, 0))
            assert isinstance(found, Found)
            assert isinstance(found.item, Record)
            desk.deliveries.handed_out(desk.view, GROUP, NOBODY, found)
            desk.now += 5
        (edge,) = desk.stats.edges.values()
        assert (edge.messages, edge.again, edge.delivered.total) == (2, 1, 2)

    run(tmp_path, test, put(1))


def test_a_stream_has_not_ended_while_a_message_may_come_again(tmp_path: Path) -> None:
    def test(desk: Desk) -> None:
        assert desk.next(Terms(10.0, 1)) == 1
        waiting = desk.found(Terms(10.0, 1))
        assert isinstance(waiting, Nothing)
        assert not waiting.finished
        desk.now += 11
        assert desk.next(Terms(10.0, 1)) == 1
        desk.now += 11
        ended = desk.found(Terms(10.0, 1))
        assert isinstance(ended, Nothing)
        assert ended.finished
        assert ended.id == 1

    run(tmp_path, test, put(1), ops.Finish(SOURCE, STREAM, 1, "", 99))


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5), (2, 1, 3, 5, 4)])
def test_leases_that_a_crash_took_are_handed_out_again_by_id(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    def test(desk: Desk) -> None:
        assert [desk.next(by_id=True) for _ in range(2)] == [1, 2]
        assert [desk.next(Terms(60.0, 0), by_id=True) for _ in range(2)] == [3, 4]
        desk.write_behind()
        desk.restart()
        assert [desk.next(by_id=True) for _ in range(4)] == [3, 4, 5, None]

    run(tmp_path, test, *(put(id) for id in order))
