"""What a catalog is asked to do, and what it answers: operations and their results."""

from __future__ import annotations

import enum

import msgspec

from beamstream.errors import Error
from beamstream.model import Record, Run, StreamInfo

END_OF_SEQS = 2**62
"""Upper end of a claim that covers all that will ever arrive."""


class State(enum.IntEnum):
    """What became of a message for one group; what is in no range is open."""

    DONE = 1
    """Handed out without a lease: at most once, by the reader's own choice."""
    ACKED = 2
    DEAD = 3
    """Delivered as often as allowed and never acknowledged; listed, not offered again."""


class MetaMode(enum.IntEnum):
    """How metadata of a stream or beamtime is written (ASAPO protocol section 5.9)."""

    INSERT = 1
    REPLACE = 2
    UPDATE = 3


Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of seq, ascending, disjoint, not touching."""


# ---------------------------------------------------------------------------- operations


class Put(msgspec.Struct, frozen=True, gc=False):
    """Record one message, or one part of a dataset (`substream` ≥ 1, `expected` parts).

    `id` 0 asks for an automatic one (single messages only). Results: `Stored`, `Duplicate`
    (same id, substream, name, size, digest and JSON-equal metadata), `Conflicted` (same id, other
    content; or a dataset's part for a single message and the reverse; or a stream of the other
    kind), `Refused` (id beyond the announced last one).

    The first part of a dataset tells its `expected` size; parts that say another size are
    conflicts, and so are substreams beyond it. An id for which a group has an early
    acknowledgement is acknowledged at once.

    `producer` (16 bytes, or none) and `sequence` (1, 2, 3 … for each stream) say who sent it and as
    which of his messages. One of an automatic id that was stored before is a `Duplicate` with the
    id it got then; `Conflicted` if that has another size or digest, or is no longer remembered.

    With `result_k` ≥ 0 it is a result, known by (`run`, input source, stream and seq, `result_k`):
    if the stream has it already, it is a `Duplicate`, whatever it holds and whatever `id` is asked.
    """

    source: str
    stream: str
    id: int
    name: str
    size: int
    digest: bytes
    meta: bytes
    timestamp_ns: int
    arrived_ns: int
    mode: int
    level: int
    place: int
    root: int = 0
    substream: int = 0
    expected: int = 0
    node: int = 0
    boot: int = 0
    run: int = 0
    segment: int = 0
    position: int = 0
    info: bytes = b""
    input_source: str = ""
    input_stream: str = ""
    input_seq: int = 0
    producer: bytes = b""
    sequence: int = 0
    result_k: int = -1
    span: bytes = b""


class PutMany(msgspec.Struct, frozen=True, gc=False):
    """Record many single messages of one stream, as as many `Put` in this order would.

    Fast when all are new and their ids ascend from above the largest one. A message that is
    refused or in conflict does not stop the others. Results: `StoredMany`; `Conflicted` (a stream
    of datasets) or `Refused` (a batch that cannot be) for all of it, and then nothing is changed.

    Parameters
    ----------
    id : of the first message, the others count on; 0 for automatic ids.
    ids : of each message, in place of `id` (which is 0 then), from 1 on; None otherwise.
    sizes : nbytes of each payload; their number is that of the messages.
    digests : 16 bytes for each, back to back; empty when none has a payload.
    metas, names : for each, or None: no metadata, no names.
    infos : for each, or one for all of them.
    position : of the first payload in its segment; the others follow back to back.
    producer, sequence : as for `Put`; `sequence` is that of the first message.
    input_seqs, result_ks, spans : of results, for each (`result_ks` None: all 0; `spans` None: all
        empty); `input_seqs` None: they are no results.
    """

    source: str
    stream: str
    id: int
    ids: tuple[int, ...] | None
    sizes: tuple[int, ...]
    digests: bytes
    metas: tuple[bytes, ...] | None
    infos: tuple[bytes, ...] | bytes
    names: tuple[str, ...] | None
    timestamp_ns: int
    arrived_ns: int
    mode: int
    level: int
    place: int
    root: int = 0
    segment: int = 0
    position: int = 0
    node: int = 0
    boot: int = 0
    run: int = 0
    producer: bytes = b""
    sequence: int = 0
    input_source: str = ""
    input_stream: str = ""
    input_seqs: tuple[int, ...] | None = None
    result_ks: tuple[int, ...] | None = None
    spans: tuple[bytes, ...] | None = None


class Skip(msgspec.Struct, frozen=True, gc=False):
    """Say that the ids from `lo` up to, not including, `hi` will never come.

    They take seqs of their own, which readers pass over. Results: `Stored` (of the last one),
    `Conflicted` if one of them exists already (also as a skip). With `again`, `Duplicate` if all of
    them are skipped already.
    """

    source: str
    stream: str
    lo: int
    hi: int
    timestamp_ns: int
    again: bool = False


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Announce the last id of a stream, and the stream that follows.

    Creates the stream if need be. Results: `Done`, `Duplicate` (the same announcement again),
    `Conflicted` (another announcement, or ids beyond `last_id` exist).
    """

    source: str
    stream: str
    last_id: int
    next_stream: str
    timestamp_ns: int


