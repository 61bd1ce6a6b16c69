"""What ASAPO's HTTP services can be asked for, as types (protocol sections 3, 4, 6.1 and 8)."""

from __future__ import annotations

import enum

import msgspec

from beamstream.wire.asapo.credentials import AUTO, DEFAULT_SOURCE


class Kind(enum.Enum):
    """What an HTTP request asks for."""

    DISCOVER_RECEIVER = enum.auto()
    DISCOVER_BROKER = enum.auto()
    DISCOVER_FILES = enum.auto()
    VERSION = enum.auto()
    DISCOVERY_HEALTH = enum.auto()
    FOLDER = enum.auto()
    INTROSPECT = enum.auto()
    CREATE_GROUP = enum.auto()
    NEXT = enum.auto()
    LAST = enum.auto()
    GROUPED_LAST = enum.auto()
    BY_ID = enum.auto()
    SIZE = enum.auto()
    ACK_OR_NACK = enum.auto()
    NACKS = enum.auto()
    LAST_ACK = enum.auto()
    RESET_COUNTER = enum.auto()
    STREAMS = enum.auto()
    SOURCES = enum.auto()
    META = enum.auto()
    QUERY = enum.auto()
    DELETE = enum.auto()
    PERSIST = enum.auto()
    TRANSFER = enum.auto()
    HEALTH = enum.auto()


class Call(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One HTTP request without its body; what a request does not have keeps its default.

    Parameters
    ----------
    version : of the service's protocol, from the path.
    beamtime : `auto` when not given or empty.
    source : `detector` when not given or empty.
    stream : may be empty; always empty for `META` of a beamtime.
    group, id, token : from path and query.
    dataset, min_size, substream : datasets are asked for, with how many parts, or which one.
    key_is_id : read in the order of ids, not of arrival.
    resend, delay_ms, attempts : deliver again what was not acknowledged.
    incomplete : "true" or "false" when datasets are to be counted, None when items are.
    id_from, id_to : both inclusive, 0 for open.
    value : new position of a group.
    filter : "all", "finished" or "unfinished".
    detailed, single, last, from_stream : of the list of streams.
    protocol, client : of discovery; `client` is "consumer", "producer" or empty.
    size_only : the size of a file is asked for, not the file.
    address : of the data server that a record named (file transfer).
    instance, step : who asks, as it says.
    """

    kind: Kind
    version: str = ""
    beamtime: str = AUTO
    source: str = DEFAULT_SOURCE
    stream: str = ""
    group: str = ""
    id: int = 0
    token: str = ""
    dataset: bool = False
    min_size: int = 0
    substream: int = 0
    key_is_id: bool = True
    resend: bool = False
    delay_ms: int = 0
    attempts: int = 0
    incomplete: str | None = None
    id_from: int = 0
    id_to: int = 0
    value: int = 0
    filter: str = "all"
    detailed: bool = True
    single: bool = False
    last: bool = False
    from_stream: str = ""
    protocol: str = ""
    client: str = ""
    size_only: bool = False
    address: str = ""
    instance: str = ""
    step: str = ""

    def __repr__(self) -> str:
        return f"<Call {self.kind.name} {self.beamtime}/{self.source}/{self.stream} {self.id}>"
