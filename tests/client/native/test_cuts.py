"""Connections that break anywhere, within frames too, while messages are put and read."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator

import pytest

import beamstream as bs
from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess(cache="64MiB", durability="os") as made:
        yield made


class Cutter:
    """Passes bytes on between clients and a node, and breaks connections after some of them.

    Parameters
    ----------
    cuts : after how many bytes, of both directions, each connection breaks; later ones do not.
    """

    def __init__(self, target: str, cuts: list[int]) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.made = 0

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Cutter:
        self._start(self._accept)
        return self

    def __exit__(self, *gone: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            node = socket.create_connection(self._target)
            left = [self._cuts[self.made] if self.made < len(self._cuts) else 1 << 60]
            self.made += 1
            pair = [client, node]
            for one, other in ((client, node), (node, client)):
                self._start(self._pass_on, one, other, left, pair)

    @staticmethod
    def _pass_on(
        one: socket.socket, other: socket.socket, left: list[int], pair: list[socket.socket]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                data = data[: max(left[0], 0)]
                left[0] -= len(data)
                other.sendall(data)
                if left[0] <= 0:
                    break
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            # Both directions pass here; the second time it is closed already.
            end.close()


@pytest.mark.parametrize("seed", range(6))
def test_cut_anywhere(node: NodeProcess, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly one stored copy of each message, all of them read, once, as they were sent."""
    # All payloads are to go through the socket that is cut.
    monkeypatch.setenv("BEAMSTREAM_SHM", "0")
    chance = random.Random(seed)
    cuts = [chance.choice((300, 3_000, 30_000, 300_000)) for _ in range(8)]
    cuts = [chance.randrange(cut // 2, cut) for cut in cuts]
    with Cutter(node.connect["native"], [1 << 60, *cuts]) as cutter:
        with (
            bs.connect(node.connect["url"], token=node.token()) as other,
            bs.connect(cutter.url, token=node.token()) as hub,
        ):
            stream = hub.source("cuts").stream(f"seed{seed}")
            broken = hub._link._transport
            assert broken is not None
            got: list[tuple[int, bytes]] = []

            def read() -> None:
                for message in stream.group("g"):
                    assert isinstance(message, bs.Message)
                    got.append((message.id, bytes(message.data)))

            reading = threading.Thread(target=read)
            reading.start()
            # The first connection is not cut by bytes, so that there is something to read.
            broken.shutdown()
            payloads = [b"%d." % n * chance.choice((1, 50, 30_000)) for n in range(150)]
            with stream.writer() as writer:
                receipts = [writer.send(payload) for payload in payloads]
                many = writer.send_many([b"%d" % n for n in range(2000)])
                writer.flush(60)
            reading.join(60)
            assert not reading.is_alive()
            sent = dict(zip([r.id for r in receipts], payloads, strict=True))
            sent.update(zip(many.ids, [b"%d" % n for n in range(2000)], strict=True))
            assert sorted(sent) == list(range(1, 2151))
            assert dict(got) == sent
            assert len(got) == len(sent)
            assert len(other.source("cuts").stream(f"seed{seed}")) == len(sent)
        assert cutter.made > 2
