"""Our ASAPO consumer against brokers and data servers that a test scripts."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from beamstream.client.asapo import (
    EndReached,
    Finished,
    Incomplete,
    Missing,
    NotInCache,
    Resend,
    ServerFault,
    Unavailable,
    Unsupported,
)
from beamstream.errors import (
    AlreadyAcknowledged,
    BadInput,
    BadToken,
    ConnectionLost,
    Corrupt,
    NotFound,
    StorageError,
    TooLarge,
)
from beamstream.wire.asapo.calls import Call, Kind
from beamstream.wire.asapo.structs import Code, OpCode, pack_reply

from .scripted import (
    TOKEN,
    Handler,
    broker,
    consuming,
    http,
    no_data,
    read_http,
    read_request,
    record,
    scripted,
    serve,
)


def test_requests_are_what_the_server_understands() -> None:
    with (
        broker(lambda call, body: http(200, record(ingest_mode=2))) as (endpoint, calls),
        consuming(endpoint) as consumer,
    ):
        consumer.next("g 1", "s/ü", resend=Resend(0.25, 3), ordered=False)
        consumer.last("s", group="g")
        consumer.last("s")
        consumer.by_id(7, "s")
    call = calls[0]
    assert (call.kind, call.beamtime, call.source, call.stream, call.group) == (
        Kind.NEXT,
        "bt1",
        "d/1",
        "s/ü",
        "g 1",
    )
    assert (call.resend, call.delay_ms, call.attempts, call.key_is_id) == (True, 250, 3, False)
    assert call.token == TOKEN
    assert [c.kind for c in calls[1:]] == [Kind.GROUPED_LAST, Kind.LAST, Kind.BY_ID]
    assert calls[3].id == 7


def test_an_end_is_asked_again_until_something_comes() -> None:
    answers = scripted(no_data(0, 0), no_data(0, 0), http(200, record()))
    with (
        broker(answers) as (endpoint, calls),
        consuming(endpoint, timeout_s=10) as consumer,
    ):
        assert consumer.next("g", "s", data=False).id == 1
    assert len(calls) == 3
    assert calls[0] == calls[1] == calls[2]


def test_ends_gaps_and_finished_streams_are_told_apart() -> None:
    answers = scripted(no_data(3, 3), no_data(3, 3, "s2"), no_data(3, 3, "asapo_no_next"))
    with broker(answers) as (endpoint, _), consuming(endpoint) as consumer:
        with pytest.raises(EndReached) as end:
            consumer.next("g", "s")
        assert (end.value.id_max, end.value.finished) == (3, False)
        with pytest.raises(Finished) as finished:
            consumer.next("g", "s")
        assert (finished.value.id_max, finished.value.next_stream) == (3, "s2")
        with pytest.raises(Finished) as finished:
            consumer.next("g", "s")
        assert finished.value.next_stream == ""


def test_a_gap_is_waited_for_by_its_id() -> None:
    answers = scripted(no_data(2, 5), no_data(2, 5), http(200, record(_id=2)))
    with broker(answers) as (endpoint, calls), consuming(endpoint, timeout_s=10) as consumer:
        resend = Resend(1, 1)
        assert consumer.next("g", "s", data=False, resend=resend).id == 2
    assert [c.kind for c in calls] == [Kind.NEXT, Kind.BY_ID, Kind.BY_ID]
    assert not calls[1].resend
    assert calls[1].id == 2


def test_a_gap_that_stays_is_an_error_that_names_it() -> None:
    with (
        broker(lambda call, body: no_data(2, 5)) as (endpoint, _),
        consuming(endpoint) as consumer,
        pytest.raises(Missing) as gap,
    ):
        consumer.next("g", "s")
    assert (gap.value.id, gap.value.id_max) == (2, 5)


def test_an_incomplete_dataset_comes_with_the_error() -> None:
    part = json.loads(record(dataset_substream=1))
    body = json.dumps({"_id": 4, "dataset_size": 3, "messages": [part]}).encode()
    with (
        broker(lambda call, _: http(206, body)) as (endpoint, calls),
        consuming(endpoint) as consumer,
        pytest.raises(Incomplete, match="1 of 3") as error,
    ):
        consumer.next_dataset("g", "s")
    assert error.value.dataset.parts[0].substream == 1
    assert calls[0].dataset


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (400, "wrong", BadInput),
        (400, "already acknowledged", AlreadyAcknowledged),
        (401, "no", BadToken),
        (404, "gone", Unavailable),
        (409, "mongo: no documents in result", NotFound),
        (415, "old", Unsupported),
        (500, "oops", ServerFault),
        (302, "there", ServerFault),
        (503, "soon", Unavailable),
    ],
)
def test_statuses(status: int, text: str, error: type[Exception]) -> None:
    with (
        broker(lambda call, body: http(status, text.encode())) as (endpoint, calls),
        consuming(endpoint) as consumer,
        pytest.raises(error, match=text),
    ):
        consumer.ack("g", 1, "s")
    assert len(calls) == 1


def test_small_calls() -> None:
    stream = {
        "lastId": 3,
        "name": "s",
        "timestampCreated": 1,
        "timestampLast": 2,
        "finished": True,
        "nextStream": "",
    }
    replies = {
        Kind.SIZE: b'{"size":3}',
        Kind.NACKS: b'{"unacknowledged":[1,2]}',
        Kind.LAST_ACK: b'{"lastAckId":0}',
        Kind.STREAMS: json.dumps({"streams": [stream]}).encode(),
        Kind.SOURCES: b'{"sources":["a"]}',
        Kind.META: b'{"x":1}',
        Kind.QUERY: b"[" + record() + b"]",
        Kind.CREATE_GROUP: b"abcdefghij0123456789",
    }
    with (
        broker(lambda call, body: http(200, replies.get(call.kind, b""))) as (endpoint, calls),
        consuming(endpoint) as consumer,
    ):
        assert consumer.size("s") == 3
        assert consumer.size("s", incomplete=True) == 3
        assert consumer.unacknowledged("g", "s", to_id=9) == [1, 2]
        assert consumer.last_acked("g", "s") == 0
        assert consumer.streams(filter="finished", from_stream="s")[0].finished
        info = consumer.stream_info("s")
        assert info is not None
        assert (info.last_id, info.created_ns, info.next_stream) == (3, 1, "")
        assert consumer.last_stream() == info
        assert consumer.sources() == ["a"]
        assert consumer.meta() == {"x": 1}
        assert consumer.meta("s") == {"x": 1}
        assert consumer.search("_id > 0", "s")[0].meta == {"a": 1}
        assert consumer.new_group() == "abcdefghij0123456789"
        consumer.ack("g", 1, "s")
        consumer.nack("g", 1, "s", delay_s=0.5)
        consumer.set_marker("g", 0, "s")
        consumer.delete("s")
        consumer.persist("s")
    assert [c.kind for c in calls[-5:]] == [
        Kind.ACK_OR_NACK,
        Kind.ACK_OR_NACK,
        Kind.RESET_COUNTER,
        Kind.DELETE,
        Kind.PERSIST,
    ]


def test_a_connection_that_the_server_closed_is_opened_again() -> None:
    """Whether the close comes before the next request or crosses it."""

    def handle(connection: socket.socket, number: int) -> None:
        call, _ = read_http(connection)
        body = own.encode() if call.kind is Kind.DISCOVER_BROKER else b'{"size":1}'
        connection.sendall(http(200, body))

    with serve(handle) as own, consuming(own) as consumer:
        for _ in range(20):
            assert consumer.size("s") == 1


def test_a_request_on_a_fresh_connection_is_not_repeated() -> None:
    seen: list[Kind] = []

    def handle(connection: socket.socket, number: int) -> None:
        seen.append(read_http(connection)[0].kind)

    with serve(handle) as own, consuming(own) as consumer, pytest.raises(ConnectionLost):
        consumer.size("s")
    assert len(seen) == 1


def test_a_next_that_got_lost_is_not_repeated() -> None:
    seen: list[Kind] = []

    def handle(connection: socket.socket, number: int) -> None:
        while True:
            call, _ = read_http(connection)
            seen.append(call.kind)
            if call.kind is Kind.NEXT:
                return
            connection.sendall(http(200, own.encode()))

    with (
        serve(handle) as own,
        consuming(own, timeout_s=10) as consumer,
        pytest.raises(ConnectionLost),
    ):
        consumer.next("g", "s")
    assert seen.count(Kind.NEXT) == 1


def test_waiting_can_be_interrupted() -> None:
    asked = threading.Event()

    def answer(call: Call, body: bytes) -> bytes:
        asked.set()
        return no_data(0, 0)

    with broker(answer) as (endpoint, _), consuming(endpoint, timeout_s=60) as consumer:

        def interrupt() -> None:
            asked.wait(10)
            consumer.interrupt()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(EndReached):
            consumer.next("g", "s")
        thread.join(10)


# -------------------------------------------------------------------------------- payloads


def data_server(reply: bytes, data: bytes) -> Handler:
    def handle(connection: socket.socket, number: int) -> None:
        while True:
            request, _, _ = read_request(connection)
            assert request.op == OpCode.GET_BUFFER_DATA
            assert request.version == "v0.1"
            assert request.id == 2**64 - 5
            assert request.stream == "i§DefaultStep§bt1§d/1§s1"
            connection.sendall(reply + data)

    return handle


def test_payload_from_the_data_server() -> None:
    with (
        serve(data_server(pack_reply(6, 0), b"hello")) as source,
        broker(lambda call, body: http(200, record(source=source, buf_id=-5))) as (endpoint, _),
        consuming(endpoint) as consumer,
    ):
        for _ in range(2):
            message = consumer.next("g", "s")
            assert message.data is not None
            assert bytes(message.data) == b"hello"
        buffer = bytearray(8)
        view = consumer.retrieve(message, memoryview(buffer))
        assert bytes(view) == b"hello"
        assert bytes(buffer[:5]) == b"hello"
        with pytest.raises(TooLarge):
            consumer.retrieve(message, memoryview(bytearray(4)))


def test_a_pooled_connection_that_broke_is_replaced_once() -> None:
    def handle(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(pack_reply(6, 0) + b"hello")

    with (
        serve(handle) as source,
        broker(lambda call, body: http(200, record(source=source, buf_id=1, ingest_mode=9))) as (
            endpoint,
            _,
        ),
        consuming(endpoint) as consumer,
    ):
        for _ in range(3):
            assert consumer.next("g", "s").data == b"hello"


def test_what_is_only_in_the_cache_and_gone_is_told_with_its_record() -> None:
    with (
        serve(data_server(pack_reply(6, Code.NO_DATA), b"")) as source,
        broker(lambda call, body: http(200, record(source=source, buf_id=-5, ingest_mode=9))) as (
            endpoint,
            _,
        ),
        consuming(endpoint) as consumer,
        pytest.raises(NotInCache) as error,
    ):
        consumer.next("g", "s")
    assert error.value.record.id == 1


def file_service(data: bytes, *, tokens: list[bytes], size: int = 5) -> Any:
    def answer(call: Call, body: bytes) -> bytes:
        match call.kind:
            case Kind.FOLDER:
                return http(200, tokens.pop(0))
            case Kind.TRANSFER if call.size_only:
                return http(200, b'{"file_size":%d}' % len(data))
            case Kind.TRANSFER:
                assert json.loads(body)["FileName"] == "processed/f1"
                return http(200, data)
        return http(200, record(size=size))

    return answer


def test_payload_from_the_file_transfer() -> None:
    answer = file_service(b"hello", tokens=[b"folder-token"])
    with broker(answer) as (endpoint, calls), consuming(endpoint) as consumer:
        assert consumer.next("g", "s").data == b"hello"
        assert consumer.next("g", "s").data == b"hello"
    assert [c.kind for c in calls].count(Kind.FOLDER) == 1


def test_the_size_is_asked_for_when_the_record_has_none() -> None:
    answer = file_service(b"hello", tokens=[b"folder-token"], size=0)
    with broker(answer) as (endpoint, _), consuming(endpoint) as consumer:
        assert consumer.next("g", "s").data == b"hello"


def test_an_expired_folder_token_is_renewed() -> None:
    answers = {"first": http(401, b"expired")}
    good = file_service(b"hello", tokens=[b"one", b"two"])

    def answer(call: Call, body: bytes) -> bytes:
        if call.kind is Kind.TRANSFER and len(transfers) == 1:
            transfers.append(call)
            return answers["first"]
        if call.kind is Kind.TRANSFER:
            transfers.append(call)
        return bytes(good(call, body))

    transfers: list[Call] = []
    with broker(answer) as (endpoint, _), consuming(endpoint) as consumer:
        assert consumer.next("g", "s").data == b"hello"
        assert consumer.next("g", "s").data == b"hello"
    assert len(transfers) == 3


def test_a_file_of_another_length_is_refused() -> None:
    answer = file_service(b"hell", tokens=[b"folder-token"])
    with (
        broker(answer) as (endpoint, _),
        consuming(endpoint) as consumer,
        pytest.raises(Corrupt, match="4 bytes, not 5"),
    ):
        consumer.next("g", "s")


def test_payload_from_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "processed").mkdir()
    file = tmp_path / "processed" / "f1"
    file.write_bytes(b"hello")
    with (
        broker(lambda call, body: http(200, record())) as (endpoint, _),
        consuming(endpoint, source_path=str(tmp_path), filesystem=True) as consumer,
    ):
        assert consumer.next("g", "s").data == b"hello"
        file.write_bytes(b"hell")
        with pytest.raises(Corrupt):
            consumer.next("g", "s")
        file.unlink()
        with pytest.raises(NotFound):
            consumer.next("g", "s")
        file.mkdir()
        with pytest.raises(StorageError):
            consumer.next("g", "s")
