"""What a node had answered before a power cut, and whether a folder still keeps it.

The folder is opened by the node's own recovery code, as at the node's start.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from beamstream.errors import Error
from beamstream.model import PART_PREFIX, Dataset, Level, Place, Record
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.store.files import RootFolder, StoredFile, digest_of

from ..raw import BEAMTIME, SOURCE
from .disk import Answer
from .recovery import recover


class Sent(msgspec.Struct, frozen=True):
    """A request on a connection, and what its answer promises.

    Parameters
    ----------
    kind : ``put``, ``ack``, ``finish``, or empty for one that promises nothing.
    id : of the message; the last id for a finish flag.
    name : path of the file, empty if there is none.
    """

    kind: str
    stream: str = ""
    id: int = 0
    name: str = ""
    nbytes: int = 0
    digest: bytes = b""
    meta: bytes = b""
    group: str = ""


class Promises:
    """All requests by connection, in their order; `check` looks at a folder.

    Requests and answers alternate on each connection, so the n-th answer is that to the n-th
    request.
    """

    def __init__(self) -> None:
        self.key = b""
        self.by_port: dict[int, list[Sent]] = {}
        self.by_name: dict[str, Sent] = {}

    def add(self, port: int, sent: Sent) -> None:
        self.by_port.setdefault(port, []).append(sent)
        if sent.name:
            self.by_name[sent.name] = sent

    def answered(self, answers: Sequence[Answer]) -> list[Sent]:
        counts = Counter(answer.port for answer in answers if _begins_an_answer(answer))
        return [
            sent
            for port, count in counts.items()
            for sent in self.by_port.get(port, [])[:count]
            if sent.kind
        ]

    def check(self, root: Path, answers: Sequence[Answer]) -> list[str]:
        """What the data folder below `root` has not kept, as ``"kind: details"``."""
        answered = self.answered(answers)
        folder = root / "data"
        if not folder.is_dir():
            return ["folder lost: the data folder"] if answered else []
        try:
            catalog = recover(folder)
        except Error as error:
            return [f"not opened: {error}"]
        try:
            return self._check(folder, catalog, answered)
        except Error as error:
            return [f"not readable: {error}"]
        finally:
            catalog.close()

    def _check(self, folder: Path, catalog: SqliteCatalog, answered: list[Sent]) -> list[str]:
        wrong: list[str] = []
        files = folder / "beamtimes" / BEAMTIME
        records = _records(catalog)
        if (folder / "key").read_bytes() != self.key:
            wrong.append("key lost: all tokens end")
        for sent in answered:
            match sent.kind:
                case "put":
                    wrong += _check_put(sent, records.get((sent.stream, sent.id)))
                case "ack":
                    wrong += _check_ack(sent, catalog, records)
                case "finish":
                    info = catalog.stream(BEAMTIME, SOURCE, sent.stream)
                    if info is None or info.last_id != sent.id:
                        wrong.append(f"finish flag lost: {sent.stream}")
        wrong += _check_records(files, records)
        wrong += self._check_files(files)
        return wrong

    def _check_files(self, files: Path) -> list[str]:
        """Files under final names are whole, whether they have a record or not."""
        wrong: list[str] = []
        for parent, _, names in os.walk(files):
            for name in names:
                path = Path(parent, name)
                sent = self.by_name.get(path.relative_to(files).as_posix())
                if name.startswith(PART_PREFIX):
                    wrong.append(f"left behind: {path}")
                elif sent is None:
                    wrong.append(f"phantom file: {path}")
                elif digest_of(path.read_bytes()) != sent.digest:
                    wrong.append(f"partial file: {path}")
        return wrong


def _begins_an_answer(answer: Answer) -> bool:
    """An answer of HTTP may be sent in pieces; those of the receiver have one length."""
    return answer.head.startswith(b"HTTP/1.") or answer.nbytes == 1028


def _records(catalog: SqliteCatalog) -> dict[tuple[str, int], Record]:
    records: dict[tuple[str, int], Record] = {}
    for info in catalog.streams(BEAMTIME, SOURCE):
        for item in catalog.items_by_seq(BEAMTIME, info.no, 1, info.last_seq + 1):
            assert not isinstance(item, Dataset)
            records[info.name, item.id] = item
    return records


def _check_put(sent: Sent, record: Record | None) -> list[str]:
    where = f"{sent.stream} {sent.id}"
    if record is None:
        return [f"record lost: {where}"]
    same = (record.name, record.size, record.digest, record.meta) == (
        sent.name,
        sent.nbytes,
        sent.digest,
        sent.meta,
    )
    if not same or record.level < Level.DISK or record.place != Place.FILE:
        return [f"another record: {where}: {record}"]
    return []


def _check_ack(
    sent: Sent, catalog: SqliteCatalog, records: dict[tuple[str, int], Record]
) -> list[str]:
    state = catalog.group(BEAMTIME, sent.group, SOURCE, sent.stream)
    record = records.get((sent.stream, sent.id))
    if state is None or record is None:
        return [f"acknowledgement lost: {sent.group} {sent.stream} {sent.id}"]
    if not any(lo <= record.seq < hi for lo, hi in state.acked):
        return [f"acknowledgement lost: {sent.group} {sent.stream} {sent.id}: {state.acked}"]
    return []


def _check_records(files: Path, records: dict[tuple[str, int], Record]) -> list[str]:
    """Every record of a file, answered or not, has its file, bit for bit."""
    if not any(record.place == Place.FILE for record in records.values()):
        return []
    if not files.is_dir():
        return ["file lost: the folder of the beamtime"]
    wrong: list[str] = []
    root = RootFolder(files)
    try:
        for (stream, id), record in records.items():
            if record.place != Place.FILE:
                continue
            try:
                stored = StoredFile(root, record.name)
                try:
                    stored.verify(record.digest, record.size)
                finally:
                    stored.close()
            except Error as error:
                wrong.append(f"file lost: {stream} {id}: {error}")
    finally:
        root.close()
    return wrong
