"""Which pixels count."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beamstream.errors import BadParameter

Mask = int | Literal["detector"] | None
"""Pixels that are no counts: of this value, or as detectors mark them (see `no_counts`)."""


def no_counts(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels detectors mark as no counts: gaps, dead and overflown ones.

    That are the largest value of an unsigned dtype, and negative values, NaN and infinity of the
    others.

    >>> no_counts(np.array([0, 255], "u1")).tolist(), no_counts(np.array([0, -2])).tolist()
    ([False, True], [False, True])
    """
    found: NDArray[np.bool_]
    if pixels.dtype.kind == "u":
        found = pixels == np.iinfo(pixels.dtype).max
    elif pixels.dtype.kind == "f":
        found = ~((pixels >= 0) & (pixels < np.inf))
    else:
        found = pixels < 0
    return found


def masked(pixels: NDArray[Any], mask: Mask) -> NDArray[np.bool_] | None:
    """Return which pixels do not count; None if all do.

    Raises
    ------
    BadParameter : `mask` is no value of such a pixel.
    """
    if mask is None:
        return None
    if mask == "detector":
        return no_counts(pixels)
    if pixels.dtype.kind in "ui":
        limits = np.iinfo(pixels.dtype)
        if not limits.min <= mask <= limits.max:
            raise BadParameter(
                f"mask {mask} is no value of a pixel of dtype {pixels.dtype}",
                hint="mask: detector takes what detectors mark so in any dtype",
            )
    found: NDArray[np.bool_] = pixels == mask
    return found


def masked_value(dtype: np.dtype[Any], mask: int | Literal["detector"]) -> int | float:
    """Return what a masked pixel of a result of `dtype` is set to.

    That is again what detectors mark so; for a number as mask the number itself, except for
    unsigned dtypes.

    >>> u4, i4 = np.dtype("u4"), np.dtype("i4")
    >>> masked_value(u4, 65535), masked_value(i4, -2), masked_value(i4, "detector")
    (4294967295, -2, -1)
    """
    if dtype.kind == "u":
        return int(np.iinfo(dtype).max)
    if mask != "detector":
        return mask
    return -1 if dtype.kind == "i" else float("nan")
