"""A producer that speaks ASAPO: messages go out over several connections, futures come back."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from beamstream import limits
from beamstream.client.asapo.encode import Payload, as_bytes, encode_meta
from beamstream.client.asapo.link import Buffer
from beamstream.client.asapo.outbox import Outbox, Parcel
from beamstream.client.asapo.sender import DUPLICATE_TEXT, RETRY_SECONDS
from beamstream.errors import BadInput, TimedOut
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
_FAILURES_KEPT: Final = 100

MetaMode = Literal["insert", "replace", "update"]
META_MODES: Final[dict[str, int]] = {"insert": 1, "replace": 2, "update": 3}


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


class _Job(Parcel):
    def __init__(
        self,
        sent: tuple[Buffer, ...],
        what: str,
        sent_as: tuple[int, str, str],
        failed: Callable[[Exception], None],
    ) -> None:
        super().__init__(sum(map(len, sent)), what)
        self.future: Future[Sent] = Future()
        self._sent = sent
        self._sent_as = sent_as
        self._note_failure = failed

    def begin(self) -> bool:
        return self.future.set_running_or_notify_cancel()

    def parts(self) -> tuple[Buffer, ...]:
        return self._sent

    def delivered(self, reply: Reply) -> None:
        duplicate = reply.code == Code.WARNING and reply.text.startswith(DUPLICATE_TEXT)
        self.future.set_result(Sent(*self._sent_as, reply.text, duplicate))

    def failed(self, error: Exception) -> None:
        self._note_failure(error)
        self.future.set_exception(error)


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
        if type not in ("processed", "raw"):
            raise BadInput(f"type {type!r} is neither 'processed' nor 'raw'")
        self.instance = default_instance() if instance in ("", AUTO) else instance
        credentials = format_credentials(
            Credentials(type == "raw", self.instance, step, beamtime, beamline, source, token)
        )
        self._timeout_s = timeout_s
        self._in_flight_max = in_flight_nbytes
        self._failures: deque[Exception] = deque(maxlen=_FAILURES_KEPT)
        self._failed = 0
        self._outbox = Outbox(
            endpoint,
            token,
            credentials,
            what=f"beamtime {beamtime}, source {source!r}",
            threads=threads,
            timeout_s=timeout_s,
            retry_s=retry_s,
        )

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
        header = pack_message(id, name, stream, len(payload), len(text), mode, dataset)
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
        parts = pack_finish(stream, last_id, next_stream)
        return self._submit(parts, last_id + 1, FINISH_NAME, stream)

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
        if mode not in META_MODES:
            raise BadInput(f"mode {mode!r} is none of {', '.join(META_MODES)}")
        text = encode_meta(document, limits.STREAM_META_NBYTES_MAX)
        if stream:
            check_label("stream", stream)
        name, header = pack_meta(len(text), stream, mode, upsert)
        return self._submit((header, text), 0, name, stream)

    @property
    def in_flight(self) -> int:
        """Messages that are queued or on their way."""
        return self._outbox.count

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when everything sent so far is done, well or badly.

        Raises
        ------
        TimedOut : something is still on its way after `timeout_s`.
        """
        self._outbox.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Flush, then end the connections; what is not sent by then fails with `TimedOut`."""
        try:
            self.flush(timeout_s)
        finally:
            self._outbox.stop()

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
        what = f"{self._outbox.what}, stream {stream!r}, message {id} {name!r}"
        job = _Job(parts, what, (id, name, stream), self._note_failure)
        self._outbox.post(job, self._fits, wait=True)
        return job.future

    def _fits(self, count: int, nbytes: int) -> bool:
        return count == 1 or (nbytes <= self._in_flight_max and count <= _IN_FLIGHT_MESSAGES)

    def _note_failure(self, error: Exception) -> None:
        self._failures.append(error)
        self._failed += 1


def pack_message(
    id: int,  # noqa: A002
    name: str,
    stream: str,
    nbytes: int,
    meta_nbytes: int,
    mode: int,
    dataset: tuple[int, int] | None,
) -> bytes:
    """Return the header of a message, or of a part of a dataset; metadata and payload follow it."""
    substream, size = dataset or (0, 0)
    op = OpCode.TRANSFER_DATASET_DATA if substream else OpCode.TRANSFER_DATA
    return pack_request(op, id, nbytes, meta_nbytes, (mode, substream, size), name, stream)


def pack_finish(stream: str, last_id: int, next_stream: str) -> tuple[bytes, bytes]:
    """Return header and metadata of what ends `stream`."""
    text = finish_meta(next_stream)
    mode = int(IngestMode.METADATA_ONLY)
    return pack_message(last_id + 1, FINISH_NAME, stream, 0, len(text), mode, None), text


def pack_meta(nbytes: int, stream: str, mode: str, upsert: bool) -> tuple[str, bytes]:
    """Return name and header of metadata of `stream`, empty for the beamtime's."""
    name = f"{stream or 'beamtime_global'}.meta"
    custom = (9, META_MODES[mode] + 10 * upsert, 0)
    return name, pack_request(OpCode.TRANSFER_METADATA, 0, nbytes, 0, custom, name, stream)


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
