"""The words of Beamstream as types: levels, places, records, streams; and what a name may be.

A *message* is (beamtime, data source, stream, id, name, payload, metadata). A *dataset* is a set of
messages of one id from several substreams. An *item* is what a reader is handed: a message or a
dataset. Times are integers, nanoseconds since 1970 UTC. Ranges are half-open unless said otherwise.
"""

from __future__ import annotations

import enum
import functools
import re
from typing import Any, Final

import msgspec

from beamstream import limits
from beamstream.errors import BadMetadata, BadName, TooLarge

NO_META: Final = b"{}"


class Level(enum.IntEnum):
    """How safe a message is when its producer is answered.

    ``CACHE``: in memory, its record written; a killed node may lose the payload, never silently.
    ``OS``: handed to the kernel; a killed node loses nothing. ``DISK``: synced; a power cut loses
    nothing.
    """

    CACHE = 0
    OS = 1
    DISK = 2


class Place(enum.IntEnum):
    """Where the payload of a message is kept for good."""

    NOWHERE = 0
    """There is none: metadata only."""
    CACHE = 1
    """In the cache of the node that took it, as long as it lasts."""
    FILE = 2
    """A file below a root folder of the beamtime, under the message's name."""
    SEGMENT = 3
    """In the append-only log of its beamtime."""


class Root(enum.IntEnum):
    """Which file system of a beamtime holds a file."""

    CORE = 0
    BEAMLINE = 1


class Record(msgspec.Struct, frozen=True, gc=False):
    """What the catalog knows of one message.

    Parameters
    ----------
    seq : number of its item in the order of becoming visible, 1, 2, 3 … without holes.
    id : given by the producer or automatically, 1 … 2^63 - 1.
    substream : 0 for a single message, 1 … for a part of a dataset.
    name : path as the producer gave it.
    size : nbytes of the payload; of metadata-only messages what the producer said.
    digest : XXH3-128 of the payload, 16 bytes big endian; empty when there is no payload.
    meta : user metadata, a JSON object as text.
    timestamp_ns : ingestion.
    arrived_ns : the last byte of the payload.
    mode : ingest mode, bits as in ASAPO (protocol section 5.6).
    level : the durability level that was reached.
    place, root : where the payload lies.
    node, boot : the node that took it, and which of its starts.
    run : number of the run that made it; 0 for a detector.
    segment, position : file of the log, and the byte in it with which the payload begins.
    info : what the payload is (dtype, shape, codec), as the client wrote it; not looked into.
    input_source, input_stream, input_seq : the message that it was made of, or whose payload it
        shares (`result_k` below 0: a part of a join, a copy). Seq 0: none.
    result_k : of a result: which one of its input, from 0 on.
    span : of a result of several inputs: the ranges of their seqs (protocol: `pack_span`).
    """

    seq: int
    id: int
    substream: int
    name: str
    size: int
    digest: bytes
    meta: bytes
    timestamp_ns: int
    arrived_ns: int
    mode: int
    level: int
    place: int
    root: int
    node: int = 0
    boot: int = 0
    run: int = 0
    segment: int = 0
    position: int = 0
    info: bytes = b""
    input_source: str = ""
    input_stream: str = ""
    input_seq: int = 0
    result_k: int = -1
    span: bytes = b""

    @property
    def shares(self) -> bool:
        """Whether its payload is that of its input."""
        return self.input_seq > 0 and self.result_k < 0


class Header(msgspec.Struct, frozen=True, gc=False):
    """Metadata of a stream, or of a source's beamtime, in one of its versions (from 1 on)."""

    version: int
    document: bytes
    changed_ns: int


class Run(msgspec.Struct, frozen=True, gc=False):
    """What makes results: code, parameters, inputs, as a JSON object; written once."""

    no: int
    document: bytes
    created_ns: int


class Dataset(msgspec.Struct, frozen=True, gc=False):
    """Messages of one id from several substreams.

    Parameters
    ----------
    seq : number of the item, given when its first part became visible.
    id : common to all parts.
    expected : how many parts make it complete; told by the first part.
    ready_seq : number among the complete ones, in the order of completion; 0 while incomplete.
    parts : what is there, by substream.
    """

    seq: int
    id: int
    expected: int
    ready_seq: int
    parts: tuple[Record, ...]

    @property
    def complete(self) -> bool:
        return len(self.parts) >= self.expected


Item = Record | Dataset


class StreamInfo(msgspec.Struct, frozen=True, gc=False):
    """One stream as the catalog knows it.

    Parameters
    ----------
    no : internal number within the beamtime, never used twice.
    last_seq : the newest item's number; 0 when there is none.
    ready_seq : the newest complete dataset's number.
    skipped : how many of the seqs stand for ids that were skipped.
    max_id : largest id of a message (or skip); 0 when there is none.
    created_ns, last_ns : ingestion of the first message (or finish flag), and of the message with
        the largest id (of the finish flag, if finished).
    last_id : announced by the finish flag; -1 while the stream is unfinished.
    next_stream : announced by the finish flag; empty for none.
    datasets : its items are datasets.
    in_order : so far every item had a larger id than all before it.
    """

    no: int
    source: str
    name: str
    last_seq: int = 0
    ready_seq: int = 0
    skipped: int = 0
    max_id: int = 0
    created_ns: int = 0
    last_ns: int = 0
    last_id: int = -1
    next_stream: str = ""
    datasets: bool = False
    in_order: bool = True
    persistent: bool = False

    @property
    def finished(self) -> bool:
        return self.last_id >= 0

    @property
    def count(self) -> int:
        """Messages or datasets, without skips."""
        return self.last_seq - self.skipped


