from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadName, LocalProtocolError, RemoteProtocolError
from beamstream.wire.asapo.structs import (
    REPLY_NBYTES,
    REQUEST_NBYTES,
    Code,
    OpCode,
    Reply,
    Request,
    pack_reply,
    pack_request,
    parse_version,
    payload_nbytes,
    unpack_reply,
    unpack_request,
)

u64 = st.integers(0, 2**64 - 1)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=255)
requests = st.builds(
    Request,
    op=st.integers(0, 255),
    id=u64,
    data_size=u64,
    meta_size=u64,
    custom=st.tuples(u64, u64, u64),
    path=names,
    stream=names,
    version=st.sampled_from(["", "v0.1", "v0.5", "v0.7", "v12.3456"]),
)


def pack(request: Request) -> bytes:
    return pack_request(*(getattr(request, name) for name in request.__struct_fields__))


@given(requests)
def test_what_a_client_packs_a_server_unpacks(request: Request) -> None:
    packed = pack(request)
    assert len(packed) == REQUEST_NBYTES
    assert unpack_request(packed) == request
    assert unpack_request(memoryview(bytearray(packed + b"rest"))) == request


@given(requests)
def test_layout_is_that_of_the_protocol(request: Request) -> None:
    packed = pack(request)
    numbers = (request.id, request.data_size, request.meta_size, *request.custom)
    assert packed[0] == request.op
    assert packed[8:56] == b"".join(number.to_bytes(8, "little") for number in numbers)
    for offset, nbytes, text in (
        (56, 1024, request.path),
        (1080, 1024, request.stream),
        (2104, 10, request.version),
    ):
        assert packed[offset : offset + nbytes] == text.encode().ljust(nbytes, b"\0")


@given(requests, st.binary(min_size=7, max_size=7), st.binary(min_size=6, max_size=6))
def test_rubbish_in_padding_and_behind_nul_is_ignored(
    request: Request, front: bytes, back: bytes
) -> None:
    packed = bytearray(pack(request))
    packed[1:8] = front
    packed[2114:2120] = back
    for offset, text in ((56, request.path), (1080, request.stream)):
        behind = offset + len(text.encode()) + 1
        packed[behind : offset + 1024] = b"\xff" * (offset + 1024 - behind)
    assert unpack_request(packed) == request


@given(
    st.binary(min_size=56, max_size=56),
    st.binary(max_size=1024),
    st.binary(max_size=1024),
    st.binary(max_size=16),
)
def test_any_bytes_give_a_request_or_a_protocol_error(
    head: bytes, path: bytes, stream: bytes, version: bytes
) -> None:
    raw = head + path.ljust(1024, b"\0") + stream.ljust(1024, b"\0") + version.ljust(16, b"\0")
    try:
        request = unpack_request(raw)
    except RemoteProtocolError:
        return
    assert request.op == raw[0]
    assert request.path.encode() == path.split(b"\0")[0]
    assert request.stream.encode() == stream.split(b"\0")[0]


@given(st.binary(max_size=REQUEST_NBYTES - 1))
def test_too_few_bytes_are_a_protocol_error(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{len(raw)} bytes"):
        unpack_request(raw)
    if len(raw) < REPLY_NBYTES:
        with pytest.raises(RemoteProtocolError, match=f"{len(raw)} bytes"):
            unpack_reply(raw)


def test_a_text_that_fills_its_field_has_no_nul() -> None:
    raw = bytearray(pack_request(2))
    raw[56:1080] = b"p" * 1024
    raw[1080:2104] = b"s" * 1024
    request = unpack_request(raw)
    assert (request.path, request.stream, request.version) == ("p" * 1024, "s" * 1024, "v0.7")


def test_a_text_cut_within_a_character_is_called_so() -> None:
    raw = bytearray(pack_request(2))
    raw[1080:2104] = ("s" + "é" * 1000).encode()[:1024]
    with pytest.raises(RemoteProtocolError, match=r"stream name .* it was cut"):
        unpack_request(raw)
    raw[1080:2104] = b"\xff" + b"s" * 1023
    with pytest.raises(RemoteProtocolError, match="not UTF-8 at byte 0"):
        unpack_request(raw)
    raw[1080:2104] = b"s\xc3\0".ljust(1024, b"\0")
    with pytest.raises(RemoteProtocolError, match="not UTF-8 at byte 1"):
        unpack_request(raw)


@pytest.mark.parametrize("field", ["path", "stream"])
@pytest.mark.parametrize("bad", ["a" * 1024, "é" * 512, "a\0b", "\ud800"])
def test_a_client_does_not_send_what_would_arrive_changed(field: str, bad: str) -> None:
    with pytest.raises(BadName):
        pack_request(2, **{field: bad})


@pytest.mark.parametrize("numbers", [(256,), (-1,), (2, 2**64), (2, -1), (2, 0, 0, 0, (0, 0))])
def test_a_client_does_not_send_numbers_that_do_not_fit(numbers: tuple[int, ...]) -> None:
    with pytest.raises(LocalProtocolError):
        pack_request(*numbers)


@given(
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 6, 65535]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=600),
)
def test_replies_come_back_whole_or_cut_between_characters(op: int, code: int, text: str) -> None:
    packed = pack_reply(op, code, text)
    assert len(packed) == REPLY_NBYTES
    assert packed[:4] == bytes([op, 0, code & 255, code >> 8])
    assert packed[-1] == 0
    reply = unpack_reply(packed)
    assert (reply.op, reply.code) == (op, code)
    assert text.startswith(reply.text)
    assert reply.text == text or 1020 <= len(reply.text.encode()) <= 1023


