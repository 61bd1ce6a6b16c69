"""What one subscription has received, and owes the node: credit, leases, acknowledgements. Pure.

Everything is given in the order in which it came. A run that was taken out gives its credit back;
acknowledgements gather for `ACK_S` or `ACK_MESSAGES`; the last frame of each turn is answered when
it is safe, and is sent again over the next connection when it is not answered in this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from beamstream import limits
from beamstream.client.native import spans
from beamstream.client.native.arrived import Arrived, Lease
from beamstream.client.native.events import End, Gap, HeaderText, Settled, StreamEnd
from beamstream.client.native.faults import fault
from beamstream.client.native.origins import Settling, Standing
from beamstream.client.native.spans import Spans
from beamstream.errors import Error
from beamstream.wire.native import frames
from beamstream.wire.native.frames import (
    Ack,
    Credit,
    Deliver,
    Extend,
    Failed,
    Frame,
    Held,
    Mode,
    Nack,
    Scope,
    StreamOpened,
    Subscribe,
)

ACK_S: Final = 0.02
ACK_MESSAGES: Final = 1_000
FAULTS_KEPT: Final = 100

Listener = Callable[[], None]
Told = Gap | HeaderText | Settled | StreamEnd
"""What comes beside messages."""


class Incoming:
    """One subscription.

    Parameters
    ----------
    asked : what the node is asked for, without credit and leases.
    messages, nbytes : what may be pushed ahead.
    """

    def __init__(self, asked: Subscribe, listener: Listener, *, messages: int, nbytes: int) -> None:
        self.asked = asked
        self.listener = listener
        self.opened = False
        """Something has come."""
        self.timed = False
        """Somebody sees to it that acknowledgements are told in time."""
        self.error: Error | None = None
        self.ended: End | None = None
        self.ends: dict[tuple[str, str], End] = {}
        self.faults: deque[Error] = deque(maxlen=FAULTS_KEPT)
        """Acknowledgements that came too late."""
        self._newest = asked.mode == Mode.NEWEST
        self._messages = 1 if self._newest else min(messages, limits.NATIVE_CREDIT_MESSAGES_MAX)
        self._nbytes = min(nbytes, limits.NATIVE_CREDIT_NBYTES_MAX)
        self._ahead_messages = 0
        """What may still come for the credit that the node has, and what waits in the queue."""
        self._ahead_nbytes = 0
        self._epoch = 0
        self._over_epoch = -1
        """The connection in which the node has said that no stream is left."""
        self._refs: dict[int, tuple[str, str]] = {}
        self._ref_of: dict[tuple[str, str], int] = {}
        self.opened_by = 0.0
        """Until then the node has told of the streams with leases, if it ever will."""
        self.settlings: set[Settling] = set()
        """What is on its way with leases of this subscription."""
        self.streams: dict[tuple[str, str], None] = {}
        """Streams that were opened."""
        self.left = False
        """Nobody reads any more."""
        self.gone = False
        """The node has been told so, or never needs to be."""
        self.on_answered: Listener | None = None
        """Called when nothing more is on its way with leases of this subscription."""
        self._queue: deque[Arrived | Told] = deque()
        self._settled: dict[tuple[str, str], int] = {}
        """The newest of those that wait in the queue."""
        self._headers: dict[tuple[str, str], tuple[int, int]] = {}
        self._told_ends: set[tuple[str, str]] = set()
        self._leases: dict[tuple[str, str, int], Lease] = {}
        self._acks: list[tuple[Lease, int, int]] = []
        self._acks_messages = 0
        self._acks_since = 0.0
        self._flushed_at = float("-inf")
        self._nacks: list[tuple[Lease, Spans, float, bool]] = []
        self._unconfirmed: dict[int, list[tuple[Lease, Spans]]] = {}
        self._progress_at = 0.0
        self._extended_at = 0.0
        self._consumed_messages = 0
        self._consumed_nbytes = 0

    # ------------------------------------------------------------------ connection

    def subscribe(self, now: float) -> Subscribe:
        """The frame that begins it, or takes it up over a new connection."""
        queued = sum(item.batch.count for item in self._queue if isinstance(item, Arrived))
        nbytes = sum(item.nbytes for item in self._queue if isinstance(item, Arrived))
        self._epoch += 1
        self.opened_by = now + limits.NATIVE_RESUME_SECONDS
        self._progress_at = self._extended_at = now
        self._consumed_messages = self._consumed_nbytes = 0
        self._ahead_messages = self._messages if not self._newest else queued
        self._ahead_nbytes = max(self._nbytes, nbytes)
        return msgspec.structs.replace(
            self.asked,
            credit_messages=(0 if self._newest or self.left else max(self._messages - queued, 0)),
            credit_nbytes=max(self._nbytes - nbytes, 0),
            held=self._held(),
        )

    def _held(self) -> tuple[Held, ...]:
        self._take_back_acks()
        return tuple(
            Held(lease.source, lease.stream, lease.tag, tuple(lease.left))
            for lease in self._leases.values()
            if lease.left
        )

    def _take_back_acks(self) -> None:
        """What was acknowledged and not confirmed is acknowledged again."""
        for batch in self._unconfirmed.values():
            for lease, ranges in batch:
                self._acks[:0] = [(lease, lo, hi) for lo, hi in ranges]
        self._unconfirmed.clear()
        self._acks_messages = sum(hi - lo for _, lo, hi in self._acks)

    def stream_opened(self, frame: StreamOpened) -> None:
        key = (frame.source, frame.stream)
        self._refs[frame.ref] = key
        self._ref_of[key] = frame.ref
        self.streams[key] = None
        held = {lease.tag: list(lease.ranges) for lease in frame.held}
        for lease in list(self._leases.values()):
            if (lease.source, lease.stream) != key or lease.epoch == self._epoch:
                continue
            lease.left = spans.common(lease.left, held.get(lease.tag, []))
            lease.ref, lease.epoch = frame.ref, self._epoch
            if not lease.left:
                self._drop(lease)
        for lease, _, _ in self._acks:
            # Also of what is no longer held: the node knows what is done, and what came too late.
            if (lease.source, lease.stream) == key:
                lease.ref, lease.epoch = frame.ref, self._epoch
        self.listener()

    def lost(self) -> None:
        """The connection is gone; what was received stays."""
        self._refs.clear()
        self._ref_of.clear()

    # ------------------------------------------------------------------ receiving

    def deliver(
        self,
        frame: Deliver,
        body: memoryview,
        damaged: dict[int, Error],
        now: float,
        views: list[memoryview] | None = None,
    ) -> None:
        key = self._refs.get(frame.ref)
        if key is None or self.left:
            return
        self.opened = True
        self._told_ends.discard(key)
        if self.asked.headers and key not in self._headers:
            # There is none, so the node has nothing to tell.
            self._headers[key] = (0, hash(b""))
            self._queue.append(HeaderText(*key, 0, b""))
        lease = self._lease(key, frame, now) if frame.tag else None
        arrived = Arrived(*key, frame.batch, body, lease, damaged, views)
        if lease is not None:
            lease.left = spans.merged([*lease.left, *arrived.spans()])
        self._queue.append(arrived)
        self.listener()

    def _lease(self, key: tuple[str, str], frame: Deliver, now: float) -> Lease:
        name = (*key, frame.tag)
        lease = self._leases.get(name)
        until = now + self.asked.lease_s
        if lease is None:
            lease = Lease(*key, frame.ref, frame.tag, self._epoch, until)
            self._leases[name] = lease
        lease.until = until
        return lease

    def gap(self, frame: frames.Gap) -> None:
        self._tell_reader(Gap(*self._stream_of(frame.ref), frame.lo, frame.hi))

    def header(self, frame: frames.Header) -> None:
        key = self._stream_of(frame.ref)
        # A new connection tells the same again.
        mark = (frame.version, hash(frame.document))
        if self._headers.get(key) != mark:
            self._headers[key] = mark
            self._tell_reader(HeaderText(*key, frame.version, frame.document))

    def settled(self, frame: frames.Settled) -> None:
        key = self._stream_of(frame.ref)
        waiting = key in self._settled
        self._settled[key] = frame.seq
        if not waiting:
            self._tell_reader(Settled(*key, frame.seq))

    def _tell_reader(self, told: Told) -> None:
        if not self.left:
            self._queue.append(told)
            self.listener()

    def _stream_of(self, ref: int) -> tuple[str, str]:
        return self._refs.get(ref, (self.asked.source, self.asked.stream))

    def end(self, frame: frames.End) -> None:
        asked = self.asked
        key = self._stream_of(frame.ref)
        end = End(frame.reason, key[1], frame.next_stream, frame.last_id, frame.missing)
        if frame.ref >= 0:
            self.ends[key] = end
            if end.reason == "gone":
                # Another stream may get its name.
                self._headers.pop(key, None)
                self.streams.pop(key, None)
            if key not in self._told_ends and not self.left:
                self._told_ends.add(key)
                self._queue.append(
                    StreamEnd(*key, end.reason, end.next_stream, end.last_id, end.missing)
                )
        follows = asked.follow and frame.next_stream
        if frame.ref < 0:
            self._over_epoch = self._epoch
        if frame.ref < 0 or (asked.scope == Scope.STREAM and not follows):
            self.ended = end
        self.listener()

    def refused(self, frame: Failed) -> None:
        self.fail(fault(frame.code, frame.message, frame.hint))

    def fail(self, error: Error) -> None:
        self.error = self.error or error
        self.listener()

    # ------------------------------------------------------------------ handing over

    @property
    def waiting(self) -> int:
        """What waits to be taken."""
        return len(self._queue)

    def ask(self) -> None:
        """Somebody wants the next message: only then is the newest one asked for."""
        if self._newest and not self._ahead_messages and not self._queue:
            self._ahead_messages = 1
            self._consumed_messages += 1

    def next(self, now: float) -> Arrived | Gap | None:
        """What has come and was not taken yet, in order; None when there is nothing.

        Runs whose lease has run out meanwhile are left out: others have been offered them. So is
        what only `next_event` gives.
        """
        while True:
            item = self.next_event(now)
            if item is None or isinstance(item, Arrived | Gap):
                return item

    def next_event(self, now: float) -> Arrived | Told | None:
        """As `next`, with headers, ends of streams, and how far they are settled."""
        self._progress_at = now
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, Arrived):
                self._consume(item)
                lease = item.lease
                if lease is None or (lease.alive and now < lease.until):
                    return item
            elif isinstance(item, Settled):
                return item._replace(seq=self._settled.pop((item.source, item.stream)))
            else:
                return item
        return None

    def _consume(self, arrived: Arrived) -> None:
        if self._newest:
            self._ahead_messages = 0
        else:
            self._consumed_messages += arrived.batch.count
        self._consumed_nbytes += arrived.nbytes

    def acknowledge(self, lease: Lease, lo: int, hi: int, now: float) -> bool:
        """Seqs `lo` … `hi` - 1 of a lease are done; whether it is time to tell the node.

        It is told of a lease too that it has taken back: then the answer is that it came too late.
        """
        if not lease.alive and lease.epoch != self._epoch:
            for ref, key in self._refs.items():
                if key == (lease.source, lease.stream):
                    lease.ref, lease.epoch = ref, self._epoch
        acks = self._acks
        if acks and acks[-1][0] is lease and acks[-1][2] == lo:
            acks[-1] = (lease, acks[-1][1], hi)
        else:
            if not acks:
                self._acks_since = now
            acks.append((lease, lo, hi))
        self._acks_messages += hi - lo
        return self._acks_messages >= ACK_MESSAGES or now - self._flushed_at >= ACK_S

    def give_back(self, lease: Lease, lo: int, hi: int, delay_s: float, counted: bool) -> None:
        """Seqs are to be offered again, to anyone."""
        if lease.alive:
            self._nacks.append((lease, [(lo, hi)], delay_s, counted))

    # ------------------------------------------------------------------ telling the node

    def due_at(self) -> float | None:
        """When there is something to tell the node (monotonic seconds)."""
        times = []
        if self._acks:
            times.append(self._acks_since + ACK_S)
        if self._credit_due():
            times.append(0.0)
        if self._nacks:
            named = any(nack[0].epoch == self._epoch for nack in self._nacks)
            times.append(0.0 if named else self.opened_by)
        if self._leases and self.asked.lease_s > 0:
            times.append(self._extended_at + self.asked.lease_s / 3)
        return min(times) if times else None

    def _credit_due(self) -> bool:
        return (
            4 * self._consumed_messages >= self._messages
            or 4 * self._consumed_nbytes >= self._nbytes
        )

    def tell(
        self, now: float, number: Callable[[], int], *, all_of_it: bool = False
    ) -> list[Frame]:
        """Frames for the node, those that are due; with `all_of_it` all that there are.

        Parameters
        ----------
        number : gives the number of a call, for an acknowledgement that is to be confirmed.
        """
        said: list[Frame] = []
        self.timed = False
        if self._acks and (
            all_of_it
            or self._acks_messages >= ACK_MESSAGES
            or now >= self._acks_since + ACK_S
            or now >= self._flushed_at + ACK_S
        ):
            said += self._tell_acks(now, number())
        if self._nacks:
            said += self._tell_nacks(now)
        if self._credit_due() or (all_of_it and (self._consumed_messages or self._consumed_nbytes)):
            said.append(Credit(self.asked.channel, self._consumed_messages, self._consumed_nbytes))
            self._consumed_messages = self._consumed_nbytes = 0
        lease_s = self.asked.lease_s
        if lease_s > 0 and self._leases and now >= self._extended_at + lease_s / 3:
            said += self._tell_extensions(now)
        return said

    def _tell_acks(self, now: float, call: int) -> list[Frame]:
        ranges: dict[Lease, list[tuple[int, int]]] = {}
        waiting = []
        for lease, lo, hi in self._acks:
            if lease.epoch == self._epoch:
                ranges.setdefault(lease, []).append((lo, hi))
            else:
                waiting.append((lease, lo, hi))
        self._acks = waiting
        self._acks_messages = sum(hi - lo for _, lo, hi in waiting)
        self._acks_since = self._flushed_at = now
        told = [(lease, spans.merged(found)) for lease, found in ranges.items()]
        if told:
            self._unconfirmed[call] = told
        last = len(told) - 1
        return [
            Ack(
                self.asked.channel,
                lease.ref,
                lease.tag,
                tuple(found),
                call if index == last else 0,
            )
            for index, (lease, found) in enumerate(told)
        ]

    def _tell_nacks(self, now: float) -> list[Frame]:
        said: list[Frame] = []
        waiting = []
        for nack in self._nacks:
            lease, found, delay_s, counted = nack
            if not lease.alive:
                continue
            if lease.epoch != self._epoch:
                if now < self.opened_by:
                    waiting.append(nack)
                else:
                    self.release(lease, found)
                continue
            said.append(
                Nack(self.asked.channel, lease.ref, lease.tag, tuple(found), delay_s, counted)
            )
            self.release(lease, found)
        self._nacks = waiting
        return said

    def _tell_extensions(self, now: float) -> list[Frame]:
        """Leases live on while messages are being taken; a member that is stuck loses them."""
        self._extended_at = now
        lease_s = self.asked.lease_s
        if now >= self._progress_at + lease_s:
            return []
        said: list[Frame] = []
        for lease in self._leases.values():
            if lease.epoch == self._epoch and now < lease.until:
                lease.until = now + lease_s
                said.append(Extend(self.asked.channel, lease.ref, lease.tag, lease_s))
        return said

    def extend(self, lease: Lease, lease_s: float, now: float) -> list[Frame]:
        """A message in hand is needed longer."""
        lease.until = max(lease.until, now + lease_s)
        return [Extend(self.asked.channel, lease.ref, lease.tag, lease_s)] if lease.alive else []

    def confirmed(self, call: int, error: Error | None = None) -> bool:
        """An acknowledgement is safe, or came too late; False when it is none of ours."""
        told = self._unconfirmed.pop(call, None)
        if told is None:
            return False
        if error is not None:
            self.faults.append(error)
        for lease, found in told:
            self.release(lease, found)
        self.listener()
        return True

    @property
    def untold(self) -> bool:
        """Whether there is something that the node is to be told before long."""
        return bool(self._acks or self._consumed_messages or self._consumed_nbytes)

    @property
    def all_confirmed(self) -> bool:
        return not (self._acks or self._nacks or self._unconfirmed)

    def leave(self, unseen: Arrived | None, seen: int) -> None:
        """Give back what is not acknowledged.

        What its reader has seen counts as an attempt, and is refused; what he has not seen goes
        with the subscription.

        Parameters
        ----------
        unseen, seen : a run of which only the first `seen` items were looked at.
        """
        waiting: dict[Lease, Spans] = {}
        for item in self._queue:
            if isinstance(item, Arrived) and item.lease is not None:
                waiting.setdefault(item.lease, []).extend(item.spans())
        if unseen is not None and unseen.lease is not None:
            rest = spans.of_numbers(unseen.seq(item) for item in range(seen, unseen.items))
            waiting.setdefault(unseen.lease, []).extend(rest)
        for owner, lo, hi in self._acks:
            waiting.setdefault(owner, []).append((lo, hi))
        for told in self._unconfirmed.values():
            for owner, found in told:
                waiting.setdefault(owner, []).extend(found)
        for settling in self.settlings:
            for held in settling.held:
                if held.reader is self:
                    waiting.setdefault(held.lease, []).extend(held.ranges)
        for lease in self._leases.values():
            left = spans.without(lease.left, spans.merged(waiting.get(lease, [])))
            if left:
                self._nacks.append((lease, left, 0.0, True))
        if self.settlings:
            # It stays for a while: nothing more is to be sent to it.
            self._consumed_messages = self._consumed_nbytes = 0

    # ------------------------------------------------------------------ leases

    def standing(self, lease: Lease, now: float) -> Standing:
        """Whether a lease can be named to the node in this connection.

        One that did not last can be, too: the node knows whether it was settled before.
        """
        if self.gone or self.error is not None:
            return Standing.STALE
        if (lease.source, lease.stream) in self._ref_of:
            return Standing.READY
        over = now >= self.opened_by or self._over_epoch == self._epoch
        return Standing.STALE if over else Standing.WAITING

    def ref_of(self, lease: Lease) -> int | None:
        """What the node calls the stream of a lease in this connection."""
        return self._ref_of.get((lease.source, lease.stream))

    def answered(self, settling: Settling) -> None:
        """What was on its way with leases has come to its end."""
        self.settlings.discard(settling)
        if not self.settlings and self.on_answered is not None:
            self.on_answered()

    def release(self, lease: Lease, found: Spans) -> None:
        """Seqs of a lease are done with."""
        lease.left = spans.without(lease.left, found)
        if not lease.left:
            self._drop(lease)

    def _drop(self, lease: Lease) -> None:
        lease.alive = False
        name = (lease.source, lease.stream, lease.tag)
        if self._leases.get(name) is lease:
            del self._leases[name]
