"""`beamstream group`: how far groups of readers are, and moving them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, Yes
from beamstream.cli.terminal import (
    FAILED,
    plural,
    print_facts,
    print_json,
    print_rows,
    show_count,
    show_moment,
    show_span,
    talk,
)

if TYPE_CHECKING:
    from beamstream.cli.remote import Remote
    from beamstream.wire.address import Address as ParsedAddress
    from beamstream.wire.native.calls import GroupRow

app = App(name="group", help="Look after groups of readers.")
Address = Annotated[str, Parameter(help="[BEAMTIME/]SOURCE/STREAM.")]
Name = Annotated[str, Parameter(help="Name of the group.")]


@app.command
def ls(
    address: Annotated[str, Parameter(help="SOURCE/STREAM, SOURCE, or nothing: all.")] = "",
    /,
    *,
    node: Node = ANY_NODE,
    json: Json = False,
) -> None:
    """List groups and how far each is behind.

    $ beamstream group ls eiger/scan1
    """
    from beamstream.cli import remote

    wanted = remote.pattern_of(address or "*/*")
    with remote.connect(node, wanted.beamtime) as there:
        rows = [row for row in there.groups() if wanted.matches(row.source, row.stream)]
    if json:
        print_json([document(row) for row in rows])
        return
    print_rows(
        ("GROUP", "STREAM", "BEHIND", "BY", "LEASED", "OLDEST", "AGAIN", "DEAD", "MEMBERS"),
        [
            (
                row.group,
                remote.path_of(row.source, row.stream),
                show_count(row.open + row.leased),
                show_span(row.lag_s) if row.open else "-",
                show_count(row.leased),
                show_span(row.unacked_s) if row.leased else "-",
                show_count(row.redelivered),
                show_count(row.dead),
                len(row.members),
            )
            for row in rows
        ],
        right=("BEHIND", "BY", "LEASED", "OLDEST", "AGAIN", "DEAD", "MEMBERS"),
    )


@app.command
def info(address: Address, group: Name, /, *, node: Node = ANY_NODE, json: Json = False) -> None:
    """Tell how far a group is.

    $ beamstream group info eiger/scan1 azint
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    with remote.connect(node, asked.beamtime) as there:
        row = there.group(asked, group)
    _show(row, json=json)


