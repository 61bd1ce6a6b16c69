"""Ranges that come once more, on a real node."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from beamstream.client.native.hub import Hub
from beamstream.client.native.messages import Message
from beamstream.errors import BadInput, BadParameter, BadPipeline, Conflict, NotFound
from beamstream.worker import versions
from beamstream.worker.pacing import MAX, Rate
from beamstream.worker.provenance import chain
from beamstream.worker.provenance_check import verify
from beamstream.worker.replay_steps import StepJob, find_job
from beamstream.worker.replaying import Plan, Progress, Replay, parse_target, plan

pytestmark = pytest.mark.system

Row = tuple[int, bytes, dict[str, object], bytes]


def detector(hub: Hub, count: int = 20, stream: str = "scan1") -> None:
    """Frames with ids 1 … count, and a header."""
    hub.source("eiger").stream(stream).set_meta({"offset": 5})
    with hub.source("eiger").stream(stream).writer() as writer:
        for id in range(1, count + 1):
            writer.send(np.full((3, 4), id, "<u4"), {"angle": id / 10}, id=id)


def content(hub: Hub, address: str) -> list[Row]:
    """All that a reader can tell of the messages of a stream."""
    found = hub.stream(address)[:]
    return [
        (one.id, bytes(one.data), one.meta, one.digest) for one in found if isinstance(one, Message)
    ]


def planned(hub: Hub, job: StepJob, ids: range = range(1, 21), **more: object) -> Plan:
    target = parse_target("step:it")
    return plan(hub, "eiger", "scan1", ids, target, more.pop("rate", MAX), job=job, **more)  # type: ignore[arg-type]


class Turns:
    """A clock that is a second later at each look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def carried_out(hub: Hub, made: Plan, job: StepJob | None = None) -> tuple[Replay, Progress]:
    doing = Replay(hub, made, job)
    last = list(doing.run(threading.Event()))[-1]
    assert doing.finished
    return doing, last


def job_of(steps: Path, name: str, **given: str) -> StepJob:
    return find_job(f"{steps}:{name}", None, given)


# ----------------------------------------------------------------------------- to a step


def test_a_dry_run_says_all_and_changes_nothing(hub: Hub, steps: Path) -> None:
    detector(hub)
    before = [row.stream for row in hub.streams()]
    made = planned(hub, job_of(steps, "scale", factor="3"), range(5, 11), rate=Rate(hz=2))
    assert (made.measured.count, made.measured.nbytes, made.seconds) == (6, 6 * 48, 3.0)
    assert (made.to_source, made.to_stream, made.begin) == ("scaled", "scan1~r2", 5)
    assert made.document is not None
    assert made.document["parameters"] == {"factor": 3, "offset": 5}
    assert made.document["replay_of"] == {
        "source": "eiger", "stream": "scan1", "ids": [5, 11], "run": 0,
    }  # fmt: skip
    assert [row.stream for row in hub.streams()] == before
    assert hub.runs() == []


def test_results_keep_ids_and_the_stream_ends(hub: Hub, steps: Path) -> None:
    detector(hub)
    job = job_of(steps, "scale", factor="3")
    doing, last = carried_out(hub, planned(hub, job, range(5, 11)), job)
    assert (last.done, last.total, last.results, last.failed) == (6, 6, 6, 0)
    found = content(hub, "scaled/scan1~r2")
    assert [row[0] for row in found] == list(range(5, 11))
    assert found[0][1] == np.full((3, 4), 20, "<u4").tobytes()
    assert found[0][2] == {"angle": 0.5, "mean": 5.0}
    row = hub.stream("scaled/scan1~r2").info()
    assert row is not None
    assert row.last_id == 10
    origin = hub.stream("scaled/scan1~r2").origin(7)
    assert origin is not None
    assert (origin.run, origin.k, [one.id for one in origin.inputs]) == (doing.run_no, 0, [7])


@pytest.mark.parametrize("name", ["scale", "even", "rows", "Summed"])
def test_twice_is_the_same_byte_for_byte(hub: Hub, steps: Path, name: str) -> None:
    detector(hub)
    streams = []
    for _ in range(2):
        job = job_of(steps, name)
        made = planned(hub, job)
        carried_out(hub, made, job)
        streams.append(f"{made.to_source}/{made.to_stream}")
    assert [one.rpartition("~")[2] for one in streams] == ["r2", "r3"]
    first, second = (content(hub, one) for one in streams)
    assert first
    assert first == second
    assert len(hub.runs()) == 1


