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
from collections.abc import Sequence

import msgspec

from beamstream.model import Dataset, Header, Item, Record, Run, StreamInfo
from beamstream.store.catalog.operations import (
    END_OF_SEQS,
    Ack,
    Acked,
    AlreadyAcked,
    Claim,
    Claimed,
    Conflicted,
    DefineRun,
    DeleteGroup,
    DeleteStream,
    Done,
    Duplicate,
    Expire,
    Finish,
    Mark,
    Meta,
    MetaMode,
    Nack,
    Op,
    Persist,
    Put,
    PutMany,
    Ranges,
    Refused,
    Release,
    Renew,
    Result,
    Seek,
    Skip,
    State,
    Stored,
    StoredMany,
    Unit,
)
from beamstream.store.query import Query

__all__ = [
    "Ack",
    "Acked",
    "AlreadyAcked",
    "Catalog",
    "Claim",
    "Claimed",
    "Conflicted",
    "DefineRun",
    "DeleteGroup",
    "DeleteStream",
    "Done",
    "Duplicate",
    "END_OF_SEQS",
    "Expire",
    "Finish",
    "GroupState",
    "Mark",
    "Meta",
    "MetaMode",
    "Nack",
    "Op",
    "Persist",
    "Put",
    "PutMany",
    "Ranges",
    "Refused",
    "Release",
    "Renew",
    "Result",
    "Seek",
    "Skip",
    "State",
    "Stored",
    "StoredMany",
    "Unit",
]


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

    @abc.abstractmethod
    def beamtimes(self) -> list[str]:
        """All beamtimes of which there are records, sorted."""

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
    def seq_at(self, beamtime: str, stream_no: int, timestamp_ns: int, upto_seq: int) -> int:
        """The first seq whose message was ingested at `timestamp_ns` or later.

        `upto_seq` + 1 (at most `last_seq` + 1) when there is none. Messages are taken to be
        ingested in the order of seq; where two were not, the answer may be off by as many.
        """

    @abc.abstractmethod
    def gaps(self, beamtime: str, stream_no: int, lo: int, hi: int, limit: int) -> Ranges:
        """The first `limit` ranges of ids in [lo, hi) that are neither there nor skipped.

        May take time in proportion to `hi` - `lo`: long streams are asked in pieces.
        """

    @abc.abstractmethod
    def producer_position(self, beamtime: str, source: str, stream: str, producer: bytes) -> int:
        """The largest sequence of this producer that is stored; 0 for none."""

    @abc.abstractmethod
    def segment_end(self, beamtime: str, segment: int) -> int:
        """Where the last payload in this segment ends of which there is a record; 0 for none.

        Looks at all records: it is asked after a crash.
        """

    @abc.abstractmethod
    def file(self, beamtime: str, name: str) -> tuple[str, str, Record] | None:
        """(source, stream, record) of the message whose payload is the file of this name."""

    @abc.abstractmethod
    def meta(self, beamtime: str, source: str, stream: str) -> bytes | None:
        """Metadata of a stream, or with `stream` empty of the source's beamtime."""

    @abc.abstractmethod
    def header(self, beamtime: str, source: str, stream: str, version: int) -> Header | None:
        """A version of the metadata (0: the newest), as long as it is kept."""

    @abc.abstractmethod
    def run(self, beamtime: str, no: int) -> Run | None: ...

    @abc.abstractmethod
    def runs(self, beamtime: str, before: int, limit: int) -> list[Run]:
        """The newest `limit` runs with numbers below `before` (0: all), newest first."""

    @abc.abstractmethod
    def measure(
        self, beamtime: str, stream_no: int, lo: int, hi: int, upto_seq: int
    ) -> list[tuple[int, int, int]]:
        """(place, messages, nbytes) of those with lo ≤ id < hi, parts of datasets one by one."""

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
    def groups_of(self, beamtime: str) -> list[tuple[str, str, str, int]]:
        """(group, source, stream, last_used_ns) of all groups, by group, source and stream."""

    @abc.abstractmethod
    def last_acked_id(self, beamtime: str, group: str, source: str, stream: str) -> int:
        """The largest id this group has acknowledged, early ones included; 0 for none."""
