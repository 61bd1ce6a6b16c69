"""Messages of native clients as readers of ASAPO see them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from beamstream.client.asapo import Consumer
from beamstream.errors import DataLost, Error
from beamstream.testing.native import NativeWire
from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system

BT = "bt1"
SOURCE, STREAM = "..", "scan 1/ä"


def consumer(node: NodeProcess) -> Consumer:
    return Consumer(node.endpoint, beamtime=BT, source=SOURCE, token=node.token(BT), timeout_s=0.0)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_messages_without_names(tmp_path: Path, level: int) -> None:
    payloads = [os.urandom(100 + k % 7) for k in range(50)]
    with NodeProcess(tmp_path / "data", cache="16MiB") as node:
        with NativeWire.of(node) as wire:
            wire.login(node.token(BT))
            wire.open_writer(SOURCE, STREAM, level=level)
            wire.put(payloads, [b'{"k":%d}' % k for k in range(50)])
            wire.put([b""])
        with consumer(node) as reader:
            for k, payload in enumerate(payloads):
                message = reader.next("g", STREAM)
                assert (message.id, message.meta) == (k + 1, {"k": k})
                assert message.name == f"%2E./scan%201%2F%C3%A4/{k + 1}"
                assert message.data is not None
                assert bytes(message.data) == payload
            assert len(reader.search("meta.k > 40", STREAM)) == 9
            assert reader.size(STREAM) == 51
        node.restart()
        with consumer(node) as reader:
            message = reader.by_id(7, STREAM, data=False)
            if level:
                assert bytes(reader.retrieve(message)) == payloads[6]
            else:
                with pytest.raises(DataLost):
                    reader.retrieve(message)


def test_parts_without_names(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "data", cache="16MiB") as node:
        with NativeWire.of(node) as wire:
            wire.login(node.token(BT))
            wire.open_writer(SOURCE, STREAM)
            for k in (1, 2):
                wire.put([b"part %d" % k], id=1, substream=k, expected=2)
        for _ in range(2):
            with consumer(node) as reader:
                dataset = reader.dataset_by_id(1, STREAM)
                data = [bytes(reader.retrieve(part)) for part in dataset.parts]
                assert data == [b"part 1", b"part 2"]
            node.restart()


def test_names_that_stand_for_nothing(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "data", cache="16MiB") as node:
        with NativeWire.of(node) as wire:
            wire.login(node.token(BT))
            wire.open_writer("s", "t")
            wire.put([b"x"])
        with Consumer(
            node.endpoint, beamtime=BT, source="s", token=node.token(BT), timeout_s=0.0
        ) as reader:
            message = reader.by_id(1, "t", data=False)
            for name in ("s/t/2", "s/u/1", "s/t/1.1", "s/t/0", "s/t/01", "s%00/t/1", "../t/1"):
                with pytest.raises(Error):
                    reader.retrieve(msgspec.structs.replace(message, name=name, buf_id=0))
