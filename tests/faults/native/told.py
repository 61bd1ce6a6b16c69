"""What the test tells a client in a process of its own, and what the client tells the test."""

from __future__ import annotations

from typing import Any, Final

import msgspec

SOURCE: Final = "detector"
BEAMTIME: Final = "bt1"


class Writer(msgspec.Struct, frozen=True, tag="writer"):
    """Writes keys `first`, `first` + `step` … into a stream.

    Parameters
    ----------
    seed : of the stream's content.
    level : "cache", "os" or "disk".
    sizes : nbytes of payloads, from … to.
    auto : the node gives the ids; else they are the keys.
    how : "send", "many", "frame" or "named", one of them for each burst.
    again : keys of an earlier process that were not answered, sent first.
    """

    stream: str
    seed: int
    level: str
    sizes: tuple[int, int]
    auto: bool = True
    how: tuple[str, ...] = ("send",)
    first: int = 1
    step: int = 1
    again: tuple[int, ...] = ()


class Reader(msgspec.Struct, frozen=True, tag="reader"):
    """Reads streams as a member of a group until each is finished.

    Parameters
    ----------
    how : "manual" (`ack`, `nack`, `defer`), "auto" (the loop acknowledges) or "batches".
    """

    group: str
    streams: tuple[str, ...]
    lease_s: float
    seed: int
    how: str = "manual"


class Setting(msgspec.Struct, frozen=True):
    """A client: where the node is, and what it does there."""

    name: str
    url: str
    token: str
    role: Writer | Reader


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """It is connected: from now on it goes on by itself."""


class Send(msgspec.Struct, frozen=True, tag="send"):
    """Messages are about to be sent: (number of the call, key, id, nbytes, name of the file)."""

    at_s: float
    messages: list[tuple[int, int, int, int, str]]


class Sent(msgspec.Struct, frozen=True, tag="sent"):
    """The answer to some: their ids and level, or the code of an error."""

    at_s: float
    numbers: list[int]
    ids: list[int] = []
    level: int = -1
    error: str = ""


class Got(msgspec.Struct, frozen=True, tag="got"):
    """A message came to the program; `error` in place of the `digest` of its payload."""

    number: int
    stream: str
    id: int
    began_s: float
    at_s: float
    meta: dict[str, Any]
    digest: bytes = b""
    error: str = ""


class Acking(msgspec.Struct, frozen=True, tag="acking"):
    """A message that came is about to be acknowledged, or (`back`) given back."""

    number: int
    at_s: float
    back: bool = False


class Acked(msgspec.Struct, frozen=True, tag="acked"):
    """Acknowledgements are safe; `stale`: some of them came too late."""

    numbers: list[int]
    at_s: float
    stale: bool = False


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The loop over a stream has ended by itself."""

    stream: str
    reason: str


class Broke(msgspec.Struct, frozen=True, tag="broke"):
    """An exception has reached the program."""

    text: str


Word = Ready | Send | Sent | Got | Acking | Acked | Ended | Broke
