"""Questions and answers: methods, their parameters, their results.

Parameters and results are maps: later versions add keys; keys that are not known are ignored. An
unknown method is answered by `CallFailed`. Sources and streams are names, never patterns, unless
said so. Times are nanoseconds since 1970 UTC.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from beamstream.errors import RemoteProtocolError
from beamstream.wire.native.batches import Batch
from beamstream.wire.native.frames import Settle
from beamstream.wire.native.params import Params as Params
from beamstream.wire.native.sampling import GetStats, Stats

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges, ascending."""


class OfStream(Params, frozen=True, kw_only=True):
    source: str
    stream: str


# ------------------------------------------------------------------------------ writing


class Finish(OfStream, frozen=True, kw_only=True):
    """Announce the last id of a stream; `last_id` -1: the largest there is. Result: `Finished`."""

    last_id: int = -1
    next_stream: str = ""


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    last_id: int
    duplicate: bool = False


class Skip(OfStream, frozen=True, kw_only=True):
    """These ids will never come. Result: None. Skipping again is harmless.

    `settles` are acknowledged, or given up, with it: all or nothing. Then `ranges` may be empty.
    """

    ranges: Ranges
    settles: tuple[Settle, ...] = ()


class SetMeta(OfStream, frozen=True, kw_only=True):
    """Write metadata of a stream, or with `stream` empty of the beamtime.

    `mode`: ``insert``, ``replace``, ``update`` (merges objects). Result: None.
    """

    document: bytes
    mode: str = "replace"
    upsert: bool = True


class GetMeta(OfStream, frozen=True, kw_only=True):
    """Result: JSON text (bytes), or None."""


class GetHeader(OfStream, frozen=True, kw_only=True):
    """A version of the metadata of a stream (0: the newest). Result: `HeaderRow`, or None."""

    version: int = 0


class HeaderRow(msgspec.Struct, frozen=True, kw_only=True):
    """`version` counts from 1; `document` is a JSON object."""

    version: int
    document: bytes
    changed_ns: int


class DeleteStream(OfStream, frozen=True, kw_only=True):
    """Forget a stream; `files`: also remove the files this node wrote for it. Result: `Deleted`."""

    files: bool = False
    meta: bool = True


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    files: int = 0


# ------------------------------------------------------------------------------ looking


class ListSources(Params, frozen=True, kw_only=True):
    """Result: list of names."""


class ListStreams(Params, frozen=True, kw_only=True):
    """Streams of a source (or all, with `source` empty) that match `pattern`.

    Result: list of `StreamRow`.
    """

    source: str = ""
    pattern: str = "*"


class GetStream(OfStream, frozen=True, kw_only=True):
    """Result: `StreamRow`, or None."""


class StreamRow(msgspec.Struct, frozen=True, kw_only=True):
    """One stream. `last_id` is -1 while it is unfinished; `nbytes` -1 when it was not asked."""

    source: str
    stream: str
    count: int
    seq: int
    max_id: int
    last_id: int
    next_stream: str
    created_ns: int
    last_ns: int
    datasets: bool
    skipped: int = 0


class Fetch(OfStream, frozen=True, kw_only=True):
    """Messages by id: `lo` ≤ id < `hi`, at most `limit`; ascending. Result: `Fetched`.

    With `nbytes_max` payloads follow until that much is reached (at least one); `payloads` False:
    none. `offset` and `length` cut a slice out of the payload of a single message.
    """

    lo: int
    hi: int
    limit: int = 100
    payloads: bool = True
    nbytes_max: int = 0
    offset: int = 0
    length: int = -1


class FetchLast(OfStream, frozen=True, kw_only=True):
    """The `count` messages with the largest ids, ascending. Result: `Fetched`."""

    count: int = 1
    payloads: bool = True


class Search(OfStream, frozen=True, kw_only=True):
    """Messages whose metadata match (`beamstream.store.query`). Result: `Fetched`, no payloads."""

    query: str
    after_id: int = 0
    limit: int = 1000


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """`batch` None: nothing. `more`: ask again from the id behind the last one."""

    batch: Batch | None
    more: bool = False


class ListGaps(OfStream, frozen=True, kw_only=True):
    """Ids below the largest that are neither there nor skipped. Result: `GapRows`."""

    lo: int = 1
    hi: int = 2**62
    limit: int = 1000


class GapRows(msgspec.Struct, frozen=True, kw_only=True):
    gaps: Ranges
    more: bool = False


class Verify(OfStream, frozen=True, kw_only=True):
    """Read payloads back and compare them with their digests. Result: `Verified`.

    Looks at up to `limit` messages from id `lo` on; ask again from `next_id`.
    """

    lo: int = 1
    hi: int = 2**62
    limit: int = 100


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    checked: int
    nbytes: int
    next_id: int
    damaged: tuple[tuple[int, int, str, str], ...] = ()
    """(id, substream, code, message) of each payload that is not as it was sent."""
    gone: int = 0
    """Payloads that were kept in memory only, and are not there any more."""


