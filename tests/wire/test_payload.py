"""Arrays and bytes as payloads: round trips of every dtype and codec, and hostile descriptions."""

from __future__ import annotations

import math
import struct
import sys
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import BadInput, Error, TooLarge
from beamstream.wire import payload_codecs
from beamstream.wire.payload import ArrayInfo, Encoded, decode, encode, pack_info, unpack_info
from beamstream.wire.payload_dtype import format_dtype, parse_dtype

CODECS = ["raw", "zstd", "lz4", "bslz4", "deflate"]
NEEDS = {"zstd": ["zstandard"], "lz4": ["lz4"], "bslz4": ["h5py", "hdf5plugin"]}


@pytest.fixture(scope="module", params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    for library in NEEDS.get(request.param, []):
        pytest.importorskip(library)
    return str(request.param)


PLAIN = [
    *(f"{order}{kind}" for order in "<>" for kind in ("i2", "u2", "i4", "u4", "i8", "u8")),
    *(f"{order}{kind}" for order in "<>" for kind in ("f2", "f4", "f8", "c8", "c16")),
    *("|b1", "|i1", "|u1", "|S1", "|S7", "<U3", ">U3", "|V5", "<M8[ns]", ">m8[25s]", "<M8"),
]
plain_dtypes = st.sampled_from(PLAIN).map(np.dtype)
field_names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


def _records(inner: st.SearchStrategy[np.dtype[Any]]) -> st.SearchStrategy[np.dtype[Any]]:
    shapes = st.lists(st.integers(1, 3), max_size=2).map(tuple)
    fields = st.lists(
        st.tuples(field_names, inner, shapes), min_size=1, max_size=4, unique_by=lambda f: f[0]
    )
    return st.tuples(fields, st.booleans()).map(lambda drawn: np.dtype(drawn[0], align=drawn[1]))


dtypes = st.recursive(plain_dtypes, _records, max_leaves=6)
shapes = st.lists(st.integers(0, 6), max_size=4).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of any bytes, also those that are not in C order or not writeable."""
    dtype, shape = draw(dtypes), draw(shapes)
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    nbytes = dtype.itemsize * math.prod(shape)
    raw = rng.integers(0, draw(st.sampled_from([2, 256])), nbytes, np.uint8)
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, raw.tobytes())
    match draw(st.integers(0, 3)):
        case 1:
            return array.T
        case 2:
            return array[::-1] if array.ndim else array
        case 3:
            return array[..., ::2] if array.ndim else array
        case _:
            return array


def payload(encoded: Encoded) -> bytes:
    return b"".join(encoded.buffers)


def raw_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """With what is between the fields, which numpy's own copies leave out."""
    return array.view(f"V{array.dtype.itemsize}").tobytes()


def assert_same(found: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> None:
    """Bytes decide: text and floats of random bytes need not equal themselves."""
    assert found.dtype == array.dtype
    assert found.dtype.str == array.dtype.str
    assert found.shape == array.shape
    assert raw_bytes(found) == raw_bytes(array)
    assert not found.flags.writeable


# --------------------------------------------------------------------------- round trips


@settings(max_examples=60, deadline=None)
@given(arrays())
def test_an_array_comes_back(codec: str, array: np.ndarray[Any, Any]) -> None:
    encoded = encode(array, codec)
    assert encoded.kind == "array"
    assert encoded.raw_nbytes == array.nbytes
    assert encoded.nbytes == len(payload(encoded)) <= array.nbytes
    info = unpack_info(pack_info(encoded.info))
    assert info == encoded.info
    assert info is not None
    assert_same(decode(info, payload(encoded)), array)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PLAIN),
    st.integers(1, 5000),
    st.integers(1, 255),
    st.integers(0, 2**32 - 1),
)
def test_each_codec_packs_what_can_be_packed(
    codec: str, dtype: str, count: int, values: int, seed: int
) -> None:
    size = count * np.dtype(dtype).itemsize
    raw = np.random.default_rng(seed).integers(0, values, size, np.uint8)
    how = payload_codecs.codec(codec)
    packed = memoryview(how.pack(raw.data, np.dtype(dtype).itemsize))
    plain = payload_codecs.unpack(codec, packed, size, np.dtype(dtype).itemsize)
    assert bytes(plain) == raw.tobytes()


