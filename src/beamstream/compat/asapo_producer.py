"""ASAPO's module `asapo_producer` in pure Python: names, arguments and results of release 25.3."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from beamstream.client.asapo.outbox import Outbox, Parcel
from beamstream.client.asapo.producer import META_MODES, pack_finish, pack_meta
from beamstream.client.asapo.records import Stream, read_object, read_streams
from beamstream.compat.arguments import deprecated, seconds, stream_name, text, unsigned
from beamstream.compat.endings import end_with, stop
from beamstream.compat.messages import Call, Callback, FileCall, Heading, data_bytes, meta_bytes
from beamstream.compat.producer_errors import (
    AsapoLocalIOError,
    AsapoProducerError,
    AsapoRequestsPoolIsFull,
    AsapoServerWarning,
    AsapoTimeOutError,
    AsapoUnsupportedClientError,
    AsapoWrongInputError,
    refused,
    translated,
)
from beamstream.compat.producer_log import Log
from beamstream.compat.records import stream_dict
from beamstream.compat.session import CLIENT_VERSION, Session, client_version
from beamstream.errors import Error
from beamstream.wire.asapo.bodies import FINISH_NAME, delete_request
from beamstream.wire.asapo.credentials import AUTO, Credentials, format_credentials
from beamstream.wire.asapo.urls import escape

__all__ = [
    "CACHE_ONLY_INGEST_MODE",
    "DEFAULT_INGEST_MODE",
    "INGEST_MODE_STORE_IN_DATABASE",
    "INGEST_MODE_STORE_IN_FILESYSTEM",
    "INGEST_MODE_TRANSFER_DATA",
    "INGEST_MODE_TRANSFER_METADATA_ONLY",
    "INGEST_MODE_WRITE_RAW_DATA_TO_OFFLINE_FS",
    "AsapoLocalIOError",
    "AsapoProducerError",
    "AsapoRequestsPoolIsFull",
    "AsapoServerWarning",
    "AsapoTimeOutError",
    "AsapoUnsupportedClientError",
    "AsapoWrongInputError",
    "PyProducer",
    "create_producer",
]

__version__ = CLIENT_VERSION

INGEST_MODE_TRANSFER_DATA: Final = 1
INGEST_MODE_TRANSFER_METADATA_ONLY: Final = 2
INGEST_MODE_STORE_IN_FILESYSTEM: Final = 4
INGEST_MODE_STORE_IN_DATABASE: Final = 8
INGEST_MODE_WRITE_RAW_DATA_TO_OFFLINE_FS: Final = 16
DEFAULT_INGEST_MODE: Final = 13
CACHE_ONLY_INGEST_MODE: Final = 9

T = TypeVar("T")

_MEGABYTE: Final = 1_000_000


class PyProducer:
    """Sends messages of one data source; made by `create_producer`.

    Calls that send only queue a request. What became of it is told to ``callback(payload, error)``
    in a thread of the producer: `payload` has the keys id, buffer (the path), stream,
    server_response and, if data were given, data; `error` is None or an exception. A producer that
    nobody holds any more sends what is queued and ends.
    """

    def __init__(self, session: Session, outbox: Outbox, log: Log) -> None:
        self._session = session
        self._outbox = outbox
        self._log = log
        self._count_max = 0
        self._megabytes_max = 0
        weakref.finalize(self, session.http.close).atexit = False
        end_with(self, outbox, log)

    # ---------------------------------------------------------------- sending

    def send(
        self,
        id: int,  # noqa: A002
        exposed_path: str,
        data: Any,
        user_meta: Any = None,
        dataset: Any = None,
        ingest_mode: int = DEFAULT_INGEST_MODE,
        stream: str | None = None,
        callback: Callback | None = None,
        auto_id: bool = False,
    ) -> None:
        """Queue a message; `data` must not change before the callback.

        Parameters
        ----------
        data : bytes, a contiguous array, or None for metadata only.
        user_meta : a dict or JSON text.
        dataset : (substream, number of substreams).
        """
        number = unsigned(id)
        stream = stream_name(stream)
        meta = meta_bytes(user_meta)
        payload = b"" if data is None else self._checked(lambda: data_bytes(data))
        heading = self._heading(number, exposed_path, stream, dataset, ingest_mode, auto_id)
        if data is None and heading.has_data:
            raise refused("need data for this ingest mode")
        header = self._checked(lambda: heading.pack(len(payload), meta))
        told = _told(number, heading.path, stream)
        if data is not None:
            told["data"] = data
        parts = (header, meta, payload if heading.has_data else b"")
        self._post(Call(parts, self._what(number, stream), told, callback, self._log))

    def send_file(
        self,
        id: int,  # noqa: A002
        local_path: str,
        exposed_path: str,
        user_meta: Any = None,
        dataset: Any = None,
        ingest_mode: int = DEFAULT_INGEST_MODE,
        stream: str | None = None,
        callback: Callback | None = None,
        auto_id: bool = False,
    ) -> None:
        """Queue a message whose payload is a file, which is read when it is sent."""
        number = unsigned(id)
        stream = stream_name(stream)
        meta = meta_bytes(user_meta)
        local = text(local_path)
        if not local:
            raise refused("empty filename")
        heading = self._heading(number, exposed_path, stream, dataset, ingest_mode, auto_id)
        self._checked(lambda: heading.pack(0, meta))
        told = _told(number, heading.path, stream)
        what = self._what(number, stream)
        self._post(FileCall(heading, meta, local, what, told, callback, self._log))

    def send_stream_finished_flag(
        self,
        stream: str,
        last_id: int,
        next_stream: str | None = None,
        callback: Callback | None = None,
    ) -> None:
        """Announce the last id of a stream, and the stream that follows it."""
        name, last, following = text(stream), unsigned(last_id), text(next_stream or "")
        if not name:
            raise refused("stream empty")
        flag = last + 1
        parts = self._checked(lambda: pack_finish(name, last, following))
        told = _told(flag, FINISH_NAME, name)
        self._post(Call(parts, self._what(flag, name), told, callback, self._log))

    def send_beamtime_meta(
        self,
        metadata: str,
        mode: str = "replace",
        upsert: bool = True,
        callback: Callback | None = None,
    ) -> None:
        """Write metadata, JSON text, of beamtime and data source: insert, replace or update."""
        self._send_meta(metadata, mode, upsert, "", callback)

    def send_stream_meta(
        self,
        metadata: str,
        mode: str = "replace",
        upsert: bool = True,
        stream: str | None = None,
        callback: Callback | None = None,
    ) -> None:
        """Write metadata, JSON text, of a stream: insert, replace or update."""
        name = stream_name(stream)
        if not name:
            raise refused("stream is empty")
        self._send_meta(metadata, mode, upsert, name, callback)

    # ------------------------------------------------------------------ queue

    def get_requests_queue_size(self) -> int:
        """Return how many requests are queued or on their way."""
        return self._outbox.count

    def get_requests_queue_volume_mb(self) -> int:
        """Return how many whole megabytes they have."""
        return self._outbox.nbytes // _MEGABYTE

    def set_requests_queue_limits(self, size: int = 0, volume_mb: int = 0) -> None:
        """Have calls that send raise `AsapoRequestsPoolIsFull` above these (0: no limit)."""
        self._count_max, self._megabytes_max = unsigned(size), unsigned(volume_mb)

    def wait_requests_finished(self, timeout_ms: int) -> None:
        """Return when all that was sent is done, well or badly."""
        self._checked(lambda: self._outbox.flush(seconds(timeout_ms)))

    # -------------------------------------------------------------- questions

    def get_beamtime_meta(self, timeout_ms: int = 1000) -> dict[str, Any]:
        """Return metadata of beamtime and data source."""
        return self._meta("default/0/meta/0", timeout_ms)

    def get_stream_meta(self, stream: str | None = None, timeout_ms: int = 1000) -> dict[str, Any]:
        """Return metadata of a stream."""
        return self._meta(f"{escape(stream_name(stream))}/0/meta/1", timeout_ms)

    def get_stream_info(self, stream: str | None = None, timeout_ms: int = 1000) -> dict[str, Any]:
        """Return what is known of a stream; of one that does not exist zeros and empty texts."""
        return self._stream_info(stream_name(stream), timeout_ms)

    def stream_info(self, stream: str | None = None, timeout_ms: int = 1000) -> dict[str, Any]:
        """Do what `get_stream_info` does."""
        deprecated("The alias 'stream_info'")
        return self._stream_info(stream_name(stream), timeout_ms)

    def get_last_stream(self, timeout_ms: int = 1000) -> dict[str, Any]:
        """Return what is known of the stream that was created last."""
        return self._stream("&last=true&detailed=true", timeout_ms)

    def last_stream(self, timeout_ms: int = 1000) -> dict[str, Any]:
        """Do what `get_last_stream` does."""
        deprecated("The alias 'last_stream'")
        return self._stream("&last=true&detailed=true", timeout_ms)

    def delete_stream(
        self, stream: str | None = None, timeout_ms: int = 1000, error_on_not_exist: bool = True
    ) -> None:
        """Delete a stream's records and metadata; files stay."""
        body = delete_request(error_if_absent=bool(error_on_not_exist), with_meta=True)
        path = f"{escape(stream_name(stream))}/delete"
        self._ask("POST", path, "", timeout_ms, body)

    def set_stream_persistent(self, stream: str = "default", timeout_ms: int = 1000) -> None:
        """Mark a stream to be kept when others are purged."""
        deprecated("The method 'set_stream_persistent'")
        self._ask("POST", f"{escape(text(stream))}/persist", "", timeout_ms)

    def get_version_info(self, from_server: Any = "true") -> dict[str, Any]:
        """Return the versions of client and, unless `from_server` is False, server."""
        info: dict[str, Any] = {"client": client_version("producer", "consumer")}
        if from_server:
            info |= {"server": "", "supported": False}
            try:
                said = [self._session.server_version(kind) for kind in ("producer", "consumer")]
            except Error as error:
                self._log("error", f"the server does not tell its version: {error}")
            else:
                info["server"] = "".join(words for words, _ in said)
                info["supported"] = all(supported for _, supported in said)
        return info

    def set_log_level(self, level: str) -> None:
        """Write lines of JSON to stdout from this level on: debug, info, warn, error, none."""
        self._log.set_level(level)

    def cleanup(self) -> None:
        """End the threads. What is on its way may arrive, what waits is lost."""
        stop(self._outbox, self._log)
        self._session.http.close()

    # ----------------------------------------------------------------- inside

    def _heading(
        self,
        id: int,  # noqa: A002
        path: Any,
        stream: str,
        dataset: Any,
        mode: Any,
        auto_id: Any,
    ) -> Heading:
        return Heading(id, text(path), stream, dataset, unsigned(mode), bool(auto_id))

    def _send_meta(
        self, metadata: Any, mode: Any, upsert: Any, stream: str, callback: Callback | None
    ) -> None:
        document = text(metadata).encode()
        if mode not in META_MODES:
            raise TypeError(f"mode {mode!r} is none of {', '.join(META_MODES)}")
        name, header = self._checked(lambda: pack_meta(len(document), stream, mode, bool(upsert)))
        told = _told(0, name, stream) | {"data": None}
        self._post(Call((header, document), self._what(0, name), told, callback, self._log))

    def _what(self, id: int, stream: str) -> str:  # noqa: A002
        return f"{self._outbox.what}, stream {stream!r}, message {id}"

    def _post(self, parcel: Parcel) -> None:
        if not self._checked(lambda: self._outbox.post(parcel, self._fits, wait=False)):
            raise AsapoRequestsPoolIsFull(
                f"error: the queue is full, message: {self._outbox.count} requests of "
                f"{self._outbox.nbytes} bytes wait, and one of {parcel.nbytes} bytes is too much "
                f"for the limits: {self._count_max} requests, {self._megabytes_max} MB (0: none)"
            )

    def _fits(self, count: int, nbytes: int) -> bool:
        return (not self._count_max or count <= self._count_max) and (
            not self._megabytes_max or nbytes <= self._megabytes_max * _MEGABYTE
        )

    def _meta(self, path: str, timeout_ms: int) -> dict[str, Any]:
        found = self._ask("GET", path, "", timeout_ms, patient=True)
        return self._checked(lambda: read_object(found))

    def _stream_info(self, name: str, timeout_ms: int) -> dict[str, Any]:
        if not name:
            raise refused("stream empty")
        return self._stream(f"&single=true&detailed=true&from={escape(name)}", timeout_ms)

    def _stream(self, params: str, timeout_ms: int) -> dict[str, Any]:
        found = self._ask("GET", "0/streams", params, timeout_ms)
        streams: list[Stream] = self._checked(lambda: read_streams(found))
        return stream_dict(streams[0] if streams else None)

    def _ask(
        self,
        method: str,
        path: str,
        params: str,
        timeout_ms: int,
        body: bytes = b"",
        *,
        patient: bool = False,
    ) -> bytes:
        broker, timeout_s = self._session.broker, seconds(timeout_ms)
        params = broker.who + params
        return self._checked(
            lambda: broker.call(method, path, params, body, timeout_s=timeout_s, patient=patient)
        )

    @staticmethod
    def _checked(work: Callable[[], T]) -> T:
        try:
            return work()
        except Error as error:
            raise translated(error) from None


