"""Request targets of ASAPO's HTTP services -> typed calls.

Protocol sections 3, 4, 6.1 and 8. The raw path is split at ``/`` before anything is unescaped, each
segment is unescaped once, and nothing is normalised: ``..`` and ``%2F`` are parts of names. The
services may be addressed with the prefix their clients use (``/asapo-discovery/v0.1/…``) or, as the
original's are behind its proxy, without.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from beamstream import limits
from beamstream.errors import BadName, RemoteProtocolError
from beamstream.model import check_beamtime, check_label
from beamstream.wire.asapo.calls import Call, Kind
from beamstream.wire.asapo.credentials import AUTO, DEFAULT_SOURCE
from beamstream.wire.asapo.structs import parse_version
from beamstream.wire.asapo.urls import (
    HttpError,
    Params,
    flag,
    number,
    parse_id,
    shown,
    split_query,
    text,
    unescape,
)

__all__ = ["SUPPORTED_PROTOCOLS", "Call", "HttpError", "Kind", "is_asapo", "parse_target"]

SUPPORTED_PROTOCOLS: Final = ("v0.7", "v0.5")
"""Client protocols of 25.3 and 21.12."""

_CACHED_NBYTES_MAX: Final = 2048
_CACHED_CALLS: Final = 1024

# 21.12 knew these limits, and its clients are told of them in its words.
_OLD_BROKER: Final = (0, 5)
_OLD_STREAM_NBYTES_MAX: Final = 100
_OLD_GROUP_NBYTES_MAX: Final = 50


def is_asapo(target: bytes) -> bool:
    """Tell whether a request target belongs to ASAPO's services, good or bad.

    >>> is_asapo(b"/v0.7/creategroup?token=T"), is_asapo(b"/ui/")
    (True, False)
    """
    head = target.partition(b"?")[0][1:].partition(b"/")[0]
    return target[:1] == b"/" and (head[:1] == b"v" or head in _PLAIN_HEADS)


def parse_target(method: bytes, target: bytes) -> Call:
    """Return the call that an HTTP request line makes.

    Raises
    ------
    HttpError : 404 unknown route, 405 wrong method, 400 bad number, name or version text,
        415 a version that is newer than ours.

    >>> parse_target(b"GET", b"/v0.7/beamtime/bt1/src1/a%2Fb/g/next?token=T").stream
    'a/b'
    """
    if len(target) <= _CACHED_NBYTES_MAX:
        return _parse_cached(method, target)
    if len(target) > limits.HTTP_LINE_NBYTES_MAX:
        raise HttpError(400, "request target is too long")
    return _parse(method, target)


_PREFIXES: Final = (b"asapo-discovery", b"asapo-authorizer")

# (prefix, name) -> method, kind. Reached as /prefix/name.
_PLAIN: Final[dict[tuple[bytes, bytes], tuple[bytes, Kind]]] = {
    (b"", b"health"): (b"GET", Kind.HEALTH),
    (b"", b"health-check"): (b"GET", Kind.HEALTH),
    (b"", b"introspect"): (b"POST", Kind.INTROSPECT),
    (b"asapo-discovery", b"health"): (b"GET", Kind.DISCOVERY_HEALTH),
    (b"asapo-authorizer", b"health-check"): (b"GET", Kind.HEALTH),
    (b"asapo-authorizer", b"introspect"): (b"POST", Kind.INTROSPECT),
}
_PLAIN_HEADS: Final = frozenset([*_PREFIXES, *(name for prefix, name in _PLAIN if not prefix)])

# name -> prefix, method, kind, newest version. Reached as /[prefix/]version/name.
_SERVICES: Final[dict[bytes, tuple[bytes, bytes, Kind, tuple[int, int]]]] = {
    b"asapo-receiver": (b"asapo-discovery", b"GET", Kind.DISCOVER_RECEIVER, (0, 1)),
    b"asapo-broker": (b"asapo-discovery", b"GET", Kind.DISCOVER_BROKER, (0, 1)),
    b"asapo-file-transfer": (b"asapo-discovery", b"GET", Kind.DISCOVER_FILES, (0, 1)),
    b"version": (b"asapo-discovery", b"GET", Kind.VERSION, (0, 1)),
    b"folder": (b"asapo-authorizer", b"POST", Kind.FOLDER, (0, 2)),
    b"transfer": (b"", b"POST", Kind.TRANSFER, (0, 2)),
    b"creategroup": (b"", b"POST", Kind.CREATE_GROUP, (0, 7)),
}
_NEWEST_BROKER: Final = (0, 7)

# What may follow the source, by the number of segments and the last of them: method, kind, and
# which of "stream" and "group" the segments before stand for (None: must be "0").
_TAILS: Final[dict[tuple[int, bytes], tuple[bytes, Kind, tuple[str | None, ...]]]] = {
    (2, b"size"): (b"GET", Kind.SIZE, ("stream",)),
    (2, b"delete"): (b"POST", Kind.DELETE, ("stream",)),
    (2, b"persist"): (b"POST", Kind.PERSIST, ("stream",)),
    (2, b"streams"): (b"GET", Kind.STREAMS, (None,)),
    (2, b"sources"): (b"GET", Kind.SOURCES, (None,)),
    (3, b"next"): (b"GET", Kind.NEXT, ("stream", "group")),
    (3, b"last"): (b"GET", Kind.LAST, ("stream", None)),
    (3, b"groupedlast"): (b"GET", Kind.GROUPED_LAST, ("stream", "group")),
    (3, b"nacks"): (b"GET", Kind.NACKS, ("stream", "group")),
    (3, b"lastack"): (b"GET", Kind.LAST_ACK, ("stream", "group")),
    (3, b"resetcounter"): (b"POST", Kind.RESET_COUNTER, ("stream", "group")),
    (3, b"querymessages"): (b"POST", Kind.QUERY, ("stream", None)),
}
_GROUPED: Final = (b"next", b"groupedlast", b"nacks", b"lastack", b"resetcounter")


@functools.lru_cache(maxsize=_CACHED_CALLS)
def _parse_cached(method: bytes, target: bytes) -> Call:
    return _parse(method, target)


def _parse(method: bytes, target: bytes) -> Call:
    path, _, query = target.partition(b"?")
    root, *segments = path.split(b"/")
    if root or not segments:
        raise _unknown()
    prefix = b""
    if segments[0] in _PREFIXES:
        prefix = segments.pop(0)
    params = split_query(query)
    match segments:
        case [name] if (prefix, name) in _PLAIN:
            wanted, kind = _PLAIN[prefix, name]
            _check_method(method, wanted)
            return Call(kind=kind)
        case [version, name] if name in _SERVICES and prefix in (b"", _SERVICES[name][0]):
            return _service(method, version, name, params)
        case [version, b"beamtime", beamtime, source, *tail] if not prefix:
            return _broker(method, version, beamtime, source, tail, params)
        case _:
            raise _unknown()


def _service(method: bytes, version: bytes, name: bytes, params: Params) -> Call:
    _, wanted, kind, newest = _SERVICES[name]
    _check_method(method, wanted)
    given = {"kind": kind, "version": _check_version(version, newest), **_common(params)}
    match kind:
        case Kind.DISCOVER_RECEIVER | Kind.DISCOVER_BROKER | Kind.DISCOVER_FILES:
            protocol = text(params, b"protocol")
            if not protocol:
                raise HttpError(400, "cannot extract protocol from request")
            if protocol not in SUPPORTED_PROTOCOLS:
                raise HttpError(415, "unknown protocol")
            return Call(**given, protocol=protocol)
        case Kind.VERSION:
            client, protocol = text(params, b"client"), text(params, b"protocol")
            return Call(**given, client=client, protocol=protocol)
        case Kind.TRANSFER:
            return Call(
                **given,
                beamtime=text(params, b"beamtime"),
                stream=text(params, b"stream"),
                address=text(params, b"source"),
                size_only=flag(params, b"sizeonly"),
            )
        case Kind.CREATE_GROUP:
            _check_token(given)
    return Call(**given)


def _broker(
    method: bytes,
    version: bytes,
    beamtime: bytes,
    source: bytes,
    tail: list[bytes],
    params: Params,
) -> Call:
    checked = _check_version(version, _NEWEST_BROKER)
    wanted, given = _tail(method, tail)
    _check_method(method, wanted)
    given |= {"version": checked, **_common(params)}
    _check_token(given)
    given["beamtime"] = unescape(beamtime) or AUTO
    given["source"] = unescape(source) or DEFAULT_SOURCE
    _check_names(given)
    match given["kind"]:
        case Kind.NEXT | Kind.LAST | Kind.GROUPED_LAST | Kind.BY_ID:
            given |= _reading(params)
        case Kind.SIZE:
            given["incomplete"] = _incomplete(params)
        case Kind.NACKS:
            given["id_from"] = number(params, b"from")
            given["id_to"] = number(params, b"to")
            if 0 < given["id_to"] < given["id_from"]:
                raise HttpError(503, "from index is greater than to index")
        case Kind.RESET_COUNTER:
            given["value"] = number(params, b"value")
        case Kind.STREAMS:
            given |= _listing(params)
    return Call(**given)


# The values of `Call`'s fields by name; mypy cannot know them, `Call` has tests of its own.
_Given = dict[str, Any]


def _tail(method: bytes, tail: list[bytes]) -> tuple[bytes, _Given]:
    """Method wanted by, and fields of, what follows the source."""
    found = _TAILS.get((len(tail), tail[-1])) if tail else None
    if found:
        wanted, kind, roles = found
        given: _Given = {"kind": kind}
        for role, segment in zip(roles, tail, strict=False):
            if role:
                given[role] = unescape(segment)
            elif segment != b"0":
                raise _unknown()
        if given.get("group") == "":
            raise HttpError(400, "group id must not be empty")
        return wanted, given
    match tail:
        case [stream, b"0", b"meta", which]:
            return b"GET", {"kind": Kind.META, "stream": _meta_stream(stream, which)}
        case [stream, group, id] if method == b"POST":
            given = {"stream": unescape(stream), "group": unescape(group)}
            if not given["group"]:
                raise HttpError(400, "group id must not be empty")
            return b"POST", {"kind": Kind.ACK_OR_NACK, "id": parse_id(id), **given}
        case [stream, b"0", id]:
            return b"GET", {"kind": Kind.BY_ID, "stream": unescape(stream), "id": parse_id(id)}
        case [_, last] if last in _GROUPED or last.isdigit():
            # An empty group id collapses the path.
            raise HttpError(400, "group id must not be empty")
        case _:
            raise _unknown()


def _meta_stream(stream: bytes, which: bytes) -> str:
    if which == b"0":
        return ""
    if which != b"1":
        raise HttpError(400, "wrong meta type")
    if not stream:
        raise HttpError(400, "stream name must not be empty")
    return unescape(stream)


def _common(params: Params) -> _Given:
    return {
        "token": text(params, b"token"),
        "instance": text(params, b"instanceid"),
        "step": text(params, b"pipelinestep"),
    }


def _reading(params: Params) -> _Given:
    key = params.get(b"id_key", b"_id")
    if key not in (b"_id", b"time_id"):
        raise HttpError(400, f"wrong id_key {shown(key)}, _id and time_id are known")
    return {
        "dataset": flag(params, b"dataset"),
        "min_size": number(params, b"minsize"),
        "substream": number(params, b"substream"),
        "key_is_id": key == b"_id",
        "resend": flag(params, b"resend_nacks"),
        "delay_ms": number(params, b"delay_ms"),
        "attempts": number(params, b"resend_attempts"),
    }


def _listing(params: Params) -> _Given:
    wanted = params.get(b"filter") or b"all"
    if wanted not in (b"all", b"finished", b"unfinished"):
        raise HttpError(409, f"getStreamsParamsFromRequest: wrong streamStatus {shown(wanted)}")
    return {
        "filter": wanted.decode(),
        "detailed": flag(params, b"detailed", default=True),
        "single": flag(params, b"single"),
        "last": flag(params, b"last"),
        "from_stream": text(params, b"from"),
    }


def _incomplete(params: Params) -> str | None:
    value = params.get(b"incomplete")
    if value is not None and value not in (b"true", b"false"):
        raise HttpError(400, f"wrong incomplete {shown(value)}, true and false are known")
    return None if value is None else value.decode()


def _check_names(given: _Given) -> None:
    old = parse_version(given["version"]) <= _OLD_BROKER
    stream, group = given.get("stream", ""), given.get("group", "")
    stream_max = _OLD_STREAM_NBYTES_MAX if old else limits.STREAM_NBYTES_MAX
    group_max = _OLD_GROUP_NBYTES_MAX if old else limits.GROUP_NBYTES_MAX
    if len(stream.encode()) > stream_max:
        raise HttpError(400, "stream name is too long")
    if len(group.encode()) > group_max:
        raise HttpError(400, "group id is too long")
    try:
        if given["beamtime"] != AUTO:
            check_beamtime(given["beamtime"])
        check_label("source", given["source"], limits.SOURCE_NBYTES_MAX)
        if stream:
            check_label("stream", stream, stream_max)
        if group:
            check_label("group", group, group_max)
    except BadName as error:
        raise HttpError(400, str(error)) from None


def _check_token(given: _Given) -> None:
    if not given["token"]:
        raise HttpError(400, "cannot extract token from request")


def _check_method(method: bytes, wanted: bytes) -> None:
    if method != wanted:
        raise HttpError(405, f"method not allowed, use {wanted.decode()}")


def _check_version(segment: bytes, newest: tuple[int, int]) -> str:
    try:
        version = segment.decode()
        number = parse_version(version)
    except (UnicodeDecodeError, RemoteProtocolError):
        raise HttpError(400, "cannot parse version") from None
    if number > newest:
        raise HttpError(415, "version not supported")
    return version


def _unknown() -> HttpError:
    return HttpError(404, "not found")