def test_large_arrays_of_many_blocks(codec: str) -> None:
    array = np.random.default_rng(1).poisson(2, (1001, 1003)).astype("<u4")
    array[500] = np.random.default_rng(2).integers(0, 2**32, 1003)
    encoded = encode(array, codec)
    assert encoded.codec == codec
    assert encoded.nbytes == array.nbytes if codec == "raw" else encoded.nbytes < array.nbytes / 2
    assert_same(decode(encoded, payload(encoded)), array)


@pytest.mark.parametrize("name", ["Zstd", "LZ4", "Bitshuffle"])
def test_what_we_pack_is_a_chunk_of_hdf5(name: str) -> None:
    """An exporter writes it as it is, and what others' filters have packed is read."""
    h5py = pytest.importorskip("h5py")
    hdf5plugin = pytest.importorskip("hdf5plugin")
    codec = {"Zstd": "zstd", "LZ4": "lz4", "Bitshuffle": "bslz4"}[name]
    for library in NEEDS[codec]:
        pytest.importorskip(library)
    array = np.random.default_rng(1).poisson(2, (1500, 1001)).astype("<u2")
    ours = encode(array, codec)
    assert ours.codec == codec
    with h5py.File.in_memory() as file:
        options = {"chunks": array.shape, **getattr(hdf5plugin, name)()}
        file.create_dataset("theirs", data=array, **options)
        file.create_dataset("ours", array.shape, array.dtype, **options)
        file["ours"].id.write_direct_chunk((0, 0), payload(ours))
        assert np.array_equal(file["ours"][()], array)
        chunk = file["theirs"].id.read_direct_chunk((0, 0))[1]
    assert np.array_equal(decode(ArrayInfo("<u2", array.shape, codec), chunk), array)


@pytest.mark.parametrize("codec_name", ["zstd", "lz4", "bslz4"])
def test_what_does_not_become_smaller_is_sent_raw(codec_name: str) -> None:
    for library in NEEDS[codec_name]:
        pytest.importorskip(library)
    array = np.random.default_rng(1).integers(0, 256, 1000, np.uint8)
    assert encode(array, codec_name).codec == "raw"
    assert encode(np.zeros((0, 5)), codec_name).codec == "raw"


def test_raw_is_not_copied_on_either_side() -> None:
    array = np.arange(12, dtype="<u2").reshape(3, 4)
    encoded = encode(array)
    assert np.shares_memory(np.frombuffer(encoded.buffers[0], "u1"), array)
    received = bytearray(payload(encoded))
    found = decode(encoded, received)
    assert np.shares_memory(found, np.frombuffer(received, "u1"))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    assert encoded.buffers[0].readonly


@pytest.mark.parametrize(
    "scalar",
    [
        np.float32(1.5),
        np.bool_(True),
        np.int64(-1),
        np.bytes_(b"abc"),
        np.str_("äö"),
        np.datetime64("2026-11-22T12:30"),
        np.zeros(1, "i4,f8")[0],
    ],
)
def test_numpy_scalars_are_arrays_without_dimensions(scalar: np.generic) -> None:
    encoded = encode(scalar)
    assert encoded.shape == ()
    found = decode(encoded, payload(encoded))
    assert found.dtype == scalar.dtype
    assert found[()] == scalar


@pytest.mark.parametrize(
    "data",
    [
        b"abc",
        bytearray(b"abc"),
        memoryview(b"abc"),
        memoryview(b"a-b-c")[::2].toreadonly(),
        memoryview(np.zeros((2, 3), "<u4")),
        b"",
        memoryview(np.zeros((0, 3))),
    ],
)
def test_bytes_are_sent_as_they_are(data: bytes | bytearray | memoryview) -> None:
    encoded = encode(data)
    assert (encoded.kind, encoded.info, encoded.codec) == ("bytes", None, "raw")
    assert payload(encoded) == memoryview(data).tobytes()
    assert encoded.nbytes == encoded.raw_nbytes == memoryview(data).nbytes
    assert unpack_info(pack_info(encoded.info)) is None


def test_a_subclass_is_sent_as_its_numbers() -> None:
    class Image(np.ndarray[Any, Any]):
        pass

    array = np.arange(6).reshape(2, 3).view(Image)
    encoded = encode(array)
    assert type(decode(encoded, payload(encoded))) is np.ndarray


