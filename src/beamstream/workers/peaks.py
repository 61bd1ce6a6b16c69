"""A first finder of Bragg spots: local maxima that stand out of the background around them."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from beamstream.errors import BadInput, BadParameter
from beamstream.worker import Result, step
from beamstream.workers.pixels import no_counts

CLIP_SIGMAS: Final = 3.0
CLIP_ROUNDS: Final = 3
TILE_MIN: Final = 8
TILE_MAX: Final = 1_024
TILE_PART_MIN: Final = 16
"""A tile of which less than a 16th counts says too little about its background."""
DISTANCE_MAX: Final = 64
POSITIONS_MAX: Final = 10_000
_CHUNK_PIXELS: Final = 1 << 17
"""Pixels of which statistics are made at once: they stay in the processor's cache."""


@step()
def find_peaks(
    frame: NDArray[Any],
    meta: dict[str, Any],
    *,
    sigma: Annotated[float, Meta(gt=0)] = 6.0,
    tile: Annotated[int, Meta(ge=TILE_MIN, le=TILE_MAX)] = 32,
    min_distance: Annotated[int, Meta(ge=1, le=DISTANCE_MAX)] = 2,
    min_pixels: Annotated[int, Meta(ge=1, le=9)] = 2,
    noise_min: Annotated[float, Meta(gt=0)] = 1.0,
    mask: int | None = None,
    max_positions: Annotated[int, Meta(ge=0, le=POSITIONS_MAX)] = 200,
    keep: Literal["frame", "none"] = "frame",
) -> Result:
    """Find Bragg spots: local maxima that stand out of the background around them.

    Frames (ny, nx) of integers or floats. Adds to the metadata ``peaks``, how many there are, and
    ``positions``, ``[y, x, value]`` of the strongest in pixels of this frame and its counts. How,
    and what it cannot do: see `locate_peaks`. A frame of 1024 × 1024 pixels takes some 5 ms of a
    processor of 2023.

    Parameters
    ----------
    sigma : threshold above the background, in units of its noise.
    tile : background and noise are taken of tiles of so many rows and columns, pixels.
    min_distance : rows and columns about a peak without a larger pixel.
    min_pixels : pixels above the threshold in the 3 × 3 neighbourhood of a peak.
    noise_min : the noise is not taken for less than this, counts.
    mask : pixels of this value are no counts, besides negative ones and the largest value of an
        unsigned dtype.
    max_positions : peaks of which positions are told; all are counted.
    keep : "frame" hands the frame on, "none" the metadata only.
    """
    found = locate_peaks(
        frame,
        sigma=sigma,
        tile=tile,
        min_distance=min_distance,
        min_pixels=min_pixels,
        noise_min=noise_min,
        mask=mask,
    )
    told = {**meta, "peaks": len(found.y), "positions": found.positions(max_positions)}
    return Result(frame if keep == "frame" else b"", told)


class Peaks(NamedTuple):
    """Peaks of one frame, the strongest first, equal ones in the order of reading.

    Parameters
    ----------
    y, x : ndarray, shape (n,), intp: the brightest pixel of each peak.
    values : ndarray, shape (n,), dtype of the frame: what that pixel counts, with background.
    """

    y: NDArray[np.intp]
    x: NDArray[np.intp]
    values: NDArray[Any]

    def positions(self, most: int) -> list[list[int | float]]:
        """Return ``[y, x, value]`` of the strongest peaks, at most so many, fit for JSON."""
        columns = (self.y[:most].tolist(), self.x[:most].tolist(), self.values[:most].tolist())
        return [list(row) for row in zip(*columns, strict=True)]


class Background(NamedTuple):
    """What tiles of the frame have without peaks.

    Parameters
    ----------
    means, sigmas : ndarray, shape (rows of tiles, columns of tiles), float64; NaN and infinity
        where too little of a tile counts.
    """

    means: NDArray[np.float64]
    sigmas: NDArray[np.float64]