@app.command
def seek(
    address: Address,
    group: Name,
    /,
    *,
    to: Annotated[str, Parameter(help="begin, end, an ID, or a time: 12:30, 2026-11-22T12:30Z.")],
    yes: Yes = False,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Move a group to another place.

    For all its members: what lies behind the place is read (again). Without
    --yes it only shows where the group is and what would change.

    $ beamstream group seek eiger/scan1 azint --to begin --yes
    """
    from beamstream.cli import remote
    from beamstream.wire.native import calls

    where, at = place_of(to)
    asked = remote.address_of(address)
    remote.no_range(asked)
    with remote.connect(node, asked.beamtime) as there:
        if not yes:
            _would_seek(there, asked, group, to)
            return FAILED
        row: GroupRow = there.hub._call(
            calls.Seek(source=asked.source, stream=asked.stream, group=group, to=where, at=at)
        )
    _show(row, json=json)
    return 0


def place_of(to: str) -> tuple[str, int]:
    """Read a place in a stream: what to go by, and the id or time.

    >>> place_of("end"), place_of("17"), place_of("1970-01-01T00:00:01Z")
    (('end', 0), ('id', 17), ('time', 1000000000))
    """
    from beamstream.cli import remote
    from beamstream.wire.address import TimeRange

    if to in ("begin", "end"):
        return to, 0
    if to.isdecimal() and int(to):
        return "id", int(to)
    try:
        found = remote.address_of(f"s/s[t>={to}]").range
    except Usage:
        found = None
    if not isinstance(found, TimeRange) or found.start_ns is None:
        raise Usage(f"{to[:60]!r} is no place in a stream", hint="begin, end, an id or a time")
    return "time", found.start_ns


def _would_seek(there: Remote, asked: ParsedAddress, group: str, to: str) -> None:
    row = there.group(asked, group)
    left = f"{show_count(row.open)} open, {show_count(row.leased)} leased"
    talk(f"group {group!r} is at message number {row.position}: {left}")
    if to == "end":
        talk(f"would leave out these {show_count(row.open + row.leased)} messages")
    else:
        talk(f"would go to {to}: what lies behind is read again, what lies before is left out")
    talk("nothing was changed; --yes does it")


@app.command
def dead(
    address: Address,
    group: Name,
    /,
    *,
    limit: Annotated[int, Parameter(help="Messages that are shown.")] = 1000,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """List dead messages.

    They were delivered as often as allowed, and never acknowledged. Exit status
    1 if there are any.

    $ beamstream group dead eiger/scan1 azint
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    with remote.connect(node, asked.beamtime) as there:
        there.group(asked, group)
        found = there.stream(asked).group(group).dead(limit)
    if json:
        print_json([remote.described(message) for message in found])
    else:
        for message in found:
            print(remote.path_of(message.source, message.stream, message.id))
        talk(f"dead: {plural(len(found), 'message')}")
    return FAILED if found else 0


@app.command
def redeliver(
    address: Annotated[str, Parameter(help="SOURCE/STREAM, or some of it: [1:100].")],
    group: Name,
    /,
    *,
    node: Node = ANY_NODE,
    json: Json = False,
) -> None:
    """Offer dead messages again.

    All of them, or those of a range of ids.

    $ beamstream group redeliver 'eiger/scan1[17]' azint
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    with remote.connect(node, asked.beamtime) as there:
        there.group(asked, group)
        readers = there.stream(asked).group(group)
        if asked.range is None:
            count = readers.redeliver()
        else:
            ids = there.ids(asked)
            some = [message for message in readers.dead(100_000) if message.id in ids]
            count = readers.redeliver(*some) if some else 0
    if json:
        print_json({"redelivered": count})
    else:
        talk(f"offered again: {plural(count, 'message')}")


@app.command
def rm(
    address: Address,
    group: Name,
    /,
    *,
    yes: Yes = False,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Forget a group in a stream.

    Its name begins anew. Without --yes it only shows what it would do.

    $ beamstream group rm eiger/scan1 azint --yes
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    remote.no_range(asked)
    with remote.connect(node, asked.beamtime) as there:
        row = there.group(asked, group)
        if not yes:
            talk(
                f"would forget that group {group!r} has acknowledged "
                f"{plural(row.acked, 'message')}, and its {plural(len(row.members), 'member')}"
            )
            talk("nothing was changed; --yes does it")
            return FAILED
        there.stream(asked).group(group).delete()
    if json:
        print_json({"removed": group})
    else:
        talk(f"group {group!r} is forgotten")
    return 0


def document(row: GroupRow) -> dict[str, Any]:
    """A group as JSON has it."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(row)
    return found


def _show(row: GroupRow, *, json: bool) -> None:
    if json:
        print_json(document(row))
        return
    from beamstream.cli.remote import path_of

    print_facts(
        [
            ("group", row.group),
            ("stream", path_of(row.source, row.stream)),
            ("next message", f"number {row.position}"),
            ("open", f"{show_count(row.open)}, the oldest for {show_span(row.lag_s)}"),
            ("leased", f"{show_count(row.leased)}, the oldest for {show_span(row.unacked_s)}"),
            ("acknowledged", show_count(row.acked)),
            ("handed out", f"{show_count(row.done)} without a lease"),
            ("delivered again", show_count(row.redelivered)),
            ("dead", show_count(row.dead)),
            ("members", ", ".join(row.members) or "none"),
            ("last used", show_moment(row.last_used_ns)),
        ]
    )
