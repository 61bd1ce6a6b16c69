"""A node as the commands use it: connected by options or environment, asked by address."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from beamstream.cli.options import Node, Usage
from beamstream.cli.terminal import show_moment, show_nbytes
from beamstream.client.native import hub as native
from beamstream.client.native import lookup
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.client.native.stream import explain
from beamstream.client.native.writer import to_level
from beamstream.errors import BadInput, NotFound
from beamstream.wire import address
from beamstream.wire.address import Address, Pattern, TimeRange
from beamstream.wire.native import calls
from beamstream.wire.payload import ArrayInfo, unpack_info

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.stream import Stream

Found = Message | DatasetMessage

PATIENCE_S: Final = 5.0
"""How long a command that somebody waits for bears with a node that is away."""

SINGLY: Final = 8
"""From this step on ids are fetched one by one, not by the page."""

_SENTENCE_NCHARS: Final = 200


@contextlib.contextmanager
def connect(
    node: Node, beamtime: str = "", *, patience_s: float = PATIENCE_S, step: str = "cli"
) -> Iterator[Remote]:
    """Connect to the node that is meant; `beamtime` is that of an address, if it names one.

    Raises
    ------
    Usage : the address and --beamtime differ.
    ConnectionLost, TimedOut, NotFound : there is no node.
    """
    if beamtime and node.beamtime not in ("", beamtime):
        raise Usage(f"the address is of beamtime {beamtime}, --beamtime says {node.beamtime}")
    connected = native.connect(
        node.url,
        beamtime=beamtime or node.beamtime,
        token=node.token,
        patience=patience_s,
        step=step,
    )
    with connected as hub:
        yield Remote(hub)


class Remote:
    """Questions to a node, by address."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def stream(self, asked: Address) -> Stream:
        return self.hub.source(asked.source).stream(asked.stream)

    # ------------------------------------------------------------------ streams

    def streams(self, wanted: Pattern) -> list[calls.StreamRow]:
        """Streams that match, by source and name."""
        rows = [row for row in self.hub.streams() if wanted.matches(row.source, row.stream)]
        return sorted(rows, key=lambda row: (row.source, row.created_ns, row.stream))

    def row(self, asked: Address) -> calls.StreamRow:
        """What is known of a stream.

        Raises
        ------
        NotFound : it does not exist; the text has names that are like it.
        """
        row = self.stream(asked).info()
        if row is None:
            raise NotFound(explain(self.hub, asked.source, asked.stream))
        return row

    def meta(self, asked: Address) -> dict[str, Any] | None:
        return self.stream(asked).meta

    def gaps(self, asked: Address, limit: int) -> tuple[calls.Ranges, bool]:
        """Missing ids, and whether there are more of them."""
        ids = self.ids(asked)
        found: calls.GapRows = self.hub._call(
            calls.ListGaps(**_of(asked), lo=ids.start, hi=ids.stop, limit=limit)
        )
        return found.gaps, found.more

    def verify(self, asked: Address, lo: int, hi: int) -> calls.Verified:
        found: calls.Verified = self.hub._call(calls.Verify(**_of(asked), lo=lo, hi=hi))
        return found

    def delete(self, asked: Address, *, files: bool) -> int:
        """Forget a stream; how many files were removed."""
        return self.stream(asked).delete(files=files)

    # ------------------------------------------------------------------ messages

    def ids(self, asked: Address) -> range:
        """The ids that an address means now."""
        last = self.row(asked).max_id
        if asked.range is None:
            return range(1, last + 1)
        if not isinstance(asked.range, TimeRange):
            return asked.range.resolve(last)
        start_ns, stop_ns = asked.range.start_ns, asked.range.stop_ns
        lo = 1 if start_ns is None else self._first_since(asked, start_ns, last)
        hi = last + 1 if stop_ns is None else self._first_since(asked, stop_ns, last)
        return range(lo, max(lo, hi))

    def _first_since(self, asked: Address, since_ns: int, last: int) -> int:
        """The smallest id that came at that time or later, by halving: ids grow with time."""
        lo, hi = 1, last + 1
        while lo < hi:
            middle = (lo + hi) // 2
            found = self._first_from(asked, middle)
            if found is None or time_ns(found) >= since_ns:
                hi = middle
            else:
                lo = found.id + 1
        return lo

    def _first_from(self, asked: Address, id: int) -> Found | None:
        fetched, body = self.hub._call_body(
            calls.Fetch(**_of(asked), lo=id, hi=2**62, limit=1, payloads=False)
        )
        found = lookup.messages(asked.source, asked.stream, fetched, body)
        return found[0] if found else None

    def messages(self, asked: Address, *, payloads: bool = True) -> Iterator[Found]:
        """The messages that an address means, by id, as far as they are there."""
        ids = self.ids(asked)
        runs = [ids] if ids.step < SINGLY else (range(id, id + 1) for id in ids)
        for run in runs:
            yield from lookup.pages(self.hub, asked.source, asked.stream, run, payloads=payloads)

    def last(self, asked: Address) -> Found | None:
        """The message with the largest id, without payload; None if there is none."""
        fetched, body = self.hub._call_body(calls.FetchLast(**_of(asked), payloads=False))
        found = lookup.messages(asked.source, asked.stream, fetched, body)
        return found[-1] if found else None

    def search(self, asked: Address, query: str, limit: int) -> Iterator[Found]:
        """Messages whose metadata match, without payloads, up to `limit`."""
        after = 0
        while limit > 0:
            fetched, body = self.hub._call_body(
                calls.Search(**_of(asked), query=query, after_id=after, limit=min(limit, 1000))
            )
            found = lookup.messages(asked.source, asked.stream, fetched, body)
            yield from found
            limit -= len(found)
            if not fetched.more or not found:
                return
            after = max(message.id for message in found)

    # ------------------------------------------------------------------ groups

    def groups(self, source: str = "", stream: str = "") -> list[calls.GroupRow]:
        """Groups of a stream, of a source, or all."""
        rows: list[calls.GroupRow] = self.hub._call(calls.ListGroups(source=source, stream=stream))
        return sorted(rows, key=lambda row: (row.source, row.stream, row.group))

    def group(self, asked: Address, name: str) -> calls.GroupRow:
        """What is known of a group.

        Raises
        ------
        NotFound : nobody has used it.
        """
        row: calls.GroupRow | None = self.hub._call(calls.GetGroup(**_of(asked), group=name))
        if row is None:
            self.row(asked)
            names = [row.group for row in self.groups(asked.source, asked.stream)]
            there = ", ".join(names[:10]) or "none"
            raise NotFound(
                f"stream {path_of(asked.source, asked.stream)} has no group {name!r}",
                hint=f"there are: {there}",
            )
        return row


