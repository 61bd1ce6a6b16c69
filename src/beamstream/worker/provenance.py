"""Where a message comes from: what made it, of what, back to the detector."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from beamstream.client.native import lookup
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.errors import NotFound
from beamstream.wire.native import calls

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

__all__ = ["DEPTH_MAX", "NODES_MAX", "WIDTH_MAX", "Node", "chain", "parts_of", "read_run"]

DEPTH_MAX: Final = 64
"""Steps behind each other that are followed."""

WIDTH_MAX: Final = 16
"""Inputs of one message that are shown; the rest is counted."""

NODES_MAX: Final = 1_024
"""Messages that are looked up for one chain."""

State = Literal["made", "copied", "joined", "written", "gone", "above", "not followed"]


class Node(msgspec.Struct, frozen=True):
    """A message, and those that it was made of.

    Parameters
    ----------
    source, stream, id : which message; `id` 0: its stream has been deleted since.
    state : "made" by a step, "copied" from another stream, "joined" of several messages,
        "written" by a client that did not say of what, "gone", shown "above" already, or "not
        followed" because the chain is too long.
    seq, size, digest, time_ns : its number, nbytes, XXH3-128 in hexadecimal digits, and when the
        node took it. Of a dataset: of all parts, and of the first.
    run, k, document : which run made it, as which of the results, and what the run says of itself.
    inputs : the first of them.
    inputs_count : how many there are.
    """

    source: str
    stream: str
    id: int
    state: State
    seq: int = 0
    size: int = 0
    digest: str = ""
    time_ns: int = 0
    run: int = 0
    k: int = 0
    document: dict[str, Any] | None = None
    inputs: tuple[Node, ...] = ()
    inputs_count: int = 0


class _Key(NamedTuple):
    source: str
    stream: str
    id: int


class _Fact(NamedTuple):
    """What the node of the beamtime knows of one message."""

    found: Message | DatasetMessage
    origin: calls.OriginRow
    run: dict[str, Any] | None
    followed: bool

    @property
    def inputs(self) -> list[_Key]:
        return [_Key(one.source, one.stream, one.id) for one in self.origin.inputs]


def chain(hub: Hub, source: str, stream: str, id: int, *, depth: int = DEPTH_MAX) -> Node:
    """What a message was made of, and what those were made of, back to the detector.

    Each message is followed once, the nearest first, so that a long chain is complete where it
    matters.

    Raises
    ------
    NotFound : there is no such message.
    """
    root = _Key(source, stream, id)
    facts: dict[_Key, _Fact | None] = {}
    runs: dict[int, dict[str, Any] | None] = {}
    waiting = deque([(root, 0)])
    while waiting and len(facts) < NODES_MAX:
        key, far = waiting.popleft()
        if key in facts:
            continue
        fact = facts[key] = _look(hub, key, runs, followed=far < depth)
        if fact is not None and fact.followed:
            waiting += [(one, far + 1) for one in fact.inputs[:WIDTH_MAX]]
    if facts[root] is None:
        raise NotFound(
            f"stream {stream!r} of source {source!r} has no message {id}",
            hint=f"beamstream stream info {source}/{stream}",
        )
    return _tree(root, facts, set())


def _look(
    hub: Hub, key: _Key, runs: dict[int, dict[str, Any] | None], *, followed: bool
) -> _Fact | None:
    if not key.id:
        return None
    ids = range(key.id, key.id + 1)
    found = next(lookup.pages(hub, key.source, key.stream, ids, payloads=False), None)
    origin = None if found is None else hub.source(key.source).stream(key.stream).origin(key.id)
    if found is None or origin is None:
        return None
    if origin.run not in runs:
        runs[origin.run] = read_run(hub, origin.run)
    return _Fact(found, origin, runs[origin.run], followed)


def read_run(hub: Hub, no: int) -> dict[str, Any] | None:
    """What a run says of itself; None for number 0, and when it is not there."""
    row = hub.run(no) if no else None
    return None if row is None else msgspec.json.decode(row.document, type=dict[str, Any])


def _tree(key: _Key, facts: dict[_Key, _Fact | None], shown: set[_Key]) -> Node:
    if key in shown:
        return Node(*key, "above")
    shown.add(key)
    if key not in facts:
        return Node(*key, "not followed")
    fact = facts[key]
    if fact is None:
        return Node(*key, "gone")
    keys = fact.inputs[:WIDTH_MAX] if fact.followed else []
    origin, parts = fact.origin, parts_of(fact.found)
    return Node(
        *key,
        _state(fact),
        seq=origin.seq,
        size=sum(part.size for part in parts),
        digest=parts[0].digest.hex() if parts else "",
        time_ns=origin.timestamp_ns,
        run=origin.run,
        k=origin.k,
        document=fact.run,
        inputs=tuple(_tree(one, facts, shown) for one in keys),
        inputs_count=len(origin.inputs),
    )


def _state(fact: _Fact) -> State:
    origin = fact.origin
    if not origin.run and not origin.inputs:
        return "written"
    if not fact.followed:
        return "not followed"
    if origin.k >= 0:
        return "made"
    return "copied" if origin.run or isinstance(fact.found, Message) else "joined"


def parts_of(found: Message | DatasetMessage) -> list[Message]:
    """The messages of an item."""
    return [found] if isinstance(found, Message) else list(found.parts)
