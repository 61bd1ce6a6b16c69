"""ASAPO clients, official or drop-in ones, as the tests use them.

Callbacks come from threads of the client; a `Ticket` waits for one of them.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import pytest

from beamstream.testing.node import NodeProcess
from compat.doors import BEAMTIME
from official.implementations import IMPLEMENTATIONS, Clients

E = TypeVar("E", bound=BaseException)
Kind = type[E] | tuple[type[E], ...]

OFFICIAL: Final = IMPLEMENTATIONS["official"]
CACHE_ONLY: Final = OFFICIAL.producer.CACHE_ONLY_INGEST_MODE
STORED: Final = OFFICIAL.producer.DEFAULT_INGEST_MODE

subject = pytest.mark.official


def refused(kind: Kind[E], call: Callable[..., Any], *args: Any, **more: Any) -> E:
    """The error of a call that has to raise exactly `kind`: the clients' errors are siblings."""
    with pytest.raises(kind) as caught:
        call(*args, **more)
    check_kind(caught.value, kind)
    return caught.value


def check_kind(error: BaseException | None, kind: Kind[E]) -> None:
    """Assert that `error` is of `kind`, or one of them, and not of a class below."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    assert type(error) in kinds, f"{kinds[0].__name__} expected, got {error!r}"


class Ticket:
    """What became of one send."""

    def __init__(self) -> None:
        self._outcomes: queue.SimpleQueue[tuple[dict[str, Any], Exception | None]] = (
            queue.SimpleQueue()
        )

    def __call__(self, payload: dict[str, Any], error: Exception | None) -> None:
        self._outcomes.put((payload, error))

    def outcome(self, seconds: float = 30.0) -> tuple[dict[str, Any], Exception | None]:
        return self._outcomes.get(timeout=seconds)

    def ok(self, seconds: float = 30.0) -> dict[str, Any]:
        payload, error = self.outcome(seconds)
        assert error is None, f"{type(error).__name__}: {error}"
        return payload

    def fails(self, kind: Kind[E]) -> E:
        error: Any = self.outcome()[1]
        check_kind(error, kind)
        return error


class Sender:
    """A producer whose sends are tickets."""

    def __init__(self, api: Any, source: str) -> None:
        self.api = api
        self.source = source

    def send(
        self,
        id: int,
        data: Any,
        stream: str = "s",
        *,
        path: str = "",
        mode: int = CACHE_ONLY,
        **more: Any,
    ) -> Ticket:
        ticket = Ticket()
        part = "_{}".format(more["dataset"][0]) if more.get("dataset") else ""
        self.api.send(
            id,
            path or f"processed/{self.source}/{stream}_{id}{part}",
            data,
            stream=stream,
            ingest_mode=mode,
            callback=ticket,
            **more,
        )
        return ticket

    def file(self, id: int, local: str, path: str, stream: str = "s", **more: Any) -> Ticket:
        ticket = Ticket()
        self.api.send_file(id, local, path, stream=stream, callback=ticket, **more)
        return ticket

    def finish(self, stream: str, last_id: int, next_stream: str | None = None) -> Ticket:
        ticket = Ticket()
        self.api.send_stream_finished_flag(stream, last_id, next_stream, callback=ticket)
        return ticket

    def beamtime_meta(self, text: str, mode: str, upsert: bool) -> Ticket:
        ticket = Ticket()
        self.api.send_beamtime_meta(text, mode, upsert, ticket)
        return ticket

    def stream_meta(
        self, text: str, stream: str, mode: str = "replace", upsert: bool = True
    ) -> Ticket:
        ticket = Ticket()
        self.api.send_stream_meta(text, mode, upsert, stream, ticket)
        return ticket

    def parts(self, id: int, substreams: Iterable[int], size: int, stream: str = "d") -> None:
        """Send these parts of a dataset; part k carries ``{"part": k}`` and ``b"id/k"``."""
        tickets = [
            self.send(id, b"%d/%d" % (id, k), stream, dataset=(k, size), user_meta={"part": k})
            for k in substreams
        ]
        for ticket in tickets:
            ticket.ok()


class Lab:
    """One data source of a beamtime, and clients for it."""

    def __init__(
        self,
        node: NodeProcess,
        source: str,
        beamtime: str = BEAMTIME,
        clients: Clients = OFFICIAL,
    ) -> None:
        self.node = node
        self.clients = clients
        self.source = source
        self.beamtime = beamtime
        self.token = node.token(beamtime)
        self._senders: list[Sender] = []
        self._shared: Sender | None = None
        self._reader: Any = None

    def producer(
        self,
        *,
        threads: int = 1,
        timeout_ms: int = 20_000,
        token: str = "",
        source: str = "",
        kind: str = "processed",
        beamtime: str = "",
        beamline: str = "auto",
        **more: Any,
    ) -> Sender:
        api = self.clients.producer.create_producer(
            self.node.endpoint,
            kind,
            beamtime or self.beamtime,
            beamline,
            source or self.source,
            token or self.token,
            threads,
            timeout_ms,
            **more,
        )
        api.set_log_level("none")
        # A send before the receivers are known waits a second. They are asked for in a thread
        # that starts with the producer; these two requests of another thread take longer.
        api.get_version_info()
        sender = Sender(api, source or self.source)
        self._senders.append(sender)
        return sender

    def consumer(
        self,
        timeout_ms: int = 0,
        *,
        token: str = "",
        source: str = "",
        beamtime: str = "",
        path: str = "auto",
        file_system: bool = False,
        **more: Any,
    ) -> Any:
        """A consumer; with a timeout of 0 each call is one request."""
        return self.clients.consumer.create_consumer(
            self.node.endpoint,
            path,
            file_system,
            beamtime or self.beamtime,
            source or self.source,
            token or self.token,
            timeout_ms,
            **more,
        )

    def beside(self, *, source: str = "", beamtime: str = "") -> Lab:
        """Another source, or the same one of another beamtime."""
        return Lab(
            self.node, source or self.source, beamtime or self.beamtime, clients=self.clients
        )

    @property
    def sender(self) -> Sender:
        """One producer for all that a test sends without wishes."""
        if self._shared is None:
            self._shared = self.producer()
        return self._shared

    def fill(self, stream: str, ids: Iterable[int], **more: Any) -> None:
        """Send b"data <id>" with metadata {"i": id, "square": id * id} for each of `ids`."""
        tickets = [
            self.sender.send(
                id, b"data %d" % id, stream, user_meta={"i": id, "square": id * id}, **more
            )
            for id in ids
        ]
        for ticket in tickets:
            ticket.ok()

    def read(self, stream: str, id: int) -> bytes:
        """The payload of a message, always by the same consumer."""
        if self._reader is None:
            self._reader = self.consumer(5000)
        data, _ = self._reader.get_by_id(id, meta_only=False, stream=stream)
        return bytes(data)

    def close(self) -> None:
        for sender in self._senders:
            sender.api.cleanup()
        self._senders.clear()
        self._shared = self._reader = None


def next_ids(consumer: Any, group: str, stream: str, count: int, **more: Any) -> list[int]:
    return [consumer.get_next(group, stream=stream, **more)[1]["_id"] for _ in range(count)]
