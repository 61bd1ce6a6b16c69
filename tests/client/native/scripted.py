"""The other side of a native connection, played by the test, frame by frame, over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import xxhash

import beamstream as bs
from beamstream.wire.native import calls, frames
from beamstream.wire.native.batches import Batch
from beamstream.wire.native.frames import Deliver, Hello, Put, Receipt, Reply, Welcome
from beamstream.wire.native.framing import HEAD_NBYTES, unpack_head

F = TypeVar("F")


class Peer:
    """Listens; `accept` takes the next connection and greets its client."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(30)
        self._socket: socket.socket | None = None
        self.hello: Hello | None = None

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self, **welcome: Any) -> Hello:
        if self._socket is not None:
            self._socket.close()
        self._socket, _ = self._listener.accept()
        self._socket.settimeout(30)
        hello = self.expect(Hello)
        default = {
            "version": 1,
            "node": 1,
            "boot": 1,
            "software": "scripted",
            "beamtime": hello.beamtime or "demo",
            "access": ("read", "write"),
            "level": 2,
            "window_nbytes": 1 << 26,
            "batch_max": 4096,
        }
        self.send(Welcome(**{**default, **welcome}))
        return hello

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._listener.close()

    def cut(self) -> None:
        """Break the connection, as a cable would."""
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    # ------------------------------------------------------------------ frames

    def read(self) -> tuple[Any, bytes]:
        kind, header, body = unpack_head(self._exactly(HEAD_NBYTES))
        return frames.decode(kind, self._exactly(header)), self._exactly(body)

    def expect(self, kind: type[F]) -> F:
        """The next frame, which has to be of that kind."""
        frame, _ = self.read()
        assert isinstance(frame, kind), frame
        return frame

    def until(self, kind: type[F]) -> F:
        """The next frame of that kind; what comes before is passed over."""
        while True:
            frame, _ = self.read()
            if isinstance(frame, kind):
                return frame

    def read_put(self) -> tuple[Put, bytes]:
        """The next put and its body; what comes before is passed over."""
        while True:
            frame, body = self.read()
            if isinstance(frame, Put):
                return frame, body

    def send(self, frame: Any, body: bytes = b"") -> None:
        assert self._socket is not None
        self._socket.sendall(frames.encode(frame, len(body)) + body)

    def send_raw(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.sendall(data)

    def _exactly(self, nbytes: int) -> bytes:
        assert self._socket is not None
        data = bytearray()
        while len(data) < nbytes:
            piece = self._socket.recv(min(nbytes - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    # ------------------------------------------------------------------ what is usual

    def answer(self, method: str, result: object, body: bytes = b"") -> Any:
        """Expect a call of `method` and answer it; return its parameters."""
        call = self.until(frames.Call)
        assert call.method == method
        self.send(Reply(call.number, calls.encode(result)), body)
        return calls.decode_params(method, call.params)

    def receipt(self, put: Put, id: int, **more: Any) -> None:
        self.send(Receipt(put.channel, put.sequence, put.count, 2, id, id, **more))

    def deliver(
        self, channel: int, payloads: Sequence[bytes], *, seq: int, tag: int = 1, **more: Any
    ) -> None:
        batch = Batch(
            count=len(payloads),
            seq=seq,
            id=seq,
            sizes=tuple(map(len, payloads)),
            digests=b"".join(map(xxhash.xxh3_128_digest, payloads)),
            timestamps_ns=1_700_000_000_000_000_000,
            **more,
        )
        self.send(Deliver(channel, 0, tag, batch), b"".join(payloads))


@contextmanager
def peer() -> Iterator[Peer]:
    played = Peer()
    try:
        yield played
    finally:
        played.close()


def connect(played: Peer, threads: ThreadPoolExecutor, **how: Any) -> bs.Hub:
    greeted = threads.submit(played.accept)
    hub = bs.connect(played.url, beamtime="demo", token="token", timeout=20, **how)
    greeted.result(20)
    return hub