class Meta(msgspec.Struct, frozen=True, gc=False):
    """Write metadata of a stream, or with `stream` empty of the source's beamtime.

    `INSERT` needs it absent, `REPLACE` and `UPDATE` need it present unless `upsert`. `UPDATE`
    merges objects key by key, deeply; arrays and scalars are replaced. Does not create a stream.
    What is written has the next version (1, 2 …); versions before are kept, the newest
    `limits.HEADER_VERSIONS_MAX` of them. Writing what is there is no new version. Results: `Done`,
    `Refused`.
    """

    source: str
    stream: str
    mode: MetaMode
    upsert: bool
    document: bytes
    changed_ns: int = 0


class Persist(msgspec.Struct, frozen=True, gc=False):
    """Mark a stream to be kept when others are purged. Results: `Done`, `Refused` (no stream)."""

    source: str
    stream: str


class DeleteStream(msgspec.Struct, frozen=True, gc=False):
    """Forget a stream: records, group states, and with `with_meta` its metadata; never files.

    It is gone for all reads at once; a stream of that name made later has another number.
    Results: `Done`, `Refused` (no stream).
    """

    source: str
    stream: str
    with_meta: bool = True


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Take open messages of a group for `owner`, who alone may hand them out until `until_ns`.

    Grants, lowest first, up to `count` seqs in [`lo`, `hi`) which are in no state and not claimed
    by another owner whose time has not passed (`now_ns`). `hi` may lie beyond the newest message:
    what arrives later is then claimed already. Creates group and group-stream if need be (and the
    stream: a group may wait for one that does not exist). Result: `Claimed`.
    """

    group: str
    source: str
    stream: str
    owner: str
    lo: int
    hi: int
    count: int
    now_ns: int
    until_ns: int


class Renew(msgspec.Struct, frozen=True, gc=False):
    """Prolong all claims of `owner` to `until_ns`. Result: `Done`."""

    owner: str
    until_ns: int


class Release(msgspec.Struct, frozen=True, gc=False):
    """Give back all claims of `owner`. Result: `Done`."""

    owner: str


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Set the state of ranges, the position by id and delivery counts, as written behind.

    `DONE` does not replace `ACKED` or `DEAD`. `id_position` below 0 leaves it. `counts` are
    (seq, deliveries) of messages delivered more than once. With `owner` set, nothing happens
    unless it holds claims on all the ranges: `Refused`. Results: `Done`, `Refused`.
    """

    group: str
    source: str
    stream: str
    state: State
    ranges: Ranges
    id_position: int = -1
    counts: tuple[tuple[int, int], ...] = ()
    owner: str = ""
    now_ns: int = 0


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Acknowledge ranges of seq, and ids for which no message exists yet (`early_ids`).

    With `strict`, `AlreadyAcked` if any of it was acknowledged before, and nothing changes
    (ASAPO); else it is idempotent. Results: `Acked` (how many were new), `AlreadyAcked`,
    `Refused` (too many early ids).
    """

    group: str
    source: str
    stream: str
    ranges: Ranges
    early_ids: tuple[int, ...] = ()
    strict: bool = False
    now_ns: int = 0


class Nack(msgspec.Struct, frozen=True, gc=False):
    """Open ranges again, whatever their state was. Result: `Done`."""

    group: str
    source: str
    stream: str
    ranges: Ranges
    now_ns: int = 0


class Seek(msgspec.Struct, frozen=True, gc=False):
    """Set a group's position: `done` ranges become done if they were open, `opened` ranges open.

    `id_position` is the last id that counts as read. Early acknowledgements of ids above it are
    dropped. Result: `Done`.
    """

    group: str
    source: str
    stream: str
    id_position: int
    done: Ranges
    opened: Ranges
    now_ns: int = 0


class DeleteGroup(msgspec.Struct, frozen=True, gc=False):
    """Forget a group in one stream, or with `source` and `stream` empty everywhere.

    Its claims go with it. Results: `Done`, `Refused` (no such group).
    """

    group: str
    source: str = ""
    stream: str = ""


class DefineRun(msgspec.Struct, frozen=True, gc=False):
    """Write down a run. Result: `Run`, for the same document the same one."""

    document: bytes
    created_ns: int


class Expire(msgspec.Struct, frozen=True, gc=False):
    """Forget groups and the counting of producers last used before `before_ns`. Result: `Done`."""

    before_ns: int


class Unit(msgspec.Struct, frozen=True, gc=False):
    """Operations that stand or fall together.

    Result: the tuple of their results; if one is not a success (`Conflicted`, `Refused`,
    `AlreadyAcked`), none has changed anything.
    """

    ops: tuple[Op, ...]


Op = (
    Put
    | PutMany
    | Skip
    | Finish
    | Meta
    | Persist
    | DeleteStream
    | Claim
    | Renew
    | Release
    | Mark
    | Ack
    | Nack
    | Seek
    | DeleteGroup
    | DefineRun
    | Expire
    | Unit
)


# ------------------------------------------------------------------------------- results


class Stored(msgspec.Struct, frozen=True, gc=False):
    """`stream` is the stream after this operation; `ready_seq` is set by a dataset's last part."""

    stream: StreamInfo
    seq: int
    id: int
    ready_seq: int = 0

    def record(self, put: Put) -> Record:
        """What `put` has become."""
        return Record(
            seq=self.seq,
            id=self.id,
            substream=put.substream,
            name=put.name,
            size=put.size,
            digest=put.digest,
            meta=put.meta,
            timestamp_ns=put.timestamp_ns,
            arrived_ns=put.arrived_ns,
            mode=put.mode,
            level=put.level,
            place=put.place,
            root=put.root,
            node=put.node,
            boot=put.boot,
            run=put.run,
            segment=put.segment,
            position=put.position,
            info=put.info,
            input_source=put.input_source,
            input_stream=put.input_stream,
            input_seq=put.input_seq,
            result_k=put.result_k,
            span=put.span,
        )


