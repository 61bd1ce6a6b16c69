"""The node killed on the first byte of an answer: what was answered reads back at its level."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beamstream.model import Level
from beamstream.testing.checker import History, Verdict, verify
from beamstream.testing.node import NodeProcess

from .raw import CACHE_MODE, FILE_MODE, RawConsumer, RawProducer, Target, base
from .readback import read_back

pytestmark = pytest.mark.system

STREAM, GROUP = "s", "g"
SIZES = (1_000, 100_000, 1_000_000)
STREAMED = 3_000_000
"""More than what a cache of 16 MiB takes."""


def killed_on_first_byte(
    node: NodeProcess, level: Level, seed: int, sizes: tuple[int, ...] = SIZES
) -> Verdict:
    """Send a message, kill the node when the first byte of its answer is here; for each size."""
    history = History(seed)
    node.start()
    target = Target(node)
    mode = CACHE_MODE if level is Level.CACHE else FILE_MODE
    for id, nbytes in enumerate(sizes, 1):
        name = f"processed/{id}"
        stored = "" if level is Level.CACHE else name
        call = history.put("raw", STREAM, id, nbytes=nbytes, level=level, name=stored)
        with RawProducer(target) as producer:
            data, meta = history.payload_of(call), history.metadata_of(call)
            producer.send(id, name, data, meta, stream=STREAM, mode=mode)
            assert producer.socket.recv(1)
            node.kill()
        history.ok(call)
        history.fault("killed on the first byte")
        node.start()
    return verify(history, read_back(node, [STREAM]))


@pytest.mark.parametrize("level", [Level.CACHE, Level.OS, Level.DISK])
def test_what_was_answered_is_there(tmp_path: Path, level: Level, seed: int) -> None:
    durability = "disk" if level is Level.DISK else "os"
    with NodeProcess(tmp_path / "data", cache="16MiB", durability=durability) as node:
        sizes = SIZES if level is Level.CACHE else (*SIZES, STREAMED)
        verdict = killed_on_first_byte(node, level, seed, sizes)
        print(verdict)
        assert verdict, str(verdict)
        assert verdict.puts == len(sizes)


def test_an_answered_acknowledgement_is_kept(tmp_path: Path, seed: int) -> None:
    history = History(seed)
    with NodeProcess(tmp_path / "data", cache="16MiB") as node:
        target = Target(node)
        with RawProducer(target) as producer:
            for id in (1, 2, 3):
                call = history.put("raw", STREAM, id, nbytes=1000, level=Level.DISK)
                call.name = f"processed/{id}"
                data, meta = history.payload_of(call), history.metadata_of(call)
                producer.put(id, call.name, data, meta, stream=STREAM)
                history.ok(call)
        for id in (1, 2):
            with RawConsumer(target) as consumer:
                path = f"{base(STREAM)}/{GROUP}/{id}"
                head = (
                    f"POST {path}?token={target.token} HTTP/1.1\r\nHost: x\r\n"
                    f"Content-Length: 20\r\n\r\n"
                )
                consumer.http.connect()
                consumer.http.sock.sendall(
                    head.encode() + json.dumps({"Op": "ackmessage"}).encode()
                )
                assert consumer.http.sock.recv(1)
                node.kill()
            node.start()
        with RawConsumer(target) as consumer:
            assert consumer.unacknowledged(GROUP, STREAM) == [3]
            status, record = consumer.next(GROUP, STREAM)
            assert (status, record["_id"]) == (200, 3)
        verdict = verify(history, read_back(node, [STREAM]))
        assert verdict, str(verdict)
