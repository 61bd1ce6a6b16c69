"""What members are told beside messages: headers of streams, and how far everything is settled."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage import SOURCE, STREAM, Client, Stage, run

from beamstream.errors import StorageError
from beamstream.wire.native.frames import End, Header, Mode, Scope, Settled, StreamOpened


class Attentive(Client):
    """A client that remembers what it had got when the first header came."""

    first: list[int] | None = None

    def header(self, frame: Header) -> None:
        super().header(frame)
        if self.first is None:
            self.first = self.ids


def test_the_header_comes_before_the_first_message_and_when_it_changes(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        stage.meta(b'{"energy":12}')
        stage.put(count=1)
        client, other = Attentive(stage, "c"), Client(stage, "d")
        client.subscribe(headers=True)
        other.subscribe(headers=False)
        await stage.turns.settle()
        assert client.first == [], "before the first message"
        assert [type(frame) for frame in client.told] == [StreamOpened, Header]
        assert client.header_frames == [(0, 1, b'{"energy":12}')]
        stage.meta(b'{"energy":12}')
        stage.meta(b'{"energy":13}')
        await stage.turns.settle()
        assert client.header_frames[1:] == [(0, 2, b'{"energy":13}')]
        assert other.header_frames == []
        stage.meta(b"{}", stream="another")
        await stage.turns.settle()
        assert len(client.header_frames) == 2

    run(tmp_path, test)


def test_without_metadata_nothing_is_told_until_there_is_some(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(scope=Scope.SOURCE, headers=True)
        stage.put(count=1)
        await stage.turns.settle()
        assert client.header_frames == []
        stage.meta(b'{"a":1}')
        stage.meta(b'{"b":1}', stream="s2")
        stage.put(count=1, stream="s2")
        await stage.turns.settle()
        assert client.header_frames == [(0, 1, b'{"a":1}'), (1, 1, b'{"b":1}')]

    run(tmp_path, test)


def test_a_large_header_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(stage: Stage) -> None:
        monkeypatch.setattr("beamstream.limits.HEADER_PUSHED_NBYTES_MAX", 10)
        stage.meta(b'{"energy":12}')
        client = Client(stage)
        client.subscribe(headers=True)
        await stage.turns.settle()
        assert client.header_frames == [(0, 1, b"")]

    run(tmp_path, test)


def test_who_does_not_read_is_told_the_newest_later(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.writable = False
        client.subscribe(headers=True, settled=True)
        stage.put(count=1)
        for number in range(3):
            stage.meta(b'{"n":%d}' % number)
            await stage.turns.settle()
        assert [type(frame) for frame in client.told] == [StreamOpened]
        client.writable = True
        stage.subscriptions.resume(client)
        await stage.turns.settle()
        assert client.header_frames == [(0, 3, b'{"n":2}')]
        assert client.settled_seqs == [1]
        assert client.ids == [1]

    run(tmp_path, test)


def test_a_header_that_cannot_be_read_is_told_as_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        stage.put(count=1)

        def broken(*names: object) -> None:
            raise StorageError("the disk is gone")

        monkeypatch.setattr(stage.catalog, "header", broken)
        client.subscribe(headers=True)
        await stage.turns.settle()
        ((channel, error),) = client.errors
        assert (channel, error.code) == (1, StorageError.code)
        assert client.got == []

    run(tmp_path, test)


def test_members_are_told_how_far_everything_is_settled(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client, other = Client(stage, "c"), Client(stage, "d")
        client.subscribe(settled=True, batch_max=2, credit_messages=2)
        other.subscribe(settled=True, batch_max=2, credit_messages=4)
        stage.put(count=6)
        await stage.turns.settle()
        assert [type(frame) for frame in client.told] == [StreamOpened, Settled]
        (mine,), theirs = client.take(), other.take()
        assert (mine.ids, [got.ids for got in theirs]) == ([1, 2], [[3, 4], [5, 6]])
        assert await other.ack(theirs[0]) is None
        assert client.settled_seqs == [1], "1 and 2 are still out"
        assert await stage.store(client.settle(mine, (1, 2)))
        assert client.settled_seqs == [1, 2]
        assert await stage.store(client.settle(mine, (2, 3), dead=True))
        assert client.settled_seqs == other.settled_seqs == [1, 2, 5]
        stage.finish(6)
        assert await other.ack(theirs[1]) is None
        assert client.settled_seqs == other.settled_seqs == [1, 2, 5, 7]
        assert isinstance(client.told[-1], End)

    run(tmp_path, test)


def test_skips_that_nobody_has_passed_hold_nothing_up(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(settled=True, credit_messages=2, mode=Mode.ORDERED)
        stage.skip(1, 4)
        stage.put(4, 5)
        stage.skip(6, 300)
        stage.put(300)
        await stage.turns.settle()
        assert client.settled_seqs == [4]
        (got,) = client.take()
        assert await client.ack(got) is None
        assert client.settled_seqs == [4, 300]
        stage.skip(301, 303)
        client.credit(1, 100)
        await stage.turns.settle()
        assert await client.ack(client.got[0]) is None
        assert client.settled_seqs == [4, 300, 303]

    run(tmp_path, test)


def test_a_late_member_is_told_where_the_group_is(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe()
        stage.put(count=3)
        await stage.turns.settle()
        assert await client.ack(client.got[0], (1, 3)) is None
        late = Client(stage, "late")
        late.subscribe(settled=True)
        await stage.turns.settle()
        assert late.settled_seqs == [3]
        stage.subscriptions.seek(stage.view(), "g", "begin", 0, lambda row: None)
        await stage.turns.settle()
        assert late.settled_seqs == [3, 1], "moved back"

    run(tmp_path, test)


def test_datasets_are_settled_as_messages_are(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        client = Client(stage)
        client.subscribe(settled=True)
        for substream in (1, 2):
            stage.part(1, substream, 2)
        stage.part(2, 1, 2)
        await stage.turns.settle()
        (got,) = client.take()
        assert (got.ids, got.stream, SOURCE, STREAM) == ([1], STREAM, "det", "scan1")
        assert await client.ack(got) is None
        assert client.settled_seqs == [1, 2], "the second lacks a part"

    run(tmp_path, test)
