"""Means of frames: against loops, with pixels that do not count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from beamstream.errors import BadInput
from beamstream.workers import average, average_frames
from workers.frames import shapes


@given(st.data())
def test_means_are_those_of_loops(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["u1", "u2", "u4", "i2", "i4"]))
    shape = data.draw(shapes(1, 4))
    pixels = st.integers(0, 5) | hnp.from_dtype(np.dtype(dtype))
    one = hnp.arrays(dtype, shape, elements=pixels)
    frames = data.draw(st.lists(one, min_size=1, max_size=5))
    mask = data.draw(st.none() | st.integers(0, 5))
    mean = average_frames(frames, mask)
    assert mean.shape == shape
    assert mean.dtype == (np.float32 if np.dtype(dtype).itemsize <= 2 else np.float64)
    for place in np.ndindex(*shape):
        values = [frame[place].item() for frame in frames if frame[place] != mask]
        if values:
            assert mean[place] == pytest.approx(math.fsum(values) / len(values), rel=1e-6)
        else:
            assert np.isnan(mean[place])


def test_frames_are_not_changed() -> None:
    frames = [np.full((3, 3), k, "u2") for k in range(3)]
    assert (average_frames(frames) == 1).all()
    assert [int(frame[0, 0]) for frame in frames] == [0, 1, 2]


def test_what_detectors_mark() -> None:
    frames = [np.array([-2, -2, 4], "i4"), np.array([-2, 6, 8], "i4")]
    np.testing.assert_array_equal(average_frames(frames, "detector"), [np.nan, 6, 6])
    assert average_frames(frames).tolist() == [-2, 2, 6]


def test_large_sums_do_not_overflow() -> None:
    frames = [np.full((2, 2), 2**32 - 1, "u4")] * 1000
    assert (average_frames(frames) == 2**32 - 1).all()


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [np.zeros((2, 2)), np.zeros((2, 3))],
        [np.zeros((2, 2), "u2"), np.zeros((2, 2), "u4")],
        [np.zeros((2, 2), "S2")],
    ],
)
def test_what_has_no_mean(frames: list[NDArray[Any]]) -> None:
    with pytest.raises(BadInput):
        average_frames(frames)


def test_the_step_says_how_many_there_were() -> None:
    frames = [np.full((2, 2), k, "u2") for k in (1, 2, 6)]
    made = average(frames, [{"k": k, "dtype": "uint16"} for k in range(3)])
    assert made.data.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert made.meta == {"k": 0, "dtype": "float32", "frames": 3}
    assert average.window == 10
