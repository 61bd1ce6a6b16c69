"""The ASAPO HTTP door: discovery, authorizer, broker and file transfer on one port.

`wire.asapo.routes` says what a request asks for; here it is authorised, answered by `delivery` and
`reads`, and rendered as ASAPO's documents. An empty `next` of a client that is known to wait is
held open for a moment instead of being sent back to its 100 ms sleep.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from functools import partial

import structlog

from beamstream import limits
from beamstream.errors import (
    BadInput,
    BadToken,
    Conflict,
    Denied,
    Error,
    NotFound,
    Overload,
    ProtocolError,
    StorageError,
)
from beamstream.model import Dataset, Record, Who, check_label
from beamstream.server.auth import Grant, check_access, check_subject
from beamstream.server.delivery import Found, Nothing, Want
from beamstream.server.doors.asapo_files import FileTransfer
from beamstream.server.doors.http import HttpConnection, HttpRequest
from beamstream.server.doors.services import Services
from beamstream.server.groups import Terms
from beamstream.server.streams import View
from beamstream.wire.asapo import documents
from beamstream.wire.asapo.bodies import (
    NO_NEXT,
    parse_ack_request,
    parse_delete_request,
    parse_folder_request,
    parse_introspect_request,
)
from beamstream.wire.asapo.calls import Call, Kind
from beamstream.wire.asapo.credentials import AUTO
from beamstream.wire.asapo.routes import HttpError, parse_target

log = structlog.get_logger("broker")

_JSON = "application/json"
_GAP_SECONDS = (0.085, 0.150)
"""A waiting client repeats its request 100 ms after an empty answer."""
_AT_ONCE_SECONDS = 0.02
"""… or at once after one that was held, as our own client does."""

_OPEN = (
    Kind.DISCOVER_RECEIVER,
    Kind.DISCOVER_BROKER,
    Kind.DISCOVER_FILES,
    Kind.VERSION,
    Kind.DISCOVERY_HEALTH,
    Kind.HEALTH,
    Kind.INTROSPECT,
    Kind.FOLDER,
    Kind.TRANSFER,
)
"""Calls that need no token, or check the one in their body or cookie themselves."""


class AsapoHandler:
    """Answers the requests of one HTTP connection."""

    def __init__(self, services: Services, searches: asyncio.Semaphore) -> None:
        self._services = services
        self._searches = searches
        self._tasks: set[asyncio.Task[None]] = set()
        # What the client did last, to know whether it waits.
        self._empty_target = b""
        self._empty_at = 0.0
        self._waits = False
        # A `next` that is held open.
        self._held: _Held | None = None

    # ------------------------------------------------------------------ requests

    def handle(self, connection: HttpConnection, request: HttpRequest) -> None:
        try:
            call = parse_target(request.method, request.target)
            if call.kind in _OPEN:
                self._open_call(connection, request, call)
                return
            grant = self._services.authorizer.grant(call.token)
            if call.kind is Kind.CREATE_GROUP:
                connection.reply(200, _new_group())
                return
            beamtime = self._beamtime(call, grant)
            check_access(grant, "read")
            if beamtime in self._services.opened:
                self._broker(connection, request, call, beamtime, grant)
            else:
                self._run(self._open_first(connection, request, call, beamtime, grant))
        except HttpError as error:
            connection.reply(error.status, error.text.encode())
        except Error as error:
            connection.reply(*_status_of(error))

    async def _open_first(
        self,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        beamtime: str,
        grant: Grant,
    ) -> None:
        """The first call about a beamtime since the node was started."""
        services = self._services
        try:
            await services.loop.run_in_executor(services.threads, services.open_records, beamtime)
            self._broker(connection, request, call, beamtime, grant)
        except Error as error:
            connection.reply(*_status_of(error))

    def gone(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None
        for task in self._tasks:
            task.cancel()

    def _beamtime(self, call: Call, grant: Grant) -> str:
        if call.beamtime == AUTO:
            return self._services.beamtimes.meant(AUTO, AUTO, grant)
        if grant.kind == "bt":
            check_subject(grant, call.beamtime)
        else:
            beamline = self._services.beamtimes.beamline_of(call.beamtime)
            check_subject(grant, call.beamtime, beamline)
        return call.beamtime

    def _broker(
        self,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        beamtime: str,
        grant: Grant,
    ) -> None:
        kind = call.kind
        if kind is Kind.NEXT:
            self._next(connection, request, call, self._view(call, beamtime), grant)
        elif kind in _READS:
            connection.reply(*_READS[kind](self, connection, call, beamtime))
        else:
            _WRITES[kind](self, connection, request, call, beamtime, grant)

    def _view(self, call: Call, beamtime: str) -> View:
        return self._services.streams.view(beamtime, call.source, call.stream)

    # ------------------------------------------------------------------ next

    def _next(
        self,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        view: View,
        grant: Grant,
    ) -> None:
        now = self._services.loop.time()
        self._learn(request.target, now)
        found = self._take(connection, call, view, grant)
        if isinstance(found, Found):
            return
        group = view.groups.get(call.group)
        due = group.due() if group is not None else float("inf")
        if self._waits and self._may_hold(found, view):
            self._held = _Held(self, connection, request, call, view, grant, min(
                now + limits.HOLD_SECONDS, due))  # fmt: skip
        else:
            self._empty(connection, request, found, view)

    def _learn(self, target: bytes, now: float) -> None:
        """Tell from the time since its last empty answer whether the client waits.

        One that waits repeats its request 100 ms later (at once, if the answer was held). What it
        does after it got a message says nothing about that.
        """
        if target != self._empty_target:
            self._waits = False
        elif self._empty_at:
            gap = now - self._empty_at
            repeated = _GAP_SECONDS[0] <= gap <= _GAP_SECONDS[1]
            self._waits = repeated or (self._waits and gap < _AT_ONCE_SECONDS)

    @staticmethod
    def _may_hold(found: Nothing, view: View) -> bool:
        return not found.finished and found.id >= found.id_max and not view.finished

    def _take(
        self, connection: HttpConnection, call: Call, view: View, grant: Grant
    ) -> Found | Nothing:
        """Answer with the next item if there is one."""
        deliveries = self._services.deliveries
        found = deliveries.next(
            view, call.group, by_id=call.key_is_id, terms=_terms(call), want=_want(call)
        )
        if isinstance(found, Found):
            if connection.closing:
                deliveries.give_back(view, call.group, found)
                return found
            self._empty_at = 0.0
            self._reply_found(connection, call, view, found)
            who = Who(call.instance, call.step, connection.address, grant.token_id)
            deliveries.handed_out(view, call.group, who, found)
        return found

    def _empty(
        self, connection: HttpConnection, request: HttpRequest, found: Nothing, view: View
    ) -> None:
        connection.reply(409, _nothing(found, view), _JSON)
        self._empty_target = request.target
        self._empty_at = self._services.loop.time()

    def try_held(self, held: _Held, *, last: bool) -> None:
        """Something changed, or the time of a held `next` is over."""
        if self._held is not held:
            return
        try:
            found = self._take(held.connection, held.call, held.view, held.grant)
        except Error as error:
            self._let_go(held)
            held.connection.reply(*_status_of(error))
            return
        if isinstance(found, Found):
            self._let_go(held)
        elif last or not self._may_hold(found, held.view):
            self._let_go(held)
            self._empty(held.connection, held.request, found, held.view)

    def _let_go(self, held: _Held) -> None:
        held.release()
        self._held = None

    # ------------------------------------------------------------------ reads

    def _reply_found(
        self, connection: HttpConnection, call: Call, view: View, found: Found
    ) -> None:
        status = 206 if found.partial else 200
        connection.reply(status, self._document(connection, view, found.item), _JSON)

    def _document(self, connection: HttpConnection, view: View, item: Record | Dataset) -> bytes:
        reads = self._services.reads
        source = self._data_address(connection)
        if isinstance(item, Dataset):
            return documents.dataset_record(item, view.name, partial(reads.buf_id, view), source)
        return documents.message_record(item, view.name, source, reads.buf_id(view, item))

    def _found_or_nothing(
        self, connection: HttpConnection, view: View, found: Found | Nothing
    ) -> tuple[int, bytes, str]:
        if isinstance(found, Nothing):
            return 409, _nothing(found, view), _JSON
        return (206 if found.partial else 200), self._document(connection, view, found.item), _JSON

    def _by_id(self, connection: HttpConnection, call: Call, beamtime: str) -> _Answer:
        check_label("stream", call.stream)
        view = self._view(call, beamtime)
        found = self._services.reads.by_id(view, call.id, _want(call))
        return self._found_or_nothing(connection, view, found)

    def _last(self, connection: HttpConnection, call: Call, beamtime: str) -> _Answer:
        view = self._view(call, beamtime)
        found = self._services.reads.last(view, _want(call))
        if (
            call.kind is Kind.GROUPED_LAST
            and isinstance(found, Found)
            and not self._services.deliveries.last_for_group(view, call.group, found.item)
        ):
            found = Nothing(view.max_id, view.max_id)
        return self._found_or_nothing(connection, view, found)

    def _size(self, connection: HttpConnection, call: Call, beamtime: str) -> _Answer:
        incomplete = None if call.incomplete is None else call.incomplete == "true"
        count = self._services.reads.size(self._view(call, beamtime), incomplete)
        return 200, documents.size(count), _JSON

    def _nacks(self, connection: HttpConnection, call: Call, beamtime: str) -> _Answer:
        view = self._view(call, beamtime)
        lo, hi = call.id_from or 1, call.id_to or view.max_id
        ids = self._services.deliveries.unacknowledged(view, call.group, lo, hi)
        return 200, documents.nacks(ids), _JSON

    def _last_ack(self, connection: HttpConnection, call: Call, beamtime: str) -> _Answer:
        view = self._view(call, beamtime)
        last = self._services.deliveries.last_acknowledged(view, call.group)
        return 200, documents.last_ack(last), _JSON

    def _streams(self, connection: HttpConnection, call: Call, beamtime: str) -> _Answer:
        infos = self._services.reads.streams(beamtime, call.source)
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
        return 200, documents.stream_list(infos), _JSON

    def _sources(self, connection: HttpConnection, call: Call, beamtime: str) -> _Answer:
        return 200, documents.source_list(self._services.reads.sources(beamtime)), _JSON

    def _meta(self, connection: HttpConnection, call: Call, beamtime: str) -> _Answer:
        meta = self._services.reads.meta(beamtime, call.source, call.stream)
        if meta is None:
            return 409, b"mongo: no documents in result", "text/plain; charset=utf-8"
        return 200, meta, _JSON

    # ------------------------------------------------------------------ writes

    def _ack_or_nack(
        self,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        beamtime: str,
        grant: Grant,
    ) -> None:
        view = self._view(call, beamtime)
        said = parse_ack_request(request.body)
        if not call.id:
            raise BadInput("ids start at 1")
        deliveries = self._services.deliveries
        if said.negative:
            deliveries.refuse(
                view, call.group, call.id, said.delay_ms / 1000, _when_done(connection)
            )
        else:
            who = Who(call.instance, call.step, connection.address, grant.token_id)
            deliveries.acknowledge(view, call.group, call.id, who, _when_done(connection))

    def _reset(
        self,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        beamtime: str,
        grant: Grant,
    ) -> None:
        view = self._view(call, beamtime)
        self._services.deliveries.seek(view, call.group, call.value, _when_done(connection))

    def _delete(
        self,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        beamtime: str,
        grant: Grant,
    ) -> None:
        check_access(grant, "write")
        said = parse_delete_request(request.body)

        def done(error: Error | None) -> None:
            if isinstance(error, NotFound):
                if said.error_if_absent:
                    connection.reply(400, f"stream {call.stream} does not exist".encode())
                    return
                error = None
            _when_done(connection)(error)

        self._services.delete_stream(
            self._view(call, beamtime), with_meta=said.with_meta, done=done
        )

    def _persist(
        self,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        beamtime: str,
        grant: Grant,
    ) -> None:
        check_access(grant, "write")
        self._services.persist(self._view(call, beamtime), _when_done(connection))

    def _query(
        self,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        beamtime: str,
        grant: Grant,
    ) -> None:
        view = self._view(call, beamtime)
        self._run(self._search(connection, view, request.body))

    async def _search(self, connection: HttpConnection, view: View, body: bytes) -> None:
        services = self._services
        try:
            text = body.decode()
            async with self._searches:
                found = await services.loop.run_in_executor(
                    services.threads, services.reads.search, view, text
                )
        except UnicodeDecodeError:
            connection.reply(400, b"the query is not UTF-8")
            return
        except Error as error:
            connection.reply(*_status_of(error))
            return
        address = self._data_address(connection)
        connection.reply(
            200,
            documents.record_list(found, view.name, partial(services.reads.buf_id, view), address),
            _JSON,
        )

    # ------------------------------------------------------------------ services

    def _open_call(self, connection: HttpConnection, request: HttpRequest, call: Call) -> None:
        services = self._services
        kind = call.kind
        if kind is Kind.DISCOVER_RECEIVER:
            address = self._address(connection, "ingest")
            body = documents.receivers(limits.PRODUCER_CONNECTIONS_MAX, [address])
            connection.reply(200, body, _JSON)
        elif kind in (Kind.DISCOVER_BROKER, Kind.DISCOVER_FILES):
            connection.reply(200, self._address(connection, "http").encode())
        elif kind is Kind.VERSION:
            connection.reply(200, documents.version(call.client, call.protocol), _JSON)
        elif kind is Kind.INTROSPECT:
            grant = services.authorizer.grant(parse_introspect_request(request.body))
            body = documents.introspection(grant.subject, sorted(grant.access))
            connection.reply(200, body, _JSON)
        elif kind is Kind.FOLDER:
            self._folder(connection, request)
        elif kind is Kind.TRANSFER:
            transfer = FileTransfer(services, connection)
            self._run(transfer.answer(call, request))
        else:
            connection.reply(204, b"")

    def _folder(self, connection: HttpConnection, request: HttpRequest) -> None:
        """A token for the files of a beamtime (protocol section 4)."""
        said = parse_folder_request(request.body)
        grant = self._services.authorizer.grant(said.token)
        folders = self._services.beamtimes.resolve(said.beamtime, AUTO, grant)
        known = {str(folders.core), str(folders.beamline_folder or folders.core)}
        if said.folder != AUTO and said.folder.rstrip("/") not in known:
            connection.reply(401, b"folder is not one of the beamtime")
            return
        token = self._services.authorizer.folder_token(grant, folders.beamtime)
        connection.reply(200, token.encode())

    def _address(self, connection: HttpConnection, door: str) -> str:
        """Where a client that reached us here finds a door (decision 13)."""
        host = self._services.advertise or connection.local_host
        port = self._services.ports[door]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _data_address(self, connection: HttpConnection) -> str:
        return self._address(connection, "data")

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = self._services.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("unexpected", exc_info=task.exception())


class _Held:
    """A `next` that found nothing and is held open until something changes."""

    __slots__ = ("call", "connection", "grant", "handler", "request", "timer", "view", "wake")

    def __init__(
        self,
        handler: AsapoHandler,
        connection: HttpConnection,
        request: HttpRequest,
        call: Call,
        view: View,
        grant: Grant,
        until: float,
    ) -> None:
        self.handler = handler
        self.connection = connection
        self.request = request
        self.call = call
        self.view = view
        self.grant = grant
        self.wake: Callable[[], None] = lambda: handler.try_held(self, last=False)
        view.waiters.add(self.wake)
        self.timer = connection.loop.call_at(until, lambda: handler.try_held(self, last=True))

    def release(self) -> None:
        self.view.waiters.discard(self.wake)
        self.timer.cancel()


_Answer = tuple[int, bytes, str]

_READS: dict[Kind, Callable[[AsapoHandler, HttpConnection, Call, str], _Answer]] = {
    Kind.BY_ID: AsapoHandler._by_id,
    Kind.LAST: AsapoHandler._last,
    Kind.GROUPED_LAST: AsapoHandler._last,
    Kind.SIZE: AsapoHandler._size,
    Kind.NACKS: AsapoHandler._nacks,
    Kind.LAST_ACK: AsapoHandler._last_ack,
    Kind.STREAMS: AsapoHandler._streams,
    Kind.SOURCES: AsapoHandler._sources,
    Kind.META: AsapoHandler._meta,
}

_WRITES: dict[
    Kind, Callable[[AsapoHandler, HttpConnection, HttpRequest, Call, str, Grant], None]
] = {
    Kind.ACK_OR_NACK: AsapoHandler._ack_or_nack,
    Kind.RESET_COUNTER: AsapoHandler._reset,
    Kind.DELETE: AsapoHandler._delete,
    Kind.PERSIST: AsapoHandler._persist,
    Kind.QUERY: AsapoHandler._query,
}


def _terms(call: Call) -> Terms | None:
    if not call.resend:
        return None
    seconds = min(call.delay_ms / 1000, limits.LEASE_SECONDS_MAX)
    return Terms(seconds, call.attempts)


def _want(call: Call) -> Want | None:
    return Want(call.min_size, call.substream) if call.dataset else None


def _nothing(found: Nothing, view: View) -> bytes:
    next_stream = (view.next_stream or NO_NEXT) if view.finished else ""
    return documents.no_data(found.id, found.id_max, next_stream)


def _new_group() -> bytes:
    return secrets.token_hex(10).encode()


def _when_done(connection: HttpConnection) -> Callable[[Error | None], None]:
    def done(error: Error | None) -> None:
        if error is None:
            connection.reply(200, b"")
        else:
            connection.reply(*_status_of(error))

    return done


def _status_of(error: Error) -> tuple[int, bytes]:
    """The answer to a request that ended in `error` (protocol section 6.2)."""
    text = str(error).encode()
    match error:
        case BadToken():
            return 401, b"authorizer rejected to authorize: " + text
        case Denied():
            return 401, text
        case BadInput() | ProtocolError() | Conflict() | NotFound() | Overload():
            return 400, text
        case StorageError():
            return 500, text
        case _:
            return 500, text
