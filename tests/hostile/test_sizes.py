"""Sizes that are announced and never meant."""

from __future__ import annotations

import contextlib

import pytest

from beamstream import limits
from compat.doors import Doors, parse_address
from compat.wire import (
    AUTHORIZE,
    BUFFER,
    CACHE_ONLY,
    DATASET,
    DENIED,
    META_ONLY,
    METADATA,
    NO_DATA,
    OK,
    REPLY,
    STORED,
    TRANSFER,
    WRONG,
    Reply,
    Tcp,
    header,
)

pytestmark = pytest.mark.system

HUGE = [2**64 - 1, 2**63, 2**63 - 1, 2**62, limits.PAYLOAD_NBYTES_MAX + 1]


def refusal(wire: Tcp) -> Reply | None:
    """What the node says before it closes; None when it says nothing. It has to close."""
    reply = None
    with contextlib.suppress(ConnectionError):
        op, code, text = REPLY.unpack(wire.read(REPLY.size))
        reply = Reply(op, code, text.split(b"\0")[0].decode())
        assert wire.closed()
    return reply


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("mode", [CACHE_ONLY, STORED])
def test_huge_payload(doors: Doors, source: str, size: int, mode: int) -> None:
    rss = doors.node.rss_nbytes()
    with doors.receiver(source) as wire:
        wire.send(header(TRANSFER, 1, size, 0, (mode, 0, 0), "processed/x", "s"))
        wire.send(b"some of it")
        reply = refusal(wire)
        assert reply is None or reply.code == WRONG
        assert doors.node.rss_nbytes() - rss < 4 * 2**20
    with doors.receiver(source) as wire:
        assert wire.put(1, b"good").code == OK
    assert not list(doors.core.rglob(".part-*"))


@pytest.mark.parametrize("size", [2**64 - 1, 2**63, limits.META_NBYTES_MAX + 1])
def test_huge_metadata(doors: Doors, source: str, size: int) -> None:
    rss = doors.node.rss_nbytes()
    with doors.receiver(source) as wire:
        wire.send(header(TRANSFER, 1, 5, size, (CACHE_ONLY, 0, 0), "processed/x", "s"), b"{}")
        reply = refusal(wire)
        assert reply is None or reply.code == WRONG
        assert doors.node.rss_nbytes() - rss < 4 * 2**20


@pytest.mark.parametrize("size", [2**64 - 1, 2**63, limits.STREAM_META_NBYTES_MAX + 1])
def test_huge_stream_metadata(doors: Doors, source: str, size: int) -> None:
    with doors.receiver(source) as wire:
        wire.send(header(METADATA, 0, size, 0, (CACHE_ONLY, 12, 0), "s.meta", "s"), b"{")
        reply = refusal(wire)
        assert reply is None or reply.code == WRONG


@pytest.mark.parametrize("size", [2**64 - 1, 2**62, limits.CREDENTIALS_NBYTES_MAX + 1])
def test_credentials_of_a_wrong_size(doors: Doors, size: int) -> None:
    rss = doors.node.rss_nbytes()
    with doors.tcp() as wire:
        wire.send(header(AUTHORIZE, 0, 0, size), b"processed%")
        reply = refusal(wire)
        assert reply is None or reply.code in (WRONG, DENIED)
        assert doors.node.rss_nbytes() - rss < 4 * 2**20


def test_no_credentials(doors: Doors) -> None:
    with doors.tcp() as wire:
        wire.send(header(AUTHORIZE))
        assert wire.reply().code in (WRONG, DENIED)


def test_data_announced_with_a_login(doors: Doors) -> None:
    """The protocol has none there: the announcement must not make the node wait or allocate."""
    rss = doors.node.rss_nbytes()
    with doors.tcp() as wire:
        raw = f"processed%i%s%bt1%auto%src%{doors.token}".encode()
        wire.send(header(AUTHORIZE, 0, 2**40, len(raw)), raw)
        assert wire.reply().code in (OK, WRONG, DENIED)
        assert doors.node.rss_nbytes() - rss < 4 * 2**20