# --------------------------------------------------------------------- what is not sent


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.zeros(2, [("a", "O")]),
        np.zeros(2, np.dtype([])),
        np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["u2", "u2"], "offsets": [0, 1]})),
        np.zeros(2, [(("title", "a"), "u2")]),
        np.ma.masked_array([1, 2], [True, False]),
        [1, 2],
        "text",
        1.5,
        None,
    ],
)
def test_what_cannot_be_sent_is_refused(value: object) -> None:
    with pytest.raises(BadInput):
        encode(value)


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="long double is a double here")
def test_long_doubles_are_refused() -> None:
    with pytest.raises(BadInput, match="every machine"):
        encode(np.zeros(2, "g"))


def test_the_errors_say_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"numpy\.asarray"):
        encode([1])
    with pytest.raises(BadInput, match="one of raw, zstd, lz4, bslz4"):
        encode(np.zeros(1), "gzip")
    with pytest.raises(BadInput, match="frombuffer"):
        encode(b"abc", "lz4")


def test_an_array_beyond_the_limit_is_refused() -> None:
    huge = np.broadcast_to(np.zeros((), "u1"), (limits.PAYLOAD_NBYTES_MAX + 1,))
    with pytest.raises(TooLarge):
        encode(huge)


@pytest.mark.parametrize("name", ["zstd", "lz4", "bslz4"])
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("zstandard", "lz4", "lz4.block", "h5py"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Error, match=r"pip install 'beamstream\[codecs\]'"):
        encode(np.zeros(1000), name)


# ------------------------------------------------------------------------------- dtypes


@given(dtypes)
def test_a_dtype_comes_back_from_its_text(dtype: np.dtype[Any]) -> None:
    text = format_dtype(dtype)
    assert parse_dtype(text) == dtype
    assert format_dtype(parse_dtype(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "O",
        "|O",
        "|O8",
        "u2",
        "=u2",
        "|u2",
        "<u3",
        "<f16",
        "<U0",
        "|V0",
        "|S01",
        "<M8[x]",
        "<M8[0s]",
        "float64",
        "u2,u2",
        "(2,3)u2",
        "<u2 ",
        "object",
        "[]",
        "[[]]",
        "{}",
        "[1",
        '[["a"]]',
        '[["a","O"]]',
        '[["a","<u2",-1]]',
        '[["a","<u2",[0]]]',
        '[["a","<u2",[true]]]',
        '[["a","<u2"],["a","<u2"]]',
        '[["","<u2"]]',
        '[["","|V2"]]',
        '[[["t","a"],"<u2"]]',
        '[["a",[]]]',
        '[["a",null]]',
        '[["a","<u2",[2],3]]',
        '["a","<u2"]',
        '[["a","<u2",1.5]]',
    ],
)
def test_texts_that_are_no_dtypes(text: str) -> None:
    with pytest.raises(BadInput):
        parse_dtype(text)


@pytest.mark.parametrize(
    "text",
    [
        "|S9999999999",
        "<U999999999",
        '[["a","|S2000000000"],["b","|S2000000000"]]',
        '[["a","<u8",[1000000,1000000]]]',
        "[" + ",".join(f'["f{i}","<u2"]' for i in range(limits.ARRAY_FIELDS_MAX + 1)) + "]",
        "[" * 100_000,
        '[["a",' * 20 + '"<u2"' + "]]" * 20,
    ],
)
def test_dtypes_beyond_the_limits(text: str) -> None:
    with pytest.raises(TooLarge):
        parse_dtype(text)


@given(st.text(max_size=30) | st.text('<>|[]",abfiuUSV0123456789 ', max_size=40))
def test_any_text_is_a_dtype_or_an_error_of_ours(text: str) -> None:
    try:
        dtype = parse_dtype(text)
    except BadInput:
        return
    assert not dtype.hasobject
    assert dtype.itemsize > 0


# ------------------------------------------------------------------- hostile descriptions