@given(st.binary(min_size=REPLY_NBYTES, max_size=REPLY_NBYTES + 8))
def test_any_reply_is_unpacked(raw: bytes) -> None:
    reply = unpack_reply(raw)
    assert reply.code == raw[2] + 256 * raw[3]


def test_success_is_all_zero_but_the_op_code() -> None:
    for op in (2, 7, 99, 255):
        assert pack_reply(op, Code.SUCCESS) == bytes([op]) + bytes(1027)
    assert pack_reply(2, 0, "text") != pack_reply(2, 0)


@pytest.mark.parametrize(("op", "code"), [(-1, 0), (256, 0), (2, 65536), (2, -1)])
def test_impossible_replies_are_bugs_here(op: int, code: int) -> None:
    with pytest.raises(LocalProtocolError):
        pack_reply(op, code)


def test_text_with_lone_surrogates_can_be_answered() -> None:
    assert unpack_reply(pack_reply(2, 3, "no \ud800")).text == "no ?"


@pytest.mark.parametrize(
    ("op", "mode", "nbytes"),
    [
        (OpCode.TRANSFER_DATA, 13, 5),
        (OpCode.TRANSFER_DATA, 9, 5),
        (OpCode.TRANSFER_DATA, 2, 0),
        (OpCode.TRANSFER_DATA, 10, 0),
        (OpCode.TRANSFER_DATASET_DATA, 29, 5),
        (OpCode.TRANSFER_DATASET_DATA, 2, 0),
        (OpCode.TRANSFER_METADATA, 9, 5),
        (OpCode.TRANSFER_METADATA, 0, 5),
        (OpCode.GET_BUFFER_DATA, 13, 0),
        (OpCode.AUTHORIZE, 13, 0),
        (99, 13, 0),
    ],
)
def test_which_requests_have_data(op: int, mode: int, nbytes: int) -> None:
    assert payload_nbytes(unpack_request(pack_request(op, 1, 5, 0, (mode, 0, 0)))) == nbytes


def test_versions() -> None:
    assert parse_version("v0.7") == (0, 7)
    assert parse_version("v12.345") == (12, 345)
    for bad in ("", "v", "0.7", "v0", "v0.", "v0.7 ", "v-1.2", "v0.7.1", "v٠.٧", "v0.99999"):
        with pytest.raises(RemoteProtocolError, match="version"):
            parse_version(bad)


def test_captured_requests(tcp_captures: list) -> None:
    for about, raw, _ in tcp_captures:
        request = unpack_request(raw)
        assert request == Request(
            about["op_code"],
            about["data_id"],
            about["data_size"],
            about["meta_size"],
            tuple(about["custom_data"]),
            about["message"],
            about["stream"],
            about["api_version"],
        ), about["name"]
        end = REQUEST_NBYTES + request.meta_size
        assert raw[REQUEST_NBYTES:end] == about["meta"].encode()
        assert raw[end:] == bytes.fromhex(about["data_hex"])
        assert len(raw) == end + payload_nbytes(request), about["name"]


def test_captured_replies(tcp_captures: list) -> None:
    for about, raw, answer in tcp_captures:
        reply = unpack_reply(answer)
        assert reply == Reply(raw[0], about["error_code"], about["reply_message"]), about["name"]
        assert pack_reply(reply.op, reply.code, reply.text) == answer[:REPLY_NBYTES]
