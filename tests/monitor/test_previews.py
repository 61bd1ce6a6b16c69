from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadInput
from beamstream.monitor import previews


def unpack(data: bytes) -> tuple[np.ndarray, dict[str, int]]:
    magic, number, binning, height, width, full_height, full_width, id = previews.HEAD.unpack_from(
        data
    )
    assert magic == previews.MAGIC
    pixels = np.frombuffer(data, "<" + previews._DTYPES[number], offset=previews.HEAD.size)
    about = {"binning": binning, "full_height": full_height, "full_width": full_width, "id": id}
    return pixels.reshape(height, width), about


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    factor=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_each_pixel_of_a_small_picture_is_the_largest_of_its_block(
    shape: tuple[int, int], factor: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 1000, shape, dtype=np.uint16)
    small = previews.pooled(image, factor)
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            block = image[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            assert small[y, x] == block.max()


@given(at=st.tuples(st.integers(0, 2163), st.integers(0, 2069)))
def test_one_bright_pixel_anywhere_survives(at: tuple[int, int]) -> None:
    image = np.zeros((2164, 2070), np.uint16)
    image[at] = 60_000
    pixels, about = unpack(previews.picture(image, 7, 512))
    assert pixels.max() == 60_000
    assert max(pixels.shape) <= 512
    assert (about["full_height"], about["full_width"], about["id"]) == (2164, 2070, 7)
    y, x = at[0] // about["binning"], at[1] // about["binning"]
    assert pixels[y, x] == 60_000


def test_a_window_is_sent_as_it_is() -> None:
    image = np.arange(10_000, dtype=np.int32).reshape(100, 100)
    pixels, about = unpack(previews.picture(image, 1, 512, (10, 20, 30, 60)))
    assert np.array_equal(pixels, image[10:30, 20:60])
    assert about["binning"] == 1


@pytest.mark.parametrize("dtype", ["bool", ">u2", "i8", "u8", "f2", "f4", "c16"])
def test_any_number_can_be_drawn(dtype: str) -> None:
    image = np.ones((3, 4)).astype(dtype)
    pixels, _ = unpack(previews.picture(image, 1, 512))
    assert pixels.shape == (3, 4)
    assert np.all(pixels == 1)


def test_a_curve_keeps_its_peaks() -> None:
    curve = np.zeros(100_000, np.float32)
    curve[77_777] = 5.0
    pixels, about = unpack(previews.picture(curve, 1, 512))
    assert pixels.shape[0] == 1
    assert pixels.shape[1] <= previews.CURVE_POINTS_MAX
    assert pixels.max() == 5.0
    assert about["full_width"] == 100_000


def test_what_has_no_pixels_is_refused() -> None:
    for array in (np.zeros((0, 3)), np.array(5.0), np.zeros((2, 2), "S3")):
        with pytest.raises(BadInput):
            previews.picture(array, 1, 512)
    with pytest.raises(BadInput, match="no pixel"):
        previews.picture(np.zeros((4, 4)), 1, 512, (5, 5, 9, 9))
