"""Messages as files: one array of all in .npy or .h5, an image each in .tif or .cbf, or bytes.

Files appear whole: they are written beside their place under a hidden name, and renamed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from beamstream.cli.get import existing
from beamstream.cli.terminal import talk
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.errors import BadInput, BadName, DataLost, Error, NotFound, StorageError
from beamstream.model import check_path

if TYPE_CHECKING:
    import numpy as np

    from beamstream.cli.remote import Remote
    from beamstream.wire.address import Address

HDF5: Final = (".h5", ".hdf5", ".nxs")
_IMAGES: Final = {
    ".tif": ("fabio.tifimage", "TifImage", (b"II*\0", b"MM\0*")),
    ".tiff": ("fabio.tifimage", "TifImage", (b"II*\0", b"MM\0*")),
    ".cbf": ("fabio.cbfimage", "CbfImage", (b"###CBF",)),
}
"""Module and class that write it, and how files of it begin."""

_OTHERS: Final = "-o FILE.npy or FILE.h5 take any array"
_ID_DIGITS: Final = 6
_STREAM_NCHARS: Final = 100
Written = tuple[list[Path], int, int]


def write(there: Remote, asked: Address, out: str, *, force: bool) -> Written:
    """Write what an address means to `out`.

    Returns
    -------
    (files, count, failed) : paths, how many messages are in them, how many could not be had.

    Raises
    ------
    BadInput : a file is there already; arrays that do not go together; a package is missing.
    NotFound : there are no such messages.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if out.endswith("/") or path.is_dir():
        return _write_each(there, asked, _into_folder(path, force=force))
    if suffix == ".npy":
        return _write_together(there, asked, existing(path, force=force), _write_npy)
    if suffix in HDF5:
        return _write_together(there, asked, existing(path, force=force), _write_hdf5)
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {str(path.parent)!r}")
    store = _image_writer(suffix) if suffix in _IMAGES else _write_bytes
    single = getattr(asked.range, "single", False)
    return _write_each(there, asked, _numbered(path, store, single=single, force=force))


def each(found: Iterable[Message | DatasetMessage]) -> Iterator[Message]:
    """Messages, and the parts of datasets."""
    for one in found:
        if isinstance(one, DatasetMessage):
            yield from one.parts
        else:
            yield one


# ----------------------------------------------------------------------------- a file each

Store = Callable[[Path, Message], None]


def _write_each(there: Remote, asked: Address, save: Callable[[Message], Path]) -> Written:
    written, failed = [], 0
    for message in each(there.messages(asked)):
        try:
            written.append(save(message))
        except (DataLost, StorageError) as error:
            # The others can be had; this one is told of.
            failed += 1
            talk(f"message {message.id}: {error}")
    if not written and not failed:
        raise NotFound(f"there are no such messages: {asked}")
    return written, len(written), failed


def _into_folder(folder: Path, *, force: bool) -> Callable[[Message], Path]:
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()

    def save(message: Message) -> Path:
        name = _own_name(message)
        if not name or name in taken:
            name = _numbered_name(message)
        taken.add(name)
        path = existing(folder / name, force=force)
        _write_bytes(path, message)
        return path

    return save


def _numbered(path: Path, store: Store, *, single: bool, force: bool) -> Callable[[Message], Path]:
    def save(message: Message) -> Path:
        number = "" if single and message.seq else f"_{_number(message)}"
        target = existing(path.with_name(f"{path.stem}{number}{path.suffix}"), force=force)
        store(target, message)
        return target

    return save


def _own_name(message: Message) -> str:
    """Last part of the path its writer gave; empty if that should not become a file here."""
    try:
        name = PurePosixPath(check_path(message.name)).name
    except BadName:
        return ""
    return "" if name.startswith(".") else name


def _numbered_name(message: Message) -> str:
    return f"{quote(message.stream, safe=' ')[:_STREAM_NCHARS]}_{_number(message)}"


def _number(message: Message) -> str:
    substream = getattr(message, "substream", 0)
    return f"{message.id:0{_ID_DIGITS}}" + (f"_{substream}" if substream else "")


def _write_bytes(path: Path, message: Message) -> None:
    data = message.data
    with whole(path) as part:
        part.write_bytes(data)


def _image_writer(suffix: str) -> Store:
    module, name, signatures = _IMAGES[suffix]

    def store(path: Path, message: Message) -> None:
        if bytes(message.data[:6]).startswith(signatures):
            # It was sent as such a file: as it was is better than written anew.
            _write_bytes(path, message)
            return
        array = _image_of(message, suffix)
        image = getattr(_library(module), name)
        try:
            with whole(path) as part, quiet():
                image(data=array.copy()).write(str(part))
                _check_image(image().read(str(part)).data, array)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInput(
                f"message {message.id}, {array.dtype}, cannot be written as {suffix}: {error}",
                hint=_OTHERS,
            ) from None

    return store


