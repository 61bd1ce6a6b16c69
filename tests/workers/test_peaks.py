"""The peak finder: against loops, on frames whose spots are known, and on real ones."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from beamstream.errors import BadInput, BadParameter
from beamstream.testing.detector import SimulatedDetector
from beamstream.workers import background, bin_pixels, find_peaks, locate_peaks
from workers.frames import real_frames, speckled


def counts(value: float, dtype: np.dtype[Any], mask: int | None) -> bool:
    if math.isnan(value) or value < 0 or math.isinf(value):
        return False
    return value != mask and not (dtype.kind == "u" and value == np.iinfo(dtype).max)


def slow_background(values: list[float], tile: int, noise_min: float) -> tuple[float, float]:
    """Mean and noise of a tile from its pixels that count."""
    if len(values) * 16 < tile**2:
        return math.nan, math.inf
    for _ in range(3):
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(max(math.fsum(v * v for v in values) / len(values) - mean**2, 0))
        values = [value for value in values if value <= mean + 3 * deviation]
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(max(math.fsum(v * v for v in values) / len(values) - mean**2, 0))
    return mean, max(deviation, noise_min)


def slow(
    frame: NDArray[Any],
    *,
    sigma: float = 6.0,
    tile: int = 32,
    min_distance: int = 2,
    min_pixels: int = 2,
    noise_min: float = 1.0,
    mask: int | None = None,
) -> list[list[float]]:
    """Peaks by loops over Python numbers, word for word as the docstring says."""
    pixels = frame.tolist()
    rows, columns = frame.shape
    good = {
        (y, x): pixels[y][x]
        for y in range(rows)
        for x in range(columns)
        if counts(pixels[y][x], frame.dtype, mask)
    }
    limits = {}
    for top, left in itertools.product(range(0, rows, tile), range(0, columns, tile)):
        inside = itertools.product(range(top, top + tile), range(left, left + tile))
        mean, noise = slow_background(
            [good[place] for place in inside if place in good], tile, noise_min
        )
        limits[top // tile, left // tile] = mean + sigma * noise

    def around(y: int, x: int, distance: int) -> list[tuple[int, int]]:
        steps = range(-distance, distance + 1)
        near = [(y + dy, x + dx) for dy in steps for dx in steps]
        return [place for place in near if place in good]

    found = []
    for (y, x), value in good.items():
        limit = limits[y // tile, x // tile]
        if not value > limit:
            continue
        larger = [
            place
            for place in around(y, x, min_distance)
            if good[place] > value or (good[place] == value and place < (y, x))
        ]
        bright = [place for place in around(y, x, 1) if good[place] > limit]
        if not larger and len(bright) >= min_pixels:
            found.append([y, x, value])
    return sorted(found, key=lambda peak: -peak[2])


@given(st.data())
def test_peaks_are_those_of_loops(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    dtype = data.draw(st.sampled_from(["u1", "u2", "u4", "i2", "i4", "i8", "f4", "f8"]))
    seed = data.draw(st.integers(0, 2**32))
    mean = data.draw(st.sampled_from([0.05, 2.0, 30.0]))
    frame = speckled(shape, dtype, seed, mean=mean, spots=data.draw(st.integers(0, 10)))
    how: dict[str, Any] = {
        "sigma": data.draw(st.sampled_from([2.5, 5.0, 6.0])),
        "tile": data.draw(st.sampled_from([8, 16, 33])),
        "min_distance": data.draw(st.integers(1, 4)),
        "min_pixels": data.draw(st.integers(1, 9)),
        "noise_min": data.draw(st.sampled_from([0.3, 1.0])),
        "mask": data.draw(st.sampled_from([None, 0, 3])),
    }
    assert locate_peaks(frame, **how).positions(10_000) == slow(frame, **how)


def test_of_a_plateau_the_first_pixel_counts() -> None:
    frame = np.zeros((32, 32), "u2")
    frame[5:8, 5:8] = 100
    assert locate_peaks(frame).positions(9) == [[5, 5, 100]]
    frame[20, :] = 100
    # Each further pixel of a ridge has an equal one before it.
    assert locate_peaks(frame).positions(9) == [[5, 5, 100], [20, 0, 100]]


def test_a_hot_pixel_is_no_peak_unless_asked_for() -> None:
    frame = np.zeros((64, 64), "u2")
    frame[10, 10] = 1000
    assert locate_peaks(frame).positions(9) == []
    assert locate_peaks(frame, min_pixels=1).positions(9) == [[10, 10, 1000]]


def test_neighbours_of_gaps_and_edges() -> None:
    frame = np.full((64, 64), 2, "u4")
    frame[:, 30:33] = 2**32 - 1
    frame[40, 29], frame[41, 29] = 500, 300
    frame[0, 0], frame[0, 1] = 400, 200
    frame[63, 63], frame[62, 63] = 600, 200
    assert locate_peaks(frame).positions(9) == [[63, 63, 600], [40, 29, 500], [0, 0, 400]]


def test_bright_spots_do_not_raise_the_background() -> None:
    frame = np.random.default_rng(1).poisson(2, (32, 32)).astype("u2")
    quiet = background(frame)
    frame[4:7, 4:7] = 60_000
    loud = background(frame)
    assert loud.means[0, 0] == pytest.approx(quiet.means[0, 0], rel=0.05)
    assert loud.sigmas[0, 0] == pytest.approx(quiet.sigmas[0, 0], rel=0.05)


def test_tiles_of_which_too_little_counts() -> None:
    frame = np.full((32, 64), 65535, "u2")
    frame[:, 32:] = 1
    frame[0, :32] = 1
    frame[0, 5:7] = 1000
    frame[3, 40:42] = 1000
    behind = background(frame)
    assert np.isnan(behind.means[0, 0])
    assert behind.sigmas.tolist() == [[np.inf, 1.0]]
    assert locate_peaks(frame).positions(9) == [[3, 40, 1000]]


def test_frames_without_anything() -> None:
    for frame in (
        np.zeros((0, 5), "u2"),
        np.zeros((5, 0), "f4"),
        np.full((40, 40), np.nan),
        np.full((40, 40), 65535, "u2"),
        np.full((40, 40), -1, "i4"),
        np.zeros((40, 40), "u1"),
        np.full((40, 40), 1e200),
    ):
        assert locate_peaks(frame).positions(9) == []
        assert locate_peaks(frame).values.dtype == frame.dtype


# --------------------------------------------------------------------- a simulated crystal


@pytest.fixture(scope="module")
def detector() -> SimulatedDetector:
    return SimulatedDetector((1024, 1024), seed=3)


@pytest.mark.parametrize("factor", [1, 2])
def test_hits_of_the_simulated_detector(detector: SimulatedDetector, factor: int) -> None:
    for i in range(40):
        truth = detector.meta(i)["spots"]
        frame = bin_pixels(detector.frame(i), factor, detector.gap_value)
        found = len(locate_peaks(frame).y)
        if truth:
            # The others are weak, in gaps, or on top of each other.
            assert 0.4 * truth < found <= truth
        else:
            assert found == 0


@pytest.mark.parametrize("seed", range(5))
def test_peaks_are_where_spots_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:256, :256]
    centres = [(18 + 24 * i, 18 + 24 * j) for i in range(10) for j in range(10)]
    expected = np.full((256, 256), 2.0)
    for at_y, at_x in rng.uniform(-0.5, 0.5, (100, 2)) + centres:
        expected += 300 / (2 * np.pi) * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / 2)
    peaks = locate_peaks(rng.poisson(expected).astype("u2"))
    near = {
        (round((at_y - 18) / 24), round((at_x - 18) / 24))
        for at_y, at_x, _ in peaks.positions(1000)
        if max(abs((at_y - 18 + 12) % 24 - 12), abs((at_x - 18 + 12) % 24 - 12)) <= 1
    }
    assert len(peaks.y) == len(near) == 100


def test_nothing_is_found_in_noise() -> None:
    rng = np.random.default_rng(4)
    found = [len(locate_peaks(rng.poisson(3, (512, 512)).astype("u2")).y) for _ in range(20)]
    assert sum(found) == 0


def test_real_frames() -> None:
    found = {}
    for frame, meta in real_frames():
        peaks = locate_peaks(frame)
        assert (frame[peaks.y, peaks.x] == peaks.values).all()
        assert (peaks.values > 0).all()
        assert (np.diff(peaks.values) <= 0).all()
        assert peaks.positions(20) == slow(frame)[:20]
        found[meta["file"]] = len(peaks.y)
    assert len(found) == 6


# ------------------------------------------------------------------------------ the step


def test_the_step_writes_metadata(detector: SimulatedDetector) -> None:
    i = next(i for i in range(100) if detector.meta(i)["hit"])
    frame, meta = detector.frame(i), detector.meta(i)
    made = find_peaks(frame, meta)
    told = json.loads(json.dumps(made.meta))
    assert made.data is frame
    assert told["peaks"] == len(told["positions"]) > 5
    assert told["spots"] == meta["spots"]
    for y, x, value in told["positions"]:
        assert frame[y, x] == value
    few = find_peaks(frame, meta, max_positions=3, keep="none")
    assert few.data == b""
    assert few.meta["peaks"] == told["peaks"]
    assert few.meta["positions"] == told["positions"][:3]


def test_the_same_frame_gives_the_same_peaks(detector: SimulatedDetector) -> None:
    frame = detector.frame(7)
    first = locate_peaks(frame).positions(500)
    assert locate_peaks(frame.copy(order="F")).positions(500) == first
    assert locate_peaks(frame.astype("i4") * 1).positions(500) != []
    frame.flags.writeable = False
    assert locate_peaks(frame).positions(500) == first


@pytest.mark.parametrize(
    "how",
    [
        {"sigma": 0.0},
        {"sigma": float("nan")},
        {"tile": 7},
        {"tile": 2000},
        {"min_distance": 0},
        {"min_distance": 65},
        {"min_pixels": 0},
        {"min_pixels": 10},
        {"noise_min": 0.0},
    ],
)
def test_parameters_that_are_none(how: dict[str, Any]) -> None:
    with pytest.raises(BadParameter):
        locate_peaks(np.zeros((32, 32)), **how)


@pytest.mark.parametrize(
    "frame", [np.zeros(5), np.zeros((2, 2, 2)), np.zeros((4, 4), "c8"), np.zeros((4, 4), "?")]
)
def test_what_is_no_frame(frame: NDArray[Any]) -> None:
    with pytest.raises(BadInput):
        locate_peaks(frame)
