"""`beamstream get`: messages of a stream as files, bytes, or a list."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, flag
from beamstream.cli.terminal import FAILED, STDIO, plain, plural, print_json, talk

if TYPE_CHECKING:
    from beamstream.cli.remote import Remote
    from beamstream.wire.address import Address


def get(
    address: Annotated[str, Parameter(help="SOURCE/STREAM[RANGE]: [5], [-1], [1:100], [t>12:30].")],
    /,
    *,
    out: Annotated[
        str,
        Parameter(
            name=["--out", "-o"],
            help="FILE.h5, .npy, .tif, .cbf; FOLDER/; - for bytes.",
            show_default=False,
        ),
    ] = "",
    force: Annotated[bool, flag("Replace files.")] = False,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Write messages into files; without -o list them.

    .npy and .h5 hold all messages as one array (messages, rows, columns); .tif
    and .cbf, and any other name for bytes as they were sent, are one file each,
    numbered by id if there are several.

    $ beamstream get 'eiger/scan1[1:100]' -o scan1.h5
    $ beamstream get 'eiger/scan1[-1]' -o last.tif
    $ beamstream get 'eiger/scan1[7]' -o - | sha256sum
    """
    from beamstream.cli import remote

    asked = remote.address_of(address)
    if out == STDIO and sys.stdout.isatty():
        raise Usage("bytes of payloads are nothing for a terminal", hint="-o FILE, or | PROGRAM")
    with remote.connect(node, asked.beamtime, step="get") as there:
        if not out:
            return _list(there, asked, json=json)
        if out == STDIO:
            return _pour(there, asked)
        from beamstream.cli import get_files

        written, count, failed = get_files.write(there, asked, out, force=force)
    if json:
        print_json({"messages": count, "files": [str(path) for path in written]})
    else:
        for path in written:
            print(plain(str(path)))
        talk(f"wrote {plural(count, 'message')} into {plural(len(written), 'file')}")
    return FAILED if failed else 0


def _list(there: Remote, asked: Address, *, json: bool) -> int:
    from beamstream.cli import remote

    found = there.messages(asked, payloads=False)
    if json:
        print_json([remote.described(message) for message in found])
        return 0
    count = 0
    for message in found:
        count += 1
        path = remote.path_of(message.source, message.stream, message.id)
        print(f"{path}  {plain(remote.sentence(message).partition(' ')[2])}")
    if not count:
        talk("there are no such messages")
    return 0 if count else FAILED


def _pour(there: Remote, asked: Address) -> int:
    from beamstream.cli.get_files import each

    count = 0
    for message in each(there.messages(asked)):
        count += 1
        sys.stdout.buffer.write(message.data)
    sys.stdout.buffer.flush()
    if not count:
        talk("there are no such messages")
    return 0 if count else FAILED


def existing(path: Path, *, force: bool) -> Path:
    """Return `path` if it may be written, else raise `Usage`: files are not replaced."""
    if path.exists() and not force:
        raise Usage(f"file {str(path)!r} exists", hint="--force replaces it")
    return path
