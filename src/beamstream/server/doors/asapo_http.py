"""The ASAPO HTTP door: discovery, authorizer, broker and file transfer on one port.

`wire.asapo.routes` says what a request asks for; here it is authorised and handed to what answers
it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine

import structlog

from beamstream import limits
from beamstream.errors import Error
from beamstream.server.auth import Grant, check_access, check_subject
from beamstream.server.doors.asapo_broker import JSON, READS, WRITES, Asked, search, status_of
from beamstream.server.doors.asapo_files import FileTransfer
from beamstream.server.doors.asapo_next import Nexts
from beamstream.server.doors.http import HttpConnection, HttpRequest
from beamstream.server.doors.services import Services
from beamstream.wire.asapo import documents
from beamstream.wire.asapo.bodies import parse_folder_request, parse_introspect_request
from beamstream.wire.asapo.calls import Call, Kind
from beamstream.wire.asapo.credentials import AUTO
from beamstream.wire.asapo.routes import HttpError, parse_target

log = structlog.get_logger("broker")

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
        self._nexts = Nexts()
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, connection: HttpConnection, request: HttpRequest) -> None:
        try:
            call = parse_target(request.method, request.target)
            if call.kind in _OPEN:
                self._open_call(connection, request, call)
                return
            grant = self._services.authorizer.grant(call.token)
            if call.kind is Kind.CREATE_GROUP:
                connection.reply(200, secrets.token_hex(10).encode())
                return
            beamtime = self._beamtime(call, grant)
            check_access(grant, "read")
            if beamtime in self._services.opened:
                self._ask(Asked(self._services, connection, request, call, beamtime, grant))
            else:
                self._run(self._open_first(connection, request, call, beamtime, grant))
        except HttpError as error:
            connection.reply(error.status, error.text.encode())
        except Error as error:
            self._services.stats.failed(error)
            connection.reply(*status_of(error))

    def gone(self) -> None:
        """The peer has gone."""
        self._nexts.gone()
        for task in self._tasks:
            task.cancel()

    def stop(self) -> None:
        """The node stops: a request that is held open is answered; transfers may end."""
        self._nexts.stop()

    # ------------------------------------------------------------------ broker

    def _beamtime(self, call: Call, grant: Grant) -> str:
        beamtimes = self._services.beamtimes
        if call.beamtime == AUTO:
            return beamtimes.meant(AUTO, AUTO, grant)
        if grant.kind in ("bt", "nd"):
            check_subject(grant, call.beamtime)
        else:
            check_subject(grant, call.beamtime, beamtimes.beamline_of(call.beamtime))
        return call.beamtime

    def _ask(self, asked: Asked) -> None:
        kind = asked.call.kind
        if kind is Kind.NEXT:
            self._nexts.answer(asked)
        elif kind in READS:
            asked.connection.reply(*READS[kind](asked))
        elif kind is Kind.QUERY:
            self._run(search(asked, self._searches))
        else:
            WRITES[kind](asked)

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
            self._ask(Asked(services, connection, request, call, beamtime, grant))
        except Error as error:
            self._services.stats.failed(error)
            connection.reply(*status_of(error))

    # ------------------------------------------------------------------ services

    def _open_call(self, connection: HttpConnection, request: HttpRequest, call: Call) -> None:
        services = self._services
        kind = call.kind
        if kind is Kind.DISCOVER_RECEIVER:
            address = services.address("ingest", connection.local_host)
            body = documents.receivers(limits.PRODUCER_CONNECTIONS_MAX, [address])
            connection.reply(200, body, JSON)
        elif kind in (Kind.DISCOVER_BROKER, Kind.DISCOVER_FILES):
            connection.reply(200, services.address("http", connection.local_host).encode())
        elif kind is Kind.VERSION:
            connection.reply(200, documents.version(call.client, call.protocol), JSON)
        elif kind is Kind.INTROSPECT:
            grant = services.authorizer.grant(parse_introspect_request(request.body))
            body = documents.introspection(grant.subject, sorted(grant.access))
            connection.reply(200, body, JSON)
        elif kind is Kind.FOLDER:
            self._folder(connection, request)
        elif kind is Kind.TRANSFER:
            self._run(FileTransfer(services, connection).answer(call, request))
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

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = self._services.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("unexpected", exc_info=task.exception())
