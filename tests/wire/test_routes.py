from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import BadName
from beamstream.wire.asapo.routes import Call, HttpError, Kind, is_asapo, parse_target
from beamstream.wire.asapo.targets import format_target
from beamstream.wire.asapo.urls import escape, unescape

B = b"/v0.7/beamtime/bt1/src1"
OLD = b"/v0.5/beamtime/bt1/src1"


def get(target: bytes) -> Call:
    return parse_target(b"GET", target)


def post(target: bytes) -> Call:
    return parse_target(b"POST", target)


def outcome(method: bytes, target: bytes) -> Call | HttpError:
    try:
        return parse_target(method, target)
    except HttpError as error:
        return error


def refusal(method: bytes, target: bytes) -> tuple[int, str]:
    with pytest.raises(HttpError) as caught:
        parse_target(method, target)
    return caught.value.status, caught.value.text


# ------------------------------------------------------------------------ both directions

_REFUSED = '"\\\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069'
names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=_REFUSED),
    min_size=1,
    max_size=60,
)
ids = st.integers(0, limits.ID_MAX)
small = st.integers(0, 70_000)
who = {"token": names, "instance": st.just("") | names, "step": st.just("") | names}
place: dict[str, st.SearchStrategy[Any]] = {
    **who,
    "version": st.sampled_from(["v0.7", "v0.6"]),
    "beamtime": st.sampled_from(["auto", "bt1", "11012345", "A.b-c_9"]),
    "source": names,
}
stream = {**place, "stream": names}
group = {**stream, "group": names}
reading = {
    "dataset": st.booleans(),
    "min_size": small,
    "substream": small,
    "key_is_id": st.booleans(),
    "resend": st.booleans(),
    "delay_ms": ids,
    "attempts": small,
}
discovery = {
    **who,
    "version": st.just("v0.1"),
    "protocol": st.sampled_from(["v0.7", "v0.5"]),
}
listing = {
    "filter": st.sampled_from(["all", "finished", "unfinished"]),
    "detailed": st.booleans(),
    "single": st.booleans(),
    "last": st.booleans(),
    "from_stream": st.just("") | names,
}
transfer = {
    **who,
    "version": st.sampled_from(["v0.1", "v0.2"]),
    "beamtime": st.just("") | names,
    "stream": st.just("") | names,
    "address": st.sampled_from(["", "10.0.0.1:8402", "[::1]:8402"]),
    "size_only": st.booleans(),
}
FIELDS: dict[Kind, dict[str, st.SearchStrategy[Any]]] = {
    Kind.DISCOVER_RECEIVER: discovery,
    Kind.DISCOVER_BROKER: discovery,
    Kind.DISCOVER_FILES: discovery,
    Kind.VERSION: {**discovery, "client": st.sampled_from(["", "consumer", "producer"])},
    Kind.DISCOVERY_HEALTH: {},
    Kind.FOLDER: {**who, "version": st.sampled_from(["v0.1", "v0.2"])},
    Kind.INTROSPECT: {},
    Kind.CREATE_GROUP: {**who, "version": st.sampled_from(["v0.5", "v0.7"])},
    Kind.NEXT: {**group, **reading},
    Kind.LAST: {**stream, **reading},
    Kind.GROUPED_LAST: {**group, **reading},
    Kind.BY_ID: {**stream, **reading, "id": ids},
    Kind.SIZE: {**stream, "incomplete": st.sampled_from([None, "true", "false"])},
    Kind.ACK_OR_NACK: {**group, "id": ids},
    Kind.NACKS: {**group, "id_from": st.integers(0, 50), "id_to": st.just(0) | st.integers(50)},
    Kind.LAST_ACK: group,
    Kind.RESET_COUNTER: {**group, "value": ids},
    Kind.STREAMS: {**place, **listing},
    Kind.SOURCES: place,
    Kind.META: {**place, "stream": st.just("") | names},
    Kind.QUERY: stream,
    Kind.DELETE: stream,
    Kind.PERSIST: stream,
    Kind.TRANSFER: transfer,
    Kind.HEALTH: {},
}
FIELDS[Kind.NACKS]["id_to"] = st.just(0) | st.integers(50, limits.ID_MAX)
calls = st.sampled_from(list(Kind)).flatmap(
    lambda kind: st.fixed_dictionaries(FIELDS[kind]).map(lambda given: Call(kind=kind, **given))
)