def test_what_a_step_gives_nothing_for_is_skipped(hub: Hub, steps: Path) -> None:
    detector(hub)
    job = job_of(steps, "even")
    _, last = carried_out(hub, planned(hub, job), job)
    assert (last.results, last.skipped) == (10, 10)
    row = hub.stream("even/scan1~r2").info()
    assert row is not None
    assert (row.count, row.skipped, row.last_id) == (10, 10, 20)


def test_windows_have_the_ids_of_their_blocks(hub: Hub, steps: Path) -> None:
    detector(hub, 10)
    job = job_of(steps, "mean4")
    carried_out(hub, planned(hub, job, range(1, 11)), job)
    found = content(hub, "mean/scan1~r2")
    assert [row[0] for row in found] == [1, 2, 3]
    assert np.frombuffer(found[2][1], "<f8")[0] == 9.5
    origin = hub.stream("mean/scan1~r2").origin(2)
    assert origin is not None
    assert [one.id for one in origin.inputs] == [5, 6, 7, 8]


def test_part_of_a_window_and_a_state_are_told(hub: Hub, steps: Path) -> None:
    detector(hub)
    told = planned(hub, job_of(steps, "mean4"), range(6, 21)).warnings
    assert any("begin with id 5" in text for text in told)
    assert not any("window" in text for text in planned(hub, job_of(steps, "mean4")).warnings)
    told = planned(hub, job_of(steps, "Summed"), range(6, 21)).warnings
    assert any("begins with id 6" in text for text in told)


def test_failures_are_listed_and_stop_nobody(hub: Hub, steps: Path) -> None:
    detector(hub, 9)
    job = job_of(steps, "strict")
    _, last = carried_out(hub, planned(hub, job, range(1, 10)), job)
    assert (last.results, last.failed) == (6, 3)
    assert "no thirds" in last.note
    notes = [row[2] for row in content(hub, "strict.failed/scan1~r2")]
    assert [note["id"] for note in notes] == [3, 6, 9]
    assert "ValueError" in str(notes[0]["traceback"])


# ------------------------------------------------------------------------ stopping, going on


@pytest.mark.parametrize("name", ["scale", "even", "rows", "mean4", "Summed"])
@pytest.mark.parametrize("after", [0, 6, 20])
def test_an_interrupted_one_goes_on_to_the_same_end(
    hub: Hub, steps: Path, name: str, after: int
) -> None:
    detector(hub)
    job, whole_job = job_of(steps, name), job_of(steps, name)
    # At a rate it takes some messages at a time, and the clock is ours.
    made = planned(hub, job, rate=Rate(hz=10))
    stop, clock = threading.Event(), [0.0]
    doing = Replay(hub, made, job, clock=lambda: clock[0])
    for progress in doing.run(stop):
        if progress.done >= after:
            stop.set()
        clock[0] += 0.1
    assert not doing.finished
    again = planned(hub, job)
    assert again.to_stream == made.to_stream
    assert again.begin <= max(after, 1) + 1
    carried_out(hub, again, job)
    whole = planned(hub, whole_job)
    assert whole.to_stream == "scan1~r3"
    carried_out(hub, whole, whole_job)
    assert content(hub, f"{made.to_source}/scan1~r2") == content(hub, f"{made.to_source}/scan1~r3")
    assert len(hub.runs()) == 1


def test_going_on_begins_with_what_is_missing(hub: Hub, steps: Path) -> None:
    detector(hub, 8)
    first = job_of(steps, "strict")
    stop = threading.Event()
    doing = Replay(hub, planned(hub, first, range(1, 9), rate=Rate(hz=1)), first, clock=Turns())
    for progress in doing.run(stop):
        if progress.done >= 5:
            stop.set()
    found = planned(hub, first, range(1, 9))
    assert [row[0] for row in content(hub, "strict/scan1~r2")] == [1, 2, 4, 5]
    # Number 3 has failed.
    assert (found.to_stream, found.begin) == ("scan1~r2", 3)
    _, last = carried_out(hub, found, first)
    assert (last.done, last.total) == (8, 8)
    assert [row[0] for row in content(hub, "strict/scan1~r2")] == [1, 2, 4, 5, 7, 8]
    assert len(content(hub, "strict.failed/scan1~r2")) == 2


