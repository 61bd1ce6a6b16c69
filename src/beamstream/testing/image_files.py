"""Frames out of image files: CBF, TIFF, EDF … by fabio, HDF5 and NeXus by h5py."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from beamstream.errors import BadInput, NotFound

HDF5_SUFFIXES: Final = (".h5", ".hdf5", ".hdf", ".nxs", ".nx5", ".nexus", ".cxi")
HEADER_VALUE_NCHARS_MAX: Final = 2_000

Frame = tuple[NDArray[Any], dict[str, Any]]


def open_frames(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Frame]:
    """Give every frame of image files, with what is known of it, fit for JSON.

    Files of several frames (HDF5 datasets of three and more dimensions, multi-page TIFF) give one
    after the other; one frame is in memory at a time. HDF5 datasets that are packed as at
    detectors (bitshuffle, LZ4, zstd …) are read as well.

    Parameters
    ----------
    paths : files, in the order in which their frames are wanted.

    Yields
    ------
    (frame, meta) : C-contiguous array, shape (rows, columns); meta has ``file``, ``frame`` (its
        number in the file, from 0), ``shape``, ``dtype``, and ``header`` or ``dataset``.

    Raises
    ------
    NotFound : there is no such file.
    BadInput : it is no image file, has no frames, or the packages to read it are missing.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise NotFound(f"there is no file {str(path)!r}")
        read = _hdf5_frames if path.suffix.lower() in HDF5_SUFFIXES else _fabio_frames
        for number, (frame, more) in enumerate(read(path)):
            array = np.ascontiguousarray(frame)
            yield (
                array,
                {
                    "file": path.name,
                    "frame": number,
                    "shape": list(array.shape),
                    "dtype": array.dtype.name,
                    **more,
                },
            )


def _module(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadInput(
            f"reading {path.name!r} needs the package {name!r}: {error}",
            hint="pip install 'beamstream[formats]'",
        ) from None


def _fabio_frames(path: Path) -> Iterator[Frame]:
    fabio = _module("fabio", path)
    try:
        with fabio.open(str(path)) as image:
            for number in range(image.nframes):
                frame = image if image.nframes == 1 else image.get_frame(number)
                if frame.data is None or frame.data.ndim != 2:
                    raise BadInput(f"{path.name!r} holds no image of two dimensions")
                yield frame.data, {"header": _header(frame.header)}
    except BadInput:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _header(header: Any) -> dict[str, str]:
    return {str(key): str(value)[:HEADER_VALUE_NCHARS_MAX] for key, value in header.items()}


def _unreadable(path: Path, error: Exception) -> BadInput:
    reason = f"{type(error).__name__}: {error}"[:300]
    return BadInput(
        f"{path.name!r} cannot be read as an image file: {reason}",
        hint="files are CBF, TIFF, EDF and others that fabio knows, or HDF5 / NeXus",
    )


def _hdf5_frames(path: Path) -> Iterator[Frame]:
    h5py = _module("h5py", path)
    _module("hdf5plugin", path)
    try:
        with h5py.File(path, "r") as file:
            datasets = _image_datasets(h5py, file)
            if not datasets:
                raise BadInput(f"{path.name!r} has no dataset of two or more dimensions")
            for dataset in datasets:
                for index in np.ndindex(dataset.shape[:-2]):
                    yield dataset[index], {"dataset": dataset.name}
    except BadInput:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _image_datasets(h5py: ModuleType, file: Any) -> list[Any]:
    """Return the datasets of the frames: those of the group with the most pixels.

    Detectors write several files and link them into one group (``data_000001`` …); NeXus links
    the same data into several groups, so only one is taken, NXdata first.
    """
    best: tuple[bool, int] = (False, 0)
    chosen: list[Any] = []
    for group in _groups(h5py, file):
        nodes = [group.get(name) for name in sorted(group)]
        images = [node for node in nodes if isinstance(node, h5py.Dataset) and _is_image(node)]
        if not images:
            continue
        largest = max(images, key=lambda image: image.size)
        alike = [image for image in images if _frame_kind(image) == _frame_kind(largest)]
        is_data = group.attrs.get("NX_class") in ("NXdata", b"NXdata")
        rank = (is_data, sum(image.size for image in alike))
        if rank > best:
            best, chosen = rank, alike
    return chosen


def _groups(h5py: ModuleType, file: Any) -> Iterator[Any]:
    """Give every group once, also those behind links; links may lead in circles."""
    seen = set()
    waiting = [file]
    while waiting:
        group = waiting.pop()
        place = h5py.h5o.get_info(group.id)
        if (place.fileno, place.addr) in seen:
            continue
        seen.add((place.fileno, place.addr))
        yield group
        nodes = [group.get(name) for name in sorted(group, reverse=True)]
        waiting += [node for node in nodes if isinstance(node, h5py.Group)]


def _is_image(dataset: Any) -> bool:
    return dataset.ndim >= 2 and dataset.dtype.kind in "iuf" and dataset.size > 0


def _frame_kind(dataset: Any) -> tuple[Any, ...]:
    return (*dataset.shape[-2:], dataset.dtype, dataset.ndim)
