"""Many small arrays at once, sent and read as one; puts that leave together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.client.native.arrived import Arrived
from beamstream.client.native.batching import cut, pack_all
from beamstream.client.native.messages import Columns, Message, arrays_of
from beamstream.client.native.packing import digest, pack
from beamstream.client.native.session import PUTS_AT_ONCE, Session, nobody
from beamstream.errors import DataLost
from beamstream.wire import payload
from beamstream.wire.native import frames
from beamstream.wire.native.batches import Batch, Place
from beamstream.wire.native.frames import Hello, OpenWriter, Ping, Put, Welcome
from beamstream.wire.native.framing import HEAD_NBYTES, unpack_head

DTYPES = st.sampled_from(["u1", "<u2", ">i4", "<f8", ">c16", "?", "S3", "<M8[ns]", "i2,f8"])
SHAPES = st.sampled_from([(), (1,), (3, 2), (0,)])


def array(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    kind = np.dtype(dtype)
    nbytes = kind.itemsize * int(np.prod(shape, dtype=int))
    made = np.random.default_rng(seed).integers(0, 2, nbytes, np.uint8)
    return np.frombuffer(made.tobytes(), kind).reshape(shape)


@given(st.lists(st.tuples(DTYPES, SHAPES, st.booleans()), min_size=1, max_size=5), st.booleans())
def test_they_are_packed_as_each_by_itself(
    kinds: list[tuple[str, tuple[int, ...], bool]], alike: bool
) -> None:
    if alike:
        kinds = [kinds[0]] * 4
    values = [array(dtype, shape, seed) for seed, (dtype, shape, _) in enumerate(kinds)]
    values = [one.T if turned else one for one, (*_, turned) in zip(values, kinds, strict=True)]
    singly = [pack(one) for one in values]
    [(put, buffers, nbytes)] = cut(pack_all(values, None, None, "raw"), 100)
    assert b"".join(map(bytes, buffers)) == b"".join(bytes(one.buffer) for one in singly)
    assert put.sizes == tuple(len(one.buffer) for one in singly)
    assert nbytes == sum(put.sizes)
    assert put.digests == b"".join(digest(one.buffer) for one in singly)
    infos = put.infos if isinstance(put.infos, tuple) else (put.infos,) * put.count
    assert infos == tuple(one.info for one in singly)


def arrived(values: list[np.ndarray[Any, Any]], damaged: tuple[int, ...] = ()) -> Columns:
    infos = [payload.pack_info(payload.encode(one).info) for one in values]
    batch = Batch(
        count=len(values),
        seq=1,
        id=1,
        sizes=tuple(one.nbytes for one in values),
        digests=bytes(16 * len(values)),
        timestamps_ns=0,
        infos=infos[0] if infos.count(infos[0]) == len(infos) else tuple(infos),
    )
    body = memoryview(b"".join(one.tobytes() for one in values))
    lost = dict.fromkeys(damaged, DataLost("gone"))
    return Columns(Arrived("det", "s", batch, body, None, dict(lost)))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 2), (2,), (2, 0), (3, 2, 1), (1, 1)])
@pytest.mark.parametrize("shape", [(), (4,), (2, 2)])
def test_neighbours_are_read_as_one(order: tuple[int, ...], shape: tuple[int, ...]) -> None:
    values = [np.full(shape, value, ">u2") for value in range(4)]
    columns = arrived(values)
    found = arrays_of([Message(columns, index, None) for index in order])
    assert all(isinstance(one, np.ndarray) and not one.flags.writeable for one in found)
    assert [(one.dtype, one.shape) for one in found] == [(np.dtype(">u2"), shape)] * len(order)
    assert [one.tobytes() for one in found] == [values[index].tobytes() for index in order]


def test_those_of_several_runs_or_kinds_are_read_singly() -> None:
    one, other = arrived([np.zeros(2), np.ones(2)]), arrived([np.ones(2), np.ones(3, "u1")])
    found = arrays_of([Message(one, 0, None), Message(other, 1, None)])
    assert [entry.shape for entry in found] == [(2,), (3,)]
    found = arrays_of([Message(other, index, None) for index in range(2)])
    assert [entry.shape for entry in found] == [(2,), (3,)]


def test_one_that_is_lost_is_not_passed_over() -> None:
    columns = arrived([np.zeros(2), np.ones(2)], damaged=(1,))
    with pytest.raises(DataLost, match="gone"):
        arrays_of([Message(columns, index, None) for index in range(2)])
    assert arrays_of([Message(columns, 0, None)])[0].tolist() == [0, 0]


# ----------------------------------------------------------------------------- sending


def kinds(buffers: list[Any] | None) -> list[type]:
    data, found = b"".join(map(bytes, buffers or ())), []
    while data:
        kind, header, body = unpack_head(data)
        found.append(type(frames.decode(kind, data[HEAD_NBYTES : HEAD_NBYTES + header])))
        data = data[HEAD_NBYTES + header + body :]
    return found


def test_puts_without_bodies_leave_together_and_those_with_one_singly() -> None:
    session = Session(Hello("beamstream", 1, "token", "demo", bytes(16)), nobody)
    session.connected()
    session.take(0.0)
    welcome = Welcome(1, 1, 1, "x", "demo", ("write",), 2, 1 << 20, 100)
    session.receive(welcome, memoryview(b""), 0.0)
    out = session.open_writer(OpenWriter(0, "s", "t", bytes(16)), nobody)
    session.take(0.0)
    plain = Put(0, 0, 1, (2,), bytes(16))
    granted = Put(0, 0, 1, (2,), bytes(16), place=Place(1, 0, 5))
    for put in [granted, granted, plain, granted, plain]:
        out.add_run(put, [b"ab"], 2)
    session.say(Ping(1))
    assert kinds(session.take(0.0)) == [Ping, Put, Put, Put]
    assert session.more
    assert kinds(session.take(0.0)) == [Put, Put]
    assert session.more
    assert session.take(0.0) is None
    assert not session.more
    for _ in range(PUTS_AT_ONCE + 1):
        out.add_run(granted, [b"ab"], 2)
    assert kinds(session.take(0.0)) == [Put] * PUTS_AT_ONCE
    assert session.more
    assert kinds(session.take(0.0)) == [Put]
    assert not session.more
