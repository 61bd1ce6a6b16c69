"""`beamstream stream`: what streams there are, whether they are whole, and removing them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Yes, flag
from beamstream.cli.terminal import (
    FAILED,
    plain,
    plural,
    print_facts,
    print_json,
    print_rows,
    show_count,
    show_moment,
    show_nbytes,
    show_time,
    talk,
)

if TYPE_CHECKING:
    from beamstream.cli.remote import Remote
    from beamstream.wire.native.calls import StreamRow

app = App(name="stream", help="List, check and remove streams.")
Address = Annotated[str, Parameter(help="[BEAMTIME/]SOURCE/STREAM, names escaped as in URLs.")]


@app.command
def ls(
    pattern: Annotated[str, Parameter(help="SOURCE/STREAM; * stands for anything.")] = "*/*",
    /,
    *,
    node: Node = ANY_NODE,
    json: Json = False,
) -> None:
    """List streams.

    $ beamstream stream ls 'eiger/scan*'
    """
    from beamstream.cli import remote

    wanted = remote.pattern_of(pattern)
    with remote.connect(node, wanted.beamtime) as there:
        rows = there.streams(wanted)
    if json:
        print_json([document(row) for row in rows])
        return
    print_rows(
        ("STREAM", "MESSAGES", "LAST ID", "BEGAN", "LAST", "STATE"),
        [
            (
                remote.path_of(row.source, row.stream),
                show_count(row.count),
                row.max_id,
                show_time(row.created_ns),
                show_time(row.last_ns),
                state_of(row),
            )
            for row in rows
        ],
        right=("MESSAGES", "LAST ID"),
    )


@app.command
def info(address: Address, /, *, node: Node = ANY_NODE, json: Json = False) -> None:
    """Tell what is known of a stream.

    Counts, times, its end, its metadata and its last message.

    $ beamstream stream info eiger/scan1
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    with remote.connect(node, asked.beamtime) as there:
        row = there.row(asked)
        meta = there.meta(asked)
        last = there.last(asked)
    if json:
        shown = None if last is None else remote.described(last)
        print_json(document(row) | {"meta": meta, "last": shown})
        return
    print_facts(_facts(row))
    if last is not None:
        print_facts([("last message", remote.sentence(last))])
    if meta is not None:
        print_facts([("metadata", remote.json_text(meta))])


@app.command
def gaps(
    address: Address,
    /,
    *,
    limit: Annotated[int, Parameter(help="Ranges that are shown.")] = 1000,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """List missing ids.

    Those below the largest that are neither there nor skipped, as ranges; exit
    status 1 if there are any.

    $ beamstream stream gaps eiger/scan1
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    with remote.connect(node, asked.beamtime) as there:
        found, more = there.gaps(asked, limit)
    if json:
        print_json({"gaps": [list(gap) for gap in found], "more": more})
    else:
        for lo, hi in found:
            print(f"{remote.path_of(asked.source, asked.stream)}[{lo}:{hi}]")
        missing = sum(hi - lo for lo, hi in found)
        end = " in these ranges; there are more" if more else ""
        talk(f"missing: {plural(missing, 'id')}{end}")
    return FAILED if found else 0


@app.command
def verify(
    address: Annotated[str, Parameter(help="SOURCE/STREAM, or a range of one: [1:100].")],
    /,
    *,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Compare payloads with their checksums.

    The node reads them back. What is damaged is listed; exit status 1 if there
    is any. Payloads that were kept in memory only and are gone are counted, not
    listed.

    $ beamstream stream verify 'eiger/scan1[1000:2000]'
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    checked = nbytes = gone = 0
    damaged: list[tuple[int, int, str, str]] = []
    with remote.connect(node, asked.beamtime) as there:
        for found in _verified(there, asked):
            checked += found.checked
            nbytes += found.nbytes
            gone += found.gone
            damaged += found.damaged
            for id, substream, code, message in () if json else found.damaged:
                part = f" part {substream}" if substream else ""
                place = f"{remote.path_of(asked.source, asked.stream)}[{id}]{part}"
                print(f"{place}: {code} {plain(message)}")
    if json:
        keys = ("id", "substream", "code", "message")
        rows = [dict(zip(keys, row, strict=True)) for row in damaged]
        print_json({"checked": checked, "nbytes": nbytes, "gone": gone, "damaged": rows})
    else:
        lost = f"; {gone} were kept in memory only and are gone" if gone else ""
        talk(
            f"read back {plural(checked, 'payload')} ({show_nbytes(nbytes)}): "
            f"{len(damaged) or 'none'} damaged{lost}"
        )
    return FAILED if damaged else 0


def _verified(there: Remote, asked: Any) -> Iterator[Any]:
    ids = there.ids(asked)
    lo = ids.start
    while lo < ids.stop:
        found = there.verify(asked, lo, ids.stop)
        yield found
        if found.next_id <= lo:
            return
        lo = found.next_id


@app.command
def rm(
    address: Address,
    /,
    *,
    files: Annotated[bool, flag("Its files, too.")] = False,
    yes: Yes = False,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Forget a stream.

    Its records, groups and metadata; with --files also the files that the node
    wrote for it. Without --yes it only shows what it would do.

    $ beamstream stream rm eiger/scan1 --files --yes
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    remote.no_range(asked)
    with remote.connect(node, asked.beamtime) as there:
        row = there.row(asked)
        if not yes:
            also = "and the files that the node wrote for it" if files else "not its files"
            path = remote.path_of(row.source, row.stream)
            messages = plural(row.count, "message")
            talk(f"would remove {path}: {messages}, {state_of(row)}; {also}")
            talk("nothing was changed; --yes does it")
            return FAILED
        removed = there.delete(asked, files=files)
    if json:
        print_json({"messages": row.count, "files": removed})
    else:
        gone = f" and {plural(removed, 'file')}" if files else ""
        talk(f"removed {plural(row.count, 'message')}{gone}")
    return 0


def state_of(row: StreamRow) -> str:
    """Whether a stream goes on."""
    if row.last_id < 0:
        return "open"
    return f"finished, next is {row.next_stream}" if row.next_stream else "finished"


def document(row: StreamRow) -> dict[str, Any]:
    """A stream as JSON has it."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(row)
    return found | {"finished": row.last_id >= 0}


def _facts(row: StreamRow) -> list[tuple[str, object]]:
    from beamstream.cli import remote

    missing = row.max_id - row.count - row.skipped
    return [
        ("stream", remote.path_of(row.source, row.stream)),
        ("state", state_of(row)),
        ("datasets" if row.datasets else "messages", show_count(row.count)),
        ("largest id", row.max_id),
        ("missing ids", f"{show_count(missing)} (stream gaps lists them)" if missing else "none"),
        ("skipped ids", show_count(row.skipped)),
        ("began", show_moment(row.created_ns)),
        ("last", show_moment(row.last_ns)),
    ]
