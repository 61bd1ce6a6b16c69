"""The native protocol frame by frame, for tests that look at the wire."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import msgspec
import xxhash

from beamstream.errors import ConnectionLost, Error
from beamstream.testing.node import NodeProcess
from beamstream.wire.native import calls, frames
from beamstream.wire.native.framing import HEAD_NBYTES, unpack_head

F = TypeVar("F")


class Received(NamedTuple):
    frame: Any
    body: bytes


class NativeWire:
    """One connection to the native door; every call blocks, for at most `seconds`.

    >>> from beamstream.testing.node import NodeProcess
    >>> with NodeProcess(cache="16MiB") as node, NativeWire.of(node) as wire:
    ...     _ = wire.login(node.token("bt1"))
    ...     _ = wire.open_writer("eiger", "scan1")
    ...     wire.put([b"one", b"two"]).id
    1
    """

    def __init__(self, address: tuple[str, int] | str, seconds: float = 10.0) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(seconds)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, seconds)
        self._sequences: dict[int, int] = {}
        self._behind: deque[Received] = deque()
        self.session = os.urandom(16)

    @classmethod
    def of(cls, node: NodeProcess, seconds: float = 10.0, *, unix: bool = False) -> Self:
        """A connection to a node, not logged in."""
        if unix:
            return cls(str(node.connect["unix"]), seconds)
        host, _, port = str(node.connect["native"]).rpartition(":")
        return cls((host.strip("[]"), int(port)), seconds)

    # ------------------------------------------------------------------ frames

    def send(self, frame: frames.Frame, *body: bytes) -> None:
        self.socket.sendall(frames.encode(frame, sum(map(len, body))) + b"".join(body))

    def receive(self) -> Received:
        """The next frame."""
        if self._behind:
            return self._behind.popleft()
        return self._receive()

    def _receive(self) -> Received:
        kind, header_nbytes, body_nbytes = unpack_head(self._exactly(HEAD_NBYTES))
        frame = frames.decode(kind, self._exactly(header_nbytes))
        return Received(frame, self._exactly(body_nbytes))

    def expect(self, kind: type[F]) -> F:
        """The next frame, which is of this kind."""
        frame = self.receive().frame
        assert isinstance(frame, kind), frame
        return frame

    def until(self, kind: type[F], keep: bool = True) -> F:
        """The next frame of this kind; those before it are received later, or dropped."""
        for received in self._behind:
            if isinstance(received.frame, kind):
                self._behind.remove(received)
                return received.frame
        while True:
            received = self._receive()
            if isinstance(received.frame, kind):
                return received.frame
            if keep:
                self._behind.append(received)

    def _exactly(self, nbytes: int) -> bytes:
        memory = bytearray(nbytes)
        view = memoryview(memory)
        done = 0
        while done < nbytes:
            count = self.socket.recv_into(view[done:])
            if not count:
                raise ConnectionLost("the node has closed the connection")
            done += count
        return bytes(memory)

    # ------------------------------------------------------------------ what clients do

    def login(self, token: str, beamtime: str = "", **more: Any) -> frames.Welcome:
        """Say hello; `AssertionError` with what was answered if that is no welcome."""
        hello = frames.Hello(
            frames.MAGIC, frames.VERSION, token, beamtime, more.pop("session", self.session), **more
        )
        self.session = hello.session
        self.send(hello)
        return self.expect(frames.Welcome)

    def open_writer(
        self, source: str, stream: str, *, channel: int = 1, level: int = -1, **more: Any
    ) -> frames.OpenWriter:
        producer = more.pop("producer", None) or os.urandom(16)
        frame = frames.OpenWriter(channel, source, stream, producer, level, **more)
        self.send(frame)
        self._sequences[channel] = 1
        return frame

    def begin_put(
        self,
        payloads: Sequence[bytes],
        metas: Sequence[bytes] | None = None,
        *,
        channel: int = 1,
        sequence: int = 0,
        digests: bytes | None = None,
        **more: Any,
    ) -> frames.Put:
        """Send a put and do not wait for its receipt."""
        if not sequence:
            sequence = self._sequences[channel]
            self._sequences[channel] += len(payloads)
        if digests is None:
            digests = b"".join(map(xxhash.xxh3_128_digest, payloads))
        frame = frames.Put(
            channel,
            sequence,
            len(payloads),
            tuple(map(len, payloads)),
            digests,
            metas=None if metas is None else tuple(metas),
            **more,
        )
        self.send(frame, *payloads)
        return frame

    def put(self, payloads: Sequence[bytes], metas: Any = None, **more: Any) -> frames.Receipt:
        """Send a put and return its one receipt; raises what the node refuses it with."""
        self.begin_put(payloads, metas, **more)
        frame = self.receive().frame
        if isinstance(frame, frames.Failed):
            raise Error(f"{frame.code} {frame.message}")
        assert isinstance(frame, frames.Receipt), frame
        return frame

    def subscribe(
        self, source: str, stream: str, group: str, *, channel: int = 9, **more: Any
    ) -> frames.StreamOpened:
        """Subscribe to one stream, with credit for all that a test sends."""
        said = {"credit_messages": 1_000, "credit_nbytes": 1 << 24, "batch_max": 100, **more}
        self.send(frames.Subscribe(channel, source, stream, group, **said))
        return self.until(frames.StreamOpened)

    def ask(self, method: str, params: calls.Params, number: int = 1) -> Received:
        """Ask a question; its reply (or refusal) and body, whatever came before it."""
        self.send(frames.Call(number, method, calls.encode(params)))
        return self.answer(number)

    def answer(self, number: int) -> Received:
        """The answer to a question that was asked."""
        while True:
            received = self._receive()
            if (
                isinstance(received.frame, frames.Reply | frames.CallFailed)
                and received.frame.number == number
            ):
                return received
            self._behind.append(received)

    def call(self, method: str, params: calls.Params) -> Any:
        """Ask a question; its result, or an `Error` with the code first."""
        reply = self.ask(method, params).frame
        if isinstance(reply, frames.CallFailed):
            raise Error(f"{reply.code} {reply.message}")
        return calls.decode_result(method, reply.result)

    def fetch(self, source: str, stream: str, lo: int, hi: int = 0, **more: Any) -> list[bytes]:
        """Payloads by id: of one, or lo ≤ id < hi."""
        params = calls.Fetch(source=source, stream=stream, lo=lo, hi=hi or lo + 1, **more)
        reply, body = self.ask("fetch", params)
        if isinstance(reply, frames.CallFailed):
            raise Error(f"{reply.code} {reply.message}")
        batch = calls.decode_result("fetch", reply.result).batch
        if batch is None:
            return []
        offsets = batch.offsets()
        return [body[offsets[k] : offsets[k + 1]] for k in range(batch.count)]

    def closed(self) -> frames.Goodbye | None:
        """Wait until the node closes; what it said at last, if it said something."""
        last: frames.Goodbye | None = None
        try:
            while True:
                frame = self.receive().frame
                if isinstance(frame, frames.Goodbye):
                    last = frame
        except (ConnectionLost, ConnectionError, msgspec.DecodeError):
            return last

    def abort(self) -> None:
        """Close with a reset."""
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def settle(delivered: frames.Deliver, *, dead: bool = False) -> frames.Settle:
    """All messages of a delivery, as what is settled with a put."""
    batch = delivered.batch
    seqs = batch.seqs or range(batch.seq, batch.seq + batch.count)
    ranges = tuple((seq, seq + 1) for seq in seqs)
    return frames.Settle(delivered.channel, delivered.ref, delivered.tag, ranges, dead)
