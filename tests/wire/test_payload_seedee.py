"""seedee: against bytes and descriptions its own library has made, and against the library."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import BadInput, TooLarge
from beamstream.wire.payload_formats import read_array, sniff
from beamstream.wire.payload_seedee import META_KEY, read_seedee, write_seedee

# Made by seedee 0.3.2 from numpy.arange(48, dtype="<u2").reshape(6, 8).
ARRAY = np.arange(48, dtype="<u2").reshape(6, 8)
DESCRIPTION = (
    '{"array":{"byteorder":60,"datatype":117,"itemsize":2,"ndims":2,"shape":[6,8],"size":96,'
    '"stride":null},"compression":%s,"data_format":"hdf5_chunk","protocol":"seedee",'
    '"version_major":1,"version_minor":0}'
)
MADE = {
    "raw": ('0,"compression_opts":null', ARRAY.tobytes().hex()),
    "deflate": (
        '1,"compression_opts":[4]',
        "785e05c1070242000000c08bb4b435246990a4d4ff7fe78e814068283232363135139b5b585a59dbd84aecec"
        "1d1ca54e3267b98bc2d5cddd43a9f2547b69bcb53ebe3a3f7f3d90500469",
    ),
    "lz4": (
        '32004,"compression_opts":[0]',
        "0000000000000060" + "00000060" * 2 + ARRAY.tobytes().hex(),
    ),
    "bslz4": (
        '32008,"compression_opts":[0,2]',
        "0000000000000060000020000000002511aa010011cc010011f001002100ff02004100ffff00010004080"
        "00f02001e500000000000",
    ),
}
NEEDS = {"lz4": ["lz4"], "bslz4": ["h5py", "hdf5plugin"]}
CODECS = ["raw", "deflate", "lz4", "bslz4"]
DTYPES = ["|b1", "|u1", "|i1", "<u2", ">u2", "<i4", ">f4", "<f2", "<f8", ">u8", "<c8", ">c16"]


@pytest.fixture(scope="module", params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    for library in NEEDS.get(request.param, []):
        pytest.importorskip(library)
    return str(request.param)


def _numbers(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.poisson(2, shape).astype(dtype)


arrays = st.builds(
    _numbers,
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 40), max_size=3).map(tuple),
    st.integers(0, 2**32 - 1),
)


def test_what_the_library_has_made_is_read(codec: str) -> None:
    compression, payload = MADE[codec]
    meta = {META_KEY: DESCRIPTION % compression, "other": 1}
    assert sniff(meta, "a", bytes.fromhex(payload)) == "seedee"
    found = read_array(meta, "a", bytes.fromhex(payload))
    assert found.dtype.str == "<u2"
    assert np.array_equal(found, ARRAY)
    assert not found.flags.writeable
    assert np.array_equal(read_seedee(bytes.fromhex(payload), meta[META_KEY]), ARRAY)


@pytest.mark.parametrize("codec_name", ["raw", "bslz4"])
def test_what_we_write_is_what_the_library_would_have_made(codec_name: str) -> None:
    for library in NEEDS.get(codec_name, []):
        pytest.importorskip(library)
    compression, expected = MADE[codec_name]
    payload, meta = write_seedee(ARRAY, codec_name)
    assert meta == {META_KEY: DESCRIPTION % compression}
    assert payload.hex() == expected


@settings(max_examples=50, deadline=None)
@given(arrays)
def test_arrays_come_back(codec: str, array: np.ndarray[Any, Any]) -> None:
    payload, meta = write_seedee(array, codec)
    found = read_seedee(payload, meta)
    assert (found.dtype.str, found.shape) == (array.dtype.str, array.shape)
    assert np.array_equal(found, array)


@settings(max_examples=50, deadline=None)
@given(arrays)
def test_the_library_and_we_read_each_other(codec: str, array: np.ndarray[Any, Any]) -> None:
    seedee = pytest.importorskip("seedee")
    number = {"raw": "NONE", "deflate": "DEFLATE", "lz4": "LZ4", "bslz4": "BITSHUFFLE"}[codec]
    payload, meta = write_seedee(array, codec)
    theirs = seedee.deserialize(payload, meta[META_KEY])
    assert (theirs.dtype, theirs.shape) == (array.dtype, array.shape)
    assert np.array_equal(theirs, array)
    buffer, text = seedee.serialize(array, getattr(seedee, f"COMPRESSION_{number}"))
    ours = read_seedee(buffer.data, text)
    assert (ours.dtype, ours.shape) == (array.dtype, array.shape)
    assert np.array_equal(ours, array)


def test_the_library_reads_large_arrays(codec: str) -> None:
    seedee = pytest.importorskip("seedee")
    array = _numbers("<u2", (1500, 1001), 1)
    payload, meta = write_seedee(array, codec)
    assert json.loads(meta[META_KEY])["compression"] != 0 or codec == "raw"
    assert np.array_equal(seedee.deserialize(payload, meta[META_KEY]), array)


def test_raw_is_a_view() -> None:
    payload, meta = write_seedee(ARRAY)
    assert np.shares_memory(read_seedee(payload, meta), ARRAY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "other"}, "not seedee"),
        ({"version_major": 2}, "not seedee"),
        ({"data_format": "x"}, "not seedee"),
        ({"compression": 99}, "99"),
        ({"array": {"datatype": ord("O")}}, "datatype"),
        ({"array": {"datatype": -1}}, "datatype"),
        ({"array": {"byteorder": 10**30}}, "byteorder"),
        ({"array": {"itemsize": 3}}, "dtype"),
        ({"array": {"shape": [6, 9]}}, "96"),
        ({"array": {"shape": [6, -8]}}, "shape"),
        ({"array": {"shape": [2**40, 2**40]}}, "more than"),
        ({"array": {"size": 95}}, "95"),
        ({"array": {"ndims": 3}}, "dimensions"),
        ({"array": {"stride": [2, 12]}}, "C order"),
        ({"array": None}, "description"),
    ],
)
def test_wrong_descriptions(change: dict[str, Any], said: str) -> None:
    form = json.loads(DESCRIPTION % MADE["raw"][0])
    if change.get("array"):
        change = {"array": form["array"] | change["array"]}
    with pytest.raises(BadInput) as caught:
        read_seedee(ARRAY.tobytes(), {META_KEY: json.dumps(form | change)})
    assert said in str(caught.value)


def test_strides_in_c_order_are_c_order() -> None:
    form = json.loads(DESCRIPTION % MADE["raw"][0])
    form["array"]["stride"] = [16, 2]
    assert np.array_equal(read_seedee(ARRAY.tobytes(), json.dumps(form)), ARRAY)


@pytest.mark.parametrize("meta", [{}, {META_KEY: 7}, {META_KEY: "seedee"}, {META_KEY: "[" * 9999}])
def test_no_description(meta: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        read_seedee(b"", meta)


def test_limits() -> None:
    payload, meta = write_seedee(ARRAY)
    with pytest.raises(TooLarge):
        read_seedee(payload, meta, nbytes_max=95)
    with pytest.raises(TooLarge):
        read_seedee(b"", {META_KEY: '"seedee"' + " " * limits.META_NBYTES_MAX})
    huge = np.broadcast_to(np.zeros((), "u1"), (limits.SEEDEE_NBYTES_MAX + 1,))
    with pytest.raises(TooLarge):
        write_seedee(huge)


@pytest.mark.parametrize("dtype", ["S3", "M8[s]", "O", [("a", "u2")]])
def test_what_seedee_does_not_have(dtype: Any) -> None:
    with pytest.raises(BadInput):
        write_seedee(np.zeros(2, dtype))
    with pytest.raises(BadInput, match="one of raw"):
        write_seedee(ARRAY, "zstd")


@settings(max_examples=100, deadline=None)
@given(st.text('{}[]",:0123456789abcdeostyz_', max_size=80), st.binary(max_size=40))
def test_any_text_is_an_error(text: str, payload: bytes) -> None:
    with pytest.raises(BadInput):
        read_seedee(payload, text)


json_values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=4)
    | st.lists(st.integers(-1, 2**70), max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["compression", "compression_opts", "array", "version_major"])
    | st.sampled_from(["shape", "size", "itemsize", "datatype", "byteorder", "ndims", "stride"]),
    json_values,
)
def test_any_value_is_an_error_or_an_array(key: str, value: object) -> None:
    form = json.loads(DESCRIPTION % MADE["raw"][0])
    (form if key in form else form["array"])[key] = value
    try:
        found = read_seedee(ARRAY.tobytes(), json.dumps(form))
    except BadInput:
        return
    assert found.nbytes == math.prod(found.shape) * found.itemsize == ARRAY.nbytes
