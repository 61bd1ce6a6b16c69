"""`beamstream find`: messages by their metadata."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from beamstream.cli.options import ANY_NODE, Json, Node
from beamstream.cli.terminal import FAILED, plain, print_json, show_moment, talk


def find(
    address: Annotated[str, Parameter(help="SOURCE/STREAM; * stands for anything.")],
    query: Annotated[str, Parameter(help="As in `meta.energy_eV > 12000 AND meta.hit = 1`.")],
    /,
    *,
    limit: Annotated[int, Parameter(help="Messages that are shown.")] = 1000,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Search messages by their metadata; exit status 1 if there are none.

    The first column is an address that `beamstream get` takes.

    $ beamstream find 'eiger/scan*' 'meta.energy_eV > 12000'
    """
    from beamstream.cli import remote
    from beamstream.wire.address import Address

    wanted = remote.pattern_of(address)
    found: list[dict[str, Any]] = []
    with remote.connect(node, wanted.beamtime) as there:
        for row in there.streams(wanted):
            asked = Address("", row.source, row.stream)
            for message in there.search(asked, query, limit - len(found)):
                found.append(remote.described(message))
                if not json:
                    text = plain(remote.json_text(_meta(message)))
                    print(f"{found[-1]['address']}  {_when(message)}  {text}", flush=True)
            if len(found) >= limit:
                break
    if json:
        print_json(found)
    elif len(found) >= limit:
        talk(f"these are the first {limit}; --limit shows more")
    elif not found:
        talk("nothing matches")
    return 0 if found else FAILED


def _when(message: Any) -> str:
    from beamstream.cli.remote import time_ns

    return show_moment(time_ns(message))


def _meta(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = message.meta
    return found
