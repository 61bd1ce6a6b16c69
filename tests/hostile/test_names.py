"""Names that would lead elsewhere or break the readers of others."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from compat.doors import Doors
from compat.wire import (
    CACHE_ONLY,
    META_ONLY,
    METADATA,
    OK,
    STORED,
    WRONG,
    Tcp,
)

pytestmark = pytest.mark.system

TRAVERSING = [
    "../x", "processed/../../x", "processed/..", "..", ".", "./x", "/etc/passwd", "//x",
    "processed//x", "processed/./x", "processed/", "/", "a/../b", "processed/x/..",
    "processed/.part-1", ".part-x/y",
]  # fmt: skip
BROKEN = [
    b'processed/a"b', b"processed/a\\b", b"processed/a\nb", b"processed/a\x01b", b"processed/\x7f",
    b"processed/\xff\xfe", b"processed/\xc0\xae\xc0\xae/x", b"processed/\xed\xa0\x80",
    "processed/\u202egnp".encode(), "processed/\u0085".encode(), b"processed/" + b"n" * 256,
    b"p" * 1024, b"\xc3" * 1024,
]  # fmt: skip
STREAMS = [
    b"", b'a"b', b"a\\b", b"a\nb", b"\x01", b"\xff", b"\xc0\xaf", b"s" * 1024,
    "\u202ex".encode(), b"\xe2\x82",
]  # fmt: skip


def put_code(wire: Tcp, data: bytes, name: bytes, **more: Any) -> int:
    """The answer's code; a connection that is closed counts as WRONG if the name is no UTF-8."""
    try:
        return wire.put(1, data, **more).code
    except ConnectionError:
        with pytest.raises(UnicodeDecodeError):
            name[:1024].decode()
        return WRONG


def files(doors: Doors) -> set[Path]:
    folders = (doors.core.parent, doors.node.data / "beamlines")
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


def nothing_recorded(doors: Doors, source: str) -> None:
    with doors.http() as http:
        target = f"/v0.7/beamtime/bt1/{source}/0/streams{doors.query()}"
        assert http.get(target).json == {"streams": []}


@pytest.mark.parametrize("mode", [CACHE_ONLY, STORED, META_ONLY])
def test_paths(doors: Doors, source: str, mode: int) -> None:
    data = b"" if mode == META_ONLY else b"x"
    before = files(doors)
    for path in [*(text.encode() for text in TRAVERSING), *BROKEN]:
        with doors.receiver(source) as wire:
            assert put_code(wire, data, path, path=path, mode=mode) == WRONG, path
    nothing_recorded(doors, source)
    assert files(doors) == before
    assert not (doors.node.data.parent / "x").exists()


def test_empty_path(doors: Doors, source: str) -> None:
    with doors.receiver(source) as wire:
        assert wire.ask(2, 1, b"x", custom=(9, 0, 0), path="", stream="s").code == WRONG


def test_streams(doors: Doors, source: str) -> None:
    for stream in STREAMS:
        with doors.receiver(source) as wire:
            assert put_code(wire, b"x", stream, stream=stream) == WRONG, stream
        if stream in (b"", b"s" * 1024):
            continue
        with doors.receiver(source) as wire, contextlib.suppress(ConnectionError):
            path = stream + b".meta"
            reply = wire.ask(METADATA, data=b"{}", custom=(9, 12, 0), path=path, stream=stream)
            assert reply.code == WRONG
    nothing_recorded(doors, source)


def test_names_end_at_the_first_nul(doors: Doors, source: str) -> None:
    with doors.receiver(source) as wire:
        reply = wire.put(1, b"x", path=b"processed/a\0/../../b", stream=b"s\0\xff")
        assert reply.code == OK
    assert doors.record(1, "s", source)["name"] == "processed/a"


def test_longest_names(doors: Doors, source: str) -> None:
    path = ("processed/" + "d" * 200 + "/") * 4 + "f" * 100
    stream = "ü" * 500 + "s" * 23
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x", path=path, stream=stream).code == OK
    assert doors.record(1, stream, source)["name"] == path


@pytest.mark.parametrize(
    "segment",
    [
        "%00", "a%00b", "%0a", "%22", "%5C", "%zz", "%", "%e2%82", "%ff", "%c0%ae", "%ed%a0%80",
        "%E2%80%AE", "s" * 3500,
    ],
)  # fmt: skip
def test_names_in_urls(doors: Doors, segment: str) -> None:
    tail = doors.query()
    with doors.http() as http:
        for target in (
            f"/v0.7/beamtime/bt1/src1/{segment}/g/next{tail}",
            f"/v0.7/beamtime/bt1/src1/s/{segment}/next{tail}",
            f"/v0.7/beamtime/bt1/{segment}/s/g/next{tail}",
            f"/v0.7/beamtime/bt1/{segment}/0/streams{tail}",
        ):
            assert http.get(target).status == 400, target
        listed = http.get(f"/v0.7/beamtime/bt1/src1/0/streams{tail}&single=true&from={segment}")
        assert listed.status == 400 or listed.json == {"streams": []}
        assert http.get(f"/v0.7/beamtime/{segment}/src1/s/size{tail}").status in (400, 401)


@pytest.mark.parametrize("beamtime", ["..", ".", "bt1%2F..", "%2e%2e", "bt1/..", "BT1", "bt1%20"])
def test_beamtimes_in_urls(doors: Doors, beamtime: str) -> None:
    with doors.http() as http:
        answer = http.get(f"/v0.7/beamtime/{beamtime}/src1/s/size{doors.query()}")
        assert answer.status in (400, 401, 404)


def test_dots_are_names_of_streams(doors: Doors, source: str) -> None:
    with doors.receiver(source) as wire:
        assert wire.put(1, b"dots", stream="..").code == OK
    with doors.http() as http:
        for spelled in ("..", "%2e%2e", "%2E."):
            target = f"/v0.7/beamtime/bt1/{source}/{spelled}/0/1{doors.query()}"
            assert http.get(target).json["stream"] == ".."
