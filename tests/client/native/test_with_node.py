"""The client with a real node: all that people do with it."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import beamstream as bs
from beamstream import errors
from beamstream.client.native import subscription
from beamstream.client.native.subscription import NoSuchStreamYet
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="128MiB", durability="os") as made:
        yield made


@pytest.fixture(scope="module")
def hub(node: NodeProcess) -> Iterator[bs.Hub]:
    with bs.connect(node.connect["url"], beamtime="demo", token=node.token()) as made:
        yield made


@pytest.fixture
def stream(hub: bs.Hub, request: pytest.FixtureRequest) -> bs.Stream:
    """A stream that nobody else uses."""
    return hub.source("eiger").stream(request.node.name)


def fill(stream: bs.Stream, count: int, *, finish: bool = True, **how: Any) -> None:
    with stream.writer(finish=finish) as writer:
        for number in range(1, count + 1):
            writer.send(b"%d" % number, {"n": number}, **how)


def ids(found: Any) -> list[int]:
    return [message.id for message in found]


def test_arrays_there_and_back(stream: bs.Stream) -> None:
    rng = np.random.default_rng(1)
    frames = rng.poisson(3.0, (10, 64, 64)).astype("<u2")
    with stream.writer() as writer:
        receipts = [
            writer.send(frame, meta={"energy_eV": 12400 + n}) for n, frame in enumerate(frames)
        ]
        assert [receipt.id for receipt in receipts] == list(range(1, 11))
        assert receipts[0].level is bs.Level.OS
    seen = 0
    for message in stream.group("viewer"):
        assert isinstance(message, bs.Message)
        assert np.array_equal(message.array(), frames[message.id - 1])
        assert message.meta == {"energy_eV": 12399 + message.id}
        assert not message.array().flags.writeable
        assert abs((datetime.now(UTC) - message.timestamp).total_seconds()) < 60
        seen += 1
    assert seen == 10
    last = stream[-1]
    assert isinstance(last, bs.Message)
    assert np.array_equal(last.array(), frames[9])


@pytest.mark.parametrize("codec", ["zstd", "lz4", "bslz4"])
def test_codecs(hub: bs.Hub, codec: str) -> None:
    pytest.importorskip({"zstd": "zstandard", "lz4": "lz4", "bslz4": "lz4"}[codec])
    stream = hub.source("eiger").stream(f"codec-{codec}")
    frame = np.arange(100_000, dtype="<u4").reshape(100, 1000) // 1000
    with stream.writer() as writer:
        writer.send(frame, codec=codec)
    found = stream[1]
    assert isinstance(found, bs.Message)
    assert found.size < frame.nbytes
    assert np.array_equal(found.array(), frame)


def test_slices(stream: bs.Stream) -> None:
    assert not stream.exists
    fill(stream, 300)
    assert len(stream) == 300
    assert ids(stream[1:100]) == list(range(1, 100))
    assert ids(stream[250:]) == list(range(250, 301))
    assert ids(stream[-3:]) == [298, 299, 300]
    assert ids(stream[::100]) == [1, 101, 201]
    assert ids(stream) == list(range(1, 301))
    assert bytes(next(stream[5:6]).data) == b"5"  # type: ignore[union-attr]
    assert stream[-300].id == 1
    with pytest.raises(errors.BadInput, match="ids start at 1"):
        stream[0]
    for id in (301, -301):
        with pytest.raises(errors.NotFound):
            stream[id]
    with pytest.raises(errors.NotFound, match="there is no stream"):
        stream._hub.source("eiger").stream("test_slicesx")[1]
    assert stream.fetch(123, 1, 2) == b"23"


def test_search_meta_and_info(stream: bs.Stream) -> None:
    fill(stream, 20)
    assert sorted(ids(stream.search("meta.n > 17"))) == [18, 19, 20]
    assert stream.meta is None
    stream.set_meta({"sample": "lysozyme"})
    stream.set_meta({"detector": {"x": 1}}, mode="update")
    assert stream.meta == {"sample": "lysozyme", "detector": {"x": 1}}
    row = stream.info()
    assert row is not None
    assert (row.count, row.last_id, row.datasets) == (20, 20, False)
    with pytest.raises(errors.BadQuery):
        stream.search("meta.n >")


def test_sparse_streams(stream: bs.Stream) -> None:
    with stream.writer(finish=False) as writer:
        for id in (1, 2, 5, 9):
            writer.send(b"x", id=id)
        writer.flush()
        assert list(stream.gaps()) == [range(3, 5), range(6, 9)]
        writer.skip(range(3, 5))
        writer.skip([6, 7])
        assert list(stream.gaps()) == [range(8, 9)]
        group = stream.group("ordered", mode="ordered", timeout=0.2)
        assert ids(group) == [1, 2, 5]
        writer.send(b"x", id=8)
        writer.finish()
    assert ids(group) == [8, 9]
    assert group.end is not None
    assert group.end.reason == "finished"


def test_ordered_readers_are_told_of_gaps(stream: bs.Stream) -> None:
    with stream.writer() as writer:
        for id in (1, 4):
            writer.send(b"x", id=id)
    found = list(stream.group("g", mode="ordered", gaps="report", timeout=5))
    assert [item if isinstance(item, bs.Gap) else item.id for item in found] == [
        1,
        bs.Gap("eiger", stream.name, 2, 4),
        4,
    ]


def test_same_id_same_content(stream: bs.Stream) -> None:
    with stream.writer() as writer:
        assert not writer.send(b"a", id=1).duplicate
        assert writer.send(b"a", id=1).duplicate
        with pytest.raises(errors.IdConflict):
            writer.send(b"b", id=1).result()
    with stream.writer(finish=False) as writer, pytest.raises(errors.StreamFinished):
        writer.send(b"c", id=2).result()


def test_named_messages_are_files(stream: bs.Stream, node: NodeProcess, tmp_path: Path) -> None:
    file = tmp_path / "frame.bin"
    file.write_bytes(bytes(200_000))
    with stream.writer() as writer:
        writer.send(b"abc", name="processed/named/a.bin")
        writer.send(file, name="processed/named/frame.bin").result()
    found = list(stream[:])
    assert [message.name for message in found if isinstance(message, bs.Message)] == [
        "processed/named/a.bin",
        "processed/named/frame.bin",
    ]
    stored = node.data / "beamtimes" / "demo" / "processed" / "named" / "frame.bin"
    assert stored.read_bytes() == bytes(200_000)
    assert stream.delete(files=True) == 2
    assert not stored.exists()
    assert not stream.exists


def test_a_group_shares(stream: bs.Stream) -> None:
    fill(stream, 500)
    with ThreadPoolExecutor(3) as pool:
        shares = list(pool.map(lambda _: ids(stream.group("shared")), range(3)))
    assert sorted(id for share in shares for id in share) == list(range(1, 501))
    assert ids(stream.group("other")) == list(range(1, 501))
    row = stream.group("shared").info()
    assert row is not None
    assert (row.acked, row.open, row.leased) == (500, 0, 0)
    assert {row.group for row in stream.groups()} >= {"shared", "other"}


def test_leaving_early_and_coming_back(stream: bs.Stream) -> None:
    fill(stream, 10)
    group = stream.group("g")
    for message in group:
        if message.id == 4:  # type: ignore[union-attr]
            break
    again = [(m.id, m.delivery) for m in group if isinstance(m, bs.Message)]
    assert again[:2] == [(4, 2), (5, 1)]
    assert [id for id, _ in again] == list(range(4, 11))


def test_nack_dead_letters_redelivery(stream: bs.Stream) -> None:
    fill(stream, 3)
    group = stream.group("g", ack="manual", max_attempts=2, timeout=20)
    seen: list[tuple[int, int]] = []
    with group.subscribe() as member:
        for message in member:
            assert isinstance(message, bs.Message)
            seen.append((message.id, message.delivery))
            if message.id == 2:
                message.nack()
            else:
                message.ack()
        assert member.end is not None
        assert member.end.reason == "finished"
    assert sorted(seen) == [(1, 1), (2, 1), (2, 2), (3, 1)]
    [dead] = group.dead()
    assert dead.id == 2
    assert group.redeliver(dead) == 1
    assert ids(stream.group("g", max_attempts=2, timeout=20)) == [2]
    assert group.dead() == []


def test_seeking(stream: bs.Stream) -> None:
    fill(stream, 10)
    group = stream.group("g")
    assert ids(group) == list(range(1, 11))
    assert group.seek(8).position <= 8
    assert ids(group) == [8, 9, 10]
    group.seek("begin")
    assert len(ids(group)) == 10
    group.seek("end")
    assert ids(group) == []
    group.seek(datetime(2000, 1, 1, tzinfo=UTC))
    assert len(ids(group)) == 10
    group.delete()
    assert group.info() is None


def test_new_messages_only(stream: bs.Stream) -> None:
    fill(stream, 5, finish=False)
    with stream.group("g", start="new").subscribe() as member:
        with pytest.raises(errors.TimedOut):
            member.take(0.05)
        fill(stream, 2)
        assert ids(member) == [6, 7]
    assert ids(stream.group("from three", start=3)) == [3, 4, 5, 6, 7]


def test_the_newest(stream: bs.Stream) -> None:
    fill(stream, 100)
    assert ids(stream.group("g", mode="newest", timeout=20)) == [100]


def test_live(stream: bs.Stream) -> None:
    got: list[int] = []
    reading = threading.Thread(target=lambda: got.extend(ids(stream.group("live"))))
    reading.start()
    fill(stream, 50)
    reading.join(30)
    assert got == list(range(1, 51))


def test_batches(stream: bs.Stream) -> None:
    frames = np.arange(3000 * 12, dtype="<u2").reshape(3000, 3, 4)
    with stream.writer() as writer:
        receipt = writer.send_many(frames, metas=[{"n": n} for n in range(3000)])
        assert receipt.ids == range(1, 3001)
    together = []
    metas = []
    for batch in stream.group("g").batches():
        together.append(batch.arrays())
        metas += batch.metas
    assert np.array_equal(np.concatenate(together), frames)
    assert metas == [{"n": n} for n in range(3000)]


def test_patterns_and_whole_sources(hub: bs.Hub) -> None:
    source = hub.source("pattern-source")
    fill(source.stream("scan1"), 2)
    fill(source.stream("dark"), 2)
    with source.streams("scan*").group("g").subscribe() as member:
        found = [member.take(20) for _ in range(2)]
        fill(source.stream("scan2"), 1)
        found.append(member.take(20))
        names = [(m.stream, m.id) for m in found if isinstance(m, bs.Message)]
        assert names == [("scan1", 1), ("scan1", 2), ("scan2", 1)]
    assert [stream.name for stream in source.streams("scan*")] == ["scan1", "scan2"]
    with source.group("all").subscribe() as member:
        everything = [member.take(20) for _ in range(5)]
        assert {m.stream for m in everything if isinstance(m, bs.Message)} == {
            "scan1",
            "scan2",
            "dark",
        }
    assert "pattern-source" in hub.sources()
    assert len(hub.streams("scan*")) >= 2


def test_following(hub: bs.Hub) -> None:
    source = hub.source("following")
    with source.stream("one").writer(next_stream="two") as writer:
        writer.send(b"a")
    fill(source.stream("two"), 1)
    group = source.stream("one").group("g", follow=True)
    assert [(m.stream, m.id) for m in group if isinstance(m, bs.Message)] == [
        ("one", 1),
        ("two", 1),
    ]


def test_datasets(stream: bs.Stream) -> None:
    with stream.writer() as writer:
        for id in (1, 2):
            for part in (1, 2, 3):
                writer.send(np.full(4, 10 * id + part), id=id, substream=part, of=3)
        writer.flush()
    found = list(stream.group("g", timeout=20))
    assert len(found) == 2
    for dataset in found:
        assert isinstance(dataset, bs.DatasetMessage)
        assert dataset.complete
        assert [part.substream for part in dataset.parts] == [1, 2, 3]
        assert dataset.array(2)[0] == 10 * dataset.id + 2
        assert dataset.missing == []
    one = stream[2]
    assert isinstance(one, bs.DatasetMessage)
    assert len(one) == 3


def test_enough_parts(stream: bs.Stream) -> None:
    with stream.writer(finish=False) as writer:
        writer.send(b"a", id=1, substream=1, of=3)
        writer.send(b"b", id=1, substream=3, of=3)
    assert list(stream.group("all", timeout=0.1)) == []
    with stream.group("some", min_parts=2).subscribe() as member:
        dataset = member.take(20)
    assert isinstance(dataset, bs.DatasetMessage)
    assert (dataset.complete, dataset.missing) == (False, [2])
    [late] = stream.late()
    assert (late.id, late.missing) == (1, (2,))


def test_joins(hub: bs.Hub) -> None:
    inputs = [hub.source("module").stream(f"m{k}") for k in (1, 2)]
    joined = hub.source("joined").stream("both")
    joined.join(inputs)
    joined.join(inputs)
    for number, stream in enumerate(inputs):
        with stream.writer() as writer:
            for id in (1, 2, 3):
                writer.send(np.full(3, 10 * number + id), id=id)
    got = list(joined.group("g", timeout=20))
    assert sorted(dataset.id for dataset in got if isinstance(dataset, bs.DatasetMessage)) == [
        1,
        2,
        3,
    ]
    for dataset in got:
        assert isinstance(dataset, bs.DatasetMessage)
        assert dataset.array(2)[0] - dataset.array(1)[0] == 10


def test_payloads_are_verified_by_the_node(stream: bs.Stream) -> None:
    fill(stream, 300)
    verified = stream.verify()
    assert (verified.checked, verified.damaged) == (300, ())


def test_what_a_token_may_not_do(node: NodeProcess) -> None:
    with bs.connect(node.connect["url"], token=node.token(access="read")) as hub:
        assert "write" not in hub.access
        with pytest.raises(errors.NotAllowed), hub.source("eiger").stream("no").writer() as writer:
            writer.send(b"x").result()
        with pytest.raises(errors.NotAllowed):
            hub.source("eiger").stream("no").finish()
    with pytest.raises(errors.BadToken):
        bs.connect(node.connect["url"], token="nonsense")


def test_ways_to_connect(node: NodeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    token = node.token()
    port = node.connect["url"].rsplit(":", 1)[1]
    for url in (
        f"localhost:{port}",
        f"tcp://{node.connect['native']}",
        f"unix:{node.connect['unix']}",
        str(node.connect_file),
    ):
        with bs.connect(url, beamtime="demo", token=token) as hub:
            assert hub.info().node == hub._welcome.node
    monkeypatch.setenv("BEAMSTREAM_CONNECT_FILE", str(node.connect_file))
    with bs.connect() as hub:
        assert hub.beamtime == "demo"
    with bs.connect(f"localhost:{port}") as hub:
        assert hub.beamtime == "demo"
    monkeypatch.setenv("BEAMSTREAM_CONNECT_FILE", "")
    with pytest.raises(errors.NotFound, match="nobody says"):
        bs.connect()
    monkeypatch.setenv("BEAMSTREAM_URL", node.connect["url"])
    monkeypatch.setenv("BEAMSTREAM_TOKEN", token)
    with bs.connect() as hub:
        assert hub.beamtime == "demo"


def test_asyncio(node: NodeProcess) -> None:
    async def program() -> tuple[list[int], list[int], str]:
        async with bs.aconnect(node.connect["url"], token=node.token()) as hub:
            stream = hub.source("async").stream("t")

            async def read() -> list[int]:
                return [m.id async for m in stream.group("live") if isinstance(m, bs.Message)]

            reading = asyncio.create_task(read())
            async with stream.writer() as writer:
                receipts = [await writer.send(b"%d" % n, {"n": n}) for n in range(200)]
                got = [receipt.id for receipt in await asyncio.gather(*map(wait, receipts))]
                await writer.send(np.zeros((500, 500)))
            found = [m.id async for m in stream.messages(190)]
            message = await stream.get(5)
            assert message.meta == {"n": 4}
            assert await reading == list(range(1, 202))
            return got, found, (await stream.info()).stream

    async def wait(receipt: bs.Receipt) -> bs.Receipt:
        return await receipt

    got, found, name = asyncio.run(program())
    assert got == list(range(1, 201))
    assert found == list(range(190, 202))
    assert name == "t"


def test_a_node_that_is_killed() -> None:
    """Everything goes on by itself; nothing is lost, nothing is stored or handed out twice."""
    with (
        NodeProcess(cache="64MiB", durability="os") as node,
        bs.connect(node.connect["url"], token=node.token()) as hub,
    ):
        stream = hub.source("s").stream("t")
        got: list[tuple[int, int]] = []

        def read() -> None:
            got.extend((m.id, int(m.data)) for m in stream.group("g") if isinstance(m, bs.Message))

        reading = threading.Thread(target=read)
        reading.start()
        receipts = []
        with stream.writer() as writer:
            for number in range(3000):
                receipts.append(writer.send(b"%d" % number))
                if number in (500, 1500):
                    receipts[-100].result(30)
                    node.restart(kill=True)
                elif number == 1000 and hub._link._transport is not None:
                    hub._link._transport.shutdown()
        reading.join(60)
        sent = {receipt.id: number for number, receipt in enumerate(receipts)}
        assert sorted(sent) == list(range(1, 3001))
        assert dict(got) == sent
        assert len(stream) == 3000
        row = stream.group("g").info()
        assert row is not None
        assert row.acked == 3000


def test_who_waits_for_nothing_is_told(
    hub: bs.Hub, stream: bs.Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "MISSING_S", 0.01)
    fill(stream, 1, finish=False)
    with pytest.warns(NoSuchStreamYet, match="no stream 'scan'"):
        assert list(hub.source("eiger").stream("scan").group("g", timeout=0.2)) == []
    with pytest.warns(NoSuchStreamYet, match="no source 'eigr'.*'eiger'"):
        assert list(hub.source("eigr").stream("scan").group("g", timeout=0.2)) == []
    assert list(stream.group("g", start="new", timeout=0.1)) == []


def test_threads_share_a_writer(stream: bs.Stream) -> None:
    with stream.writer() as writer, ThreadPoolExecutor(4) as pool:

        def send(number: int) -> tuple[int, int]:
            return writer.send(b"%d" % number, {"n": number}).id, number

        sent = dict(pool.map(send, range(400)))
    assert sorted(sent) == list(range(1, 401))
    assert {message.id: message.meta["n"] for message in stream} == sent


def test_a_hub_that_is_dropped_ends_by_itself(node: NodeProcess) -> None:
    hub = bs.connect(node.connect["url"], token=node.token())
    threads = hub._link._threads
    writer = hub.source("s").stream("dropped").writer(finish=False)
    receipt = writer.send(b"x")
    del hub, writer
    gc.collect()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert receipt.id == 1


def test_importing_is_quick_and_loads_little() -> None:
    code = """
import sys, time
start = time.process_time()
import beamstream as bs
bs.connect
seconds = time.process_time() - start
mine = {"beamstream", "numpy", "msgspec", "xxhash"}
standard = sys.stdlib_module_names
foreign = {name.split(".")[0] for name in sys.modules} - mine - standard
rooms = ("beamstream.server", "beamstream.store")
print(*foreign)
print([name for name in sys.modules if name.startswith(rooms)])
print(seconds)
"""
    best = 10.0
    # What an installation loads at each start of Python, or numpy loads where it is, is not ours.
    others = {"__main__", "_distutils_hack", "typing_extensions", "sitecustomize"}
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        foreign, rooms, seconds = done.stdout.splitlines()
        assert set(foreign.split()) <= others
        assert rooms == "[]"
        best = min(best, float(seconds))
    assert best < 0.3


def test_calls_have_types(hub: bs.Hub) -> None:
    assert isinstance(hub.info(), calls.ServerRow)
    source = hub.source("eiger")
    assert source.meta is None
    source.set_meta({"proposal": 1})
    assert source.meta == {"proposal": 1}
