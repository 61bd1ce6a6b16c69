"""Messages as the native wire describes them: `Batch` out of blocks, datasets and records."""

from __future__ import annotations

from collections.abc import Sequence

from beamstream.errors import Error
from beamstream.model import NO_META, Dataset, Place, Record
from beamstream.server.blocks import Block
from beamstream.wire.native.batches import DIGEST_NBYTES, NO_DIGEST, Batch, Lost, Part

_NOWHERE = int(Place.NOWHERE)


def of_block(
    block: Block,
    lo: int,
    hi: int,
    *,
    deliveries: tuple[int, ...] | None = None,
    payloads: bool = True,
    lost: tuple[Lost, ...] = (),
) -> Batch:
    """The messages `lo` … `hi` - 1 (indices) of a block."""
    ids, digests, times = block.ids[lo:hi], block.digests, block.timestamp_ns
    metas, infos, names = block.metas, block.infos, block.names
    return Batch(
        count=hi - lo,
        seq=block.seq + lo,
        id=ids[0],
        sizes=block.sizes[lo:hi]
        if block.records is None
        else tuple([_size(record) for record in block.records[lo:hi]]),
        digests=digests[lo * DIGEST_NBYTES : hi * DIGEST_NBYTES]
        if digests
        else NO_DIGEST * (hi - lo),
        timestamps_ns=times if isinstance(times, int) else times[lo:hi],
        ids=None if type(ids) is range else tuple(ids),
        metas=None if metas is None else metas[lo:hi],
        infos=infos if isinstance(infos, bytes) else infos[lo:hi],
        names=None if names is None else names[lo:hi],
        deliveries=deliveries,
        lost=lost,
        payloads=payloads,
    )


def of_records(
    records: Sequence[Record],
    *,
    datasets: Sequence[Dataset] = (),
    deliveries: tuple[int, ...] | None = None,
    payloads: bool = True,
    lost: tuple[Lost, ...] = (),
    ready: bool = True,
) -> Batch:
    """Messages in any order, or all parts of `datasets` (then `records` are these)."""
    metas = tuple([record.meta or NO_META for record in records])
    names = tuple([record.name for record in records])
    infos = tuple([record.info for record in records])
    first = records[0]
    return Batch(
        count=len(records),
        seq=first.seq,
        id=first.id,
        sizes=tuple([_size(record) for record in records]),
        digests=b"".join([record.digest or NO_DIGEST for record in records]),
        timestamps_ns=tuple([record.timestamp_ns for record in records]),
        seqs=tuple([record.seq for record in records]),
        ids=tuple([record.id for record in records]),
        metas=metas if any(meta != NO_META for meta in metas) else None,
        infos=infos if any(info != infos[0] for info in infos) else infos[0],
        names=names if any(names) else None,
        deliveries=deliveries,
        substreams=tuple([record.substream for record in records]) if datasets else None,
        datasets=tuple(
            [
                Part(
                    dataset.seq,
                    dataset.id,
                    dataset.expected,
                    len(dataset.parts),
                    ready or dataset.complete,
                )
                for dataset in datasets
            ]
        )
        if datasets
        else None,
        lost=lost,
        payloads=payloads,
    )


def has_payload(record: Record) -> bool:
    """Whether bytes belong to the record: of metadata-only ones the size is what was said."""
    return record.place != _NOWHERE and record.size > 0


def _size(record: Record) -> int:
    return record.size if record.place != _NOWHERE else 0


def lost_of(index: int, error: Error) -> Lost:
    return Lost(index, error.code, error.message, error.hint)
