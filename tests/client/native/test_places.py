"""Addresses, and who says where the node is."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.client.native.places import (
    Access,
    Finder,
    Place,
    find_access,
    parse_url,
    pointer_file,
    read_connect_file,
    read_well_known,
)
from beamstream.client.native.transport import Plain, joined
from beamstream.errors import BadInput, ConnectionLost, NotFound, RemoteProtocolError, TimedOut


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "prefix"),
    [
        ("node1", "http", "node1", 8400, ""),
        ("node1:9000", "http", "node1", 9000, ""),
        ("http://node1/asapo/", "http", "node1", 8400, "/asapo"),
        ("https://node1.example", "https", "node1.example", 8400, ""),
        ("tcp://[::1]", "tcp", "::1", 8403, ""),
        ("beamstream://10.0.0.1:1", "beamstream", "10.0.0.1", 1, ""),
        ("unix:/run/native.sock", "unix", "/run/native.sock", 0, ""),
        ("unix:///run/native.sock", "unix", "/run/native.sock", 0, ""),
    ],
)
def test_addresses(text: str, scheme: str, host: str, port: int, prefix: str) -> None:
    url = parse_url(text)
    assert (url.scheme, url.host, url.port, url.prefix) == (scheme, host, port, prefix)


@pytest.mark.parametrize(
    "text", ["", "ftp://x", "a b", "x:0", "x:70000", "http://", "[::1", "x:y", "http://x?y"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadInput):
        parse_url(text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        url = parse_url(text)
    except BadInput:
        return
    assert url.scheme == "unix" or 0 < url.port < 65536


def test_pointers() -> None:
    assert pointer_file({"BEAMSTREAM_CONNECT_FILE": "/x/y.json"}) == Path("/x/y.json")
    assert pointer_file({"BEAMSTREAM_CONNECT_FILE": ""}) is None
    home = pointer_file({})
    assert home is not None
    assert home.parts[-2:] == ("beamstream", "connect.json")


def write(path: Path, **more: Any) -> Path:
    told = {
        "url": "http://127.0.0.1:8400",
        "native": "127.0.0.1:8403",
        "tls": False,
        "beamtime": "demo",
        "token": "secret",
    }
    path.write_text(json.dumps({**told, **more}))
    return path


def test_what_is_given_comes_first(tmp_path: Path) -> None:
    file = write(tmp_path / "connect.json")
    environ = {"BEAMSTREAM_CONNECT_FILE": str(file)}
    own = Access("tcp://127.0.0.1:8403", "demo", "secret")
    assert find_access("", "", "", environ) == own
    assert find_access(str(file), "", "", {}) == own
    assert find_access("", "other", "mine", environ) == Access(own.url, "other", "mine")
    assert find_access("localhost:8400", "", "", environ).token == "secret"
    # A token is for the node that has made it, and is not shown to others.
    assert find_access("node1:8400", "", "", environ) == Access("node1:8400")
    told = {"BEAMSTREAM_URL": "node2", "BEAMSTREAM_TOKEN": "t", "BEAMSTREAM_BEAMTIME": "b"}
    assert find_access("", "", "", {**environ, **told}) == Access("node2", "b", "t")
    assert find_access("node3", "", "t3", {**environ, **told}) == Access("node3", "b", "t3")
    assert "secret" not in repr(own)


def test_nobody_says(tmp_path: Path) -> None:
    for environ in ({"BEAMSTREAM_CONNECT_FILE": ""}, {"XDG_RUNTIME_DIR": str(tmp_path)}):
        with pytest.raises(NotFound, match="nobody says where the node is"):
            find_access("", "", "", environ)
    with pytest.raises(NotFound):
        find_access(str(tmp_path / "no.json"), "", "", {})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 5}', '{"url": "x", "token": 5}'])
def test_connect_files_that_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "connect.json"
    file.write_text(text)
    assert read_connect_file(file) is None


def test_connect_files_say_what_is_best(tmp_path: Path) -> None:
    file = tmp_path / "connect.json"
    found = read_connect_file(write(file, tls=True))
    assert found is not None
    assert found.url == "tls://127.0.0.1:8403"
    found = read_connect_file(write(file, native="", unix="/run/n.sock"))
    assert found is not None
    assert found.url == "unix:/run/n.sock"
    found = read_connect_file(write(file, native=""))
    assert found is not None
    assert found.url == "http://127.0.0.1:8400"


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"native": "10.0.0.5:8403"}, Place("10.0.0.5", 8403)),
        ({"native": "8403"}, Place("node1", 8403)),
        ({"native": 8403, "tls": True}, Place("node1", 8403, True)),
    ],
)
def test_the_well_known_document(document: Any, place: Place) -> None:
    assert read_well_known(document, parse_url("node1")) == place


@pytest.mark.parametrize("document", [None, [], {}, {"native": ""}, {"native": "a b"}])
def test_nodes_without_a_native_door(document: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="no native door"):
        read_well_known(document, parse_url("node1"))


def answering(answer: bytes) -> tuple[str, threading.Thread]:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_one() -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(4096)
            peer.sendall(answer)

    thread = threading.Thread(target=answer_one)
    thread.start()
    return f"127.0.0.1:{listener.getsockname()[1]}", thread


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"native":8403}', True),
        (b'HTTP/1.0 200 OK\r\n\r\n{"native":8403}', True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n{}", False),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", False),
        (b"SSH-2.0-x\r\n", False),
        (b"", False),
        (b"x" * 100_000, False),
    ],
)
def test_asking_the_http_door(answer: bytes, found: bool) -> None:
    address, thread = answering(answer)
    finder = Finder(address, timeout_s=20)
    if found:
        assert finder.find() == Place("127.0.0.1", 8403)
    else:
        with pytest.raises((RemoteProtocolError, ConnectionLost)):
            finder.find()
    thread.join(20)


def test_an_http_door_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises((TimedOut, ConnectionLost)):
            Finder(f"127.0.0.1:{port}", timeout_s=0.05).find()


@given(st.lists(st.binary(max_size=5) | st.integers(60_000, 70_000).map(bytes), max_size=8))
def test_buffers_are_sent_in_order(buffers: list[bytes]) -> None:
    assert b"".join(joined(buffers)) == b"".join(buffers)
    one, other = socket.socketpair()
    with one, other:
        got = bytearray()

        def read() -> None:
            while piece := other.recv(1 << 16):
                got.extend(piece)

        reading = threading.Thread(target=read)
        reading.start()
        transport = Plain(one)
        transport.send(buffers)
        transport.shutdown()
        reading.join(20)
    assert got == b"".join(buffers)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners here")
def test_another_users_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "connect.json")
    monkeypatch.setattr(os, "getuid", lambda: file.stat().st_uid + 1)
    assert read_connect_file(file) is None