def test_every_kind_is_covered() -> None:
    assert set(FIELDS) == set(Kind)


@given(calls)
def test_what_a_client_asks_a_server_understands(call: Call) -> None:
    method, target = format_target(call)
    assert parse_target(method, target) == call
    assert is_asapo(target)
    assert re.fullmatch(rb"[A-Za-z0-9-._~%/?&=]+", target)
    other = b"POST" if method == b"GET" else b"GET"
    found = outcome(other, target)
    if isinstance(found, HttpError):
        assert found.status in (400, 404, 405)
    else:
        assert found.kind is not call.kind


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escapes_are_undone_once(text: str) -> None:
    assert unescape(escape(text).encode()) == text
    assert unescape(escape(escape(text)).encode()) == escape(text)


def test_names_that_cannot_be_sent() -> None:
    with pytest.raises(BadName):
        escape("\ud800")


# ------------------------------------------------------------------------------- any bytes

pieces = st.sampled_from(
    [
        *(b"/", b"?", b"&", b"=", b"%", b"%2F", b"%00", b"..", b"v0.7", b"v0.5", b"v0.1", b"v9.9"),
        *(b"beamtime", b"bt1", b"src1", b"0", b"1", b"next", b"last", b"size", b"streams", b"meta"),
        *(b"asapo-discovery", b"asapo-authorizer", b"version", b"folder", b"transfer", b"health"),
        *(b"token=T", b"id_key=_id", b"minsize=", b"from=", b"to=1", b"filter=", b"protocol=v0.7"),
        *(b"9" * 19, b"9" * 20, b"-1", b"\xff", b"creategroup", b"asapo-broker", b"groupedlast"),
    ]
)
targets = st.binary(max_size=60) | st.lists(pieces | st.binary(max_size=3), max_size=25).map(
    lambda parts: b"/" + b"".join(parts)
)
deep = st.lists(pieces, max_size=6).map(
    lambda parts: B + b"/" + b"/".join(parts) + b"?token=T&minsize=x"
)


@given(st.sampled_from([b"GET", b"POST", b"HEAD", b"", b"\xff"]), targets | deep)
def test_any_target_is_a_call_or_an_http_error(method: bytes, target: bytes) -> None:
    found = outcome(method, target)
    if isinstance(found, HttpError):
        assert found.status in (400, 404, 405, 409, 415, 503)
        assert found.text
        assert found.text.isprintable()
    else:
        assert is_asapo(target)
        assert parse_target(*format_target(found)) == found


# -------------------------------------------------------------------------------- examples