# ---------------------------------------------------------------------- runs and replays


class DefineRun(Params, frozen=True, kw_only=True):
    """Write down what makes results: a JSON object. Result: `RunRow`; the same one for the same."""

    document: bytes


class GetRun(Params, frozen=True, kw_only=True):
    """Result: `RunRow`, or None."""

    no: int


class ListRuns(Params, frozen=True, kw_only=True):
    """Runs with numbers below `before` (0: all), newest first. Result: list of `RunRow`."""

    before: int = 0
    limit: int = 100


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    no: int
    document: bytes
    created_ns: int


class GetOrigin(OfStream, frozen=True, kw_only=True):
    """What a message was made of. Result: `OriginRow`, or None when there is no such message."""

    id: int


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """One input of a result; `id` 0: the stream has been deleted since."""

    source: str
    stream: str
    seq: int
    id: int
    substream: int = 0


class OriginRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message comes from.

    `run` 0: nobody has said. `k`: which of the results of its input; -1 when it shares the payload
    of its input (parts of joins, copies), or has none. `inputs`: at most 4,096; for a dataset
    those of its parts.
    """

    id: int
    seq: int
    run: int
    k: int
    digest: bytes
    timestamp_ns: int
    inputs: tuple[Input, ...] = ()


class Copy(OfStream, frozen=True, kw_only=True):
    """Let messages lo ≤ id < hi come once more, as messages of another stream.

    Ids, metadata and payloads stay; the payloads are not stored again. Those that are there
    already are passed over. Result: `Copied`; ask again from `next_id` until that is `hi`.
    """

    lo: int
    hi: int
    to_source: str
    to_stream: str
    run: int = 0
    limit: int = 1000


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """`count` were looked at, of `nbytes` bytes; `last_ns`: the time of the last one."""

    count: int
    nbytes: int
    next_id: int
    last_ns: int = 0


class Measure(OfStream, frozen=True, kw_only=True):
    """What messages lo ≤ id < hi amount to. Result: `Measured`."""

    lo: int = 1
    hi: int = 2**62


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Messages and bytes, by where their payloads are; `gone`: nowhere any more."""

    count: int
    nbytes: int
    cached: int
    files: int
    log: int
    gone: int
    first_ns: int = 0
    last_ns: int = 0


class Reopen(OfStream, frozen=True, kw_only=True):
    """Offer messages lo ≤ id < hi to a group again. Result: how many."""

    group: str
    lo: int
    hi: int


class ListBeamtimes(Params, frozen=True, kw_only=True):
    """Beamtimes of which there are records; all with the right `admin`. Result: list of names."""


class EndSession(Params, frozen=True, kw_only=True):
    """A client that is known to be dead will not come again: what it held is offered at once.

    `session` is what it said in its `Hello`; it must be of the same beamtime and token. One that is
    connected, or unknown, is left alone. Result: None.
    """

    session: bytes


# ------------------------------------------------------------------------------- groups


class OfGroup(OfStream, frozen=True, kw_only=True):
    group: str


class GetGroup(OfGroup, frozen=True, kw_only=True):
    """Result: `GroupRow`, or None."""


class ListGroups(Params, frozen=True, kw_only=True):
    """Groups of a stream, of a source (`stream` empty), or of all. Result: list of `GroupRow`."""

    source: str = ""
    stream: str = ""


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """State of a group in a stream.

    `position`: the first seq that is not done; `open`, `leased`, `acked`, `done`, `dead` count
    messages. `lag_s`: seconds since the oldest open message arrived. `unacked_s`: seconds since the
    oldest lease was given. `members`: instances that are connected now.
    """

    group: str
    source: str
    stream: str
    position: int
    open: int
    leased: int
    acked: int
    done: int
    dead: int
    lag_s: float
    unacked_s: float
    redelivered: int
    members: tuple[str, ...]
    last_used_ns: int


class Seek(OfGroup, frozen=True, kw_only=True):
    """Go to an id, a time, the beginning or the end: what is behind it is open again.

    `to`: ``begin``, ``end``, ``id``, ``time``. Result: `GroupRow`.
    """

    to: str
    at: int = 0


class DeleteGroup(Params, frozen=True, kw_only=True):
    """Forget a group in a stream, or (`source` empty) in all. Result: None."""

    group: str
    source: str = ""
    stream: str = ""


class ListDead(OfGroup, frozen=True, kw_only=True):
    """Dead letters: delivered as often as allowed. Result: `Fetched` (without payloads)."""

    limit: int = 1000


