from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import RemoteProtocolError
from beamstream.model import Dataset, Record, StreamInfo
from beamstream.wire.asapo import documents as doc
from beamstream.wire.asapo.routes import HttpError
from beamstream.wire.asapo.structs import REQUEST_NBYTES, OpCode, pack_request, unpack_request

SOURCE = "127.0.0.1:8402"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
numbers = st.integers(0, 2**63 - 1)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
metas = st.just(b"") | st.dictionaries(texts, values, max_size=4).map(
    lambda meta: json.dumps(meta).encode()
)
records = st.builds(
    Record,
    seq=numbers,
    id=numbers,
    substream=st.integers(0, 65536),
    name=texts,
    size=st.integers(0, 2**64 - 1),
    digest=st.just(b""),
    meta=metas,
    timestamp_ns=numbers,
    arrived_ns=numbers,
    mode=st.integers(0, 31),
    level=st.just(2),
    place=st.just(2),
    root=st.just(0),
)
streams = st.builds(
    StreamInfo,
    no=numbers,
    source=texts,
    name=texts,
    max_id=numbers,
    created_ns=numbers,
    last_ns=numbers,
    last_id=st.integers(-1, 100),
    next_stream=texts,
)


def address(record: Record) -> int:
    return (record.id * 7) % 2**63


def as_read(record: Record, stream: str, buf_id: int) -> dict[str, Any]:
    return {
        "_id": record.id,
        "time_id": record.seq,
        "size": record.size,
        "name": record.name,
        "timestamp": record.timestamp_ns,
        "source": SOURCE,
        "ib_source": "",
        "buf_id": buf_id,
        "stream": stream,
        "dataset_substream": record.substream,
        "ingest_mode": record.mode,
        "meta": json.loads(record.meta or b"{}"),
    }


# ------------------------------------------------------------------------ both directions


@given(records, texts, st.integers(0, 2**63 - 1))
def test_messages_are_read_as_they_were_written(record: Record, stream: str, buf_id: int) -> None:
    body = doc.message_record(record, stream, SOURCE, buf_id)
    assert json.loads(body) == as_read(record, stream, buf_id)
    assert doc.read_record(body) == as_read(record, stream, buf_id)
    assert (record.meta or b"{}") in body


@given(st.lists(records, max_size=4), texts, numbers, numbers, st.integers(1, 9))
def test_datasets_are_read_as_they_were_written(
    parts: list[Record], stream: str, seq: int, number: int, expected: int
) -> None:
    dataset = Dataset(seq, number, expected, 0, tuple(parts))
    body = doc.dataset_record(dataset, stream, address, SOURCE)
    messages = [as_read(part, stream, address(part)) for part in parts]
    assert doc.read_dataset(body) == {"_id": number, "dataset_size": expected, "messages": messages}
    raw = json.loads(body)
    assert raw["size"] == raw["dataset_size"] == expected
    assert raw["timestamp"] == min((part.timestamp_ns for part in parts), default=0)


@given(st.lists(records, max_size=4), texts)
def test_found_messages_are_an_array(found: list[Record], stream: str) -> None:
    body = doc.record_list(found, stream, address, SOURCE)
    assert doc.read_records(body) == [as_read(record, stream, address(record)) for record in found]


@given(numbers, numbers, texts)
def test_no_data(number: int, id_max: int, next_stream: str) -> None:
    body = doc.no_data(number, id_max, next_stream)
    assert b"get_record_by_id" in body
    assert doc.read_no_data(body) == doc.NoData(number, id_max, next_stream)


@given(st.lists(streams, max_size=3))
def test_streams_have_all_six_keys(infos: list[StreamInfo]) -> None:
    read = doc.read_streams(doc.stream_list(infos))
    assert len(read) == len(infos)
    for info, document in zip(infos, read, strict=True):
        assert document == {
            "lastId": info.last_id if info.finished else info.max_id,
            "name": info.name,
            "timestampCreated": info.created_ns,
            "timestampLast": info.last_ns,
            "finished": info.last_id >= 0,
            "nextStream": info.next_stream,
        }
        assert json.loads(doc.stream_document(info)) == document


@given(st.lists(texts), st.lists(numbers), numbers)
def test_lists_and_numbers(sources: list[str], ids: list[int], number: int) -> None:
    assert doc.read_sources(doc.source_list(iter(sources))) == sources
    assert doc.read_nacks(doc.nacks(iter(ids))) == ids
    assert doc.read_size(doc.size(number)) == number
    assert doc.read_file_size(doc.file_size(number)) == number
    assert doc.read_last_ack(doc.last_ack(number)) == number
    assert doc.read_receivers(doc.receivers(32, sources)) == doc.Receivers(32, sources)


