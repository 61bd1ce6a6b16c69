"""Producers and consumers as threads that write all they do into a history, whatever the node does.

They never give up: a send is repeated until it is answered, as ASAPO's producer does, and an
acknowledgement as well. While the node is down they wait at the `Gate`.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator

from beamstream.model import Level
from beamstream.store.files import digest_of
from beamstream.testing.checker import Call, History, payload_nbytes
from beamstream.wire.asapo.structs import Code

from .official import Official
from .raw import CACHE_MODE, FILE_MODE, RawConsumer, RawProducer, Target

LEASE_S = 2.0
_ERRORS_MAX = 20


class Gate:
    """Open while the node runs."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.stop = threading.Event()
        self.drain = threading.Event()

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def wait(self) -> None:
        assert self._open.wait(120), "the node has not come back"


class Actor(ABC):
    """A thread; `check` raises what went wrong in it."""

    def __init__(self, name: str, gate: Gate, history: History) -> None:
        self.name = name
        self.gate = gate
        self.history = history
        self._error: BaseException | None = None
        self._errors_while_open = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"{self.name} does not end"
        self.check()

    def check(self) -> None:
        if self._error is not None:
            raise AssertionError(f"{self.name}: {self._error!r}") from self._error

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - it is raised again by `check`
            self._error = error

    @abstractmethod
    def work(self) -> None: ...

    def disconnected(self, error: Exception) -> None:
        """The connection broke; if the node is up, that must not happen often."""
        self._errors_while_open += self.gate.is_open
        if self._errors_while_open > _ERRORS_MAX:
            raise AssertionError(f"the node is up and cannot be talked to: {error!r}")
        self.gate.wait()

    def connected(self) -> None:
        self._errors_while_open = 0


# --------------------------------------------------------------------------- producers


class Sender(Actor):
    """Sends ids `first`, `first` + `step` … of a stream, each until it is answered."""

    def __init__(
        self,
        name: str,
        gate: Gate,
        history: History,
        target: Target,
        stream: str,
        *,
        first: int = 1,
        step: int = 1,
        auto: bool = False,
        cached: bool = False,
        sizes: tuple[int, int] = (1_000, 1_000_000),
    ) -> None:
        super().__init__(name, gate, history)
        self.target = target
        self.stream = stream
        self.auto = auto
        self.cached = cached
        self._first, self._step, self._sizes = first, step, sizes

    def calls(self) -> Iterator[Call]:
        key = self._first
        seed = self.history.seed_of(self.stream)
        while not self.gate.stop.is_set():
            if self.cached:
                # What needs no disk is too fast for the readers: let the others come first.
                self.history.wait_for(self.history.answered + 8, 0.1)
            nbytes = payload_nbytes(seed, key, *self._sizes)
            yield self.history.put(
                self.name,
                self.stream,
                0 if self.auto else key,
                nbytes=nbytes,
                level=Level.CACHE if self.cached else Level.DISK,
                key=key,
                name="" if self.cached else f"processed/{self.stream}/{key}",
            )
            key += self._step


class RawSender(Sender):
    def work(self) -> None:
        producer: RawProducer | None = None
        mode = CACHE_MODE if self.cached else FILE_MODE
        for call in self.calls():
            data, meta = self.history.payload_of(call), self.history.metadata_of(call)
            while True:
                try:
                    self.gate.wait()
                    producer = producer or RawProducer(self.target)
                    name = call.name or f"cached/{call.key}"
                    reply = producer.put(call.id, name, data, meta, stream=self.stream, mode=mode)
                except OSError as error:
                    if producer is not None:
                        producer.close()
                    producer = None
                    self.disconnected(error)
                    continue
                self.connected()
                if reply.code in (Code.SUCCESS, Code.WARNING):
                    self.history.ok(call)
                else:
                    self.history.fail(call, f"{reply.code}: {reply.text}")
                break
        if producer is not None:
            producer.close()


def send_officially(producer: Official, history: History, call: Call) -> None:
    """Let ASAPO's producer send a message; return when it knows how that ended."""
    answer = producer(
        id=call.id,
        name=call.name,
        seed=history.seed_of(call.stream),
        key=call.key,
        nbytes=call.nbytes,
        mode=FILE_MODE,
        stream=call.stream,
    )
    match answer["outcome"]:
        case "ok":
            history.ok(call)
        case "unknown":
            history.unknown(call, answer["error"])
        case _:
            history.fail(call, answer["error"])