def test_a_payload_larger_than_the_cache(doors: Doors, source: str) -> None:
    """To be kept in memory only it is refused for good: it is dropped as it comes."""
    rss = doors.node.rss_nbytes()
    nbytes = 128 * 2**20
    with doors.receiver(source) as wire:
        wire.send(header(TRANSFER, 1, nbytes, 0, (CACHE_ONLY, 0, 0), "processed/x", "s"))
        for _ in range(nbytes // 2**20):
            wire.send(bytes(2**20))
        assert wire.reply().code == WRONG
        assert doors.node.rss_nbytes() - rss < 4 * 2**20


@pytest.mark.parametrize("id", [2**63, 2**64 - 1])
@pytest.mark.parametrize("mode", [CACHE_ONLY, META_ONLY])
def test_ids_out_of_range(doors: Doors, source: str, id: int, mode: int) -> None:
    with doors.receiver(source) as wire:
        assert wire.put(id, b"x" if mode == CACHE_ONLY else b"", mode=mode).code == WRONG
    with doors.receiver(source) as wire:
        assert wire.put(2**63 - 1, b"x").code == OK
        assert wire.put(2**63 - 1, b"x").code == 2
    with doors.receiver(source) as wire:
        full = wire.put(0, b"x", path="processed/auto")
        assert full.code == WRONG


def test_ids_out_of_range_in_urls(doors: Doors, source: str) -> None:
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x").code == OK
    ack = '{"Op":"ackmessage"}'
    with doors.http() as http:
        base = doors.base("s", source)
        for id in ("-1", str(2**63), str(2**64), "9" * 400, "1.5", "0x1", "1e3", "%201", "%D9%A1"):
            assert http.get(f"{base}/0/{id}{doors.query()}").status == 400, id
            assert http.post(f"{base}/g/{id}{doors.query()}", ack).status in (400, 404, 405), id
            value = f"{base}/g/resetcounter{doors.query()}&value={id}"
            assert http.post(value).status == 400, id
        assert http.get(f"{base}/0/0{doors.query()}").status in (400, 409)
        assert http.post(f"{base}/g/0{doors.query()}", ack).status == 400
        assert http.get(f"{base}/0/1{doors.query()}").status == 200


def test_ranges_that_would_fill_memory(doors: Doors, source: str) -> None:
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x").code == OK
        assert wire.put(2**63 - 1, b"x").code == OK
    with doors.http() as http:
        target = f"{doors.base('s', source)}/g/nacks{doors.query()}"
        for bounds in ("", f"&from=1&to={2**63 - 1}", "&from=1&to=1000000000000"):
            answer = http.get(target + bounds)
            assert answer.status == 200
            ids = answer.json["unacknowledged"]
            assert ids == [1] if bounds.endswith("000") else [1, 2**63 - 1]
        assert http.get(f"{target}&from=-5&to=x").status == 400


@pytest.mark.parametrize(
    ("substream", "size"), [(1, 0), (3, 2), (0, 2), (1, 2**63), (2**64 - 1, 2), (1, 65_537)]
)
def test_datasets_of_impossible_sizes(doors: Doors, source: str, substream: int, size: int) -> None:
    with doors.receiver(source) as wire:
        reply = wire.ask(
            DATASET, 1, b"x", custom=(CACHE_ONLY, substream, size), path="processed/x", stream="d"
        )
        assert reply.code == WRONG
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x", stream="d", dataset=(1, 1)).code == OK


@pytest.mark.parametrize("mode", [0, 1, 3, 7, 6, 15, 32, 2**63, 2**64 - 1])
def test_impossible_ingest_modes(doors: Doors, source: str, mode: int) -> None:
    with doors.receiver(source) as wire:
        wire.send(header(TRANSFER, 1, 0, 0, (mode, 0, 0), "processed/x", "s"))
        assert wire.reply().code == WRONG
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x").code == OK


def test_empty_payloads(doors: Doors, source: str) -> None:
    with doors.receiver(source) as wire:
        reply = wire.put(1, b"", mode=STORED)
        assert reply.code == WRONG
        assert "wrong file size" in reply.text
    with doors.receiver(source) as wire:
        assert wire.put(2, b"", mode=CACHE_ONLY).code in (OK, WRONG)


@pytest.mark.parametrize("size", [0, 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("buffer", [0, 1, 2**62 + 1, 2**64 - 1])
def test_buffers_that_do_not_exist(doors: Doors, source: str, buffer: int, size: int) -> None:
    with doors.receiver(source) as wire:
        assert wire.put(1, b"payload").code == OK
    record = doors.record(1, "s", source)
    with Tcp(parse_address(record["source"])) as wire:
        wire.send(header(BUFFER, buffer, size, 0, (0, 0, 0), "", "", "v0.1"))
        assert wire.reply().code == NO_DATA
        wire.send(header(BUFFER, record["buf_id"], size, 0, (0, 0, 0), "", "", "v0.1"))
        assert wire.reply().code == NO_DATA
        reply, payload = wire.fetch(record["buf_id"], record["size"])
        assert (reply.code, payload) == (OK, b"payload")
