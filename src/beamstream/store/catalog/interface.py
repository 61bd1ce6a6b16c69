"""What every catalog can do: `apply` and reads.

There is one way to write: ``apply(beamtime, ops) -> results``. The operations of one call run in
order in one transaction; each gets one result. An operation that is refused (conflict, stale owner)
changes nothing and stops nobody else's; those in a `Unit` stand or fall together.

``apply`` returns when the transaction is committed and visible to reads, and handed to the kernel
(a killed process loses nothing). ``sync(beamtime)`` returns when all that was applied before it
began is on disk. They are apart so that nothing that needs no disk waits for one.

Every stream has numbers (`seq`) 1, 2, 3 … in the order in which its items were committed, without
holes; automatic ids are the largest id + 1; both are given inside the transaction. Names are
columns, never joined strings: two different (beamtime, source, stream, group) never meet.

Whatever implements `Catalog` passes `beamstream.testing.catalog.CatalogTests`.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Sequence

import msgspec

from beamstream.errors import Error
from beamstream.model import Dataset, Item, Record, StreamInfo
from beamstream.store.query import Query

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


class Skip(msgspec.Struct, frozen=True, gc=False):
    """Say that the ids from `lo` up to, not including, `hi` will never come.

    They take seqs of their own, which readers pass over. Results: `Stored` (of the last one),
    `Conflicted` if one of them exists already (also as a skip).
    """

    source: str
    stream: str
    lo: int
    hi: int
    timestamp_ns: int


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
    Results: `Done`, `Refused`.
    """

    source: str
    stream: str
    mode: MetaMode
    upsert: bool
    document: bytes


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


class Expire(msgspec.Struct, frozen=True, gc=False):
    """Forget groups that were last used before `before_ns`. Result: `Done`."""

    before_ns: int


class Unit(msgspec.Struct, frozen=True, gc=False):
    """Operations that stand or fall together.

    Result: the tuple of their results; if one is not a success (`Conflicted`, `Refused`,
    `AlreadyAcked`), none has changed anything.
    """

    ops: tuple[Op, ...]


Op = (
    Put
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
    | Duplicate
    | Conflicted
    | Refused
    | Done
    | Acked
    | AlreadyAcked
    | Claimed
    | tuple["Result", ...]
)


# --------------------------------------------------------------------------------- reads


class GroupState(msgspec.Struct, frozen=True, gc=False):
    """All that is durable about a group in a stream."""

    group: str
    id_position: int
    done: Ranges
    acked: Ranges
    dead: Ranges
    counts: tuple[tuple[int, int], ...]
    early_acks: tuple[int, ...]
    last_used_ns: int


class Catalog(abc.ABC):
    """Records of beamtimes. Reads may be called from any thread; `apply` from one at a time.

    Reads see what is committed. Where they take an `upto_seq`, items beyond are left out: the
    caller knows what has reached its durability level. Reads of unknown names return nothing.
    """

    @abc.abstractmethod
    def apply(self, beamtime: str, ops: Sequence[Op]) -> list[Result]: ...

    @abc.abstractmethod
    def sync(self, beamtime: str) -> None:
        """Return when all that was applied before this call is on disk.

        May be called from another thread than `apply`, while it runs. Raises `StorageError` when
        the disk does not take it: then nothing that waits for it may be called safe, ever.
        """

    @abc.abstractmethod
    def close(self) -> None: ...

    # Upkeep, for stores that need some.

    def opened(self) -> list[str]:
        """Beamtimes whose records are open."""
        return []

    def wal_nbytes(self, beamtime: str) -> int:
        """Length of the log that is not yet part of the beamtime's file."""
        return 0

    def checkpoint(self, beamtime: str) -> bool:
        """Copy the log into the file beside running commits; True if all of it was copied."""
        return True

    def restart_wal(self, beamtime: str) -> bool:
        """Begin the log anew; the caller holds off `apply` meanwhile. True if it was done."""
        return True

    def purge(self, beamtime: str, limit: int) -> bool:
        """Remove up to `limit` rows of deleted streams; True if some are left."""
        return False

    @abc.abstractmethod
    def stream(self, beamtime: str, source: str, stream: str) -> StreamInfo | None: ...

    @abc.abstractmethod
    def streams(self, beamtime: str, source: str) -> list[StreamInfo]:
        """All streams that have a message or a finish flag, by time of creation."""

    @abc.abstractmethod
    def sources(self, beamtime: str) -> list[str]:
        """Names of the sources that have a stream, sorted."""

    @abc.abstractmethod
    def items_by_seq(self, beamtime: str, stream_no: int, lo: int, hi: int) -> list[Item]:
        """Items with lo ≤ seq < hi, ascending; skips are left out."""

    @abc.abstractmethod
    def items_by_id(
        self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int
    ) -> list[Item]:
        """The first `limit` items with lo ≤ id < hi, by ascending id; skips are left out."""

    @abc.abstractmethod
    def last_item(self, beamtime: str, stream_no: int, upto_seq: int) -> Item | None:
        """The item with the largest id among those with seq ≤ `upto_seq`."""

    @abc.abstractmethod
    def last_dataset(
        self, beamtime: str, stream_no: int, min_parts: int, upto_seq: int
    ) -> Dataset | None:
        """The dataset with the largest id that has at least `min_parts` (0: is complete)."""

    @abc.abstractmethod
    def count_complete(self, beamtime: str, stream_no: int, upto_seq: int) -> int:
        """How many datasets are complete."""

    @abc.abstractmethod
    def ids(
        self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int
    ) -> list[tuple[int, int]]:
        """The first `limit` (id, seq) with lo ≤ id < hi, by ascending id; skips are left out."""

    @abc.abstractmethod
    def seqs_above(self, beamtime: str, stream_no: int, id: int) -> Ranges:
        """Ranges of the seqs (up to `last_seq`) whose id is larger than `id`."""

    @abc.abstractmethod
    def file(self, beamtime: str, name: str) -> tuple[str, str, Record] | None:
        """(source, stream, record) of the message whose payload is the file of this name."""

    @abc.abstractmethod
    def meta(self, beamtime: str, source: str, stream: str) -> bytes | None:
        """Metadata of a stream, or with `stream` empty of the source's beamtime."""

    @abc.abstractmethod
    def search(
        self,
        beamtime: str,
        stream_no: int,
        query: Query,
        *,
        upto_seq: int,
        offset: int = 0,
        limit: int,
        seconds_max: float,
    ) -> list[Record]:
        """Records that match, in the query's order (by id if it has none).

        For datasets the parts are matched. Raises `TimedOut` after `seconds_max`.
        """

    @abc.abstractmethod
    def group(self, beamtime: str, group: str, source: str, stream: str) -> GroupState | None: ...

    @abc.abstractmethod
    def groups(self, beamtime: str, source: str, stream: str) -> list[GroupState]: ...

    @abc.abstractmethod
    def last_acked_id(self, beamtime: str, group: str, source: str, stream: str) -> int:
        """The largest id this group has acknowledged, early ones included; 0 for none."""
