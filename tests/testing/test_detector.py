"""The simulated detector looks like one, and real image files are read frame by frame."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamstream.errors import BadInput, BadSetting, NotFound
from beamstream.testing.detector import SimulatedDetector, open_frames

DATA = (
    Path(os.environ.get("BEAMSTREAM_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"
)


@pytest.fixture(scope="module")
def detector() -> SimulatedDetector:
    return SimulatedDetector(seed=3)


def lit(detector: SimulatedDetector) -> NDArray[np.bool_]:
    return ~(detector.gaps | detector.shadow)


# ------------------------------------------------------------------------- the simulation


def test_background_has_the_expected_mean_and_poisson_noise() -> None:
    detector = SimulatedDetector(spots_fraction=0)
    frames = np.stack([detector.frame(i) for i in range(12)])[:, lit(detector)].astype(float)
    expected = detector.expected[lit(detector)]
    assert frames.mean() == pytest.approx(expected.mean(), rel=0.01)
    # Photons of one pixel have the variance of their mean; taken over pixels of like brightness.
    for low, high in [(0.2, 0.6), (1.0, 1.4), (2.5, 3.0)]:
        band = (expected >= low) & (expected < high)
        counts = frames[0, band]
        assert counts.var() == pytest.approx(counts.mean(), rel=0.06)


def test_air_scatter_falls_towards_the_water_ring(detector: SimulatedDetector) -> None:
    profile = _profile(detector, detector.expected)
    near, dark, ring = (detector.radius_pixels(q) for q in (0.25, 1.0, 2.0))
    assert profile[int(near)] > 1.4 * profile[int(dark)]
    assert profile[int(ring)] > 1.4 * profile[int(dark)]


@pytest.mark.parametrize("distance_m", [0.05, 0.075, 0.1])
def test_water_ring_is_where_geometry_says(distance_m: float) -> None:
    detector = SimulatedDetector(distance_m=distance_m, spots_fraction=0, water_counts=20)
    profile = _profile(detector, detector.frame(0))
    # tan(2θ) with sin θ = q λ / 4π: 18.3 degrees for q = 2 1/Å at 1 Å.
    radius = distance_m * np.tan(np.radians(18.314)) / 75e-6
    assert detector.radius_pixels(2.0) == pytest.approx(radius, rel=1e-3)
    outside_air = slice(int(radius * 0.5), int(radius * 1.45))
    smooth = np.convolve(profile, np.ones(9) / 9, "same")[outside_air]
    assert np.argmax(smooth) + outside_air.start == pytest.approx(radius, rel=0.08)


def _profile(detector: SimulatedDetector, frame: NDArray[Any]) -> NDArray[np.float64]:
    rows, columns = np.indices(detector.shape)
    y, x = rows - detector.beam_centre[0], columns - detector.beam_centre[1]
    # The sector about the vertical, where polarisation takes nothing away.
    sector = lit(detector) & (np.abs(y) > 2 * np.abs(x))
    radius = np.hypot(y, x).astype(int)[sector]
    counts = np.maximum(np.bincount(radius), 1)
    return np.asarray(np.bincount(radius, frame[sector].astype(float)) / counts)


def test_polarisation_dims_the_ring_at_the_sides(detector: SimulatedDetector) -> None:
    row, column = (round(c) for c in detector.beam_centre)
    radius = round(detector.radius_pixels(2.0))
    above = detector.expected[row - radius, column]
    beside = detector.expected[row - 10, column - radius]
    assert 0.88 < beside / above < 0.93


def test_gaps_and_beam_stop(detector: SimulatedDetector) -> None:
    frame = detector.frame(0)
    assert (frame[514:551] == 2**16 - 1).all()
    assert (frame[detector.gaps] == 2**16 - 1).all()
    assert (frame[~detector.gaps] < 2**16 - 1).all()
    row, column = (round(c) for c in detector.beam_centre)
    assert (frame[row - 12 : row + 12, column - 12 : column + 12] == 0).all()
    assert (frame[row, column:] == 0).all()
    assert frame[row, : column - 30].any()
    one_megapixel = SimulatedDetector((1065, 1030)).gaps
    assert one_megapixel.sum() == 37 * 1030
    four_megapixels = SimulatedDetector((2167, 2070), np.uint8).gaps
    assert (~four_megapixels).sum() == 8 * 514 * 1030


def test_spots_are_on_the_share_of_frames_that_was_asked_for(detector: SimulatedDetector) -> None:
    brightest = [int(detector.frame(i)[lit(detector)].max()) for i in range(80)]
    hits = [detector.meta(i)["hit"] for i in range(80)]
    assert [value > 25 for value in brightest] == hits
    assert 12 <= sum(hits) <= 36
    assert all(detector.meta(i)["hit"] for i in range(400)) is False
    share = np.mean([detector.meta(i)["hit"] for i in range(2000)])
    assert share == pytest.approx(0.3, abs=0.04)


def test_spots_are_small_and_elsewhere_on_each_frame() -> None:
    detector = SimulatedDetector(spots_fraction=1, water_counts=0)
    frames = [np.where(detector.gaps, 0, detector.frame(i)) for i in range(3)]
    for i, frame in enumerate(frames):
        places = np.argwhere(frame > 4)
        assert detector.meta(i)["spots"] / 2 < _clusters(places) <= detector.meta(i)["spots"]
        assert np.count_nonzero(frame) < 81 * detector.meta(i)["spots"]
    assert np.count_nonzero(frames[0] * frames[1] * frames[2]) < 10


def _clusters(places: NDArray[np.intp]) -> int:
    found: list[NDArray[np.intp]] = []
    for place in places:
        if all(np.abs(place - other).max() > 8 for other in found):
            found.append(place)
    return len(found)


def test_a_frame_depends_on_seed_and_number_alone(detector: SimulatedDetector) -> None:
    again = SimulatedDetector(seed=3)
    numbers = [7, 0, 10**12, 7]
    frames = [detector.frame(i) for i in numbers]
    for number, frame in zip(reversed(numbers), reversed(frames), strict=True):
        np.testing.assert_array_equal(again.frame(number), frame)
        assert again.meta(number) == detector.meta(number)
    assert not np.array_equal(frames[0], frames[1])
    assert not np.array_equal(SimulatedDetector(seed=4).frame(7), frames[0])
    seen = {detector.frame(i).tobytes() for i in range(50)}
    assert len(seen) == 50


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_dtypes_and_saturation(dtype: type[Any]) -> None:
    detector = SimulatedDetector((600, 200), dtype, spots_fraction=1, water_counts=1e6)
    frame = detector.frame(1)
    assert frame.dtype == dtype
    largest = np.iinfo(dtype).max
    assert (frame[514:551] == largest).all()
    assert frame[~detector.gaps].max() <= largest - 1
    if dtype is not np.uint32:
        assert frame[~detector.gaps].max() == largest - 1


def test_frames_are_written_into_what_is_given() -> None:
    detector = SimulatedDetector((64, 96), seed=1)
    frame = detector.frame(2)
    array = np.empty((64, 96), np.uint16)
    buffer = bytearray(64 * 96 * 2)
    detector.frame_into(2, array)
    detector.frame_into(2, memoryview(buffer))
    np.testing.assert_array_equal(array, frame)
    assert bytes(buffer) == frame.tobytes()
    for unfit in [
        bytes(64 * 96 * 2),
        bytearray(64 * 96 * 2 - 1),
        np.empty((96, 64), np.uint16),
        np.empty((64, 96), np.int16),
        np.empty((64, 192), np.uint16)[:, ::2],
    ]:
        with pytest.raises(BadSetting):
            detector.frame_into(2, unfit)


def test_metadata_says_the_geometry(detector: SimulatedDetector) -> None:
    meta = json.loads(json.dumps(detector.meta(5)))
    assert meta["shape"] == [1024, 1024]
    assert meta["pixel_m"] == 75e-6
    assert meta["frame"] == 5
    assert meta["gap_value"] == 65535
    assert detector.header().items() <= detector.meta(5).items()


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (4, 4)},
        {"shape": (10, 2**16)},
        {"dtype": np.float32},
        {"dtype": np.int16},
        {"dtype": np.uint64},
        {"seed": -1},
        {"spots_fraction": 1.5},
        {"spots_mean": -1.0},
        {"water_counts": float("nan")},
        {"distance_m": 0.0},
    ],
)
def test_what_makes_no_detector_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        SimulatedDetector(**arguments)
    with pytest.raises(BadSetting):
        SimulatedDetector((32, 32)).radius_pixels(20.0)


# -------------------------------------------------------------------------- image files


def test_real_frames() -> None:
    paths = sorted(path for path in DATA.glob("*") if path.suffix in (".cbf", ".tif", ".hdf5"))
    if not paths:
        pytest.skip("no shared detector frames here")
    frames = list(open_frames(paths))
    assert len(frames) == len(paths)
    for frame, meta in frames:
        assert frame.shape == (195, 487)
        assert frame.dtype == np.int32
        assert meta["shape"] == [195, 487]
        json.dumps(meta)
    by_file = {meta["file"]: (frame, meta) for frame, meta in frames}
    cbf, meta = by_file["pilatus100k_desy_05717_00000.cbf"]
    assert (cbf == -2).any()
    assert "Exposure_time" in meta["header"]["_array_data.header_contents"]
    assert by_file["AgBehenate_228.hdf5"][1]["dataset"] == "/entry/data/data"


def test_written_cbf_and_tiff_come_back(tmp_path: Path) -> None:
    cbfimage = pytest.importorskip("fabio.cbfimage")
    tifimage = pytest.importorskip("fabio.tifimage")
    first = np.arange(600, dtype=np.int32).reshape(20, 30)
    cbfimage.CbfImage(data=first).write(str(tmp_path / "a.cbf"))
    second = first.astype(np.uint16)
    tifimage.TifImage(data=second).write(str(tmp_path / "b.tif"))
    found = list(open_frames([tmp_path / "b.tif", str(tmp_path / "a.cbf")]))
    np.testing.assert_array_equal(found[0][0], second)
    np.testing.assert_array_equal(found[1][0], first)
    assert [meta["dtype"] for _, meta in found] == ["uint16", "int32"]


def test_hdf5_stacks_give_their_frames_in_order(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    hdf5plugin = pytest.importorskip("hdf5plugin")
    stack = np.random.default_rng(0).poisson(3, (5, 40, 50)).astype(np.uint16)
    path = tmp_path / "scan.nxs"
    with h5py.File(path, "w") as file:
        data = file.create_group("entry/data")
        data.attrs["NX_class"] = "NXdata"
        packed = hdf5plugin.Bitshuffle()
        data.create_dataset("data", data=stack, chunks=(1, 40, 50), **packed)
        data.create_dataset("x", data=np.arange(50.0))
        file["entry/instrument/detector/data"] = data["data"]
        file["entry/mask"] = np.zeros((200, 200), np.uint32)
    frames, metas = zip(*open_frames([path]), strict=True)
    np.testing.assert_array_equal(np.stack(frames), stack)
    assert [meta["frame"] for meta in metas] == [0, 1, 2, 3, 4]
    assert {meta["dataset"] for meta in metas} == {"/entry/data/data"}


def test_linked_files_of_a_master_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    stack = np.arange(6 * 12, dtype=np.uint32).reshape(6, 3, 4)
    with h5py.File(tmp_path / "master.h5", "w") as master:
        for number in (1, 2):
            name = f"data_{number:06}"
            with h5py.File(tmp_path / f"{name}.h5", "w") as part:
                part["entry/data/data"] = stack[3 * (number - 1) : 3 * number]
            master[f"entry/data/{name}"] = h5py.ExternalLink(f"{name}.h5", "entry/data/data")
        master["entry/data/data_000003"] = h5py.ExternalLink("missing.h5", "entry/data/data")
        master["entry/self"] = h5py.SoftLink("/entry")
    found = [frame for frame, _ in open_frames([tmp_path / "master.h5"])]
    np.testing.assert_array_equal(np.stack(found), stack)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    pytest.importorskip("fabio")
    h5py = pytest.importorskip("h5py")
    with pytest.raises(NotFound, match=r"nothing\.tif"):
        next(open_frames([tmp_path / "nothing.tif"]))
    with pytest.raises(NotFound):
        next(open_frames([tmp_path]))
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["x"] = np.arange(5)
    with pytest.raises(BadInput, match="no dataset"):
        next(open_frames([tmp_path / "empty.h5"]))
    for name in ("text.tif", "text.cbf", "text.h5", "text.dat"):
        (tmp_path / name).write_bytes(b"this is no image\n" * 20)
        with pytest.raises(BadInput, match=name):
            next(open_frames([tmp_path / name]))


@pytest.mark.parametrize(("suffix", "package"), [("cbf", "fabio"), ("h5", "h5py")])
def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str
) -> None:
    path = tmp_path / f"frame.{suffix}"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=package) as caught:
        next(open_frames([path]))
    assert "beamstream[formats]" in caught.value.hint
