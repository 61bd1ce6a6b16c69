"""Programs of release 21.12 (protocol v0.5) work as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from compat.doors import Doors
from compat.v05_client import Consumer05, Producer05
from compat.wire import STORED, Reply

pytestmark = pytest.mark.system

DATASET = "&dataset=true&minsize=0"
INFO_KEYS = {"lastId", "name", "timestampCreated", "timestampLast", "finished", "nextStream"}


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def producer(doors: Doors, source: str) -> Iterator[Producer05]:
    with Producer05(doors, source) as producer:
        assert producer.login() == Reply(7, 0, "")
        yield producer


@pytest.fixture
def consumer(doors: Doors, source: str) -> Iterator[Consumer05]:
    with Consumer05(doors, source) as consumer:
        yield consumer


def ok(op: int, text: str = "") -> Reply:
    return Reply(op, 0, text)


def test_versions(doors: Doors) -> None:
    with doors.http() as http:
        for client in ("consumer", "producer"):
            answer = http.get(f"/asapo-discovery/v0.1/version?client={client}&protocol=v0.5")
            assert answer.status == 200
            assert answer.json["clientSupported"] == "yes"
            protocol = answer.json["clientProtocol"]
            assert protocol["versionInfo"].startswith("v0.5")
            service = "Broker" if client == "consumer" else "Receiver"
            assert protocol["microservicesApi"][service] == "v0.5"


def test_credentials_of_five_parts(doors: Doors) -> None:
    with Producer05(doors, "source with % and %%") as producer:
        assert producer.login() == ok(7)
        assert producer.login().code == 6
    with Consumer05(doors, "source with % and %%") as consumer:
        assert consumer.get("", "0/streams").json == {"streams": []}
    with Producer05(doors, "s", token="no.such.token") as producer:
        assert producer.login().code == 6
    with Producer05(doors, "s", beamtime="auto", beamline="p01") as producer:
        assert producer.login() == ok(7)
    with Producer05(doors, "s", beamline="p02") as producer:
        assert producer.login().code == 6


def test_a_client_newer_than_the_node(doors: Doors) -> None:
    with Producer05(doors) as producer:
        reply = producer.login("v0.99")
        assert reply.code == 4
        assert "v0.99" in reply.text


def test_messages(producer: Producer05, consumer: Consumer05) -> None:
    for id in (1, 2):
        assert producer.put(id, b"data %d" % id, meta=f'{{"i":{id}}}') == ok(2)
    assert producer.put(1, b"data 1", meta='{"i":1}') == Reply(
        2, 2, "ignoring duplicate record for id 1"
    )
    for id in (1, 2):
        answer = consumer.next("g", "s")
        assert answer.status == 200
        record = answer.json
        assert (record["_id"], record["meta"], record["size"]) == (id, {"i": id}, 6)
        assert (record["name"], record["dataset_substream"]) == (f"processed/{id}", 0)
        assert consumer.data(record) == (ok(6), b"data %d" % id)
        assert consumer.data(record | {"buf_id": 2**62 + id})[0].code == 5
        assert consumer.data(record | {"size": 7})[0].code == 5
    end = consumer.next("g", "s")
    assert end.status == 409
    assert end.json == {"op": "get_record_by_id", "id": 2, "id_max": 2, "next_stream": ""}
    assert consumer.by_id(2, "s").json["_id"] == 2
    assert consumer.get("s", "0/last").json["_id"] == 2
    assert consumer.get("s", "g/groupedlast").json["_id"] == 2
    assert consumer.get("s", "g/groupedlast").status == 409
    assert consumer.get("s", "size").json == {"size": 2}


def test_gap_and_position(producer: Producer05, consumer: Consumer05) -> None:
    for id in (1, 3):
        producer.put(id, b"x")
    assert consumer.next("g", "s").json["_id"] == 1
    gap = consumer.next("g", "s")
    assert (gap.status, gap.json["id"], gap.json["id_max"]) == (409, 2, 3)
    assert consumer.next("g", "s").json["_id"] == 3
    assert consumer.post("s", "g/resetcounter", query="&value=2").status == 200
    assert consumer.next("g", "s").json["_id"] == 3
    missing = consumer.next("g", "none")
    assert (missing.status, missing.json["id_max"]) == (409, 0)


def test_datasets(producer: Producer05, consumer: Consumer05) -> None:
    for part in (1, 2):
        assert producer.put(
            1, b"part%d" % part, stream="d", dataset=(part, 2), path=f"processed/d{part}"
        ) == ok(3)
        answer = consumer.next(f"g{part}", "d", DATASET)
        assert answer.status == (206, 200)[part - 1]
        record = answer.json
        assert (record["_id"], record["size"], len(record["messages"])) == (1, 2, part)
    for message in record["messages"]:
        number = message["dataset_substream"]
        assert consumer.data(message) == (ok(6), b"part%d" % number)
    assert consumer.by_id(1, "d", DATASET).json["size"] == 2
    assert consumer.get("d", "0/last", DATASET).json["_id"] == 1
    assert consumer.get("d", "size", "&incomplete=false").json == {"size": 1}


def test_finish_and_stream_information(producer: Producer05, consumer: Consumer05) -> None:
    producer.put(1, b"x", stream="s")
    producer.put(5, b"x", stream="t")
    assert producer.finish("s", 1, "t") == ok(2)
    info = producer.stream_info("s")
    assert info.code == 0
    document = json.loads(info.text)
    assert set(document) == INFO_KEYS
    assert (document["name"], document["finished"], document["nextStream"]) == ("s", True, "t")
    assert document["lastId"] in (1, 2)
    unknown = json.loads(producer.stream_info("nope").text)
    assert (unknown["lastId"], unknown["name"], unknown["finished"]) == (0, "nope", False)
    last = json.loads(producer.last_stream().text)
    assert (last["name"], last["lastId"]) == ("t", 5)
    assert consumer.next("g", "s").json["_id"] == 1
    for answer in (
        consumer.next("g", "s"),
        consumer.get("s", "0/last"),
        consumer.get("s", "g/groupedlast"),
        consumer.by_id(2, "s"),
    ):
        assert answer.status == 409
        assert answer.json == {
            "op": "get_record_by_id", "id": answer.json["id"], "id_max": 1, "next_stream": "t",
        }  # fmt: skip
    streams = consumer.get("", "0/streams").json["streams"]
    assert [(s["name"], s["lastId"], s["finished"]) for s in streams] == [
        ("s", 1, True),
        ("t", 5, False),
    ]
    finished = consumer.get("", "0/streams", "&filter=finished").json["streams"]
    assert [stream["name"] for stream in finished] == ["s"]
    assert consumer.get("", "0/streams", "&from=t").json["streams"][0]["name"] == "t"


def test_metadata(producer: Producer05, consumer: Consumer05) -> None:
    assert producer.get_meta() == ok(10)
    assert producer.get_meta("s") == ok(10)
    for mode in (2, 3):
        assert producer.send_meta('{"m":1}', "s", mode).code == 3
    assert producer.send_meta('{"m":1}', "s", 1) == ok(8)
    assert producer.send_meta('{"m":1}', "s", 1).code == 3
    assert json.loads(producer.get_meta("s").text) == {"m": 1}
    assert producer.send_meta('{"n":{"k":1}}', "s", 13) == ok(8)
    assert json.loads(producer.get_meta("s").text) == {"m": 1, "n": {"k": 1}}
    assert producer.send_meta('{"b":1}', "", 12) == ok(8)
    assert json.loads(producer.get_meta().text) == {"b": 1}
    assert consumer.get("default", "0/meta/0").json == {"b": 1}
    assert consumer.get("s", "0/meta/1").json == {"m": 1, "n": {"k": 1}}
    assert consumer.get("none", "0/meta/1").status == 409
    assert producer.send_meta("bla", "s").code == 3


def test_replies_hold_at_most_1023_bytes(producer: Producer05) -> None:
    large = json.dumps({"k": "v" * 3000})
    assert producer.send_meta(large, "s") == ok(8)
    reply = producer.get_meta("s")
    # A document that is cut is none; the old client gets an error that says so.
    assert reply.code != 0 or json.loads(reply.text) == json.loads(large)


def test_delete(doors: Doors, producer: Producer05, consumer: Consumer05) -> None:
    producer.put(1, b"x", stream="s")
    producer.put(1, b"x", stream="t")
    producer.send_meta('{"m":1}', "s")
    producer.send_meta('{"m":1}', "t")
    assert producer.delete_stream("s", meta=True) == ok(9)
    assert producer.delete_stream("t", meta=False) == ok(9)
    assert consumer.get("s", "size").json == {"size": 0}
    assert consumer.get("s", "0/meta/1").status == 409
    assert consumer.get("t", "0/meta/1").json == {"m": 1}
    assert producer.delete_stream("s", must_exist=False) == ok(9)
    assert producer.delete_stream("s").code == 3


def test_acknowledgements(producer: Producer05, consumer: Consumer05) -> None:
    for id in (1, 2, 3):
        producer.put(id, b"x")
    ack = '{"Op":"ackmessage"}'
    assert consumer.get("s", "g/lastack").json == {"lastAckId": 0}
    assert consumer.post("s", "g/2", ack).status == 200
    twice = consumer.post("s", "g/2", ack)
    assert (twice.status, twice.text) == (400, "already acknowledged")
    assert consumer.get("s", "g/nacks").json == {"unacknowledged": [1, 3]}
    assert consumer.get("s", "g/nacks", "&from=1&to=2").json == {"unacknowledged": [1]}
    assert consumer.get("s", "g/lastack").json == {"lastAckId": 2}
    resend = "&resend_nacks=true&delay_ms=0&resend_attempts=1"
    ids = [consumer.next("h", "s", resend).json["_id"] for _ in range(6)]
    assert sorted(ids) == [1, 1, 2, 2, 3, 3]
    assert consumer.next("h", "s", resend).status == 409
    nack = '{"Op":"negackmessage","Params":{"DelayMs":0}}'
    assert consumer.post("s", "h/2", nack).status == 200
    assert consumer.next("h", "s").json["_id"] == 2


def test_files(doors: Doors, producer: Producer05, consumer: Consumer05, source: str) -> None:
    name = f"processed/{source}/f"
    assert producer.put(1, b"content", path=name, mode=STORED) == ok(2)
    assert consumer.file(name).body == b"content"
    assert consumer.file(name, size_only=True).json == {"file_size": 7}
    assert consumer.file(name, folder=str(doors.core)).body == b"content"
    assert consumer.file("processed/none").status == 404
    assert consumer.file(name, folder="/etc").status == 401
    assert consumer.file(name, folder="").status == 400


def test_search(producer: Producer05, consumer: Consumer05) -> None:
    for id in (1, 2, 3):
        producer.put(id, b"x", meta=f'{{"n":{id}}}')
    found = consumer.post("s", "0/querymessages", "meta.n > 1 order by meta.n desc")
    assert [record["_id"] for record in found.json] == [3, 2]
    assert consumer.post("s", "0/querymessages", "bla bla").status == 400


def test_group_names_and_unknown_versions(consumer: Consumer05) -> None:
    names = {consumer.http.post(f"/v0.5/creategroup?token={consumer.token}").text for _ in "123"}
    assert len(names) == 3
    for path, status in (("/v0.9", 415), ("/vx", 400), ("/v1.0", 415)):
        target = f"{path}/beamtime/bt1/{consumer.source}/s/size?token={consumer.token}"
        assert consumer.http.get(target).status == status


def test_both_generations_meet(doors: Doors, consumer: Consumer05, source: str) -> None:
    with doors.receiver(source) as new:
        assert new.put(1, b"from 25.3", meta='{"v":7}') == ok(2)
    record = consumer.next("g", "s").json
    assert (record["meta"], consumer.data(record)[1]) == ({"v": 7}, b"from 25.3")
    assert doors.data(doors.record(1, "s", source)) == b"from 25.3"
