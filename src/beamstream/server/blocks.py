"""Messages that became visible together, kept as columns.

A native put of many messages is one `Block` from its slot in the cache to its readers, which are
handed slices of it. What is the same for all is kept once; a `Record` is made only for who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from beamstream.model import NO_META, Place, Record
from beamstream.store.cache import Slot

_DIGEST_NBYTES = 16
_MESSAGE_NBYTES = 64
"""What the columns cost in memory for each message, without its metadata."""
_TEXT_NBYTES = 33

_SEGMENT = int(Place.SEGMENT)


class Block:
    """Messages of one stream whose seqs follow each other. Never changed once it is shown.

    Parameters
    ----------
    seq : of the first message; the others follow without holes.
    ids : of each message.
    sizes : nbytes of each payload.
    digests : 16 bytes each, back to back; empty when there are no payloads.
    metas : JSON objects as text, None when all are empty.
    infos : one for all, or one each.
    names : paths, None when there are none.
    timestamp_ns : one for all, or one each.
    slot, slot_offset : all payloads lie back to back in this slot, from that byte on. It may be
        given to somebody else meanwhile (`Slot.alive`). None: look for each by its key.
    segment, position : file of the log, and where in it the first payload begins.
    records : the messages one by one when they were not put together; then `arrived_ns` and what
        follows it are those of the first, and may differ.

    >>> block = Block(seq=7, ids=range(1, 4), sizes=(10, 0, 5), digests=bytes(48))
    >>> block.record(2).seq, block.record(2).id, block.nbytes(1, 3), block.offsets
    (9, 3, 5, [0, 10, 10, 15])
    >>> block.slice(1, 3).seq
    8
    """

    __slots__ = (
        "_offsets",
        "arrived_ns",
        "boot",
        "count",
        "digests",
        "ids",
        "infos",
        "level",
        "metas",
        "mode",
        "names",
        "node",
        "place",
        "position",
        "records",
        "root",
        "run",
        "segment",
        "seq",
        "sizes",
        "slot",
        "slot_offset",
        "timestamp_ns",
    )

    def __init__(
        self,
        *,
        seq: int,
        ids: range | tuple[int, ...],
        sizes: tuple[int, ...],
        digests: bytes,
        metas: tuple[bytes, ...] | None = None,
        infos: bytes | tuple[bytes, ...] = b"",
        names: tuple[str, ...] | None = None,
        timestamp_ns: int | tuple[int, ...] = 0,
        arrived_ns: int = 0,
        mode: int = 0,
        level: int = 0,
        place: int = int(Place.NOWHERE),
        root: int = 0,
        node: int = 0,
        boot: int = 0,
        run: int = 0,
        slot: Slot | None = None,
        slot_offset: int = 0,
        segment: int = 0,
        position: int = 0,
        records: tuple[Record, ...] | None = None,
    ) -> None:
        self.seq = seq
        self.count = len(sizes)
        self.ids = ids
        self.sizes = sizes
        self.digests = digests
        self.metas = metas
        self.infos = infos
        self.names = names
        self.timestamp_ns = timestamp_ns
        self.arrived_ns = arrived_ns
        self.mode = mode
        self.level = level
        self.place = place
        self.root = root
        self.node = node
        self.boot = boot
        self.run = run
        self.slot = slot
        self.slot_offset = slot_offset
        self.segment = segment
        self.position = position
        self.records = records
        self._offsets: list[int] | None = None

    @classmethod
    def of_records(cls, records: Sequence[Record]) -> Block:
        """A block of single messages whose seqs follow each other; payloads by key of each."""
        first = records[0]
        ids = tuple([record.id for record in records])
        metas = tuple([record.meta for record in records])
        names = tuple([record.name for record in records])
        infos = tuple([record.info for record in records])
        return cls(
            seq=first.seq,
            ids=range(ids[0], ids[0] + len(ids)) if follow(ids) else ids,
            sizes=tuple([record.size for record in records]),
            digests=b"".join([record.digest or _NO_DIGEST for record in records]),
            metas=metas if any(meta != NO_META for meta in metas) else None,
            infos=infos[0] if infos.count(infos[0]) == len(infos) else infos,
            names=names if any(names) else None,
            timestamp_ns=tuple([record.timestamp_ns for record in records]),
            arrived_ns=first.arrived_ns,
            mode=first.mode,
            level=first.level,
            place=first.place,
            root=first.root,
            node=first.node,
            boot=first.boot,
            run=first.run,
            segment=first.segment,
            position=first.position,
            records=tuple(records),
        )

    @property
    def end(self) -> int:
        """The seq behind the last one."""
        return self.seq + self.count

    @property
    def id_max(self) -> int:
        ids = self.ids
        return ids[-1] if type(ids) is range else max(ids)

    @property
    def offsets(self) -> list[int]:
        """Where each payload begins, counted from the first one, and the end of the last."""
        if self._offsets is None:
            self._offsets = list(accumulate(self.sizes, initial=0))
        return self._offsets

    def nbytes(self, lo: int, hi: int) -> int:
        """Of the payloads `lo` … `hi` - 1 (indices)."""
        offsets = self.offsets
        return offsets[hi] - offsets[lo]

    def kept_nbytes(self) -> int:
        """About what this block takes in memory, without payloads."""
        texts = 0 if self.metas is None else sum(map(len, self.metas)) + _TEXT_NBYTES * self.count
        if type(self.infos) is tuple:
            texts += sum(map(len, self.infos)) + _TEXT_NBYTES * self.count
        return texts + _MESSAGE_NBYTES * self.count

    def text_nbytes(self, index: int) -> int:
        """About what one message adds to a header that describes it."""
        nbytes = _MESSAGE_NBYTES + (len(self.metas[index]) if self.metas is not None else 0)
        if type(self.infos) is tuple:
            nbytes += len(self.infos[index])
        return nbytes + (len(self.names[index]) if self.names is not None else 0)

    def record(self, index: int) -> Record:
        """One message by its index in the block."""
        if self.records is not None:
            return self.records[index]
        at = index * _DIGEST_NBYTES
        infos, timestamp_ns = self.infos, self.timestamp_ns
        in_segment = self.place == _SEGMENT
        return Record(
            seq=self.seq + index,
            id=self.ids[index],
            substream=0,
            name=self.names[index] if self.names is not None else "",
            size=self.sizes[index],
            digest=self.digests[at : at + _DIGEST_NBYTES],
            meta=self.metas[index] if self.metas is not None else NO_META,
            timestamp_ns=timestamp_ns if isinstance(timestamp_ns, int) else timestamp_ns[index],
            arrived_ns=self.arrived_ns,
            mode=self.mode,
            level=self.level,
            place=self.place,
            root=self.root,
            node=self.node,
            boot=self.boot,
            run=self.run,
            segment=self.segment,
            position=self.position + self.offsets[index] if in_segment else 0,
            info=infos if isinstance(infos, bytes) else infos[index],
        )

    def stretch(self, lo: int, hi: int) -> tuple[int, int, int] | None:
        """(segment, position, nbytes) if these payloads lie back to back in one segment."""
        nbytes = self.nbytes(lo, hi)
        if self.records is None:
            if self.place != _SEGMENT:
                return None
            return self.segment, self.position + self.offsets[lo], nbytes
        first = self.records[lo]
        position = first.position
        for record in self.records[lo:hi]:
            if (record.place, record.segment, record.position) != (
                _SEGMENT,
                first.segment,
                position,
            ):
                return None
            position += record.size
        return first.segment, first.position, nbytes

    def slice(self, lo: int, hi: int, seq: int | None = None) -> Block:
        """The messages `lo` … `hi` - 1 (indices) as a block; with `seq`, they got these seqs."""
        if lo == 0 and hi == self.count and seq in (None, self.seq):
            return self
        offset = self.offsets[lo]
        return Block(
            seq=self.seq + lo if seq is None else seq,
            ids=self.ids[lo:hi],
            sizes=self.sizes[lo:hi],
            digests=self.digests[lo * _DIGEST_NBYTES : hi * _DIGEST_NBYTES],
            metas=_cut(self.metas, lo, hi),
            infos=_cut(self.infos, lo, hi),
            names=_cut(self.names, lo, hi),
            timestamp_ns=_cut(self.timestamp_ns, lo, hi),
            arrived_ns=self.arrived_ns,
            mode=self.mode,
            level=self.level,
            place=self.place,
            root=self.root,
            node=self.node,
            boot=self.boot,
            run=self.run,
            slot=self.slot,
            slot_offset=self.slot_offset + offset,
            segment=self.segment,
            position=self.position + offset if self.place == _SEGMENT else 0,
            records=_cut(self.records, lo, hi),
        )


_NO_DIGEST = bytes(_DIGEST_NBYTES)


def follow(ids: range | Sequence[int]) -> bool:
    """Whether each of these ids is the one before plus one.

    >>> follow((3, 4, 5)), follow((3, 5))
    (True, False)
    """
    if type(ids) is range:
        return ids.step == 1 or len(ids) < 2
    return ids[-1] - ids[0] == len(ids) - 1 and all(
        later - earlier == 1 for earlier, later in pairwise(ids)
    )


def _cut(column: Any, lo: int, hi: int) -> Any:
    """A column is a tuple, or one value for all."""
    return column[lo:hi] if type(column) is tuple else column
