"""The verbs that people use against a node: in this process, so that a test costs no start."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from beamstream.cli.main import main
from beamstream.client.native.hub import Hub, connect
from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system


class Said(NamedTuple):
    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> object:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("node") / "data", cache="64MiB") as node:
        yield node


@pytest.fixture
def run(
    node: NodeProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> Run:
    monkeypatch.setenv("BEAMSTREAM_URL", node.connect["url"])
    monkeypatch.setenv("BEAMSTREAM_TOKEN", node.connect["token"])
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main([str(word) for word in words])
        out, err = capsysbinary.readouterr()
        return Said(status, out, err.decode())

    return run


@pytest.fixture
def hub(node: NodeProcess) -> Iterator[Hub]:
    with connect(node.connect["url"], token=node.connect["token"]) as hub:
        yield hub


def frames(count: int) -> np.ndarray:
    return np.arange(count * 6, dtype="<u2").reshape(count, 2, 3)


# ------------------------------------------------------------------------------ put, get


def test_files_go_in_as_they_are_and_come_out_the_same(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"first")
    (tmp_path / "b.bin").write_bytes(b"second")
    done = run("put", "a.bin", "b.bin", "files/s 1".replace(" ", "%20"), "--meta", '{"k": 7}')
    assert done.status == 0
    assert done.text.splitlines() == [
        "files/s%201[1]  a.bin  disk",
        "files/s%201[2]  b.bin  disk",
    ]
    assert "2 messages" in done.err
    assert run("get", "files/s%201", "-o", "-").out == b"firstsecond"
    back = run("get", "files/s%201", "-o", "back/")
    assert back.text.split() == ["back/a.bin", "back/b.bin"]
    assert (tmp_path / "back" / "b.bin").read_bytes() == b"second"
    assert [path.name for path in (tmp_path / "back").iterdir() if ".part" in path.name] == []
    [row] = run("get", "files/s%201[-1]", "--json").json
    assert (row["id"], row["nbytes"], row["meta"]) == (2, 6, {"k": 7})
    assert row["name"] == "processed/files/s 1/b.bin"
    assert row["array"] is None
    listed = run("get", "files/s%201[1:2]")
    assert listed.text.count("\n") == 1
    assert "files/s%201[1]" in listed.text


def test_standard_input_is_one_message(run: Run) -> None:
    data = bytes(range(256)) * 1000
    assert run("put", "-", "stdin/s", "--level", "cache", stdin=data).status == 0
    done = run("put", "-", "stdin/s", "--json", "--level", "os", stdin=b"")
    assert done.json == {
        "file": "-",
        "address": "stdin/s[2]",
        "id": 2,
        "name": "",
        "nbytes": 0,
        "level": "os",
        "duplicate": False,
    }
    assert run("get", "stdin/s[1]", "-o", "-").out == data
    assert run("get", "stdin/s[2]", "-o", "-").out == b""
    assert run("get", "stdin/s[1]", "-o", "all.raw").status == 0
    assert Path("all.raw").read_bytes() == data


def test_arrays_keep_their_shape(run: Run, tmp_path: Path) -> None:
    sent = frames(3)
    for number, frame in enumerate(sent):
        np.save(tmp_path / f"f{number}.npy", frame)
    done = run("put", "f0.npy", "f1.npy", "f2.npy", "arrays/a", "--arrays", "--finish")
    assert done.status == 0
    assert run("get", "arrays/a", "-o", "all.npy").text == "all.npy\n"
    np.testing.assert_array_equal(np.load("all.npy"), sent)
    assert np.load("all.npy").dtype == "<u2"
    run("get", "arrays/a[2]", "-o", "one.npy")
    np.testing.assert_array_equal(np.load("one.npy"), sent[1])
    run("get", "arrays/a[2:3]", "-o", "range.npy")
    assert np.load("range.npy").shape == (1, 2, 3)
    run("get", "arrays/a[::2]", "-o", "step.npy")
    np.testing.assert_array_equal(np.load("step.npy"), sent[::2])
    [row] = run("get", "arrays/a[3]", "--json").json
    assert row["array"] == {"dtype": "<u2", "shape": [2, 3], "codec": "raw"}
    assert row["meta"]["file"] == "f2.npy"
    facts = run("stream", "info", "arrays/a", "--json").json
    assert (facts["count"], facts["finished"], facts["last"]["id"]) == (3, True, 3)


def test_images_and_hdf5_are_written_and_read_again(run: Run, hub: Hub, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("fabio")
    sent = frames(2).astype("<i4")
    with hub.source("images").stream("a").writer() as writer:
        for number, frame in enumerate(sent):
            writer.send(frame, {"number": number})
    assert run("get", "images/a", "-o", "all.h5").status == 0
    with h5py.File("all.h5") as file:
        np.testing.assert_array_equal(file["entry/data/data"], sent)
        assert list(file["entry/data/id"]) == [1, 2]
        assert json.loads(file["entry/data/meta"][1]) == {"number": 1}
        assert file["entry"].attrs["stream"] == "a"
    assert run("get", "images/a", "-o", "f.cbf").text.split() == ["f_000001.cbf", "f_000002.cbf"]
    assert run("get", "images/a[2]", "-o", "one.tif").text.split() == ["one.tif"]
    assert run("put", "f_000001.cbf", "one.tif", "all.h5", "images/b", "--arrays").status == 0
    assert run("get", "images/b", "-o", "b.npy").status == 0
    np.testing.assert_array_equal(np.load("b.npy"), [sent[0], sent[1], sent[0], sent[1]])
    # A file that was sent as such comes out as it was, not written anew.
    assert run("put", "f_000001.cbf", "images/c").status == 0
    run("get", "images/c[1]", "-o", "same.cbf")
    assert Path("same.cbf").read_bytes() == Path("f_000001.cbf").read_bytes()


def test_images_hold_what_their_format_holds(run: Run, hub: Hub) -> None:
    pytest.importorskip("fabio")
    stream = hub.source("images").stream("kinds")
    kinds = ("u1", "<u2", "<i4", "<u4", "<f4", "<f8")
    sent = [frames(1)[0].astype(kind) for kind in kinds]
    with stream.writer() as writer:
        for frame in sent:
            writer.send(frame)
        writer.send(frames(2))
        writer.send(np.array([[-(2**31), 2**31 - 1, 1]], "<i4"))
    for number, frame in enumerate(sent, 1):
        assert run("get", f"images/kinds[{number}]", "-o", f"{number}.tif").status == 0
        back = run("get", f"images/kinds[{number}]", "-o", f"{number}.cbf")
        assert back.status == (0 if frame.dtype.kind in "iu" else 1)
        for path in Path().glob(f"{number}.*"):
            assert run("put", path, f"images/back{path.suffix}", "--arrays").status == 0
            again = hub.stream(f"images/back{path.suffix}")[-1]
            np.testing.assert_array_equal(again.array(), frame)
    cube = run("get", "images/kinds[7]", "-o", "cube.tif")
    assert cube.status == 1
    assert "3 dimensions" in cube.err
    # The library packs differences of neighbours, and these do not fit.
    assert run("get", "images/kinds[8]", "-o", "far.cbf").status == 1
    assert run("get", "images/kinds[8]", "-o", "far.tif").status == 0
    assert sorted(path.name for path in Path().glob("*far*")) == ["far.tif"]


@pytest.mark.parametrize(("out", "package"), [("x.h5", "h5py"), ("x.cbf", "fabio.cbfimage")])
def test_what_has_to_be_installed_is_told(
    out: str, package: str, run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.source("packages").stream(package).writer() as writer:
        writer.send(frames(1)[0])
    monkeypatch.setitem(sys.modules, package, None)
    done = run("get", f"packages/{package}", "-o", out)
    assert done.status == 1
    assert "pip install" in done.err
    assert list(Path().iterdir()) == []


def test_arrays_that_do_not_go_together_are_refused(run: Run, hub: Hub) -> None:
    with hub.source("mixed").stream("a").writer() as writer:
        writer.send(np.zeros((2, 2), "u1"))
        writer.send(np.zeros((3, 3), "u1"))
    done = run("get", "mixed/a", "-o", "all.npy")
    assert done.status == 1
    assert "not one array" in done.err
    assert list(Path().iterdir()) == []


def test_a_folder_takes_names_that_are_good_here(run: Run, hub: Hub) -> None:
    with hub.source("names").stream("a").writer() as writer:
        for name in ("processed/n/x", "processed/m/x", "processed/n/.profile", ""):
            writer.send(name.encode(), name=name)
    written = run("get", "names/a", "-o", "out/").text.split()
    assert written == ["out/x", "out/a_000002", "out/a_000003", "out/a_000004"]
    assert Path("out/a_000002").read_bytes() == b"processed/m/x"


def test_datasets_come_as_their_parts(run: Run, hub: Hub) -> None:
    sent = frames(4).reshape(2, 2, 2, 3)
    with hub.source("datasets").stream("a").writer() as writer:
        for id, parts in enumerate(sent, 1):
            for substream, part in enumerate(parts, 1):
                writer.send(part, {"part": substream}, id=id, substream=substream, of=2)
    rows = run("get", "datasets/a", "--json").json
    assert [(row["id"], row["expected"], len(row["parts"])) for row in rows] == [
        (1, 2, 2),
        (2, 2, 2),
    ]
    assert rows[1]["parts"][0]["meta"] == {"part": 1}
    assert "2 of 2 parts" in run("get", "datasets/a[1]").text
    run("get", "datasets/a", "-o", "all.npy")
    np.testing.assert_array_equal(np.load("all.npy"), sent.reshape(4, 2, 3))
    pieces = run("get", "datasets/a[2]", "-o", "f.raw").text.split()
    assert pieces == ["f_000002_1.raw", "f_000002_2.raw"]
    assert Path("f_000002_2.raw").read_bytes() == sent[1, 1].tobytes()
    [place] = run("find", "datasets/a", "_id = 2 AND meta.part = 1").text.split()[:1]
    assert place == "datasets/a[2]"
    assert "datasets" in run("stream", "info", "datasets/a").text
    [line] = run("watch", "datasets/a").text.splitlines()
    assert "head 2" in line


def test_files_are_not_replaced(run: Run) -> None:
    Path("x.npy").write_bytes(b"mine")
    run("put", "-", "keep/a", stdin=b"data")
    for out in ("x.npy", "x.bin"):
        Path(out).write_bytes(b"mine")
        done = run("get", "keep/a[1]", "-o", out)
        assert done.status == 2
        assert "--force" in done.err
        assert Path(out).read_bytes() == b"mine"
    assert run("get", "keep/a[1]", "-o", "x.bin", "--force").status == 0
    assert Path("x.bin").read_bytes() == b"data"


def test_times_are_ranges(run: Run, hub: Hub) -> None:
    with hub.source("times").stream("a").writer(finish=False) as writer:
        for number in range(20):
            writer.send(b"%d" % number)
            writer.flush()
    rows = run("get", "times/a", "--json").json
    fifth, tenth = rows[4]["time"], rows[9]["time"]
    some = run("get", f"times/a[t>={fifth},t<{tenth}]", "--json").json
    ids = [row["id"] for row in some]
    # Times are shown in microseconds; the node's are finer.
    assert ids[0] in (5, 6)
    assert ids == list(range(ids[0], ids[-1] + 1))
    assert ids[-1] in (9, 10)
    assert run("get", "times/a[t<2001-01-01T00:00Z]").status == 1


def test_what_cannot_be_sent_is_named_and_the_rest_is(run: Run) -> None:
    Path("good").write_bytes(b"good")
    done = run("put", "nowhere", "good", "some/a")
    assert done.status == 1
    assert "nowhere" in done.err
    assert done.text == "some/a[1]  good  disk\n"
    again = run("put", "good", "some/b", "--folder", "processed/some/a")
    assert again.status in (0, 1)
    Path("good").write_bytes(b"other")
    conflict = run("put", "good", "some/c", "--folder", "processed/some/a")
    assert conflict.status == 1
    assert "good" in conflict.err


# -------------------------------------------------------------------------------- find


def test_messages_are_found_by_metadata(run: Run, hub: Hub) -> None:
    for stream in ("a", "b", "c"):
        with hub.source("find").stream(stream).writer() as writer:
            for number in range(5):
                writer.send(b"x", {"energy": number, "stream": stream})
    found = run("find", "find/*", "meta.energy >= 3")
    assert found.status == 0
    places = [line.split()[0] for line in found.text.splitlines()]
    assert places == [f"find/{stream}[{id}]" for stream in "abc" for id in (4, 5)]
    assert run("get", places[0], "-o", "-").out == b"x"
    rows = run("find", "find/b", "meta.energy < 2", "--json").json
    assert [(row["id"], row["meta"]["stream"]) for row in rows] == [(1, "b"), (2, "b")]
    few = run("find", "find/*", "meta.energy >= 0", "--limit", "7")
    assert few.text.count("\n") == 7
    assert "--limit" in few.err
    nothing = run("find", "find/*", "meta.energy > 100")
    assert (nothing.status, nothing.text) == (1, "")
    assert run("find", "find/*", "meta.energy >").status == 1


# ------------------------------------------------------------------------------ streams


def test_streams_are_listed_and_removed(run: Run, hub: Hub) -> None:
    for stream in ("one", "two"):
        with hub.source("list").stream(stream).writer(finish=stream == "two") as writer:
            writer.send_many([b"a", b"b"])
    table = run("stream", "ls", "list/*").text.splitlines()
    assert table[0].split()[:2] == ["STREAM", "MESSAGES"]
    assert [line.split()[0] for line in table[1:]] == ["list/one", "list/two"]
    assert ("open" in table[1], "finished" in table[2]) == (True, True)
    rows = run("stream", "ls", "list", "--json").json
    assert [(row["stream"], row["count"], row["finished"]) for row in rows] == [
        ("one", 2, False),
        ("two", 2, True),
    ]
    shown = run("stream", "rm", "list/one")
    assert (shown.status, shown.text) == (1, "")
    assert "--yes" in shown.err
    assert hub.source("list").stream("one").exists
    assert run("stream", "rm", "list/one", "--yes").status == 0
    assert not hub.source("list").stream("one").exists
    missing = run("stream", "rm", "list/one", "--yes")
    assert missing.status == 1
    assert "two" in missing.err


def test_files_go_with_their_stream(run: Run, node: NodeProcess) -> None:
    Path("f.bin").write_bytes(b"content")
    run("put", "f.bin", "gone/a")
    [file] = node.data.rglob("f.bin")
    done = run("stream", "rm", "gone/a", "--files", "--yes", "--json")
    assert done.json == {"messages": 1, "files": 1}
    assert not file.exists()


def test_gaps_are_a_problem_that_is_found(run: Run, hub: Hub) -> None:
    with hub.source("gaps").stream("a").writer(finish=False) as writer:
        for id in (1, 2, 5, 9):
            writer.send(b"", id=id)
        writer.skip([6])
    done = run("stream", "gaps", "gaps/a")
    assert (done.status, done.text) == (1, "gaps/a[3:5]\ngaps/a[7:9]\n")
    assert "4 ids" in done.err
    assert run("stream", "gaps", "gaps/a", "--json").json == {
        "gaps": [[3, 5], [7, 9]],
        "more": False,
    }
    assert "missing ids  4" in run("stream", "info", "gaps/a").text
    with hub.source("gaps").stream("b").writer() as writer:
        writer.send_many([b"", b""])
    assert run("stream", "gaps", "gaps/b").status == 0


def test_a_damaged_payload_is_found(run: Run, node: NodeProcess) -> None:
    Path("f.bin").write_bytes(b"0123456789")
    run("put", "f.bin", "verify/a")
    run("put", "-", "verify/a", stdin=b"more")
    well = run("stream", "verify", "verify/a", "--json")
    assert well.status == 0
    assert well.json == {"checked": 2, "nbytes": 14, "gone": 0, "damaged": []}
    [file] = node.data.rglob("f.bin")
    file.write_bytes(b"0123456_89")
    done = run("stream", "verify", "verify/a")
    assert done.status == 1
    assert done.text.startswith("verify/a[1]: E503 ")
    assert run("stream", "verify", "verify/a[2]").status == 0


# ------------------------------------------------------------------------------- groups


def test_groups_are_looked_after(run: Run, hub: Hub) -> None:
    stream = hub.source("groups").stream("a")
    with stream.writer() as writer:
        writer.send_many([b"1", b"2", b"3"])
    for message in stream.group("viewer", max_attempts=1):
        if message.id == 2:
            message.nack()
    table = run("group", "ls", "groups/a").text.splitlines()
    assert len(table) == 2
    assert table[1].split()[:2] == ["viewer", "groups/a"]
    row = run("group", "info", "groups/a", "viewer", "--json").json
    assert (row["acked"], row["dead"], row["open"]) == (2, 1, 0)
    dead = run("group", "dead", "groups/a", "viewer")
    assert (dead.status, dead.text) == (1, "groups/a[2]\n")
    assert run("group", "redeliver", "groups/a[3]", "viewer", "--json").json == {"redelivered": 0}
    assert run("group", "redeliver", "groups/a", "viewer", "--json").json == {"redelivered": 1}
    assert run("group", "dead", "groups/a", "viewer").status == 0
    assert [message.id for message in stream.group("viewer")] == [2]
    assert "acknowledged     3" in run("group", "info", "groups/a", "viewer").text


def test_a_group_is_moved_and_forgotten_with_yes_only(run: Run, hub: Hub) -> None:
    stream = hub.source("groups").stream("moved")
    with stream.writer() as writer:
        writer.send_many([b"1", b"2", b"3"])
    group = stream.group("viewer")
    assert [message.id for message in group] == [1, 2, 3]
    shown = run("group", "seek", "groups/moved", "viewer", "--to", "2")
    assert shown.status == 1
    assert "--yes" in shown.err
    assert list(group) == []
    moved = run("group", "seek", "groups/moved", "viewer", "--to", "2", "--yes", "--json")
    assert moved.json["open"] == 2
    assert [message.id for message in group] == [2, 3]
    run("group", "seek", "groups/moved", "viewer", "--to", "2001-01-01T00:00Z", "--yes")
    assert [message.id for message in group] == [1, 2, 3]
    assert run("group", "seek", "groups/moved", "viewer", "--to", "soon", "--yes").status == 2
    assert run("group", "rm", "groups/moved", "viewer").status == 1
    assert group.info() is not None
    assert run("group", "rm", "groups/moved", "viewer", "--yes").status == 0
    nobody = run("group", "info", "groups/moved", "viewer")
    assert nobody.status == 1
    assert "no group 'viewer'" in nobody.err


# --------------------------------------------------------------------------- watch, doctor


def test_watch_ends_with_the_stream(run: Run, hub: Hub) -> None:
    stream = hub.source("watch").stream("a")
    with stream.writer() as writer:
        writer.send_many([b"12345"] * 10)
    list(stream.group("viewer"))
    [line] = run("watch", "watch/a").text.splitlines()
    assert "head 10" in line
    assert "viewer -0" in line
    assert line.endswith("finished")
    row = run("watch", "watch/a", "--json").json
    assert (row["count"], row["head"], row["finished"], row["rate_hz"]) == (10, 10, True, None)
    assert [group["group"] for group in row["groups"]] == ["viewer"]
    assert run("watch", "watch/a", "--group", "other", "--json").json["groups"] == []


def test_watch_counts_lines(run: Run, hub: Hub) -> None:
    with hub.source("watch").stream("open").writer(finish=False) as writer:
        writer.send(b"x" * 1000)
    done = run("watch", "watch/open", "--every", "0.05", "--count", "3", "--json")
    rows = [json.loads(line) for line in done.text.splitlines()]
    assert [row["rate_hz"] for row in rows] == [None, 0.0, 0.0]
    assert rows[0]["age_s"] <= rows[2]["age_s"]


def test_doctor_finds_a_good_node_good(run: Run) -> None:
    done = run("doctor", "--json")
    found = {row["check"]: row for row in done.json}
    assert {"reach", "version", "clock offset", "token", "shared memory"} <= set(found)
    here = {"kernel buffers", "open files", "disk of the node"}
    assert {name for name, row in found.items() if row["ok"] is False} <= here
    assert "read, write" in found["token"]["detail"]
    assert done.status == int(any(row["ok"] is False for row in found.values()))
    table = run("doctor").text
    assert "✓ reach" in table
    assert "\x1b" not in table


def test_doctor_tells_what_a_bad_token_is(run: Run) -> None:
    done = run("doctor", "--token", "a.b.c")
    assert done.status == 1
    assert "✓ reach" in done.text
    assert "✗ node: E201" in done.text
    assert "remedy" in done.text


# -------------------------------------------------------------------------------- bench


def test_bench_measures_and_leaves_nothing(run: Run, hub: Hub) -> None:
    put = run("bench", "put", "--size", "1k", "--messages", "200", "--clients", "2", "--json").json
    assert (put["messages"], put["nbytes"]) == (400, 400_000)
    assert len(put["clients"]["rates_hz"]) == 2
    assert put["delays"]["count"] >= 2
    many = run("bench", "put", "--size", "100", "--messages", "1000", "--batch", "100", "--json")
    assert many.json["messages"] == 1000
    get = run("bench", "get", "--size", "10k", "--messages", "100", "--json").json
    assert (get["messages"], get["lost"]) == (100, 0)
    delay = run("bench", "latency", "--size", "1k", "--rate", "200", "--messages", "20", "--json")
    assert delay.json["delays"]["count"] == 20
    assert 0 < delay.json["delays"]["min_ms"] < delay.json["delays"]["max_ms"]
    assert "beamstream-bench" not in hub.sources()


# -------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "words",
    [
        ["put", "only/address"],
        ["put"],
        ["put", "f", "no-address"],
        ["put", "f", "a/b[1]"],
        ["put", "f", "a/b", "--meta", "[1]"],
        ["put", "a/b", "--follow", "no-such-folder"],
        ["put", "f", "a/b", "--level", "safe"],
        ["get", "a"],
        ["get", "a/b[0]"],
        ["get", "a/b[x]"],
        ["watch", "a/*"],
        ["find", "a/b"],
        ["stream", "rm", "a/b[1:5]", "--yes"],
        ["stream", "info", "a/b", "c"],
        ["bench", "put", "--size", "huge"],
        ["bench", "put", "--clients", "0"],
        ["bench", "latency", "--rate", "0"],
        ["bench", "get", "--level", "safe"],
        ["get", "other/a/b", "--beamtime", "demo"],
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert (done.status, done.out) == (2, b"")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["get", "no/stream"],
        ["stream", "info", "no/stream"],
        ["stream", "verify", "no/stream"],
        ["group", "info", "no/stream", "viewer"],
        ["group", "dead", "no/stream", "viewer"],
    ],
)
def test_what_does_not_exist_is_told(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert (done.status, done.out) == (1, b"")
    assert "there is no source 'no'" in done.err
