"""`beamstream watch`: a line each second about a stream and its readers, as long as it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, maybe
from beamstream.cli.terminal import (
    plain,
    print_json_line,
    show_count,
    show_nbytes,
    show_span,
    talk,
    until_stopped,
)

if TYPE_CHECKING:
    from beamstream.cli.remote import Remote
    from beamstream.wire.address import Address
    from beamstream.wire.native.calls import GroupRow, StreamRow

_PATIENCE_S: Final = 300.0


@dataclass(frozen=True)
class Look:
    """What one look at a stream has found.

    Parameters
    ----------
    at : monotonic clock, seconds.
    clock_ns : the node's clock.
    newest_ns, newest_nbytes : when the newest message came, and its size; 0 for none.
    """

    at: float
    clock_ns: int
    count: int
    head: int
    finished: bool
    newest_ns: int
    newest_nbytes: int
    groups: tuple[GroupRow, ...] = ()


def watch(
    address: Annotated[str, Parameter(help="[BEAMTIME/]SOURCE/STREAM.")],
    /,
    *,
    group: Annotated[str, maybe("This group only.")] = "",
    every: Annotated[float, Parameter(help="Seconds between lines.")] = 1.0,
    count: Annotated[int, maybe("End after so many lines, not with the stream.")] = 0,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Tell each second how a stream goes, and its readers.

    Messages and bytes per second, the latter reckoned from the size of the
    newest message; its age; the largest id; how far each group is behind. It
    waits for a stream that does not exist yet, ends with the stream, or by
    Ctrl-C, and takes no part in any group.

    $ beamstream watch eiger/scan1
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    remote.no_range(asked)
    with (
        until_stopped(),
        remote.connect(node, asked.beamtime, patience_s=_PATIENCE_S, step="watch") as there,
    ):
        watched = _Watched(there, asked, group, json=json)
        lines = 0
        for _ in _ticks(max(every, 0.05)):
            look = watched.line()
            lines += look is not None
            if look is not None and (look.finished or lines == count):
                break
    return 0


def _ticks(every_s: float) -> Iterator[None]:
    """Now, and at even times after; those that are over when it comes to them are left out."""
    began = time.monotonic()
    while True:
        yield
        over_s = (time.monotonic() - began) % every_s
        time.sleep(every_s - over_s)


class _Watched:
    def __init__(self, there: Remote, asked: Address, group: str, *, json: bool) -> None:
        self._there = there
        self._asked = asked
        self._group = group
        self._json = json
        self._before: Look | None = None
        self._told = False

    def line(self) -> Look | None:
        """Print a line about what is seen; None while there is no stream."""
        row = self._there.stream(self._asked).info()
        if row is None:
            self._tell_of_nothing()
            return None
        look = self._look(row)
        if self._json:
            print_json_line(document(look, self._before))
        else:
            clock = time.strftime("%H:%M:%S")
            print(plain(f"{clock}  {sentence(look, self._before)}"), flush=True)
        self._before = look
        return look

    def _look(self, row: StreamRow) -> Look:
        from beamstream.cli.remote import time_ns
        from beamstream.client.native.messages import Message

        last = self._there.last(self._asked)
        sizes = [last] if isinstance(last, Message) else [] if last is None else last.parts
        groups = self._there.groups(self._asked.source, self._asked.stream)
        return Look(
            at=time.monotonic(),
            clock_ns=self._there.hub.info().time_ns,
            count=row.count,
            head=row.max_id,
            finished=row.last_id >= 0,
            newest_ns=0 if last is None else time_ns(last),
            newest_nbytes=sum(message.size for message in sizes),
            groups=tuple(row for row in groups if self._group in ("", row.group)),
        )

    def _tell_of_nothing(self) -> None:
        if not self._told:
            from beamstream.client.native.stream import explain

            self._told = True
            talk(f"{explain(self._there.hub, self._asked.source, self._asked.stream)}; waiting")


def rate_of(look: Look, before: Look | None) -> float | None:
    """Messages per second since the look before; None at the first one.

    >>> first = Look(10.0, 0, 100, 100, False, 0, 0)
    >>> rate_of(Look(12.0, 0, 150, 150, False, 0, 0), first)
    25.0
    """
    if before is None or look.at <= before.at:
        return None
    # A stream that was removed and begun anew has fewer.
    return max(look.count - before.count, 0) / (look.at - before.at)


def age_of(look: Look) -> float | None:
    """Seconds since the newest message came, by the node's clock; None if there is none."""
    return max(look.clock_ns - look.newest_ns, 0) / 1e9 if look.newest_ns else None


def sentence(look: Look, before: Look | None) -> str:
    """A look as a line, without the time.

    >>> look = Look(2.0, 2_500_000_000, 300, 300, False, 2_000_000_000, 1_000_000)
    >>> sentence(look, Look(1.0, 0, 200, 200, False, 0, 0))
    '     100 /s   100 MB/s  age 500 ms  head 300'
    """
    rate, age = rate_of(look, before), age_of(look)
    if rate is None:
        words = [f"{'':>8}   {'':>10}"]
    else:
        nbytes = show_nbytes(rate * look.newest_nbytes)
        words = [f"{show_count(rate):>8} /s {nbytes + '/s':>10}"]
    if age is not None:
        words.append(f"age {show_span(age)}")
    words.append(f"head {show_count(look.head)}")
    words += [_behind(row) for row in look.groups]
    if look.finished:
        words.append("finished")
    return "  ".join(words)


def _behind(row: GroupRow) -> str:
    behind = row.open + row.leased
    return f"{row.group} -{show_count(behind)}" + (f" ({show_span(row.lag_s)})" if behind else "")


def document(look: Look, before: Look | None) -> dict[str, Any]:
    """A look as JSON has it."""
    from beamstream.cli import group

    rate = rate_of(look, before)
    return {
        "time_ns": look.clock_ns,
        "rate_hz": rate,
        "nbytes_per_s": None if rate is None else rate * look.newest_nbytes,
        "age_s": age_of(look),
        "count": look.count,
        "head": look.head,
        "finished": look.finished,
        "groups": [group.document(row) for row in look.groups],
    }
