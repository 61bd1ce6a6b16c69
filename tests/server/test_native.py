"""The native door of a real node, frame by frame."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
import xxhash

from beamstream import limits
from beamstream.errors import Error
from beamstream.testing.native import NativeWire
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls, frames

pytestmark = pytest.mark.system

BT = "bt1"
LEVELS = pytest.mark.parametrize("level", [0, 1, 2])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("native") / "data", cache="64MiB") as node:
        yield node


@pytest.fixture
def wire(node: NodeProcess) -> Iterator[NativeWire]:
    with NativeWire.of(node) as wire:
        wire.login(node.token(BT))
        yield wire


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    return name


def info(wire: NativeWire, stream: str) -> calls.StreamRow:
    row = wire.call("stream", calls.GetStream(source="s", stream=stream))
    assert isinstance(row, calls.StreamRow)
    return row


# ------------------------------------------------------------------------------- login


def test_a_welcome_says_what_is_possible(node: NodeProcess) -> None:
    with NativeWire.of(node) as wire:
        welcome = wire.login(node.token(BT, "read"), instance="i", step="s")
        assert welcome.version == frames.VERSION
        assert (welcome.beamtime, welcome.access, welcome.level) == (BT, ("read",), 2)
        assert welcome.batch_max == limits.NATIVE_BATCH_MAX
        assert welcome.cache_payload_nbytes_max == 8 * 2**20
        wire.send(frames.Ping(9))
        assert wire.expect(frames.Pong).number == 9


def test_the_unix_socket_is_for_this_user(node: NodeProcess) -> None:
    path = str(node.connect["unix"])
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with NativeWire.of(node, unix=True) as wire:
        assert wire.login(node.token(BT)).beamtime == BT
        wire.open_writer("s", "unix")
        assert wire.put([b"x" * 100_000, b"y"]).id == 1
        assert wire.fetch("s", "unix", 1, 3) == [b"x" * 100_000, b"y"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"token": "nonsense"}, "E201"),
        ({"beamtime": "other"}, "E202"),
        ({"instance": 'a"b'}, "E101"),
        ({"session": b"short"}, "E702"),
        ({"magic": "asapo"}, "E702"),
        ({"version": 0}, "E702"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    node: NodeProcess, more: dict[str, object], code: str
) -> None:
    said: dict[str, object] = {
        "magic": frames.MAGIC,
        "version": 1,
        "token": node.token(BT),
        "beamtime": BT,
        "session": bytes(16),
    }
    with NativeWire.of(node) as wire:
        wire.send(frames.Hello(**(said | more)))  # type: ignore[arg-type]
        goodbye = wire.closed()
        assert goodbye is not None
        assert (goodbye.code, goodbye.retry) == (code, False)


def test_a_token_that_is_revoked_ends_its_connections(node: NodeProcess) -> None:
    token = node.cli(
        "token", "new", "--data", str(node.data), "--beamtime", BT, "--access", "read"
    ).strip()
    with NativeWire.of(node) as wire:
        wire.login(token)
        claims = token.split(".")[1]
        number = json.loads(base64.urlsafe_b64decode(claims + "=="))["jti"]
        node.cli("token", "revoke", "--data", str(node.data), number)
        goodbye = wire.closed()
        assert goodbye is not None
        assert goodbye.code == "E201"


def test_rights(node: NodeProcess) -> None:
    with NativeWire.of(node) as reader, NativeWire.of(node) as writer:
        reader.login(node.token(BT, "read"))
        writer.login(node.token(BT, "write"))
        reader.open_writer("s", "rights")
        assert reader.expect(frames.Failed).code == "E202"
        writer.send(frames.OpenWriter(2, "s", "rights", bytes(16), raw=True))
        assert writer.expect(frames.Failed).code == "E202"
        writer.send(frames.Subscribe(3, "s", "rights", "g"))
        assert writer.expect(frames.Failed).code == "E202"
        with pytest.raises(Error, match="E202"):
            writer.call("sources", calls.ListSources())
        with pytest.raises(Error, match="E202"):
            reader.call("finish", calls.Finish(source="s", stream="rights"))


# -------------------------------------------------------------------------------- puts


@LEVELS
@pytest.mark.parametrize("size", [1, 1000, 40_000, 1_000_000])
def test_what_is_put_is_read(wire: NativeWire, stream: str, level: int, size: int) -> None:
    wire.open_writer("s", stream, level=level)
    payloads = [os.urandom(size + k) for k in range(5)]
    metas = [b'{"k":%d}' % k for k in range(5)]
    receipt = wire.put(payloads, metas)
    assert (receipt.id, receipt.seq, receipt.count, receipt.level) == (1, 1, 5, level)
    assert wire.fetch("s", stream, 1, 6) == payloads
    assert wire.fetch("s", stream, 3) == [payloads[2]]
    assert wire.fetch("s", stream, 3, offset=10, length=20) == [payloads[2][10:30]]
    reply, _ = wire.ask("fetch", calls.Fetch(source="s", stream=stream, lo=2, hi=4))
    batch = calls.decode_result("fetch", reply.result).batch
    assert batch.ids == (2, 3)
    assert batch.metas == (metas[1], metas[2])
    assert batch.digests == b"".join(map(xxhash.xxh3_128_digest, payloads[1:3]))
    row = info(wire, stream)
    assert (row.count, row.max_id, row.datasets) == (5, 5, False)


@LEVELS
def test_runs_are_subscribed_and_acknowledged(wire: NativeWire, stream: str, level: int) -> None:
    wire.send(
        frames.Subscribe(9, "s", stream, "g", credit_messages=1000, credit_nbytes=2**20,
                         batch_max=100)
    )  # fmt: skip
    wire.open_writer("s", stream, level=level)
    payloads = [b"%d" % k * (k % 7 + 1) for k in range(300)]
    for lo in range(0, 300, 100):
        wire.begin_put(payloads[lo : lo + 100])
    got: list[bytes] = []
    while len(got) < 300:
        frame, body = wire.receive()
        if isinstance(frame, frames.Deliver):
            offsets = frame.batch.offsets()
            got += [body[lo:hi] for lo, hi in pairwise(offsets)]
            span = (frame.batch.seq, frame.batch.seq + frame.batch.count)
            wire.send(frames.Ack(9, frame.ref, frame.tag, (span,), call=7))
            wire.answer(7)
    assert got == payloads
    row = wire.call("group", calls.GetGroup(source="s", stream=stream, group="g"))
    assert (row.acked, row.open, row.position) == (300, 0, 301)
    wire.call("finish", calls.Finish(source="s", stream=stream))
    assert wire.until(frames.End).reason == "finished"


def test_receipts_that_follow_each_other_are_one(wire: NativeWire, stream: str) -> None:
    wire.open_writer("s", stream, level=0)
    text = b"".join(
        frames.encode(
            frames.Put(1, k, 1, (1,), xxhash.xxh3_128_digest(b"x")), 1
        ) + b"x"
        for k in range(1, 101)
    )  # fmt: skip
    wire.socket.sendall(text)
    count = frames_seen = 0
    while count < 100:
        receipt = wire.expect(frames.Receipt)
        assert (receipt.sequence, receipt.id, receipt.seq) == (count + 1,) * 3
        count += receipt.count
        frames_seen += 1
    assert frames_seen < 50


@LEVELS
def test_sent_again_is_stored_once(
    node: NodeProcess, wire: NativeWire, stream: str, level: int
) -> None:
    opened = wire.open_writer("s", stream, level=level)
    first = wire.put([b"a", b"b", b"c"])
    assert not first.duplicate
    with NativeWire.of(node) as again:
        again.login(node.token(BT))
        again.open_writer("s", stream, level=level, producer=opened.producer)
        again.begin_put([b"a", b"b", b"c", b"d"])
        old, new = again.expect(frames.Receipt), again.expect(frames.Receipt)
        assert (old.sequence, old.count, old.id, old.seq, old.duplicate) == (1, 3, 1, 0, True)
        assert (new.sequence, new.count, new.id, new.seq, new.duplicate) == (4, 1, 4, 4, False)
    assert info(wire, stream).count == 4
    assert wire.fetch("s", stream, 1, 9) == [b"a", b"b", b"c", b"d"]


@LEVELS
def test_a_conflict_does_not_stop_the_others(wire: NativeWire, stream: str, level: int) -> None:
    wire.open_writer("s", stream, level=level)
    assert wire.put([b"ten"], id=10).id == 10
    wire.begin_put([b"nine", b"TEN", b"eleven"], id=9)
    answers = [wire.receive().frame for _ in range(3)]
    failed = [answer for answer in answers if isinstance(answer, frames.Failed)]
    assert [(one.sequence, one.count, one.code) for one in failed] == [(3, 1, "E401")]
    stored = [answer for answer in answers if isinstance(answer, frames.Receipt)]
    assert sorted((one.sequence, one.id, one.count) for one in stored) == [(2, 9, 1), (4, 11, 1)]
    assert wire.fetch("s", stream, 9, 12) == [b"nine", b"ten", b"eleven"]


def test_ids_of_each(wire: NativeWire, stream: str) -> None:
    wire.open_writer("s", stream)
    receipt = wire.put([b"5", b"7", b"1000"], ids=(5, 7, 1000))
    assert receipt.ids == (5, 7, 1000)
    assert wire.fetch("s", stream, 6, 2000) == [b"7", b"1000"]
    wire.call("skip", calls.Skip(source="s", stream=stream, ranges=((1, 5), (6, 7))))
    wire.call("skip", calls.Skip(source="s", stream=stream, ranges=((1, 5),)))
    rows = wire.call("gaps", calls.ListGaps(source="s", stream=stream))
    assert rows.gaps == ((8, 1000),)


def test_nothing_is_hashed_unless_asked(wire: NativeWire, stream: str) -> None:
    wire.open_writer("s", stream, level=1)
    good, big = b"hash me", os.urandom(2 * 2**20)
    wire.put([good, b"", big], digests=bytes(48))
    reply, _ = wire.ask("fetch", calls.Fetch(source="s", stream=stream, lo=1, hi=4))
    batch = calls.decode_result("fetch", reply.result).batch
    assert batch.digests[:16] == xxhash.xxh3_128_digest(good)
    assert batch.digests[32:] == xxhash.xxh3_128_digest(big)
    assert wire.fetch("s", stream, 1, 4) == [good, b"", big]


@LEVELS
def test_messages_without_payload(wire: NativeWire, stream: str, level: int) -> None:
    wire.open_writer("s", stream, level=level)
    assert wire.put([b"", b""], [b'{"a":1}', b"{}"]).count == 2
    wire.send(frames.Subscribe(9, "s", stream, "", credit_messages=9, credit_nbytes=9))
    wire.until(frames.StreamOpened)
    deliver = wire.until(frames.Deliver)
    assert deliver.batch.sizes == (0,)
    assert wire.fetch("s", stream, 1, 3) == [b"", b""]


def test_a_name_makes_a_file(node: NodeProcess, wire: NativeWire, stream: str) -> None:
    wire.open_writer("s", stream)
    frame = os.urandom(100_000)
    receipt = wire.put([frame], [b'{"a":1}'], name="processed/n/1.raw", infos=b"described")
    assert (receipt.id, receipt.seq, receipt.level) == (1, 1, 2)
    assert (node.data / "beamtimes" / BT / "processed/n/1.raw").read_bytes() == frame
    reply, body = wire.ask("last", calls.FetchLast(source="s", stream=stream))
    batch = calls.decode_result("last", reply.result).batch
    assert (batch.names, batch.infos, body) == (("processed/n/1.raw",), b"described", frame)
    huge = os.urandom(20 * 2**20)
    assert wire.put([huge], name="processed/n/huge").id == 2
    assert (node.data / "beamtimes" / BT / "processed/n/huge").read_bytes() == huge
    assert wire.fetch("s", stream, 2) == [huge]
    with pytest.raises(Error, match="E105") as caught:
        wire.put([huge])
    assert "larger than what the cache takes" in str(caught.value)
    with pytest.raises(Error, match="E101"):
        wire.put([b"x"], name="../secret")
    deleted = wire.call("stream.delete", calls.DeleteStream(source="s", stream=stream, files=True))
    assert deleted.files == 2
    assert not (node.data / "beamtimes" / BT / "processed/n/huge").exists()


def test_ids_follow_the_order_of_sending(wire: NativeWire, stream: str) -> None:
    """Also when files are among them, which take a while."""
    wire.open_writer("s", stream)
    for k in range(1, 21):
        wire.begin_put([b"%d" % k], name=f"processed/{stream}/{k}" if k % 3 else "")
    seen: dict[int, int] = {}
    while len(seen) < 20:
        receipt = wire.expect(frames.Receipt)
        for k in range(receipt.count):
            seen[receipt.sequence + k] = receipt.id + k
    assert seen == {k: k for k in range(1, 21)}


@LEVELS
def test_datasets(wire: NativeWire, stream: str, level: int) -> None:
    wire.open_writer("s", stream, level=level)
    assert wire.put([b"first"], id=1, substream=1, expected=2).id == 1
    assert info(wire, stream).datasets
    wire.send(frames.Subscribe(9, "s", stream, "g", credit_messages=9, credit_nbytes=99))
    wire.until(frames.StreamOpened)
    wire.begin_put([b"second"], id=1, substream=2, expected=2)
    wire.begin_put([b"second"], id=1, substream=2, expected=2, sequence=9)
    receipts: list[frames.Receipt] = []
    delivered = None
    while delivered is None or len(receipts) < 2:
        received = wire.receive()
        if isinstance(received.frame, frames.Deliver):
            delivered = received
        else:
            assert isinstance(received.frame, frames.Receipt), received
            receipts.append(received.frame)
    assert [(one.seq, one.duplicate) for one in receipts] == [(1, False), (0, True)]
    frame, body = delivered
    assert body == b"firstsecond"
    assert frame.batch.substreams == (1, 2)
    assert frame.batch.datasets is not None
    assert frame.batch.datasets[0].present == 2


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"metas": (b"{",)}, "E102"),
        ({"metas": (b"[]",)}, "E102"),
        ({"metas": (b'{"a":' * 40 + b"1" + b"}" * 40,)}, "E102"),
        ({"id": 2**63}, "E100"),
        ({"id": -1}, "E100"),
        ({"ids": (0,)}, "E100"),
        ({"sequence": 0}, "E100"),
        ({"channel": 77}, "E300"),
        ({"name": "processed/x", "metas": (b"1",)}, "E102"),
        ({"substream": 1, "expected": 2}, "E100"),
        ({"id": 1, "substream": 3, "expected": 2}, "E100"),
        ({"metas": (b"{}", b"{}")}, "E702"),
        ({"sizes": (2,)}, "E100"),
        ({"place": frames.Place(0, 0, 0)}, "E100"),
    ],
)
def test_a_put_that_is_refused_leaves_the_connection_alone(
    wire: NativeWire, stream: str, more: dict[str, object], code: str
) -> None:
    wire.open_writer("s", stream)
    said: dict[str, object] = {
        "channel": 1, "sequence": 1, "count": 1, "sizes": (1,), "digests": bytes(16),
    }  # fmt: skip
    wire.send(frames.Put(**(said | more)), b"x")  # type: ignore[arg-type]
    failed = wire.expect(frames.Failed)
    assert failed.code == code, failed
    assert wire.put([b"good"], sequence=5).id == 1


def test_a_finished_stream_takes_nothing_beyond(wire: NativeWire, stream: str) -> None:
    wire.open_writer("s", stream)
    wire.put([b"a", b"b"])
    done = wire.call("finish", calls.Finish(source="s", stream=stream, next_stream="n"))
    assert (done.last_id, done.duplicate) == (2, False)
    again = wire.call("finish", calls.Finish(source="s", stream=stream, next_stream="n"))
    assert (again.last_id, again.duplicate) == (2, True)
    with pytest.raises(Error, match="E403"):
        wire.put([b"c"])
    row = info(wire, stream)
    assert (row.last_id, row.next_stream) == (2, "n")


# ------------------------------------------------------------------------------- calls


def test_looking_around(wire: NativeWire, stream: str) -> None:
    wire.open_writer(stream, "a1")
    wire.open_writer(stream, "b1", channel=2)
    wire.put([b"x"] * 10, [b'{"n":%d}' % n for n in range(10)])
    wire.put([b"y"], channel=2)
    assert stream in wire.call("sources", calls.ListSources())
    rows = wire.call("streams", calls.ListStreams(source=stream, pattern="a*"))
    assert [row.stream for row in rows] == ["a1"]
    found = wire.call(
        "search", calls.Search(source=stream, stream="a1", query="meta.n >= 3", limit=4)
    )
    assert (found.batch.ids, found.more, found.batch.payloads) == ((4, 5, 6, 7), True, False)
    found = wire.call(
        "search", calls.Search(source=stream, stream="a1", query="meta.n >= 3", after_id=7)
    )
    assert (found.batch.ids, found.more) == ((8, 9, 10), False)
    with pytest.raises(Error, match="E103"):
        wire.call("search", calls.Search(source=stream, stream="a1", query="((("))
    verified = wire.call("verify", calls.Verify(source=stream, stream="a1"))
    assert (verified.checked, verified.damaged, verified.next_id) == (10, (), 11)
    wire.call("meta.set", calls.SetMeta(source=stream, stream="a1", document=b'{"m": 1}'))
    assert wire.call("meta.get", calls.GetMeta(source=stream, stream="a1")) == b'{"m": 1}'
    assert wire.call("meta.get", calls.GetMeta(source=stream, stream="b1")) is None
    wire.call("stream.delete", calls.DeleteStream(source=stream, stream="b1"))
    assert wire.call("stream", calls.GetStream(source=stream, stream="b1")) is None
    with pytest.raises(Error, match="E300"):
        wire.call("stream.delete", calls.DeleteStream(source=stream, stream="b1"))
    with pytest.raises(Error, match="E702"):
        wire.call("no.such.method", calls.ListSources())
    server = wire.call("server", calls.GetServer())
    assert server.level == 2
    assert server.cache_nbytes == 64 * 2**20


def test_pages_and_limits_of_a_fetch(wire: NativeWire, stream: str) -> None:
    wire.open_writer("s", stream)
    wire.put([bytes([k]) * 1000 for k in range(50)])
    params = calls.Fetch(source="s", stream=stream, lo=11, hi=40, nbytes_max=5000)
    reply, body = wire.ask("fetch", params)
    found = calls.decode_result("fetch", reply.result)
    assert (found.batch.count, found.more, len(body)) == (5, True, 5000)
    params = calls.Fetch(source="s", stream=stream, lo=48, hi=90, limit=3, payloads=False)
    reply, body = wire.ask("fetch", params)
    found = calls.decode_result("fetch", reply.result)
    assert (found.batch.count, found.more, body) == (3, False, b"")
    params_last = calls.FetchLast(source="s", stream=stream, count=3)
    reply, body = wire.ask("last", params_last)
    assert calls.decode_result("last", reply.result).batch.ids == (48, 49, 50)
    assert body == b"".join(bytes([k]) * 1000 for k in (47, 48, 49))


@LEVELS
def test_a_join(wire: NativeWire, stream: str, level: int) -> None:
    """Payloads of the parts are those of the originals, in memory and on disk."""
    inputs = (("s", f"{stream} 1"), ("s2", f"{stream} 2"))
    wire.call("join", calls.Join(source="j", stream=stream, inputs=inputs))
    wire.send(frames.Subscribe(9, "j", stream, "g", credit_messages=99, credit_nbytes=9999))
    for channel, (source, name) in enumerate(inputs, 1):
        wire.open_writer(source, name, channel=channel, level=level)
        wire.begin_put([b"%d of %d" % (k, channel) for k in range(5)], channel=channel)
    bodies: list[bytes] = []
    while sum(map(len, bodies)) < 60:
        received = wire.receive()
        if isinstance(received.frame, frames.Deliver):
            assert not received.frame.batch.lost
            bodies.append(received.body)
    assert b"".join(bodies) == b"".join(b"%d of 1%d of 2" % (k, k) for k in range(5))
    assert wire.fetch("j", stream, 3) == [b"2 of 1", b"2 of 2"]
    wire.put([b"alone"], channel=1)
    wire.send(frames.Ping(3))
    wire.until(frames.Pong)

    def late() -> list[calls.LateRow]:
        rows: list[calls.LateRow] = wire.call("late", calls.Late(source="j", stream=stream))
        return rows

    while not (rows := late()):
        pass
    assert [(row.id, row.missing, row.inputs) for row in rows] == [(6, (2,), (inputs[1],))]


# ------------------------------------------------------------------- what is in no memory


def test_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Segments are read, cache-only payloads are told as lost, one by one."""
    data = tmp_path_factory.mktemp("restart") / "data"
    with NodeProcess(data, cache="16MiB") as node:
        payloads = [os.urandom(1000 + k) for k in range(100)]
        large = os.urandom(1_500_000)
        with NativeWire.of(node) as wire:
            wire.login(node.token(BT))
            for channel, (stream, level) in enumerate((("c", 0), ("o", 1), ("d", 2)), 1):
                wire.open_writer("s", stream, channel=channel, level=level)
                wire.put(payloads, channel=channel)
                wire.put([large], channel=channel)
            assert wire.put([b""], channel=1).id == 102
        node.restart()
        with NativeWire.of(node) as wire:
            wire.login(node.token(BT))
            for stream in ("o", "d"):
                assert wire.fetch("s", stream, 1, 101) == payloads
                assert wire.fetch("s", stream, 101) == [large]
                assert wire.fetch("s", stream, 50, offset=5, length=7) == [payloads[49][5:12]]
                wire.send(
                    frames.Subscribe(5, "s", stream, "g", credit_messages=101,
                                     credit_nbytes=2**22, batch_max=64)
                )  # fmt: skip
                body = b""
                while len(body) < sum(map(len, payloads)) + len(large):
                    body += wire.receive().body
                assert body == b"".join(payloads) + large
                wire.send(frames.Unsubscribe(5))
            reply, body = wire.ask("fetch", calls.Fetch(source="s", stream="c", lo=99, hi=110))
            batch = calls.decode_result("fetch", reply.result).batch
            assert [(lost.index, lost.code) for lost in batch.lost] == [
                (0, "E504"), (1, "E504"), (2, "E504"),
            ]  # fmt: skip
            assert (batch.count, body) == (4, b"")
            verified = wire.call("verify", calls.Verify(source="s", stream="c", limit=1000))
            assert (verified.gone, verified.damaged) == (101, ())
        node.kill()
        for path in (data / "segments" / BT).iterdir():
            content = bytearray(path.read_bytes())
            at = content.find(payloads[70])
            if at >= 0:
                content[at + 5] ^= 1
                path.write_bytes(content)
        node.start()
        with NativeWire.of(node) as wire:
            wire.login(node.token(BT))
            verified = wire.call("verify", calls.Verify(source="s", stream="o"))
            assert [row[0] for row in verified.damaged] == [71]
            reply, body = wire.ask("fetch", calls.Fetch(source="s", stream="o", lo=70, hi=73))
            batch = calls.decode_result("fetch", reply.result).batch
            assert [(lost.index, lost.code) for lost in batch.lost] == [(1, "E503")]
            assert body == payloads[69] + payloads[71]