def locate_peaks(
    frame: NDArray[Any],
    *,
    sigma: float = 6.0,
    tile: int = 32,
    min_distance: int = 2,
    min_pixels: int = 2,
    noise_min: float = 1.0,
    mask: int | None = None,
) -> Peaks:
    """Return the peaks of a frame.

    The frame is cut into tiles, beginning with pixel (0, 0). A tile's background and noise are the
    mean and the standard deviation of its pixels, which are taken again three times without those
    that are more than three standard deviations above the mean (sigma clipping: E. Bertin,
    S. Arnouts, A&AS 117, 393, 1996). A peak is a pixel that

    * is more than `sigma` times the noise above the background of its tile,
    * is the largest within `min_distance` rows and columns (of equals the first counts),
    * has, with itself, at least `min_pixels` pixels in its 3 × 3 neighbourhood that are above the
      same threshold: a single hot pixel is none (as A. Barty et al., J. Appl. Cryst. 47, 1118,
      2014).

    The same frame gives the same peaks. Sums are float64, so that those of integers are exact up
    to 2^21 counts: such frames give the same peaks on every machine.

    Limits: a background that changes within a tile (rings, edges of shadows) counts as noise there
    and hides weak peaks; where a shadow covers most of a tile, noise beside it can be taken for
    peaks; two spots nearer than `min_distance` are one peak; nothing is fitted, so
    positions are whole pixels; spots wider than a tile become background.

    Parameters
    ----------
    frame : ndarray, shape (ny, nx), integers or floats. Negative pixels, the largest value of an
        unsigned dtype, NaN and infinity are no counts (gaps, dead pixels).
    sigma : threshold above the background, in units of the noise.
    tile : rows and columns of a tile, pixels, 8 … 1,024.
    min_distance : rows and columns about a peak without a larger pixel, 1 … 64.
    min_pixels : pixels above the threshold in the 3 × 3 neighbourhood, 1 … 9.
    noise_min : the noise is not taken for less than this, in units of the frame (counts).
    mask : pixels of this value are no counts either.

    Raises
    ------
    BadInput : `frame` is no image of numbers.
    BadParameter : a parameter is out of its range.

    >>> frame = np.zeros((32, 32), "u2")
    >>> frame[10, 20:22] = 50, 30
    >>> locate_peaks(frame).positions(5)
    [[10, 20, 50]]
    """
    _check(frame, sigma, tile, min_distance, min_pixels, noise_min)
    if not frame.size:
        none = np.empty(0, np.intp)
        return Peaks(none, none, np.empty(0, frame.dtype))
    thresholds = _thresholds(frame, background(frame, tile, noise_min, mask), sigma)
    y, x = _above(frame, thresholds, tile, mask)
    limits = thresholds[y // tile, x // tile]
    if min_pixels > 1:
        # Before the maxima: it is the cheaper test, and leaves less for them.
        enough = _neighbours_above(frame, y, x, limits, mask) >= min_pixels
        y, x = y[enough], x[enough]
    largest = _largest(frame, y, x, min_distance, mask)
    y, x = y[largest], x[largest]
    values = frame[y, x]
    order = np.argsort(-values.astype(np.float64), kind="stable")
    return Peaks(y[order], x[order], values[order])


def background(
    frame: NDArray[Any], tile: int = 32, noise_min: float = 1.0, mask: int | None = None
) -> Background:
    """Return background and noise of each tile; parameters as those of `locate_peaks`."""
    rows, columns = (-(-size // tile) for size in frame.shape)
    means = np.full((rows, columns), np.nan)
    sigmas = np.full((rows, columns), np.inf)
    step = max(1, _CHUNK_PIXELS // (columns * tile**2))
    for top in range(0, rows, step):
        some = slice(top, min(top + step, rows))
        pixels, n = _tiles(frame[some.start * tile : some.stop * tile], tile, mask)
        # Squares of floats may be too large: such tiles have no background.
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = _clipped(pixels, n)
        enough = (n * TILE_PART_MIN >= tile**2) & np.isfinite(deviation)
        means[some] = np.where(enough, mean, np.nan).reshape(-1, columns)
        deviation = np.maximum(deviation, noise_min)
        sigmas[some] = np.where(enough, deviation, np.inf).reshape(-1, columns)
    return Background(means, sigmas)


def _check(
    frame: NDArray[Any],
    sigma: float,
    tile: int,
    min_distance: int,
    min_pixels: int,
    noise_min: float,
) -> None:
    if frame.ndim != 2 or frame.dtype.kind not in "uif" or frame.dtype.itemsize > 8:
        raise BadInput(
            f"an array of shape {frame.shape} and dtype {frame.dtype} is no frame to look "
            "for peaks in",
            hint="frames have two axes, and integers or floats as pixels",
        )
    if not 0 < sigma < np.inf:
        raise BadParameter(f"sigma {sigma} is not above 0")
    if not TILE_MIN <= tile <= TILE_MAX:
        raise BadParameter(f"tile {tile} is not within {TILE_MIN} … {TILE_MAX:,}")
    if not 1 <= min_distance <= DISTANCE_MAX:
        raise BadParameter(f"min_distance {min_distance} is not within 1 … {DISTANCE_MAX}")
    if not 1 <= min_pixels <= 9:
        raise BadParameter(f"min_pixels {min_pixels} is not within 1 … 9")
    if not 0 < noise_min < np.inf:
        raise BadParameter(f"noise_min {noise_min} is not above 0")


def _counts(pixels: NDArray[Any], mask: int | None) -> NDArray[np.bool_]:
    """Return which pixels count."""
    good = ~no_counts(pixels)
    if mask is not None:
        good &= pixels != mask
    return good


def _tiles(
    band: NDArray[Any], tile: int, mask: int | None
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the pixels of whole rows of tiles, one tile a row, and how many of them count.

    What does not count is 0.
    """
    rows, columns = (-(-size // tile) for size in band.shape)
    counts = np.zeros((rows * tile, columns * tile), np.bool_)
    counts[: band.shape[0], : band.shape[1]] = _counts(band, mask)
    pixels = np.zeros(counts.shape, band.dtype)
    np.copyto(pixels[: band.shape[0], : band.shape[1]], band)
    if not counts.all():
        pixels[~counts] = 0

    def one_a_row(whole: NDArray[Any]) -> NDArray[Any]:
        return whole.reshape(rows, tile, columns, tile).swapaxes(1, 2).reshape(-1, tile**2)

    return one_a_row(pixels).astype(np.float64), np.count_nonzero(one_a_row(counts), axis=1)


def _clipped(
    pixels: NDArray[np.float64], n: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each row, without what is far above the mean.

    That is set to 0 in `pixels`, in which `n` pixels of each row count.
    """
    mean, deviation = _moments(pixels, n)
    for _ in range(CLIP_ROUNDS):
        outside = np.flatnonzero(pixels > (mean + CLIP_SIGMAS * deviation)[:, None])
        if not len(outside):
            break
        n = n - np.bincount(outside // pixels.shape[1], minlength=len(n))
        pixels.reshape(-1)[outside] = 0
        mean, deviation = _moments(pixels, n)
    return mean, deviation


def _moments(
    kept: NDArray[np.float64], n: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    some = np.maximum(n, 1)
    mean = kept.sum(axis=1) / some
    square = np.einsum("ij,ij->i", kept, kept) / some
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def _thresholds(frame: NDArray[Any], behind: Background, sigma: float) -> NDArray[Any]:
    """Return what a pixel of each tile must be above, in the frame's dtype."""
    wanted = behind.means + sigma * behind.sigmas
    if frame.dtype.kind == "f":
        return np.where(np.isfinite(wanted), wanted, np.inf).astype(frame.dtype)
    # An integer is above a number when it is above the integer part of it.
    largest = np.iinfo(frame.dtype).max
    some = wanted < float(largest)
    return np.where(some, np.where(some, wanted, 0).astype(frame.dtype), largest)


def _above(
    frame: NDArray[Any], thresholds: NDArray[Any], tile: int, mask: int | None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    across = np.repeat(thresholds, tile, axis=1)[:, : frame.shape[1]]
    above = np.empty(frame.shape, np.bool_)
    for row, limits in enumerate(across):
        part = slice(row * tile, (row + 1) * tile)
        np.greater(frame[part], limits, out=above[part])
    where = np.flatnonzero(above)
    where = where[_counts(frame.reshape(-1)[where], mask)]
    y, x = np.divmod(where, frame.shape[1])
    return y, x


def _neighbours_above(
    frame: NDArray[Any],
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    limits: NDArray[Any],
    mask: int | None,
) -> NDArray[np.intp]:
    number = np.zeros(len(y), np.intp)
    for dy, dx in itertools.product((-1, 0, 1), repeat=2):
        at_y, at_x = y + dy, x + dx
        inside = (at_y >= 0) & (at_y < frame.shape[0]) & (at_x >= 0) & (at_x < frame.shape[1])
        at = frame[np.where(inside, at_y, y), np.where(inside, at_x, x)]
        number += inside & (at > limits) & _counts(at, mask)
    return number


def _largest(
    frame: NDArray[Any],
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    distance: int,
    mask: int | None,
) -> NDArray[np.intp]:
    """Return which of the pixels are the largest of those around them."""
    rows, columns = frame.shape
    flat = frame.reshape(-1)
    left = np.arange(len(y))
    steps = range(-distance, distance + 1)
    for dy, dx in itertools.product(steps, repeat=2):
        at_y = np.clip(y[left] + dy, 0, rows - 1)
        at_x = np.clip(x[left] + dx, 0, columns - 1)
        place, at = y[left] * columns + x[left], at_y * columns + at_x
        mine, other = flat[place], flat[at]
        beaten = _counts(other, mask) & ((other > mine) | ((other == mine) & (at < place)))
        left = left[~beaten]
    return left