def test_empty_lists_are_arrays_not_null() -> None:
    assert doc.stream_list([]) == b'{"streams":[]}'
    assert doc.source_list([]) == b'{"sources":[]}'
    assert doc.nacks([]) == b'{"unacknowledged":[]}'
    assert doc.record_list([], "s", address, SOURCE) == b"[]"


@given(texts, texts, texts, numbers, st.booleans(), st.booleans())
def test_bodies_of_requests(a: str, b: str, c: str, delay: int, flag: bool, other: bool) -> None:
    assert doc.parse_transfer_request(doc.transfer_request(a, b + "x")).name == b + "x"
    folder = doc.parse_folder_request(doc.folder_request(a + "x", b + "x", c + "x"))
    assert (folder.folder, folder.beamtime, folder.token) == (a + "x", b + "x", c + "x")
    assert doc.parse_ack_request(doc.ack_request()) == doc.AckRequest(False)
    assert doc.parse_ack_request(doc.nack_request(delay)) == doc.AckRequest(True, delay)
    body = doc.delete_request(error_if_absent=flag, with_meta=other)
    assert doc.parse_delete_request(body) == doc.DeleteRequest(flag, other)
    expected = "" if a == doc.NO_NEXT else a
    assert doc.parse_finish_meta(doc.finish_meta(a)) == expected


def test_a_token_is_never_shown() -> None:
    request = doc.parse_folder_request(doc.folder_request("auto", "bt1", "SECRET"))
    assert "SECRET" not in repr(request)


# ------------------------------------------------------------------------------- any bytes

jsons = values.map(lambda value: json.dumps(value).encode())
bodies = st.binary() | jsons | st.sampled_from([b"", b"[" * 10_000, b'{"a":' * 10_000, b"\xff"])
READERS = [
    doc.read_record,
    doc.read_records,
    doc.read_dataset,
    doc.read_no_data,
    doc.read_streams,
    doc.read_sources,
    doc.read_size,
    doc.read_file_size,
    doc.read_nacks,
    doc.read_last_ack,
    doc.read_receivers,
    doc.read_version,
    doc.parse_finish_meta,
]
PARSERS = [
    doc.parse_ack_request,
    doc.parse_delete_request,
    doc.parse_folder_request,
    doc.parse_introspect_request,
    doc.parse_transfer_request,
]


@given(bodies, st.sampled_from(READERS))
def test_any_answer_is_read_or_a_protocol_error(body: bytes, read: Any) -> None:
    try:
        read(body)
    except RemoteProtocolError as error:
        refused = error
    else:
        return
    assert not isinstance(refused, HttpError)


@given(bodies, st.sampled_from(PARSERS))
def test_any_body_is_parsed_or_an_http_error(body: bytes, parse: Any) -> None:
    try:
        parse(body)
    except HttpError as error:
        refused = error
    else:
        return
    assert refused.status in (400, 503)


@pytest.mark.parametrize(
    ("parse", "body", "status", "text"),
    [
        (doc.parse_ack_request, b"x", 400, "not understood"),
        (doc.parse_ack_request, b"{}", 503, "Wrong db operation: "),
        (doc.parse_ack_request, b'{"Op":"bad"}', 503, "Wrong db operation: bad"),
        (doc.parse_ack_request, b'{"Op":1}', 400, "Op"),
        (doc.parse_ack_request, b'{"Op":"negackmessage","Params":{"DelayMs":"1"}}', 400, "DelayMs"),
        (doc.parse_ack_request, b'{"Op":"negackmessage","Params":{"DelayMs":-1}}', 400, "-1 ms"),
        (
            doc.parse_delete_request,
            b'{"ErrorOnNotExist":true}',
            400,
            'wrong params: {"ErrorOnNotExist":true}',
        ),
        (
            doc.parse_delete_request,
            b'{"ErrorOnNotExist":1,"DeleteMeta":true}',
            400,
            "wrong params: ",
        ),
        (
            doc.parse_folder_request,
            b'{"Folder":"","BeamtimeId":"bt1","Token":"T"}',
            400,
            "some request fields are empty",
        ),
        (
            doc.parse_folder_request,
            b'{"Folder":"a","BeamtimeId":"b"}',
            400,
            "some request fields are empty",
        ),
        (doc.parse_folder_request, b'{"Folder":5}', 400, "Folder"),
        (doc.parse_introspect_request, b"{}", 400, "some request fields are empty"),
        (doc.parse_transfer_request, b'{"Folder":"auto"}', 400, "FileName"),
        (doc.parse_transfer_request, b'{"Folder":"auto","FileName":""}', 400, "empty"),
    ],
)
def test_refused_bodies(parse: Any, body: bytes, status: int, text: str) -> None:
    with pytest.raises(HttpError) as caught:
        parse(body)
    assert caught.value.status == status
    assert text in caught.value.text