class StoredMany(msgspec.Struct, frozen=True, gc=False):
    """What became of the messages of a `PutMany`, which are told by their index in it.

    Those that are neither duplicates nor failed are new, and have the seqs from `seq` on.

    Parameters
    ----------
    stream : the stream after this operation.
    seq, count : of the first new one (0: none is new), and how many are new.
    id : of message 0; the others count on, unless there are `ids`.
    ids : of each message (0 where an automatic one was not given), when they do not count on.
    duplicates : half-open ranges of those that were stored before; they have the ids from then.
    failures : (index, error) of those that were refused or in conflict; not stored.
    """

    stream: StreamInfo
    seq: int
    count: int
    id: int
    ids: tuple[int, ...] | None = None
    duplicates: Ranges = ()
    failures: tuple[tuple[int, Error], ...] = ()

    def new(self, total: int) -> Ranges:
        """Half-open ranges of the new ones among the `total` messages of the batch."""
        if self.count == total:
            return ((0, total),)
        old = [*self.duplicates, *((index, index + 1) for index, _ in self.failures)]
        edges = [0, *(edge for span in sorted(old) for edge in span), total]
        return tuple((lo, hi) for lo, hi in zip(edges[::2], edges[1::2], strict=True) if lo < hi)


class Duplicate(msgspec.Struct, frozen=True, gc=False):
    """The same was there before; `record` is the one that stays (None for a finish flag)."""

    stream: StreamInfo
    id: int
    record: Record | None = None


class Conflicted(msgspec.Struct, frozen=True, gc=False):
    """Something else is there. `error` says what."""

    error: Error


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The operation is not possible now. `error` says why."""

    error: Error


class Done(msgspec.Struct, frozen=True, gc=False):
    """`stream` is the stream after an operation on one."""

    stream: StreamInfo | None = None


class Acked(msgspec.Struct, frozen=True, gc=False):
    count: int


class AlreadyAcked(msgspec.Struct, frozen=True, gc=False):
    error: Error


class Claimed(msgspec.Struct, frozen=True, gc=False):
    stream: StreamInfo
    ranges: Ranges


Result = (
    Stored
    | StoredMany
    | Duplicate
    | Conflicted
    | Refused
    | Done
    | Acked
    | AlreadyAcked
    | Claimed
    | Run
    | tuple["Result", ...]
)
