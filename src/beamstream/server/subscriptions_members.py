"""Who reads by the native lane: a connection as subscriptions see it, and its subscriptions."""

from __future__ import annotations

import fnmatch
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from beamstream import limits
from beamstream.errors import BadInput, Error
from beamstream.model import Dataset, Who
from beamstream.server.blocks import Block
from beamstream.server.groups import GroupStream, Hold
from beamstream.server.streams import View
from beamstream.wire.native.frames import (
    End,
    Gap,
    Header,
    Held,
    Mode,
    Scope,
    Settled,
    StreamOpened,
    Subscribe,
)

if TYPE_CHECKING:
    from beamstream.server.subscriptions_desk import Desk

Answer = Callable[[Error | None], None]

_KEY_LENGTH_MAX = 1_024
_CLOSED_MAX = 256
"""Streams that have ended and are remembered: what was under way may name them."""


class Outlet(Protocol):
    """One native connection as subscriptions see it. Its methods never call back."""

    session: bytes
    who: Who
    beamtime: str

    @property
    def writable(self) -> bool:
        """False while too much waits in its socket; `Subscriptions.resume` tells the end of it."""

    def stream_opened(self, frame: StreamOpened) -> None: ...

    def deliver(
        self,
        channel: int,
        ref: int,
        tag: int,
        view: View,
        block: Block,
        lo: int,
        hi: int,
        deliveries: tuple[int, ...] | None,
        payloads: bool,
        shared: bool,
    ) -> None:
        """Send the messages `lo` … `hi` - 1 (indices) of a block."""

    def deliver_datasets(
        self,
        channel: int,
        ref: int,
        tag: int,
        view: View,
        datasets: Sequence[Dataset],
        deliveries: tuple[int, ...] | None,
        payloads: bool,
        shared: bool,
    ) -> None:
        """Send whole datasets; `deliveries` has one count for each dataset."""

    def gap(self, frame: Gap) -> None: ...

    def end(self, frame: End) -> None: ...

    def header(self, frame: Header) -> None: ...

    def settled(self, frame: Settled) -> None: ...

    def failed(self, channel: int, error: Error) -> None: ...


Owner = tuple[bytes, int]
"""Who holds a lease: session and channel, which a client keeps over reconnections."""


