"""Making a result again from what its run says, and comparing the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from beamstream.client.native import lookup, packing
from beamstream.client.native.messages import Message
from beamstream.errors import Error
from beamstream.wire.address import Address
from beamstream.wire.native import calls
from beamstream.worker import loading, runs
from beamstream.worker.calling import Code, Input
from beamstream.worker.provenance import parts_of, read_run
from beamstream.worker.replay_steps import header_of, keeps_state
from beamstream.worker.works import AT_THE_END, Work, meta_of

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.worker.results import Result
    from beamstream.worker.steps import Step

__all__ = ["Check", "verify"]

INPUTS_MAX: Final = 4_096
"""Inputs of one result that the node tells; with more it cannot be made again."""

_SHOWN: Final = 12


class Check(msgspec.Struct, frozen=True):
    """Whether a result is what its run makes of its inputs.

    Parameters
    ----------
    why : what differs, or why it cannot be checked.
    digest : of the payload that was made now, in hexadecimal digits; empty when none was.
    """

    verdict: Literal["same", "differs", "cannot be checked"]
    why: str = ""
    digest: str = ""


class _Unable(Exception):  # noqa: N818
    """Why it cannot be checked."""


def verify(hub: Hub, source: str, stream: str, id: int) -> Check:
    """Run the named code on the recorded inputs with the recorded parameters, and compare.

    Payload, its dtype and shape, and metadata have to be the same. The code is that of this
    environment, if its digest is the recorded one.

    Raises
    ------
    NotFound : there is no such message.
    """
    kept = hub.source(source).stream(stream)
    recorded = next(lookup.pages(hub, source, stream, range(id, id + 1), payloads=False), None)
    recorded = kept[id] if recorded is None else recorded
    try:
        origin = kept.origin(id)
        if origin is None or not (origin.run or origin.inputs):
            raise _Unable("nobody has said what it was made of")
        if origin.k < 0:
            return _same_as_inputs(hub, recorded, origin)
        made = _make(hub, origin)
    except _Unable as reason:
        return Check("cannot be checked", str(reason))
    except Error as error:
        return Check("cannot be checked", str(error))
    return _compare(parts_of(recorded)[0], *made)


def _make(hub: Hub, origin: calls.OriginRow) -> tuple[Result | None, bytes | None]:
    """The result as it is made now (None: there is none), and metadata of its (first) input."""
    document = read_run(hub, origin.run)
    if document is None or document.get("kind") != "step":
        raise _Unable(f"run {origin.run} does not say by which step it was made")
    step = _code(document)
    if origin.k >= AT_THE_END or keeps_state(step):
        raise _Unable(f"step {step.name!r} keeps something over a stream: replay the stream")
    inputs = [_input(hub, one) for one in _inputs_of(origin)]
    read = origin.inputs[0]
    header = header_of(hub, read.source, read.stream, document.get("header_version", 0))
    code = Code(step, document.get("parameters", {}))
    try:
        caller = code.stream(header)
        results = caller.window(inputs) if step.window else caller.one(inputs[0])
    except Exception as error:
        raise _Unable(f"the step fails here: {type(error).__name__}: {error}") from error
    finally:
        code.close()
    result = results[origin.k] if origin.k < len(results) else None
    return result, meta_of(Work(inputs, [], origin.run))


def _code(document: dict[str, Any]) -> Step:
    step = loading.load(document["where"])
    recorded, here = document.get("source", ""), runs.source_digest(runs.source_file(step))
    if not recorded:
        raise _Unable("its code was in no file")
    if recorded != here:
        commit = f", of commit {document['commit']}" if document.get("commit") else ""
        raise _Unable(
            f"the code here is another one: {document['where']} was {recorded[:_SHOWN]}{commit}, "
            f"and is {here[:_SHOWN] or 'in no file'}"
        )
    return step


def _inputs_of(origin: calls.OriginRow) -> tuple[calls.Input, ...]:
    if not origin.inputs:
        raise _Unable("its inputs are not known any more")
    if len(origin.inputs) >= INPUTS_MAX:
        raise _Unable(f"it was made of {INPUTS_MAX} inputs or more: replay the stream")
    return origin.inputs


def _input(hub: Hub, one: calls.Input) -> Input:
    """An input with its payload."""
    found = None
    if one.id:
        ids = range(one.id, one.id + 1)
        found = next(lookup.pages(hub, one.source, one.stream, ids, payloads=True), None)
    path = Address("", one.source, one.stream)
    if found is None:
        raise _Unable(f"an input of stream {path} is not there any more")
    if found.seq != one.seq:
        raise _Unable(f"message {one.id} of stream {path} is another one than was read then")
    for part in parts_of(found):
        _ = part.data  # Raises what is wrong with it.
    return found


def _compare(recorded: Message, result: Result | None, inherited: bytes | None) -> Check:
    if result is None:
        return Check("differs", "the step gives nothing for it")
    packed = packing.pack(result.data)
    digest = packing.digest(packed.buffer)
    meta = inherited or b"{}" if result.meta is None else packing.pack_meta(result.meta) or b"{}"
    differs = [
        what
        for what, same in (
            ("payload", len(packed.buffer) == recorded.size and _same(digest, recorded)),
            ("dtype or shape", packed.info == recorded._columns.info(recorded._item)),
            ("metadata", msgspec.json.decode(meta) == recorded.meta),
            ("name", result.name == recorded.name),
        )
        if not same
    ]
    why = " and ".join(differs)
    return Check("differs" if differs else "same", why, digest.hex())


def _same(digest: bytes, recorded: Message) -> bool:
    return not recorded.size or digest == recorded.digest


def _same_as_inputs(hub: Hub, recorded: Input, origin: calls.OriginRow) -> Check:
    """Copies and parts of joins share the payloads of what they were made of."""
    want = sorted(part.digest for part in parts_of(recorded))
    have: list[bytes] = []
    for one in origin.inputs:
        have += [part.digest for part in parts_of(_input(hub, one))]
    if want != sorted(have):
        return Check("differs", "payload")
    return Check("same", digest=parts_of(recorded)[0].digest.hex())
