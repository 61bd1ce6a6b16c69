"""The demo's detector: frames at a steady rate, simulated or from files."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from beamstream import limits
from beamstream.cli.demo_figures import Figures
from beamstream.errors import BadInput
from beamstream.testing.detector import SimulatedDetector, open_frames

FILES_NBYTES_MAX: Final = 256 * limits.MIB
"""Frames of files are read once and kept, up to this much."""

_BUFFERS: Final = 8

Frame = tuple[NDArray[Any], dict[str, Any]]
Send = Callable[[int, NDArray[Any], dict[str, Any]], Callable[[], object]]
"""Sends frame `id` with its metadata, and returns what waits for the answer."""


def simulated(shape: tuple[int, int]) -> Iterator[Frame]:
    """Frames of the simulated detector, without end. A frame's array is used again later."""
    detector = SimulatedDetector(shape)
    buffers = [np.empty(detector.shape, detector.dtype) for _ in range(_BUFFERS + 1)]
    for i, buffer in enumerate(itertools.cycle(buffers)):
        detector.frame_into(i, buffer)
        yield buffer, detector.meta(i)


def from_files(paths: Iterable[Path]) -> Iterator[Frame]:
    """Frames of image files, over and over. Raises `BadInput` if there are none."""
    kept: list[Frame] = []
    nbytes = 0
    for frame, meta in open_frames(paths):
        kept.append((frame, meta))
        nbytes += frame.nbytes
        if nbytes >= FILES_NBYTES_MAX:
            break
    if not kept:
        raise BadInput("the files hold no frames")
    return itertools.cycle(kept)


class Feed:
    """Sends frames at a steady rate from a thread of its own.

    Parameters
    ----------
    rate_hz : frames per second; when sending is slower, it is as fast as it can.
    end : called with the largest id when all is sent and answered, or None.
    room : whether there is room for one more frame; as long as not, the detector waits.
    """

    def __init__(
        self,
        send: Send,
        frames: Iterator[Frame],
        rate_hz: float,
        *,
        end: Callable[[int], object],
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.figures = Figures("detector", time.monotonic())
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self.with_spots: int | None = None
        """Frames with spots on them; only the simulated detector knows."""
        self.waited_s = 0.0
        self._send = send
        self._frames = frames
        self._period_s = 1 / rate_hz
        self._end = end
        self._room = room
        self._thread = threading.Thread(target=self._run, name="detector", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Stop, and announce the last id when all is answered."""
        self.stop.set()
        self._thread.join()
        if self.error is None:
            self._end(self.figures.last_id)

    def _run(self) -> None:
        try:
            self._send_all()
        except BaseException as error:
            self.error = error
            self.stop.set()

    def _send_all(self) -> None:
        answers: list[Callable[[], object]] = []
        due_s = time.monotonic()
        for number, (frame, meta) in enumerate(self._frames, 1):
            # A frame's buffer is filled again once it has been answered.
            if len(answers) >= _BUFFERS:
                answers.pop(0)()
            due_s = max(due_s + self._period_s, time.monotonic() - self._period_s)
            if self.stop.wait(max(0.0, due_s - time.monotonic())) or not self._wait_for_room():
                break
            answers.append(self._send(number, frame, meta))
            if "hit" in meta:
                self.with_spots = (self.with_spots or 0) + bool(meta["hit"])
            self.figures.add(time.monotonic(), 1, frame.nbytes, number)
        for answer in answers:
            answer()

    def _wait_for_room(self) -> bool:
        began_s = time.monotonic()
        while not self._room():
            if self.stop.wait(0.01):
                return False
            self.waited_s += time.monotonic() - began_s
            began_s = time.monotonic()
        return True
