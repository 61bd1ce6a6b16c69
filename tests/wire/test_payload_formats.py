"""HDF5 in memory, .npy, images of detectors: read as others write them, refused where hostile."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import BadInput, Error, NotFound, TooLarge
from beamstream.wire import payload_codecs
from beamstream.wire.payload_formats import read_array, read_npy, sniff
from beamstream.wire.payload_hdf5 import DATASET, read_hdf5, write_hdf5

h5py = pytest.importorskip("h5py")
hdf5plugin = pytest.importorskip("hdf5plugin")

IMAGE = np.random.default_rng(3).poisson(2, (195, 487)).astype("<i4")
COMPRESSIONS = [None, "gzip", "lz4", "bslz4", "zstd", "blosc"]


def hdf5(write: Any) -> bytes:
    with h5py.File.in_memory() as file:
        write(file)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


# --------------------------------------------------------------------------------- hdf5


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_hdf5_comes_back(compression: str | None) -> None:
    payload = write_hdf5(IMAGE, compression)
    assert len(payload) < IMAGE.nbytes / 2 or compression is None
    assert sniff({}, "frame.h5", payload) == "hdf5"
    found = read_array({}, "frame.h5", memoryview(payload))
    assert found.dtype == IMAGE.dtype
    assert np.array_equal(found, IMAGE)
    assert not found.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.float64(2.5),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.arange(3, dtype=">u2"),
        np.array([b"ab", b"c"]),
        np.array([1 + 2j]),
        np.array([(1, 2.0)], "u2,f8"),
    ],
)
def test_hdf5_of_other_arrays(array: np.ndarray[Any, Any]) -> None:
    for compression in (None, "gzip"):
        found = read_hdf5(write_hdf5(np.asarray(array), compression))
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)


@pytest.mark.parametrize("name", ["LZ4", "Bitshuffle"])
@pytest.mark.parametrize("dtype", ["<u2", ">f4", "|b1"])
def test_hdf5_of_many_chunks_some_of_which_are_missing(name: str, dtype: str) -> None:
    array = IMAGE.astype(dtype)
    array[100:150, 100:200] = 1
    expected = array.copy()
    expected[64:128, :100] = 0

    def write(file: Any, **more: Any) -> None:
        options = {"chunks": (64, 100), **getattr(hdf5plugin, name)(), **more}
        data = file.create_dataset("a", IMAGE.shape, dtype, **options)
        data[:64] = array[:64]
        data[128:] = array[128:]
        data[64:128, 100:] = array[64:128, 100:]

    assert np.array_equal(read_hdf5(hdf5(write)), expected)
    with pytest.raises(BadInput, match="lacks the chunk"):
        read_hdf5(hdf5(lambda file: write(file, fillvalue=1)))


def test_a_chunk_without_its_filter_is_read() -> None:
    def write(file: Any) -> None:
        data = file.create_dataset("a", (4, 8), "<u2", chunks=(4, 8), **hdf5plugin.LZ4())
        data.id.write_direct_chunk((0, 0), np.arange(32, dtype="<u2").tobytes(), filter_mask=1)

    assert np.array_equal(read_hdf5(hdf5(write)), np.arange(32).reshape(4, 8))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzf"},
        {"shuffle": True, **hdf5plugin.LZ4()},
        hdf5plugin.Bitshuffle(cname="zstd"),
        hdf5plugin.Bitshuffle(cname="none"),
        hdf5plugin.SZ3(),
    ],
)
def test_compressions_that_are_not_run_on_what_strangers_send(options: Any) -> None:
    array = IMAGE.astype("<f4")
    payload = hdf5(lambda file: file.create_dataset("a", data=array, chunks=array.shape, **options))
    with pytest.raises(BadInput, match="not read from messages"):
        read_hdf5(payload)


def test_what_hdf5_does_not_have() -> None:
    for array in (np.array([object()]), np.zeros(1, "M8[s]"), np.array(["ä"])):
        with pytest.raises(BadInput):
            write_hdf5(array)
    with pytest.raises(BadInput, match="one of gzip"):
        write_hdf5(IMAGE, "zip")


def _nexus(file: Any) -> None:
    file.attrs["default"] = "entry"
    entry = file.create_group("entry")
    entry.attrs["default"] = b"data"
    data = entry.create_group("data")
    data.attrs["signal"] = "counts"
    file["raw"] = IMAGE
    data["counts"] = h5py.SoftLink("/raw")
    file["mask"] = np.ones((195, 487), "u1")


def _one_image(file: Any) -> None:
    file["a/image"] = IMAGE
    file["a/time"] = np.arange(3)
    file["a/text"] = "text"
    file["a/link"] = h5py.SoftLink("/nowhere")


def _one_list(file: Any) -> None:
    file["number"] = 7
    file["a/b"] = IMAGE[0]


@pytest.mark.parametrize("write", [_nexus, _one_image, _one_list])
def test_the_dataset_that_is_meant(write: Any) -> None:
    found = read_hdf5(hdf5(write))
    assert np.array_equal(found, IMAGE if found.ndim == 2 else IMAGE[0])


def test_a_dataset_by_its_path() -> None:
    payload = hdf5(_nexus)
    for path in ("raw", "/raw", "entry/data/counts", "/entry:NXentry/data:NXdata/counts"):
        assert np.array_equal(read_hdf5(payload, path), IMAGE)
        assert np.array_equal(read_array({"nexus_path": path}, "a.nxs", payload), IMAGE)
    assert read_array({}, "a.nxs", payload, dataset="mask").sum() == IMAGE.size


def test_errors_name_the_datasets() -> None:
    def two(file: Any) -> None:
        file["a"] = file["b"] = IMAGE
        file["c"] = IMAGE

    with pytest.raises(NotFound, match="/c"):
        read_hdf5(hdf5(two))
    with pytest.raises(NotFound, match="no dataset of numbers"):
        read_hdf5(hdf5(lambda file: None))
    for path in ("x", "a/x", "a/../b", "/"):
        with pytest.raises((NotFound, BadInput)):
            read_hdf5(hdf5(two), path)


def test_nothing_outside_of_the_payload_is_read(tmp_path: Path) -> None:
    """A message must not make its reader open files of the reader's machine."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(5)
    plain = tmp_path / "secret.raw"
    plain.write_bytes(bytes(range(40)))

    def link(file: Any) -> None:
        file[DATASET] = h5py.ExternalLink(str(secret), "x")

    def soft(file: Any) -> None:
        file["a"] = h5py.ExternalLink(str(secret), "/")
        file[DATASET] = h5py.SoftLink("/a/x")

    def external(file: Any) -> None:
        file.create_dataset(DATASET, (5,), "<i8", external=[(str(plain), 0, 40)])

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((5,), "<i8")
        layout[:] = h5py.VirtualSource(str(secret), "x", (5,))
        file.create_virtual_dataset(DATASET, layout)

    for write in (link, soft, external, virtual):
        payload = hdf5(write)
        for dataset in (None, DATASET):
            with pytest.raises(BadInput, match=r"other files|leads out"):
                read_hdf5(payload, dataset)


