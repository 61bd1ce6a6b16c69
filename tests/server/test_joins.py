"""Joins over a real catalog: parts, restarts, ends, what is late."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from stage import BT, SOURCE, Client, Stage, run

from beamstream.errors import BadInput, BadName, Conflict, Error
from beamstream.model import Dataset, Level
from beamstream.server.joins import Joins

INPUTS = ((SOURCE, "left"), (SOURCE, "right"))


class Joining:
    """A stage with joins."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.begin()

    def begin(self) -> None:
        stage = self.stage
        self.joins = Joins(stage.hall, stage.commits, stage.subscriptions, Level.DISK)

    async def define(
        self, stream: str = "both", inputs: tuple[tuple[str, str], ...] = INPUTS
    ) -> Error | None:
        answer: asyncio.Future[Error | None] = asyncio.get_running_loop().create_future()
        self.joins.define(BT, SOURCE, stream, inputs, answer.set_result)
        return await answer

    async def until_idle(self) -> None:
        """Until nothing is under way: the loop, and what waits for a commit."""
        stage = self.stage
        for _ in range(3):
            await stage.turns.settle()
            done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            stage.commits.submit_synced(BT, (), done.set_result)
            await done
            await stage.turns.settle()

    def items(self) -> list[Dataset]:
        view = self.stage.view("both")
        found = self.stage.streams.items(view, 1, view.visible_seq + 1)
        return [item for item in found if isinstance(item, Dataset)]

    def parts(self) -> dict[int, list[int]]:
        return {item.id: [part.substream for part in item.parts] for item in self.items()}


def test_messages_of_one_id_become_a_dataset(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        joining = Joining(stage)
        stage.put(count=3, stream="left", meta=b'{"a":1}')
        assert await joining.define() is None
        assert await joining.define() is None
        reader = Client(stage)
        reader.subscribe(stream="both")
        stage.put(2, 3, 9, stream="right", size=20)
        await joining.until_idle()
        assert joining.parts() == {1: [1], 2: [1, 2], 3: [1, 2], 9: [2]}
        assert sorted(reader.ids) == [2, 3]
        part = joining.items()[1].parts[0]
        assert (part.input_source, part.input_stream, part.input_seq) == (SOURCE, "left", 2)
        assert (part.size, part.meta, part.place) == (10, b'{"a":1}', 1)
        late = joining.joins.late(stage.view("both"), 10)
        assert {(row.id, row.missing, row.inputs) for row in late} == {
            (1, (2,), (INPUTS[1],)),
            (9, (1,), (INPUTS[0],)),
        }
        assert len(joining.joins.late(stage.view("both"), 1)) == 1
        assert stage.subscriptions.group_rows(BT, "", "left") == [], "its own group is not shown"

    run(tmp_path, test)


def test_a_join_goes_on_after_a_restart_and_ends_with_its_inputs(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        joining = Joining(stage)
        assert await joining.define() is None
        stage.put(count=5, stream="left")
        await joining.until_idle()
        stage.finish(5, stream="left")
        await joining.until_idle()
        await stage.restart()
        joining.begin()
        stage.put(count=4, stream="right")
        await joining.until_idle()
        assert joining.parts() == {1: [1, 2], 2: [1, 2], 3: [1, 2], 4: [1, 2], 5: [1]}
        assert not stage.view("both").finished
        stage.finish(4, stream="right")
        await joining.until_idle()
        view = stage.view("both")
        assert (view.finished, view.last_id) == (True, 5)

    run(tmp_path, test)


def test_parts_that_are_written_again_are_duplicates(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        joining = Joining(stage)
        assert await joining.define() is None
        stage.put(count=5, stream="left")
        await joining.until_idle()
        group = joining.joins._running[BT][SOURCE, "both"].definition.group
        done = asyncio.get_running_loop().create_future()
        stage.deliveries.seek(stage.view("left"), group, 0, done.set_result)
        assert await done is None
        await joining.until_idle()
        assert joining.parts() == {id: [1] for id in range(1, 6)}
        assert not stage.view("both").hidden_parts

    run(tmp_path, test)


def test_an_input_that_is_made_anew_is_read_on(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        joining = Joining(stage)
        assert await joining.define() is None
        stage.put(count=1, stream="left")
        await joining.until_idle()
        stage.delete("left")
        await joining.until_idle()
        stage.put(7, stream="left")
        await joining.until_idle()
        assert joining.parts() == {1: [1], 7: [1]}

    run(tmp_path, test)


def test_a_join_is_deleted_with_its_stream(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        joining = Joining(stage)
        assert await joining.define() is None
        stage.put(count=1, stream="left")
        await joining.until_idle()
        stage.delete("both")
        stage.put(count=1, stream="left")
        await joining.until_idle()
        assert joining.items() == []
        await stage.restart()
        joining.begin()
        joining.joins.open(BT)
        await joining.until_idle()
        assert joining.items() == []
        assert await joining.define() is None
        await joining.until_idle()
        assert joining.parts() == {1: [1], 2: [1]}, "from the beginning"

    run(tmp_path, test)


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    async def test(stage: Stage) -> None:
        joining = Joining(stage)
        for inputs, error in (
            ((), BadInput),
            ((INPUTS[0], INPUTS[0]), BadInput),
            (((SOURCE, "both"),), BadInput),
            ((("", "left"),), BadName),
            (((SOURCE, "a\x01"),), BadName),
        ):
            with pytest.raises(error):
                await joining.define(inputs=inputs)
        assert await joining.define() is None
        with pytest.raises(Conflict):
            await joining.define(inputs=INPUTS[::-1])
        stage.put(count=1, stream="single")
        with pytest.raises(Conflict):
            await joining.define("single")

    run(tmp_path, test)
