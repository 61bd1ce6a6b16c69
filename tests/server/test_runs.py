"""Runs, headers and origins on a real node, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from beamstream import limits
from beamstream.errors import Error
from beamstream.testing.native import NativeWire
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls, frames

pytestmark = pytest.mark.system

BT = "bt1"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("runs") / "data", cache="64MiB") as node:
        yield node


@pytest.fixture
def wire(node: NodeProcess) -> Iterator[NativeWire]:
    with NativeWire.of(node) as wire:
        wire.login(node.token(BT))
        yield wire


def test_a_run_is_written_down_once(node: NodeProcess, wire: NativeWire) -> None:
    first = wire.call("run.define", calls.DefineRun(document=b'{"step":"a","factor":2}'))
    again = wire.call("run.define", calls.DefineRun(document=b'{"factor": 2, "step": "a"}'))
    other = wire.call("run.define", calls.DefineRun(document=b'{"step":"a","factor":4}'))
    assert again == first
    assert other.no > first.no >= 1
    assert wire.call("run", calls.GetRun(no=other.no)) == other
    assert wire.call("run", calls.GetRun(no=10**6)) is None
    assert wire.call("runs", calls.ListRuns(limit=2)) == [other, first]
    assert wire.call("runs", calls.ListRuns(before=other.no, limit=9))[0] == first
    with NativeWire.of(node) as reader:
        reader.login(node.token(BT, "read"))
        assert reader.call("run", calls.GetRun(no=first.no)) == first
        with pytest.raises(Error, match="E202"):
            reader.call("run.define", calls.DefineRun(document=b"{}"))
    for document, code in (
        (b"[]", "E102"),
        (b"{", "E102"),
        (b'{"x":"%s"}' % bytes(limits.RUN_NBYTES_MAX).replace(b"\0", b"x"), "E105"),
    ):
        with pytest.raises(Error, match=code):
            wire.call("run.define", calls.DefineRun(document=document))
    with pytest.raises(Error, match="E100"):
        wire.call("runs", calls.ListRuns(limit=0))


def test_runs_are_kept_over_a_restart(node: NodeProcess, wire: NativeWire) -> None:
    document = b'{"step":"kept"}'
    run = wire.call("run.define", calls.DefineRun(document=document))
    wire.close()
    node.restart(kill=True)
    with NativeWire.of(node) as later:
        later.login(node.token(BT))
        assert later.call("run", calls.GetRun(no=run.no)) == run
        assert later.call("run.define", calls.DefineRun(document=document)) == run


def test_a_long_list_of_runs_comes_in_pieces(wire: NativeWire) -> None:
    filler = b"x" * (limits.RUN_NBYTES_MAX - 100)
    numbers = [
        wire.call("run.define", calls.DefineRun(document=b'{"k":%d,"x":"%s"}' % (k, filler))).no
        for k in range(40)
    ]
    found: list[int] = []
    before = 0
    while rows := wire.call("runs", calls.ListRuns(before=before, limit=1000)):
        found += [row.no for row in rows]
        before = rows[-1].no
    assert found[:40] == numbers[::-1]


def test_headers_have_versions(wire: NativeWire) -> None:
    def header(version: int = 0) -> calls.HeaderRow | None:
        question = calls.GetHeader(source="det", stream="scan", version=version)
        row: calls.HeaderRow | None = wire.call("header", question)
        return row

    assert header() is None
    for document in (b'{"energy":1}', b'{"energy":2}', b'{"energy":2}'):
        wire.call("meta.set", calls.SetMeta(source="det", stream="scan", document=document))
    newest, first = header(), header(1)
    assert newest is not None
    assert first is not None
    assert (newest.version, newest.document) == (2, b'{"energy":2}')
    assert (first.version, first.document) == (1, b'{"energy":1}')
    assert first.changed_ns <= newest.changed_ns
    assert first.changed_ns > 0
    assert header(3) is None


def test_a_header_is_told_to_who_follows(wire: NativeWire) -> None:
    document = calls.SetMeta(source="det", stream="told", document=b'{"energy":1}')
    wire.call("meta.set", document)
    wire.subscribe("det", "told", "g", headers=True)
    told = wire.until(frames.Header)
    assert (told.version, told.document) == (1, b'{"energy":1}')
    document = calls.SetMeta(source="det", stream="told", document=b'{"energy":2}')
    wire.call("meta.set", document)
    assert wire.until(frames.Header).version == 2


def test_the_origin_of_what_nobody_made(wire: NativeWire) -> None:
    wire.open_writer("det", "raw")
    wire.put([b"frame"])
    row = wire.call("origin", calls.GetOrigin(source="det", stream="raw", id=1))
    assert (row.run, row.k, row.inputs, row.seq) == (0, -1, (), 1)
    assert wire.call("origin", calls.GetOrigin(source="det", stream="raw", id=2)) is None
    assert wire.call("origin", calls.GetOrigin(source="det", stream="never", id=1)) is None


def test_the_origin_of_a_joined_dataset(wire: NativeWire) -> None:
    inputs = (("left", "j"), ("right", "j"))
    for channel, (source, stream) in enumerate(inputs, 1):
        wire.open_writer(source, stream, channel=channel)
        wire.put([b"0", b"1"], channel=channel)
    wire.subscribe("both", "j", "g")
    wire.call("join", calls.Join(source="both", stream="j", inputs=inputs))
    wire.until(frames.Deliver)
    row = wire.call("origin", calls.GetOrigin(source="both", stream="j", id=1))
    assert (row.k, row.run) == (-1, 0)
    assert [(one.source, one.stream, one.id) for one in row.inputs] == [
        ("left", "j", 1),
        ("right", "j", 1),
    ]


def test_an_origin_names_at_most_some_thousand_inputs(wire: NativeWire) -> None:
    wire.open_writer("many", "s", level=1)
    for _ in range(2):
        wire.put([b"x"] * 4_000)
    wire.open_writer("mean", "s", channel=2)
    span = frames.pack_span(((1, 8_001),))
    wire.put([b"mean"], channel=2, made=frames.Made(1, "many", "s", (1,), spans=(span,)))
    row = wire.call("origin", calls.GetOrigin(source="mean", stream="s", id=1))
    assert [one.id for one in row.inputs] == list(range(1, 4_097))
