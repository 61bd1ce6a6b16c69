"""Payloads as files: stored, served without the cache, and never anybody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from official.clients import STORED, Lab, refused, subject
from official.consumer_errors import (
    AsapoConsumerError,
    AsapoDataNotInCacheError,
    AsapoUnavailableServiceError,
)
from official.producer_errors import AsapoWrongInputError as Refused

NO_SUCH_BUFFER = 2**62 + 12345


def core(lab: Lab) -> Path:
    return lab.node.data / "beamtimes" / lab.beamtime


def stored(lab: Lab, id: int, data: bytes, name: str) -> dict[str, Any]:
    """Send a file and return its record."""
    lab.sender.send(id, data, path=f"processed/{lab.source}/{name}", mode=STORED).ok()
    record: dict[str, Any] = lab.consumer().get_by_id(id, stream="s")[1]
    return record


@subject("stored file")
def test_stored_file(lab: Lab) -> None:
    record = stored(lab, 1, b"file content", "deep/er/f1")
    assert record["ingest_mode"] == STORED
    consumer = lab.consumer(1000)
    assert bytes(consumer.retrieve_data(record)) == b"file content"
    assert bytes(consumer.retrieve_data(record | {"buf_id": 0})) == b"file content"
    assert (core(lab) / record["name"]).read_bytes() == b"file content"


@subject("cache miss")
def test_cache_miss(lab: Lab) -> None:
    record = stored(lab, 1, b"Z" * 100_000, "big")
    consumer = lab.consumer(1000)
    missed = record | {"buf_id": NO_SUCH_BUFFER}
    assert bytes(consumer.retrieve_data(missed)) == b"Z" * 100_000
    assert bytes(consumer.retrieve_data(record)) == b"Z" * 100_000
    unknown_size = record | {"buf_id": 0, "size": 0}
    assert bytes(consumer.retrieve_data(unknown_size)) == b"Z" * 100_000


@subject("cache-only miss")
def test_cache_only_miss(lab: Lab) -> None:
    lab.fill("s", [1])
    consumer = lab.consumer()
    record = consumer.get_by_id(1, stream="s")[1]
    refused(AsapoDataNotInCacheError, consumer.retrieve_data, record | {"buf_id": NO_SUCH_BUFFER})
    assert bytes(consumer.retrieve_data(record)) == b"data 1"


@subject("missing file")
def test_missing_file(lab: Lab) -> None:
    record = stored(lab, 1, b"x", "there")
    consumer = lab.consumer(200)
    absent = record | {"buf_id": 0, "name": f"processed/{lab.source}/not_there"}
    refused(AsapoUnavailableServiceError, consumer.retrieve_data, absent)


@subject("path escape")
@pytest.mark.parametrize(
    "name",
    [
        "../" * 12 + "etc/hostname",
        "processed/../../../../../../../../../../../../etc/hostname",
        "/etc/hostname",
        "processed/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/hostname",
        "../../key",
        "../../node.db",
        ".",
        "",
    ],
)
def test_no_name_leads_out(lab: Lab, name: str) -> None:
    record = stored(lab, 1, b"x", "there")
    consumer = lab.consumer(100)
    for size in (0, 1, 32):
        with pytest.raises(AsapoConsumerError):
            consumer.retrieve_data(record | {"buf_id": 0, "size": size, "name": name})


@subject("file system")
def test_reader_with_file_system(lab: Lab) -> None:
    record = stored(lab, 1, b"on disk", "h1")
    consumer = lab.consumer(1000, path=str(core(lab)), file_system=True)
    assert bytes(consumer.retrieve_data(record | {"buf_id": 0})) == b"on disk"


@subject("file only")
def test_file_without_a_message(lab: Lab) -> None:
    name = f"processed/{lab.source}/only"
    lab.sender.send(1, b"x", path=name, mode=5).ok()
    lab.sender.send(1, b"y", path=name, mode=5).fails(Refused)
    assert lab.consumer().get_current_size("s") == 0
    assert lab.consumer().get_stream_list() == []
    assert (core(lab) / name).read_bytes() == b"x"


@subject("checked paths")
def test_paths_are_checked(lab: Lab) -> None:
    paths = [
        "processed/../x", "raw/x", "no_folder", "/processed/x", "processed//x", "processed/./x",
        "processed/", "processed", "processed/.part-x", "other/x",
        "processed/" + "n" * 300,
    ]  # fmt: skip
    for id, path in enumerate(paths, 1):
        lab.sender.send(id, b"x", path=path, mode=STORED).fails(Refused)
    traversing = ["../x", "/etc/x", "a/../../b", "a//b"]
    for id, path in enumerate(traversing, 100):
        for mode in (9, 2):
            lab.sender.send(id, b"x" if mode == 9 else None, path=path, mode=mode).fails(Refused)
    assert lab.consumer().get_current_size("s") == 0
    assert not (core(lab).parent / "x").exists()
    lab.fill("s", [1])


@subject("no overwriting")
def test_no_overwriting(lab: Lab) -> None:
    record = stored(lab, 1, b"first", "same")
    name = record["name"]
    lab.sender.send(2, b"other", path=name, mode=STORED).fails(Refused)
    lab.sender.send(1, b"other", "another stream", path=name, mode=STORED).fails(Refused)
    foreign = core(lab) / "processed" / lab.source / "foreign"
    foreign.write_bytes(b"put here by somebody else")
    path = f"processed/{lab.source}/foreign"
    lab.sender.send(3, b"mine", path=path, mode=STORED).fails(Refused)
    assert foreign.read_bytes() == b"put here by somebody else"
    lab.sender.send(4, b"put here by somebody else", path=path, mode=STORED).ok()
    assert (core(lab) / name).read_bytes() == b"first"
    assert lab.consumer().get_current_size("s") == 2
    parts = [path.name for path in core(lab).rglob(".part-*")]
    assert parts == []


@subject("raw folders")
def test_raw_folders(lab: Lab) -> None:
    there = lab.beside(beamtime="blt1")
    raw = there.producer(kind="raw", beamline="p01")
    for id, mode in ((1, STORED), (2, STORED | 16)):
        raw.send(id, b"raw %d" % id, path=f"raw/{lab.source}/{id}", mode=mode).ok()
    raw.send(3, b"x", path="processed/x", mode=STORED).fails(Refused)
    found = {
        str(path.relative_to(lab.node.data)): path.read_bytes()
        for path in lab.node.data.rglob(f"raw/{lab.source}/*")
    }
    assert found == {
        f"beamlines/p01/blt1/raw/{lab.source}/1": b"raw 1",
        f"beamtimes/blt1/raw/{lab.source}/2": b"raw 2",
    }
    consumer = there.consumer(1000)
    for id in (1, 2):
        record = consumer.get_by_id(id, stream="s")[1] | {"buf_id": 0}
        assert bytes(consumer.retrieve_data(record)) == b"raw %d" % id
    there.close()