def test_ack_of_old_clients() -> None:
    ack = doc.parse_ack_request(b'{"Op":"negackmessage"}')
    assert ack == doc.AckRequest(True, 0)
    assert doc.parse_introspect_request(b'{"Token":"T"}') == "T"


@pytest.mark.parametrize(
    "meta",
    [b"", b"[]", b"{}", b'{"next_stream":1}', b'{"next_stream":"a"b"}', b'{"next_stream":"\xff"}'],
)
def test_wrong_finish_flags(meta: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="finish flag"):
        doc.parse_finish_meta(meta)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (11, (1, True)),
        (12, (2, True)),
        (13, (3, True)),
        (1, (1, False)),
        (2, (2, False)),
        (3, (3, False)),
        *((wrong, None) for wrong in (0, 4, 9, 10, 14, 20, 21, 33, 2**64 - 1)),
    ],
)
def test_modes_of_metadata(code: int, expected: tuple[int, bool] | None) -> None:
    raw = pack_request(OpCode.TRANSFER_METADATA, 0, 2, 0, (9, code, 0), "s.meta", "s")
    if expected:
        assert doc.meta_mode(unpack_request(raw)) == expected
    else:
        with pytest.raises(RemoteProtocolError, match=str(code)):
            doc.meta_mode(unpack_request(raw))


def test_targets_of_metadata() -> None:
    def target(op: int, path: str, stream: str) -> str:
        return doc.meta_target(unpack_request(pack_request(op, 0, 2, 0, (9, 1, 0), path, stream)))

    assert target(8, "beamtime_global.meta", "") == ""
    assert target(8, "a b/c.meta", "a b/c") == "a b/c"
    assert target(10, "", "") == ""
    assert target(10, "", "s") == "s"
    for path, stream in (("s.meta", ""), ("s.meta", "t"), ("beamtime_global.meta", "s"), ("", "")):
        with pytest.raises(RemoteProtocolError, match="is refused"):
            target(8, path, stream)


@pytest.mark.parametrize(
    ("flags", "error_if_absent", "with_meta"),
    [(0, False, False), (1, False, True), (2, True, False), (3, True, True)],
)
def test_flags_of_deletions(flags: int, error_if_absent: bool, with_meta: bool) -> None:
    request = unpack_request(pack_request(OpCode.DELETE_STREAM, custom=(flags, 0, 0), stream="s"))
    assert doc.delete_flags(request) == doc.DeleteRequest(error_if_absent, with_meta)


def test_records_of_other_servers() -> None:
    body = (
        b'{"_id":1,"buf_id":-1,"dataset_substream":0,"meta":{"a":1},"name":"processed/1","size":3,'
        b'"source":"127.0.0.1:29521","timestamp":1795331470611415766,"unknown":[1]}'
    )
    record = doc.read_record(body)
    assert record["buf_id"] == 2**64 - 1
    assert "stream" not in record
    assert "unknown" not in record
    for key in ("_id", "buf_id", "dataset_substream", "meta", "name", "size", "source"):
        broken = {name: value for name, value in json.loads(body).items() if name != key}
        with pytest.raises(RemoteProtocolError, match="malformed response"):
            doc.read_record(json.dumps(broken).encode())
    for key, value in (("_id", 1.5), ("_id", "6"), ("meta", []), ("name", None)):
        with pytest.raises(RemoteProtocolError, match="malformed response"):
            doc.read_record(json.dumps(json.loads(body) | {key: value}).encode())
    old = b'{"_id":1,"size":2,"messages":[' + body + b"]}"
    assert doc.read_dataset(old)["dataset_size"] == 2
    assert doc.read_dataset(b'{"_id":1,"dataset_size":3}')["messages"] == []
    with pytest.raises(RemoteProtocolError, match="dataset_size"):
        doc.read_dataset(b'{"_id":1}')


# ------------------------------------------------------------------------------- versions


def test_versions() -> None:
    def said(client: str, protocol: str) -> tuple[str, str, int]:
        read = doc.read_version(doc.version(client, protocol))
        assert read["softwareVersion"].startswith("Beamstream ")
        offered = read["supportedProtocols"]
        names = [entry["versionInfo"] for entry in offered or []]
        assert names in ([], ["v0.7 (current)", "v0.5 (current)"])
        return read["clientSupported"], read["clientProtocol"]["versionInfo"], len(names)

    assert said("consumer", "v0.7") == ("yes", "v0.7 (current)", 2)
    assert said("producer", "v0.5") == ("yes", "v0.5 (current)", 2)
    assert said("consumer", "v0.6") == ("no", "v0.6 (unknown protocol)", 2)
    assert said("consumer", "") == ("", "", 2)
    assert said("", "v0.7") == ("", "", 0)
    assert said("cat", "v0.7") == ("", "", 0)


