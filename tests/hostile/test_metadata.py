"""Metadata that are no JSON objects, or were made to hurt a parser."""

from __future__ import annotations

import time

import pytest

from beamstream import limits
from compat.doors import Doors
from compat.wire import META_ONLY, METADATA, OK, WRONG

pytestmark = pytest.mark.system

BAD = {
    "text": b"bla",
    "cut": b'{"a":1',
    "array": b"[1]",
    "string": b'"a"',
    "number": b"5",
    "null": b"null",
    "nan": b'{"a":NaN}',
    "infinite": b'{"a":1e999}',
    "minus infinite": b'{"a":-Infinity}',
    "digits": b'{"a":' + b"9" * 100_000 + b"}",
    "bad UTF-8": b'{"a":"\xff"}',
    "overlong": b'{"a":"\xc0\xaf"}',
    "surrogate": b'{"a":"\\ud800"}',
    "byte order mark": b'\xef\xbb\xbf{"a":1}',
    "deep array": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "just too deep": b'{"a":' * 33 + b"1" + b"}" * 33,
    "unclosed": b"[" * 500_000,
    "two documents": b'{"a":1}{"b":2}',
    "control character": b'{"a":"\x01"}',
    "NUL behind": b'{"a":1}\0',
    "single quotes": b"{'a':1}",
}


@pytest.mark.parametrize("kind", BAD)
def test_metadata_of_messages(doors: Doors, source: str, kind: str) -> None:
    begin = time.monotonic()
    for mode, data in ((9, b"payload"), (META_ONLY, b"")):
        with doors.receiver(source) as wire:
            reply = wire.put(1, data, meta=BAD[kind], mode=mode)
            assert reply.code == WRONG
            assert len(reply.text) > 10
    assert time.monotonic() - begin < 2
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x", meta=b'{"good":1}').code == OK
    assert doors.record(1, "s", source)["meta"] == {"good": 1}


@pytest.mark.parametrize("kind", BAD)
def test_metadata_of_streams(doors: Doors, source: str, kind: str) -> None:
    with doors.receiver(source) as wire:
        reply = wire.ask(METADATA, data=BAD[kind], custom=(9, 13, 0), path="s.meta", stream="s")
        assert reply.code == WRONG
    with doors.http() as http:
        target = f"{doors.base('s', source)}/0/meta/1{doors.query()}"
        assert http.get(target).status == 409


@pytest.mark.parametrize("mode", [0, 4, 9, 10, 14, 99, 2**63])
def test_metadata_operations_that_do_not_exist(doors: Doors, source: str, mode: int) -> None:
    with doors.receiver(source) as wire:
        reply = wire.ask(METADATA, data=b"{}", custom=(9, mode, 0), path="s.meta", stream="s")
        assert reply.code == WRONG


def test_largest_metadata(doors: Doors, source: str) -> None:
    padding = limits.META_NBYTES_MAX - len(b'{"a":""}')
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x", meta=b'{"a":"' + b"v" * padding + b'"}').code == OK
    assert len(doors.record(1, "s", source)["meta"]["a"]) == padding


@pytest.mark.parametrize(
    "next_stream", [b'{"next_stream":"a"b"}', b"{}", b"[]", b'{"next_stream":5}']
)
def test_finish_flags_that_name_no_stream(doors: Doors, source: str, next_stream: bytes) -> None:
    with doors.receiver(source) as wire:
        reply = wire.put(
            2, path="asapo_finish_stream", stream="s", mode=META_ONLY, meta=next_stream
        )
        assert reply.code in (OK, WRONG) if next_stream == b"{}" else reply.code == WRONG


def test_a_finish_flag_of_id_zero(doors: Doors, source: str) -> None:
    with doors.receiver(source) as wire:
        reply = wire.put(
            0, path="asapo_finish_stream", stream="s", mode=META_ONLY, meta=b'{"next_stream":"n"}'
        )
        assert reply.code == WRONG


@pytest.mark.parametrize(
    "body",
    ["", "x", "[]", "{}", '{"Op":5}', '{"Op":"ackmessage"', "[" * 50_000, "\x00", '{"Op":null}'],
)
def test_bodies_of_requests(doors: Doors, source: str, body: str) -> None:
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x").code == OK
    with doors.http() as http:
        base = doors.base("s", source)
        assert http.post(f"{base}/g/1{doors.query()}", body).status in (400, 503)
        assert http.post(f"{base}/delete{doors.query()}", body).status == 400
        assert http.post(f"{base}/0/querymessages{doors.query()}", body).status == 400
        folder = f"/asapo-authorizer/v0.2/folder{doors.query()}"
        assert http.post(folder, body).status in (400, 401)
        cookie = {"Cookie": f"Authorization=Bearer {doors.folder_token()}"}
        assert http.post(f"/v0.2/transfer{doors.query()}", body, **cookie).status == 400
