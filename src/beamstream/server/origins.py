"""Where a message comes from: its run and its inputs, by their ids. Blocks: call it in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from beamstream import limits
from beamstream.model import Dataset, Item, Record
from beamstream.store.catalog import Catalog
from beamstream.wire.native.calls import Input, OriginRow
from beamstream.wire.native.frames import unpack_span

_INPUTS_MAX: Final = limits.NATIVE_BATCH_MAX


def origin(
    catalog: Catalog, beamtime: str, stream_no: int, id: int, upto_seq: int
) -> OriginRow | None:
    """Of the message (or dataset) with this id among those up to `upto_seq`; None: there is none.

    Inputs are looked up by their names and seqs as they are now: of a stream that was deleted and
    made anew, an input may be another message of the same seq.
    """
    found = catalog.items_by_id(beamtime, stream_no, id, id + 1, 1) if stream_no else []
    if not found or found[0].seq > upto_seq:
        return None
    item = found[0]
    records = item.parts if isinstance(item, Dataset) else (item,)
    inputs: list[Input] = []
    for record in records:
        inputs += _inputs(catalog, beamtime, record, _INPUTS_MAX - len(inputs))
    runs = {record.run for record in records}
    single = isinstance(item, Record)
    return OriginRow(
        id=item.id,
        seq=item.seq,
        run=runs.pop() if len(runs) == 1 else 0,
        k=records[0].result_k if single else -1,
        digest=records[0].digest if single else b"",
        timestamp_ns=max((record.timestamp_ns for record in records), default=0),
        inputs=tuple(inputs),
    )


def _inputs(catalog: Catalog, beamtime: str, record: Record, most: int) -> Iterator[Input]:
    """The inputs of one message, in order; at most `most`."""
    if not record.input_seq or most <= 0:
        return
    source, name = record.input_source, record.input_stream
    info = catalog.stream(beamtime, source, name)
    for lo, hi in _within(_span(record), most):
        known: dict[int, Item] = {}
        if info is not None:
            items = catalog.items_by_seq(beamtime, info.no, lo, hi)
            known = {item.seq: item for item in items}
        for seq in range(lo, hi):
            item = known.get(seq)
            part = record.shares and isinstance(item, Dataset)
            yield Input(
                source=source,
                stream=name,
                seq=seq,
                id=item.id if item is not None else 0,
                substream=record.substream if part else 0,
            )


def _span(record: Record) -> tuple[tuple[int, int], ...]:
    try:
        found = unpack_span(record.span)
    except msgspec.MsgspecError:
        found = ()
    return found or ((record.input_seq, record.input_seq + 1),)


def _within(ranges: tuple[tuple[int, int], ...], most: int) -> Iterator[tuple[int, int]]:
    """The first `most` numbers of these ranges."""
    for lo, hi in ranges:
        hi = min(hi, lo + most)
        if lo < hi:
            yield lo, hi
            most -= hi - lo