def test_versions_as_21_12_tells_them(replies_21_12: list[dict[str, Any]]) -> None:
    theirs = {line["request"]: line.get("body") for line in replies_21_12}

    def compare(request: str, client: str, protocol: str) -> None:
        their, our = json.loads(theirs[request]), json.loads(doc.version(client, protocol))
        assert our.keys() == their.keys()
        for key in ("clientProtocol", "clientSupported"):
            assert our[key] == their[key]

    compare("GET /v0.1/version", "", "")
    compare("GET /v0.1/version?client=consumer&protocol=v0.5", "consumer", "v0.5")


# ------------------------------------------------------------------------------- captures


def test_captured_answers(http_captures: list) -> None:
    readers = {
        "/next?": doc.read_record,
        "/last?": doc.read_record,
        "/groupedlast?": doc.read_record,
        "/streams?": doc.read_streams,
        "/sources?": doc.read_sources,
        "/size?": doc.read_size,
        "/nacks?": doc.read_nacks,
        "/lastack?": doc.read_last_ack,
        "/querymessages?": doc.read_records,
        "/asapo-receiver?": doc.read_receivers,
        "/version?": doc.read_version,
    }
    seen = set()
    for about, _, _ in http_captures:
        body = about["reply_body"].encode()
        if about["status"] == 409 and b"get_record_by_id" in body:
            none = doc.read_no_data(body)
            assert doc.no_data(none.id, none.id_max, none.next_stream) == body
            continue
        if about["status"] not in (200, 206):
            continue
        if "dataset=true" in about["request_line"]:
            found = doc.read_dataset(body)
            assert len(found["messages"]) in (1, found["dataset_size"])
            continue
        for end, read in readers.items():
            if end in about["request_line"]:
                read(body)
                seen.add(end)
    assert seen == set(readers)


def test_captured_records_are_written_alike(http_captures: list) -> None:
    count = 0
    for about, _, _ in http_captures:
        if about["status"] != 200 or "/next?" not in about["request_line"]:
            continue
        body = json.loads(about["reply_body"])
        if "messages" in body:
            continue
        read = doc.read_record(about["reply_body"].encode())
        meta = json.dumps(read["meta"]).encode()
        record = Record(
            *(read["time_id"], read["_id"], read["dataset_substream"], read["name"], read["size"]),
            *(b"", meta, read["timestamp"], 0, read["ingest_mode"], 2, 2, 0),
        )
        ours = doc.message_record(record, read["stream"], read["source"], read["buf_id"])
        assert json.loads(ours) == body
        assert list(json.loads(ours)) == list(body)
        count += 1
    assert count >= 4


def test_captured_bodies(http_captures: list) -> None:
    parsed = []
    for about, _, _ in http_captures:
        path, body = about["request_line"].partition("?")[0], about["request_body"].encode()
        if path.endswith("/folder"):
            parsed.append(doc.parse_folder_request(body).beamtime)
        elif path.endswith("/transfer"):
            parsed.append(doc.parse_transfer_request(body).name)
        elif path.endswith("/delete"):
            parsed.append(doc.parse_delete_request(body).with_meta)
        elif b'"Op"' in body:
            parsed.append(doc.parse_ack_request(body).delay_ms)
    assert {"bt1", "processed/f2", True, 0, 250} <= set(parsed)


def test_captured_metadata_and_finish_flags(tcp_captures: list) -> None:
    modes, nexts, targets = set(), set(), set()
    for about, raw, _ in tcp_captures:
        request = unpack_request(raw)
        if request.op == OpCode.TRANSFER_METADATA:
            modes.add(doc.meta_mode(request))
            targets.add(doc.meta_target(request))
        elif request.path == doc.FINISH_NAME:
            meta = raw[REQUEST_NBYTES : REQUEST_NBYTES + request.meta_size]
            nexts.add(doc.parse_finish_meta(meta))
            assert doc.finish_meta(doc.parse_finish_meta(meta)) == meta, about["name"]
    assert modes == {(1, True), (2, True), (2, False), (3, True), (3, False)}
    assert targets == {"", "s1"}
    assert nexts == {"nx", ""}


def test_answers_of_21_12_are_read(replies_21_12: list[dict[str, Any]]) -> None:
    count = 0
    for line in replies_21_12:
        body = str(line.get("body", "")).encode()
        if line["service"] != "broker" or not body.startswith((b"{", b"[")):
            continue
        if line["status"] == 409:
            none = doc.read_no_data(body)
            assert doc.no_data(none.id, none.id_max, none.next_stream) == body
        elif b'"messages"' in body:
            assert doc.read_dataset(body)["dataset_size"] == 2
        elif b'"buf_id"' in body:
            (doc.read_records if body.startswith(b"[") else doc.read_record)(body)
        elif b'"streams"' in body:
            assert {stream["name"] for stream in doc.read_streams(body)} == {"s", "d"}
        else:
            msgspec.json.decode(body)
            continue
        count += 1
    assert count >= 10