EXAMPLES: list[tuple[bytes, bytes, dict[str, Any]]] = [
    (
        b"GET",
        B + b"/a%20b%2Fc%25d%3F%C3%A9/g%2F%20%251/next?token=T&instanceid=i&pipelinestep=p%20q",
        {"kind": Kind.NEXT, "stream": "a b/c%d?é", "group": "g/ %1", "step": "p q", "token": "T"},
    ),
    (
        b"GET",
        B + b"/s/r/next?token=T&resend_nacks=true&delay_ms=1000&resend_attempts=3&id_key=time_id",
        {"resend": True, "delay_ms": 1000, "attempts": 3, "key_is_id": False, "dataset": False},
    ),
    (
        b"GET",
        B + b"/d/0/1?token=T&dataset=true&minsize=2&substream=7",
        {"kind": Kind.BY_ID, "id": 1, "dataset": True, "min_size": 2, "substream": 7, "group": ""},
    ),
    (b"GET", B + b"/../0/last?token=T", {"kind": Kind.LAST, "stream": ".."}),
    (b"GET", b"/v0.7/beamtime/bt1/%2E%2E%2Fx/0/streams?token=T", {"source": "../x"}),
    (b"GET", B + b"//size?token=T", {"kind": Kind.SIZE, "stream": "", "incomplete": None}),
    (b"GET", B + b"/a+b/size?token=T&incomplete=false", {"stream": "a+b", "incomplete": "false"}),
    (b"GET", B + b"/0/0/last?token=T", {"kind": Kind.LAST, "stream": "0"}),
    (b"GET", B + b"/streams/size?token=T", {"kind": Kind.SIZE, "stream": "streams"}),
    (b"GET", B + b"/next/next/next?token=T", {"kind": Kind.NEXT, "stream": "next"}),
    (b"POST", B + b"//delete?token=T", {"kind": Kind.DELETE, "stream": ""}),
    (
        b"GET",
        b"/v0.7/beamtime/auto//0/streams?token=T&single=true&detailed=true&from=a%2Fb",
        {"beamtime": "auto", "source": "detector", "single": True, "from_stream": "a/b"},
    ),
    (b"GET", b"/v0.7/beamtime//s/0/sources?token=T", {"beamtime": "auto", "kind": Kind.SOURCES}),
    (b"GET", OLD + b"/0/streams?token=T", {"detailed": True, "filter": "all", "single": False}),
    (b"GET", B + b"/default/0/meta/0?token=T", {"kind": Kind.META, "stream": ""}),
    (b"GET", B + b"/default/0/meta/1?token=T", {"kind": Kind.META, "stream": "default"}),
    (b"GET", B + b"/s/g/nacks?token=T&from=5&to=0", {"id_from": 5, "id_to": 0}),
    (b"POST", B + b"/s/g/resetcounter?token=T&value=7", {"value": 7, "group": "g"}),
    (b"POST", B + b"/s/0/5?token=T", {"kind": Kind.ACK_OR_NACK, "group": "0", "id": 5}),
    (
        b"POST",
        b"/v0.2/transfer?token=T&beamtime=bt1&stream=s&source=127.0.0.1%3A28542",
        {"kind": Kind.TRANSFER, "address": "127.0.0.1:28542", "beamtime": "bt1", "stream": "s"},
    ),
    (b"POST", b"/v0.2/transfer", {"kind": Kind.TRANSFER, "token": "", "size_only": False}),
    (b"GET", B + b"/s/size?token=a%2Bb&token=c", {"token": "a+b"}),
    (b"GET", b"/v0.1/version", {"kind": Kind.VERSION, "client": "", "protocol": ""}),
]


@pytest.mark.parametrize(("method", "target", "fields"), EXAMPLES)
def test_examples(method: bytes, target: bytes, fields: dict[str, Any]) -> None:
    call = parse_target(method, target)
    assert {name: getattr(call, name) for name in fields} == fields