def test_links_in_a_circle_end() -> None:
    def circle(file: Any) -> None:
        file["a"] = h5py.SoftLink("/b")
        file["b"] = h5py.SoftLink("/a")
        file.create_group("g")["up"] = file["/"]
        file.attrs["default"] = "g/up"

    payload = hdf5(circle)
    with pytest.raises(BadInput, match="leads out"):
        read_hdf5(payload, "a")
    with pytest.raises(NotFound):
        read_hdf5(payload)


def test_hdf5_that_claims_too_much() -> None:
    def empty(shape: tuple[int, ...], **options: Any) -> bytes:
        return hdf5(lambda file: file.create_dataset("a", shape, "u1", **options))

    for payload in (
        empty((1 << 30, 1 << 10)),
        empty((1 << 31,), chunks=(1 << 16,), compression="gzip"),
        empty((1 << 10,), chunks=(1 << 31,), maxshape=(None,)),
    ):
        with pytest.raises(TooLarge):
            read_hdf5(payload, "a")
    with pytest.raises(TooLarge):
        read_hdf5(write_hdf5(IMAGE), nbytes_max=IMAGE.nbytes - 1)


def test_hdf5_of_very_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HDF5_OBJECTS_MAX", 20)

    def many(file: Any) -> None:
        for number in range(21):
            file[str(number)] = number

    with pytest.raises(TooLarge):
        read_hdf5(hdf5(many))


