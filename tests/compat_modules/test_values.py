"""Properties of what the modules make of values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.client.asapo.records import Message
from beamstream.compat.arguments import seconds, text, unsigned
from beamstream.compat.messages import Heading, check_mode, data_bytes, meta_bytes
from beamstream.compat.producer_errors import AsapoProducerError, AsapoWrongInputError
from beamstream.compat.records import read_record, record_dict
from beamstream.errors import BadInput
from beamstream.wire.asapo.structs import OpCode, payload_nbytes, unpack_request

U64 = st.integers(0, 2**64 - 1)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=4)
MESSAGES = st.builds(
    Message,
    id=st.integers(1, 2**63 - 1),
    size=st.integers(0, 2**63),
    name=NAMES,
    timestamp_ns=st.integers(0, 2**63),
    meta=OBJECTS,
    substream=st.integers(0, 65_536),
    source=NAMES,
    buf_id=U64,
    stream=NAMES,
    mode=st.sampled_from([2, 9, 10, 13, 29]),
)


@given(MESSAGES)
def test_a_record_is_the_message(message: Message) -> None:
    record = record_dict(message)
    assert json.loads(json.dumps(record)) == record
    again = read_record(record)
    assert record_dict(again) == record
    assert again == message


@given(st.dictionaries(st.sampled_from(["_id", "size", "name", "meta", "buf_id"]), JSON) | JSON)
def test_what_is_no_record_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="wrong metadata"):
        read_record(value)


@given(st.integers(), st.sampled_from([8, 64]))
def test_numbers(value: int, nbits: int) -> None:
    if 0 <= value < 2**nbits:
        assert unsigned(value, nbits) == value
    else:
        with pytest.raises(OverflowError):
            unsigned(value, nbits)


@given(U64)
def test_timeouts_fit_a_socket(milliseconds: int) -> None:
    assert 0 <= seconds(milliseconds) <= milliseconds / 1000
    assert seconds(milliseconds) <= 2**31


@given(NAMES)
def test_names_may_be_bytes(name: str) -> None:
    assert text(name) == text(name.encode()) == text(bytearray(name.encode())) == name


@given(st.integers(0, 255))
def test_ingest_modes(mode: int) -> None:
    data, meta_only, file, record = (bool(mode & bit) for bit in (1, 2, 4, 8))
    if (data and not meta_only and (file or record)) or (meta_only and not data and not file):
        check_mode(mode)
    else:
        with pytest.raises(AsapoWrongInputError):
            check_mode(mode)


@given(
    st.integers(1, 2**64 - 1),
    NAMES.filter(lambda name: len(name.encode()) < 1024),
    NAMES.filter(lambda name: len(name.encode()) < 1024),
    st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)),
    st.sampled_from([2, 9, 10, 13, 29]),
    OBJECTS,
    st.binary(max_size=50),
)
def test_a_header_says_what_was_given(
    id: int,
    path: str,
    stream: str,
    dataset: tuple[int, int] | None,
    mode: int,
    user_meta: dict[str, Any],
    data: bytes,
) -> None:
    meta = meta_bytes(user_meta)
    heading = Heading(id, path, stream, dataset, mode, False)
    request = unpack_request(heading.pack(len(data), meta))
    assert (request.id, request.path, request.stream) == (id, path, stream)
    assert request.op == (OpCode.TRANSFER_DATASET_DATA if dataset else OpCode.TRANSFER_DATA)
    assert request.custom == (mode, *(dataset or (0, 0)))
    assert (request.data_size, request.meta_size) == (len(data), len(meta))
    assert payload_nbytes(request) == (len(data) if heading.has_data else 0)
    assert json.loads(meta) == user_meta


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, ">i4", "datetime64[s]", "S3", bool])
def test_arrays_become_their_bytes(dtype: Any) -> None:
    array = np.zeros((3, 4), dtype)
    assert bytes(data_bytes(array)) == array.tobytes()
    with pytest.raises((AsapoWrongInputError, BadInput)):
        data_bytes(array.T)


@pytest.mark.parametrize("data", ["text", 5, [1], object()])
def test_what_has_no_bytes_is_refused(data: Any) -> None:
    with pytest.raises(AsapoProducerError, match="wrong data type"):
        data_bytes(data)
