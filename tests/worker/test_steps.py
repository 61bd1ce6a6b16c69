"""Steps: what the decorator reads from code, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from beamstream import DatasetMessage, Message
from beamstream.errors import BadParameter, BadStep, StepFailed
from beamstream.testing.steps import Made, run_step
from beamstream.worker import Result, Step, results, step
from beamstream.worker.steps import Form, Read


def plain_values(made: list[Made]) -> list[Any]:
    return [
        (one.id, bytes(one.data) if isinstance(one.data, bytes) else np.asarray(one.data).tolist())
        for one in made
    ]


FRAMES = [np.full(2, value) for value in (1, 2, 3)]


# --------------------------------------------------------------------------------- forms


def test_a_function_stays_a_function() -> None:
    @step(reads="eiger", writes="binned")
    def double(frame: Any, *, factor: int = 2) -> Any:
        """Twice."""
        return frame * factor

    assert isinstance(double, Step)
    assert double(21) == 42
    assert double(2, factor=3) == 6
    assert double.doc == "Twice."
    assert double.name == "double"
    assert double.reads == (Read("eiger", "*"),)
    assert double.form is Form.FUNCTION
    assert double.where.endswith("double")
    assert plain_values(run_step(double, FRAMES, factor=3)) == [
        (1, [3, 3]), (2, [6, 6]), (3, [9, 9]),
    ]  # fmt: skip


def test_none_is_nothing() -> None:
    @step(reads="eiger", writes="odd")
    def odd(frame: Any) -> Any:
        return frame if frame[0] % 2 else None

    assert [made.id for made in run_step(odd, FRAMES)] == [1, 3]


def test_async_functions_are_awaited_and_their_errors_are_their_own() -> None:
    import asyncio

    both = asyncio.Event()
    seen: list[int] = []

    @step(reads="eiger", writes="out")
    async def slow(frame: Any) -> Any:
        seen.append(int(frame[0]))
        if len(seen) == 3:
            both.set()
        # None of them comes on unless all are under way.
        await asyncio.wait_for(both.wait(), 10)
        return frame

    assert [made.id for made in run_step(slow, FRAMES)] == [1, 2, 3]


def test_generators_give_many_sync_and_async() -> None:
    @step(reads="eiger", writes="out")
    def rows(frame: Any) -> Iterator[Any]:
        yield from frame

    @step(reads="eiger", writes="out")
    async def arows(frame: Any) -> Any:
        for value in frame:
            yield value

    for one in (rows, arows):
        assert one.many
        made = run_step(one, FRAMES[:2])
        assert plain_values(made) == [(1, 1), (2, 1), (3, 2), (4, 2)]
        assert [(got.inputs, got.k) for got in made] == [((1,), 0), ((1,), 1), ((2,), 0), ((2,), 1)]


def test_many_is_read_from_the_annotation() -> None:
    @step(reads="eiger", writes="out")
    def halves(frame: Any) -> list[Any]:
        return [frame[:1], frame[1:]]

    @step(reads="eiger", writes="out")
    def one(frame: Any) -> np.ndarray[Any, Any]:
        return np.asarray(frame)

    assert halves.many
    assert not one.many
    assert len(run_step(halves, FRAMES)) == 6


def test_a_list_of_a_step_that_gives_one_is_refused() -> None:
    @step(reads="eiger", writes="out")
    def both(frame: Any):  # type: ignore[no-untyped-def]
        return [frame, frame]

    with pytest.raises(StepFailed, match="many=True"):
        run_step(both, FRAMES)


def test_batches() -> None:
    sizes = []

    @step(reads="eiger", writes="out", batch=2)
    def together(frames: list[Any], meta: list[dict[str, Any]]) -> list[Any]:
        sizes.append(len(frames))
        return [None if m.get("drop") else frame for frame, m in zip(frames, meta, strict=True)]

    metas = [{}, {"drop": True}, {}]
    assert [made.id for made in run_step(together, FRAMES, metas=metas)] == [1, 3]
    assert sizes == [2, 1]


def test_windows() -> None:
    @step(reads="eiger", writes="means", window=2)
    def mean(frames: list[Any]) -> Any:
        return sum(frames) / len(frames)

    assert mean.ordered
    made = run_step(mean, FRAMES)
    assert plain_values(made) == [(1, [1.5, 1.5]), (2, [3.0, 3.0])]
    assert made[1].inputs == (3,)


def test_joins_get_an_argument_for_each_source() -> None:
    @step(reads=["a", "b"], writes="out")
    def add(a: Any, b: Any) -> Any:
        return a if b is None else a + b

    made = run_step(add, [[FRAMES[0], FRAMES[1]], [FRAMES[2], None]])
    assert plain_values(made) == [(1, [3, 3]), (2, [3, 3])]

    @step(reads=["a", "b"], writes="out")
    def count(parts: DatasetMessage) -> int:
        return len(parts)

    assert count.takes_message


def test_messages_metadata_and_header() -> None:
    @step(reads="eiger", writes="out")
    def describe(message: Message, meta: dict[str, Any], *, header: dict[str, Any]) -> Any:
        return {"id": message.id, "nbytes": message.size, **meta, **header}

    assert describe.wants == ("meta", "header")
    assert len(describe.parameters) == 0
    made = run_step(describe, [b"abc"], metas=[{"x": 1}], header={"energy": 12})
    assert made[0].meta == {"id": 1, "nbytes": 3, "x": 1, "energy": 12}
    assert made[0].data == b""


def test_metadata_alone() -> None:
    @step(reads="eiger", writes="out")
    def only(meta: dict[str, Any]) -> Any:
        return {"twice": meta["x"] * 2}

    assert only.inputs == 0
    assert run_step(only, [b"never looked at"], metas=[{"x": 2}])[0].meta == {"twice": 4}


def test_a_header_sets_parameters() -> None:
    @step(reads="eiger", writes="out", header=["scale"])
    def scaled(frame: Any, *, scale: float, shift: int = 0) -> Any:
        return frame * scale + shift

    made = run_step(scaled, FRAMES[:1], header={"scale": 10, "shift": 5})
    assert plain_values(made) == [(1, [10.0, 10.0])]
    with pytest.raises(BadParameter, match="'scale' is missing"):
        run_step(scaled, FRAMES[:1])


# ------------------------------------------------------------------------------- classes


def test_a_class_by_annotations_init_or_dataclass() -> None:
    @step(reads="eiger", writes="out")
    class Fields:
        factor: int = 2
        _hidden: int = 3

        def process(self, frame: Any) -> Any:
            return frame * self.factor

    @step(reads="eiger", writes="out")
    class Made:
        """Doc.

        Parameters
        ----------
        factor : times.
        """

        def __init__(self, *, factor: int) -> None:
            self.times = factor

        def __call__(self, frame: Any) -> Any:
            return frame * self.times

    @step(reads="eiger", writes="out")
    @dataclass
    class Data:
        factor: int = 2

        async def process(self, frame: Any) -> Any:
            return frame * self.factor

    for one in (Fields, Made, Data):
        assert one.form is Form.CLASS
        assert one.parameters.names == ("factor",)
        assert plain_values(run_step(one, FRAMES[:1], factor=5)) == [(1, [5, 5])]
        assert not one.exclusive
    assert Made.parameters["factor"].help == "times."
    assert Data.is_async


def test_hooks_make_a_class_exclusive() -> None:
    @step(reads="eiger", writes="out", many=True)
    class Total:
        def on_stream_start(self, header: dict[str, Any]) -> None:
            self.total = header.get("from", 0)

        def process(self, frame: Any) -> None:
            self.total += int(frame[0])

        def on_stream_end(self, reason: str) -> Any:
            return Result(b"", {"total": self.total, "reason": reason})

    assert Total.exclusive
    assert not Total.ordered
    [made] = run_step(Total, FRAMES, header={"from": 100})
    assert made.meta == {"total": 106, "reason": "finished"}


def test_last_words_need_automatic_ids() -> None:
    @step(reads="eiger", writes="out")
    class Total:
        def process(self, frame: Any) -> None:
            pass

        def on_stream_end(self, reason: str) -> Any:
            return b"end"

    with pytest.raises(StepFailed, match="many=True"):
        run_step(Total, FRAMES)


# ----------------------------------------------------------------------------- refusals


def test_what_the_step_raises_comes_out() -> None:
    @step(reads="eiger", writes="out")
    def bad(frame: Any) -> Any:
        raise ZeroDivisionError("why")

    with pytest.raises(ZeroDivisionError, match="why"):
        run_step(bad, FRAMES)


def frame_step(frame: Any, *, n: int = 1) -> Any:
    return frame


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"reads": ""}, "nothing to read"),
        ({"reads": "a", "name": "two words"}, "no name"),
        ({"reads": "a", "mode": "sorted"}, "mode"),
        ({"reads": "a", "batch": 5_000}, "batch"),
        ({"reads": "a", "window": -1}, "window"),
        ({"reads": "a", "window": 2, "batch": 2}, "window"),
        ({"reads": "a", "window": 2, "many": True}, "window"),
        ({"reads": "a", "key": "x", "sticky": 3}, "keyed or sticky"),
        ({"reads": ["a", "b"], "sticky": 3}, "joins sources"),
        ({"reads": "a", "lease": 0}, "negative"),
        ({"reads": "a", "header": ["m"]}, "'m'"),
        ({"reads": "a", "writes": 'quo"te'}, "quotes"),
    ],
)
def test_refused_declarations(how: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        step(**how)(frame_step)


def test_refused_code() -> None:
    def two(frame: Any, factor: int = 2) -> Any:
        return frame

    def anything(frame: Any, **more: Any) -> Any:
        return frame

    class Empty:
        pass

    class Misplaced:
        def process(self, frame: Any, *, factor: int = 2) -> Any:
            return frame

    def lists(frames: list[Any]) -> Any:
        yield frames

    with pytest.raises(BadStep, match="behind a star"):
        step(two)
    with pytest.raises(BadStep, match="any arguments"):
        step(anything)
    with pytest.raises(BadStep, match="process"):
        step(Empty)
    with pytest.raises(BadStep, match="__init__"):
        step(Misplaced)
    with pytest.raises(BadStep, match="generator"):
        step(batch=2)(lists)
    with pytest.raises(BadStep, match="no function"):
        step(3)  # type: ignore[call-overload,arg-type]


# ------------------------------------------------------------------------------ results


@pytest.mark.parametrize(
    ("value", "data", "meta"),
    [
        (b"x", b"x", None),
        (bytearray(b"x"), bytearray(b"x"), None),
        ({"a": 1}, b"", {"a": 1}),
        (Result(b"x", {"a": 1}), b"x", {"a": 1}),
        (3, 3, None),
        (np.float32(1.5), 1.5, None),
    ],
)
def test_what_may_be_returned(value: Any, data: Any, meta: Any) -> None:
    found = results.of_value("s", value)
    assert found is not None
    assert found.data == data
    assert found.meta == meta


@pytest.mark.parametrize("value", ["text", object(), [b"x"], (b"x",)])
def test_what_may_not_be_returned(value: Any) -> None:
    with pytest.raises(StepFailed, match="returned a"):
        results.of_value("s", value)


def test_results_are_bounded_before_they_are_all_made() -> None:
    count = 0

    def endless() -> Iterator[bytes]:
        nonlocal count
        while True:
            count += 1
            yield b"x"

    with pytest.raises(StepFailed, match="at_least_once"):
        results.gather("s", endless(), many=True)
    assert count == 1_001
    large = np.zeros(40 << 20, np.uint8)
    assert len(results.gather("s", [large], many=True)) == 1
    with pytest.raises(StepFailed, match="64 MiB"):
        results.gather("s", [large, large], many=True)
