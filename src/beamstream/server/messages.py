"""A message, its sender and its answer, as doors and `ingest` tell each other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from beamstream import limits
from beamstream.errors import BadInput, BadName, Error, TooLarge
from beamstream.model import Who, check_label, check_metadata, check_path
from beamstream.server.beamtimes import BeamtimeFolders

DATA, META_ONLY, FILE, RECORD, TO_CORE = 1, 2, 4, 8, 16
"""Bits of an ingest mode (protocol section 5.6), as plain integers."""


class Result(msgspec.Struct, frozen=True, gc=False):
    """What a message was made of: run, (first) input, which of its results, all inputs if many."""

    run: int
    source: str
    stream: str
    seq: int
    k: int = 0
    span: bytes = b""


class Message(msgspec.Struct, frozen=True, gc=False):
    """Header of a message as a door hands it in.

    Parameters
    ----------
    id : 0 for an automatic one.
    substream, expected : of a dataset; 0 for a single message.
    size : nbytes that the producer says.
    mode : bits of ASAPO's ingest mode (protocol section 5.6).
    meta : JSON text; empty for none.
    info : description of the payload, opaque.
    sender, sequence : who counts his messages, and the number of this one (`catalog.Put`).
    result : None for what was not made of other messages.
    """

    source: str
    stream: str
    id: int
    name: str
    size: int
    mode: int
    meta: bytes
    substream: int = 0
    expected: int = 0
    info: bytes = b""
    sender: bytes = b""
    sequence: int = 0
    result: Result | None = None


class Producer(msgspec.Struct, frozen=True):
    """Who sends: the beamtime it was let into, and the kind of its files."""

    folders: BeamtimeFolders
    source: str
    raw: bool
    who: Who

    @property
    def beamtime(self) -> str:
        return self.folders.beamtime


# Seen by the collector: an error may be part of a cycle, by the frames of its traceback.
class Answer(msgspec.Struct, frozen=True):
    """A message was taken; `duplicate` when it had been before. `error` when it was not."""

    id: int = 0
    duplicate: bool = False
    error: Error | None = None


Reply = Callable[[Answer], None]


def check_message(producer: Producer, message: Message, nbytes: int) -> None:
    """Refuse what cannot be taken, before any memory is given to it.

    Raises
    ------
    BadName, BadMetadata, BadInput : see the message.
    """
    mode = message.mode
    if bool(mode & DATA) == bool(mode & META_ONLY) or mode > 31:
        raise BadInput(f"ingest mode {mode} is not possible: data, or metadata only")
    if (mode & DATA and not mode & (FILE | RECORD)) or (mode & META_ONLY and mode & FILE):
        raise BadInput(f"ingest mode {mode} is not possible")
    check_label("stream", message.stream)
    check_path(message.name)
    if message.id > limits.ID_MAX:
        raise BadInput(f"id {message.id} is above 2^63 - 1")
    if message.expected or message.substream:
        if not 1 <= message.expected <= limits.DATASET_SIZE_MAX:
            raise BadInput(f"a dataset of {message.expected} parts is not possible")
        if not 1 <= message.substream <= message.expected:
            raise BadInput(
                f"substream {message.substream} of a dataset of {message.expected} is not possible"
            )
        if not message.id:
            raise BadInput("messages of a dataset need an id", hint="ids start at 1")
    if message.size > limits.PAYLOAD_NBYTES_MAX:
        raise TooLarge(f"a message of {message.size} bytes")
    if mode & FILE:
        if not nbytes:
            raise BadInput("wrong file size, details: size:0")
        kind = "raw" if producer.raw else "processed"
        first, _, rest = message.name.partition("/")
        if first != kind or not rest:
            raise BadName(
                f"path {message.name[:200]!r} is not below {kind}/",
                hint=f"a {kind} producer stores files as {kind}/…",
            )
    if message.meta:
        check_metadata(message.meta)
