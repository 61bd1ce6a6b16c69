from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamstream.cli import up
from beamstream.server.auth import Authorizer
from beamstream.settings import load
from beamstream.store.folder import DataFolder
from beamstream.store.registry import Registry

DAY_NS = 24 * 3600 * 10**9
NOW_NS = 1_800_000_000 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "my data", create=True)


@pytest.fixture
def registry(folder: DataFolder) -> Iterator[Registry]:
    registry = Registry(folder.node_db)
    yield registry
    registry.close()


def test_ready_writes_connect_json_and_prints_the_banner(
    folder: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = load({"data": folder.path, "http": ":18400", "cache": "512MiB"}, {})
    up.on_ready(settings)
    text = capsys.readouterr().out
    connect = json.loads(folder.connect_file.read_bytes())
    assert connect["url"] == "http://127.0.0.1:18400"
    assert (connect["ingest"], connect["data_port"]) == ("127.0.0.1:8401", "127.0.0.1:8402")
    assert connect["pid"] == os.getpid()
    exports = re.findall("export BEAMSTREAM_URL=(.+) BEAMSTREAM_TOKEN=(.+)", text)
    assert exports == [(connect["url"], connect["token"])]
    for part in ("127.0.0.1:18400", ":8401", ":8402", "512MiB", "64MiB", "disk", "GiB free"):
        assert part in text
    assert f"--data '{folder.path}'" in text


def test_the_token_of_connect_json_opens_the_demo(folder: DataFolder, registry: Registry) -> None:
    token = up.demo_token(folder, registry, NOW_NS)
    grant = Authorizer(registry, folder.key, lambda: NOW_NS / 1e9).grant(token)
    assert (grant.subject, grant.access) == ("bt_demo", {"read", "write", "writeraw"})


def test_the_token_is_kept_until_its_last_week(folder: DataFolder, registry: Registry) -> None:
    first = up.demo_token(folder, registry, NOW_NS)
    folder.write_connect(json.dumps({"token": first}).encode())
    assert up.demo_token(folder, registry, NOW_NS + 22 * DAY_NS) == first
    assert up.demo_token(folder, registry, NOW_NS + 24 * DAY_NS) != first
    registry.revoke_token(registry.tokens()[0].token_id, NOW_NS)
    assert up.demo_token(folder, registry, NOW_NS) != first


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"token": 5}', b"\xff", b"{"])
def test_a_broken_connect_json_is_replaced(
    folder: DataFolder, registry: Registry, content: bytes
) -> None:
    folder.write_connect(content)
    token = up.demo_token(folder, registry, NOW_NS)
    assert Authorizer(registry, folder.key, lambda: NOW_NS / 1e9).grant(token).valid


@pytest.mark.parametrize(
    ("flags", "free", "warning"),
    [
        ({"http": "0.0.0.0:1"}, 2**40, "trusted network"),
        ({"data_port": "192.168.0.7:1"}, 2**40, "192.168.0.7:1"),
        ({"durability": "cache"}, 2**40, "a crash loses"),
        ({"durability": "os"}, 2**40, "power cut may lose"),
        ({}, 2**20, "nearly full"),
    ],
)
def test_what_is_unsafe_is_said(flags: dict[str, object], free: int, warning: str) -> None:
    settings, _ = load(flags, {})
    assert warning in up.banner(settings, "TOKEN", nbytes_free=free)
    calm, _ = load({}, {})
    assert warning not in up.banner(calm, "TOKEN", nbytes_free=2**40)


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        ({}, "http://127.0.0.1:8400"),
        ({"http": "0.0.0.0:80"}, "http://127.0.0.1:80"),
        ({"http": "[::]:80"}, "http://[::1]:80"),
        ({"http": "10.0.0.5:80"}, "http://10.0.0.5:80"),
        ({"http": "0.0.0.0:80", "advertise": "node7"}, "http://node7:80"),
    ],
)
def test_addresses_that_are_handed_out_can_be_reached(flags: dict[str, object], url: str) -> None:
    assert up.url(load(flags, {})[0]) == url
