"""Every recorded request of the official clients 25.3, as bytes, gets an equivalent reply.

Equivalent: the same status or error code, the same text where the protocol's description quotes
one, the same JSON keys and values but for times, addresses, buffers, arrival numbers, tokens and
versions of software.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from compat.captures import (
    Capture,
    read_captures,
    recorded_token,
    with_buffer,
    with_credentials,
    with_tokens,
)
from compat.doors import Doors, parse_address
from compat.wire import AUTHORIZE, Answer, Reply, Tcp

CAPTURES: Final = read_captures()
VOLATILE: Final = {
    "timestamp", "timestampCreated", "timestampLast", "source", "buf_id", "time_id",
    "softwareVersion", "Uris", "MaxConnections", "microservicesApi", "supportedProtocols",
}  # fmt: skip

QUOTED: Final = {
    6: "unknown protocol",
    10: "ignoring duplicate record for id 1",
    11: "already have record with same id",
    62: "no datasets found",
    64: "already acknowledged",
    91: "authorizer rejected to authorize: ",
}
"""Texts of refusals that the description quotes; other refusals only have to have one."""

FREE_TEXT: Final = {2: r"127\.0\.0\.1:\d+", 35: r"\S{8,}", 41: r"[\w-]+\.[\w-]+\.[\w-]+"}
"""Plain texts that differ from node to node, and what they look like."""

UNKNOWN_PROTOCOL: Final = 6
"""This one was recorded from a server told to refuse a protocol which it knew."""

CACHED: Final = {38: 1, 39: 2}
"""Data server requests that found their buffer, and the id of the message in it."""

STREAMS_MADE_UNRECORDED: Final[dict[int, list[tuple[str, int, str]]]] = {
    46: [("end", 1, "processed/end")],
    52: [("gap", 20, "processed/gap20"), ("gap", 22, "processed/gap22")],
}
"""Messages that were sent before a capture without being recorded themselves."""


def masked(document: Any) -> Any:
    """The document without the values that differ from node to node."""
    if isinstance(document, dict):
        return {k: "…" if k in VOLATILE else masked(v) for k, v in document.items()}
    if isinstance(document, list):
        return [masked(item) for item in document]
    return document


class Replay:
    """Sends the captures in order and keeps what came back."""

    def __init__(self, doors: Doors) -> None:
        self.doors = doors
        self.tokens = {recorded_token(CAPTURES): doors.token}
        self.http = doors.http()
        self.receiver: Tcp | None = None
        self.answers: dict[int, tuple[Answer | Reply, bytes]] = {}
        for capture in CAPTURES:
            self._prepare(capture.number)
            self.answers[capture.number] = self._play(capture)
        self.http.close()
        if self.receiver:
            self.receiver.close()

    def _prepare(self, number: int) -> None:
        for stream, id, path in STREAMS_MADE_UNRECORDED.get(number, []):
            assert self._logged_in().put(id, b"x", path=path, stream=stream).code == 0

    def _play(self, capture: Capture) -> tuple[Answer | Reply, bytes]:
        if capture.channel == "http":
            return self._play_http(capture), b""
        if capture.channel == "data-server-tcp":
            return self._play_data(capture)
        return self._play_receiver(capture), b""

    def _play_http(self, capture: Capture) -> Answer:
        if capture.number == 42:
            recorded = next(c for c in CAPTURES if c.number == 41)
            answer = self.answers[41][0]
            assert isinstance(answer, Answer)
            self.tokens[recorded.expected_answer().text] = answer.text
        request = with_tokens(capture.request, self.tokens)
        if capture.number == UNKNOWN_PROTOCOL:
            request = request.replace(b"protocol=v0.7", b"protocol=v9.9")
        self.http.send(request)
        answer = self.http.answer()
        if answer.status == 100:
            answer = self.http.answer()
        if answer.headers.get("connection", "").lower() == "close":
            self.http.close()
            self.http = self.doors.http()
        return answer

    def _play_data(self, capture: Capture) -> tuple[Reply, bytes]:
        request = capture.request
        id = CACHED.get(capture.number, 1)
        record = self.doors.record(id, "s1")
        if capture.number in CACHED:
            request = with_buffer(request, record["buf_id"])
        with Tcp(parse_address(record["source"])) as wire:
            wire.send(request)
            reply = wire.reply()
            return reply, wire.read(record["size"]) if reply.code == 0 else b""

    def _play_receiver(self, capture: Capture) -> Reply:
        request = capture.request
        if capture.op == AUTHORIZE:
            self._hang_up()
            self.receiver = self.doors.tcp()
            request = with_credentials(request, self.doors.token)
        wire = self._logged_in()
        wire.send(request)
        reply = wire.reply()
        # The client hangs up after a refusal and logs in again, which was not recorded.
        if reply.code not in (0, 2):
            self._hang_up()
        return reply

    def _logged_in(self) -> Tcp:
        if self.receiver is None:
            self.receiver = self.doors.receiver()
        return self.receiver

    def _hang_up(self) -> None:
        if self.receiver:
            self.receiver.close()
        self.receiver = None


@pytest.fixture(scope="module")
def replay(doors: Doors) -> Replay:
    return Replay(doors)


@pytest.mark.system
@pytest.mark.skipif(not CAPTURES, reason="no captures: set BEAMSTREAM_SHARED to their folder")
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.name)
def test_capture(capture: Capture, replay: Replay) -> None:
    got, payload = replay.answers[capture.number]
    if isinstance(got, Answer):
        check_answer(capture, got)
    else:
        check_reply(capture, got, payload)


def check_answer(capture: Capture, got: Answer) -> None:
    expected = capture.expected_answer()
    assert got.status == expected.status, got
    quoted = QUOTED.get(capture.number)
    if quoted:
        assert quoted in got.text
    elif capture.number in FREE_TEXT:
        assert re.fullmatch(FREE_TEXT[capture.number], got.text)
    elif expected.body[:1] in (b"{", b"["):
        assert masked(got.json) == masked(expected.json)
    elif got.status < 400:
        assert got.body == expected.body
    else:
        assert got.body


def check_reply(capture: Capture, got: Reply, payload: bytes) -> None:
    expected = capture.expected_reply()
    assert (got.op, got.code) == (expected.op, expected.code), got
    if got.code == 0:
        assert got.text == expected.text == ""
    elif capture.number in QUOTED:
        assert QUOTED[capture.number] in got.text
    elif expected.text:
        assert got.text
    if capture.number in CACHED:
        assert payload == {38: b"hello", 39: bytes(range(4))}[capture.number]


@pytest.mark.skipif(not CAPTURES, reason="no captures: set BEAMSTREAM_SHARED to their folder")
def test_no_capture_is_left_out() -> None:
    assert [capture.number for capture in CAPTURES] == list(range(1, len(CAPTURES) + 1))
    assert len(CAPTURES) >= 94
    assert json.dumps(masked({"a": [{"source": 1}]})) == '{"a": [{"source": "\\u2026"}]}'


@pytest.mark.system
def test_keep_alive_and_expect(doors: Doors) -> None:
    """Bodies above 1024 bytes are announced by the client, which then waits for the go-ahead."""
    query = "meta.s = '" + "v" * 2000 + "'"
    target = f"{doors.base()}/0/querymessages{doors.query()}"
    with doors.http() as http:
        for _ in range(3):
            head = f"POST {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
            http.send(head.encode(), b"Content-Length: %d\r\n\r\n" % len(query))
            assert http.answer().status == 100
            http.send(query.encode())
            assert http.answer().text == "[]"
