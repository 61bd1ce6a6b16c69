"""What a reader is told beside messages: gaps, ends, headers, how far all is settled. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple


class End(NamedTuple):
    """Why nothing more comes.

    Parameters
    ----------
    reason : "finished", "timeout" (nothing came for as long as was asked for), or "gone" (the
        stream was deleted).
    stream : the stream that ended; empty for several.
    next_stream : that follows, as its writer said.
    last_id : of a finished stream.
    missing : ranges of ids that never came, if they are few; half-open.
    """

    reason: str
    stream: str = ""
    next_stream: str = ""
    last_id: int = 0
    missing: tuple[tuple[int, int], ...] = ()


class Gap(NamedTuple):
    """The ids from `lo` up to, not including, `hi` were left out."""

    source: str
    stream: str
    lo: int
    hi: int


class StreamEnd(NamedTuple):
    """All of one stream is acknowledged, and nothing more comes of it; fields as of `End`."""

    source: str
    stream: str
    reason: str
    next_stream: str = ""
    last_id: int = 0
    missing: tuple[tuple[int, int], ...] = ()


class Header(NamedTuple):
    """The header (metadata) of a stream: before its first message, and when it has changed.

    `version` counts from 1; 0 with an empty `meta`: there is none.
    """

    source: str
    stream: str
    version: int
    meta: dict[str, Any]


class Settled(NamedTuple):
    """All messages of a stream before `seq` are acknowledged, or given up, by the whole group."""

    source: str
    stream: str
    seq: int


class HeaderText(NamedTuple):
    """A header as it came; empty, with a version, when it is too large to be told unasked."""

    source: str
    stream: str
    version: int
    document: bytes
