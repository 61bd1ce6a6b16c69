"""What one subscription has received, and owes the node: credit, leases, acknowledgements. Pure.

Everything is given in the order in which it came. A run that was taken out gives its credit back;
acknowledgements gather for `ACK_S` or `ACK_MESSAGES`; the last frame of each turn is answered when
it is safe, and is sent again over the next connection when it is not answered in this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from beamstream import limits
from beamstream.client.native import spans
from beamstream.client.native.faults import fault
from beamstream.client.native.spans import Spans
from beamstream.errors import DataLost, Error
from beamstream.wire.native import frames
from beamstream.wire.native.batches import Batch
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


class End(NamedTuple):
    """Why nothing more comes.

    Parameters
    ----------
    reason : "finished", "timeout" (nothing came for as long as was asked for), or "gone" (the
        stream was deleted).
    stream : the stream that ended; empty for several.
    next_stream : that follows, as its writer said.
    last_id : of a finished stream.
    missing : ranges of ids that never came, if they are few; half-open.
    """

    reason: str
    stream: str = ""
    next_stream: str = ""
    last_id: int = 0
    missing: tuple[tuple[int, int], ...] = ()


class Gap(NamedTuple):
    """The ids from `lo` up to, not including, `hi` were left out."""

    source: str
    stream: str
    lo: int
    hi: int


class Lease:
    """Messages that this client has until `until` (monotonic seconds), under one tag."""

    __slots__ = ("alive", "epoch", "left", "ref", "source", "stream", "tag", "until")

    def __init__(
        self, source: str, stream: str, ref: int, tag: int, epoch: int, until: float
    ) -> None:
        self.source = source
        self.stream = stream
        self.ref = ref
        self.tag = tag
        self.epoch = epoch
        self.until = until
        self.left: Spans = []
        """Seqs that the node has not confirmed as done."""
        self.alive = True


class Arrived:
    """Messages that came in one frame."""

    __slots__ = ("batch", "body", "lease", "lost", "offsets", "source", "stream", "views")

    def __init__(
        self,
        source: str,
        stream: str,
        batch: Batch,
        body: memoryview,
        lease: Lease | None,
        damaged: dict[int, Error],
        views: list[memoryview] | None = None,
    ) -> None:
        self.source = source
        self.stream = stream
        self.batch = batch
        self.body = body
        self.lease = lease
        self.views = views
        """Payloads in shared memory."""
        self.offsets = batch.offsets() if batch.payloads and batch.places is None else []
        self.lost = damaged
        for gone in batch.lost:
            self.lost[gone.index] = fault(gone.code, gone.message, gone.hint)

    @property
    def items(self) -> int:
        """How many messages or datasets there are."""
        datasets = self.batch.datasets
        return self.batch.count if datasets is None else len(datasets)

    def seq(self, item: int) -> int:
        """Seq of a message, or of a whole dataset."""
        batch = self.batch
        if batch.datasets is not None:
            return batch.datasets[item].seq
        return batch.seqs[item] if batch.seqs is not None else batch.seq + item

    def spans(self) -> Spans:
        batch = self.batch
        if batch.datasets is not None:
            return spans.of_numbers(part.seq for part in batch.datasets)
        if batch.seqs is not None:
            return spans.of_numbers(batch.seqs)
        return [(batch.seq, batch.seq + batch.count)]

    @property
    def nbytes(self) -> int:
        return sum(self.batch.sizes) if self.batch.payloads else 0

    def payload(self, index: int) -> memoryview:
        """Payload of a message, or of a part of a dataset.

        Raises
        ------
        DataLost, Corrupt : it cannot be had.
        """
        if self.lost and index in self.lost:
            error = self.lost[index]
            raise type(error)(error.message, hint=error.hint)
        if self.views is not None:
            return self.views[index]
        if not self.offsets:
            raise DataLost(
                f"message {self.seq(0)} of stream {self.stream!r} came without payload",
                hint="subscribe with payloads=True, or fetch it by its id",
            )
        return self.body[self.offsets[index] : self.offsets[index + 1]]


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
        self._refs: dict[int, tuple[str, str]] = {}
        self._queue: deque[Arrived | Gap] = deque()
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
        self._progress_at = self._extended_at = now
        self._consumed_messages = self._consumed_nbytes = 0
        self._ahead_messages = self._messages if not self._newest else queued
        self._ahead_nbytes = max(self._nbytes, nbytes)
        return msgspec.structs.replace(
            self.asked,
            credit_messages=0 if self._newest else max(self._messages - queued, 0),
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
        held = {lease.tag: list(lease.ranges) for lease in frame.held}
        for name, lease in list(self._leases.items()):
            if (lease.source, lease.stream) != key or lease.epoch == self._epoch:
                continue
            lease.left = spans.common(lease.left, held.get(lease.tag, []))
            lease.ref, lease.epoch = frame.ref, self._epoch
            if not lease.left:
                self._drop(name)
        for lease, _, _ in self._acks:
            # Also of what is no longer held: the node knows what is done, and what came too late.
            if (lease.source, lease.stream) == key:
                lease.ref, lease.epoch = frame.ref, self._epoch
        self.listener()

    def lost(self) -> None:
        """The connection is gone; what was received stays."""
        self._refs.clear()

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
        if key is None:
            return
        self.opened = True
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
        self._queue.append(Gap(*self._stream_of(frame.ref), frame.lo, frame.hi))
        self.listener()

    def _stream_of(self, ref: int) -> tuple[str, str]:
        return self._refs.get(ref, (self.asked.source, self.asked.stream))

    def end(self, frame: frames.End) -> None:
        asked = self.asked
        key = self._stream_of(frame.ref)
        end = End(frame.reason, key[1], frame.next_stream, frame.last_id, frame.missing)
        if frame.ref >= 0:
            self.ends[key] = end
        follows = asked.follow and frame.next_stream
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

        Runs whose lease has run out meanwhile are left out: others have been offered them.
        """
        self._progress_at = now
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, Gap):
                return item
            self._consume(item)
            lease = item.lease
            if lease is None or (lease.alive and now < lease.until):
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
        if self._nacks or self._credit_due():
            times.append(0.0)
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
            said += self._tell_nacks()
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

    def _tell_nacks(self) -> list[Frame]:
        said: list[Frame] = []
        waiting = []
        for nack in self._nacks:
            lease, found, delay_s, counted = nack
            if not lease.alive:
                continue
            if lease.epoch != self._epoch:
                waiting.append(nack)
                continue
            said.append(
                Nack(self.asked.channel, lease.ref, lease.tag, tuple(found), delay_s, counted)
            )
            self._release(lease, found)
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
            self._release(lease, found)
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
        for lease in self._leases.values():
            left = spans.without(lease.left, spans.merged(waiting.get(lease, [])))
            if left:
                self._nacks.append((lease, left, 0.0, True))

    # ------------------------------------------------------------------ leases

    def _release(self, lease: Lease, found: Spans) -> None:
        lease.left = spans.without(lease.left, found)
        if not lease.left:
            self._drop((lease.source, lease.stream, lease.tag))

    def _drop(self, name: tuple[str, str, int]) -> None:
        lease = self._leases.pop(name, None)
        if lease is not None:
            lease.alive = False