def test_fresh_begins_a_new_one(hub: Hub, steps: Path) -> None:
    detector(hub)
    job = job_of(steps, "scale")
    stop = threading.Event()
    turns = Replay(hub, planned(hub, job), job).run(stop)
    next(turns)
    stop.set()
    list(turns)
    assert planned(hub, job).to_stream == "scan1~r2"
    hub.stream("scaled/scan1~r2").writer(finish=False).send(b"", id=1).result(10)
    assert planned(hub, job, fresh=True).to_stream == "scan1~r3"


def test_other_parameters_are_another_replay(hub: Hub, steps: Path) -> None:
    detector(hub)
    first, second = job_of(steps, "scale"), job_of(steps, "scale", factor="7")
    carried_out(hub, planned(hub, first, into="trial"), first)
    with pytest.raises(Conflict, match="not of this replay"):
        planned(hub, second, into="trial")
    done = planned(hub, first, into="trial")
    assert done.done
    _, last = carried_out(hub, done, first)
    assert (last.done, last.results) == (20, 0)


def test_old_results_are_never_written_to(hub: Hub, steps: Path) -> None:
    detector(hub)
    hub.stream("scaled/scan1").writer().send(b"old", id=1).result(10)
    job = job_of(steps, "scale")
    with pytest.raises(Conflict, match="not of this replay"):
        planned(hub, job, into="scan1")
    with pytest.raises(BadInput, match="into itself"):
        planned(hub, job, into="eiger/scan1")


# ---------------------------------------------------------------------- what cannot be


def test_what_cannot_be_replayed(hub: Hub, steps: Path) -> None:
    detector(hub)
    with pytest.raises(NotFound, match="nothing to replay"):
        planned(hub, job_of(steps, "scale"), range(100, 200))
    with pytest.raises(BadInput, match="writes nothing"):
        planned(hub, job_of(steps, "sink"))
    with pytest.raises(BadInput, match="joins 2 sources"):
        planned(hub, job_of(steps, "both"))
    with pytest.raises(BadInput, match="all ids of a range"):
        planned(hub, job_of(steps, "scale"), range(1, 10, 2))
    with pytest.raises(BadParameter):
        job_of(steps, "scale", factor="many")
    assert hub.runs() == []


def test_a_step_of_a_pipeline_has_its_parameters(hub: Hub, steps: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "pipeline: demo\nsteps:\n  big:\n    run: ./steps.py:scale\n    reads: eiger\n"
        "    writes: large\n    parameters: {factor: 100}\n"
    )
    detector(hub)
    job = find_job("big", file, {})
    made = planned(hub, job)
    assert (made.to_source, job.step_id) == ("large", "demo.big")
    assert made.document is not None
    assert made.document["parameters"]["factor"] == 100
    assert find_job("big", file, {"factor": "4"}).given == {"factor": 4}
    with pytest.raises(BadPipeline, match="has no step"):
        find_job("small", file, {})


# --------------------------------------------------------------------- to a stream, a group


def test_copies_are_as_their_originals(hub: Hub) -> None:
    detector(hub)
    target = parse_target("stream:")
    made = plan(hub, "eiger", "scan1", range(3, 18), target)
    assert (made.to_source, made.to_stream) == ("eiger", "scan1~r2")
    doing, last = carried_out(hub, made)
    assert (last.done, last.nbytes) == (15, 15 * 48)
    assert content(hub, "eiger/scan1~r2") == content(hub, "eiger/scan1")[2:17]
    origin = hub.stream("eiger/scan1~r2").origin(5)
    assert origin is not None
    assert (origin.run, origin.k) == (doing.run_no, -1)
    header = hub.stream("eiger/scan1~r2").meta
    assert header is not None
    assert (header["offset"], header["replay"]["run"]) == (5, doing.run_no)
    assert plan(hub, "eiger", "scan1", range(3, 18), target).to_stream == "scan1~r3"


def test_copies_come_at_the_rate_that_was_asked_for(hub: Hub) -> None:
    detector(hub)
    made = plan(hub, "eiger", "scan1", range(1, 21), parse_target("stream:lab/try"), Rate(hz=10))
    clock = [0.0]
    seen = []
    for progress in Replay(hub, made, clock=lambda: clock[0]).run(threading.Event()):
        seen.append((round(clock[0], 3), progress.done))
        clock[0] += 0.5
    assert seen[-1][1] == 20
    # Never ahead of the clock, which goes in steps of half a second.
    assert all(done <= 10 * (at + 0.5) + 1 for at, done in seen)
    assert len({done for _, done in seen}) >= 4
    assert [row[0] for row in content(hub, "lab/try")] == list(range(1, 21))


