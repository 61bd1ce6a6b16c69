"""Sums of pixels: against loops, in every dtype, with gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from beamstream.errors import BadInput, BadParameter
from beamstream.workers import bin as bin_step
from beamstream.workers import bin_pixels
from beamstream.workers.binning import bin_dtype
from workers.frames import INTEGERS, real_frames, shapes


def slow(frame: NDArray[Any], factor: int, mask: int | None) -> list[list[int | None]]:
    """Sums by loops over Python integers; None for a bin with a masked pixel."""
    pixels = frame.tolist()
    found = []
    for top in range(0, frame.shape[0] - factor + 1, factor):
        row: list[int | None] = []
        for left in range(0, frame.shape[1] - factor + 1, factor):
            inside = [
                pixels[y][x] for y in range(top, top + factor) for x in range(left, left + factor)
            ]
            row.append(None if mask is not None and mask in inside else sum(inside))
        found.append(row)
    return found


@given(st.data())
def test_sums_are_those_of_loops(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(INTEGERS[:3] + INTEGERS[4:7]))
    factor = data.draw(st.integers(1, 5))
    frame = data.draw(hnp.arrays(name, shapes(factor, 12)))
    mask = data.draw(st.none() | st.sampled_from(sorted(set(frame.reshape(-1).tolist()))))
    binned = bin_pixels(frame, factor, mask)
    expected = slow(frame, factor, mask)
    masked = np.iinfo(binned.dtype).max if binned.dtype.kind == "u" else mask
    assert binned.tolist() == [[masked if one is None else one for one in row] for row in expected]
    assert binned.dtype.kind == frame.dtype.kind
    if frame.dtype.kind == "u":
        # What is masked cannot be taken for a sum.
        largest = np.full((factor, factor), np.iinfo(name).max, name)
        assert factor == 1 or bin_pixels(largest, factor)[0, 0] < np.iinfo(binned.dtype).max


@given(hnp.arrays("f4", shapes(3, 9), elements=st.floats(-1e6, 1e6, width=32)))
def test_floats_are_summed_in_double(frame: NDArray[Any]) -> None:
    binned = bin_pixels(frame, 3)
    assert binned.dtype == np.float32
    expected = np.array(slow(frame, 3, None), np.float32)
    np.testing.assert_allclose(binned, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "factor", "wider"),
    [
        ("u1", 2, "u2"),
        ("u1", 16, "u2"),
        ("u1", 17, "u4"),
        ("u2", 2, "u4"),
        ("u2", 256, "u4"),
        ("u2", 257, "u8"),
        ("u4", 2, "u8"),
        ("u4", 1024, "u8"),
        ("u8", 2, "u8"),
        ("i1", 2, "i2"),
        ("i2", 4, "i4"),
        ("i4", 4, "i8"),
        ("?", 2, "u1"),
        ("?", 16, "u2"),
        ("f2", 2, "f4"),
        ("f4", 2, "f4"),
        ("f8", 2, "f8"),
        ("u2", 1, "u2"),
        ("i4", 1, "i4"),
    ],
)
def test_dtypes_get_wider(dtype: str, factor: int, wider: str) -> None:
    assert bin_dtype(np.dtype(dtype), factor) == np.dtype(wider)
    assert bin_pixels(np.ones((factor, factor), dtype), factor).dtype == np.dtype(wider)


def test_nothing_overflows() -> None:
    for name in ("u1", "u2", "u4", "i1", "i2", "i4"):
        for value in (np.iinfo(name).max, np.iinfo(name).min):
            frame = np.full((16, 16), value, name)
            assert bin_pixels(frame, 16)[0, 0] == 256 * value


def test_what_is_beyond_the_last_bin_is_left_out() -> None:
    frame = np.arange(7 * 8, dtype="u2").reshape(7, 8)
    assert bin_pixels(frame, 3).shape == (2, 2)
    np.testing.assert_array_equal(bin_pixels(frame, 3), bin_pixels(frame[:6, :6], 3))


def test_frames_of_any_layout() -> None:
    frame = np.arange(64, dtype=">u2").reshape(8, 8)[::2, ::-1]
    assert not frame.flags.c_contiguous
    assert bin_pixels(frame, 2).tolist() == slow(frame, 2, None)
    frame.flags.writeable = False
    assert bin_pixels(frame, 4).tolist() == slow(frame, 4, None)


@pytest.mark.parametrize(
    ("frame", "factor", "mask", "error"),
    [
        (np.zeros(4), 2, None, BadInput),
        (np.zeros((2, 4, 4)), 2, None, BadInput),
        (np.zeros((4, 4), "c16"), 2, None, BadInput),
        (np.zeros((4, 4), "S3"), 2, None, BadInput),
        (np.zeros((4, 4)), 5, None, BadInput),
        (np.zeros((0, 4)), 1, None, BadInput),
        (np.zeros((4, 4)), 0, None, BadParameter),
        (np.zeros((4, 4)), 2000, None, BadParameter),
        (np.zeros((4, 4), "u2"), 2, 65536, BadParameter),
        (np.zeros((4, 4), "u2"), 2, -1, BadParameter),
    ],
)
def test_what_cannot_be_binned(
    frame: NDArray[Any], factor: int, mask: int | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        bin_pixels(frame, factor, mask)


@pytest.mark.parametrize(
    ("dtype", "hole", "after"),
    [("u1", 255, 65535), ("u2", 65535, 2**32 - 1), ("i4", -2, -1), ("f4", np.nan, np.nan)],
)
def test_what_detectors_mark(dtype: str, hole: float, after: float) -> None:
    frame = np.ones((4, 4), dtype)
    frame[0, 3] = hole
    binned = bin_pixels(frame, 2, "detector")
    np.testing.assert_array_equal(binned, np.array([[4, after], [4, 4]], binned.dtype))
    np.testing.assert_array_equal(bin_pixels(np.ones((4, 4), dtype), 2, "detector"), 4)


def test_real_frames() -> None:
    for frame, meta in real_frames():
        binned = bin_pixels(frame, 4, mask=-2)
        assert (binned.shape, binned.dtype) == ((48, 121), np.int64)
        gaps = (frame[:192, :484] == -2).reshape(48, 4, 121, 4).any(axis=(1, 3))
        np.testing.assert_array_equal(binned == -2, gaps)
        whole = frame[:192, :484].reshape(48, 4, 121, 4).astype(np.int64).sum(axis=(1, 3))
        np.testing.assert_array_equal(binned[~gaps], whole[~gaps], err_msg=str(meta))


# ------------------------------------------------------------------------------ the step


def test_the_step_says_what_it_did() -> None:
    frame = np.full((8, 8), 3, "u2")
    frame[0, 0] = 65535
    meta = {"shape": [8, 8], "dtype": "uint16", "energy_eV": 12400}
    made = bin_step(frame, meta, factor=4, mask=65535)
    assert made.data.tolist() == [[2**32 - 1, 48], [48, 48]]
    assert made.meta == {
        "shape": [2, 2],
        "dtype": "uint32",
        "energy_eV": 12400,
        "binned": 4,
    }
    assert bin_step(frame, {}).meta == {"binned": 2}
    assert meta["shape"] == [8, 8]


def test_parameters_of_the_step() -> None:
    assert bin_step.parameters.check({}) == {"factor": 2, "mask": None}
    assert bin_step.parameters.check_text({"factor": "8", "mask": "65535"})["mask"] == 65535
    assert bin_step.parameters.check_text({"mask": "detector"})["mask"] == "detector"
    assert bin_step.parameters.check({"mask": "detector"})["mask"] == "detector"
    for wrong in ({"factor": 0}, {"factor": 1025}, {"factor": 2.5}, {"faktor": 2}, {"mask": "x"}):
        with pytest.raises(BadParameter):
            bin_step.parameters.check(wrong)