@pytest.fixture
def bounded() -> Any:
    """Fails the test if it allocates more than 4 MiB at once or in all."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * limits.MIB


HUGE = 1 << 32


@pytest.mark.parametrize(
    "shape",
    [(HUGE,), (2**62, 2**62), (0, 2**62), (10**400,), (1,) * 33, (-1,), (1 << 33, 1), (True,)],
)
@pytest.mark.usefixtures("bounded")
def test_hostile_shapes_allocate_nothing(codec: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput):
        decode(ArrayInfo("<u2", shape, codec), bytes(64))


@pytest.mark.usefixtures("bounded")
def test_a_claim_beyond_what_can_be_unpacked_allocates_nothing(codec: str) -> None:
    with pytest.raises(BadInput):
        decode(ArrayInfo("<u8", (1 << 29,), codec), bytes(100))


@pytest.mark.usefixtures("bounded")
def test_bombs_are_refused_by_the_limit_and_by_the_description(codec: str) -> None:
    packed = payload(encode(np.zeros(1_000_000, "u1"), codec))
    with pytest.raises(TooLarge):
        decode(ArrayInfo("<u1", (1_000_000,), codec), packed, nbytes_max=999_999)
    for wrong in (999_992, 1_000_008, 8):
        with pytest.raises(BadInput):
            decode(ArrayInfo("<u1", (wrong,), codec), packed)


@pytest.mark.usefixtures("bounded")
def test_a_zstd_frame_without_size_stops_at_the_described_one() -> None:
    zstandard = pytest.importorskip("zstandard")
    stream = zstandard.ZstdCompressor().compressobj()
    bomb = b"".join(stream.compress(bytes(limits.MIB)) for _ in range(64)) + stream.flush()
    assert len(bomb) < 10_000
    with pytest.raises(BadInput):
        decode(ArrayInfo("<u1", (1000,), "zstd"), bomb)
    small = stream = zstandard.ZstdCompressor().compressobj()
    small = stream.compress(b"abcd" * 10) + stream.flush()
    assert decode(ArrayInfo("|S4", (10,), "zstd"), small).tolist() == [b"abcd"] * 10


@pytest.mark.parametrize("name", ["lz4", "bslz4"])
@pytest.mark.parametrize("block_nbytes", [0, 1, 7, 2**31, 2**32 - 1])
@pytest.mark.usefixtures("bounded")
def test_hostile_block_sizes(name: str, block_nbytes: int) -> None:
    for library in NEEDS[name]:
        pytest.importorskip(library)
    hostile = struct.pack(">QI", 100_000, block_nbytes) + bytes(2000)
    with pytest.raises(BadInput):
        decode(ArrayInfo("<u1", (100_000,), name), hostile)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_are_an_error_or_an_array(codec: str, data: st.DataObject) -> None:
    """Never a crash, and never more than was described."""
    array = np.arange(3000, dtype="<u2") % 77
    packed = bytearray(payload_codecs.codec(codec).pack(encode(array).buffers[0], 2))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(packed) - 1))
        packed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 1, 100]))
    del packed[len(packed) - cut :]
    packed += bytes(data.draw(st.sampled_from([0, 0, 1, 9])))
    try:
        found = decode(ArrayInfo("<u2", (3000,), codec), packed)
    except BadInput:
        return
    assert found.shape == (3000,)


@given(st.binary(max_size=200), st.integers(1, 100), st.sampled_from([1, 2, 3, 8]))
@settings(deadline=None)
def test_any_bytes_are_an_error_or_an_array(
    codec: str, packed: bytes, count: int, itemsize: int
) -> None:
    try:
        found = decode(ArrayInfo(f"|V{itemsize}", (count,), codec), packed)
    except BadInput:
        return
    assert found.nbytes == count * itemsize


@given(st.binary(max_size=60))
def test_any_bytes_are_a_description_or_an_error(packed: bytes) -> None:
    try:
        info = unpack_info(packed)
    except BadInput:
        return
    assert info is None or type(info) is ArrayInfo


@given(st.from_type(ArrayInfo), st.binary(max_size=40))
def test_any_description_is_safe(info: ArrayInfo, buffer: bytes) -> None:
    try:
        found = decode(info, buffer)
    except BadInput:
        return
    assert found.nbytes <= 1 << 20


def test_a_description_is_small_and_open_to_later_fields() -> None:
    info = ArrayInfo("<u2", (512, 1028), "bslz4")
    packed = pack_info(info)
    assert len(packed) == 18
    assert msgspec.msgpack.decode(packed) == ["<u2", [512, 1028], "bslz4"]
    later = msgspec.msgpack.encode(["<u2", [512, 1028], "bslz4", {"new": 1}])
    assert unpack_info(later) == info


def test_a_long_description_is_refused() -> None:
    with pytest.raises(BadInput):
        unpack_info(bytes(3 * limits.ARRAY_DTYPE_NBYTES_MAX))