def test_a_group_gets_the_range_again(hub: Hub) -> None:
    detector(hub)
    stream = hub.stream("eiger/scan1")
    assert len(list(stream.group("azint", timeout=5.0))) == 20
    made = plan(hub, "eiger", "scan1", range(4, 8), parse_target("group:azint"))
    assert any("twice" in text for text in made.warnings)
    _, last = carried_out(hub, made)
    assert last.done == 4
    assert sorted(one.id for one in stream.group("azint", timeout=5.0)) == [4, 5, 6, 7]  # type: ignore[union-attr]
    with pytest.raises(NotFound, match="no group"):
        plan(hub, "eiger", "scan1", range(4, 8), parse_target("group:nobody"))


def test_a_step_that_writes_nothing_may_be_told_where_to(hub: Hub, steps: Path) -> None:
    detector(hub)
    job = job_of(steps, "plain")
    carried_out(hub, planned(hub, job, into="lab/scan%201"), job)
    assert len(content(hub, "lab/scan%201")) == 20
    with pytest.raises(BadInput, match="no stream to write"):
        planned(hub, job_of(steps, "plain"), into="lab/scan1[1:2]")


def test_joined_messages_are_replayed_and_followed(hub: Hub, steps: Path) -> None:
    inputs = [hub.source(name).stream("scan1") for name in ("a", "b")]
    hub.source("both.join").stream("scan1").join(inputs)
    for number, stream in enumerate(inputs):
        with stream.writer() as writer:
            for id in range(1, 11):
                writer.send(np.full((2, 2), 10 * number + id, "<u2"), id=id)
    joined = hub.source("both.join").stream("scan1").group("wait", timeout=30.0)
    with joined.subscribe() as seen:
        assert [next(iter(seen)).id for _ in range(10)][-1] == 10  # type: ignore[union-attr]
    job = job_of(steps, "both")
    target = parse_target("step:both")
    made = plan(hub, "both.join", "scan1", range(1, 11), target, job=job)
    _, last = carried_out(hub, made, job)
    assert (last.results, last.done, last.total) == (10, 20, 20)
    found = content(hub, "both/scan1~r2")
    assert [np.frombuffer(row[1], "<u2")[0] for row in found] == [
        10 + 2 * id for id in range(1, 11)
    ]
    assert verify(hub, "both", "scan1~r2", 3).verdict == "same"
    tree = chain(hub, "both", "scan1~r2", 3)
    [item] = tree.inputs
    assert (item.source, item.id, item.state) == ("both.join", 3, "joined")
    assert [(one.source, one.id, one.state) for one in item.inputs] == [
        ("a", 3, "written"), ("b", 3, "written"),
    ]  # fmt: skip
    copied = plan(hub, "both.join", "scan1", range(1, 11), parse_target("stream:lab/joined"))
    carried_out(hub, copied)
    assert len(list(hub.source("lab").stream("joined")[:])) == 10


def test_a_range_of_a_stream_that_goes_on_ends_where_it_was_planned(hub: Hub, steps: Path) -> None:
    with hub.source("eiger").stream("scan1").writer(finish=False) as writer:
        writer.send_many(list(np.zeros((10, 2, 2), "<u2"))).result(10)
        job = job_of(steps, "scale")
        made = planned(hub, job, range(1, 11))
        assert any("not finished" in text for text in made.warnings)
        writer.send_many(list(np.zeros((10, 2, 2), "<u2"))).result(10)
        carried_out(hub, made, job)
    row = hub.stream("scaled/scan1~r2").info()
    assert row is not None
    assert (row.count, row.last_id) == (10, 10)


# --------------------------------------------------------------------------- provenance