class OfficialSender(Sender):
    """ASAPO's own producer, one message after the other."""

    def work(self) -> None:
        with Official("producer", self.target, 120_000) as producer:
            for call in self.calls():
                send_officially(producer, self.history, call)


# --------------------------------------------------------------------------- consumers


class Reader(Actor):
    """Takes messages of a group from several streams and acknowledges them.

    One in ten is not acknowledged: it comes again when its lease has ended. While draining, all
    are acknowledged.
    """

    def __init__(
        self,
        name: str,
        gate: Gate,
        history: History,
        target: Target,
        group: str,
        streams: list[str],
        *,
        by_id: bool = False,
    ) -> None:
        super().__init__(name, gate, history)
        self.target = target
        self.group = group
        self.streams = streams
        self.by_id = by_id
        self._random = random.Random(f"{history.seed} {name}")

    def work(self) -> None:
        while not (self.gate.stop.is_set() and self.gate.drain.is_set()):
            found = False
            for stream in self.streams:
                while (id := self.take(stream)) and not self.gate.drain.is_set():
                    found = True
                    if self.gate.stop.is_set() or self._random.random() > 0.1:
                        self.acknowledge(stream, id)
            if not found:
                self.history.wait_for(self.history.answered + 1, 0.05)

    def take(self, stream: str) -> int:
        """The id of the next message; 0 if there was none."""
        self.gate.wait()
        call = self.history.get(self.name, self.group, stream)
        try:
            return self.next(call, stream)
        except OSError as error:
            self.history.unknown(call, repr(error))
            self.disconnected(error)
            return 0

    def acknowledge(self, stream: str, id: int) -> None:
        while True:
            self.gate.wait()
            call = self.history.ack(self.name, self.group, stream, id)
            try:
                self.ack(call)
                self.connected()
                return
            except OSError as error:
                self.history.unknown(call, repr(error))
                self.disconnected(error)

    @abstractmethod
    def next(self, call: Call, stream: str) -> int: ...

    @abstractmethod
    def ack(self, call: Call) -> None: ...


class RawReader(Reader):
    def work(self) -> None:
        with RawConsumer(self.target) as self.consumer:
            super().work()

    def next(self, call: Call, stream: str) -> int:
        key = "_id" if self.by_id else "time_id"
        status, record = self.consumer.next(
            self.group, stream, key=key, lease_ms=round(LEASE_S * 1000)
        )
        if status == 409:
            self.history.nothing(call)
            return 0
        if status != 200:
            self.history.fail(call, f"{status}: {record}")
            return 0
        try:
            data = self.consumer.cached(record)
        except OSError:
            data = None
        digest = b"" if data is None else digest_of(data)
        self.history.ok(call, record["_id"], digest=digest, meta=record["meta"])
        return int(record["_id"])

    def ack(self, call: Call) -> None:
        status, text = self.consumer.ack(self.group, call.stream, call.id)
        if status == 200 or (status == 400 and "already acknowledged" in text):
            self.history.ok(call)
        else:
            self.history.fail(call, f"{status}: {text}")


class OfficialReader(Reader):
    """ASAPO's own consumer."""

    def work(self) -> None:
        with Official("consumer", self.target, 100) as self.consumer:
            super().work()

    def next(self, call: Call, stream: str) -> int:
        answer = self.consumer(
            do="next",
            group=self.group,
            stream=stream,
            by_id=self.by_id,
            lease_ms=round(LEASE_S * 1000),
        )
        if answer.get("error") == "AsapoEndOfStreamError":
            self.history.nothing(call)
            return 0
        if "error" in answer:
            raise ConnectionError(answer["text"])
        self.connected()
        digest = bytes.fromhex(answer["digest"])
        self.history.ok(call, answer["id"], digest=digest, meta=answer["meta"])
        return int(answer["id"])

    def ack(self, call: Call) -> None:
        answer = self.consumer(do="ack", group=self.group, stream=call.stream, id=call.id)
        if "error" not in answer or "already acknowledged" in answer["text"]:
            self.history.ok(call)
        elif answer["error"] == "AsapoWrongInputError":
            self.history.fail(call, answer["text"])
        else:
            raise ConnectionError(answer["text"])
