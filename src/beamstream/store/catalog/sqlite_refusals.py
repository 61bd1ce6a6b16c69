"""What is said when an operation on a stream is refused."""

from __future__ import annotations

from beamstream import limits
from beamstream.errors import (
    BadInput,
    IdConflict,
    NotFound,
    StreamFinished,
    TooLarge,
)
from beamstream.model import Record
from beamstream.store.catalog.documents import same_json
from beamstream.store.catalog.interface import (
    Put,
    PutMany,
)


def no_stream(source: str, stream: str) -> NotFound:
    return NotFound(f"there is no stream {stream!r} of source {source!r}")


def difference(record: Record, op: Put) -> str:
    if record.name != op.name:
        return "name"
    if record.size != op.size:
        return "size"
    if record.digest != op.digest:
        return "content"
    # A sender that does not describe its payload does not contradict one that did.
    if record.info and op.info and record.info != op.info:
        return "description"
    return "" if same_json(record.meta, op.meta) else "metadata"


def what(op: Put | PutMany, ident: int) -> str:
    part = f", substream {op.substream}," if isinstance(op, Put) and op.substream else ""
    which = f"id {ident}{part}" if ident else "a message without an id"
    return f"{which} of stream {op.stream!r}"


def bad_id(op: Put, ident: int) -> BadInput:
    return BadInput(
        f"stream {op.stream!r} of source {op.source!r} cannot take id {ident}",
        hint=f"ids are 1 … {limits.ID_MAX}",
    )


def bad_sequence(op: Put) -> BadInput:
    return BadInput(
        f"{what(op, op.id)} is message {op.sequence} of producer {op.producer.hex()!r}",
        hint="a producer has 16 bytes and counts from 1",
    )


def bad_batch(op: PutMany, why: str) -> BadInput:
    return BadInput(f"a batch for stream {op.stream!r} of source {op.source!r} {why}")


def bad_result(op: Put) -> BadInput:
    return BadInput(
        f"{what(op, op.id)} is result {op.result_k} of input {op.input_seq}, which cannot be",
        hint="inputs are counted from 1, their results from 0",
    )


def bad_size(op: Put, ident: int) -> TooLarge:
    return TooLarge(f"{what(op, ident)} cannot have {op.size} bytes")


def conflict(op: Put | PutMany, ident: int, why: str) -> IdConflict:
    return IdConflict(f"{what(op, ident)} {why}", hint="use a new id, or another stream")


def finished(stream: str, ident: int, last_id: int) -> StreamFinished:
    return StreamFinished(
        f"stream {stream!r} was finished with last id {last_id}, id {ident} is not taken"
    )
