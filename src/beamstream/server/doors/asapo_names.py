"""Names for readers of ASAPO of messages that have none: ``source/stream/id``, escaped.

Their clients ask for the payload by name when it has left the cache.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from beamstream import limits
from beamstream.model import Dataset, Item, Record
from beamstream.server.streams import View

_NAME: Final = re.compile(r"([^/]+)/([^/]+)/([1-9][0-9]{0,18})(?:\.([1-9][0-9]{0,9}))?")


class Named(NamedTuple):
    source: str
    stream: str
    id: int
    substream: int


def virtual_name(source: str, stream: str, id: int, substream: int = 0) -> str:
    """The name of a message without one.

    >>> virtual_name("eiger", "scan 1/a", 7), virtual_name("..", "s", 1, 2)
    ('eiger/scan%201%2Fa/7', '%2E./s/1.2')
    """
    part = f"{id}.{substream}" if substream else str(id)
    return f"{_escaped(source)}/{_escaped(stream)}/{part}"


def parse_virtual_name(name: str) -> Named | None:
    """What a virtual name stands for; None if it is not one.

    >>> parse_virtual_name("eiger/scan%201%2Fa/7")
    Named(source='eiger', stream='scan 1/a', id=7, substream=0)
    """
    found = _NAME.fullmatch(name)
    if found is None or int(found[3]) > limits.ID_MAX:
        return None
    return Named(unquote(found[1]), unquote(found[2]), int(found[3]), int(found[4] or 0))


def named(item: Item, view: View) -> Item:
    """The item as readers of ASAPO get it: with a name for each message."""
    if isinstance(item, Record):
        return named_record(item, view)
    if all(part.name for part in item.parts):
        return item
    parts = tuple([named_record(part, view) for part in item.parts])
    return Dataset(item.seq, item.id, item.expected, item.ready_seq, parts)


def named_record(record: Record, view: View) -> Record:
    if record.name:
        return record
    name = virtual_name(view.source, view.name, record.id, record.substream)
    return msgspec.structs.replace(record, name=name)


def _escaped(name: str) -> str:
    escaped = quote(name, safe="-_~.")
    # Clients join names to a folder.
    return f"%2E{escaped[1:]}" if escaped.startswith(".") else escaped
