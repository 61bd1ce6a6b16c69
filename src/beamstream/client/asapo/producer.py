"""A producer that speaks ASAPO: messages go out over several connections, futures come back."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from beamstream import limits
from beamstream.client.asapo.address import Address
from beamstream.client.asapo.discovery import Discovery, ReceiverList
from beamstream.client.asapo.encode import Payload, as_bytes, encode_meta
from beamstream.client.asapo.http import Http
from beamstream.client.asapo.link import Buffer
from beamstream.client.asapo.sender import DUPLICATE_TEXT, RETRY_SECONDS, Sender
from beamstream.errors import BadInput, Error, TimedOut
from beamstream.model import check_label, check_path
from beamstream.wire.asapo.bodies import FINISH_NAME, finish_meta
from beamstream.wire.asapo.credentials import AUTO, Credentials, format_credentials
from beamstream.wire.asapo.structs import (
    DEFAULT_INGEST_MODE,
    Code,
    IngestMode,
    OpCode,
    Reply,
    pack_request,
)

METADATA_MODE: Final = int(IngestMode.METADATA_ONLY | IngestMode.STORE_IN_DATABASE)
IN_FLIGHT_NBYTES: Final = 256 * limits.MIB
"""Payloads that wait or are on their way; `send` blocks above it."""
_IN_FLIGHT_MESSAGES: Final = 4096
_REFRESH_SECONDS: Final = 10.0
_FAILURES_KEPT: Final = 100

MetaMode = Literal["insert", "replace", "update"]
_META_MODES: Final[dict[str, int]] = {"insert": 1, "replace": 2, "update": 3}


class Sent(msgspec.Struct, frozen=True, gc=False):
    """The server has it.

    Parameters
    ----------
    id : as sent; 0 for an automatic one.
    response : what the server remarked; usually empty.
    duplicate : the same message was there before.
    """

    id: int
    name: str
    stream: str
    response: str
    duplicate: bool


class _Job(msgspec.Struct, eq=False):
    parts: tuple[Buffer, ...]
    nbytes: int
    id: int
    name: str
    stream: str
    future: Future[Sent]
    submitted_s: float


class Producer:
    """Sends messages of one data source.

    Parameters
    ----------
    endpoint : ``HOST:PORT`` of the node's HTTP door.
    beamtime, beamline : one of them may be ``auto``.
    type : ``processed``, or ``raw`` for detectors.
    instance, step : tell this program apart from others; by default host name and process id.
    threads : connections, 1 … 32.
    timeout_s : a message fails when neither it nor any before it got through for this long.
    in_flight_nbytes : `send` blocks while more than this waits.

    >>> with Producer("localhost:8400", beamtime="demo", source="eiger", token=token
    ... ) as producer:  # doctest: +SKIP
    ...     producer.send(1, "processed/frame_1", frame, stream="scan1", meta={"energy_eV": 12400})
    """

    def __init__(
        self,
        endpoint: str,
        *,
        beamtime: str,
        beamline: str = AUTO,
        source: str = "detector",
        token: str,
        type: Literal["processed", "raw"] = "processed",  # noqa: A002
        instance: str = AUTO,
        step: str = "DefaultStep",
        threads: int = 1,
        timeout_s: float = 30.0,
        in_flight_nbytes: int = IN_FLIGHT_NBYTES,
        retry_s: float = RETRY_SECONDS,
    ) -> None:
        if not 1 <= threads <= limits.PRODUCER_CONNECTIONS_MAX:
            raise BadInput(f"threads is {threads}; 1 to {limits.PRODUCER_CONNECTIONS_MAX} are")
        if type not in ("processed", "raw"):
            raise BadInput(f"type {type!r} is neither 'processed' nor 'raw'")
        self.instance = default_instance() if instance in ("", AUTO) else instance
        credentials = format_credentials(
            Credentials(type == "raw", self.instance, step, beamtime, beamline, source, token)
        )
        self._what = f"beamtime {beamtime}, source {source!r}"
        self._timeout_s = timeout_s
        self._in_flight_max = in_flight_nbytes
        self._http = Http()
        self._discovery = Discovery(self._http, endpoint, token)
        self._discovery_lock = threading.Lock()
        self._receivers: ReceiverList | None = None
        self._asked_s = 0.0
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._jobs = 0
        self._nbytes = 0
        self._closed = threading.Event()
        self._last_success_s = 0.0
        self._failures: deque[BaseException] = deque(maxlen=_FAILURES_KEPT)
        self._failed = 0
        # A server may keep a message waiting for room in its cache before it answers.
        silence_s = timeout_s + limits.CACHE_WAIT_SECONDS_MAX
        self._senders = [
            Sender(self._addresses, k, credentials, silence_s, self._closed.wait, retry_s)
            for k in range(threads)
        ]
        self._threads = [
            threading.Thread(target=self._work, args=(k,), name=f"producer-{k}", daemon=True)
            for k in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    # ---------------------------------------------------------------- sending

    def send(
        self,
        id: int,  # noqa: A002
        name: str,
        data: Payload | None = None,
        *,
        stream: str,
        meta: Mapping[str, Any] | bytes | str | None = None,
        mode: int | None = None,
        dataset: tuple[int, int] | None = None,
        auto_id: bool = False,
    ) -> Future[Sent]:
        """Queue a message; block while too much is in flight.

        `data` must not change before the future is done: it is sent from where it lies.

        Parameters
        ----------
        id : 1 … 2^63 - 1; 0 with `auto_id`.
        name : relative path that readers see, and of the file if one is stored.
        data : bytes or a C-contiguous array; None for a message that is metadata only.
        mode : ingest mode; default 13 (cache, file and record), 10 without data.
        dataset : (substream, number of substreams) of a part of a dataset.

        Raises
        ------
        BadInput, BadName, BadMetadata, TooLarge : nothing was sent.
        """
        payload = as_bytes(data)
        mode = (
            (DEFAULT_INGEST_MODE if data is not None else METADATA_MODE) if mode is None else mode
        )
        _check_ids(id, auto_id, dataset)
        check_path(name)
        check_label("stream", stream)
        text = encode_meta(meta)
        substream, parts = dataset or (0, 0)
        header = pack_request(
            OpCode.TRANSFER_DATASET_DATA if substream else OpCode.TRANSFER_DATA,
            id,
            len(payload),
            len(text),
            (mode, substream, parts),
            name,
            stream,
        )
        sent = payload if mode & IngestMode.TRANSFER_DATA else b""
        return self._submit((header, text, sent), id, name, stream)

    def send_stream_finished(
        self, stream: str, last_id: int, next_stream: str = ""
    ) -> Future[Sent]:
        """Announce the last id of `stream`, and the stream that follows it."""
        check_label("stream", stream)
        if not 0 <= last_id < limits.ID_MAX:
            raise BadInput(f"last id {last_id} of stream {stream!r} is not 0 … 2^63 - 2")
        if next_stream:
            check_label("stream", next_stream)
        text = finish_meta(next_stream)
        custom = (int(IngestMode.METADATA_ONLY), 0, 0)
        header = pack_request(
            OpCode.TRANSFER_DATA, last_id + 1, 0, len(text), custom, FINISH_NAME, stream
        )
        return self._submit((header, text), last_id + 1, FINISH_NAME, stream)

    def send_meta(
        self,
        document: Mapping[str, Any] | bytes | str,
        *,
        stream: str = "",
        mode: MetaMode = "replace",
        upsert: bool = True,
    ) -> Future[Sent]:
        """Write metadata of `stream`, or without one of the beamtime.

        ``insert`` fails if there is some; ``replace`` and ``update`` (which merges objects) fail
        if there is none, unless `upsert`.
        """
        if mode not in _META_MODES:
            raise BadInput(f"mode {mode!r} is none of {', '.join(_META_MODES)}")
        text = encode_meta(document, limits.STREAM_META_NBYTES_MAX)
        if stream:
            check_label("stream", stream)
        name = f"{stream or 'beamtime_global'}.meta"
        custom = (9, _META_MODES[mode] + 10 * upsert, 0)
        header = pack_request(OpCode.TRANSFER_METADATA, 0, len(text), 0, custom, name, stream)
        return self._submit((header, text), 0, name, stream)

    @property
    def in_flight(self) -> int:
        """Messages that are queued or on their way."""
        return self._jobs

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when everything sent so far is done, well or badly.

        Raises
        ------
        TimedOut : something is still on its way after `timeout_s`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._jobs, timeout_s):
                raise TimedOut(f"{self._what}: {self._jobs} messages are still on their way")

    def close(self, timeout_s: float | None = None) -> None:
        """Flush, then end the connections; what is not sent by then fails with `TimedOut`."""
        try:
            self.flush(timeout_s)
        finally:
            self._closed.set()
            with self._changed:
                self._changed.notify_all()
                while self._queue:
                    self._give_up(self._queue.popleft())
            if self._jobs:
                for sender in self._senders:
                    sender.abort()
            for thread in self._threads:
                thread.join()
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            try:
                self.close(self._timeout_s)
            except TimedOut as late:
                error.add_note(str(late))
            return
        self.close()
        if self._failures:
            first = self._failures[0]
            if self._failed > 1:
                first.add_note(f"and {self._failed - 1} more messages failed")
            raise first

    # ----------------------------------------------------------------- inside

    def _submit(self, parts: tuple[Buffer, ...], id: int, name: str, stream: str) -> Future[Sent]:  # noqa: A002
        nbytes = sum(map(len, parts))
        future: Future[Sent] = Future()
        with self._changed:
            while not self._closed.is_set() and not self._room(nbytes):
                self._changed.wait()
            if self._closed.is_set():
                raise BadInput(f"{self._what}: the producer is closed")
            job = _Job(parts, nbytes, id, name, stream, future, time.monotonic())
            self._queue.append(job)
            self._jobs += 1
            self._nbytes += nbytes
            self._changed.notify_all()
        return future

    def _room(self, nbytes: int) -> bool:
        if not self._jobs:
            return True
        return self._nbytes + nbytes <= self._in_flight_max and self._jobs < _IN_FLIGHT_MESSAGES

    def _work(self, number: int) -> None:
        sender = self._senders[number]
        while (job := self._next_job()) is not None:
            if job.future.set_running_or_notify_cancel():
                self._run(sender, job)
            with self._changed:
                self._jobs -= 1
                self._nbytes -= job.nbytes
                self._changed.notify_all()
        sender.close()

    def _next_job(self) -> _Job | None:
        with self._changed:
            while not self._queue:
                if self._closed.is_set():
                    return None
                self._changed.wait()
            return self._queue.popleft()

    def _run(self, sender: Sender, job: _Job) -> None:
        what = f"{self._what}, stream {job.stream!r}, message {job.id} {job.name!r}"
        deadline_s = max(job.submitted_s, self._last_success_s) + self._timeout_s
        try:
            reply = sender.deliver(job.parts, deadline_s, what)
        except Exception as error:
            self._failures.append(error)
            self._failed += 1
            job.future.set_exception(error)
            return
        self._last_success_s = time.monotonic()
        job.future.set_result(_sent(job, reply))

    def _give_up(self, job: _Job) -> None:
        self._jobs -= 1
        self._nbytes -= job.nbytes
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(TimedOut(f"{self._what}: closed before it was sent"))

    def _addresses(self) -> Sequence[Address]:
        """Receivers to try; asked for when a connection is needed, at most every 10 s."""
        with self._discovery_lock:
            now_s = time.monotonic()
            if self._receivers is None or now_s - self._asked_s > _REFRESH_SECONDS:
                try:
                    self._receivers = self._discovery.receivers()
                    self._asked_s = now_s
                except Error:
                    if self._receivers is None:
                        raise
            return self._receivers.addresses


def _sent(job: _Job, reply: Reply) -> Sent:
    duplicate = reply.code == Code.WARNING and reply.text.startswith(DUPLICATE_TEXT)
    return Sent(job.id, job.name, job.stream, reply.text, duplicate)


def default_instance() -> str:
    """What tells this process apart from others: host name and process id."""
    return f"{socket.gethostname().replace('%', '_')}_{os.getpid()}"


def _check_ids(id: int, auto_id: bool, dataset: tuple[int, int] | None) -> None:  # noqa: A002
    if auto_id:
        if id or dataset:
            raise BadInput("an automatic id goes with id 0 and without a dataset")
    elif not 1 <= id <= limits.ID_MAX:
        raise BadInput(f"id {id} is not 1 … 2^63 - 1", hint="auto_id=True lets the server choose")
    if dataset:
        substream, size = dataset
        if not 1 <= substream <= size <= limits.DATASET_SIZE_MAX:
            raise BadInput(
                f"dataset {dataset} is not (substream, size)",
                hint=f"1 <= substream <= size <= {limits.DATASET_SIZE_MAX}",
            )
