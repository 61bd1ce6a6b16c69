"""Consumer groups: how a stream, or several, are read, and how far a group has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from beamstream import limits
from beamstream.client.native import lookup
from beamstream.client.native.messages import Batch, DatasetMessage, End, Message
from beamstream.client.native.subscription import (
    AHEAD_MESSAGES,
    AHEAD_NBYTES,
    Item,
    Subscription,
)
from beamstream.errors import BadInput
from beamstream.model import check_label
from beamstream.wire.native import calls
from beamstream.wire.native.frames import Gaps, Mode, Scope, Start, Subscribe

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

_MODES: Final = {mode.name.lower(): mode for mode in Mode}
_GAPS: Final = {gaps.name.lower(): gaps for gaps in Gaps}
_ACKS: Final = ("auto", "manual", "none")
LEASE_S: Final = 60.0
BATCH_MAX: Final = 1_024


class Group:
    """Readers that share a position: each message goes to one of them.

    Iterating gives messages, oldest first, until the streams are finished; `batches` gives them by
    the run. Each iteration is a member of its own. What it had not acknowledged when it is left is
    offered to the others, and to the next iteration, again.
    """

    def __init__(
        self,
        hub: Hub,
        name: str,
        asked: Subscribe,
        *,
        ack: str,
        timeout: float | None,
        ahead: tuple[int, int],
        explain: Callable[[], str],
    ) -> None:
        self._hub = hub
        self.name = name
        self._asked = asked
        self._ack = ack
        self._timeout = timeout
        self._ahead = ahead
        self._explain = explain
        self._latest: Subscription | None = None
        self._end: End | None = None

    def __repr__(self) -> str:
        asked = self._asked
        return f"<Group {self.name!r} of {asked.source}/{asked.stream or '*'}>"

    # ------------------------------------------------------------------ reading

    @property
    def timeout(self) -> float | None:
        """Seconds without a message after which a loop ends."""
        return self._timeout

    def subscribe(self, came: Callable[[], None] | None = None) -> Subscription:
        """Become a member; a context manager, and an iterator over messages.

        Parameters
        ----------
        came : called, from a thread of the client, when something has come; then nothing is ever
            sent by the calling thread.
        """
        return Subscription(
            self._hub._link,
            self._asked,
            ack=self._ack,
            timeout=self._timeout,
            ahead_messages=self._ahead[0],
            ahead_nbytes=self._ahead[1],
            explain=self._explain,
            ask=self._hub._call,
            listener=came,
            flush=self._hub._link.wake if came is not None else None,
        )

    def __iter__(self) -> Iterator[Item]:
        self._end = None
        with self.subscribe() as member:
            yield from member
            self._end = member.end

    def batches(self) -> Iterator[Batch]:
        """Whole runs of messages; the next turn acknowledges the one before."""
        self._end = None
        with self.subscribe() as member:
            yield from member.batches()
            self._end = member.end

    @property
    def end(self) -> End | None:
        """Why the last iteration ended; None if it was left, or goes on."""
        return self._end

    # ------------------------------------------------------------------ looking, moving

    def info(self) -> calls.GroupRow | None:
        """Position, lag and members; None if nobody has used it yet."""
        found: calls.GroupRow | None = self._hub._call(self._of(calls.GetGroup))
        return found

    def seek(self, to: str | int | datetime) -> calls.GroupRow:
        """Go elsewhere, for all members: what lies behind is open again.

        Parameters
        ----------
        to : "begin", "end", the id or the time of the first message to be read. A time without
            zone is one of this machine.
        """
        where, at = to_target(to)
        row: calls.GroupRow = self._hub._call(self._of(calls.Seek, to=where, at=at))
        return row

    def dead(self, limit: int = 1000) -> list[Message | DatasetMessage]:
        """Messages that were delivered as often as allowed and never acknowledged."""
        params = self._of(calls.ListDead, limit=limit)
        fetched, body = self._hub._call_body(params)
        return lookup.messages(params.source, params.stream, fetched, body)

    def redeliver(self, *messages: Message | DatasetMessage) -> int:
        """Offer dead messages again, all or these; return how many."""
        ranges = tuple((message.seq, message.seq + 1) for message in sorted(messages, key=_seq))
        found: int = self._hub._call(self._of(calls.Redeliver, ranges=ranges))
        return found

    def reopen(self, lo: int, hi: int) -> int:
        """Offer messages `lo` ≤ id < `hi` again, done ones too; return how many.

        What was made of them is made once more, and is known again by where it comes from.
        """
        if not 1 <= lo < hi:
            raise BadInput(f"ids {lo} … {hi - 1} are no range", hint="reopen(lo, hi), half-open")
        found: int = self._hub._call(self._of(calls.Reopen, lo=lo, hi=hi))
        return found

    def delete(self) -> None:
        """Forget the group: its name begins anew."""
        asked = self._asked
        stream = asked.stream if asked.scope == Scope.STREAM else ""
        self._hub._call(calls.DeleteGroup(group=self._named(), source=asked.source, stream=stream))

    def _of(self, kind: type[Any], **more: Any) -> Any:
        if self._asked.scope != Scope.STREAM:
            raise BadInput(
                f"{self!r} has a position in each stream",
                hint="ask for the group of one stream: source.stream(…).group(…)",
            )
        return kind(
            group=self._named(), source=self._asked.source, stream=self._asked.stream, **more
        )

    def _named(self) -> str:
        if not self.name:
            raise BadInput("a group without a name is only this reader's", hint='group("name")')
        return self.name


def make_group(
    hub: Hub,
    source: str,
    stream: str,
    scope: Scope,
    name: str,
    *,
    explain: Callable[[], str],
    mode: str = "unordered",
    ack: str = "auto",
    start: str | int | datetime = "begin",
    gaps: str = "wait",
    lease: float = LEASE_S,
    max_attempts: int = 0,
    timeout: float | None = None,
    follow: bool = False,
    min_parts: int = 0,
    wait: float = 0.0,
    payloads: bool = True,
    exclusive: bool = False,
    sticky: int = 0,
    key: str = "",
    settled: bool = False,
    headers: bool = False,
    batch_max: int = BATCH_MAX,
    ahead_messages: int = AHEAD_MESSAGES,
    ahead_nbytes: int = AHEAD_NBYTES,
) -> Group:
    """A group over a stream, a pattern or a source; parameters as in `Stream.group`."""
    if name:
        check_label("group", name)
    if ack not in _ACKS:
        raise BadInput(f"ack={ack!r} is not known", hint='"auto", "manual" or "none"')
    if lease <= 0:
        raise BadInput(f"a lease of {lease} s is none", hint='ack="none" does without leases')
    if timeout is not None and timeout < 0:
        raise BadInput(f"a timeout of {timeout} s is not possible")
    beginning, at = to_start(start)
    asked = Subscribe(
        channel=0,
        source=source,
        stream=stream,
        group=name,
        scope=scope,
        mode=_one_of("mode", mode, _MODES),
        gaps=_one_of("gaps", gaps, _GAPS),
        start=beginning,
        start_at=at,
        lease_s=0.0 if ack == "none" else float(lease),
        attempts_max=max_attempts,
        batch_max=batch_max,
        payloads=payloads,
        shared=payloads,
        follow=follow,
        min_parts=min_parts,
        wait_s=wait,
        exclusive=exclusive,
        sticky=sticky,
        key=key,
        settled=settled,
        headers=headers,
    )
    _check_sharing(asked)
    if max_attempts < 0 or min_parts < 0 or wait < 0 or ahead_messages < 1 or ahead_nbytes < 1:
        raise BadInput("numbers of a group must not be negative")
    ahead = (ahead_messages, min(ahead_nbytes, hub._ahead_nbytes_max))
    return Group(hub, name, asked, ack=ack, timeout=timeout, ahead=ahead, explain=explain)


def _check_sharing(asked: Subscribe) -> None:
    if not 1 <= asked.batch_max <= limits.NATIVE_BATCH_MAX:
        raise BadInput(f"batch_max={asked.batch_max}", hint=f"1 … {limits.NATIVE_BATCH_MAX}")
    if asked.exclusive + bool(asked.sticky) + bool(asked.key) > 1 or asked.sticky < 0:
        raise BadInput(
            f"exclusive={asked.exclusive}, sticky={asked.sticky}, key={asked.key!r} do not go "
            "together",
            hint="they are different answers to who is handed a message: choose one",
        )


def to_start(start: str | int | datetime) -> tuple[Start, int]:
    """Where a new group begins.

    >>> to_start("new"), to_start(7)
    ((<Start.NEW: 3>, 0), (<Start.ID: 1>, 7))
    """
    match start:
        case "begin":
            return Start.BEGINNING, 0
        case "new":
            return Start.NEW, 0
        case datetime():
            return Start.TIME, to_ns(start)
        case int() if start >= 1:
            return Start.ID, start
        case _:
            raise BadInput(
                f"start={start!r} is not known", hint='"begin", "new", an id, a datetime'
            )


def to_target(to: str | int | datetime) -> tuple[str, int]:
    """Where a seek goes to.

    >>> to_target("end"), to_target(7)
    (('end', 0), ('id', 7))
    """
    match to:
        case str() if to in ("begin", "end"):
            return to, 0
        case datetime():
            return "time", to_ns(to)
        case int() if to >= 1:
            return "id", to
        case _:
            raise BadInput(f"{to!r} is no place to go to", hint='"begin", "end", id, datetime')


def to_ns(when: datetime) -> int:
    """Nanoseconds since 1970 UTC.

    >>> to_ns(datetime(1970, 1, 1, 0, 0, 1, 500, tzinfo=UTC))
    1000500000
    """
    moment = when.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (moment.days * 86_400 + moment.seconds) * 1_000_000_000 + moment.microseconds * 1_000


def _one_of(what: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise BadInput(f"{what}={name!r} is not known", hint=", ".join(map(repr, known)))
    return known[name]


def _seq(message: Message | DatasetMessage) -> int:
    return message.seq