def test_the_chain_goes_back_to_the_detector(hub: Hub, steps: Path) -> None:
    detector(hub)
    first = job_of(steps, "scale")
    carried_out(hub, planned(hub, first), first)
    second = job_of(steps, "mean4")
    target = parse_target("step:mean4")
    made = plan(hub, "scaled", "scan1~r2", range(1, 21), target, job=second)
    carried_out(hub, made, second)
    found = chain(hub, "mean", "scan1~r2~r2", 2)
    assert (found.state, found.inputs_count) == ("made", 4)
    assert found.document is not None
    assert found.document["step"] == "mean4"
    assert [one.id for one in found.inputs] == [5, 6, 7, 8]
    middle = found.inputs[0]
    assert middle.document is not None
    assert middle.document["parameters"] == {"factor": 2, "offset": 5}
    [raw] = middle.inputs
    assert (raw.source, raw.stream, raw.id, raw.state) == ("eiger", "scan1", 5, "written")
    assert raw.digest == hub.stream("eiger/scan1")[5].digest.hex()  # type: ignore[union-attr]
    short = chain(hub, "mean", "scan1~r2~r2", 2, depth=1)
    assert short.inputs[0].state == "not followed"
    assert short.inputs[0].inputs == ()
    assert verify(hub, "mean", "scan1~r2~r2", 2).verdict == "same"
    with pytest.raises(NotFound):
        chain(hub, "mean", "scan1~r2~r2", 77)


def test_many_inputs_are_counted_and_all_are_checked(hub: Hub, steps: Path) -> None:
    detector(hub, 40)
    job = job_of(steps, "mean20")
    carried_out(hub, planned(hub, job, range(1, 41)), job)
    found = chain(hub, "mean", "scan1~r2", 2)
    assert (len(found.inputs), found.inputs_count) == (16, 20)
    assert [one.id for one in found.inputs] == list(range(21, 37))
    assert verify(hub, "mean", "scan1~r2", 2).verdict == "same"


@pytest.mark.parametrize("name", ["scale", "even", "rows"])
def test_what_is_printed_is_executed_to_the_same_bytes(hub: Hub, steps: Path, name: str) -> None:
    detector(hub)
    job = job_of(steps, name)
    made = planned(hub, job)
    carried_out(hub, made, job)
    ids = [row[0] for row in content(hub, f"{made.to_source}/{made.to_stream}")]
    for id in ids:
        found = verify(hub, made.to_source, made.to_stream, id)
        assert (found.verdict, found.why) == ("same", "")


def test_why_something_cannot_be_checked(hub: Hub, steps: Path) -> None:
    detector(hub)
    assert "nobody has said" in verify(hub, "eiger", "scan1", 1).why
    jobs = {name: job_of(steps, name) for name in ("scale", "Summed")}
    for job in jobs.values():
        carried_out(hub, planned(hub, job), job)
    assert "keeps something" in verify(hub, "summed", "scan1~r2", 3).why
    copied = plan(hub, "eiger", "scan1", range(1, 21), parse_target("stream:lab/copy"))
    carried_out(hub, copied)
    assert verify(hub, "lab", "copy", 3).verdict == "same"
    assert chain(hub, "lab", "copy", 3).state == "copied"
    assert verify(hub, "scaled", "scan1~r2", 3).verdict == "same"
    steps.write_text(steps.read_text() + "\n# Another code.\n")
    assert "another one" in verify(hub, "scaled", "scan1~r2", 3).why
    hub.stream("eiger/scan1").delete()
    gone = chain(hub, "scaled", "scan1~r2", 3)
    assert gone.inputs[0].state == "gone"


def test_a_result_that_is_another_one_is_found(hub: Hub, steps: Path) -> None:
    detector(hub)
    job = job_of(steps, "scale")
    made = planned(hub, job)
    doing, _ = carried_out(hub, made, job)
    from beamstream.client.native.origins import Origin

    with hub.stream("scaled/forged").writer() as writer:
        origin = Origin(run=doing.run_no, source="eiger", stream="scan1", seqs=(4,))
        writer.publish([np.zeros((3, 4), "<u4")], [{"angle": 0.4}], made=origin, ids=[4])
    found = verify(hub, "scaled", "forged", 4)
    assert (found.verdict, found.why) == ("differs", "payload and metadata")


def test_what_was_set_while_workers_run_holds_for_a_replay(hub: Hub, steps: Path) -> None:
    detector(hub)
    versions.begin(hub, "scale", {}, "start")
    changed = versions.change(hub, "scale", {"factor": 7}, "somebody")
    made = planned(hub, job_of(steps, "scale"))
    assert made.document is not None
    assert made.document["parameters"] == {"factor": 7, "offset": 5}
    assert made.document["parameters_version"] == changed.version
    typed = planned(hub, job_of(steps, "scale", factor="8"))
    assert typed.document is not None
    assert typed.document["parameters"] == {"factor": 8, "offset": 5}
    assert typed.document["parameters_version"] == 0
