"""Typed calls -> request targets, spelled as the official clients spell them: what `routes` parses.

Parameters that do not belong to a call, or have their default, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from beamstream.wire.asapo.calls import Call, Kind
from beamstream.wire.asapo.urls import escape

# Kind -> method and what comes before the "?"; `base` is the escaped beamtime, source and stream.
_PATHS: Final[dict[Kind, tuple[bytes, str]]] = {
    Kind.DISCOVER_RECEIVER: (b"GET", "/asapo-discovery/{version}/asapo-receiver"),
    Kind.DISCOVER_BROKER: (b"GET", "/asapo-discovery/{version}/asapo-broker"),
    Kind.DISCOVER_FILES: (b"GET", "/asapo-discovery/{version}/asapo-file-transfer"),
    Kind.VERSION: (b"GET", "/asapo-discovery/{version}/version"),
    Kind.DISCOVERY_HEALTH: (b"GET", "/asapo-discovery/health"),
    Kind.FOLDER: (b"POST", "/asapo-authorizer/{version}/folder"),
    Kind.INTROSPECT: (b"POST", "/asapo-authorizer/introspect"),
    Kind.CREATE_GROUP: (b"POST", "/{version}/creategroup"),
    Kind.NEXT: (b"GET", "{base}/{stream}/{group}/next"),
    Kind.LAST: (b"GET", "{base}/{stream}/0/last"),
    Kind.GROUPED_LAST: (b"GET", "{base}/{stream}/{group}/groupedlast"),
    Kind.BY_ID: (b"GET", "{base}/{stream}/0/{id}"),
    Kind.SIZE: (b"GET", "{base}/{stream}/size"),
    Kind.ACK_OR_NACK: (b"POST", "{base}/{stream}/{group}/{id}"),
    Kind.NACKS: (b"GET", "{base}/{stream}/{group}/nacks"),
    Kind.LAST_ACK: (b"GET", "{base}/{stream}/{group}/lastack"),
    Kind.RESET_COUNTER: (b"POST", "{base}/{stream}/{group}/resetcounter"),
    Kind.STREAMS: (b"GET", "{base}/0/streams"),
    Kind.SOURCES: (b"GET", "{base}/0/sources"),
    Kind.META: (b"GET", "{base}/{stream}/0/meta/1"),
    Kind.QUERY: (b"POST", "{base}/{stream}/0/querymessages"),
    Kind.DELETE: (b"POST", "{base}/{stream}/delete"),
    Kind.PERSIST: (b"POST", "{base}/{stream}/persist"),
    Kind.TRANSFER: (b"POST", "/{version}/transfer"),
    Kind.HEALTH: (b"GET", "/health"),
}
_BEAMTIME_META: Final = "{base}/default/0/meta/0"
_READS: Final = (Kind.NEXT, Kind.LAST, Kind.GROUPED_LAST, Kind.BY_ID)


def format_target(call: Call) -> tuple[bytes, bytes]:
    """Return the method and request target that make `call`.

    Raises
    ------
    BadName : a name with lone surrogates.

    >>> format_target(Call(kind=Kind.SIZE, version="v0.7", beamtime="b", stream="a/b", token="T"))
    (b'GET', b'/v0.7/beamtime/b/detector/a%2Fb/size?token=T')
    """
    method, path = _PATHS[call.kind]
    if call.kind is Kind.META and not call.stream:
        path = _BEAMTIME_META
    source = escape(call.source)
    filled = path.format(
        version=call.version,
        base=f"/{call.version}/beamtime/{escape(call.beamtime)}/{source}",
        stream=escape(call.stream),
        group=escape(call.group),
        id=call.id,
    )
    query = "&".join(f"{key}={escape(value)}" for key, value in _parameters(call) if value)
    return method, f"{filled}?{query}".rstrip("?").encode()


def _parameters(call: Call) -> Iterator[tuple[str, str]]:
    yield "token", call.token
    yield "instanceid", call.instance
    yield "pipelinestep", call.step
    match call.kind:
        case Kind.DISCOVER_RECEIVER | Kind.DISCOVER_BROKER | Kind.DISCOVER_FILES | Kind.VERSION:
            yield "client", call.client
            yield "protocol", call.protocol
        case kind if kind in _READS:
            yield from _reading(call)
        case Kind.SIZE:
            yield "incomplete", call.incomplete or ""
        case Kind.NACKS:
            yield "from", str(call.id_from)
            yield "to", str(call.id_to)
        case Kind.RESET_COUNTER:
            yield "value", str(call.value)
        case Kind.STREAMS:
            yield "from", call.from_stream
            yield "filter", call.filter
            yield "detailed", _bool(call.detailed)
            yield "single", "true" if call.single else ""
            yield "last", "true" if call.last else ""
        case Kind.TRANSFER:
            yield "beamtime", call.beamtime
            yield "stream", call.stream
            yield "source", call.address
            yield "sizeonly", "true" if call.size_only else ""


def _reading(call: Call) -> Iterator[tuple[str, str]]:
    if call.dataset:
        yield "dataset", "true"
    if call.dataset or call.min_size or call.substream:
        yield "minsize", str(call.min_size)
        yield "substream", str(call.substream)
    if call.resend:
        yield "resend_nacks", "true"
    if call.resend or call.delay_ms or call.attempts:
        yield "delay_ms", str(call.delay_ms)
        yield "resend_attempts", str(call.attempts)
    yield "id_key", "_id" if call.key_is_id else "time_id"


def _bool(value: bool) -> str:
    return "true" if value else "false"
