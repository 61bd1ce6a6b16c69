"""Short spellings of operations, shared by the parts of the conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from beamstream.model import Place, Record, StreamInfo
from beamstream.store.catalog.interface import (
    Catalog,
    GroupState,
    Op,
    Put,
    PutMany,
    Result,
    Stored,
)

BT = "11000001"
SOURCE = "det"
STREAM = "scan1"
NOW = 1_700_000_000_000_000_000
T = TypeVar("T")


def put(
    ident: int = 0,
    *,
    stream: str = STREAM,
    source: str = SOURCE,
    name: str | None = None,
    size: int = 1000,
    digest: bytes = b"0123456789abcdef",
    meta: bytes = b"{}",
    timestamp_ns: int | None = None,
    place: int = Place.CACHE,
    substream: int = 0,
    expected: int = 0,
    mode: int = 9,
    producer: bytes = b"",
    sequence: int = 0,
) -> Put:
    return Put(
        source=source,
        stream=stream,
        id=ident,
        name=f"processed/f{ident}.{substream}" if name is None else name,
        size=size,
        digest=digest,
        meta=meta,
        timestamp_ns=NOW + ident if timestamp_ns is None else timestamp_ns,
        arrived_ns=NOW - 5,
        mode=mode,
        level=1,
        place=place,
        root=1,
        substream=substream,
        expected=expected,
        node=3,
        boot=4,
        run=5,
        producer=producer,
        sequence=sequence,
    )


def batch(
    count: int,
    ident: int = 0,
    *,
    ids: tuple[int, ...] | None = None,
    stream: str = STREAM,
    content: bytes = b"x",
    names: tuple[str, ...] | None = None,
    metas: tuple[bytes, ...] | None = None,
    infos: tuple[bytes, ...] | bytes = b"",
    place: int = Place.CACHE,
    producer: bytes = b"",
    sequence: int = 0,
    timestamp_ns: int = NOW,
) -> PutMany:
    """Payloads of 1000, 1001, … bytes; all with a digest made of one byte."""
    return PutMany(
        source=SOURCE,
        stream=stream,
        id=ident,
        ids=ids,
        sizes=tuple(range(1000, 1000 + count)),
        digests=content * 16 * count,
        metas=metas,
        infos=infos,
        names=names,
        timestamp_ns=timestamp_ns,
        arrived_ns=NOW - 5,
        mode=9,
        level=1,
        place=place,
        root=1,
        segment=2,
        position=70,
        node=3,
        boot=4,
        run=5,
        producer=producer,
        sequence=sequence,
    )


def result(seq: int, k: int = 0, ident: int = 0, *, run: int = 1, **how: Any) -> Put:
    """A result of message `seq` of stream raw/scan1."""
    made = {"run": run, "input_source": "raw", "input_stream": "scan1", "input_seq": seq}
    return replace(put(ident, **how), **made, result_k=k)


def results(
    *seqs: int,
    ks: tuple[int, ...] | None = None,
    ids: tuple[int, ...] | None = None,
    run: int = 1,
    **how: Any,
) -> PutMany:
    """A result of each of these messages of stream raw/scan1."""
    made = {"run": run, "input_source": "raw", "input_stream": "scan1", "input_seqs": seqs}
    return replace(batch(len(seqs), ids=ids, **how), **made, result_ks=ks)


def one(catalog: Catalog, op: Op, kind: type[T]) -> T:
    """Apply one operation, whose result must be of this kind."""
    result = catalog.apply(BT, [op])[0]
    assert isinstance(result, kind), result
    return result


def store(catalog: Catalog, *idents: int, stream: str = STREAM) -> list[Stored]:
    results = catalog.apply(BT, [put(ident, stream=stream) for ident in idents])
    stored = [result for result in results if isinstance(result, Stored)]
    assert len(stored) == len(idents), results
    return stored


def info(catalog: Catalog, stream: str = STREAM, source: str = SOURCE) -> StreamInfo:
    found = catalog.stream(BT, source, stream)
    assert found is not None
    return found


def records(catalog: Catalog, stream: str = STREAM, source: str = SOURCE) -> list[Record]:
    """All messages of a stream, by seq."""
    no = info(catalog, stream, source).no
    found = catalog.items_by_seq(BT, no, 0, 2**62)
    return [item for item in found if isinstance(item, Record)]


def state(catalog: Catalog, group: str = "g", stream: str = STREAM) -> GroupState:
    found = catalog.group(BT, group, SOURCE, stream)
    assert found is not None
    return found


def begin(catalog: Catalog, ops: Sequence[Op]) -> Callable[[], list[Result]]:
    """Start to write, as far as the catalog can before the commit; the result commits."""
    start = getattr(catalog, "begin", None)
    if start is not None:
        commit: Callable[[], list[Result]] = start(BT, ops)
        return commit
    return lambda: catalog.apply(BT, ops)


def reopen(catalog: Catalog) -> None:
    """Close the catalog and open it again, if it has a way to; what it has stored stays."""
    way = getattr(catalog, "reopen", None)
    if way is not None:
        way()