def test_a_reader_that_is_slow_gets_everything(node: NodeProcess, stream: str) -> None:
    """More than the sockets and the cache hold, in order, with what the disk has."""
    with NativeWire.of(node) as wire, NativeWire.of(node) as reader:
        wire.login(node.token(BT))
        reader.login(node.token(BT))
        wire.open_writer("s", stream, level=1)
        reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reader.send(
            frames.Subscribe(9, "s", stream, "g", credit_messages=1000, credit_nbytes=2**30,
                             batch_max=4, lease_s=0.0)
        )  # fmt: skip
        payloads = [os.urandom(1000) * 1000 for _ in range(100)]
        for lo in range(0, 100, 4):
            wire.put(payloads[lo : lo + 4])
        body = b""
        while len(body) < 100_000_000:
            body += reader.receive().body
        assert body == b"".join(payloads)


def test_what_is_larger_than_the_cache_comes_in_pieces(wire: NativeWire, stream: str) -> None:
    """Answers that are sent piece by piece do not mix with other frames, and stop nobody."""
    wire.open_writer("s", stream)
    huge = [os.urandom(12 * 2**20) for _ in range(2)]
    for k, payload in enumerate(huge):
        wire.put([payload], name=f"processed/{stream}/{k}")
    wire.put([b"small"] * 100)
    for number in range(1, 7):
        params = calls.Fetch(source="s", stream=stream, lo=1 + number % 3, hi=2 + number % 3)
        wire.send(frames.Call(number, "fetch", calls.encode(params)))
        wire.send(frames.Ping(number))
    wire.send(frames.Subscribe(9, "s", stream, "g", credit_messages=200, credit_nbytes=2**30))
    replies: dict[int, bytes] = {}
    pongs = 0
    delivered = b""
    while len(replies) < 6 or pongs < 6 or len(delivered) < 24 * 2**20 + 500:
        frame, body = wire.receive()
        if isinstance(frame, frames.Reply):
            replies[frame.number] = body
        elif isinstance(frame, frames.Pong):
            pongs += 1
        elif isinstance(frame, frames.Deliver):
            assert not frame.batch.lost
            delivered += body
    wanted = [*huge, b"small"]
    assert all(replies[number] == wanted[number % 3] for number in range(1, 7))
    assert delivered == b"".join(huge) + b"small" * 100


