"""Steps that do nothing but hand on what they get: what is left is the framework's own cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from beamstream.worker import step

Array = np.ndarray[Any, Any]


@step(reads="first", writes="second", level="cache")
def one(frame: Array) -> Array:
    """Hand a frame on."""
    return frame


@step(reads="second", writes="third", level="cache")
def two(frame: Array) -> Array:
    """Hand a frame on."""
    return frame


@step(reads="third", writes="fourth", level="cache")
def three(frame: Array) -> Array:
    """Hand a frame on."""
    return frame


@step(reads="first", writes="second", level="cache", batch=256)
def small_one(frames: list[Array]) -> list[Array]:
    """Hand small messages on."""
    return frames


@step(reads="second", writes="third", level="cache", batch=256)
def small_two(frames: list[Array]) -> list[Array]:
    """Hand small messages on."""
    return frames


@step(reads="third", writes="fourth", level="cache", batch=256)
def small_three(frames: list[Array]) -> list[Array]:
    """Hand small messages on."""
    return frames