class Member:
    """One subscription. Its credit is shared by all the streams that it is over."""

    def __init__(
        self,
        outlet: Outlet,
        frame: Subscribe,
        group: str,
        age: int = 0,
        before: Member | None = None,
    ) -> None:
        self.age = age
        """Counts subscriptions: whose is smaller came first."""
        self.before = before
        """What it was by the connection before, which may have left something under way."""
        if before is not None:
            before.before = None
        self.outlet = outlet
        self.frame = frame
        self.channel = frame.channel
        self.group = group
        self.private = not frame.group
        self.owner: Owner = (outlet.session, frame.channel)
        lease_s = min(max(frame.lease_s, 0.0), limits.LEASE_SECONDS_MAX)
        self.hold = Hold(self.owner, lease_s, max(frame.attempts_max, 0))
        self.batch_max = min(max(frame.batch_max, 1), limits.NATIVE_BATCH_MAX)
        self.messages = 0
        self.nbytes = 0
        self.grant(frame.credit_messages, frame.credit_nbytes)
        self._window = (self.messages, self.nbytes)
        self.desks: dict[int, Desk] = {}
        """The streams it reads, by the number that the client knows them by."""
        self.told: dict[int, Desk] = {}
        """The same, with the last ones that have ended."""
        self._closed: deque[int] = deque()
        self.active = 0
        """Streams that it alone reads, while others of its group stand by."""
        self.views: set[View] = set()
        self.kept: dict[tuple[str, str], list[Held]] = {}
        """Leases that go on, until the stream is opened and this is told."""
        self.next_ref = 0
        self.private_groups: dict[View, GroupStream] = {}
        self.followed: set[str] = set()
        self.ended: set[int] = set()
        """Numbers of streams that have ended for it, if it is over many."""
        self.hungry: set[Desk] = set()
        """Desks that have something for it when it has more credit."""
        self.matches = matcher(frame)
        self.owns = bool(frame.sticky or frame.key) and not frame.exclusive
        """Messages belong to members, by their ids or metadata."""

    @property
    def ready(self) -> bool:
        return self.messages > 0 and self.outlet.writable

    @property
    def idle(self) -> bool:
        """Nothing that was pushed is still out: then even what is larger than the credit goes."""
        messages, nbytes = self._window
        return self.messages >= messages and self.nbytes >= nbytes

    def grant(self, messages: int, nbytes: int) -> None:
        """More may be pushed."""
        self.messages = min(self.messages + messages, limits.NATIVE_CREDIT_MESSAGES_MAX)
        self.nbytes = min(self.nbytes + nbytes, limits.NATIVE_CREDIT_NBYTES_MAX)

    def spend(self, messages: int, nbytes: int) -> None:
        self.messages -= messages
        if self.frame.payloads:
            self.nbytes -= nbytes
        if self.frame.mode == Mode.NEWEST:
            # Asked for one by one: a dataset of many parts must not leave debts.
            self.messages = max(self.messages, 0)

    def open_ref(self, desk: Desk) -> int:
        """Tell the client which number a stream has from now on."""
        ref = self.next_ref
        self.next_ref += 1
        view = desk.view
        self.desks[ref] = self.told[ref] = desk
        self.views.add(view)
        held = tuple(self.kept.pop((view.source, view.name), ()))
        self.outlet.stream_opened(StreamOpened(self.channel, ref, view.source, view.name, held))
        return ref

    def close_ref(self, ref: int) -> None:
        """A stream has ended."""
        desk = self.desks.pop(ref, None)
        if desk is not None:
            self.views.discard(desk.view)
            self._closed.append(ref)
            if len(self._closed) > _CLOSED_MAX:
                del self.told[self._closed.popleft()]


def matcher(frame: Subscribe) -> Callable[[str], bool]:
    """Whether a stream of the source, by its name, belongs to a subscription over many."""
    if frame.scope != Scope.PATTERN:
        return lambda name: True
    fits = re.compile(fnmatch.translate(frame.stream)).fullmatch
    return lambda name: fits(name) is not None


def check_subscribe(frame: Subscribe) -> None:
    """Raise `BadInput` if this cannot be asked for."""
    if frame.credit_messages < 0 or frame.credit_nbytes < 0:
        raise BadInput("a subscription with less credit than none")
    if frame.lease_s != frame.lease_s or frame.wait_s != frame.wait_s:
        raise BadInput("a subscription whose lease or waiting time is not a number")
    if not 0 <= frame.min_parts <= limits.DATASET_SIZE_MAX:
        raise BadInput(f"datasets of at least {frame.min_parts} parts cannot be asked for")
    if not 0 <= frame.sticky <= limits.ID_MAX:
        raise BadInput(f"blocks of {frame.sticky} ids cannot be asked for")
    if len(frame.key) > _KEY_LENGTH_MAX:
        raise BadInput(f"a key of metadata with {len(frame.key)} characters")
    if frame.sticky and frame.key:
        raise BadInput(
            "a subscription by blocks of ids and by a key of the metadata at once",
            hint="ask for one of them",
        )
    if (frame.sticky or frame.key) and not frame.exclusive and frame.mode != Mode.UNORDERED:
        raise BadInput(
            "messages that belong to members come unordered",
            hint="read the stream exclusively, or ask for mode unordered",
        )
    if len(frame.held) > limits.NATIVE_CREDIT_MESSAGES_MAX:
        raise BadInput(f"a subscription that still has {len(frame.held)} leases")
    if frame.scope == Scope.PATTERN and len(frame.stream) > limits.STREAM_NBYTES_MAX:
        raise BadInput("the pattern of a subscription is longer than any name of a stream")
