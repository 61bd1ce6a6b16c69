"""Frames to try the stock steps on: made by hypothesis, and real ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from beamstream.testing.detector import open_frames

DATA = (
    Path(os.environ.get("BEAMSTREAM_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"
)
INTEGERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"]


def shapes(least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return hnp.array_shapes(min_dims=2, max_dims=2, min_side=least, max_side=most)


def speckled(
    shape: tuple[int, int], dtype: str, seed: int, *, mean: float = 2.0, spots: int = 6
) -> NDArray[Any]:
    """Noise with bright spots of any height, equal neighbours, and pixels that are no counts."""
    rng = np.random.default_rng(seed)
    frame = rng.poisson(mean, shape).astype(np.float64)
    largest = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 60_000
    for _ in range(spots):
        y, x = rng.integers(shape[0]), rng.integers(shape[1])
        height = rng.choice([8, 20, 90, 1000])
        frame[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] += height
    frame = np.minimum(frame, min(largest, 60_000) - 1)
    holes = rng.random(shape) < 0.02
    if np.dtype(dtype).kind == "u":
        made = frame.astype(dtype)
        made[holes] = largest
    else:
        frame[holes] = -2 if np.dtype(dtype).kind == "i" else np.nan
        made = frame.astype(dtype)
    return made


def real_frames() -> list[tuple[NDArray[Any], dict[str, Any]]]:
    pytest.importorskip("fabio", reason="the extra 'formats' is not installed")
    paths = sorted(path for path in DATA.glob("*") if path.suffix in (".cbf", ".tif", ".hdf5"))
    if not paths:
        pytest.skip("real frames are not at hand (BEAMSTREAM_SHARED names their folder)")
    return list(open_frames(paths))
