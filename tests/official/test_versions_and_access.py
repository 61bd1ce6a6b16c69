"""Who may speak with the node, and what it says about itself."""

from __future__ import annotations

from urllib.parse import unquote

from official.clients import Lab, refused, subject
from official.consumer_errors import AsapoWrongInputError as ConsumerRefused
from official.producer_errors import AsapoWrongInputError as ProducerRefused


@subject("producer version")
def test_producer_version(lab: Lab) -> None:
    info = lab.producer().api.get_version_info()
    assert info["supported"] is True
    assert "producer protocol: v0.7" in info["client"]
    for kind in ("producer", "consumer"):
        assert f"{kind} protocol on server: v0.7" in info["server"]
    assert "Server version: " in info["server"]


@subject("consumer version")
def test_consumer_version(lab: Lab) -> None:
    info = lab.consumer().get_version_info()
    assert info["supported"] is True
    assert "consumer protocol: v0.7" in info["client"]
    assert "consumer protocol on server: v0.7" in info["server"]


@subject("bad token")
def test_bad_token(lab: Lab) -> None:
    lab.producer(token="no.such.token").send(1, b"x").fails(ProducerRefused)
    consumer = lab.consumer(token="no.such.token")
    assert "JWT token" in str(refused(ConsumerRefused, consumer.get_current_size, "s"))
    refused(ConsumerRefused, consumer.get_next, "g", stream="s")
    head, claims, signature = lab.token.split(".")
    forged = f"{head}.{claims}.{signature[::-1]}"
    refused(ConsumerRefused, lab.consumer(token=forged).get_current_size, "s")


@subject("foreign beamtime")
def test_foreign_beamtime(lab: Lab) -> None:
    other = lab.consumer(beamtime="other1")
    refused(ConsumerRefused, other.get_current_size, "s")
    refused(ConsumerRefused, other.get_stream_list)
    lab.producer(beamtime="other1").send(1, b"x").fails(ProducerRefused)


@subject("read-only token")
def test_read_only_token(lab: Lab) -> None:
    lab.fill("s", [1])
    token = lab.node.token(lab.beamtime, "read")
    lab.producer(token=token).send(2, b"x").fails(ProducerRefused)
    consumer = lab.consumer(token=token)
    data, record = consumer.get_by_id(1, meta_only=False, stream="s")
    assert (bytes(data), record["_id"]) == (b"data 1", 1)
    refused(ConsumerRefused, consumer.delete_stream, "s")
    assert consumer.get_current_size("s") == 1


@subject("write-only token")
def test_write_only_token(lab: Lab) -> None:
    token = lab.node.token(lab.beamtime, "write")
    lab.producer(token=token).send(1, b"x").ok()
    refused(ConsumerRefused, lab.consumer(token=token).get_by_id, 1, stream="s")
    assert lab.read("s", 1) == b"x"


@subject("beamline token")
def test_beamline_token(lab: Lab) -> None:
    token = lab.node.token(beamline="p01", access="read,write,writeraw")
    sender = lab.producer(token=token, beamtime="auto", beamline="p01")
    sender.send(1, b"by beamline").ok()
    there = lab.beside(beamtime="blt1")
    assert there.read("s", 1) == b"by beamline"
    # The same producer's questions go to /beamtime/auto/, which is the beamline's as well.
    assert sender.api.get_stream_info("s")["lastId"] == 1
    by_name = lab.producer(token=token, beamtime="blt1", beamline="p01", kind="raw")
    by_name.send(2, b"raw", path=f"raw/{lab.source}/2", mode=13).ok()
    assert there.read("s", 2) == b"raw"
    lab.producer(token=token, beamtime="auto", beamline="p99").send(1, b"x").fails(ProducerRefused)


@subject("raw access")
def test_raw_needs_its_own_right(lab: Lab) -> None:
    token = lab.node.token(lab.beamtime, "read,write")
    raw = lab.producer(token=token, kind="raw")
    error = raw.send(1, b"x", path="raw/x").fails(ProducerRefused)
    assert "access" in unquote(str(error))
    lab.producer(token=token).send(1, b"x").ok()
    assert lab.consumer().get_current_size("s") == 1
