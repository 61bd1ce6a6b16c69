"""Comments and tags of streams: metadata of streams of the source `notes`."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from beamstream import limits
from beamstream.errors import TooLarge
from beamstream.wire.address import Address

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

SOURCE: Final = "notes"
COMMENT_NCHARS_MAX: Final = 2_000
TAGS_MAX: Final = 32
TAG_NCHARS_MAX: Final = 64
_KEPT_S: Final = 5.0
_BEAMTIMES_MAX: Final = 64

Note = tuple[str, tuple[str, ...]]
NONE: Final[Note] = ("", ())


def name_of(source: str, stream: str) -> str:
    """The stream in which the note of another one is kept.

    >>> name_of("eiger", "scan 1/a")
    'eiger/scan%201%2Fa'
    """
    name = str(Address("", source, stream))
    if len(name) <= limits.STREAM_NBYTES_MAX:
        return name
    return "digest/" + hashlib.sha256(name.encode()).hexdigest()


def write(hub: Hub, source: str, stream: str, comment: str, tags: tuple[str, ...]) -> None:
    """Keep a note.

    Raises
    ------
    TooLarge : it is longer than a note should be.
    """
    if len(comment) > COMMENT_NCHARS_MAX:
        raise TooLarge(f"a comment of {len(comment)} characters, {COMMENT_NCHARS_MAX} are allowed")
    if len(tags) > TAGS_MAX or any(len(tag) > TAG_NCHARS_MAX for tag in tags):
        raise TooLarge(f"tags: {TAGS_MAX} of {TAG_NCHARS_MAX} characters are allowed")
    document = {"comment": comment, "tags": list(tags)}
    note = hub.source(SOURCE).stream(name_of(source, stream))
    note.set_meta(document)
    # Streams without messages are listed once they are finished.
    note.finish()


def read(hub: Hub, source: str, stream: str) -> Note:
    """The note of a stream."""
    return understood(hub.source(SOURCE).stream(name_of(source, stream)).meta)


def understood(document: Any) -> Note:
    """A note from its document: what is not as we write it is left out.

    >>> understood({"comment": "good", "tags": ["a", 7]})
    ('good', ('a',))
    """
    if not isinstance(document, dict):
        return NONE
    comment, tags = document.get("comment"), document.get("tags")
    return (
        comment[:COMMENT_NCHARS_MAX] if isinstance(comment, str) else "",
        tuple(tag for tag in tags[:TAGS_MAX] if isinstance(tag, str))
        if isinstance(tags, list)
        else (),
    )


class Notes:
    """Which streams have notes, looked up together: most have none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, frozenset[str]]] = {}

    def of(self, node: str, hub: Hub, source: str, stream: str) -> Note:
        """The note of a stream; for threads."""
        name = name_of(source, stream)
        if name not in self._names(node, hub):
            return NONE
        return read(hub, source, stream)

    def forget(self, node: str, beamtime: str) -> None:
        """One has been written."""
        with self._lock:
            self._known.pop((node, beamtime), None)

    def _names(self, node: str, hub: Hub) -> frozenset[str]:
        key = (node, hub.beamtime)
        with self._lock:
            until_s, names = self._known.get(key, (0.0, frozenset()))
        if self._clock() < until_s:
            return names
        names = frozenset(row.stream for row in hub.source(SOURCE).streams().rows())
        with self._lock:
            while len(self._known) >= _BEAMTIMES_MAX:
                del self._known[next(iter(self._known))]
            self._known[key] = (self._clock() + _KEPT_S, names)
        return names
