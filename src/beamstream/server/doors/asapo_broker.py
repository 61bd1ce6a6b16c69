"""The broker: what consumers ask of streams, and what groups say (protocol section 6).

Each call is a function of what was asked; `server.delivery` and `server.reads` know what it means,
`wire.asapo.documents` how it is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from beamstream.errors import (
    BadInput,
    BadToken,
    Conflict,
    Denied,
    Error,
    NotFound,
    Overload,
    ProtocolError,
)
from beamstream.model import Dataset, Record, Who, check_label
from beamstream.server.auth import Grant, check_access
from beamstream.server.delivery import Found, Nothing, Want
from beamstream.server.doors.asapo_names import named, named_record
from beamstream.server.doors.http import HttpConnection, HttpRequest
from beamstream.server.doors.services import Services
from beamstream.server.streams import View
from beamstream.wire.asapo import documents
from beamstream.wire.asapo.bodies import NO_NEXT, parse_ack_request, parse_delete_request
from beamstream.wire.asapo.calls import Call, Kind

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

Reply = tuple[int, bytes, str]


class Asked:
    """One authorised request to the broker."""

    __slots__ = ("call", "connection", "grant", "request", "services", "view")

    def __init__(
        self,
        services: Services,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        beamtime: str,
        grant: Grant,
    ) -> None:
        self.services = services
        self.connection = connection
        self.request = request
        self.call = call
        self.grant = grant
        self.view: View = services.streams.view(beamtime, call.source, call.stream)

    @property
    def beamtime(self) -> str:
        return self.view.beamtime

    @property
    def who(self) -> Who:
        call = self.call
        return Who(call.instance, call.step, self.connection.address, self.grant.token_id)

    @property
    def want(self) -> Want | None:
        return Want(self.call.min_size, self.call.substream) if self.call.dataset else None

    def document(self, item: Record | Dataset) -> bytes:
        """An item as the client gets it, with the address of its payload."""
        view, reads = self.view, self.services.reads
        source = self.services.address("data", self.connection.local_host)
        item = named(item, view)
        if isinstance(item, Dataset):
            return documents.dataset_record(item, view.name, partial(reads.buf_id, view), source)
        return documents.message_record(item, view.name, source, reads.buf_id(view, item))

    def found(self, found: Found | Nothing) -> Reply:
        if isinstance(found, Nothing):
            return 409, nothing(found, self.view), JSON
        return (206 if found.partial else 200), self.document(found.item), JSON

    def done(self, error: Error | None) -> None:
        """Answer a call that has nothing to tell but that it is done."""
        if error is None:
            self.connection.reply(200, b"")
        else:
            self.services.stats.failed(error)
            self.connection.reply(*status_of(error))


def nothing(found: Nothing, view: View) -> bytes:
    """The body of a 409 (protocol section 6.3)."""
    next_stream = (view.next_stream or NO_NEXT) if found.finished else ""
    return documents.no_data(found.id, found.id_max, next_stream)


def status_of(error: Error) -> tuple[int, bytes]:
    """The answer to a request that ended in `error` (protocol section 6.2)."""
    text = str(error).encode()
    match error:
        case BadToken():
            return 401, b"authorizer rejected to authorize: " + text
        case Denied():
            return 401, text
        case BadInput() | ProtocolError() | Conflict() | NotFound() | Overload():
            return 400, text
        case _:
            return 500, text


# ------------------------------------------------------------------------------- reads


def by_id(asked: Asked) -> Reply:
    check_label("stream", asked.call.stream)
    return asked.found(asked.services.reads.by_id(asked.view, asked.call.id, asked.want))


def last(asked: Asked) -> Reply:
    return asked.found(asked.services.reads.last(asked.view, asked.want))


def grouped_last(asked: Asked) -> Reply:
    view = asked.view
    found = asked.services.reads.last(view, asked.want)
    if isinstance(found, Found) and not asked.services.deliveries.last_for_group(
        view, asked.call.group, found.item
    ):
        found = Nothing(view.max_id, view.max_id)
    return asked.found(found)


def size(asked: Asked) -> Reply:
    asked_for = asked.call.incomplete
    incomplete = None if asked_for is None else asked_for == "true"
    return 200, documents.size(asked.services.reads.size(asked.view, incomplete)), JSON


def nacks(asked: Asked) -> Reply:
    call, view = asked.call, asked.view
    lo, hi = call.id_from or 1, call.id_to or view.max_id
    ids = asked.services.deliveries.unacknowledged(view, call.group, lo, hi)
    return 200, documents.nacks(ids), JSON


def last_ack(asked: Asked) -> Reply:
    last = asked.services.deliveries.last_acknowledged(asked.view, asked.call.group)
    return 200, documents.last_ack(last), JSON


def streams(asked: Asked) -> Reply:
    call = asked.call
    infos = asked.services.reads.streams(asked.beamtime, call.source)
    if call.single:
        infos = [info for info in infos if info.name == call.from_stream]
    elif call.last:
        infos = infos[-1:]
    elif call.from_stream:
        names = [info.name for info in infos]
        start = names.index(call.from_stream) if call.from_stream in names else len(names)
        infos = infos[start:]
    if call.filter != "all":
        infos = [info for info in infos if info.finished == (call.filter == "finished")]
    return 200, documents.stream_list(infos), JSON


def sources(asked: Asked) -> Reply:
    return 200, documents.source_list(asked.services.reads.sources(asked.beamtime)), JSON


def meta(asked: Asked) -> Reply:
    call = asked.call
    document = asked.services.reads.meta(asked.beamtime, call.source, call.stream)
    if document is None:
        return 409, b"mongo: no documents in result", TEXT
    return 200, document, JSON


READS: dict[Kind, Callable[[Asked], Reply]] = {
    Kind.BY_ID: by_id,
    Kind.LAST: last,
    Kind.GROUPED_LAST: grouped_last,
    Kind.SIZE: size,
    Kind.NACKS: nacks,
    Kind.LAST_ACK: last_ack,
    Kind.STREAMS: streams,
    Kind.SOURCES: sources,
    Kind.META: meta,
}


# ------------------------------------------------------------------------------ writes


def ack_or_nack(asked: Asked) -> None:
    call, deliveries = asked.call, asked.services.deliveries
    said = parse_ack_request(asked.request.body)
    if not call.id:
        raise BadInput("ids start at 1")
    if said.negative:
        deliveries.refuse(asked.view, call.group, call.id, said.delay_ms / 1000, asked.done)
    else:
        deliveries.acknowledge(asked.view, call.group, call.id, asked.who, asked.done)


def reset_counter(asked: Asked) -> None:
    call = asked.call
    asked.services.deliveries.seek(asked.view, call.group, call.value, asked.done)


def delete(asked: Asked) -> None:
    check_access(asked.grant, "write")
    said = parse_delete_request(asked.request.body)

    def done(error: Error | None) -> None:
        if not isinstance(error, NotFound):
            asked.done(error)
        elif said.error_if_absent:
            asked.connection.reply(400, f"stream {asked.call.stream} does not exist".encode())
        else:
            asked.done(None)

    asked.services.delete_stream(asked.view, with_meta=said.with_meta, done=done)


def persist(asked: Asked) -> None:
    check_access(asked.grant, "write")
    asked.services.persist(asked.view, asked.done)


WRITES: dict[Kind, Callable[[Asked], None]] = {
    Kind.ACK_OR_NACK: ack_or_nack,
    Kind.RESET_COUNTER: reset_counter,
    Kind.DELETE: delete,
    Kind.PERSIST: persist,
}


# -------------------------------------------------------------------------------- slow


async def search(asked: Asked, searches: asyncio.Semaphore) -> None:
    """A query; in a thread, few at a time."""
    services, view = asked.services, asked.view
    try:
        text = asked.request.body.decode()
        async with searches:
            found = await services.loop.run_in_executor(
                services.threads, services.reads.search, view, text
            )
    except UnicodeDecodeError:
        asked.connection.reply(400, b"the query is not UTF-8")
        return
    except Error as error:
        asked.services.stats.failed(error)
        asked.connection.reply(*status_of(error))
        return
    address = services.address("data", asked.connection.local_host)
    found = [named_record(record, view) for record in found]
    body = documents.record_list(found, view.name, partial(services.reads.buf_id, view), address)
    asked.connection.reply(200, body, JSON)
