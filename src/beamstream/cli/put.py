"""`beamstream put`: files, arrays in files, standard input, or a folder that fills."""

from __future__ import annotations

import itertools
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from cyclopts import Parameter

from beamstream import limits
from beamstream.cli.options import ANY_NODE, Json, Node, Usage, flag, maybe
from beamstream.cli.terminal import (
    FAILED,
    STDIO,
    plain,
    plural,
    print_json_line,
    show_nbytes,
    talk,
    until_stopped,
)

if TYPE_CHECKING:
    from beamstream.client.native.receipts import Receipt
    from beamstream.client.native.writer import Writer

LOOK_S: Final = 0.25
"""How often a folder is looked at."""

_WAITING_MAX: Final = 4_096
_PATIENCE_S: Final = 300.0


class Item(NamedTuple):
    """One message to be sent.

    Parameters
    ----------
    label : what people call it: a path, ``frames.h5 3``.
    value : path of a file that is sent as it is, an array, or bytes.
    name : as which the message is stored; empty for none.
    meta : what is known of it.
    """

    label: str
    value: Any
    name: str
    meta: dict[str, Any]


def put(
    *words: str,
    follow: Annotated[
        Path | None, Parameter(help="Folder: what is there and comes, until Ctrl-C.")
    ] = None,
    settle: Annotated[float, Parameter(help="With --follow: seconds without a change.")] = 1.0,
    meta: Annotated[str, Parameter(help="Metadata of each message, a JSON object.")] = "{}",
    arrays: Annotated[bool, flag("Frames in .npy .tif .cbf .h5 …, as arrays.")] = False,
    names: Annotated[
        bool | None,
        Parameter(negative="--no-names", help="Store as files (if not --arrays) or in the log."),
    ] = None,
    folder: Annotated[str, maybe("Of stored files; else processed/SOURCE/STREAM.")] = "",
    level: Annotated[str, maybe("cache, os or disk; else as the node is set.")] = "",
    finish: Annotated[bool, flag("Say that the stream ends.")] = False,
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Send files into a stream, as they are, and print where each is.

    The node stores them as files of the beamtime; with --no-names, and arrays
    and standard input, in its log.

    $ beamstream put *.cbf eiger/scan1 --meta '{"sample": "lysozyme"}'
    $ producer | beamstream put - eiger/scan1
    $ beamstream put eiger/scan1 --follow /data/scan1

    Parameters
    ----------
    words
        Files (- for standard input), and at the end the address of the stream.
    """
    from beamstream.cli import remote

    if not words or (len(words) == 1 and follow is None):
        raise Usage("files and the address of a stream are needed", hint="put FILE… SOURCE/STREAM")
    asked = remote.address_of(words[-1])
    remote.no_range(asked)
    document, asked_level = _meta(meta), remote.level_of(level)
    where = folder or "/".join(("processed", *map(_escaped, (asked.source, asked.stream))))
    kept = where.strip("/") if (not arrays if names is None else names) else ""
    if follow is not None and not follow.is_dir():
        raise Usage(f"there is no folder {str(follow)!r}")
    items: Iterator[Item | None] = _given(words[:-1], arrays=arrays, kept=kept)
    if follow is not None:
        items = itertools.chain(items, _followed(follow, settle, arrays=arrays, kept=kept))
    patience_s = _PATIENCE_S if follow is not None else remote.PATIENCE_S
    with remote.connect(node, asked.beamtime, patience_s=patience_s, step="put") as there:
        stream = there.stream(asked)
        with stream.writer(level=asked_level, finish=finish) as writer:
            sending = _Sending(writer, remote.path_of(asked.source, asked.stream), json=json)
            try:
                if follow is not None:
                    with until_stopped():
                        sending.send(items, document)
                else:
                    sending.send(items, document)
                sending.wait()
            finally:
                # Also when the node refuses, or goes away, in between.
                talk(f"sent {plural(sending.sent, 'message')}, {show_nbytes(sending.nbytes)}")
    return FAILED if sending.failed else 0


class _Sending:
    """Sends and tells of receipts, in order, as they come."""

    def __init__(self, writer: Writer, path: str, *, json: bool) -> None:
        self.sent = self.failed = self.nbytes = 0
        self._writer = writer
        self._path = path
        self._json = json
        self._waiting: deque[tuple[Item, int, Receipt]] = deque()

    def send(self, items: Iterable[Item | None], meta: dict[str, Any]) -> None:
        """Send all; None among them is a moment in which nothing is there to be sent."""
        from beamstream.errors import BadInput, StorageError

        for item in items:
            if item is not None:
                try:
                    nbytes = _nbytes(item.value)
                    receipt = self._writer.send(item.value, item.meta | meta, name=item.name)
                except (BadInput, StorageError) as error:
                    self._fail(item, error)
                else:
                    self._waiting.append((item, nbytes, receipt))
            while self._waiting and (
                self._waiting[0][2].done() or len(self._waiting) >= _WAITING_MAX
            ):
                self._tell()

    def wait(self) -> None:
        """Wait for the receipts that have not come."""
        while self._waiting:
            self._tell()

    def _tell(self) -> None:
        item, nbytes, receipt = self._waiting.popleft()
        error = receipt.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            # Nothing more will come of this node: not of the others either.
            raise error
        if error is not None:
            self._fail(item, error)
            return
        self.sent += 1
        self.nbytes += nbytes
        level = receipt.level.name.lower()
        if self._json:
            print_json_line(
                {
                    "file": item.label,
                    "address": f"{self._path}[{receipt.id}]",
                    "id": receipt.id,
                    "name": item.name,
                    "nbytes": nbytes,
                    "level": level,
                    "duplicate": receipt.duplicate,
                }
            )
        else:
            again = "  (was there)" if receipt.duplicate else ""
            place = f"{self._path}[{receipt.id}]"
            print(f"{place}  {plain(item.label)}  {level}{again}", flush=True)

    def _fail(self, item: Item, error: Exception) -> None:
        self.failed += 1
        talk(f"{item.label}: {error}")


def _escaped(name: str) -> str:
    """A name as one component of a path."""
    from urllib.parse import quote

    return quote(name, safe=" ") if name.strip(".") else "_"


def _meta(text: str) -> dict[str, Any]:
    import msgspec

    from beamstream.errors import BadMetadata
    from beamstream.model import check_metadata

    try:
        return msgspec.json.decode(check_metadata(text.encode()), type=dict[str, Any])
    except BadMetadata as error:
        raise Usage(f"--meta: {error.message}", hint=error.hint) from None


def _nbytes(value: Any) -> int:
    if isinstance(value, Path):
        try:
            return value.stat().st_size
        except OSError as error:
            from beamstream.errors import StorageError

            raise StorageError(f"cannot be read: {error.strerror}") from None
    return int(value.nbytes) if hasattr(value, "nbytes") else len(value)


# ----------------------------------------------------------------------------- what is sent


def _given(words: Iterable[str], *, arrays: bool, kept: str) -> Iterator[Item | None]:
    for word in words:
        if word == STDIO:
            data = sys.stdin.buffer.read(limits.PAYLOAD_NBYTES_MAX + 1)
            yield Item("-", data, "", {})
        else:
            path = Path(word)
            yield from _items(path, path.name, arrays=arrays, kept=kept)


def _items(path: Path, name: str, *, arrays: bool, kept: str) -> Iterator[Item]:
    """What a file holds, to be stored below the folder `kept`; in the log if that is empty."""
    if not arrays:
        yield Item(str(path), path, f"{kept}/{name}" if kept else "", {})
        return
    for number, (frame, meta) in enumerate(_frames(path)):
        label = f"{path} {number}" if number else str(path)
        yield Item(label, frame, f"{kept}/{name}.{number}" if kept else "", meta)


def _frames(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Frames of a file, with what is known of them; the file is told in the metadata."""
    from beamstream.errors import BadInput

    if path.suffix.lower() != ".npy":
        from beamstream.testing.image_files import open_frames

        yield from open_frames([path])
        return
    import numpy as np

    try:
        yield np.load(path, allow_pickle=False), {"file": path.name}
    except ValueError as error:
        raise BadInput(f"file {str(path)!r} is not an array: {error}") from None


def _followed(folder: Path, settle_s: float, *, arrays: bool, kept: str) -> Iterator[Item | None]:
    from beamstream.cli.put_folder import Folder
    from beamstream.errors import Error

    looked = Folder(folder, settle_s=settle_s)
    talk(f"following {folder}; Ctrl-C ends it")
    while True:
        for path in looked.look(time.monotonic()):
            name = path.relative_to(folder).as_posix()
            try:
                yield from _items(path, name, arrays=arrays, kept=kept)
            except Error as error:
                talk(f"{path}: {error}")
        yield None
        time.sleep(LOOK_S)