def _image_of(message: Message, suffix: str) -> np.ndarray[Any, Any]:
    """The array of a message, if the format can hold it."""
    array = message.array()
    if array.ndim != 2:
        raise BadInput(
            f"message {message.id} has an array of {array.ndim} dimensions, an image has two",
            hint=_OTHERS,
        )
    if suffix == ".cbf" and (array.dtype.kind not in "iu" or array.dtype.itemsize > 4):
        raise BadInput(
            f"message {message.id} is {array.dtype}; CBF holds whole numbers of up to 32 bits",
            hint=_OTHERS,
        )
    return array


def _check_image(written: np.ndarray[Any, Any] | None, array: np.ndarray[Any, Any]) -> None:
    """Packing may fail silently: CBF, where neighbours are more than 2^31 apart."""
    import numpy as np

    if written is None or not np.array_equal(written, array, equal_nan=array.dtype.kind in "fc"):
        raise ValueError("what was written is not what was to be written")


# ----------------------------------------------------------------------------- all in one


def _write_together(
    there: Remote, asked: Address, path: Path, store: Callable[..., None]
) -> Written:
    """All messages as one array; a single one by its id without an axis for messages."""
    count = sum(1 for _ in each(there.messages(asked, payloads=False)))
    if not count:
        raise NotFound(f"there are no such messages: {asked}")
    messages = each(there.messages(asked))
    first = next(messages)
    single = bool(getattr(asked.range, "single", False)) and count == 1
    with whole(path) as part:
        store(part, _alike(first, messages), first.array(), count, single, asked)
    return [path], count, 0


def _alike(first: Message, others: Iterable[Message]) -> Iterator[tuple[Message, Any]]:
    """Messages and their arrays, which have one shape and dtype."""
    shape, dtype = first.array().shape, first.array().dtype
    yield first, first.array()
    for message in others:
        array = message.array()
        if array.shape != shape or array.dtype != dtype:
            raise BadInput(
                f"message {message.id} is {array.dtype}{list(array.shape)}, the first is "
                f"{dtype}{list(shape)}: they are not one array",
                hint="-o FOLDER/ writes a file for each",
            )
        yield message, array


def _write_npy(
    part: Path,
    frames: Iterator[tuple[Message, Any]],
    first: np.ndarray[Any, Any],
    count: int,
    single: bool,
    asked: Address,
) -> None:
    import numpy as np

    shape = first.shape if single else (count, *first.shape)
    with part.open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file,
            {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False,
             "shape": shape},
        )  # fmt: skip
        written = 0
        for written, (_, array) in enumerate(frames, 1):
            file.write(np.ascontiguousarray(array).tobytes())
            if written == count:
                break
    _check_count(written, count, asked)


def _write_hdf5(
    part: Path,
    frames: Iterator[tuple[Message, Any]],
    first: np.ndarray[Any, Any],
    count: int,
    single: bool,
    asked: Address,
) -> None:
    h5py = _library("h5py")
    with h5py.File(part, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry.attrs["source"], entry.attrs["stream"] = asked.source, asked.stream
        data = entry.create_group("data")
        data.attrs["NX_class"], data.attrs["signal"] = "NXdata", "data"
        pixels = data.create_dataset(
            "data", (count, *first.shape), first.dtype, chunks=(1, *first.shape)
        )
        ids = data.create_dataset("id", (count,), "i8")
        times = data.create_dataset("time_ns", (count,), "i8")
        metas = data.create_dataset("meta", (count,), h5py.string_dtype())
        written = 0
        for written, (message, array) in enumerate(frames, 1):
            index = written - 1
            pixels[index] = array
            ids[index], times[index] = message.id, message.timestamp_ns
            metas[index] = _json(message.meta)
            if written == count:
                break
    _check_count(written, count, asked)


def _check_count(written: int, count: int, asked: Address) -> None:
    if written != count:
        raise NotFound(
            f"only {written} of {count} messages of {asked} could still be had", hint="try again"
        )


# ----------------------------------------------------------------------------- files


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end, or vanishes."""
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries talk of what they think of a file; only their errors matter here."""
    import logging

    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _json(document: Any) -> str:
    import json

    return json.dumps(document, ensure_ascii=False)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Error(
            f"writing this kind of file needs a package that is not installed: {error}",
            hint="pip install 'beamstream[formats]', or -o FILE.npy",
        ) from None
