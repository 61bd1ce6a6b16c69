"""What an engine does with what comes, at a port in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream import Message
from beamstream.client.native.events import Gap, Header, Settled
from beamstream.errors import (
    CacheFull,
    ConnectionLost,
    IdConflict,
    NotAllowed,
    StaleLease,
    StepFailed,
)
from beamstream.testing.steps import as_batch
from beamstream.worker import Result, step
from beamstream.worker import engine as engine_module
from beamstream.worker.engine import Stopped
from beamstream.worker.policy import OnError
from beamstream.worker.works import AT_THE_END, Publication

from .port import Clock, FakePort, batch_of, end_of, engine_of


def payload(message: Message) -> bytes:
    return bytes(message.data)


@step(reads="det", writes="out")
def upper(message: Message, *, suffix: str = "") -> bytes | None:
    data = payload(message)
    if data == b"none":
        return None
    if data.startswith(b"bad"):
        raise ValueError(f"cannot do {data.decode()}")
    return data.upper() + suffix.encode()


# ------------------------------------------------------------------------------ results


def test_results_and_skips_of_a_batch_are_one_unit() -> None:
    port = FakePort()
    engine_of(upper, port).handle(batch_of([b"a", b"none", b"c", b"none"]))
    [made] = port.published
    assert made.values == [b"A", b"C"]
    assert made.ids == [1, 3]
    assert made.seqs == (1, 3)
    assert made.ks is None
    assert made.skips == ((2, 3), (4, 5))
    assert [one.seq for one in made.settles] == [1, 2, 3, 4]
    assert made.source == "det"
    assert made.run == 1


def test_large_results_go_at_once_and_one_by_one() -> None:
    port = FakePort()
    large = bytes(70_000)
    engine_of(upper, port).handle(batch_of([large, b"a", b"c", large, b"none", large]))
    assert [len(made.values) for made in port.published] == [1, 2, 1, 1]
    assert [len(made.settles) for made in port.published] == [1, 2, 1, 2]


def test_small_results_gather_up_to_the_size_of_a_frame() -> None:
    port = FakePort()
    engine_of(upper, port).handle(batch_of([bytes(60_000)] * 40))
    assert [len(made.values) for made in port.published] == [18, 18, 4]


def test_metadata_of_the_input_go_along_unless_there_are_others() -> None:
    @step(reads="det", writes="out")
    def label(message: Message) -> Any:
        return payload(message) if message.id == 1 else Result(b"x", {"own": message.id})

    port = FakePort()
    batch = as_batch([b"a", b"b"], ids=[1, 2], metas=[{"i": 1}, {"i": 2}])
    engine_of(label, port).handle(batch)
    assert port.published[0].metas == [b'{"i":1}', {"own": 2}]


def test_many_results_have_automatic_ids_and_are_counted() -> None:
    @step(reads="det", writes="out")
    def each(message: Message) -> Iterator[bytes]:
        yield from (bytes([letter]) for letter in payload(message))

    port = FakePort()
    engine_of(each, port).handle(batch_of([b"abc", b"", b"d"]))
    [made] = port.published
    assert made.values == [b"a", b"b", b"c", b"d"]
    assert made.ids is None
    assert made.seqs == (1, 1, 1, 3)
    assert made.ks == (0, 1, 2, 0)
    assert made.skips == ()
    assert len(made.settles) == 3


def test_too_many_results_are_a_failure_unless_declared() -> None:
    @step(reads="det", writes="out", many=True)
    def burst(message: Message) -> list[bytes]:
        return [b"x"] * 1_001

    port = FakePort()
    engine_of(burst, port).handle(batch_of([b"a"]))
    assert port.published == []
    assert port.dead == [1]
    assert "at_least_once" in port.failed[0]["error"]


def test_a_step_that_is_at_least_once_settles_with_its_last_piece() -> None:
    @step(reads="det", writes="out", many=True, at_least_once=True)
    def burst(message: Message) -> list[bytes]:
        return [b"x"] * 2_500

    port = FakePort()
    engine_of(burst, port).handle(batch_of([b"a"]))
    assert [len(made.values) for made in port.published] == [1_000, 1_000, 500]
    assert [len(made.settles) for made in port.published] == [0, 0, 1]
    assert [k for made in port.published for k in made.ks or [0]] == list(range(2_500))


def test_a_refused_piece_is_not_settled_by_the_last_one() -> None:
    @step(reads="det", writes="out", many=True, at_least_once=True)
    def burst(message: Message) -> list[bytes]:
        return [b"x"] * 2_500

    port = FakePort()
    port.refuse = lambda made: IdConflict("no") if 1_500 in (made.ks or ()) else None
    engine = engine_of(burst, port)
    engine.handle(batch_of([b"a"]))
    assert port.settled == []
    assert port.dead == [1]
    assert engine.counts.failed == 1


def test_named_results_are_published_alone() -> None:
    @step(reads="det", writes="out")
    def filed(message: Message) -> Result:
        return Result(payload(message), name=f"f{message.id}.bin")

    port = FakePort()
    engine_of(filed, port).handle(batch_of([b"a", b"b"]))
    assert [(made.name, made.ids) for made in port.published] == [("f1.bin", [1]), ("f2.bin", [2])]


def test_a_sink_acknowledges_and_a_result_of_it_is_a_failure() -> None:
    @step(reads="det")
    def look(message: Message) -> bytes | None:
        return b"?" if message.id == 2 else None

    port = FakePort()
    engine = engine_of(look, port)
    engine.handle(batch_of([b"a", b"b", b"c"]))
    assert port.settled == [1, 3]
    assert port.dead == [2]
    assert engine.counts.done == 2


# ------------------------------------------------------------------------ refused units


def only(id: int, error: Exception) -> Any:
    return lambda made: error if id in (made.ids or []) else None


def test_only_the_bad_one_of_a_refused_unit_suffers() -> None:
    port = FakePort()
    port.refuse = only(2, IdConflict("id 2 has other content"))
    engine = engine_of(upper, port)
    engine.handle(batch_of([b"a", b"b", b"c"]))
    assert port.values == [(1, b"A"), (3, b"C")]
    assert port.dead == [2]
    assert port.failed[0]["code"] == "E401"
    assert (engine.counts.done, engine.counts.failed) == (2, 1)


def test_what_somebody_else_has_by_now_is_dropped() -> None:
    port = FakePort()
    port.refuse = only(2, StaleLease("the lease has ended"))
    engine = engine_of(upper, port)
    engine.handle(batch_of([b"a", b"b", b"c"]))
    assert port.values == [(1, b"A"), (3, b"C")]
    assert port.dead == []
    assert engine.counts.stale == 1


def test_a_full_node_is_asked_again() -> None:
    errors: list[CacheFull | None] = [CacheFull("full"), CacheFull("full"), None]
    port, clock = FakePort(), Clock()
    port.refuse = lambda made: errors.pop(0)
    engine_of(upper, port, clock=clock).handle(batch_of([b"a"]))
    assert port.values == [(1, b"A")]
    assert list(clock.pauses) == [0.1, 0.2]


def test_a_worker_that_ends_gives_back_what_a_full_node_does_not_take() -> None:
    port = FakePort()
    port.refuse = lambda made: CacheFull("full")
    engine = engine_of(upper, port, clock=Clock(ending_after=0))
    engine.handle(batch_of([b"a"]))
    engine.drain()
    assert port.given_back == [(1, 0.0, False)]


@pytest.mark.parametrize("error", [ConnectionLost("gone"), NotAllowed("no")])
def test_what_concerns_all_ends_the_worker(error: Exception) -> None:
    port = FakePort()
    port.refuse = lambda made: error  # type: ignore[assignment,return-value]
    engine = engine_of(upper, port)
    with pytest.raises(type(error)):
        engine.handle(batch_of([b"a", b"b"]))
    engine.let_go()
    assert port.dead == []
    assert port.given_back == [(1, 0.0, False), (2, 0.0, False)]


def test_a_worker_that_is_to_end_gives_back_what_it_has_not_begun() -> None:
    port, seen = FakePort(), []

    @step(reads="det", writes="out")
    def slow(message: Message) -> bytes:
        seen.append(message.id)
        return payload(message)

    engine = engine_of(slow, port, ending=lambda: len(seen) >= 2)
    with pytest.raises(Stopped):
        engine.handle(batch_of([b"a", b"b", b"c", b"d"]))
    engine.drain()
    assert port.values == [(1, b"a"), (2, b"b")]
    assert port.given_back == [(3, 0.0, False), (4, 0.0, False)]


def test_an_instance_that_cannot_be_made_is_not_the_fault_of_the_inputs() -> None:
    @step(reads="det", writes="out")
    class Broken:
        def __init__(self) -> None:
            raise OSError("no calibration")

        def process(self, message: Message) -> bytes:
            return b""

    port = FakePort()
    engine = engine_of(Broken, port)
    with pytest.raises(StepFailed, match="no calibration"):
        engine.handle(batch_of([b"a"]))
    engine.let_go()
    assert port.dead == []
    assert port.given_back == [(1, 0.0, False)]


# ---------------------------------------------------------------------------- failures


def test_a_failure_is_written_down_with_the_dead_letter() -> None:
    port = FakePort()
    engine = engine_of(upper, port)
    engine.handle(batch_of([b"a", b"bad", b"c"]))
    assert port.dead == [2]
    [meta] = port.failed
    assert meta["error"] == "cannot do bad"
    assert meta["type"] == "ValueError"
    assert "in upper" in meta["traceback"]
    assert "calling.py" not in meta["traceback"]
    assert (meta["step"], meta["run"], meta["id"], meta["seq"]) == ("p.step", 1, 2, 2)
    assert port.values == [(1, b"A"), (3, b"C")]
    assert engine.counts.failed == 1


def test_skip_settles_with_a_tombstone() -> None:
    port = FakePort()
    engine_of(upper, port, on_error=OnError(then="skip")).handle(batch_of([b"bad", b"b"]))
    assert port.dead == []
    assert port.skips == [(1, 2)]
    assert port.settled == [1, 2]
    assert port.failed[0]["then"] == "skip"


def test_stop_ends_the_worker_and_gives_back() -> None:
    port = FakePort()
    engine = engine_of(upper, port, on_error=OnError(then="stop"))
    with pytest.raises(Stopped, match="cannot do bad"):
        engine.handle(batch_of([b"a", b"bad", b"c", b"d"]))
    engine.drain()
    assert port.settled == [1]
    assert sorted(port.given_back) == [(2, 0.0, False), (3, 0.0, False), (4, 0.0, False)]


def test_unordered_work_is_offered_again_to_anyone() -> None:
    port = FakePort()
    policy = OnError(retry=2, backoff_s=0.5)
    engine_of(upper, port, on_error=policy).handle(batch_of([b"bad", b"b"]))
    assert port.given_back == [(1, 0.5, True)]
    assert port.failed == []
    assert port.settled == [2]


def test_ordered_work_is_tried_again_in_place() -> None:
    calls: list[int] = []

    @step(reads="det", writes="out", mode="ordered")
    def flaky(message: Message) -> bytes:
        calls.append(message.id)
        if message.id == 2 and calls.count(2) < 3:
            raise ValueError("not yet")
        return payload(message)

    port, clock = FakePort(), Clock()
    policy = OnError(retry=2, backoff_s=0.5)
    engine_of(flaky, port, on_error=policy, clock=clock).handle(batch_of([b"a", b"b", b"c"]))
    assert calls == [1, 2, 2, 2, 3]
    assert list(clock.pauses) == [0.5, 1.0]
    assert [id for id, _ in port.values] == [1, 2, 3]
    assert port.given_back == []


def test_a_worker_that_ends_while_it_waits_gives_back_the_rest() -> None:
    @step(reads="det", writes="out", mode="ordered")
    def never(message: Message) -> bytes:
        raise ValueError("no")

    port = FakePort()
    engine = engine_of(never, port, on_error=OnError(retry=9), clock=Clock(ending_after=1))
    with pytest.raises(Stopped):
        engine.handle(batch_of([b"a", b"b"]))
    engine.drain()
    assert sorted(port.given_back) == [(1, 0.0, False), (2, 0.0, False)]


def test_a_header_that_does_not_suit_fails_the_inputs() -> None:
    @step(reads="det", writes="out", header=["energy"])
    def scaled(message: Message, *, energy: float) -> bytes:
        return f"{energy:g}".encode()

    port = FakePort()
    engine = engine_of(scaled, port)
    engine.handle(Header("det", "stream", 1, {"energy": "high"}))
    engine.handle(batch_of([b"a"]))
    engine.handle(Header("det", "stream", 2, {"energy": 12}))
    engine.handle(batch_of([b"b"], first=2))
    assert port.dead == [1]
    assert "energy" in port.failed[0]["error"]
    assert port.values == [(2, b"12")]
    assert port.runs[-1] == {"values": {"energy": 12.0}, "v": 0, "h": 2}


# ------------------------------------------------------------------------------ batches


def test_a_batch_that_raises_is_called_one_by_one() -> None:
    sizes: list[int] = []

    @step(reads="det", writes="out", batch=3)
    def together(messages: list[Message]) -> list[bytes]:
        sizes.append(len(messages))
        if any(payload(one) == b"bad" for one in messages):
            raise ValueError("bad")
        return [payload(one) for one in messages]

    port = FakePort()
    engine_of(together, port).handle(batch_of([b"a", b"bad", b"c", b"d"]))
    assert sizes == [3, 1, 1, 1, 1]
    assert port.dead == [2]
    assert [id for id, _ in port.values] == [1, 3, 4]


def test_a_batch_with_a_wrong_number_of_results_fails() -> None:
    @step(reads="det", writes="out", batch=2)
    def short(messages: list[Message]) -> list[bytes]:
        return [b"x"] * 3

    port = FakePort()
    engine_of(short, port).handle(batch_of([b"a", b"b"]))
    assert port.dead == [1, 2]
    assert "3 results for 1 inputs" in port.failed[0]["error"]


# ------------------------------------------------------------------------------ windows


@step(reads="det", writes="out", window=3)
def joined(messages: list[Message]) -> bytes | None:
    data = b"".join(payload(one) for one in messages)
    if b"!" in data:
        raise ValueError("no")
    return data or None


def test_windows_are_blocks_of_ids() -> None:
    port = FakePort()
    engine = engine_of(joined, port)
    engine.handle(batch_of([b"a", b"b", b"c", b"d"]))
    engine.handle(batch_of([b"f", b"g"], first=6))
    engine.handle(Gap("det", "stream", 8, 11))
    engine.handle(end_of(10, "next"))
    assert port.values == [(1, b"abc"), (2, b"df"), (3, b"g")]
    assert [made.spans for made in port.published] != [None, None, None]
    assert port.settled == [1, 2, 3, 4, 6, 7]
    assert port.finished == [("stream", 4, "next")]


def test_the_last_window_is_closed_when_nothing_more_can_come() -> None:
    port = FakePort()
    engine = engine_of(joined, port)
    engine.handle(batch_of([b"a", b"b"]))
    engine.idle()
    assert port.published == []
    port.at_end = True
    engine.idle()
    assert port.values == [(1, b"ab")]


def test_a_window_that_fails_is_dead_as_a_whole() -> None:
    port = FakePort()
    engine = engine_of(joined, port)
    engine.handle(batch_of([b"a", b"!", b"c", b"d", b"e", b"f"]))
    assert port.dead == [1, 2, 3]
    assert port.failed[0]["ids"] == [1, 3]
    assert port.values == [(2, b"def")]


def test_an_unfinished_window_is_given_back_at_the_end() -> None:
    port = FakePort()
    engine = engine_of(joined, port)
    engine.handle(batch_of([b"a", b"b", b"c", b"d"]))
    engine.drain()
    assert port.settled == [1, 2, 3]
    assert port.given_back == [(4, 0.0, False)]


# ----------------------------------------------------------------------- ordered output


@step(reads="det", writes="out", output="ordered")
def in_order(message: Message) -> bytes:
    return payload(message)


def test_results_wait_until_all_before_them_is_settled() -> None:
    port = FakePort()
    engine = engine_of(in_order, port)
    engine.handle(Settled("det", "stream", 1))
    engine.handle(batch_of([b"c"], first=3))
    assert port.published == []
    engine.handle(batch_of([b"a"], first=1))
    assert port.values == [(1, b"a")]
    engine.handle(Settled("det", "stream", 3))
    assert port.values == [(1, b"a"), (3, b"c")]


def test_held_results_are_given_back_at_the_end() -> None:
    port = FakePort()
    engine = engine_of(in_order, port)
    engine.handle(batch_of([b"b", b"c"], first=2))
    engine.drain()
    assert port.given_back == [(2, 0.0, False), (3, 0.0, False)]


def test_too_many_held_results_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "HELD_WORKS", 2)
    port = FakePort()
    engine = engine_of(in_order, port)
    engine.handle(batch_of([b"b", b"c", b"d", b"e"], first=2))
    assert port.given_back == [(4, 0.5, False), (5, 0.5, False)]
    engine.handle(Settled("det", "stream", 2))
    assert port.values == [(2, b"b"), (3, b"c")]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.randoms())
def test_two_workers_publish_in_the_order_of_their_inputs(sizes: list[int], random: Any) -> None:
    """Whatever each is given, and whenever it learns how far all is settled."""
    ports, order = [FakePort(), FakePort()], []

    def publishing(made: Publication) -> None:
        order.extend(made.ids or [])

    for port in ports:
        port.refuse = lambda made: publishing(made)  # type: ignore[func-returns-value]
    engines = [engine_of(in_order, port) for port in ports]
    first, batches = 1, []
    for size in sizes:
        batches.append(batch_of([b"x"] * size, first=first))
        first += size
    random.shuffle(batches)
    for batch in batches:
        random.choice(engines).handle(batch)
        settled = {seq for port in ports for seq in port.settled}
        told = next(seq for seq in range(1, first + 1) if seq not in settled)
        random.choice(engines).handle(Settled("det", "stream", told))
    for _ in range(first):
        settled = {seq for port in ports for seq in port.settled}
        told = next(seq for seq in range(1, first + 1) if seq not in settled)
        for engine in engines:
            engine.handle(Settled("det", "stream", told))
    assert order == list(range(1, first))


# -------------------------------------------------------------------- streams and state


@step(reads="det", writes="out", many=True)
class Counting:
    start: int = 0

    def on_stream_start(self, header: dict[str, Any]) -> None:
        self.count = self.start + int(header.get("from", 0))

    def process(self, message: Message) -> list[bytes]:
        self.count += 1
        return [b"%d" % self.count] if message.id % 2 else []

    def on_stream_end(self, reason: str) -> list[bytes]:
        return [f"{reason} {self.count}".encode()]


def test_a_class_has_an_instance_for_each_stream() -> None:
    port = FakePort()
    engine = engine_of(Counting, port, start=10)
    engine.handle(Header("det", "s1", 1, {"from": 100}))
    for stream in ("s1", "s2"):
        engine.handle(as_batch([b"a", b"b", b"c"], ids=[1, 2, 3], stream=stream, source="det"))
    engine.handle(end_of(3)._replace(stream="s1"))
    engine.handle(end_of(3)._replace(stream="s2"))
    found = {}
    for made in port.published:
        found.setdefault(made.stream, []).extend(made.values)
    assert found == {
        "s1": [b"111", b"113", b"finished 113"],
        "s2": [b"11", b"13", b"finished 13"],
    }
    last = port.published[-1]
    assert (last.seqs, last.ks, last.settles) == ((3,), (AT_THE_END,), [])
    assert port.finished == [("s1", None, ""), ("s2", None, "")]
    assert port.closed == ["s1", "s2"]


def test_a_stream_is_finished_after_its_last_result() -> None:
    port = FakePort()
    port.slow = True
    engine = engine_of(upper, port)
    engine.handle(batch_of([b"a", b"none"]))
    assert engine.counts.done == 0
    engine.handle(end_of(2, "scan2"))
    assert engine.counts.done == 2
    assert port.finished == [("stream", 2, "scan2")]


def test_a_stream_that_is_gone_is_not_finished() -> None:
    port = FakePort()
    engine_of(upper, port).handle(end_of(2)._replace(reason="gone"))
    assert port.finished == []


def test_parameters_change_with_the_next_input_and_are_another_run() -> None:
    port = FakePort()
    engine = engine_of(upper, port)
    engine.handle(batch_of([b"a"]))
    engine.set_parameters({"suffix": "!"}, 7)
    engine.handle(batch_of([b"b"], first=2))
    assert port.values == [(1, b"A"), (2, b"B!")]
    assert [made.run for made in port.published] == [1, 2]
    assert port.runs[1] == {"values": {"suffix": "!"}, "v": 7, "h": 0}


# -------------------------------------------------------------------------- all at once


@given(
    kinds=st.lists(
        st.sampled_from(["ok", "none", "bad", "conflict", "stale", "full"]), max_size=30
    ),
    cuts=st.lists(st.integers(1, 5), max_size=30),
    slow=st.booleans(),
    then=st.sampled_from(["dead", "skip"]),
)
def test_each_input_is_settled_exactly_once(
    kinds: list[str], cuts: list[int], slow: bool, then: Any
) -> None:
    """Whatever the step and the node do; but for what somebody else has by now."""
    port, full = FakePort(), set()
    port.slow = slow
    by_id = dict(enumerate(kinds, 1))

    def refuse(made: Publication) -> Any:
        for id in made.ids or []:
            if by_id[id] == "conflict":
                return IdConflict("other content")
            if by_id[id] == "stale":
                return StaleLease("too late")
            if by_id[id] == "full" and id not in full:
                full.add(id)
                return CacheFull("full")
        return None

    port.refuse = refuse
    engine = engine_of(upper, port, on_error=OnError(then=then))
    values = [{"none": b"none", "bad": b"bad"}.get(kind, b"ok") for kind in kinds]
    at = 0
    while at < len(values):
        size = cuts.pop() if cuts else 3
        engine.handle(batch_of(values[at : at + size], first=at + 1))
        at += size
    engine.drain()
    stale = [id for id, kind in by_id.items() if kind == "stale"]
    assert sorted([*port.settled, *port.dead, *stale]) == list(by_id)
    assert [id for id, _ in sorted(port.values)] == [
        id for id, kind in by_id.items() if kind in ("ok", "full")
    ]
    assert engine.counts.stale == len(stale)
    assert engine.counts.failed == sum(kind in ("bad", "conflict") for kind in kinds)
