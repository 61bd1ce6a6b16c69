"""What a client does on its connection once it is known: writers, subscriptions, calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from beamstream import limits
from beamstream.errors import (
    BadInput,
    Error,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    TooMany,
)
from beamstream.server.auth import Grant, check_access
from beamstream.server.doors.native_calls import Calls
from beamstream.server.doors.native_outlet import Loads
from beamstream.server.ingest import Wait
from beamstream.server.made import Settling
from beamstream.server.messages import Producer
from beamstream.server.put_checks import check_put
from beamstream.server.put_jobs import Job, Writer
from beamstream.store.cache import Slot
from beamstream.wire.native import frames

if TYPE_CHECKING:
    from beamstream.server.doors.native import NativeConnection

_SUBSCRIPTION: Final = None


class Channels:
    """Writers and subscriptions of one connection, and its questions."""

    def __init__(
        self,
        connection: NativeConnection,
        grant: Grant,
        producer: Producer | None,
        loads: Loads,
    ) -> None:
        self._connection = connection
        self._services = connection.services
        self._sender = connection.sender
        self._grant = grant
        self._producer = producer
        self._open: dict[int, Writer | None] = {}
        self._calls = Calls(connection, grant, producer, loads)
        self._receipts: list[frames.Receipt] = []
        self._scheduled = False
        self._take: dict[type, Callable[[Any], None]] = {
            frames.OpenWriter: self._open_writer,
            frames.CloseWriter: self._close_writer,
            frames.WantMemory: self._want_memory,
            frames.Subscribe: self._subscribe,
            frames.Unsubscribe: self._unsubscribe,
            frames.Credit: self._credit,
            frames.Ack: self._ack,
            frames.Nack: self._nack,
            frames.Extend: self._extend,
            frames.ReturnMemory: self._return_memory,
            frames.Unpin: self._unpin,
            frames.HeldPins: self._held_pins,
            frames.Call: self._calls.take,
            frames.Pong: lambda frame: None,
        }

    def take(self, frame: frames.Frame) -> None:
        """Do what a frame asks for; `RemoteProtocolError` if clients do not send such."""
        take = self._take.get(type(frame))
        if take is None:
            raise RemoteProtocolError(f"{type(frame).__name__} is not a frame of clients")
        take(frame)

    def close(self) -> None:
        """The connection is gone; puts that were received go on."""
        self._services.subscriptions.disconnected(self._connection)
        self._open.clear()

    # ------------------------------------------------------------------ writing

    def _open_writer(self, frame: frames.OpenWriter) -> None:
        try:
            check_access(self._grant, "writeraw" if frame.raw else "write")
            assert self._producer is not None
            producer = msgspec.structs.replace(self._producer, source=frame.source, raw=frame.raw)
            writer = self._services.puts.open(frame, producer, self)
            self._enter(frame.channel, writer)
        except Error as error:
            self._failed(frame.channel, error)

    def _close_writer(self, frame: frames.CloseWriter) -> None:
        if self._open.get(frame.channel) is not None:
            del self._open[frame.channel]
            self._services.shared.close_writer(self._connection.session, frame.channel)

    def begin_put(
        self, frame: frames.Put, body_nbytes: int, resume: Callable[[], None]
    ) -> Job | Wait:
        """Take a put.

        Raises
        ------
        Error : it is refused; its body is to be dropped.
        """
        writer = self._open.get(frame.channel)
        if writer is None:
            raise NotFound(
                f"channel {frame.channel} is not open for writing", hint="OpenWriter comes first"
            )
        if frame.place is not None:
            return self._services.puts.begin(writer, frame, 0, resume, self._granted(frame))
        return self._services.puts.begin(writer, frame, body_nbytes, resume)

    def _granted(self, frame: frames.Put) -> Slot:
        """The slot that the client has filled. If the put is refused, it is free again."""
        assert frame.place is not None
        shared, session = self._services.shared, self._connection.session
        try:
            check_put(frame, 0)
            return shared.take(session, frame.channel, frame.place, sum(frame.sizes))
        except Error:
            shared.give_back(session, frame.channel, (frame.place.generation,))
            raise

    def refuse_put(self, frame: frames.Put, error: Error) -> None:
        self._services.stats.failed(error)
        count = max(1, min(frame.count, limits.NATIVE_BATCH_MAX))
        self.refused(
            frames.Failed(
                frame.channel, frame.sequence, count, error.code, error.message, error.hint
            )
        )

    def refused(self, frame: frames.Failed) -> None:
        self._sender.send(frame)

    def settle(self, settles: tuple[frames.Settle, ...]) -> Settling:
        """By whatever connection the leases came, as long as it is of this session."""
        return self._services.subscriptions.settle(self._connection, settles)

    def receipt(self, frame: frames.Receipt) -> None:
        """Receipts of one turn of the loop that follow each other become one."""
        if self._receipts:
            last = self._receipts[-1]
            if (
                last.channel == frame.channel
                and last.sequence + last.count == frame.sequence
                and last.level == frame.level
                and last.duplicate == frame.duplicate
                and last.ids is None
                and frame.ids is None
                and last.id + last.count == frame.id
                and (frame.duplicate or last.seq + last.count == frame.seq)
            ):
                count = last.count + frame.count
                self._receipts[-1] = msgspec.structs.replace(last, count=count)
                return
        self._receipts.append(frame)
        if not self._scheduled:
            self._scheduled = True
            self._services.loop.call_soon(self.flush_receipts)

    def flush_receipts(self) -> None:
        """Send the receipts that were gathered."""
        self._scheduled = False
        receipts, self._receipts = self._receipts, []
        for receipt in receipts:
            self._sender.send(receipt)
        self._sender.flush()

    def _want_memory(self, frame: frames.WantMemory) -> None:
        if self._open.get(frame.channel) is not None:
            shared = self._services.shared
            shared.want(self._connection.session, frame, self._sender.send)

    def _return_memory(self, frame: frames.ReturnMemory) -> None:
        shared = self._services.shared
        shared.give_back(self._connection.session, frame.channel, frame.generations)

    def _unpin(self, frame: frames.Unpin) -> None:
        self._services.shared.unpin(self._connection.session, frame.pins)

    def _held_pins(self, frame: frames.HeldPins) -> None:
        self._services.shared.still_held(self._connection.session, frame.pins)

    # ------------------------------------------------------------------ subscriptions

    def _subscribe(self, frame: frames.Subscribe) -> None:
        try:
            check_access(self._grant, "read")
            self._enter(frame.channel, _SUBSCRIPTION)
            try:
                self._services.subscriptions.open(self._connection, frame)
            except Error:
                del self._open[frame.channel]
                raise
        except Error as error:
            self._failed(frame.channel, error)

    def _unsubscribe(self, frame: frames.Unsubscribe) -> None:
        if frame.channel in self._open:
            del self._open[frame.channel]
            self._calls.forget(frame.channel)
            self._services.subscriptions.close(self._connection, frame.channel)

    def _credit(self, frame: frames.Credit) -> None:
        if frame.messages < 0 or frame.nbytes < 0:
            raise RemoteProtocolError("credit cannot be taken back")
        if frame.channel in self._open:
            self._services.subscriptions.credit(self._connection, frame)

    def _ack(self, frame: frames.Ack) -> None:
        self._settle(frame.channel, frame.call, self._services.subscriptions.ack, frame)

    def _nack(self, frame: frames.Nack) -> None:
        self._settle(frame.channel, frame.call, self._services.subscriptions.nack, frame)

    def _settle(self, channel: int, call: int, settle: Callable[..., None], frame: Any) -> None:
        acknowledges = isinstance(frame, frames.Ack)
        answer = self._calls.settled(channel, call, acknowledges=acknowledges)
        if channel not in self._open:
            if call:
                answer(NotFound(f"channel {channel} is not a subscription"))
            return
        try:
            settle(self._connection, frame, answer)
        except Error as error:
            answer(error)

    def _extend(self, frame: frames.Extend) -> None:
        if frame.channel not in self._open:
            return
        try:
            self._services.subscriptions.extend(self._connection, frame)
        except Error as error:
            # The delivery has expired: its acknowledgement will be told the same.
            self._failed(frame.channel, error)

    # ------------------------------------------------------------------ channels

    def _enter(self, channel: int, what: Writer | None) -> None:
        if channel < 1:
            raise BadInput(f"channel {channel} is not possible", hint="they begin at 1")
        if channel in self._open:
            raise LocalProtocolError(f"channel {channel} is in use")
        if len(self._open) >= limits.NATIVE_CHANNELS_MAX:
            raise TooMany(f"{limits.NATIVE_CHANNELS_MAX} channels of one connection are in use")
        self._open[channel] = what

    def _failed(self, channel: int, error: Error) -> None:
        self._services.stats.failed(error)
        self._sender.send(frames.Failed(channel, 0, 0, error.code, error.message, error.hint))