class Redeliver(OfGroup, frozen=True, kw_only=True):
    """Open dead letters again: those seqs, or all. Result: how many."""

    ranges: Ranges = ()


# -------------------------------------------------------------------------------- joins


class Join(OfStream, frozen=True, kw_only=True):
    """Make a stream of datasets out of several streams, by id.

    `inputs` are (source, stream); the k-th becomes substream k. It is kept up by the node until it
    is deleted, over restarts too. Asking again for the same is harmless. Result: None.
    """

    inputs: tuple[tuple[str, str], ...]


class Late(OfStream, frozen=True, kw_only=True):
    """Which parts incomplete datasets of a stream lack. Result: list of `LateRow`."""

    limit: int = 100


class LateRow(msgspec.Struct, frozen=True, kw_only=True):
    """`missing`: substreams; `inputs`: for a join their (source, stream)."""

    id: int
    missing: tuple[int, ...]
    inputs: tuple[tuple[str, str], ...] = ()
    waiting_s: float = 0.0


# ------------------------------------------------------------------------------- server


class GetServer(Params, frozen=True, kw_only=True):
    """Result: `ServerRow`."""


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    software: str
    node: int
    boot: int
    up_s: float
    time_ns: int
    cache_nbytes: int
    cache_pinned_nbytes: int
    cache_slots: int
    evicted: int
    disk_free_nbytes: int
    level: int
    connections: int
    beamtimes: tuple[str, ...] = ()


METHODS: Final[dict[str, tuple[type[Any], Any]]] = {
    "finish": (Finish, Finished),
    "skip": (Skip, None),
    "meta.set": (SetMeta, None),
    "meta.get": (GetMeta, bytes | None),
    "stream.delete": (DeleteStream, Deleted),
    "sources": (ListSources, list[str]),
    "streams": (ListStreams, list[StreamRow]),
    "stream": (GetStream, StreamRow | None),
    "fetch": (Fetch, Fetched),
    "last": (FetchLast, Fetched),
    "search": (Search, Fetched),
    "gaps": (ListGaps, GapRows),
    "verify": (Verify, Verified),
    "group": (GetGroup, GroupRow | None),
    "groups": (ListGroups, list[GroupRow]),
    "group.seek": (Seek, GroupRow),
    "group.delete": (DeleteGroup, None),
    "group.dead": (ListDead, Fetched),
    "group.redeliver": (Redeliver, int),
    "join": (Join, None),
    "late": (Late, list[LateRow]),
    "server": (GetServer, ServerRow),
    "header": (GetHeader, HeaderRow | None),
    "run.define": (DefineRun, RunRow),
    "run": (GetRun, RunRow | None),
    "runs": (ListRuns, list[RunRow]),
    "origin": (GetOrigin, OriginRow | None),
    "copy": (Copy, Copied),
    "measure": (Measure, Measured),
    "group.reopen": (Reopen, int),
    "stats": (GetStats, Stats),
    "session.end": (EndSession, None),
    "beamtimes": (ListBeamtimes, list[str]),
}
"""Method -> type of its parameters and of its result."""

NAMES: Final = {params: method for method, (params, _) in METHODS.items()}

WRITES: Final = frozenset(
    {"finish", "skip", "meta.set", "stream.delete", "join", "run.define", "copy"}
)
"""Methods that need the right to write; the others need the right to read."""

_PARAMS: Final = {
    method: msgspec.msgpack.Decoder(params) for method, (params, _) in METHODS.items()
}
_RESULTS: Final = {
    method: msgspec.msgpack.Decoder(result) for method, (_, result) in METHODS.items()
}
_encode: Final = msgspec.msgpack.Encoder().encode

P = TypeVar("P")


def encode(value: object) -> msgspec.Raw:
    """Parameters or a result for the wire."""
    return msgspec.Raw(_encode(value))


def decode_params(method: str, raw: msgspec.Raw) -> Params:
    """Parameters of a call.

    Raises
    ------
    RemoteProtocolError : an unknown method, or parameters that are not its own.

    >>> decode_params("fetch", encode(Fetch(source="s", stream="t", lo=1, hi=5))).hi
    5
    """
    decoder = _PARAMS.get(method)
    if decoder is None:
        raise RemoteProtocolError(
            f"method {method[:80]!r} is not known", hint="this node is older than the client"
        )
    try:
        params: Params = decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"parameters of {method!r}: {error}") from None
    return params


def decode_result(method: str, raw: msgspec.Raw) -> Any:
    """The result of a call.

    Raises
    ------
    RemoteProtocolError : it is not what the method returns.
    """
    try:
        return _RESULTS[method].decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"result of {method!r}: {error}") from None