REFUSED: list[tuple[bytes, bytes, int, str]] = [
    (b"GET", b"", 404, ""),
    (b"GET", b"/", 404, ""),
    (b"GET", b"*", 404, ""),
    (b"GET", b"http://host/health", 404, ""),
    (b"GET", b"/v0.7", 404, ""),
    (b"GET", B, 404, ""),
    (b"GET", B + b"/s/g/next/?token=T", 404, ""),
    (b"GET", b"/" + B + b"/s/g/next?token=T", 404, ""),
    (b"GET", b"/asapo-discovery" + B + b"/s/size?token=T", 404, ""),
    (b"GET", b"/asapo-authorizer/v0.1/version", 404, ""),
    (b"GET", b"/asapo-discovery/asapo-mongodb", 404, ""),
    (b"GET", B + b"/s/g/last?token=T", 404, ""),
    (b"GET", B + b"/s/g/5?token=T", 404, ""),
    (b"GET", B + b"/x/streams?token=T", 404, ""),
    (b"POST", B + b"/s/g/next?token=T", 405, "use GET"),
    (b"GET", B + b"/s/delete?token=T", 405, "use POST"),
    (b"HEAD", B + b"/s/size?token=T", 405, "use GET"),
    (b"GET", b"/v0.2/transfer", 405, "use POST"),
    (b"POST", b"/asapo-discovery/health", 405, "use GET"),
    (b"GET", B + b"/s/size", 400, "cannot extract token from request"),
    (b"POST", b"/v0.7/creategroup?token=", 400, "cannot extract token from request"),
    (b"GET", b"/v0.8/beamtime/bt1/src1/s/size?token=T", 415, "version not supported"),
    (b"GET", b"/v1.0/beamtime/bt1/src1/s/what/ever?token=T", 415, "version not supported"),
    (b"GET", b"/vx/beamtime/bt1/src1/s/size?token=T", 400, "cannot parse version"),
    (b"GET", b"/v\xff/beamtime/bt1/src1/s/size?token=T", 400, "cannot parse version"),
    (b"POST", b"/asapo-authorizer/v0.3/folder", 415, "version not supported"),
    (b"POST", b"/v0.3/transfer", 415, "version not supported"),
    (b"GET", b"/asapo-discovery/v0.1/asapo-broker?token=T", 400, "cannot extract protocol"),
    (b"GET", b"/asapo-discovery/v0.1/asapo-broker?protocol=v0.6", 415, "unknown protocol"),
    (b"GET", b"/asapo-discovery/v0.2/asapo-broker?protocol=v0.7", 415, "version not supported"),
    (b"GET", B + b"/s/0/abc?token=T", 400, 'strconv.Atoi: parsing "abc": invalid syntax'),
    (b"GET", B + b"/s/0/-1?token=T", 400, "invalid syntax"),
    (b"GET", B + b"/s/0/1_0?token=T", 400, "invalid syntax"),
    (b"GET", B + "/s/0/١?token=T".encode(), 400, "invalid syntax"),
    (b"GET", B + b"/s/0/9223372036854775808?token=T", 400, "value out of range"),
    (b"GET", B + b"/s/0/" + b"9" * 5000 + b"?token=T", 400, "value out of range"),
    (b"POST", B + b"/s/g/x?token=T", 400, "invalid syntax"),
    (b"GET", B + b"/s/g/next?token=T&minsize=1.5", 400, "invalid syntax"),
    (b"GET", B + b"/s/g/next?token=T&id_key=id", 400, "id_key"),
    (b"GET", B + b"/s/size?token=T&incomplete=maybe", 400, "incomplete"),
    (b"GET", B + b"/s/0/meta/2?token=T", 400, "wrong meta type"),
    (b"GET", B + b"//0/meta/1?token=T", 400, "stream name must not be empty"),
    (b"GET", B + b"/s/g/nacks?token=T&from=5&to=1", 503, "from index is greater than to index"),
    (b"GET", B + b"/0/streams?token=T&filter=bad", 409, "wrong streamStatus bad"),
    (b"GET", B + b"/s/next?token=T", 400, "group id must not be empty"),
    (b"GET", B + b"/s//next?token=T", 400, "group id must not be empty"),
    (b"POST", B + b"/s/5?token=T", 400, "group id must not be empty"),
    (b"POST", B + b"/s//5?token=T", 400, "group id must not be empty"),
    (b"GET", B + b"/a%/size?token=T", 400, "percent escape"),
    (b"GET", B + b"/a%2/size?token=T", 400, "percent escape"),
    (b"GET", B + b"/a%zz/size?token=T", 400, "percent escape"),
    (b"GET", B + b"/%ff/size?token=T", 400, "UTF-8"),
    (b"GET", B + b"/\xed\xa0\x80/size?token=T", 400, "UTF-8"),
    (b"GET", B + b"/a%22b/size?token=T", 400, "quotes"),
    (b"GET", B + b"/a%5Cb/size?token=T", 400, "quotes"),
    (b"GET", B + b"/a%00b/size?token=T", 400, "control characters"),
    (b"GET", B + b"/s/g%0A/next?token=T", 400, "control characters"),
    (b"GET", b"/v0.7/beamtime/bt1/s%22/0/streams?token=T", 400, "quotes"),
    (b"GET", b"/v0.7/beamtime/..%2Fbt1/src/0/streams?token=T", 400, "not a beamtime id"),
    (b"GET", B + b"/s/size?token=" + b"T" * limits.HTTP_LINE_NBYTES_MAX, 400, "too long"),
    (b"GET", OLD + b"/" + b"s" * 101 + b"/size?token=T", 400, "stream name is too long"),
    (b"GET", OLD + b"/s/" + b"g" * 51 + b"/next?token=T", 400, "group id is too long"),
    (b"GET", B + b"/" + b"s" * 1024 + b"/size?token=T", 400, "stream name is too long"),
    (b"GET", B + b"/s/" + b"g" * 1024 + b"/next?token=T", 400, "group id is too long"),
]


