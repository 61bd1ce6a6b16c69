"""Questions of native clients, and their answers (`wire.native.calls`).

What is known at once is answered at once. What may wait for a disk, or takes long, runs as a task
with its work in a thread; searches few at a time, of all connections together.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from beamstream import limits
from beamstream._version import __version__
from beamstream.errors import BadInput, Error, RemoteProtocolError
from beamstream.model import StreamInfo, check_label
from beamstream.server.auth import ADMIN, Grant, check_access
from beamstream.server.doors.native_outlet import Loads
from beamstream.server.doors.native_reads import Reading
from beamstream.server.doors.native_runs import Tracing
from beamstream.server.made import Along, check_settles, check_skips
from beamstream.server.messages import Answer, Producer
from beamstream.server.streams import View
from beamstream.store import catalog as ops
from beamstream.wire.native import calls, frames, sampling

if TYPE_CHECKING:
    from beamstream.server.doors.native import NativeConnection

log = structlog.get_logger("native")

_META_MODES = {mode.name.lower(): mode for mode in ops.MetaMode}


class Asked:
    """One question; it is answered once, by `reply` or `fail`."""

    __slots__ = ("calls", "number", "params")

    def __init__(self, asker: Calls, number: int, params: Any) -> None:
        self.calls = asker
        self.number = number
        self.params = params

    def reply(self, result: object = None) -> None:
        self.calls.answered(frames.Reply(self.number, calls.encode(result)))

    def fail(self, error: Error) -> None:
        self.calls.services.stats.failed(error)
        self.calls.answered(frames.CallFailed(self.number, error.code, error.message, error.hint))

    def done(self, error: Error | None) -> None:
        """The answer to what has no result."""
        if error is None:
            self.reply()
        else:
            self.fail(error)


class Calls:
    """The questions of one connection."""

    def __init__(
        self,
        connection: NativeConnection,
        grant: Grant,
        producer: Producer | None,
        loads: Loads,
    ) -> None:
        self._connection = connection
        self.services = connection.services
        self.beamtime = connection.beamtime
        self._grant = grant
        self._producer = producer
        self._loads = loads
        self._open = 0
        self._too_late: dict[int, Error] = {}
        """Of acknowledgements that asked for no answer, by channel."""
        reading = Reading(self.services, self.beamtime, connection.sender, loads)
        tracing = Tracing(self.services, self.beamtime)
        self._now: dict[str, Callable[[Asked], None]] = {
            "finish": self._finish,
            "skip": self._skip,
            "meta.set": self._set_meta,
            "meta.get": self._get_meta,
            "sources": self._sources,
            "streams": self._streams,
            "stream": self._stream,
            "group": self._group,
            "groups": self._groups,
            "group.seek": self._seek,
            "group.delete": self._delete_group,
            "group.redeliver": self._redeliver,
            "server": self._server,
            "join": self._join,
            "late": self._late,
            "header": tracing.header,
            "run.define": tracing.define,
            "run": tracing.run,
            "stats": self._stats,
            "session.end": self._end_session,
            "beamtimes": self._beamtimes,
        }
        self._later: dict[str, Callable[[Asked], Coroutine[None, None, None]]] = {
            "stream.delete": self._delete_stream,
            "fetch": reading.fetch,
            "last": reading.last,
            "search": reading.search,
            "gaps": reading.gaps,
            "verify": reading.verify,
            "group.dead": reading.dead,
            "runs": tracing.runs,
            "origin": tracing.origin,
            "copy": tracing.copy,
            "measure": tracing.measure,
            "group.reopen": tracing.reopen,
        }

    # ------------------------------------------------------------------ asking and answering

    def take(self, frame: frames.Call) -> None:
        """Answer a question, now or later."""
        self._begin()
        try:
            params = calls.decode_params(frame.method, frame.params)
            check_access(self._grant, "write" if frame.method in calls.WRITES else "read")
            asked = Asked(self, frame.number, params)
            now = self._now.get(frame.method)
            later = self._later.get(frame.method)
            if now is not None:
                now(asked)
            elif later is not None:
                self._loads.run(self._ended(later(asked), asked))
            else:
                raise RemoteProtocolError(f"method {frame.method!r} is not known here")
        except Error as error:
            Asked(self, frame.number, None).fail(error)

    def settled(
        self, channel: int, number: int, *, acknowledges: bool
    ) -> Callable[[Error | None], None]:
        """What is to be called with the outcome of a (negative) acknowledgement.

        The next acknowledgement that asks for an answer has it for those that did not ask, too.
        """
        if not number:
            return self._told(channel, acknowledges)
        self._begin()
        if not acknowledges:
            return Asked(self, number, None).done
        done = Asked(self, number, None).done

        def answered(error: Error | None) -> None:
            done(self._too_late.pop(channel, None) or error)

        return answered

    def _told(self, channel: int, acknowledges: bool) -> Callable[[Error | None], None]:
        def told(error: Error | None) -> None:
            # Not a fault of the channel: what was acknowledged too late comes again.
            if error is not None and acknowledges:
                self._too_late[channel] = error
            elif error is not None:
                log.debug("a negative acknowledgement failed", channel=channel, reason=str(error))

        return told

    def forget(self, channel: int) -> None:
        """A subscription has ended."""
        self._too_late.pop(channel, None)

    def answered(self, frame: frames.Reply | frames.CallFailed) -> None:
        """A question has its answer, by this frame."""
        self._connection.sender.send(frame)
        self.ended()

    def ended(self) -> None:
        self._open -= 1
        if self._open == limits.NATIVE_CALLS_MAX - 1:
            self._connection.unpause("calls")

    def _begin(self) -> None:
        self._open += 1
        if self._open == limits.NATIVE_CALLS_MAX:
            self._connection.pause("calls")

    async def _ended(self, work: Coroutine[None, None, None], asked: Asked) -> None:
        try:
            await work
        except Error as error:
            asked.fail(error)

    # ------------------------------------------------------------------ writing

    def _who(self, params: calls.OfStream) -> Producer:
        check_label("source", params.source)
        assert self._producer is not None
        return self._producer

    def _finish(self, asked: Asked) -> None:
        params: calls.Finish = asked.params
        producer = self._who(params)
        view = self._view(params)
        last_id = params.last_id if params.last_id >= 0 else view.max_id

        def reply(answer: Answer) -> None:
            if answer.error is not None:
                asked.fail(answer.error)
            else:
                asked.reply(calls.Finished(last_id=last_id, duplicate=answer.duplicate))

        if params.last_id < 0 and view.finished:
            # Asked again, without saying where: it has ended where it has.
            last_id = view.last_id
        self.services.ingest.finish(
            producer, params.source, params.stream, last_id, params.next_stream, reply
        )

    def _skip(self, asked: Asked) -> None:
        params: calls.Skip = asked.params
        self._who(params)
        view = self._view(params)
        count = len(params.ranges)
        if (not count and not params.settles) or count > limits.NATIVE_BATCH_MAX:
            raise BadInput(f"{count} ranges are not possible in one call")
        check_skips(params.ranges)
        check_settles(params.settles)
        services = self.services
        settling = None
        if params.settles:
            settling = services.subscriptions.settle(self._connection, params.settles)
        stream = (self.beamtime, view.source, view.name)
        along = Along(services.streams, stream, params.ranges, settling)
        view.busy += 1

        def submit() -> None:
            services.ingest.submit_safe(self.beamtime, (along.unit(),), done)

        def done(outcome: Sequence[ops.Result] | Error) -> None:
            if along.narrowed(outcome, services.catalog):
                submit()
                return
            view.busy -= 1
            ended = along.ended(outcome)
            if isinstance(ended, Error):
                asked.fail(ended)
            else:
                along.show(asked.done)

        submit()

    def _set_meta(self, asked: Asked) -> None:
        params: calls.SetMeta = asked.params
        producer = self._who(params)
        mode = _META_MODES.get(params.mode)
        if mode is None:
            raise BadInput(
                f"metadata is not written by {params.mode[:20]!r}", hint=", ".join(_META_MODES)
            )
        op = ops.Meta(params.source, params.stream, mode, params.upsert, params.document)
        self.services.ingest.write_meta(producer, op, lambda answer: asked.done(answer.error))

    def _get_meta(self, asked: Asked) -> None:
        params: calls.GetMeta = asked.params
        check_label("source", params.source)
        asked.reply(self.services.reads.meta(self.beamtime, params.source, params.stream))

    async def _delete_stream(self, asked: Asked) -> None:
        params: calls.DeleteStream = asked.params
        self._who(params)
        view = self._view(params)
        reading = Reading(self.services, self.beamtime, self._connection.sender, self._loads)
        records = await reading.files(view) if params.files else []
        deleted: list[Error | None] = []
        ended = self.services.loop.create_future()

        def done(error: Error | None) -> None:
            deleted.append(error)
            if not ended.done():
                ended.set_result(None)

        self.services.delete_stream(view, with_meta=params.meta, done=done)
        await ended
        if deleted[0] is not None:
            raise deleted[0]
        # First the records, then the files: none that is left speaks of a file that is not there.
        count = await reading.remove(view, records)
        asked.reply(calls.Deleted(files=count))

    # ------------------------------------------------------------------ looking

    def _view(self, params: calls.OfStream) -> View:
        check_label("source", params.source)
        check_label("stream", params.stream)
        return self.services.streams.view(self.beamtime, params.source, params.stream)

    def _sources(self, asked: Asked) -> None:
        asked.reply(self.services.reads.sources(self.beamtime))

    def _streams(self, asked: Asked) -> None:
        params: calls.ListStreams = asked.params
        reads = self.services.reads
        sources = [params.source] if params.source else reads.sources(self.beamtime)
        asked.reply(
            [
                row(info)
                for source in sources
                for info in reads.streams(self.beamtime, source)
                if params.pattern == "*" or fnmatch.fnmatchcase(info.name, params.pattern)
            ]
        )

    def _stream(self, asked: Asked) -> None:
        view = self._view(asked.params)
        asked.reply(row(view.info()) if view.exists else None)

    def _server(self, asked: Asked) -> None:
        services = self.services
        cache, puts = services.cache, services.puts
        asked.reply(
            calls.ServerRow(
                software=f"Beamstream {__version__}",
                node=puts.node,
                boot=puts.boot,
                up_s=services.loop.time() - services.began,
                time_ns=time.time_ns(),
                cache_nbytes=cache.nbytes,
                cache_pinned_nbytes=cache.pinned_nbytes,
                cache_slots=cache.slots,
                evicted=cache.evicted,
                disk_free_nbytes=services.disk_free(),
                level=puts.durability,
                connections=services.connections(),
                beamtimes=(self.beamtime,),
            )
        )

    def _stats(self, asked: Asked) -> None:
        params: sampling.GetStats = asked.params
        beamtime = params.beamtime or self.beamtime
        if beamtime != self.beamtime:
            check_access(self._grant, ADMIN)
        asked.reply(self.services.sampling.look(beamtime, streams=params.streams))

    def _beamtimes(self, asked: Asked) -> None:
        everything = ADMIN in self._grant.access
        asked.reply(self.services.catalog.beamtimes() if everything else [self.beamtime])

    def _end_session(self, asked: Asked) -> None:
        params: calls.EndSession = asked.params
        if len(params.session) != limits.SESSION_NBYTES:
            raise BadInput(f"the number of a session has {limits.SESSION_NBYTES} bytes")
        self.services.subscriptions.end_session(self.beamtime, params.session)
        asked.reply()

    # ------------------------------------------------------------------ groups

    def _group(self, asked: Asked) -> None:
        params: calls.GetGroup = asked.params
        asked.reply(self.services.subscriptions.group_row(self._view(params), params.group))

    def _groups(self, asked: Asked) -> None:
        params: calls.ListGroups = asked.params
        asked.reply(
            self.services.subscriptions.group_rows(self.beamtime, params.source, params.stream)
        )

    def _seek(self, asked: Asked) -> None:
        params: calls.Seek = asked.params
        self.services.subscriptions.seek(
            self._view(params), params.group, params.to, params.at, _answer(asked)
        )

    def _delete_group(self, asked: Asked) -> None:
        params: calls.DeleteGroup = asked.params
        self.services.subscriptions.delete_group(
            self.beamtime, params.group, params.source, params.stream, asked.done
        )

    def _redeliver(self, asked: Asked) -> None:
        params: calls.Redeliver = asked.params
        self.services.subscriptions.redeliver(
            self._view(params), params.group, params.ranges, _answer(asked)
        )

    # ------------------------------------------------------------------ joins

    def _join(self, asked: Asked) -> None:
        params: calls.Join = asked.params
        self.services.joins.define(
            self.beamtime, params.source, params.stream, params.inputs, asked.done
        )

    def _late(self, asked: Asked) -> None:
        params: calls.Late = asked.params
        asked.reply(self.services.joins.late(self._view(params), params.limit))


def _answer(asked: Asked) -> Callable[[Any], None]:
    def answer(result: Any) -> None:
        if isinstance(result, Error):
            asked.fail(result)
        else:
            asked.reply(result)

    return answer


def row(info: StreamInfo) -> calls.StreamRow:
    """A stream as the wire describes it."""
    return calls.StreamRow(
        source=info.source,
        stream=info.name,
        count=info.count,
        seq=info.last_seq,
        max_id=info.max_id,
        last_id=info.last_id,
        next_stream=info.next_stream,
        created_ns=info.created_ns,
        last_ns=info.last_ns,
        datasets=info.datasets,
        skipped=info.skipped,
    )
