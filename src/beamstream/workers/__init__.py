"""Steps that many pipelines need: a pipeline file names them without a module.

`bin` sums pixels, `find_peaks` finds Bragg spots, `average` takes means of ten frames, `hits` keeps
frames with peaks. What they do to one frame are plain functions: `bin_pixels`, `locate_peaks`,
`average_frames`.

>>> import numpy as np
>>> from beamstream.workers import bin_pixels
>>> bin_pixels(np.ones((4, 6), "u2")).tolist()
[[4, 4, 4], [4, 4, 4]]
"""

from __future__ import annotations

from beamstream.workers.averaging import average, average_frames
from beamstream.workers.binning import bin, bin_pixels  # noqa: A004
from beamstream.workers.choosing import hits
from beamstream.workers.peaks import Background, Peaks, background, find_peaks, locate_peaks
from beamstream.workers.pixels import no_counts

__all__ = [
    "Background",
    "Peaks",
    "average",
    "average_frames",
    "background",
    "bin",
    "bin_pixels",
    "find_peaks",
    "hits",
    "locate_peaks",
    "no_counts",
]