def _of(asked: Address) -> dict[str, Any]:
    return {"source": asked.source, "stream": asked.stream}


# ------------------------------------------------------------------------------ addresses


def address_of(text: str) -> Address:
    """Read an address as it is typed here: times are of this machine's zone."""
    try:
        return address.parse(text, now=datetime.now().astimezone())
    except BadInput as error:
        raise Usage(error.message, hint=error.hint) from None


def pattern_of(text: str) -> Pattern:
    """Read an address with stars; a source alone means all of its streams."""
    whole = text if "/" in text else f"{text}/*"
    try:
        return address.parse_pattern(whole, now=datetime.now().astimezone())
    except BadInput as error:
        raise Usage(error.message, hint=error.hint) from None


def level_of(text: str) -> str | None:
    """Read a durability level; None for none, which is the node's."""
    try:
        to_level(text or None)
    except BadInput as error:
        raise Usage(f"--level: {error.message}", hint=error.hint) from None
    return text or None


def no_range(asked: Address) -> None:
    """Raise `Usage` if messages of a stream are meant where only a whole one can be."""
    if asked.range is not None:
        raise Usage(f"{asked} are some messages; this is done to a whole stream")


def path_of(source: str, stream: str, id: int = 0) -> str:
    """An address that `beamstream get` takes.

    >>> path_of("eiger", "scan 1", 7)
    'eiger/scan%201[7]'
    """
    path = str(Address("", source, stream))
    return f"{path}[{id}]" if id else path


# ------------------------------------------------------------------------------- messages


def time_ns(found: Found) -> int:
    """When it came; of a dataset its first part."""
    if isinstance(found, Message):
        return found.timestamp_ns
    return min(part.timestamp_ns for part in found.parts)


def info_of(message: Message) -> ArrayInfo | None:
    """What array a message holds, as its writer said."""
    return unpack_info(message._columns.info(message._item))


def described(found: Found) -> dict[str, Any]:
    """A message as JSON has it."""
    where = {"address": path_of(found.source, found.stream, found.id), "id": found.id}
    if isinstance(found, DatasetMessage):
        parts = [{"substream": part.substream, **_described(part)} for part in found.parts]
        return {**where, "seq": found.seq, "expected": found.expected, "parts": parts}
    return {**where, "seq": found.seq, **_described(found)}


def _described(message: Message) -> dict[str, Any]:
    info = info_of(message)
    array = None
    if info is not None:
        array = {"dtype": info.dtype, "shape": list(info.shape), "codec": info.codec}
    return {
        "name": message.name,
        "nbytes": message.size,
        "time": show_moment(message.timestamp_ns),
        "array": array,
        "meta": message.meta,
    }


def sentence(found: Found) -> str:
    """A message in a line."""
    if isinstance(found, DatasetMessage):
        return f"{found.id}: {len(found)} of {found.expected} parts"
    meta = json_text(found.meta) if found.meta else ""
    info = info_of(found)
    what = f"{info.dtype}{list(info.shape)}" if info is not None else found.name
    words: Sequence[str] = (f"{found.id}:", show_nbytes(found.size), what, meta)
    return " ".join(word for word in words if word)


def json_text(document: Any) -> str:
    """JSON in one line, not longer than a person reads."""
    text = json.dumps(document, ensure_ascii=False)
    return text if len(text) <= _SENTENCE_NCHARS else f"{text[:_SENTENCE_NCHARS]}…"
