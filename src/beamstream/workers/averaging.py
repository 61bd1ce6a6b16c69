"""Means of several frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamstream.errors import BadInput
from beamstream.worker import Result, step
from beamstream.workers.pixels import Mask, masked


@step(window=10)
def average(frames: list[NDArray[Any]], meta: list[dict[str, Any]], *, mask: Mask = None) -> Result:
    """Average frames: the mean of each ten ids in a row.

    Frames (ny, nx) of numbers, all of one shape and dtype, become one of float32, or of float64
    where pixels have more than 16 bits. The metadata are those of the first one, with ``frames``,
    how many there were: ids without a frame are left out.

    Parameters
    ----------
    mask : pixels of this value, or with "detector" those that detectors mark, are no counts; the
        mean is that of the others, NaN without any.
    """
    mean = average_frames(frames, mask)
    told = {**meta[0], "frames": len(frames)}
    if "dtype" in told:
        told["dtype"] = mean.dtype.name
    return Result(mean, told)


def average_frames(frames: Sequence[NDArray[Any]], mask: Mask = None) -> NDArray[Any]:
    """Return the mean of each pixel.

    Parameters
    ----------
    frames : one or more ndarrays of one shape and dtype, integers or floats.
    mask : pixels of this value, or with "detector" those that detectors mark (`no_counts`), are no
        counts: the mean is that of the others, NaN without any.

    Returns
    -------
    ndarray of their shape; float32 for pixels of up to 16 bits and float32, else float64. Sums
    are float64.

    Raises
    ------
    BadInput : there are none, they are no numbers, or they differ.

    >>> average_frames([np.array([1, 9], "u2"), np.array([2, 9], "u2")], mask=9)
    array([1.5, nan], dtype=float32)
    """
    if not frames:
        raise BadInput("there are no frames to average")
    first = frames[0]
    if first.dtype.kind not in "buif":
        raise BadInput(f"frames of dtype {first.dtype} cannot be averaged")
    total = np.zeros(first.shape, np.float64)
    counts = np.zeros(first.shape, np.int64)
    for frame in frames:
        if (frame.shape, frame.dtype) != (first.shape, first.dtype):
            raise BadInput(
                f"a frame of shape {frame.shape} and dtype {frame.dtype} cannot be averaged with "
                f"one of {first.shape} and {first.dtype}"
            )
        without = masked(frame, mask)
        good = np.True_ if without is None else ~without
        np.add(total, frame, out=total, where=good)
        counts += good
    small = first.dtype.itemsize <= (4 if first.dtype.kind == "f" else 2)
    mean = np.full(first.shape, np.nan)
    np.divide(total, counts, out=mean, where=counts > 0)
    return mean.astype(np.float32) if small else mean
