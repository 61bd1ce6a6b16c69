"""`beamstream provenance`: what a message was made of, back to the detector."""

from __future__ import annotations

import json as as_json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, flag
from beamstream.cli.terminal import FAILED, plain, print_json, show_moment, show_nbytes, talk

if TYPE_CHECKING:
    from beamstream.worker.provenance import Node as Made
    from beamstream.worker.provenance_check import Check

_SAYS: Final = {
    "written": "written by a client; nobody has said what it was made of",
    "gone": "is not there any more",
    "above": "see above",
    "not followed": "goes on from here: ask for this one",
}


def provenance(
    address: Annotated[str, Parameter(help="One message: SOURCE/STREAM[ID].")],
    /,
    *,
    check: Annotated[bool, flag("Make it again, and compare the bytes.")] = False,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Show what a message was made of.

    Each step back to the detector: the message, what made it (step, code,
    parameters), and of which others. With --check the named code is run again,
    on the recorded inputs with the recorded parameters, in this environment;
    exit status 1 if the result differs or cannot be checked.

    $ beamstream provenance 'hits/scan1[17]'
    """
    from beamstream.cli import remote
    from beamstream.worker import provenance as chains
    from beamstream.worker import provenance_check

    asked = remote.address_of(address)
    with remote.connect(node, asked.beamtime) as there:
        ids = there.ids(asked)
        if len(ids) != 1:
            raise Usage(f"{asked} is not one message", hint="SOURCE/STREAM[ID]")
        found = chains.chain(there.hub, asked.source, asked.stream, ids[0])
        checked = (
            provenance_check.verify(there.hub, asked.source, asked.stream, ids[0])
            if check
            else None
        )
    if json:
        print_json(document(found, checked))
    else:
        for line in tree(found):
            print(plain(line))
        if checked is not None:
            talk(sentence(checked))
    return FAILED if checked is not None and checked.verdict != "same" else 0


def document(found: Made, checked: Check | None = None) -> dict[str, Any]:
    """A chain as JSON has it."""
    import msgspec

    shown: dict[str, Any] = msgspec.to_builtins(found)
    return shown if checked is None else shown | {"check": msgspec.to_builtins(checked)}


def sentence(checked: Check) -> str:
    """How a check has ended."""
    match checked.verdict:
        case "same":
            return "made again: the same"
        case "differs":
            return f"made again: differs: {checked.why}"
        case _:
            return f"cannot be checked: {checked.why}"


def tree(found: Made, before: str = "", below: str = "") -> Iterator[str]:
    """A chain as lines; `before` stands at the first one, `below` at the others."""
    from beamstream.cli.remote import path_of

    where = path_of(found.source, found.stream, found.id)
    if found.state in ("gone", "above"):
        yield f"{before}{where}  {_SAYS[found.state]}"
        return
    size = f"{show_nbytes(found.size)}  {found.digest[:16]}" if found.digest else ""
    yield f"{before}{where}  {size}  {show_moment(found.time_ns)}".rstrip()
    branch = "│ " if found.inputs else "  "
    for line in _made(found):
        yield f"{below}{branch}{line}"
    more = found.inputs_count - len(found.inputs)
    last = len(found.inputs) - 1
    for index, one in enumerate(found.inputs):
        ends = index == last and (not more or found.state == "not followed")
        yield from tree(one, below + ("└ " if ends else "├ "), below + ("  " if ends else "│ "))
    if more and found.inputs:
        yield f"{below}└ and {more:,} more"


def _made(found: Made) -> Iterator[str]:
    run = found.document or {}
    match found.state:
        case "made":
            which = f", result {found.k + 1}" if found.k else ""
            yield f"made by step {run.get('step', 'unknown')}, run {found.run}{which}"
        case "copied":
            yield f"recorded once more, run {found.run}" if found.run else "shares its payload"
        case "joined":
            yield "joined of"
        case state:
            yield _SAYS[state]
    if found.state == "made":
        yield from _code(run)
    of = run.get("replay_of")
    if of:
        yield f"replay of {of['source']}/{of['stream']}[{of['ids'][0]}:{of['ids'][1]}]"


def _code(run: dict[str, Any]) -> Iterator[str]:
    digest = f"sha256 {run['source'][:16]}" if run.get("source") else "not in a file"
    commit = f"commit {run['commit']}" if run.get("commit") else ""
    yield "  ".join(word for word in (f"code {run.get('where', '')}", digest, commit) if word)
    software = run.get("software", {})
    versions = [f"{name} {version}" for name, version in software.items()]
    yield "with " + ", ".join([f"python {run.get('python', '')}", *versions])
    values = run.get("parameters", {})
    if values:
        version = run.get("parameters_version", 0)
        text = ", ".join(f"{key} {as_json.dumps(value)}" for key, value in values.items())
        yield f"parameters {text}" + (f" (version {version})" if version else "")
    if run.get("header_version"):
        yield f"header of the stream, version {run['header_version']}"
