"""A simulated detector: frames as a pixel detector behind a protein crystal in water would give.

What is on a frame: scattering of air, falling with the angle; the broad ring of water; the shadow
of the beam stop and its holder; the gaps between the modules; and on a share of the frames the
Bragg spots of a crystal, another one each time, as in serial crystallography. Every pixel that
counts has Poisson noise.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from beamstream.errors import BadSetting
from beamstream.testing.image_files import open_frames

__all__ = ["SimulatedDetector", "open_frames"]

MODULE_SHAPE: Final = (514, 1030)
GAP_SHAPE: Final = (37, 10)
"""Pixels of an Eiger module, and between two of them; 1M is (1065, 1030), 4M (2167, 2070)."""

WATER_Q: Final = 2.0
"""Momentum transfer at the maximum of the water ring, 1/Å (distances of 3.1 Å)."""

WATER_Q_WIDTHS: Final = (0.45, 0.60)
"""Standard deviations below and above the maximum, 1/Å."""

AIR_Q_WIDTH: Final = 0.7
POLARISATION: Final = 0.98
"""Share of the beam that is polarised horizontally, as at an undulator."""

DEBYE_WALLER_B: Final = 20.0
"""Fall of the spots with the angle, Å²."""

BEAM_STOP_RADIUS_M: Final = 1.5e-3
HOLDER_WIDTH_M: Final = 0.6e-3
STRIPE_ROWS: Final = 32
STAMP_RADIUS: Final = 4
BACKGROUNDS_MAX: Final = 8
BACKGROUNDS_NBYTES_MAX: Final = 64 * 1024 * 1024

_STREAM_BACKGROUND: Final = 0
_STREAM_FRAME: Final = 1


class SimulatedDetector:
    """Frames of an Eiger-like detector, made fast enough to load a node.

    Frame `i` depends on the arguments and `i` alone. A few backgrounds are made at the start; a
    frame is put together from random stripes of them, which is exact since the noise of pixels is
    independent, so that hardly two frames are equal.

    Parameters
    ----------
    shape : rows and columns, pixels.
    dtype : uint8, uint16 or uint32; its largest value marks gaps, the next is saturation.
    seed : 0 or larger.
    spots_fraction : share of the frames with a crystal, 0 … 1.
    spots_mean : Bragg spots on such a frame.
    water_counts : expected photons per pixel on top of the water ring.
    wavelength_angstrom, distance_m, pixel_m : geometry; 12.4 keV at 75 mm.
    beam_centre : row and column where the beam would hit, pixels; if not given, off the
        middle, where the large detectors have a gap.

    Raises
    ------
    BadSetting : an argument makes no detector.

    >>> detector = SimulatedDetector((128, 128), seed=1)
    >>> frame = detector.frame(5)
    >>> frame.shape, frame.dtype.name, bool((frame == detector.frame(5)).all())
    ((128, 128), 'uint16', True)
    """

    def __init__(
        self,
        shape: tuple[int, int] = (1024, 1024),
        dtype: DTypeLike = np.uint16,
        seed: int = 0,
        spots_fraction: float = 0.3,
        *,
        spots_mean: float = 40.0,
        water_counts: float = 3.0,
        wavelength_angstrom: float = 1.0,
        distance_m: float = 0.075,
        pixel_m: float = 75e-6,
        beam_centre: tuple[float, float] | None = None,
    ) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype = np.dtype(dtype)
        self.seed = seed
        self.spots_fraction = spots_fraction
        self.spots_mean = spots_mean
        self.water_counts = water_counts
        self.wavelength_angstrom = wavelength_angstrom
        self.distance_m = distance_m
        self.pixel_m = pixel_m
        self.beam_centre = beam_centre or (0.42 * self.shape[0], 0.47 * self.shape[1])
        self._check()
        self.saturation = int(np.iinfo(self.dtype).max) - 1
        self.gap_value = self.saturation + 1
        self.gaps = _gaps(self.shape)
        self.shadow = self._shadow()
        self.expected = self._expected()
        self._lit = ~(self.gaps | self.shadow)
        self._backgrounds = self._make_backgrounds()

    def _check(self) -> None:
        if min(self.shape) < 2 * STAMP_RADIUS + 1 or max(self.shape) > 2**15:
            raise BadSetting(f"a detector of {self.shape} pixels cannot be simulated")
        if self.dtype.kind != "u" or self.dtype.itemsize > 4:
            raise BadSetting(f"dtype {self.dtype} is not one of uint8, uint16, uint32")
        if self.seed < 0:
            raise BadSetting(f"seed {self.seed} is below 0")
        if not 0 <= self.spots_fraction <= 1:
            raise BadSetting(f"spots_fraction {self.spots_fraction} is not within 0 … 1")
        if not (0 <= self.spots_mean <= 10_000 and 0 <= self.water_counts <= 1e6):
            raise BadSetting("spots_mean is not within 0 … 10,000, or water_counts 0 … 1,000,000")
        if not (self.wavelength_angstrom > 0 and self.distance_m > 0 and self.pixel_m > 0):
            raise BadSetting("wavelength_angstrom, distance_m and pixel_m must be above 0")

    # ------------------------------------------------------------------------- geometry

    def radius_pixels(self, q: float) -> float:
        """Return the radius of the ring of momentum transfer `q` (1/Å), pixels.

        Raises
        ------
        BadSetting : no photon of this wavelength is scattered forward so.
        """
        sine = q * self.wavelength_angstrom / (4 * math.pi)
        if not 0 <= sine < math.sqrt(0.5):
            raise BadSetting(f"q = {q} 1/Å is not scattered forward at this wavelength")
        return self.distance_m * math.tan(2 * math.asin(sine)) / self.pixel_m

    def header(self) -> dict[str, Any]:
        """Return the geometry of the detector, fit for JSON."""
        return {
            "detector": "simulated Eiger",
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "pixel_m": self.pixel_m,
            "distance_m": self.distance_m,
            "wavelength_angstrom": self.wavelength_angstrom,
            "beam_centre": list(self.beam_centre),
            "gap_value": self.gap_value,
            "saturation": self.saturation,
            "seed": self.seed,
        }

    def meta(self, i: int) -> dict[str, Any]:
        """Return the metadata of frame `i`, fit for JSON: the header, and what is on the frame."""
        _, spots = self._draw(i)
        return {**self.header(), "frame": i, "hit": spots > 0, "spots": spots}

    def _offsets(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows, columns = np.ogrid[: self.shape[0], : self.shape[1]]
        return (
            (rows - self.beam_centre[0]) * self.pixel_m,
            (columns - self.beam_centre[1]) * self.pixel_m,
        )

    def _shadow(self) -> NDArray[np.bool_]:
        y, x = self._offsets()
        stop = np.hypot(y, x) < BEAM_STOP_RADIUS_M
        holder = (np.abs(y) < HOLDER_WIDTH_M / 2) & (x > 0)
        return stop | holder

    def _expected(self) -> NDArray[np.float64]:
        """Return the expected photons per pixel, without spots; 0 in gaps and shadow."""
        y, x = self._offsets()
        two_theta = np.arctan2(np.hypot(y, x), self.distance_m)
        q = 4 * np.pi * np.sin(two_theta / 2) / self.wavelength_angstrom
        below, above = WATER_Q_WIDTHS
        width = np.where(q < WATER_Q, below, above)
        water = np.exp(-0.5 * ((q - WATER_Q) / width) ** 2)
        air = 1.5 / (1 + (q / AIR_Q_WIDTH) ** 2)
        horizontal = np.sin(two_theta) * np.cos(np.arctan2(y, x))
        vertical = np.sin(two_theta) * np.sin(np.arctan2(y, x))
        share = (1 + POLARISATION) / 2
        polarisation = 1 - share * horizontal**2 - (1 - share) * vertical**2
        solid_angle = np.cos(two_theta) ** 3
        photons = self.water_counts * (water + air) * polarisation * solid_angle
        photons[self.gaps | self.shadow] = 0
        return np.asarray(photons, np.float64)

    # --------------------------------------------------------------------------- frames

    def frame(self, i: int) -> NDArray[Any]:
        """Return frame `i`, a new array of the detector's shape and dtype."""
        frame = np.empty(self.shape, self.dtype)
        self.frame_into(i, frame)
        return frame

    def frame_into(self, i: int, out: Any) -> None:
        """Write frame `i` into `out`: an array or a writable buffer of exactly its size.

        Raises
        ------
        BadSetting : `out` has another size, shape or dtype, or is not contiguous.
        """
        frame = self._as_frame(out)
        rng, spots = self._draw(i)
        choice = rng.integers(len(self._backgrounds), size=-(-self.shape[0] // STRIPE_ROWS))
        for stripe, background in enumerate(choice.tolist()):
            rows = slice(stripe * STRIPE_ROWS, (stripe + 1) * STRIPE_ROWS)
            frame[rows] = self._backgrounds[background, rows]
        if spots:
            self._add_spots(rng, spots, frame.reshape(-1))

    def _as_frame(self, out: Any) -> NDArray[Any]:
        if not isinstance(out, np.ndarray):
            buffer = memoryview(out)
            if buffer.nbytes != math.prod(self.shape) * self.dtype.itemsize or buffer.readonly:
                raise BadSetting("the buffer for a frame is read-only or of another size")
            return np.frombuffer(buffer, self.dtype).reshape(self.shape)
        if out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise BadSetting(
                f"the array for a frame is {out.shape} {out.dtype}, not contiguous "
                f"{self.shape} {self.dtype}"
            )
        return out

    def _draw(self, i: int) -> tuple[np.random.Generator, int]:
        rng = np.random.default_rng([self.seed, _STREAM_FRAME, i])
        hit = rng.random() < self.spots_fraction
        return rng, max(int(rng.poisson(self.spots_mean)), 1) if hit else 0

    def _make_backgrounds(self) -> NDArray[Any]:
        nbytes = math.prod(self.shape) * self.dtype.itemsize
        count = max(2, min(BACKGROUNDS_MAX, BACKGROUNDS_NBYTES_MAX // nbytes))
        rng = np.random.default_rng([self.seed, _STREAM_BACKGROUND])
        backgrounds = np.empty((count, *self.shape), self.dtype)
        for background in backgrounds:
            background[...] = np.minimum(rng.poisson(self.expected), self.saturation)
            background[self.gaps] = self.gap_value
        return backgrounds

    def _add_spots(self, rng: np.random.Generator, spots: int, pixels: NDArray[Any]) -> None:
        rows, columns = self.shape
        y = rng.uniform(STAMP_RADIUS, rows - 1 - STAMP_RADIUS, spots)
        x = rng.uniform(STAMP_RADIUS, columns - 1 - STAMP_RADIUS, spots)
        radius_m = np.hypot(y - self.beam_centre[0], x - self.beam_centre[1]) * self.pixel_m
        sine = np.sin(np.arctan2(radius_m, self.distance_m) / 2) / self.wavelength_angstrom
        # Wilson: intensities of a crystal are distributed exponentially at any one angle.
        photons = rng.exponential(400, spots) * np.exp(-2 * DEBYE_WALLER_B * sine**2) + 20
        sigma = rng.uniform(0.7, 1.3, spots)[:, None, None]
        steps = np.arange(-STAMP_RADIUS, STAMP_RADIUS + 1)
        corner_y, corner_x = np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)
        dy = (steps + (corner_y - y)[:, None])[:, :, None]
        dx = (steps + (corner_x - x)[:, None])[:, None, :]
        shape = np.exp(-(dy**2 + dx**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        counts = rng.poisson(shape * photons[:, None, None]).reshape(-1)
        at_y = (corner_y[:, None] + steps)[:, :, None]
        at_x = (corner_x[:, None] + steps)[:, None, :]
        places = (at_y * columns + at_x).reshape(-1)
        seen = (counts > 0) & self._lit.reshape(-1)[places]
        where, which = np.unique(places[seen], return_inverse=True)
        added = np.bincount(which, counts[seen], len(where)).astype(np.int64)
        pixels[where] = np.minimum(pixels[where] + added, self.saturation)


def _gaps(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where no module is; they are laid out from the first pixel on."""
    rows, columns = (
        np.arange(size) % (module + gap) >= module
        for size, module, gap in zip(shape, MODULE_SHAPE, GAP_SHAPE, strict=True)
    )
    return rows[:, None] | columns[None, :]
