"""What is visible, and when; and that what is remembered is what the catalog has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import Error, ReadOnly
from beamstream.model import Dataset, Item, Record
from beamstream.server.groups import GroupStream
from beamstream.server.streams import Streams, View
from beamstream.store import catalog as ops
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.testing.memory_catalog import MemoryCatalog

BT, SOURCE, STREAM = "bt1", "det", "scan1"


def put(id: int, *, substream: int = 0, expected: int = 0, meta: bytes = b"{}") -> ops.Put:
    return ops.Put(
        source=SOURCE,
        stream=STREAM,
        id=id,
        name=f"f{id}-{substream}",
        size=3,
        digest=bytes(16),
        meta=meta,
        timestamp_ns=1000 + id,
        arrived_ns=1000 + id,
        mode=13,
        level=2,
        place=2,
        substream=substream,
        expected=expected,
    )


def record_of(op: ops.Put, seq: int, id: int) -> Record:
    return Record(
        seq, id, op.substream, op.name, op.size, op.digest, op.meta, op.timestamp_ns,
        op.arrived_ns, op.mode, op.level, op.place, op.root,
    )  # fmt: skip


class Feed:
    """Applies operations to a catalog and shows them when the test says so."""

    def __init__(self) -> None:
        self.catalog = MemoryCatalog()
        self.streams = Streams(self.catalog)
        self.view = self.streams.view(BT, SOURCE, STREAM)
        self.answers: list[tuple[int, Error | None]] = []

    def apply(self, batch: Sequence[ops.Put | ops.Skip]) -> list[Callable[[], None]]:
        """Commit; the results make each of them visible, in whatever order they are called."""
        shows = []
        for op, stored in zip(batch, self.catalog.apply(BT, list(batch)), strict=True):
            assert isinstance(stored, ops.Stored), stored
            shows.append(self._show(op, stored))
        return shows

    def _show(self, op: ops.Put | ops.Skip, stored: ops.Stored) -> Callable[[], None]:
        def then(error: Error | None) -> None:
            self.answers.append((stored.seq, error))

        record = record_of(op, stored.seq, stored.id) if isinstance(op, ops.Put) else None
        count = op.hi - op.lo if isinstance(op, ops.Skip) else 1
        return lambda: self.streams.show(
            self.view, stored.stream, stored.seq, stored.id, record, then, count
        )

    def all_at_once(self, *batch: ops.Put | ops.Skip) -> None:
        for show in self.apply(batch):
            show()

    def visible_items(self) -> list[Item]:
        found = (self.streams.item(self.view, seq) for seq in range(1, self.view.visible_seq + 1))
        return [item for item in found if item is not None]


@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_levels_in_any_order_become_visible_in_the_order_of_seq(
    data: st.DataObject, widths: list[int]
) -> None:
    """Widths above 1 are skips of so many ids."""
    feed = Feed()
    batch: list[ops.Put | ops.Skip] = []
    id = 1
    for width in widths:
        batch.append(put(id) if width == 1 else ops.Skip(SOURCE, STREAM, id, id + width, 5))
        id += width
    shows = feed.apply(batch)
    ends = [sum(widths[: at + 1]) for at in range(len(widths))]
    done: set[int] = set()
    for at in data.draw(st.permutations(range(len(widths)))):
        shows[at]()
        done.add(at)
        first = next((n for n in range(len(widths)) if n not in done), len(widths))
        expected = ends[first - 1] if first else 0
        assert feed.view.visible_seq == expected
        assert [seq for seq, _ in feed.answers] == ends[:first]
        assert [item.seq for item in feed.visible_items()] == [
            end for end, width in zip(ends[:first], widths, strict=False) if width == 1
        ]
        assert feed.streams.item(feed.view, expected + 1) is None
        last = feed.streams.last(feed.view)
        shown = [end for end, width in zip(ends[:first], widths, strict=False) if width == 1]
        if shown and widths[first - 1] == 1:
            assert last is not None
            assert last.seq == shown[-1]
    assert not feed.view.held
    info = feed.catalog.stream(BT, SOURCE, STREAM)
    assert info is not None
    assert feed.view.info() == info
    assert feed.view.count == widths.count(1)
    fresh = Streams(feed.catalog).view(BT, SOURCE, STREAM)
    assert fresh.info() == info


@settings(max_examples=60, deadline=None)
@given(st.permutations([(id, part) for id in (1, 2) for part in (1, 2, 3)]), st.data())
def test_parts_of_datasets_are_hidden_until_they_are_safe(
    order: list[tuple[int, int]], data: st.DataObject
) -> None:
    feed = Feed()
    view = feed.view
    view.hidden_parts.update(order)
    shows = feed.apply([put(id, substream=part, expected=3) for id, part in order])
    safe: set[tuple[int, int]] = set()
    for at in data.draw(st.permutations(range(len(order)))):
        shows[at]()
        safe.add(order[at])
        for item in feed.visible_items():
            assert isinstance(item, Dataset)
            shown = {(part.id, part.substream) for part in item.parts}
            assert shown <= safe
        assert view.hidden_parts >= set(order) - safe
        if view.visible_seq:
            last = feed.streams.last(view)
            assert isinstance(last, Dataset)
            assert {(part.id, part.substream) for part in last.parts} <= safe
            found = feed.streams.last_dataset(view, 1)
            assert found is not None
            assert {(part.id, part.substream) for part in found.parts} <= safe
    assert not view.hidden_parts
    assert not view.held
    items = feed.visible_items()
    assert [len(item.parts) for item in items if isinstance(item, Dataset)] == [3, 3]
    complete = feed.streams.last_dataset(view, 0)
    assert complete is not None
    assert complete.id == 2


def test_who_waits_behind_a_record_that_cannot_be_written_is_told() -> None:
    feed = Feed()
    first, second, third = feed.apply([put(1), put(2), put(3)])
    first()
    third()
    assert feed.answers == [(1, None)]
    error = ReadOnly("the disk is gone")
    feed.streams.fail(feed.view, error)
    assert feed.answers == [(1, None), (3, error)]
    assert feed.view.visible_seq == 1
    assert feed.streams.item_by_id(feed.view, 3) is None
    assert second is not None


@pytest.mark.parametrize("records_max", [0, 3, limits.RECENT_RECORDS_MAX])
def test_remembered_records_are_those_of_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records_max: int
) -> None:
    """By seq and by id, through recent records, blocks, and the catalog."""
    monkeypatch.setattr(limits, "RECENT_RECORDS_MAX", records_max)
    feed = Feed()
    ids = [*range(1, 70), 200, 100, *range(300, 370)]
    feed.all_at_once(*(put(id) for id in ids))
    feed.all_at_once(ops.Skip(SOURCE, STREAM, 400, 403, 7), put(500))
    assert len(feed.view.recent) == min(records_max, len(ids) + 1)
    assert len(feed.view.recent_ids) == len(feed.view.recent)
    seqs = [*range(1, len(ids) + 1), len(ids) + 4]
    assert feed.view.visible_seq == seqs[-1]
    for _ in range(2):
        for seq, id in zip(seqs, [*ids, 500], strict=True):
            for item in (
                feed.streams.item(feed.view, seq),
                feed.streams.item_by_id(feed.view, id),
                feed.streams.item_by_id(feed.view, id, near_seq=seq),
                feed.streams.item_by_id(feed.view, id, near_seq=1),
            ):
                assert item is not None
                assert (item.seq, item.id) == (seq, id)
        for seq in (0, len(ids) + 1, seqs[-1] + 1, 10**6):
            assert feed.streams.item(feed.view, seq) is None
        for id in (0, 70, 401, 501):
            assert feed.streams.item_by_id(feed.view, id, near_seq=3) is None
    last = feed.streams.last(feed.view)
    assert last is not None
    assert last.id == 500


def test_remembered_records_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECENT_NBYTES_MAX", 5_000)
    feed = Feed()
    feed.all_at_once(*(put(id, meta=b'{"a":"' + b"x" * 1000 + b'"}') for id in range(1, 40)))
    assert 1 <= len(feed.view.recent) <= 4
    assert list(feed.view.recent)[-1] == 39


def test_nothing_is_in_a_stream_that_does_not_exist() -> None:
    streams = Streams(MemoryCatalog())
    view = streams.view(BT, SOURCE, "none")
    assert streams.item(view, 1) is None
    assert streams.item_by_id(view, 1) is None
    assert streams.last(view) is None
    assert streams.last_dataset(view, 0) is None
    assert (view.exists, view.finished, view.id_max, view.count) == (False, False, 0, 0)
    assert streams.known(BT, SOURCE) == {"none": view}
    assert streams.views() == [view]


def test_readers_are_woken_and_early_acknowledgements_count() -> None:
    feed = Feed()
    woken: list[int] = []
    feed.view.waiters.add(lambda: woken.append(feed.view.visible_seq))
    group = feed.view.groups["g"] = GroupStream()
    group.early_acks.add(2)
    feed.all_at_once(put(1), put(2))
    assert woken == [1, 2]
    assert group.acked.to_tuple() == ((2, 3),)
    (done,) = feed.catalog.apply(BT, [ops.Finish(SOURCE, STREAM, 2, "scan2", 99)])
    assert isinstance(done, ops.Done)
    assert done.stream is not None
    feed.streams.show_finish(feed.view, done.stream, 99)
    assert woken == [1, 2, 2]
    assert (feed.view.finished, feed.view.id_max, feed.view.next_stream) == (True, 2, "scan2")
    assert feed.view.info() == feed.catalog.stream(BT, SOURCE, STREAM)


def test_a_stream_that_only_ends_exists() -> None:
    feed = Feed()
    (done,) = feed.catalog.apply(BT, [ops.Finish(SOURCE, STREAM, 0, "", 99)])
    assert isinstance(done, ops.Done)
    assert done.stream is not None
    feed.streams.show_finish(feed.view, done.stream, 99)
    assert feed.view.exists
    assert feed.view.created_ns == 99


def test_a_deleted_stream_begins_anew() -> None:
    feed = Feed()
    feed.all_at_once(put(1), put(2))
    old = feed.view
    woken: list[str] = []
    old.waiters.add(lambda: woken.append("deleted"))
    feed.catalog.apply(BT, [ops.DeleteStream(SOURCE, STREAM)])
    feed.streams.forget(old)
    assert woken == ["deleted"]
    assert not old.recent
    feed.view = feed.streams.view(BT, SOURCE, STREAM)
    assert feed.view is not old
    assert feed.visible_items() == []
    feed.all_at_once(put(7))
    assert [item.id for item in feed.visible_items()] == [7]
    assert feed.view.no != old.no


def idle(view: View) -> bool:
    return not (view.waiters or view.held or view.busy or view.groups or view.recent)


def test_idle_views_are_forgotten_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VIEWS_MAX", 4)
    monkeypatch.setattr(limits, "RECENT_RECORDS_MAX", 0)
    feed = Feed()
    feed.all_at_once(put(1))
    used = feed.streams.view(BT, SOURCE, "used")
    used.busy += 1
    for number in range(20):
        feed.streams.view(BT, SOURCE, f"s{number}")
    assert len(feed.streams.views()) <= 4
    assert feed.streams.view(BT, SOURCE, "used") is used
    assert not idle(used)
    again = feed.streams.view(BT, SOURCE, STREAM)
    assert again is not feed.view
    assert again.visible_seq == 1


def test_items_of_a_catalog_on_disk(tmp_path: Path) -> None:
    catalog = SqliteCatalog(tmp_path)
    try:
        catalog.apply(BT, [put(id) for id in range(1, 200)])
        streams = Streams(catalog)
        view = streams.view(BT, SOURCE, STREAM)
        found = [streams.item(view, seq) for seq in range(1, 200)]
        assert [item.id for item in found if item is not None] == list(range(1, 200))
        catalog.apply(BT, [put(200)])
        assert streams.item(view, 200) is None, "it is recorded and not yet shown"
        assert streams.item_by_id(view, 200) is None
    finally:
        catalog.close()


@pytest.mark.parametrize("expected", [0, 2])
def test_a_group_may_wait_for_a_stream_that_does_not_exist(expected: int) -> None:
    feed = Feed()
    feed.catalog.apply(BT, [ops.Ack("g", SOURCE, STREAM, (), (9,))])
    feed.streams = Streams(feed.catalog)
    feed.view = feed.streams.view(BT, SOURCE, STREAM)
    assert feed.view.no
    assert not feed.view.exists
    feed.all_at_once(put(1, substream=expected and 1, expected=expected))
    assert feed.view.exists
    assert feed.view.datasets == bool(expected)
    assert len(feed.visible_items()) == 1


def test_blocks_of_records_grow_with_their_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECENT_RECORDS_MAX", 0)
    feed = Feed()
    for id in range(1, 200):
        feed.all_at_once(put(id))
        for item in (
            feed.streams.item(feed.view, id),
            feed.streams.item_by_id(feed.view, id, near_seq=id),
            feed.streams.item_by_id(feed.view, id, near_seq=id + 1),
        ):
            assert item is not None
            assert item.id == id
    monkeypatch.setattr(limits, "RECENT_RECORDS_MAX", 128)
    for id in (1, 70, 130, 199, 1):
        item = feed.streams.item(feed.view, id)
        assert item is not None
        assert item.id == id
    assert len(feed.streams._pages) <= 3