def create_producer(
    endpoint: str,
    type: str,  # noqa: A002
    beamtime_id: str,
    beamline: str,
    data_source: str,
    token: str,
    nthreads: int,
    timeout_ms: int,
    instance_id: str = "auto",
    pipeline_step: str = "auto",
) -> PyProducer:
    """Return a producer; nothing is sent yet.

    Parameters
    ----------
    endpoint : ``HOST:PORT`` of the node.
    type : ``raw`` or ``processed``.
    beamtime_id, beamline : one of them may be ``auto``.
    nthreads : connections, 1 … 32.
    timeout_ms : a message fails when nothing got through for this long.
    instance_id, pipeline_step : tell this program apart from others.
    """
    threads, timeout_s = unsigned(nthreads, 8), seconds(timeout_ms)
    beamtime, line = text(beamtime_id) or AUTO, text(beamline) or AUTO
    kind = text(type)
    if kind not in ("raw", "processed"):
        raise AsapoLocalIOError(f"error: the source type is raw or processed, not {kind!r}")
    if not 1 <= threads <= 32:
        raise refused("Set number of processing threads > 0 and <= 32")
    if beamtime == line == AUTO:
        raise refused("beamtime or beamline should be set")
    try:
        session = Session(
            text(endpoint),
            beamtime,
            text(data_source),
            text(token),
            timeout_s,
            text(instance_id),
            text(pipeline_step),
        )
        credentials = Credentials(
            kind == "raw",
            session.instance,
            session.step,
            beamtime,
            line,
            session.source,
            session.token,
        )
        outbox = Outbox(
            session.endpoint,
            session.token,
            format_credentials(credentials),
            what=session.broker.what,
            threads=threads,
            timeout_s=timeout_s,
        )
    except Error as error:
        raise translated(error) from None
    return PyProducer(session, outbox, Log("producer_api"))


def _told(id: int, path: str, stream: str) -> dict[str, Any]:  # noqa: A002
    return {"id": id, "buffer": path, "stream": stream, "server_response": b""}