@pytest.mark.parametrize(("method", "target", "status", "text"), REFUSED)
def test_refused(method: bytes, target: bytes, status: int, text: str) -> None:
    found = refusal(method, target)
    assert found[0] == status
    assert text in found[1]


def test_long_names_are_for_new_clients() -> None:
    assert len(get(B + b"/" + b"s" * 1023 + b"/size?token=T").stream) == 1023
    assert len(get(B + b"/s/" + b"g" * 1023 + b"/next?token=T").group) == 1023
    assert len(get(OLD + b"/" + b"s" * 100 + b"/size?token=T").stream) == 100
    assert len(get(OLD + b"/s/" + b"g" * 50 + b"/next?token=T").group) == 50


def test_long_targets_are_understood_without_being_kept() -> None:
    call = post(b"/v0.7/creategroup?token=" + b"T" * 4096)
    assert call.token == "T" * 4096


def test_what_is_not_asapo() -> None:
    for target in (b"", b"/", b"/ui/", b"/api/v1/streams", b"/.well-known/beamstream", b"v0.7"):
        assert not is_asapo(target)
    for target in (b"/vx/beamtime", b"/health", b"/asapo-discovery", b"/introspect?x"):
        assert is_asapo(target)


def test_a_token_is_never_shown() -> None:
    assert "SECRET" not in repr(get(B + b"/s/size?token=SECRET"))


# -------------------------------------------------------------------------------- captures


def test_captured_requests(http_captures: list) -> None:
    kinds = set()
    for about, raw, _ in http_captures:
        line = about["request_line"].encode()
        assert raw.startswith(line)
        method, target, _version = line.split(b" ")
        call = parse_target(method, target)
        kinds.add(call.kind)
        assert parse_target(*format_target(call)) == call
        if call.kind not in (Kind.DISCOVER_RECEIVER,):
            assert f"token={call.token}".encode() in target
        assert call.beamtime in ("bt1", "auto", "")
        if b"/beamtime/" in target:
            assert (call.beamtime, call.source, call.version) == ("bt1", "src1", "v0.7")
            if b"instanceid" in target:
                assert (call.instance, call.step) == ("inst1", "step1")
        stream = re.search(r"stream=['\"]([^'\"]+)['\"]", about["api_call"])
        if stream and call.kind in (Kind.NEXT, Kind.BY_ID, Kind.GROUPED_LAST, Kind.NACKS):
            assert call.stream == stream[1], about["name"]
    never = {Kind.DISCOVERY_HEALTH, Kind.INTROSPECT, Kind.HEALTH, Kind.DISCOVER_FILES}
    assert kinds >= set(Kind) - never


def test_refusals_of_21_12(replies_21_12: list[dict[str, Any]]) -> None:
    """What is refused without looking at any data is refused as the original does it."""
    different = {"POST /authorize", "GET /v0.1/asapo-broker?protocol=v0.4"}
    refused = set()
    for line in replies_21_12:
        method, _, target = line["request"].partition(" ")
        if method not in ("GET", "POST") or line["request"] in different:
            continue
        found = outcome(method.encode(), target.encode())
        if isinstance(found, HttpError):
            assert (found.status, found.text) == (line["status"], line["body"].strip())
            refused.add(found.text)
    assert len(refused) >= 9
