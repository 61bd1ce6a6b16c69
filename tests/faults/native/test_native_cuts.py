"""A connection that is cut after any number of bytes: sends and deliveries go on as if it were not.

The relay itself is tested first: it passes all, cuts where it was told, and holds up.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import beamstream as bs
from beamstream.testing.history import payload
from beamstream.testing.node import NodeProcess

from . import told
from .proxy import Proxy

NEVER = 2**63
_CUTS = 50
_WAIT_S = 60.0


class Echo:
    """A server that sends back what it receives, one connection after the other."""

    def __init__(self) -> None:
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                while piece := connection.recv(65536):
                    self.received += len(piece)
                    connection.sendall(piece)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def _through(proxy: Proxy, data: bytes) -> bytes:
    """What comes back of `data` before the end of the connection, or all of it."""
    host, _, port = proxy.url.removeprefix("tcp://").rpartition(":")
    back = b""
    connection = socket.create_connection((host, int(port)), 10)
    with connection, contextlib.suppress(OSError):
        connection.sendall(data)
        while len(back) < len(data):
            piece = connection.recv(65536)
            if not piece:
                break
            back += piece
    return back


def test_the_relay_passes_everything(echo: Echo) -> None:
    with Proxy(echo.address, "seed") as proxy:
        data = payload(1, 1, 300_000)
        assert _through(proxy, data) == data


@pytest.mark.parametrize("nbytes", [1, 17, 1000])
def test_the_relay_cuts_at_the_byte(echo: Echo, nbytes: int) -> None:
    cut: list[int] = []
    with Proxy(
        echo.address, "seed", lambda: cut.append(1), cuts=lambda _: (nbytes, NEVER)
    ) as proxy:
        proxy.rough = True
        assert len(_through(proxy, payload(1, 1, 5000))) <= nbytes
        assert cut == [1]
        assert echo.received == nbytes
        proxy.rough = False
        assert _through(proxy, b"again") == b"again"


def test_the_relay_cuts_answers_at_the_byte(echo: Echo) -> None:
    with Proxy(echo.address, "orderly", cuts=lambda _: (NEVER, 100)) as proxy:
        proxy.rough = True
        data = payload(1, 1, 5000)
        back = _through(proxy, data)
        assert data.startswith(back)
        assert len(back) <= 100


def test_the_relay_holds_up(echo: Echo) -> None:
    with Proxy(echo.address, "seed") as proxy:
        proxy.stall()
        found: list[bytes] = []
        thread = threading.Thread(target=lambda: found.append(_through(proxy, b"late")))
        thread.start()
        assert not found
        proxy.flow()
        thread.join(10)
        assert found == [b"late"]


@pytest.mark.system
@pytest.mark.parametrize("direction", ["to the node", "to the client"])
def test_cuts_at_any_byte_change_nothing(tmp_path: Path, seed: int, direction: str) -> None:
    draw = random.Random(f"{seed} {direction}")
    plan: list[tuple[int, int]] = []

    def next_cut(_: random.Random) -> tuple[int, int]:
        return plan.pop() if plan else (NEVER, NEVER)

    with NodeProcess(tmp_path / "data", cache="16MiB", durability="os") as node:
        host, _, port = str(node.connect["native"]).rpartition(":")
        with Proxy((host, int(port)), str(seed), cuts=next_cut) as proxy:
            token = node.token(told.BEAMTIME, "read,write")
            proxy.rough = True
            with bs.connect(proxy.url, beamtime=told.BEAMTIME, token=token) as hub:
                stream = hub.source(told.SOURCE).stream("cut")
                group = stream.group("readers", ack="manual")
                with stream.writer(finish=False) as writer, group.subscribe() as member:
                    for turn in range(_CUTS):
                        nbytes = draw.choice((draw.randint(1, 900), draw.randint(1, 9_000)))
                        plan.append(
                            (nbytes, NEVER) if direction == "to the node" else (NEVER, nbytes)
                        )
                        proxy.cut()
                        _exchange(writer, member, turn)
                        proxy.cut()
                assert [message.id for message in stream] == list(range(1, 4 * _CUTS + 1))
                row = group.info()
                assert row is not None
                assert (row.acked, row.open, row.leased) == (4 * _CUTS, 0, 0)
        node.check_log()


def _exchange(writer: bs.Writer, member: object, turn: int) -> None:
    """Send four messages, take them, and have all of it confirmed."""
    from beamstream.client.native.subscription import Subscription

    assert isinstance(member, Subscription)
    first = 4 * turn + 1
    receipts = [
        writer.send(payload(1, first, 1500), {"key": first}),
        writer.send_many([payload(1, first + 1, 10), payload(1, first + 2, 700)]),
        writer.send(payload(1, first + 3, 100)),
    ]
    ids = [id for receipt in receipts for id in receipt.result(_WAIT_S).ids]
    assert ids == list(range(first, first + 4))
    sizes = (1500, 10, 700, 100)
    for id, nbytes in zip(ids, sizes, strict=True):
        message = member.take(_WAIT_S)
        assert isinstance(message, bs.Message)
        assert (message.id, message.delivery) == (id, 1)
        assert bytes(message.data) == payload(1, id, nbytes)
        message.ack()
    member.sync(_WAIT_S)
