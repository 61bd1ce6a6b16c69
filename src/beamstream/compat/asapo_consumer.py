"""ASAPO's module `asapo_consumer` in pure Python: names, arguments and results of release 25.3."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from beamstream import limits
from beamstream.client.asapo import records
from beamstream.client.asapo.payloads import Payloads
from beamstream.compat.arguments import deprecated, seconds, stream_name, text, unsigned
from beamstream.compat.consumer_errors import (
    AsapoConsumerError,
    AsapoDataNotInCacheError,
    AsapoEndOfStreamError,
    AsapoInterruptedTransactionError,
    AsapoLocalIOError,
    AsapoNoDataError,
    AsapoPartialDataError,
    AsapoStreamFinishedError,
    AsapoUnavailableServiceError,
    AsapoUnsupportedClientError,
    AsapoWrongInputError,
    refused,
    translated,
)
from beamstream.compat.paths import (
    by_id_path,
    dataset_params,
    flag,
    group_path,
    last_path,
    not_empty,
)
from beamstream.compat.records import dataset_dict, read_record, record_dict, stream_dict
from beamstream.compat.retrieval import retrieve
from beamstream.compat.session import CLIENT_VERSION, Session, client_version
from beamstream.errors import Error
from beamstream.wire.asapo import reading
from beamstream.wire.asapo.bodies import ack_request, delete_request, nack_request
from beamstream.wire.asapo.urls import escape

__all__ = [
    "AsapoConsumerError",
    "AsapoDataNotInCacheError",
    "AsapoEndOfStreamError",
    "AsapoInterruptedTransactionError",
    "AsapoLocalIOError",
    "AsapoNoDataError",
    "AsapoPartialDataError",
    "AsapoStreamFinishedError",
    "AsapoUnavailableServiceError",
    "AsapoUnsupportedClientError",
    "AsapoWrongInputError",
    "PyConsumer",
    "create_consumer",
]

__version__ = CLIENT_VERSION

T = TypeVar("T")
Array = npt.NDArray[np.int8]
Record = dict[str, Any]


class PyConsumer:
    """Reads one data source of a beamtime; made by `create_consumer`.

    Calls wait up to the timeout for what is not there yet. May be used by several threads; its
    requests go out one after the other. Records are dicts with the keys of ASAPO, `_id` and `meta`
    among them.
    """

    def __init__(self, session: Session, folder: str, filesystem: bool, timeout_s: float) -> None:
        self._broker = session.broker
        self._session = session
        self._payloads = Payloads(
            session.http,
            session.discovery,
            beamtime=session.beamtime,
            token=session.token,
            who=session.broker.who,
            tag=f"{session.instance}§{session.step}§{session.beamtime}§{session.source}",
            folder=folder,
            filesystem=filesystem,
            timeout_s=timeout_s,
            nbytes_max=limits.PAYLOAD_NBYTES_MAX,
            pauses=session.broker.pauses,
        )
        self._resend = ""
        self._interrupts = 0
        for end in (self._payloads.close, session.http.close):
            weakref.finalize(self, end).atexit = False

    # --------------------------------------------------------------- messages

    def get_next(
        self, group_id: str, meta_only: bool = True, stream: str | None = None, ordered: bool = True
    ) -> tuple[Array | None, Record]:
        """Return (data or None, record) of the next message that nobody in the group has had.

        By id if `ordered`: a hole is waited for, then reported once by `AsapoNoDataError`.
        """
        name, group = not_empty(stream_name(stream)), text(group_id)
        if ordered:
            deprecated("Reading in the order of ids with get_next")
        return self._message(lambda: self._next(group, name, "", ordered), meta_only)

    def get_last(
        self, meta_only: bool = True, stream: str | None = None, group_id: str = ""
    ) -> tuple[Array | None, Record]:
        """Return (data or None, record) of the message with the largest id.

        With a group only if that has not had it.
        """
        path = last_path(not_empty(stream_name(stream)), text(group_id))
        return self._message(lambda: self._get(path, "&id_key=_id"), meta_only)

    def get_by_id(
        self,
        id: int,  # noqa: A002
        meta_only: bool = True,
        stream: str | None = None,
    ) -> tuple[Array | None, Record]:
        """Return (data or None, record) of message `id`."""
        path = by_id_path(unsigned(id), not_empty(stream_name(stream)))
        return self._message(lambda: self._get(path), meta_only)

    def get_next_dataset(
        self,
        group_id: str,
        min_size: int = 0,
        stream: str | None = None,
        ordered: bool = True,
        substream: int = 0,
    ) -> dict[str, Any]:
        """Return the next dataset with at least `min_size` parts (0: all), as `get_next` does.

        Fewer parts are an `AsapoPartialDataError`. With `substream` only that part is returned.
        """
        name, group = not_empty(stream_name(stream)), text(group_id)
        if ordered:
            deprecated("Reading in the order of ids with get_next_dataset")
        params = dataset_params(min_size, substream)
        return self._dataset(lambda: self._next(group, name, params, ordered))

    def get_last_dataset(
        self, min_size: int = 0, stream: str | None = None, group_id: str = ""
    ) -> dict[str, Any]:
        """Return the dataset with the largest id that has `min_size` parts (0: all)."""
        path = last_path(not_empty(stream_name(stream)), text(group_id))
        params = f"{dataset_params(min_size, 0)}&id_key=_id"
        return self._dataset(lambda: self._get(path, params))

    def get_dataset_by_id(
        self,
        id: int,  # noqa: A002
        min_size: int = 0,
        stream: str | None = None,
        substream: int = 0,
    ) -> dict[str, Any]:
        """Return dataset `id` when it has `min_size` parts (0: all)."""
        path = by_id_path(unsigned(id), not_empty(stream_name(stream)))
        params = dataset_params(min_size, substream)
        return self._dataset(lambda: self._get(path, params))

    def retrieve_data(self, meta: Record) -> Array:
        """Return the payload of a record: from the server's memory, else its file."""
        return self._checked(lambda: retrieve(self._payloads, read_record(meta)))

    def query_messages(self, query: str, stream: str = "default") -> list[Record]:
        """Return the records that match a condition like ``meta.energy > 12000``."""
        deprecated("The method 'query_messages'")
        path, body = f"{escape(text(stream))}/0/querymessages", text(query).encode()
        found = self._checked(
            lambda: records.read_messages(self._broker.call("POST", path, self._broker.who, body))
        )
        return [record_dict(message) for message in found]

    # ----------------------------------------------------------------- groups

    def generate_group_id(self) -> str:
        """Return a group that nobody else uses."""
        return self._checked(lambda: self._broker.simple("POST", "creategroup").decode())

    def acknowledge(self, group_id: str, id: int, stream: str | None = None) -> None:  # noqa: A002
        """Acknowledge a message; a second time is an error."""
        self._operate(group_id, id, stream_name(stream), ack_request())

    def neg_acknowledge(
        self,
        group_id: str,
        id: int,  # noqa: A002
        delay_ms: int = 0,
        stream: str | None = None,
    ) -> None:
        """Have a message delivered to the group again, after a delay."""
        self._operate(group_id, id, stream_name(stream), nack_request(unsigned(delay_ms)))

    def get_unacknowledged_messages(
        self, group_id: str, from_id: int = 0, to_id: int = 0, stream: str = "default"
    ) -> list[int]:
        """Return the ids in [from_id, to_id] (0: open) that the group has not acknowledged."""
        deprecated("The method 'get_unacknowledged_messages'")
        path = f"{group_path(text(stream), text(group_id))}/nacks"
        params = f"&from={unsigned(from_id)}&to={unsigned(to_id)}"
        return self._checked(lambda: reading.read_nacks(self._get(path, params)))

    def get_last_acknowledged_message(self, group_id: str, stream: str = "default") -> int:
        """Return the largest id that the group has acknowledged."""
        deprecated("The method 'get_last_acknowledged_message'")
        path = f"{group_path(text(stream), text(group_id))}/lastack"
        last = self._checked(lambda: reading.read_last_ack(self._get(path)))
        if not last:
            raise AsapoNoDataError("error: no data, message: nothing was acknowledged")
        return last

    def set_resend_nacs(self, resend: bool, delay_ms: int, resend_attempts: int) -> None:
        """Have what is not acknowledged come again after a delay, so many times (0: always)."""
        delay, attempts = unsigned(delay_ms), unsigned(resend_attempts)
        wanted = f"&resend_nacks=true&delay_ms={delay}&resend_attempts={attempts}"
        self._resend = wanted if resend else ""

    def set_lastread_marker(self, group_id: str, value: int, stream: str = "default") -> None:
        """Set the group's position: the next message is `value` + 1."""
        deprecated("The method 'set_lastread_marker'")
        self._set_position(text(group_id), unsigned(value), text(stream))

    def reset_lastread_marker(self, group_id: str, stream: str = "default") -> None:
        """Have the group begin again."""
        deprecated("The method 'reset_lastread_marker'")
        self._set_position(text(group_id), 0, text(stream))

    # ---------------------------------------------------------------- streams

    def get_current_size(self, stream: str | None = None) -> int:
        """Return the number of messages, or datasets, of a stream."""
        path = f"{escape(stream_name(stream))}/size"
        return self._checked(lambda: reading.read_size(self._get(path)))

    def get_current_dataset_count(
        self, stream: str = "default", include_incomplete: bool = False
    ) -> int:
        """Return the number of complete, or of all, datasets of a stream."""
        deprecated("The method 'get_current_dataset_count'")
        path = f"{escape(text(stream))}/size"
        params = f"&incomplete={flag(include_incomplete)}"
        return self._checked(lambda: reading.read_size(self._get(path, params)))

    def get_stream_list(
        self,
        from_stream: str = "",
        filter: str = "all",
        detailed: bool = True,  # noqa: A002
    ) -> list[dict[str, Any]]:
        """Return the streams in the order of their creation: all, finished or unfinished ones."""
        if detailed:
            deprecated("The argument 'detailed=True'")
        if filter not in ("all", "finished", "unfinished"):
            raise AsapoWrongInputError("wrong filter, must be all|finished|unfinished")
        first = text(from_stream)
        begin = f"&from={escape(first)}" if first else ""
        params = f"{begin}&filter={filter}&detailed={flag(detailed)}"
        return [stream_dict(stream) for stream in self._streams(params)]

    def get_stream_info(self, stream: str, timeout_ms: int = 1000) -> dict[str, Any]:
        """Return what is known of a stream; of one that does not exist zeros and empty texts."""
        name = text(stream)
        if not name:
            raise refused("stream empty")
        return self._one_stream(f"&single=true&detailed=true&from={escape(name)}", timeout_ms)

    def get_last_stream(self, timeout_ms: int = 1000) -> dict[str, Any]:
        """Return what is known of the stream that was created last."""
        return self._one_stream("&last=true&detailed=true", timeout_ms)

    def get_source_list(self) -> list[str]:
        """Return the names of the beamtime's data sources."""
        return self._checked(lambda: reading.read_sources(self._get("0/sources")))

    def get_beamtime_meta(self) -> dict[str, Any]:
        """Return metadata of beamtime and data source."""
        return self._meta("default/0/meta/0")

    def get_stream_meta(self, stream: str | None = None) -> dict[str, Any]:
        """Return metadata of a stream."""
        return self._meta(f"{escape(stream_name(stream))}/0/meta/1")

    def delete_stream(self, stream: str | None = None, error_on_not_exist: bool = True) -> None:
        """Delete a stream's records and metadata; files stay."""
        body = delete_request(error_if_absent=bool(error_on_not_exist), with_meta=True)
        self._post(f"{escape(stream_name(stream))}/delete", self._broker.who, body)

    def set_stream_persistent(self, stream: str = "default") -> None:
        """Mark a stream to be kept when others are purged."""
        deprecated("The method 'set_stream_persistent'")
        self._post(f"{escape(text(stream))}/persist", self._broker.who)

    # --------------------------------------------------------- the client itself

    def get_version_info(self, from_server: Any = "true") -> dict[str, Any]:
        """Return the versions of client and, unless `from_server` is False, server."""
        info: dict[str, Any] = {"client": client_version("consumer")}
        if from_server:
            said, supported = self._checked(lambda: self._session.server_version("consumer"))
            info |= {"server": said, "supported": supported}
        return info

    def set_timeout(self, timeout: int) -> None:
        """Set how long calls wait, milliseconds; 0 looks once."""
        self._broker.timeout_s = self._payloads.timeout_s = seconds(timeout)

    def interrupt_current_operation(self) -> None:
        """End calls that wait in other threads by `AsapoInterruptedTransactionError`."""
        self._interrupts += 1
        self._broker.interrupt()

    def current_connection_type(self) -> str:
        """Return "TCP" once a payload has come from a data server, before "No connection"."""
        return "TCP" if self._payloads.connected else "No connection"

    def force_no_rdma(self) -> None:
        """Do nothing: payloads always come by TCP."""

    def disable_monitoring(self, disabled: bool) -> None:
        """Leave out, or not, who asks from requests to data servers."""
        self._payloads.monitored = not disabled

    # ----------------------------------------------------------------- inside

    def _checked(self, work: Callable[[], T]) -> T:
        begun = self._interrupts
        try:
            return work()
        except Error as error:
            if self._interrupts != begun:
                raise AsapoInterruptedTransactionError(
                    f"error: interrupted by another thread, message: {error}"
                ) from None
            raise translated(error) from None

    def _message(self, ask: Callable[[], bytes], meta_only: bool) -> tuple[Array | None, Record]:
        message = self._checked(lambda: records.read_message(ask()))
        data = None if meta_only else self._checked(lambda: retrieve(self._payloads, message))
        return data, record_dict(message)

    def _dataset(self, ask: Callable[[], bytes]) -> dict[str, Any]:
        return dataset_dict(self._checked(lambda: records.read_dataset(ask())))

    def _get(self, path: str, params: str = "") -> bytes:
        return self._broker.call("GET", path, self._broker.who + params)

    def _post(self, path: str, params: str, body: bytes = b"") -> None:
        self._checked(lambda: self._broker.call("POST", path, params, body))

    def _next(self, group: str, stream: str, params: str, ordered: bool) -> bytes:
        key = "_id" if ordered else "time_id"
        resend = self._resend
        return self._broker.next(
            f"{group_path(stream, group)}/next",
            f"{self._broker.who}{params}{resend}&id_key={key}",
            safe=bool(resend),
        )

    def _operate(self, group: Any, id: Any, stream: str, operation: bytes) -> None:  # noqa: A002
        path = f"{group_path(not_empty(stream), text(group))}/{unsigned(id)}"
        self._post(path, self._broker.who, operation)

    def _set_position(self, group: str, value: int, stream: str) -> None:
        self._post(f"{group_path(stream, group)}/resetcounter", f"&value={value}")

    def _streams(self, params: str, timeout_s: float | None = None) -> list[records.Stream]:
        params = self._broker.who + params
        return self._checked(
            lambda: records.read_streams(
                self._broker.call("GET", "0/streams", params, timeout_s=timeout_s)
            )
        )

    def _one_stream(self, params: str, timeout_ms: int) -> dict[str, Any]:
        found = self._streams(params, seconds(timeout_ms))
        return stream_dict(found[0] if found else None)

    def _meta(self, path: str) -> dict[str, Any]:
        return self._checked(
            lambda: records.read_object(
                self._broker.call("GET", path, self._broker.who, patient=True)
            )
        )


def create_consumer(
    server_name: str,
    source_path: str,
    has_filesystem: bool,
    beamtime_id: str,
    data_source: str,
    token: str,
    timeout_ms: int,
    instance_id: str = "auto",
    pipeline_step: str = "auto",
) -> PyConsumer:
    """Return a consumer; nothing is sent yet.

    Parameters
    ----------
    server_name : ``HOST:PORT`` of the node.
    source_path : the beamtime's folder as this machine sees it, or ``auto``.
    has_filesystem : files are read from `source_path`, not through the server.
    timeout_ms : how long calls wait; 0 looks once.
    instance_id, pipeline_step : tell this program apart from others.
    """
    timeout_s = seconds(timeout_ms)
    try:
        session = Session(
            text(server_name),
            text(beamtime_id),
            text(data_source),
            text(token),
            timeout_s,
            text(instance_id),
            text(pipeline_step),
        )
    except Error as error:
        raise translated(error) from None
    return PyConsumer(session, text(source_path), bool(has_filesystem), timeout_s)