# The same examples each time: libhdf5 has places where a damaged file ends the process.
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from(COMPRESSIONS))
def test_damaged_hdf5_is_an_error_or_an_array(data: st.DataObject, compression: str | None) -> None:
    payload = bytearray(write_hdf5(np.arange(60, dtype="<u2").reshape(6, 10), compression))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(8, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_hdf5(payload)
    except Error:
        return
    assert found.nbytes <= 1 << 27


# ---------------------------------------------------------------------------------- npy


def npy(array: np.ndarray[Any, Any], version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize(
    "array",
    [
        IMAGE,
        IMAGE.T,
        np.float32(1.0),
        np.zeros((0, 3)),
        np.zeros(3, np.dtype([("a", "u1"), ("b", "<f8", (2,))], align=True)),
        np.array(["ä", "b"]),
        np.arange(3, dtype=">c16"),
    ],
)
def test_npy_is_read_without_a_copy(array: np.ndarray[Any, Any], version: tuple[int, int]) -> None:
    payload = npy(np.asarray(array), version)
    assert sniff({}, "a.npy", payload) == "npy"
    found = read_array({}, "a.npy", payload)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert not found.flags.owndata
    assert not found.flags.writeable


def test_npy_with_names_beyond_latin1() -> None:
    array = np.zeros(2, [("ψ", "<f4")])
    with pytest.warns(UserWarning, match="3"):
        payload = npy(array)
    assert read_npy(payload).dtype == array.dtype


def _npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    "payload",
    [
        npy(np.array([{}], "O")),
        npy(IMAGE)[:-1],
        npy(IMAGE) + b"x",
        npy(IMAGE)[:20],
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        _npy("{'descr': '<u2', 'fortran_order': False, 'shape': (1000000000000,)}"),
        _npy("{'descr': '<u2', 'fortran_order': False, 'shape': (-1,)}"),
        _npy("{'descr': '<u2', 'fortran_order': 1, 'shape': (0,)}"),
        _npy("{'descr': '<u2', 'shape': (0,)}"),
        _npy("__import__('os')"),
        _npy("(" * 5000),
        _npy("["),
        _npy("7"),
    ],
)
def test_npy_that_is_refused(payload: bytes) -> None:
    with pytest.raises(BadInput):
        read_npy(payload)


@given(st.text("{}()[]'\",:<u2fshapedcro 0123456789", max_size=60), st.binary(max_size=20))
def test_any_npy_header_is_an_error_or_an_array(header: str, data: bytes) -> None:
    try:
        read_npy(_npy(header, data))
    except BadInput:
        return


# ------------------------------------------------------------------- plain and detectors


@pytest.mark.parametrize("dtype", ["uint16", "<u2", "float32", ">f8", "bool"])
def test_plain_buffers_with_shape_and_dtype(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found = read_array({"shape": [2, 3], "dtype": dtype}, "a.numpy", array.tobytes())
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize("dtype", ["object", "O", "uint128", "u2,O", "float128"])
def test_plain_buffers_of_other_dtypes(dtype: str) -> None:
    with pytest.raises(BadInput):
        read_array({"shape": [1], "dtype": dtype}, "a.numpy", bytes(16))


def test_chunks_as_a_detector_sends_them() -> None:
    array = IMAGE.astype("<u4")
    chunk = payload_codecs.codec("bslz4").pack(memoryview(array.tobytes()), 4)
    info = {"htype": "dimage_d-1.0", "shape": [487, 195], "type": "uint32"}
    for encoding, payload in (("bs32-lz4<", chunk), ("<", array.tobytes())):
        meta = {"info": info | {"encoding": encoding}}
        assert sniff(meta, "frame", payload) == "dectris"
        assert np.array_equal(read_array(meta, "frame", payload), array)
    for wrong in ({"encoding": "zip"}, {"encoding": "<", "type": 4}, {"encoding": "<", "shape": 3}):
        with pytest.raises(BadInput):
            read_array({"info": info | wrong}, "frame", array.tobytes())


@pytest.mark.parametrize("payload", [b"", b"x", b"hello world" * 10])
def test_unknown_payloads_are_refused_with_their_name(payload: bytes) -> None:
    assert sniff({}, "run1/frame", payload) == ""
    with pytest.raises(BadInput, match="run1/frame"):
        read_array({}, "run1/frame", payload)


# ------------------------------------------------------------------------------- images


def real(name: str) -> bytes:
    shared = os.environ.get("BEAMSTREAM_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[3] / "shared"
    path = root / "data" / name
    if not path.is_file():
        pytest.skip("real frames are not at hand (BEAMSTREAM_SHARED names their folder)")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "kind", "total"),
    [
        ("pilatus100k_desy_05717_00000.cbf", "cbf", 5_194_632),
        ("pilatus100k_scan_00001.tif", "tiff", 324_555),
        ("AgBehenate_228.hdf5", "hdf5", 123_204_419),
    ],
)
def test_real_frames(name: str, kind: str, total: int) -> None:
    pytest.importorskip("fabio")
    payload = real(name)
    assert sniff({}, name, payload) == kind
    found = read_array({}, name, payload)
    assert (found.shape, found.dtype.str, found.sum()) == ((195, 487), "<i4", total)
    with pytest.raises(TooLarge):
        read_array({}, name, payload, nbytes_max=1000)


@pytest.mark.parametrize("kind", ["cbf", "tif"])
def test_images_that_fabio_writes(kind: str, tmp_path: Path) -> None:
    fabio = pytest.importorskip("fabio")
    image = {"cbf": fabio.cbfimage.CbfImage, "tif": fabio.tifimage.TifImage}[kind](data=IMAGE)
    image.write(str(tmp_path / f"a.{kind}"))
    payload = (tmp_path / f"a.{kind}").read_bytes()
    assert np.array_equal(read_array({}, "a", payload), IMAGE)
    for cut in (9, 60, len(payload) // 2):
        with pytest.raises(BadInput):
            read_array({}, "a", payload[:cut])


def test_images_that_claim_too_much() -> None:
    length = b"X-Binary-Size-%s-Dimension: 9999\r\n"
    cbf = b"###CBF: x\r\n" + length % b"Fastest" + length % b"Second"
    with pytest.raises(BadInput, match="claims"):
        read_array({}, "a.cbf", cbf)
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, 30_000) for tag in (256, 257))
    tiff = b"II*\x00" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    with pytest.raises(BadInput, match="claims"):
        read_array({}, "a.tif", tiff)
