"""Blocks are what their records are; and streams find messages in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import Stage, run

from beamstream import limits
from beamstream.model import Place, Record
from beamstream.server.blocks import Block, follow

SEGMENT = int(Place.SEGMENT)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    count = draw(st.integers(1, 8))
    sizes = tuple(draw(st.lists(st.integers(0, 50), min_size=count, max_size=count)))
    start = draw(st.integers(1, 1000))
    some = st.lists(st.integers(1, 10**6), min_size=count, max_size=count, unique=True)
    texts = st.lists(st.sampled_from([b"{}", b'{"a":1}']), min_size=count, max_size=count)
    names = [f"f{index}" for index in range(count)]
    return Block(
        seq=draw(st.integers(1, 1000)),
        ids=draw(st.just(range(start, start + count)) | some.map(tuple)),
        sizes=sizes,
        digests=draw(st.binary(min_size=16 * count, max_size=16 * count)),
        metas=draw(st.none() | texts.map(tuple)),
        infos=draw(st.just(b"u2") | texts.map(tuple)),
        names=draw(st.none() | st.just(tuple(names))),
        timestamp_ns=draw(st.just(5) | st.just(tuple(range(count)))),
        arrived_ns=9,
        mode=1,
        level=2,
        place=draw(st.sampled_from([1, SEGMENT])),
        segment=3,
        position=100,
        node=4,
        boot=5,
        run=6,
    )


def records(block: Block) -> list[Record]:
    return [block.record(index) for index in range(block.count)]


@settings(max_examples=200, deadline=None)
@given(blocks(), st.data())
def test_slices_and_records(block: Block, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, block.count - 1))
    hi = data.draw(st.integers(lo + 1, block.count))
    whole = records(block)
    assert [record.seq for record in whole] == list(range(block.seq, block.end))
    assert max(record.id for record in whole) == block.id_max
    again = Block.of_records(whole)
    assert records(again) == whole
    for cut in (block.slice(lo, hi), again.slice(lo, hi), block.slice(0, hi).slice(lo, hi)):
        assert records(cut) == whole[lo:hi]
        assert cut.nbytes(0, cut.count) == block.nbytes(lo, hi) == sum(block.sizes[lo:hi])
        assert follow(cut.ids) == all(
            record.id == whole[lo].id + at for at, record in enumerate(whole[lo:hi])
        )
    assert block.slice(lo, hi).slot_offset == block.offsets[lo]
    stretch = (3, 100 + block.offsets[lo], block.nbytes(lo, hi))
    expected = stretch if block.place == SEGMENT else None
    assert block.stretch(lo, hi) == again.stretch(lo, hi) == expected
    moved = block.slice(lo, hi, seq=5000)
    assert [record.seq for record in records(moved)] == list(range(5000, 5000 + hi - lo))
    assert block.kept_nbytes() >= sum(len(record.meta) for record in whole if block.metas)
    assert all(block.text_nbytes(at) >= len(whole[at].name) for at in range(block.count))


def test_records_apart_are_no_stretch() -> None:
    def record(seq: int, segment: int, position: int) -> Record:
        return Record(
            seq, seq, 0, "", 10, bytes(16), b"{}", 1, 1, 0, 2, SEGMENT, 0,
            segment=segment, position=position,
        )  # fmt: skip

    block = Block.of_records(
        [record(1, 1, 0), record(2, 1, 10), record(3, 1, 30), record(4, 2, 40)]
    )
    assert block.stretch(0, 2) == (1, 0, 20)
    assert block.stretch(1, 3) is None
    assert block.stretch(2, 4) is None


@pytest.mark.parametrize("entries", [0, 2, limits.RECENT_RECORDS_MAX])
@pytest.mark.parametrize("shape", ["ascending", "mixed"])
def test_streams_find_messages_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int, shape: str
) -> None:
    monkeypatch.setattr(limits, "RECENT_RECORDS_MAX", entries)

    async def test(stage: Stage) -> None:
        stage.put(count=300)
        if shape == "mixed":
            stage.put(1000, 900, 950)
        stage.skip(2000, 2600)
        stage.put(3000, 3007, 3010)
        stage.put(count=5)
        view, streams = stage.view(), stage.streams
        stored = {
            item.seq: item
            for item in stage.catalog.items_by_seq(view.beamtime, view.no, 1, view.visible_seq + 1)
        }
        assert len(view.blocks) == min(entries, 4 + (shape == "mixed") - 1)
        for seq in range(view.visible_seq + 2):
            found, block = streams.item(view, seq), streams.block_at(view, seq)
            assert found == stored.get(seq)
            assert (block is None) == (found is None)
            if found is not None:
                assert block is not None
                assert block.record(seq - block.seq) == found
                assert streams.item_by_id(view, found.id) == found
                assert streams.next_message(view, seq) == seq
            elif 0 < seq <= view.visible_seq:
                following = seq
                while following <= view.visible_seq:
                    ahead = streams.next_message(view, following)
                    if ahead == following:
                        break
                    following = ahead
                assert following == min(s for s in stored if s > seq)
        assert streams.item_by_id(view, 3008) is None
        last = streams.last(view)
        assert last is not None
        assert last.id == 3015

    run(tmp_path, test)


def test_what_is_remembered_of_blocks_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECENT_NBYTES_MAX", 100_000)

    async def test(stage: Stage) -> None:
        for _ in range(50):
            stage.put(count=100)
        kept = sum(block.kept_nbytes() for block in stage.view().blocks)
        assert 50_000 < kept <= 100_000
        assert stage.view().blocks[-1].end == 5001
        stage.put(count=10, meta=b'{"a":"' + b"x" * 5000 + b'"}')
        kept = sum(block.kept_nbytes() for block in stage.view().blocks)
        assert kept <= 100_000

    run(tmp_path, test)


def test_early_acknowledgements_meet_blocks(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        group = stage.deliveries.group(stage.view(), "g")
        group.early_acks |= {2, 7}
        stage.put(count=5)
        assert group.acked.to_tuple() == ((2, 3),)
        assert group.early_acks == {7}

    run(tmp_path, test)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(5)))
def test_blocks_become_visible_in_the_order_of_seq(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    async def test(stage: Stage) -> None:
        shows = []
        real = stage.streams.show_block
        stage.streams.show_block = lambda *words: shows.append(words)  # type: ignore[method-assign]
        view = stage.view()
        for _ in range(5):
            stage.put(count=3)
        done: set[int] = set()
        for at in order:
            real(*shows[at])
            done.add(at)
            first = next((n for n in range(5) if n not in done), 5)
            assert view.visible_seq == 3 * first
            assert [block.seq for block in view.blocks] == [1 + 3 * n for n in range(first)]

    run(tmp_path_factory.mktemp("blocks"), test)
