"""The ASAPO ingest door: producers over TCP (protocol section 5).

One object per connection: the session of `wire.asapo` says what the bytes mean, `server.ingest`
what is to be done with it; here are only the socket, its back-pressure and its deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

import structlog

from beamstream import limits
from beamstream.errors import (
    BadInput,
    BadToken,
    CacheFull,
    Conflict,
    Denied,
    Error,
    IdConflict,
    NotFound,
    Overload,
    ProtocolError,
    RemoteProtocolError,
    StorageError,
)
from beamstream.model import Who
from beamstream.server.auth import Grant, check_access
from beamstream.server.beamtimes import BeamtimeFolders
from beamstream.server.doors.admission import Admission
from beamstream.server.doors.services import Services
from beamstream.server.doors.sockets import keep_alive
from beamstream.server.ingest import Put, Wait
from beamstream.server.messages import Answer, Message, Producer
from beamstream.store.cache import Slot
from beamstream.store.catalog import Meta, MetaMode
from beamstream.wire.asapo.bodies import (
    FINISH_NAME,
    meta_mode,
    meta_target,
    parse_finish_meta,
)
from beamstream.wire.asapo.credentials import AUTO, Credentials, parse_credentials
from beamstream.wire.asapo.documents import stream_document
from beamstream.wire.asapo.session import COMPLETE, Incoming, ReceiverSession
from beamstream.wire.asapo.structs import Code, OpCode, Request, pack_reply, parse_version

log = structlog.get_logger("ingest")

_NEWEST = (0, 7)
_PUTS = (OpCode.TRANSFER_DATA, OpCode.TRANSFER_DATASET_DATA)
_KNOWN = frozenset(
    (
        OpCode.TRANSFER_DATA,
        OpCode.TRANSFER_DATASET_DATA,
        OpCode.STREAM_INFO,
        OpCode.LAST_STREAM,
        OpCode.AUTHORIZE,
        OpCode.TRANSFER_METADATA,
        OpCode.DELETE_STREAM,
        OpCode.GET_META,
    )
)


class IngestConnection(asyncio.BufferedProtocol):
    """One producer's connection."""

    def __init__(self, services: Services, admission: Admission) -> None:
        # Shared by all connections.
        self._services = services
        self._loop = services.loop
        self._admission = admission
        # Of this connection.
        self._session = ReceiverSession()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._address = ""
        self._producer: Producer | None = None
        self._grant: Grant | None = None
        self._credentials: Credentials | None = None
        self._meant_at = 0.0
        self._member = ""
        self._closed = False
        self._deadline: asyncio.TimerHandle | None = None
        self._seen_nbytes = 0
        self._stalled_at = -1
        # Of the request under way.
        self._incoming: Incoming | None = None
        self._put: Put | None = None
        self._document: Slot | None = None
        self._refusal: tuple[int, str] | None = None
        self._waiting_until = 0.0
        self._paused = False
        self._answering = False

    @property
    def client(self) -> tuple[str, Who] | None:
        """Beamtime and who it is, once that is known."""
        producer = self._producer
        return (producer.beamtime, producer.who) if producer is not None else None

    # ------------------------------------------------------------------ the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        keep_alive(transport)
        peer = self._transport.get_extra_info("peername")
        self._address = f"{peer[0]}:{peer[1]}" if peer else "?"
        if not self._admission.enter(self):
            log.warning("too many connections", peer=self._address)
            self._transport.abort()
            return
        self._deadline = self._loop.call_later(limits.LOGIN_SECONDS_MAX, self._login_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._admission.leave(self, self._member)
        if self._deadline is not None:
            self._deadline.cancel()
        self._services.ingest.give_up(self._resume)
        put, self._put = self._put, None
        if put is not None and not self._answering:
            put.abort()
        document, self._document = self._document, None
        if document is not None:
            self._services.ingest.drop(document)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._session.want()

    def buffer_updated(self, nbytes: int) -> None:
        self._seen_nbytes += nbytes
        self._session.got(nbytes)
        if self._answering:
            # Official clients wait for their answer; one that does not is held back.
            self._pause()
        else:
            self._go_on()

    def eof_received(self) -> bool:
        return False

    def stop(self) -> None:
        """The node stops: no new request is taken; the one under way may end."""
        if self._session.idle and not self._answering:
            self._transport.close()
        else:
            self._deadline = self._loop.call_later(limits.DRAIN_SECONDS_MAX, self._transport.abort)

    # ------------------------------------------------------------------ events

    def _go_on(self) -> None:
        session = self._session
        try:
            while not (self._answering or self._closed):
                event = session.next_event()
                if event is None:
                    break
                if event is COMPLETE:
                    self._complete()
                elif isinstance(event, Incoming):
                    self._incoming = event
                    self._begin(event)
                else:
                    self._filled()
        except ProtocolError as error:
            self._drop(error)
        except BadInput as error:
            # Announced sizes: what follows cannot be told from the next request.
            self._drop(error, pack_reply(2, Code.WRONG_REQUEST, _bad_request(error)))
        if session.deciding:
            self._pause()

    def _begin(self, incoming: Incoming) -> None:
        request = incoming.request
        try:
            if request.op not in _KNOWN:
                raise RemoteProtocolError(f"operation {request.op} is not known")
            if request.op == OpCode.AUTHORIZE:
                self._login(request, incoming.meta)
            elif self._producer is None or self._grant is None:
                self._refuse(Code.AUTHORIZATION_ERROR, _not_authorized("not authorized"))
            elif not self._grant.valid:
                self._refuse(Code.REAUTHORIZE, "the token has expired or was revoked")
            elif self._has_moved():
                self._refuse(Code.REAUTHORIZE, "the beamline has another beamtime now")
            elif request.op in _PUTS:
                self._message(request, incoming)
            elif request.op == OpCode.TRANSFER_METADATA:
                self._begin_metadata(incoming)
            else:
                self._ask(request)
        except Error as error:
            if isinstance(error, ProtocolError) and request.op not in _KNOWN:
                raise
            self._refuse(*self._told(error))

    def _filled(self) -> None:
        put = self._put
        assert put is not None
        self._pause()
        put.filled(self._next_memory)

    def _next_memory(self, memory: memoryview) -> None:
        if not self._closed:
            self._session.take(memory)
            self._unpause()
            self._go_on()

    def _complete(self) -> None:
        incoming, put = self._incoming, self._put
        assert incoming is not None
        if self._refusal is not None:
            code, text = self._refusal
            self._refusal = None
            self._reply(code, text)
        elif put is not None:
            self._answering = True
            put.complete(self._answered)
        else:
            self._write_metadata(incoming.request)

    # ------------------------------------------------------------------ messages

    def _message(self, request: Request, incoming: Incoming) -> None:
        producer = self._producer
        assert producer is not None
        dataset = request.op == OpCode.TRANSFER_DATASET_DATA
        if request.path == FINISH_NAME and not dataset:
            self._finish(producer, request, incoming)
            return
        if dataset and not (request.custom[1] and request.custom[2]):
            raise BadInput("a dataset of size 0, or substream 0, is not possible")
        message = Message(
            producer.source,
            request.stream,
            request.id,
            request.path,
            request.data_size,
            request.custom[0],
            incoming.meta,
            request.custom[1] if dataset else 0,
            request.custom[2] if dataset else 0,
        )
        put = self._services.ingest.begin(producer, message, incoming.payload_nbytes, self._resume)
        if isinstance(put, Wait):
            self._wait()
            return
        self._waiting_until = 0.0
        self._put = put
        if put.memory is not None:
            self._session.take(put.memory)
        else:
            self._session.skip()
            self._answering = True
            put.complete(self._answered)

    def _finish(self, producer: Producer, request: Request, incoming: Incoming) -> None:
        if incoming.payload_nbytes:
            raise BadInput("a finish flag has no data")
        if not request.id:
            raise BadInput("a finish flag needs the id behind the last one")
        next_stream = parse_finish_meta(incoming.meta)
        self._session.skip()
        self._answering = True
        try:
            self._services.ingest.finish(
                producer,
                producer.source,
                request.stream,
                request.id - 1,
                next_stream,
                self._answered,
            )
        except Error as error:
            self._reply(*self._told(error))

    def _answered(self, answer: Answer) -> None:
        self._put = None
        if answer.error is not None:
            self._services.stats.refused += 1
            code, text = self._told(answer.error)
            self._reply(code, text)
        elif answer.duplicate:
            self._reply(Code.WARNING, f"ignoring duplicate record for id {answer.id}")
        else:
            self._reply(Code.SUCCESS)
        self._go_on()

    # ------------------------------------------------------------------ waiting for room

    def _wait(self) -> None:
        now = self._loop.time()
        if not self._waiting_until:
            self._waiting_until = now + limits.CACHE_WAIT_SECONDS_MAX
            self._loop.call_at(self._waiting_until, self._waited_long)
        self._pause()

    def _resume(self) -> None:
        if not self._closed and self._incoming is not None and self._waiting_until:
            self._begin(self._incoming)
            if not self._waiting_until:
                self._go_on_reading()

    def _waited_long(self) -> None:
        if self._waiting_until and self._loop.time() >= self._waiting_until and not self._closed:
            self._waiting_until = 0.0
            self._services.ingest.give_up(self._resume)
            error = CacheFull(f"no room in the cache for {limits.CACHE_WAIT_SECONDS_MAX:g} s")
            self._refuse(*self._told(error))
            self._go_on_reading()

    def _go_on_reading(self) -> None:
        if not (self._answering or self._session.deciding):
            self._unpause()
        self._go_on()

    # ------------------------------------------------------------------ login

    def _login(self, request: Request, text: bytes) -> None:
        if self._producer is not None:
            self._refuse(Code.AUTHORIZATION_ERROR, _not_authorized("already authorized"))
            return
        version = parse_version(request.version)
        if version > _NEWEST:
            self._refuse(
                Code.NOT_SUPPORTED,
                f"error: client version not supported, details: client:{request.version}, "
                f"server:v{_NEWEST[0]}.{_NEWEST[1]}",
            )
            return
        credentials = parse_credentials(text, request.version)
        grant = self._services.authorizer.grant(credentials.token)
        check_access(grant, "writeraw" if credentials.raw else "write")
        for name in (credentials.source, credentials.instance, credentials.step):
            self._services.check_name(name)
        who = Who(
            instance=credentials.instance,
            step=credentials.step,
            address=self._address,
            token_id=grant.token_id,
        )
        self._session.skip()
        self._answering = True
        # Where the folders of a beamtime are looked up, a file system may be slow.
        self._services.in_thread(
            partial(self._find_beamtime, credentials, grant),
            partial(self._enter, credentials, grant, who),
        )

    def _find_beamtime(self, credentials: Credentials, grant: Grant) -> BeamtimeFolders:
        """In a thread."""
        folders = self._services.beamtimes.resolve(
            credentials.beamtime, credentials.beamline, grant
        )
        self._services.make_records(folders.beamtime)
        return folders

    def _enter(
        self,
        credentials: Credentials,
        grant: Grant,
        who: Who,
        folders: BeamtimeFolders | Error,
    ) -> None:
        """The beamtime of a login is known."""
        if self._closed:
            return
        member = f"{grant.token_id} {who.instance}"
        if isinstance(folders, NotFound):
            self._reply(Code.AUTHORIZATION_ERROR, _not_authorized(str(folders)))
        elif isinstance(folders, Error):
            self._reply(*self._told(folders))
        elif not self._admission.join(member):
            self._reply(Code.INTERNAL_ERROR, "too many connections of one instance")
        else:
            self._member = member
            self._grant = grant
            self._session.trusted = True
            self._producer = Producer(folders, credentials.source, credentials.raw, who)
            self._credentials = credentials
            self._meant_at = self._loop.time()
            if self._deadline is not None:
                self._deadline.cancel()
            self._watch()
            self._reply(Code.SUCCESS)
        self._go_on()

    def _has_moved(self) -> bool:
        """Whether "auto" means another beamtime by now (asked every ten seconds)."""
        credentials, producer, grant = self._credentials, self._producer, self._grant
        assert credentials is not None
        assert producer is not None
        assert grant is not None
        now = self._loop.time()
        if credentials.beamtime != AUTO or now - self._meant_at < limits.MEANT_SECONDS:
            return False
        self._meant_at = now
        meant = self._services.beamtimes.meant(credentials.beamtime, credentials.beamline, grant)
        return meant != producer.beamtime

    def _login_is_late(self) -> None:
        log.warning("no login", peer=self._address)
        self._transport.abort()

    # ------------------------------------------------------------------ metadata

    def _begin_metadata(self, incoming: Incoming) -> None:
        if not incoming.payload_nbytes:
            raise BadInput("metadata is empty")
        meta_target(incoming.request)
        meta_mode(incoming.request)
        assert self._producer is not None
        document = self._services.ingest.document(
            self._producer, incoming.payload_nbytes, self._resume
        )
        if isinstance(document, Wait):
            self._wait()
            return
        self._waiting_until = 0.0
        self._document = document
        self._session.take(self._services.ingest.view_of(document))

    def _write_metadata(self, request: Request) -> None:
        producer, document = self._producer, self._document
        assert producer is not None
        assert document is not None
        self._document = None
        text = bytes(self._services.ingest.view_of(document))
        self._services.ingest.drop(document)
        mode, upsert = meta_mode(request)
        op = Meta(producer.source, meta_target(request), MetaMode(mode), upsert, text)
        self._answering = True
        try:
            self._services.ingest.write_meta(producer, op, self._answered)
        except Error as error:
            self._reply(*self._told(error))

    # ------------------------------------------------------------------ questions (21.12)

    def _ask(self, request: Request) -> None:
        """Operations 4, 5, 9 and 10, which newer clients ask the broker for."""
        producer = self._producer
        assert producer is not None
        reads, streams = self._services.reads, self._services.streams
        self._session.skip()
        if request.op == OpCode.DELETE_STREAM:
            self._delete(producer, request)
            return
        if request.op == OpCode.GET_META:
            meta = reads.meta(producer.beamtime, producer.source, request.stream) or b""
            self._reply_text(meta)
            return
        if request.op == OpCode.STREAM_INFO:
            self._services.check_stream(request.stream)
            info = streams.view(producer.beamtime, producer.source, request.stream).info()
        else:
            infos = reads.streams(producer.beamtime, producer.source)
            info = infos[-1] if infos else self._services.no_stream
        self._reply_text(stream_document(info))

    def _reply_text(self, text: bytes) -> None:
        if len(text) >= 1024:
            self._reply(Code.WRONG_REQUEST, "the answer does not fit into 1023 bytes")
        else:
            self._reply(Code.SUCCESS, text.decode())

    def _delete(self, producer: Producer, request: Request) -> None:
        with_meta, must_exist = bool(request.custom[0] & 1), bool(request.custom[0] & 2)
        view = self._services.streams.view(producer.beamtime, producer.source, request.stream)
        self._answering = True

        def done(error: Error | None) -> None:
            if isinstance(error, NotFound):
                error = BadInput(error.message) if must_exist else None
            self._answered(Answer(error=error))

        self._services.delete_stream(view, with_meta=with_meta, done=done)

    # ------------------------------------------------------------------ answers

    def _told(self, error: Error) -> tuple[int, str]:
        """What the producer is told of an error, which is counted."""
        self._services.stats.failed(error)
        return _code_of(error)

    def _refuse(self, code: int, text: str) -> None:
        """Answer with an error once the payload that follows has been dropped."""
        incoming = self._incoming
        assert incoming is not None
        self._waiting_until = 0.0
        self._services.stats.refused += 1
        if not self._session.deciding:
            self._reply(code, text)
        elif incoming.payload_nbytes:
            self._refusal = (code, text)
            self._session.discard()
        else:
            self._session.skip()
            self._reply(code, text)

    def _reply(self, code: int, text: str = "") -> None:
        incoming, self._incoming = self._incoming, None
        self._answering = False
        if self._closed or incoming is None:
            return
        self._transport.write(pack_reply(incoming.request.op, code, text))
        if (
            code == Code.REAUTHORIZE
            or (code == Code.AUTHORIZATION_ERROR and not self._producer)
            or self._services.stopping
        ):
            self._transport.close()
        else:
            self._unpause()

    def _drop(self, error: Error, reply: bytes = b"") -> None:
        """Close the connection: what follows cannot be understood any more."""
        log.warning("connection dropped", peer=self._address, reason=str(error))
        if reply:
            self._transport.write(reply)
        self._closed = True
        self._pause()
        self._transport.close()

    def _pause(self) -> None:
        if not self._paused and not self._closed:
            self._paused = True
            self._transport.pause_reading()

    def _unpause(self) -> None:
        if self._paused and not self._closed:
            self._paused = False
            self._transport.resume_reading()

    # ------------------------------------------------------------------ deadlines

    def _watch(self) -> None:
        """Cut off a peer that stops in the middle of a request; idle ones may stay for ever."""
        owes = not (self._session.idle or self._answering or self._paused)
        if owes and self._seen_nbytes == self._stalled_at:
            log.warning("peer stopped in the middle of a message", peer=self._address)
            self._transport.abort()
            return
        self._stalled_at = self._seen_nbytes if owes else -1
        # Looked at twice within the time: one that has just stopped has at least half of it.
        self._deadline = self._loop.call_later(limits.STALL_SECONDS_MAX / 2, self._watch)


_SAME_ID = "error: Bad request, message: already have record with same id"

_BY_ERROR: tuple[tuple[type[Error], int, Callable[[Error], str]], ...] = (
    (BadToken, Code.AUTHORIZATION_ERROR, lambda error: _not_authorized(error.message)),
    (Denied, Code.AUTHORIZATION_ERROR, lambda error: _not_authorized(error.message)),
    (NotFound, Code.WRONG_REQUEST, lambda error: _bad_request(error)),
    (BadInput, Code.WRONG_REQUEST, lambda error: _bad_request(error)),
    (IdConflict, Code.WRONG_REQUEST, lambda error: _SAME_ID),
    (Conflict, Code.WRONG_REQUEST, lambda error: _bad_request(error)),
    (ProtocolError, Code.WRONG_REQUEST, lambda error: _bad_request(error)),
    (Overload, Code.INTERNAL_ERROR, str),
    (StorageError, Code.INTERNAL_ERROR, str),
)


def _code_of(error: Error) -> tuple[int, str]:
    """The reply to a request that ended in `error` (protocol section 5.4)."""
    for kind, code, text in _BY_ERROR:
        if isinstance(error, kind):
            return code, text(error)
    return Code.INTERNAL_ERROR, str(error)


def _not_authorized(text: str) -> str:
    return f"error: authorization failure, message: {text}"


def _bad_request(error: Error) -> str:
    return f"error: Bad request, message: {error}"
