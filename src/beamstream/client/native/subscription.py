"""Being a member of a group: taking messages, singly or by the batch, acknowledging them."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from beamstream import limits
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.events import Header, HeaderText, Settled, StreamEnd
from beamstream.client.native.faults import again
from beamstream.client.native.incoming import ACK_S, Incoming, Told
from beamstream.client.native.link import Link
from beamstream.client.native.messages import (
    Batch,
    Columns,
    DatasetMessage,
    End,
    Gap,
    Message,
    each,
)
from beamstream.client.native.origins import Held
from beamstream.errors import BadInput, TimedOut
from beamstream.wire.native import calls
from beamstream.wire.native.frames import Subscribe

Item = Message | DatasetMessage | Gap
Event = Batch | Gap | Header | Settled | StreamEnd
AHEAD_MESSAGES: Final = 4_096
AHEAD_NBYTES: Final = 64 * limits.MIB
MISSING_S: Final = 5.0
"""After this long, whoever waits for a stream that does not exist is told so."""


class NoSuchStreamYet(UserWarning):
    """Somebody waits for a stream that does not exist."""


class Subscription:
    """A member of a group, from its making to `close`.

    Iterating over it gives messages until the end; `take` one of them. Leaving ``with``, or the
    last reference to it, gives back what is not acknowledged. One thread at a time may take.
    """

    def __init__(
        self,
        link: Link,
        asked: Subscribe,
        *,
        ack: str,
        timeout: float | None,
        ahead_messages: int,
        ahead_nbytes: int,
        explain: Callable[[], str],
        ask: Callable[[calls.Params], Any] | None = None,
        listener: Callable[[], None] | None = None,
        flush: Callable[[], None] | None = None,
    ) -> None:
        self._link = link
        self._flush = flush or link.pump
        self._auto = ack == "auto"
        self._timeout = timeout
        self._explain = explain
        self._ask = ask
        self._changed = threading.Condition(link.lock)
        self._messages: Iterator[Message | DatasetMessage] = iter(())
        self._arrived: Arrived | None = None
        """The run in hand, of which `_seen` items were handed out."""
        self._seen = 0
        self._hand: Message | DatasetMessage | None = None
        self._closed = False
        self._warned = False
        self.end: End | None = None
        """Why nothing more comes; None as long as something may."""
        link.check()
        with link.lock:
            self._incoming: Incoming = link.session.open_reader(
                asked,
                listener or self._changed.notify_all,
                time.monotonic(),
                messages=ahead_messages,
                nbytes=ahead_nbytes,
            )
        self._flush()

    # ------------------------------------------------------------------ taking

    def __iter__(self) -> Iterator[Item]:
        while True:
            item = self.take()
            if item is None:
                return
            yield item

    def take(self, timeout: float | None = None) -> Item | None:
        """The next message; the one before is acknowledged (``ack="auto"``). None at the `end`.

        Parameters
        ----------
        timeout : seconds; in place of the group's. Reaching it is an error, and not the end.

        Raises
        ------
        TimedOut : nothing came within `timeout`.
        ConnectionLost, BadToken … : the node cannot be had any more.
        """
        item = self.poll()
        if item is not None:
            return item
        return self._open(self._wait(timeout, self._incoming.next))

    def poll(self) -> Item | None:
        """As `take`, without waiting: None if there is nothing at the moment."""
        if self._hand is not None:
            self._acknowledge_hand()
        arrived = self._arrived
        if arrived is not None:
            lease = arrived.lease
            if lease is None or (lease.alive and time.monotonic() < lease.until):
                for message in self._messages:
                    self._hand = message
                    self._seen += 1
                    return message
            self._arrived, self._messages = None, iter(())
        return self._open(self._next())

    def _open(self, item: Arrived | Told | None) -> Item | None:
        if not isinstance(item, Arrived):
            return item if isinstance(item, Gap) else None
        self._arrived, self._messages = item, each(Columns(item), self)
        self._hand, self._seen = next(self._messages), 1
        return self._hand

    def batches(self) -> Iterator[Batch]:
        """Whole runs of messages; the next turn acknowledges the one before (``ack="auto"``)."""
        while True:
            batch = self.poll_batch()
            if batch is None:
                item = self._wait(None, self._incoming.next)
                if item is None:
                    return
                batch = self._open_batch(item)
            if batch is not None:
                yield batch

    def poll_batch(self) -> Batch | None:
        """The next run of messages, without waiting; the one before is acknowledged."""
        before, self._arrived = self._arrived, None
        if before is not None and self._auto:
            self.done(before, 0, before.items)
        item = self._next()
        while isinstance(item, Gap):
            item = self._next()
        return self._open_batch(item)

    def _open_batch(self, item: Arrived | Told | None) -> Batch | None:
        if not isinstance(item, Arrived):
            return None
        self._arrived, self._seen = item, item.items
        return Batch(item, self)

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """All that happens, until the end, or until nothing has for `timeout` seconds.

        See `next_event`.
        """
        while (event := self.next_event(timeout)) is not None:
            yield event

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next batch, `Gap`, `Header`, `Settled` or `StreamEnd`, of each stream in order.

        A header (where they are asked for) comes before the first batch of its stream, a
        `StreamEnd` when all of the stream is acknowledged. Batches are not acknowledged by
        themselves: `Batch.ack`, or what is made of them (`Batch.held`), does it. Not to be
        mixed with `take` and `batches`.

        Parameters
        ----------
        timeout : seconds to wait; None: as long as the group does.

        Returns
        -------
        None : nothing came in that time, or nothing more will: then there is an `end`, or this
            was closed.
        """
        told = self._next_told()
        if told is None:
            told = self._wait(timeout, self._incoming.next_event, silent=True)
        return None if told is None else self.look(told)

    def poll_event(self) -> Arrived | Told | None:
        """What has come, for `look`, without waiting; None if there is nothing."""
        return self._next_told()

    def look(self, told: Arrived | Told) -> Event:
        """What has come as an event; asks the node for a header that is too large to be told."""
        if isinstance(told, Arrived):
            return Batch(told, self)
        if not isinstance(told, HeaderText):
            return told
        version, document = told.version, told.document
        if version and not document and self._ask is not None:
            params = calls.GetHeader(source=told.source, stream=told.stream, version=version)
            found: calls.HeaderRow | None = self._ask(params)
            if found is None:
                # There are newer ones, so many that this one is not kept.
                found = self._ask(msgspec.structs.replace(params, version=0))
            if found is not None:
                version, document = found.version, found.document
        meta = msgspec.json.decode(document, type=dict[str, Any]) if document else {}
        return Header(told.source, told.stream, version, meta)

    @property
    def opened(self) -> Sequence[tuple[str, str]]:
        """Source and name of each stream that was opened for it."""
        with self._link.lock:
            return tuple(self._incoming.streams)

    def _next_told(self) -> Arrived | Told | None:
        self._link.check()
        with self._link.lock:
            item = self._incoming.next_event(time.monotonic())
            due = item is not None and self._incoming.due_at() == 0.0
        if due:
            self._flush()
        return item

    def _next(self) -> Arrived | Gap | None:
        self._link.check()
        with self._link.lock:
            item = self._incoming.next(time.monotonic())
            due = item is not None and self._incoming.due_at() == 0.0
        if due:
            self._flush()
        return item

    def _wait(
        self,
        timeout: float | None,
        take: Callable[[float], Arrived | Told | None],
        *,
        silent: bool = False,
    ) -> Arrived | Told | None:
        """Wait for something; what the node should know before is told at once.

        Parameters
        ----------
        take : gives what there is.
        silent : a `timeout` that is reached is no error.
        """
        if self._closed or self.end is not None:
            return None
        limit = self._timeout if timeout is None else timeout
        began = time.monotonic()
        until = None if limit is None else began + limit
        hurry = False
        while True:
            self.prepare(all_of_it=hurry)
            with self._link.lock:
                item = take(time.monotonic())
                if item is None and not self.over:
                    hurry = not self._changed.wait(self.pause(began, until))
                    item = take(time.monotonic())
                if item is not None:
                    return item
                if self.over:
                    self.finish()
                    return None
            if self.timed_out(until):
                if timeout is not None:
                    self.end = None
                    if silent:
                        return None
                    raise TimedOut(f"nothing came from {self._name} within {timeout:g} s")
                return None
            if self.doubtful(began):
                self.warn()

    def prepare(self, *, all_of_it: bool) -> None:
        """Tell the node what there is to tell, before waiting: what is due, or all of it."""
        now = time.monotonic()
        with self._link.lock:
            self._incoming.ask()
            self._link.session.say_for(self._incoming, now, all_of_it=all_of_it)
        self._flush()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        incoming = self._incoming
        return self._closed or incoming.error is not None or incoming.ended is not None

    def finish(self) -> None:
        """Say why it is over: raise, or set `end`."""
        if self._incoming.error is not None:
            raise again(self._incoming.error)
        self.end = self._incoming.ended

    def pause(self, began: float, until: float | None) -> float | None:
        """How long to wait, seconds."""
        times = [] if until is None else [until]
        if self._incoming.untold:
            times.append(time.monotonic() + ACK_S)
        if not (self._warned or self._incoming.opened):
            times.append(began + MISSING_S)
        return max(min(times) - time.monotonic(), 0.0) if times else None

    def timed_out(self, until: float | None) -> bool:
        """Whether it has been waited for long enough; then that is the `end`."""
        if until is None or time.monotonic() < until:
            return False
        self.end = End("timeout", self._incoming.asked.stream)
        return True

    def doubtful(self, began: float) -> bool:
        """Whether it is time to look if what is waited for exists at all."""
        if self._warned or self._incoming.opened:
            return False
        return time.monotonic() >= began + MISSING_S

    def warn(self) -> None:
        """Say once that there is no such stream, if there is none; asks the node."""
        self._warned = True
        why = self._explain()
        if why:
            warnings.warn(why, NoSuchStreamYet, stacklevel=6)

    @property
    def _name(self) -> str:
        asked = self._incoming.asked
        return f"{asked.source}/{asked.stream}" if asked.stream else f"source {asked.source!r}"

    # ------------------------------------------------------------------ acknowledging

    def _acknowledge_hand(self) -> None:
        hand, self._hand = self._hand, None
        if self._auto and hand is not None:
            self.done(hand._columns.arrived, hand._item, hand._item + 1)

    def done(self, arrived: Arrived, lo: int, hi: int) -> None:
        """Items `lo` … `hi` - 1 of a run are done."""
        lease = arrived.lease
        if lease is None:
            return
        self._link.check()
        if self._hand is not None and self._hand._columns.arrived is arrived:
            # Acknowledged by hand: the next turn need not do it.
            self._hand = None if lo <= self._hand._item < hi else self._hand
        batch = arrived.batch
        with self._link.lock:
            now = time.monotonic()
            if batch.datasets is None and batch.seqs is None:
                due = self._incoming.acknowledge(lease, batch.seq + lo, batch.seq + hi, now)
            else:
                due = False
                for item in range(lo, hi):
                    seq = arrived.seq(item)
                    due = self._incoming.acknowledge(lease, seq, seq + 1, now) or due
        if due:
            self._tell()
        elif not self._incoming.timed:
            self._incoming.timed = True
            self._link.wake()

    def held(self, arrived: Arrived, lo: int, hi: int) -> Held:
        """The lease of items `lo` … `hi` - 1 of a run."""
        if arrived.lease is None:
            raise BadInput(
                f"messages of {self._name} are handed out without a lease",
                hint='ack="manual" in place of "none"',
            )
        if self._hand is not None and self._hand._columns.arrived is arrived:
            # It is settled with something else: the next turn must not do it before.
            self._hand = None if lo <= self._hand._item < hi else self._hand
        return Held(self._incoming, arrived.lease, arrived.spans(lo, hi))

    def give_back(self, arrived: Arrived, item: int, delay: float, *, counted: bool) -> None:
        """An item is to be offered again."""
        if self._hand is not None and self._hand._columns.arrived is arrived:
            self._hand = None if item == self._hand._item else self._hand
        if arrived.lease is None:
            return
        seq = arrived.seq(item)
        with self._link.lock:
            self._incoming.give_back(arrived.lease, seq, seq + 1, delay, counted)
        self._flush()

    def extend(self, arrived: Arrived, seconds: float) -> None:
        """The lease of a run is needed longer."""
        if arrived.lease is not None:
            with self._link.lock:
                now = time.monotonic()
                self._link.session.say(*self._incoming.extend(arrived.lease, seconds, now))
            self._flush()

    def _tell(self, *, all_of_it: bool = False) -> None:
        session = self._link.session
        with self._link.lock:
            session.say_for(self._incoming, time.monotonic(), all_of_it=all_of_it)
        self._flush()

    def sync(self, timeout: float | None = None) -> None:
        """Wait until all acknowledgements are safe at the node.

        Raises
        ------
        StaleLease : one came too late: the message has been offered again.
        TimedOut : it takes longer than `timeout` seconds.
        """
        self._tell(all_of_it=True)
        incoming = self._incoming
        with self._link.lock:
            self._link.wait(
                self._changed,
                lambda: incoming.all_confirmed or incoming.error is not None,
                timeout,
                f"acknowledgements of {self._name} are not safe",
            )
            error = incoming.faults.popleft() if incoming.faults else incoming.error
        if error is not None:
            raise again(error)

    # ------------------------------------------------------------------ ending

    def close(self) -> None:
        """Leave the group; what is not acknowledged is offered to others at once."""
        if self._closed:
            return
        self._closed = True
        if self._link.forked:
            return
        self._link.leave(self._incoming, self._arrived, self._seen)
        with self._link.lock:
            self._changed.notify_all()
            self._incoming.listener()
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or not hasattr(self, "_incoming"):
            return
        # A destructor may run anywhere, with any lock held: another thread has to do it.
        self._closed = True
        link, incoming, arrived, seen = self._link, self._incoming, self._arrived, self._seen
        if not link.forked:
            link.wake(lambda: link.leave(incoming, arrived, seen))
