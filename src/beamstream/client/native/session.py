"""One session with a node: what is under way, whatever becomes of the connection. Pure.

::

    DOWN --connected()--> GREETING --Welcome--> UP --lost()--> DOWN
      any --fail(error)--> OVER

`take` says what is to be sent next, `receive` takes what has come. Nothing is given up when a
connection is lost: puts without a receipt, subscriptions with the leases that are held, and calls
that may be asked twice go on with the next one.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from beamstream import limits
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.asking import Asked, Asking
from beamstream.client.native.faults import fault
from beamstream.client.native.incoming import Incoming
from beamstream.client.native.lending import AHEAD_NBYTES, Lending
from beamstream.client.native.origins import Held
from beamstream.client.native.outgoing import SMALL_NBYTES, Buffer, Fate, Outgoing, Run
from beamstream.client.native.packing import digests_of
from beamstream.errors import BadInput, Error, LocalProtocolError, TooMany
from beamstream.wire.native import calls, frames
from beamstream.wire.native.frames import (
    CallFailed,
    Deliver,
    End,
    Failed,
    Frame,
    Gap,
    Goodbye,
    Grant,
    Header,
    HeldPins,
    Hello,
    OpenWriter,
    Ping,
    Pong,
    Receipt,
    Reply,
    Settled,
    StreamOpened,
    Subscribe,
    Unpin,
    Unsubscribe,
    Welcome,
)

Listener = Callable[[], None]
PUTS_AT_ONCE: Final = 16
"""Without bodies: more than there are mostly under way."""


def nobody() -> None:
    """Listens to nothing."""


class LifeLine(Protocol):
    """What a session needs to know of views of shared memory (`arenas.LifeLine`)."""

    def held(self) -> tuple[int, ...]: ...

    def due_at(self) -> float | None: ...

    def take_gone(self) -> tuple[int, ...]: ...


class State(enum.Enum):
    DOWN = enum.auto()
    GREETING = enum.auto()
    UP = enum.auto()
    OVER = enum.auto()


class Session:
    """The client's side of a session.

    Parameters
    ----------
    hello : first frame of each connection.
    listener : called when the state changes.

    >>> session = Session(Hello("beamstream", 1, "token", "demo", bytes(16)), nobody)
    >>> session.connected()
    >>> session.take(0.0) is not None, session.take(0.0), session.state.name
    (True, None, 'GREETING')
    """

    def __init__(self, hello: Hello, listener: Listener) -> None:
        self.hello = hello
        self.listener = listener
        self.state = State.DOWN
        self.welcome: Welcome | None = None
        self.error: Error | None = None
        self.pongs: dict[int, int] = {}
        self._control: deque[Frame] = deque()
        self._writers: dict[int, Outgoing] = {}
        self._readers: dict[int, Incoming] = {}
        self.asking = Asking()
        self._number = 0
        self._goodbye: Goodbye | None = None
        self._turn: deque[Outgoing] = deque()
        self.lending = Lending()
        self.more = False
        """What was taken last may not have been all that is due."""
        self.line: LifeLine | None = None

    # ------------------------------------------------------------------ connection

    def connected(self) -> None:
        """There is a connection: the node is greeted."""
        self.state = State.GREETING
        self._control.clear()
        self._control.append(self.hello)

    def lost(self) -> None:
        """The connection is gone."""
        if self.state is State.OVER:
            return
        was_up = self.state is State.UP
        self.state = State.DOWN
        self._control.clear()
        self.lending.lost()
        for writer in self._writers.values():
            writer.lost()
            # Who waits for memory of the node has to look for another way.
            writer.listener()
        for reader in self._readers.values():
            reader.lost()
        self.asking.lost(was_up=was_up)
        self.listener()

    def fail(self, error: Error) -> None:
        """Nothing goes on after this."""
        if self.state is State.OVER:
            return
        self.state, self.error = State.OVER, error
        self._control.clear()
        for writer in list(self._writers.values()):
            writer.fail(error)
        for reader in list(self._readers.values()):
            reader.fail(error)
        self.asking.fail(error)
        self.listener()

    def _greeted(self, frame: Welcome, now: float) -> None:
        if self.state is not State.GREETING:
            raise LocalProtocolError("the node said welcome twice")
        self.welcome, self.state = frame, State.UP
        self.lending.ahead_nbytes = min(AHEAD_NBYTES, frame.cache_payload_nbytes_max // 4)
        if self.line is not None:
            self.line.take_gone()
            self._control.append(HeldPins(self.line.held()))
        for writer in self._writers.values():
            writer.batch_max = max(1, min(frame.batch_max, limits.NATIVE_BATCH_MAX))
            writer.window_nbytes = frame.window_nbytes
            self._control.append(writer.opening)
        for reader in self._readers.values():
            self._control.append(reader.subscribe(now))
        self._control.extend(self.asking.again())
        self.listener()

    # ------------------------------------------------------------------ asking for things

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def open_writer(self, opening: OpenWriter, listener: Listener) -> Outgoing:
        """Begin to write; `opening.channel` is filled in."""
        self._check_channels()
        opening = msgspec.structs.replace(opening, channel=self.next_number())
        welcome = self._greeting()
        writer = Outgoing(
            opening, listener, batch_max=welcome.batch_max, window=welcome.window_nbytes
        )
        self._writers[opening.channel] = writer
        self._turn.append(writer)
        self._say(opening)
        return writer

    def close_writer(self, writer: Outgoing) -> None:
        if self._writers.pop(writer.opening.channel, None) is not None:
            self._turn.remove(writer)
            self.lending.close(writer.opening.channel)
            self._say(writer.close())

    def open_reader(
        self, asked: Subscribe, listener: Listener, now: float, *, messages: int, nbytes: int
    ) -> Incoming:
        """Subscribe; `asked.channel` is filled in."""
        self._check_channels()
        asked = msgspec.structs.replace(asked, channel=self.next_number())
        reader = Incoming(asked, listener, messages=messages, nbytes=nbytes)
        self._readers[asked.channel] = reader
        if self.state is State.UP:
            self._control.append(reader.subscribe(now))
        return reader

    def close_reader(
        self, reader: Incoming, now: float, run: Arrived | None = None, seen: int = 0
    ) -> None:
        """End a subscription; of `run`, the one in hand, the first `seen` items were looked at.

        The node is told when nothing more is on its way with leases of it.
        """
        if reader.left:
            return
        reader.left = True
        if self.state is State.UP or reader.settlings:
            reader.leave(run, seen)
            self.say_for(reader, now, all_of_it=True)
        if reader.settlings:
            reader.on_answered = lambda: self._unsubscribe(reader, now)
        else:
            self._unsubscribe(reader, now)

    def _unsubscribe(self, reader: Incoming, now: float) -> None:
        reader.gone = True
        if self._readers.pop(reader.asked.channel, None) is not None:
            self.say_for(reader, now, all_of_it=True)
            self.say(Unsubscribe(reader.asked.channel))

    def ask(self, params: calls.Params, listener: Listener, *, held: Sequence[Held] = ()) -> Asked:
        """Ask the node something; with `held`, those leases are settled with it.

        Raises
        ------
        TooMany : as many questions as may be are not answered yet.
        """
        self._check()
        self.check_held(held)
        asked = self.asking.add(self.next_number(), params, listener, held)
        if self.state is State.UP:
            self._control.extend(self.asking.begin(asked))
        return asked

    def check_held(self, held: Sequence[Held]) -> None:
        """Raise `BadInput` if leases are not of this session."""
        for one in held:
            reader = one.reader
            if not reader.gone and self._readers.get(reader.asked.channel) is not reader:
                raise BadInput(
                    f"what is to be settled in stream {one.stream!r} was read over another "
                    "connection",
                    hint="publish with the hub that the group was read with",
                )

    def say(self, *what: Frame) -> None:
        """Send frames that mean nothing to a later connection."""
        if self.state is State.UP:
            self._control.extend(what)

    def say_for(self, reader: Incoming, now: float, *, all_of_it: bool = False) -> None:
        """Send what a subscription has to tell."""
        if self.state is State.UP:
            self._control.extend(reader.tell(now, self.next_number, all_of_it=all_of_it))

    def _say(self, frame: Frame) -> None:
        self._check()
        self.say(frame)

    def _check(self) -> None:
        if self.error is not None:
            raise type(self.error)(self.error.message, hint=self.error.hint)

    def _check_channels(self) -> None:
        self._check()
        if len(self._writers) + len(self._readers) >= limits.NATIVE_CHANNELS_MAX:
            raise TooMany(
                f"this connection has {limits.NATIVE_CHANNELS_MAX} writers and readers",
                hint="close some, or connect once more",
            )

    def _greeting(self) -> Welcome:
        if self.welcome is None:
            raise LocalProtocolError("nothing can be opened before the node has said welcome")
        return self.welcome

    # ------------------------------------------------------------------ sending

    def due(self, now: float) -> bool:
        """Whether `take` has something to send."""
        if self._control:
            return True
        if self.state is not State.UP:
            return False
        if self.line is not None and (self.line.due_at() or now + 1) <= now:
            return True
        if self.asking.due(now):
            return True
        for writer in self._turn:
            if writer.due(now):
                return True
        for reader in self._readers.values():
            at = reader.due_at()
            if at is not None and at <= now:
                return True
        return False

    def wake_at(self) -> float | None:
        """When `due` may become true by itself."""
        if self.state is not State.UP:
            return None
        times = [writer.due_at() for writer in self._turn]
        times.append(self.asking.due_at())
        times += [reader.due_at() for reader in self._readers.values()]
        if self.line is not None:
            times.append(self.line.due_at())
        return min((at for at in times if at is not None), default=None)

    def take(self, now: float) -> list[Buffer] | None:
        """The next thing to send, as buffers; None when there is nothing.

        There may be `more` then.
        """
        if self.state is State.UP:
            for reader in self._readers.values():
                at = reader.due_at()
                if at is not None and at <= now:
                    self._control.extend(reader.tell(now, self.next_number))
            self._control.extend(self.asking.take(now))
        self.more = False
        heads, body = self._next_puts(now) if self.state is State.UP else ([], ())
        if self.state is State.UP:
            self._let_go(now, anyway=bool(heads or self._control))
        said = [*map(frames.encode, self._control), *heads]
        self._control.clear()
        return [b"".join(said), *body] if said else None

    def _next_puts(self, now: float) -> tuple[list[bytes], Sequence[Buffer]]:
        """Heads of the next puts, of which the last may have a body; writers take turns."""
        heads: list[bytes] = []
        for _ in range(len(self._turn)):
            writer = self._turn[0]
            self._turn.rotate(-1)
            while (run := writer.take(now)) is not None:
                if not self._unchanged(writer, run) or run.put is None:
                    continue
                if run.put.place is None:
                    self.more = True
                    heads.append(frames.encode(run.put, run.nbytes))
                    return heads, run.buffers
                heads.append(frames.encode(run.put))
                if len(heads) >= PUTS_AT_ONCE:
                    self.more = True
                    return heads, ()
        return heads, ()

    def _let_go(self, now: float, *, anyway: bool) -> None:
        """Tell the node of shared memory that nobody looks at any more, when it is time or
        `anyway`."""
        at = self.line.due_at() if self.line is not None else None
        if self.line is not None and at is not None and (anyway or at <= now):
            # First of all: credit that is given back may be used for the same memory.
            self._control.appendleft(Unpin(self.line.take_gone()))

    def _unchanged(self, writer: Outgoing, run: Run) -> bool:
        """What is sent again must be what was sent before; the node may have stored that."""
        run.tries += 1
        if run.tries == 1 or run.nbytes < SMALL_NBYTES or run.put is None:
            return True
        if digests_of(run.put.sizes, run.buffers) in (None, run.put.digests):
            return True
        error = BadInput(
            f"an array of message {run.first} or behind it, of this writer of stream "
            f"{writer.opening.stream!r}, was changed before its receipt had come, and the "
            "connection broke: whether it is stored is not known",
            hint="wait for receipts before arrays are changed, or send copies",
        )
        writer.settle(run.first, run.count, Fate(run.first, error=error))
        return False

    def hurry(self, now: float) -> None:
        """What gathers is to be sent now."""
        for writer in self._turn:
            writer.seal()
        for reader in self._readers.values():
            self.say_for(reader, now, all_of_it=True)

    @property
    def quiet(self) -> bool:
        """Whether nothing that was put waits for its receipt."""
        if self.state is State.OVER:
            return True
        return not self.asking.settles and not any(writer.messages for writer in self._turn)

    # ------------------------------------------------------------------ receiving

    def receive(
        self,
        frame: Frame,
        body: memoryview,
        now: float,
        damaged: dict[int, Error] | None = None,
        views: list[memoryview] | None = None,
    ) -> None:
        """Take a frame and its body.

        Parameters
        ----------
        damaged : payloads that are not as they were sent.
        views : payloads that are in shared memory.
        """
        match frame:
            case Deliver():
                reader = self._readers.get(frame.channel)
                if reader is not None:
                    reader.deliver(frame, body, damaged or {}, now, views)
            case Receipt():
                writer = self._writers.get(frame.channel)
                if writer is not None:
                    writer.receipt(frame)
                    if not writer.messages:
                        self.listener()
            case Reply():
                self._answered(frame, body)
            case CallFailed():
                self._refused(frame)
            case Failed():
                self._failed(frame)
            case StreamOpened() | Gap() | End() | Header() | Settled():
                self._told(frame)
            case Welcome():
                self._greeted(frame, now)
            case Grant():
                self._granted(frame, now)
            case Goodbye():
                self._said_goodbye(frame)
            case Ping():
                self.say(Pong(frame.number))
            case Pong():
                self.pongs[frame.number] = frame.time_ns
                self.listener()
            case _:
                pass

    def _granted(self, frame: Grant, now: float) -> None:
        self._control.extend(self.lending.granted(frame, now))
        writer = self._writers.get(frame.channel)
        if writer is not None:
            writer.listener()

    def _told(self, frame: StreamOpened | Gap | End | Header | Settled) -> None:
        reader = self._readers.get(frame.channel)
        if reader is None:
            return
        match frame:
            case StreamOpened():
                reader.stream_opened(frame)
            case Gap():
                reader.gap(frame)
            case End():
                reader.end(frame)
            case Header():
                reader.header(frame)
            case Settled():
                reader.settled(frame)

    def _failed(self, frame: Failed) -> None:
        channel = self._writers.get(frame.channel) or self._readers.get(frame.channel)
        if channel is not None:
            channel.refused(frame)
        elif not frame.channel:
            self.fail(fault(frame.code, frame.message, frame.hint))

    def _answered(self, frame: Reply, body: memoryview) -> None:
        if not self.asking.answered(frame, body):
            any(reader.confirmed(frame.number) for reader in self._readers.values())

    def _refused(self, frame: CallFailed) -> None:
        error = fault(frame.code, frame.message, frame.hint)
        if not self.asking.refused(frame.number, error):
            any(reader.confirmed(frame.number, error) for reader in self._readers.values())

    def _said_goodbye(self, frame: Goodbye) -> None:
        if not frame.retry:
            self.fail(fault(frame.code, frame.message, frame.hint))
