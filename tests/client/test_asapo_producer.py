"""Our ASAPO producer against receivers that refuse, vanish or wait."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.client.asapo import Producer, Unsupported
from beamstream.client.asapo.encode import as_bytes, encode_meta
from beamstream.errors import (
    BadInput,
    BadMetadata,
    BadName,
    BadToken,
    IdConflict,
    NotAllowed,
    TimedOut,
)
from beamstream.wire.asapo.structs import Code, OpCode, pack_reply

from .scripted import TOKEN, Receiver, login, producing, read_request


def test_messages_arrive_as_they_were_sent() -> None:
    receiver = Receiver()
    frame = np.arange(12, dtype=np.uint16).reshape(3, 4)
    with producing(receiver) as producer:
        sent = producer.send(1, "processed/f1", frame, stream="s ä", meta={"a": np.int64(1)})
        assert sent.result(10).id == 1
        assert not sent.result().duplicate
    assert receiver.taken == [(1, "s ä", b'{"a":1}', frame.tobytes())]
    assert receiver.logins == [b"processed%i%DefaultStep%bt1%auto%det%" + TOKEN.encode()]


def test_a_large_payload_is_sent_from_where_it_lies() -> None:
    receiver = Receiver()
    data = np.random.default_rng(1).integers(0, 255, 9_000_001, np.uint8)
    with producing(receiver) as producer:
        producer.send(7, "processed/f7", data, stream="s", mode=9).result(10)
    assert receiver.taken[0][3] == data.tobytes()
    assert np.shares_memory(np.frombuffer(as_bytes(data), np.uint8), data)


def test_metadata_only_announces_its_size_and_sends_nothing() -> None:
    receiver = Receiver()
    with producing(receiver) as producer:
        producer.send(1, "processed/f1", b"12345", stream="s", mode=10).result(10)
        producer.send(2, "processed/f2", None, stream="s", meta='{"a": 2}').result(10)
    assert [t[3] for t in receiver.taken] == [b"", b""]


def test_finish_flag_and_metadata_documents() -> None:
    seen: list[tuple[int, tuple[int, int, int], str, bytes, bytes]] = []

    def receiver(connection: socket.socket, number: int) -> None:
        login(connection)
        while True:
            request, meta, data = read_request(connection)
            seen.append((request.id, request.custom, request.path, meta, data))
            connection.sendall(pack_reply(request.op, 0))

    with producing(receiver) as producer:
        producer.send_stream_finished("s", 9, "s2").result(10)
        producer.send_meta({"x": 1}, stream="s", mode="update", upsert=False).result(10)
        producer.send_meta({"x": 1}).result(10)
    assert seen == [
        (10, (2, 0, 0), "asapo_finish_stream", b'{"next_stream":"s2"}', b""),
        (0, (9, 3, 0), "s.meta", b"", b'{"x":1}'),
        (0, (9, 12, 0), "beamtime_global.meta", b"", b'{"x":1}'),
    ]


def test_a_duplicate_is_told_and_is_no_failure() -> None:
    reply = pack_reply(2, Code.WARNING, "ignoring duplicate record for id 1")
    with producing(Receiver(reply)) as producer:
        sent = producer.send(1, "processed/f1", b"x", stream="s").result(10)
        assert sent.duplicate
        assert "id 1" in sent.response


def test_a_lost_connection_is_replaced_and_the_message_sent_again() -> None:
    receiver = Receiver(None, pack_reply(2, Code.WARNING, "ignoring duplicate record for id 1"))
    with producing(receiver) as producer:
        assert producer.send(1, "processed/f1", b"abc", stream="s").result(10).duplicate
    assert [t[3] for t in receiver.taken] == [b"abc", b"abc"]
    assert len(receiver.logins) == 2


@pytest.mark.parametrize("code", [Code.REAUTHORIZE, Code.NO_DATA, Code.INTERNAL_ERROR, 77])
def test_replies_that_ask_for_another_attempt(code: int) -> None:
    receiver = Receiver(pack_reply(2, code, "later"), pack_reply(2, code, "later"))
    with producing(receiver) as producer:
        producer.send(1, "processed/f1", b"abc", stream="s").result(10)
    assert len(receiver.logins) == 3
    assert len(receiver.taken) == 3


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (Code.WRONG_REQUEST, "already have record with same id", IdConflict),
        (Code.WRONG_REQUEST, "bad path", BadInput),
        (Code.AUTHORIZATION_ERROR, "wrong token access type", NotAllowed),
        (Code.NOT_SUPPORTED, "no", Unsupported),
    ],
)
def test_replies_that_are_final(code: int, text: str, error: type[Exception]) -> None:
    receiver = Receiver(pack_reply(2, code, text))
    both = producing(receiver)
    producer = both.__enter__()
    future = producer.send(1, "processed/f1", b"abc", stream="s")
    assert isinstance(future.exception(10), error)
    # The next one goes out on a new connection.
    assert producer.send(2, "processed/f2", b"abc", stream="s").result(10).id == 2
    with pytest.raises(error, match=text):
        both.__exit__(None, None, None)


def test_a_refused_login_fails_the_message() -> None:
    def receiver(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(pack_reply(OpCode.AUTHORIZE, Code.AUTHORIZATION_ERROR, "expired token"))

    with pytest.raises(BadToken, match="expired"), producing(receiver) as producer:
        producer.send(1, "processed/f1", b"abc", stream="s")


def test_a_message_fails_after_the_timeout_and_names_the_last_problem() -> None:
    def receiver(connection: socket.socket, number: int) -> None:
        login(connection)
        read_request(connection)
        connection.sendall(pack_reply(2, Code.INTERNAL_ERROR, "catalog gone"))

    with (
        pytest.raises(TimedOut, match="catalog gone"),
        producing(receiver, timeout_s=0.2) as producer,
    ):
        producer.send(1, "processed/f1", b"abc", stream="s")


def test_nobody_listens() -> None:
    free = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
    free.close()
    producer = Producer(address, beamtime="b", token=TOKEN, timeout_s=0.1, retry_s=0.01)
    future = producer.send(1, "processed/f", b"", stream="s")
    assert isinstance(future.exception(10), TimedOut)
    producer.close()


def test_send_blocks_while_too_much_is_in_flight() -> None:
    go = threading.Event()
    taken: list[int] = []

    def receiver(connection: socket.socket, number: int) -> None:
        login(connection)
        while True:
            request, _, _ = read_request(connection)
            taken.append(request.id)
            assert go.wait(10)
            connection.sendall(pack_reply(2, 0))

    with producing(receiver, in_flight_nbytes=10_000) as producer:
        producer.send(1, "processed/f1", bytes(6_000), stream="s", mode=9)
        blocked = threading.Thread(
            target=producer.send,
            args=(2, "processed/f2", bytes(6_000)),
            kwargs={"stream": "s", "mode": 9},
        )
        blocked.start()
        blocked.join(0.05)
        assert blocked.is_alive()
        assert producer.in_flight == 1
        go.set()
        blocked.join(10)
        assert not blocked.is_alive()
    assert taken == [1, 2]


def test_closing_gives_up_what_cannot_be_sent() -> None:
    def receiver(connection: socket.socket, number: int) -> None:
        login(connection)
        read_request(connection)
        connection.recv(1)  # never answers

    both = producing(receiver)
    producer = both.__enter__()
    futures = [producer.send(k, f"processed/f{k}", b"x", stream="s") for k in (1, 2)]
    with pytest.raises(TimedOut, match="2 messages are still on their way"):
        producer.close(0.05)
    for future in futures:
        assert isinstance(future.exception(10), TimedOut)
    with pytest.raises(BadInput, match="closed"):
        producer.send(3, "processed/f3", b"x", stream="s")
    both.__exit__(ValueError, ValueError("stop"), None)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"id": 0}, BadInput),
        ({"id": 2**63}, BadInput),
        ({"id": 1, "auto_id": True}, BadInput),
        ({"dataset": (3, 2)}, BadInput),
        ({"name": "../f"}, BadName),
        ({"name": "/f"}, BadName),
        ({"stream": ""}, BadName),
        ({"stream": 'a"b'}, BadName),
        ({"stream": "x" * 1024}, BadName),
        ({"meta": "[1]"}, BadMetadata),
        ({"meta": {"a": float("nan")}}, BadMetadata),
        ({"meta": {"a": object()}}, BadMetadata),
        ({"meta": {"a": "\ud800"}}, BadMetadata),
        ({"data": np.zeros((4, 4))[:, ::2]}, BadInput),
        ({"data": np.array([None])}, BadInput),
        ({"data": 5}, BadInput),
    ],
)
def test_wrong_input_is_refused_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    with Producer("127.0.0.1:1", beamtime="bt1", token=TOKEN) as producer:
        call = {"id": 1, "name": "processed/f", "data": b"x", "stream": "s", **arguments}
        with pytest.raises(error):
            producer.send(**call)
        assert producer.in_flight == 0


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXT, st.integers(-(2**60), 2**60) | TEXT | st.floats(0, 1)))
def test_metadata_comes_back(meta: dict[str, Any]) -> None:
    assert json.loads(encode_meta(meta)) == meta


@pytest.mark.parametrize(
    "data", [b"", bytearray(b"ab"), memoryview(b"abcd").cast("H"), np.zeros((0, 3)), np.float64(1)]
)
def test_whatever_lies_in_one_piece_can_be_sent(data: Any) -> None:
    data = data if not isinstance(data, np.generic) else np.asarray(data)
    assert bytes(as_bytes(data)) == bytes(data)