class Who(msgspec.Struct, frozen=True, gc=False):
    """The client behind a put, a claim or an acknowledgement, as its door knows it."""

    instance: str = ""
    step: str = ""
    address: str = ""
    token_id: str = ""


_BEAMTIME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What nearly every path looks like; the others are looked at closely.
_PLAIN_PATH: Final = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
# Quotes, backslashes and control characters break the official clients of other people, who paste
# names into JSON without escaping. U+202A … U+202E, U+2066 … U+2069 turn text around on a screen.
_REFUSED: Final = re.compile('[\x00-\x1f\x7f"\\\\\u0080-\u009f\u202a-\u202e\u2066-\u2069]')


def check_beamtime(beamtime: str) -> str:
    """Return `beamtime` if it can be a beamtime's id, else raise `BadName`.

    It becomes a folder and is not escaped in ASAPO's URLs: letters, digits, ``.``, ``_``, ``-``.

    >>> check_beamtime("11012345")
    '11012345'
    """
    if not _BEAMTIME.fullmatch(beamtime) or beamtime == "auto":
        raise BadName(
            f"beamtime {beamtime[:80]!r} is not a beamtime id",
            hint="1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    return beamtime


def check_label(kind: str, name: str, nbytes_max: int = limits.STREAM_NBYTES_MAX) -> str:
    """Return `name` if it can name a source, stream or group (`kind`), else raise `BadName`.

    >>> check_label("stream", "scan 1/äöü")
    'scan 1/äöü'
    """
    if not name:
        raise BadName(f"the name of a {kind} must not be empty")
    _check_label(kind, name, nbytes_max)
    return name


@functools.lru_cache(maxsize=1024)
def _check_label(kind: str, name: str, nbytes_max: int) -> None:
    """Streams and sources come again with every message."""
    _check_characters(kind, name, nbytes_max)


def check_path(name: str) -> str:
    """Return `name` if it can be the path of a message, else raise `BadName`.

    Relative, components of at most 255 bytes, no ``.``, ``..`` or empty ones, nothing hidden as an
    unfinished write of ours. Checked in every ingest mode: readers join it to a folder.

    >>> check_path("processed/scan1/frame_1.cbf")
    'processed/scan1/frame_1.cbf'
    """
    if _PLAIN_PATH.fullmatch(name) and len(name) <= limits.PATH_COMPONENT_NBYTES_MAX:
        return name
    if not name:
        raise BadName("the path of a message must not be empty")
    _check_characters("message", name, limits.NAME_NBYTES_MAX)
    for part in name.split("/"):
        if part in ("", ".", "..") or part.startswith(PART_PREFIX):
            raise BadName(
                f"path {name[:200]!r} is refused",
                hint="a relative path without empty, '.' or '..' components",
            )
        if len(part) > 63 and len(part.encode()) > limits.PATH_COMPONENT_NBYTES_MAX:
            raise BadName(f"path {name[:80]!r}… has a component of more than 255 bytes")
    return name


PART_PREFIX: Final = ".part-"
"""Files being written have names that begin so; readers of the folder leave them alone."""


def _check_characters(kind: str, name: str, nbytes_max: int) -> None:
    found = _REFUSED.search(name)
    if found:
        raise BadName(
            f"{kind} name {name[:80]!r} has the character {found[0]!r}",
            hint="quotes, backslashes and control characters are refused",
        )
    try:
        nbytes = len(name.encode())
    except UnicodeEncodeError:
        raise BadName(f"{kind} name {name[:80]!r} is not valid Unicode") from None
    if nbytes > nbytes_max:
        raise BadName(f"{kind} name {name[:80]!r}… has {nbytes} bytes, {nbytes_max} are allowed")


def check_metadata(text: bytes, nbytes_max: int = limits.META_NBYTES_MAX) -> bytes:
    """Return `text` if it is a JSON object within the limits, else raise `BadMetadata`.

    Strict UTF-8, no NaN or infinities, numbers within double precision, at most 32 levels.

    >>> check_metadata(b'{"energy_eV": 12400}')
    b'{"energy_eV": 12400}'
    """
    if len(text) > nbytes_max:
        raise TooLarge(f"metadata has {len(text)} bytes, {nbytes_max} are allowed")
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMetadata(f"metadata is not JSON: {error}") from None
    if type(document) is not dict:
        raise BadMetadata(
            f"metadata is {_json_kind(document)}, not an object", hint='send {"key": value, …}'
        )
    # Counting brackets is a bound on the depth that costs nothing; strings may hold some, so a
    # high count is looked at properly.
    if text.count(b"{") + text.count(b"[") > limits.META_DEPTH_MAX:
        _check_shape(document)
    return text


def _json_kind(document: Any) -> str:
    match document:
        case list():
            return "an array"
        case str():
            return "a string"
        case None:
            return "null"
        case bool():
            return "true or false"
        case _:
            return "a number"


def _check_shape(document: dict[str, Any]) -> None:
    nodes = 0
    level: list[Any] = [document]
    for _ in range(limits.META_DEPTH_MAX):
        below: list[Any] = []
        for node in level:
            children = node.values() if type(node) is dict else node
            nodes += len(children)
            below += [child for child in children if type(child) in (dict, list)]
        if nodes > limits.META_NODES_MAX:
            raise BadMetadata(f"metadata has more than {limits.META_NODES_MAX} values")
        if not below:
            return
        level = below
    raise BadMetadata(f"metadata is nested more than {limits.META_DEPTH_MAX} levels deep")
