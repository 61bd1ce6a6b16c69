"""A node that is killed in the middle of native puts and reads."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from pathlib import Path

import pytest

from beamstream.errors import ConnectionLost
from beamstream.testing.native import NativeWire
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import frames

pytestmark = pytest.mark.system

BT, SOURCE, STREAM = "bt1", "s", "t"
RUN = 20


def payload(sequence: int) -> bytes:
    return b"%d " % sequence * (sequence % 50 + 1)


class Sender:
    """Sends runs with automatic ids, and again what has no receipt."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.producer = os.urandom(16)
        self.ids: dict[int, int] = {}

    def send(self, wire: NativeWire, receipts: int, killer: threading.Thread | None) -> None:
        """Until so many messages have a receipt; the killer starts in the middle."""
        wire.open_writer(SOURCE, STREAM, level=self.level, producer=self.producer)
        sequence = max(self.ids, default=0) + 1
        open_runs = 0
        while max(self.ids, default=0) < receipts:
            while open_runs < 8:
                wire.begin_put(
                    [payload(k) for k in range(sequence, sequence + RUN)], sequence=sequence
                )
                sequence += RUN
                open_runs += 1
            receipt = wire.expect(frames.Receipt)
            for k in range(receipt.count):
                id = receipt.id + k
                assert self.ids.setdefault(receipt.sequence + k, id) == id
            open_runs -= receipt.count // RUN
            if killer is not None:
                killer.start()
                killer = None


@pytest.mark.parametrize("level", [1, 2])
def test_what_has_a_receipt_is_there_once(tmp_path: Path, level: int) -> None:
    rng = random.Random(level)
    sender = Sender(level)
    with NodeProcess(tmp_path / "data", cache="16MiB") as node:
        token = node.token(BT)
        for _ in range(3):
            moment = rng.uniform(0.0, 0.05)
            killer = threading.Thread(
                target=lambda wait=moment: (threading.Event().wait(wait), node.kill())
            )
            with NativeWire.of(node) as wire, contextlib.suppress(ConnectionLost, OSError):
                wire.login(token)
                sender.send(wire, 10**9, killer)
            killer.join()
            node.start()
            with NativeWire.of(node) as wire:
                wire.login(token)
                for sequence, id in random.Random(1).sample(
                    sorted(sender.ids.items()), min(50, len(sender.ids))
                ):
                    assert wire.fetch(SOURCE, STREAM, id) == [payload(sequence)]
        with NativeWire.of(node) as wire:
            wire.login(token)
            sender.send(wire, max(sender.ids) + 100, None)
            wire.socket.shutdown(socket.SHUT_WR)
        with NativeWire.of(node) as wire:
            wire.login(token)
            known = {id: sequence for sequence, id in sender.ids.items()}
            assert len(known) == len(sender.ids)
            lo = 1
            while lo <= max(known):
                found = wire.fetch(SOURCE, STREAM, lo, lo + 1000, limit=1000)
                for id, data in enumerate(found, lo):
                    if id in known:
                        assert data == payload(known[id])
                lo += len(found)
            stored = wire.fetch(SOURCE, STREAM, 1, 10**6, limit=4000)
            assert len(set(stored)) == len(stored), "each is stored once"
