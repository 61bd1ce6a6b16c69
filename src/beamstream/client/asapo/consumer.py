"""A consumer that speaks ASAPO: messages by group or id, streams, groups, metadata."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

from beamstream import limits
from beamstream.client.asapo import records
from beamstream.client.asapo.broker import Broker
from beamstream.client.asapo.discovery import Discovery
from beamstream.client.asapo.http import Http
from beamstream.client.asapo.payloads import Payloads
from beamstream.client.asapo.producer import default_instance
from beamstream.client.asapo.records import Dataset, Message, Stream, Version
from beamstream.errors import BadInput, RemoteProtocolError
from beamstream.model import check_label
from beamstream.wire.asapo import reading
from beamstream.wire.asapo.bodies import ack_request, delete_request, nack_request
from beamstream.wire.asapo.credentials import AUTO, DEFAULT_SOURCE
from beamstream.wire.asapo.structs import IngestMode
from beamstream.wire.asapo.urls import escape

_WITHOUT_DATA = int(IngestMode.METADATA_ONLY)


class Resend(NamedTuple):
    """What is not acknowledged within `delay_s` comes again, `attempts` times (0: always)."""

    delay_s: float
    attempts: int = 0


class Consumer:
    """Reads one data source of a beamtime.

    Calls wait up to `timeout_s` for what is not there yet. May be used by several threads; its
    requests go out one after the other.

    Parameters
    ----------
    endpoint : ``HOST:PORT`` of the node's HTTP door.
    timeout_s : 0 looks once.
    instance, step : tell this program apart from others; by default host name and process id.
    source_path : folder of the beamtime's files as this machine sees it, or ``auto``.
    filesystem : read files from `source_path`, not through the server.
    payload_nbytes_max : larger payloads are refused with `TooLarge`.

    >>> with Consumer("localhost:8400", beamtime="demo", token=token) as consumer:  # doctest: +SKIP
    ...     message = consumer.next("my-group", "scan1")
    """

    def __init__(
        self,
        endpoint: str,
        *,
        beamtime: str,
        source: str = DEFAULT_SOURCE,
        token: str,
        timeout_s: float = 3.0,
        instance: str = AUTO,
        step: str = "DefaultStep",
        source_path: str = "auto",
        filesystem: bool = False,
        payload_nbytes_max: int = limits.PAYLOAD_NBYTES_MAX,
    ) -> None:
        self.source = source or DEFAULT_SOURCE
        self.instance = default_instance() if instance in ("", AUTO) else instance
        self._http = Http()
        self._discovery = Discovery(self._http, endpoint, token)
        self._broker = Broker(
            self._http,
            self._discovery,
            beamtime=beamtime,
            source=self.source,
            token=token,
            timeout_s=timeout_s,
            instance=self.instance,
            step=step,
        )
        self._payloads = Payloads(
            self._http,
            self._discovery,
            beamtime=beamtime,
            token=token,
            who=self._broker.who,
            tag=f"{self.instance}§{step}§{beamtime}§{self.source}",
            folder=source_path,
            filesystem=filesystem,
            timeout_s=timeout_s,
            nbytes_max=payload_nbytes_max,
            pauses=self._broker.pauses,
        )

    # ---------------------------------------------------------------- messages

    def next(
        self,
        group: str,
        stream: str = "default",
        *,
        ordered: bool = True,
        data: bool = True,
        resend: Resend | None = None,
    ) -> Message:
        """Return the next message of `stream` that nobody in `group` has had.

        Parameters
        ----------
        ordered : by id, else by arrival.
        data : fetch the payload too.

        Raises
        ------
        EndReached : nothing new within the timeout; `Finished` : and nothing will come.
        Missing : the group stepped over an id that has not arrived (`ordered` only).
        NotInCache : the payload is lost; the error's `record` is the message.
        """
        params = f"{self._broker.who}{_resend(resend)}{_order(ordered)}"
        path = f"{_label('stream', stream)}/{_label('group', group)}/next"
        body = self._broker.next(path, params, safe=resend is not None)
        return self._filled(records.read_message(body), data)

    def next_dataset(
        self,
        group: str,
        stream: str = "default",
        *,
        min_size: int = 0,
        substream: int = 0,
        ordered: bool = True,
        data: bool = False,
        resend: Resend | None = None,
    ) -> Dataset:
        """Return the next dataset with at least `min_size` parts (0: all), as `next` does.

        With `substream` only that part is returned and waited for.
        """
        params = (
            f"{self._broker.who}{_dataset(min_size, substream)}{_resend(resend)}{_order(ordered)}"
        )
        path = f"{_label('stream', stream)}/{_label('group', group)}/next"
        body = self._broker.next(path, params, safe=resend is not None)
        return self._filled_parts(records.read_dataset(body), data)

    def last(self, stream: str = "default", *, group: str = "", data: bool = True) -> Message:
        """Return the message with the largest id; with `group` only if that has not had it."""
        params = f"{self._broker.who}&id_key=_id"
        path = f"{_label('stream', stream)}/{_last(group)}"
        return self._filled(records.read_message(self._broker.call("GET", path, params)), data)

    def last_dataset(
        self, stream: str = "default", *, group: str = "", min_size: int = 0, data: bool = False
    ) -> Dataset:
        """Return the dataset with the largest id that has `min_size` parts (0: all)."""
        params = f"{self._broker.who}{_dataset(min_size, 0)}&id_key=_id"
        path = f"{_label('stream', stream)}/{_last(group)}"
        return self._filled_parts(
            records.read_dataset(self._broker.call("GET", path, params)), data
        )

    def by_id(self, id: int, stream: str = "default", *, data: bool = True) -> Message:  # noqa: A002
        """Return message `id`."""
        path = f"{_label('stream', stream)}/0/{_id(id)}"
        body = self._broker.call("GET", path, self._broker.who)
        return self._filled(records.read_message(body), data)

    def dataset_by_id(
        self,
        id: int,  # noqa: A002
        stream: str = "default",
        *,
        min_size: int = 0,
        substream: int = 0,
        data: bool = False,
    ) -> Dataset:
        """Return dataset `id` when it has `min_size` parts (0: all)."""
        path = f"{_label('stream', stream)}/0/{_id(id)}"
        params = f"{self._broker.who}{_dataset(min_size, substream)}"
        return self._filled_parts(
            records.read_dataset(self._broker.call("GET", path, params)), data
        )

    def retrieve(self, message: Message, into: memoryview | None = None) -> memoryview:
        """Return the payload of a message that was got without it.

        From the server's memory if it is still there, else its file. `into` receives it if given.

        Raises
        ------
        NotInCache, NotFound, StorageError, Corrupt, TooLarge
        """
        return self._payloads.fetch(message, into)

    def search(self, query: str, stream: str = "default") -> list[Message]:
        """Return the messages whose record or metadata (``meta.key``) match an SQL condition.

        >>> consumer.search("meta.energy > 12000 ORDER BY _id")  # doctest: +SKIP
        """
        path = f"{_label('stream', stream)}/0/querymessages"
        body = self._broker.call("POST", path, self._broker.who, query.encode())
        return records.read_messages(body)

    # ------------------------------------------------------------------ groups

    def new_group(self) -> str:
        """Return a group id that nobody else uses."""
        group = self._broker.simple("POST", "creategroup").decode("utf-8", "replace")
        return check_label("group", group)

    def ack(self, group: str, id: int, stream: str = "default") -> None:  # noqa: A002
        """Acknowledge a message. `AlreadyAcknowledged` if the group has done so before."""
        self._operate(group, id, stream, ack_request())

    def nack(self, group: str, id: int, stream: str = "default", *, delay_s: float = 0.0) -> None:  # noqa: A002
        """Have a message delivered to the group again, after `delay_s`."""
        delay_ms = round(delay_s * 1000)
        self._operate(group, id, stream, nack_request(delay_ms))

    def unacknowledged(
        self, group: str, stream: str = "default", *, from_id: int = 0, to_id: int = 0
    ) -> list[int]:
        """Return the ids in [`from_id`, `to_id`] that the group has not acknowledged (0: open)."""
        path = f"{_label('stream', stream)}/{_label('group', group)}/nacks"
        return reading.read_nacks(self._broker.call("GET", path, f"&from={from_id}&to={to_id}"))

    def last_acked(self, group: str, stream: str = "default") -> int:
        """Return the largest id the group has acknowledged; 0 for none."""
        path = f"{_label('stream', stream)}/{_label('group', group)}/lastack"
        return reading.read_last_ack(self._broker.call("GET", path, self._broker.who))

    def set_marker(self, group: str, id: int, stream: str = "default") -> None:  # noqa: A002
        """Set the group's position: the next message is `id` + 1; 0 begins again."""
        if id < 0:
            raise BadInput(f"position {id} is negative")
        path = f"{_label('stream', stream)}/{_label('group', group)}/resetcounter"
        self._broker.call("POST", path, f"&value={id}")

    # ----------------------------------------------------------------- streams

    def size(self, stream: str = "default", *, incomplete: bool | None = None) -> int:
        """Return the number of messages; with `incomplete` given, of all or of whole datasets."""
        params = self._broker.who
        if incomplete is not None:
            params = f"&incomplete={'true' if incomplete else 'false'}"
        return reading.read_size(
            self._broker.call("GET", f"{_label('stream', stream)}/size", params)
        )

    def streams(
        self,
        *,
        from_stream: str = "",
        filter: Literal["all", "finished", "unfinished"] = "all",  # noqa: A002
    ) -> list[Stream]:
        """Return the streams in the order of their creation, from `from_stream` on."""
        if filter not in ("all", "finished", "unfinished"):
            raise BadInput(f"filter {filter!r} is none of all, finished, unfinished")
        begin = f"&from={escape(from_stream)}" if from_stream else ""
        params = f"{self._broker.who}{begin}&filter={filter}&detailed=true"
        return records.read_streams(self._broker.call("GET", "0/streams", params))

    def stream_info(self, stream: str) -> Stream | None:
        """Return what is known of a stream; None if there is none of that name."""
        return self._one_stream(f"&single=true&detailed=true&from={_label('stream', stream)}")

    def last_stream(self) -> Stream | None:
        """Return the stream that was created last."""
        return self._one_stream("&last=true&detailed=true")

    def sources(self) -> list[str]:
        """Return the names of the beamtime's data sources."""
        return reading.read_sources(self._broker.call("GET", "0/sources", self._broker.who))

    def meta(self, stream: str = "") -> dict[str, Any]:
        """Return metadata of a stream, or without one of the beamtime. `NotFound` if absent."""
        path = f"{_label('stream', stream)}/0/meta/1" if stream else "default/0/meta/0"
        return records.read_object(self._broker.call("GET", path, self._broker.who))

    def delete(self, stream: str, *, must_exist: bool = True, with_meta: bool = True) -> None:
        """Delete a stream's records; files stay. `BadInput` if it `must_exist` and does not."""
        body = delete_request(error_if_absent=must_exist, with_meta=with_meta)
        self._broker.call("POST", f"{_label('stream', stream)}/delete", self._broker.who, body)

    def persist(self, stream: str) -> None:
        """Mark a stream to be kept when others are purged."""
        self._broker.call("POST", f"{_label('stream', stream)}/persist", self._broker.who)

    # -------------------------------------------------------------------- life

    def version(self) -> Version:
        """Return what the server says about itself."""
        return self._discovery.version("consumer")

    def interrupt(self) -> None:
        """End the waiting of the call that runs in another thread."""
        self._broker.interrupt()

    def close(self) -> None:
        self._payloads.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ inside

    def _filled(self, message: Message, data: bool) -> Message:
        if data and not message.mode & _WITHOUT_DATA:
            message.data = self._payloads.fetch(message)
        return message

    def _filled_parts(self, dataset: Dataset, data: bool) -> Dataset:
        for part in dataset.parts:
            self._filled(part, data)
        return dataset

    def _operate(self, group: str, id: int, stream: str, operation: bytes) -> None:  # noqa: A002
        path = f"{_label('stream', stream)}/{_label('group', group)}/{_id(id)}"
        self._broker.call("POST", path, self._broker.who, operation)

    def _one_stream(self, params: str) -> Stream | None:
        found = records.read_streams(self._broker.call("GET", "0/streams", params))
        if len(found) > 1:
            raise RemoteProtocolError(f"asked for one stream, the server names {len(found)}")
        return found[0] if found else None


def _label(kind: str, name: str) -> str:
    return escape(check_label(kind, name))


def _id(id: int) -> int:  # noqa: A002
    if not 1 <= id <= limits.ID_MAX:
        raise BadInput(f"id {id} is not 1 … 2^63 - 1")
    return id


def _last(group: str) -> str:
    return f"{_label('group', group)}/groupedlast" if group else "0/last"


def _order(ordered: bool) -> str:
    return "&id_key=_id" if ordered else "&id_key=time_id"


def _resend(resend: Resend | None) -> str:
    if resend is None:
        return ""
    delay_ms = round(resend.delay_s * 1000)
    return f"&resend_nacks=true&delay_ms={delay_ms}&resend_attempts={resend.attempts}"


def _dataset(min_size: int, substream: int) -> str:
    # A substream alone is whole as soon as it is there.
    return f"&dataset=true&minsize={1 if substream else min_size}&substream={substream}"