# ------------------------------------------------------------------------ life of a node


def test_a_node_that_stops_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    node = NodeProcess(tmp_path_factory.mktemp("stop") / "data", cache="16MiB")
    with node, NativeWire.of(node) as wire:
        wire.login(node.token(BT))
        wire.open_writer("s", "t")
        wire.begin_put([b"x"] * 100)
        stopping = threading.Thread(target=node.terminate)
        stopping.start()
        frame = wire.receive().frame
        if isinstance(frame, frames.Receipt):
            assert frame.count == 100
            frame = wire.receive().frame
        assert isinstance(frame, frames.Goodbye)
        assert frame.retry
        stopping.join()
        assert not (node.data / "native.sock").exists()


def test_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    x509 = pytest.importorskip("cryptography.x509")
    import datetime
    import ssl

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    env = {
        "BEAMSTREAM_TLS_CERT": str(folder / "cert.pem"),
        "BEAMSTREAM_TLS_KEY": str(folder / "key.pem"),
    }
    with NodeProcess(folder / "data", cache="64MiB", env=env) as node:
        assert node.connect["tls"] is True
        assert str(node.connect["url"]).startswith("https://")
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        with NativeWire.of(node) as wire:
            wire.socket = context.wrap_socket(wire.socket, server_hostname="localhost")
            wire.login(node.token(BT))
            wire.open_writer("s", "t", level=0)
            frame = os.urandom(3_000_000)
            wire.put([frame, b"small"])
            assert wire.fetch("s", "t", 1, 3) == [frame, b"small"]
        with NativeWire.of(node, unix=True) as plain:
            plain.login(node.token(BT))
            assert plain.fetch("s", "t", 2) == [b"small"]
