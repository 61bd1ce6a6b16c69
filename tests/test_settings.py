from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits, settings
from beamstream.errors import BadSetting
from beamstream.model import Level
from beamstream.settings import Address, Settings, load, parse_address, parse_size, show_size


def test_defaults() -> None:
    found, origins = load({}, {})
    assert found == Settings()
    assert (str(found.http), str(found.ingest), str(found.data_port)) == (
        "127.0.0.1:8400",
        "127.0.0.1:8401",
        "127.0.0.1:8402",
    )
    assert found.cache_nbytes == 2**30
    assert found.durability is Level.DISK
    assert set(origins) == set(settings.KEYS)
    assert set(origins.values()) == {"default"}
    assert found.cached_payload_nbytes_max == 2**30 // limits.CACHE_ARENAS


def test_every_field_of_the_tree_can_be_set() -> None:
    paths = {key.path for key in settings.KEYS.values()}
    fields = {
        (name, *below)
        for name in Settings.__struct_fields__
        for below in (
            [(inner,) for inner in getattr(Settings(), name).__struct_fields__]
            if name in ("folders", "log")
            else [()]
        )
    }
    assert paths == fields


def test_flags_beat_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('cache = "100MiB"\nhttp = ":1"\ningest = ":2"\n[log]\nlevel = "debug"\n')
    environ = {"BEAMSTREAM_HTTP": ":3", "BEAMSTREAM_INGEST": ":4", "HOME": "/x"}
    found, origins = load({"ingest": ":5", "durability": None}, environ, file)
    assert (found.cache_nbytes, found.http.port, found.ingest.port) == (100 * limits.MIB, 3, 5)
    assert found.log.level == "debug"
    assert origins["cache"] == origins["log.level"] == f"file {file}"
    assert origins["http"] == "environment BEAMSTREAM_HTTP"
    assert origins["ingest"] == "flag --ingest"
    assert origins["durability"] == "default"


@pytest.mark.parametrize(
    ("flags", "environ", "text", "near"),
    [
        ({"cahce": "1GiB"}, {}, "", "cache"),
        ({}, {"BEAMSTREAM_DURABILTY": "os"}, "", "BEAMSTREAM_DURABILITY"),
        ({}, {}, "data-port = ':1'", "data_port"),
        ({}, {}, "[folder]\nlayout = 'data'", "folders.layout"),
        ({}, {}, "[folders]\nlayuot = 'data'", "folders.layout"),
        ({}, {}, "[folder]", "folders.core"),
        ({}, {}, "[http]\nhost = 'x'", "http"),
        ({}, {}, "[folders.deep]\nlayout = 'data'", "folders.core"),
    ],
)
def test_unknown_names_are_refused(
    flags: dict[str, str], environ: dict[str, str], text: str, near: str, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(BadSetting, match="there is no setting") as caught:
        load(flags, environ, file)
    assert near in caught.value.hint


def test_a_table_may_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[folders]\n[log]\n")
    assert load({}, {}, file)[0] == Settings()


def test_variables_of_clients_are_not_settings() -> None:
    environ = dict.fromkeys(["BEAMSTREAM_URL", "BEAMSTREAM_TOKEN", "BEAMSTREAM_SHARED"], "x")
    assert load({}, environ)[0] == Settings()


@pytest.mark.parametrize("text", ["x = ", "\x80", "a" * 2**21, "[" * 5000])
def test_broken_files(text: str, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(BadSetting, match="settings file"):
        load({}, {}, file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="No such file"):
        load({}, {}, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache", "1"),
        ("cache", "a lot"),
        ("cache", True),
        ("cache", -1),
        ("cache", "1GiB2"),
        ("cache", "9999999999T"),
        ("cache", "١GiB"),
        ("cache_share", 0),
        ("cache_share", 0.2),
        ("cache_share", "nan"),
        ("durability", "fast"),
        ("durability", 1),
        ("http", "127.0.0.1"),
        ("http", "127.0.0.1:65536"),
        ("http", "a b:1"),
        ("http", "::1:80"),
        ("http", "[::x]:80"),
        ("http", "host\n:80"),
        ("http", ":٣"),
        ("http", 8400),
        ("advertise", "http://x"),
        ("advertise", "x:1"),
        ("allow_network", "perhaps"),
        ("data", ""),
        ("data", "a\0b"),
        ("folders.layout", "other"),
        ("folders.core", "{data}/{beamtime}/{0}"),
        ("folders.core", "{data}/all"),
        ("folders.core", "{data.parent}/{beamtime}"),
        ("folders.core", "{beamtime!r}"),
        ("folders.core", "{beamtime:>1000000000}"),
        ("folders.core", "{beamtime"),
        ("folders.beamline", "{data}/{beamtime}"),
        ("folders.root", "relative"),
        ("log.level", "trace"),
    ],
)
def test_bad_values(name: str, value: object) -> None:
    with pytest.raises(BadSetting, match=f"setting {name} "):
        load({"folders.layout": "template", name: value}, {})


def test_settings_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(BadSetting, match="does nothing"):
        load({"folders.core": "/x/{beamtime}"}, {})
    with pytest.raises(BadSetting, match="layout 'asapo' needs"):
        load({"folders.layout": "asapo"}, {})
    with pytest.raises(BadSetting, match="same address"):
        load({"http": ":8401"}, {})
    assert load({"http": ":0", "ingest": ":0", "data_port": ":0"}, {})[0].http.port == 0


@pytest.mark.parametrize(
    ("flags", "hosts", "network"),
    [
        ({}, ("127.0.0.1",) * 4, False),
        ({"http": "localhost:1"}, ("localhost", *("127.0.0.1",) * 3), False),
        ({"http": "0.0.0.0:1"}, ("0.0.0.0", *("127.0.0.1",) * 3), True),
        ({"ingest": "[::]:1"}, ("127.0.0.1", "::", "127.0.0.1", "127.0.0.1"), True),
        ({"native": "[::]:1"}, (*("127.0.0.1",) * 3, "::"), True),
        ({"allow_network": "true"}, ("0.0.0.0",) * 4, True),
        ({"allow_network": True, "http": "[::1]:1"}, ("::1", *("0.0.0.0",) * 3), True),
    ],
)
def test_the_network_comes_in_only_when_told_so(
    flags: dict[str, object], hosts: tuple[str, ...], network: bool
) -> None:
    found, _ = load(flags, {})
    assert tuple(door.host for door in found.doors.values()) == hosts
    assert found.allow_network is network
    assert bool(found.open_doors) is network


@given(st.integers(0, 2**63 - 1))
def test_sizes_come_back(nbytes: int) -> None:
    assert parse_size(show_size(nbytes)) == nbytes
    assert parse_size(str(nbytes)) == nbytes


@given(st.text(max_size=30) | st.integers() | st.none() | st.floats() | st.binary())
def test_sizes_are_numbers_or_refused(value: object) -> None:
    try:
        assert 0 <= parse_size(value) < 2**63
    except BadSetting:
        pass


@given(
    st.sampled_from(["127.0.0.1", "::1", "fe80::1", "node-7.example", "0.0.0.0", ""]),
    st.integers(0, 65535),
)
def test_addresses_come_back(host: str, port: int) -> None:
    assert parse_address(str(Address(host, port))) == Address(host, port)


@given(st.text(max_size=30))
def test_addresses_are_understood_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except BadSetting:
        return
    assert 0 <= address.port <= 65535
    assert not set(address.host) & set(" \n/%@")


def test_settings_are_frozen_and_shown_as_they_are_written() -> None:
    found, _ = load({"cache": "500M", "durability": "os", "folders.layout": "template"}, {})
    shown = dict(settings.items(found))
    assert (shown["cache"], shown["durability"], shown["folders.root"]) == ("500M", "os", "")
    again, _ = load({name: value for name, value in shown.items() if value}, {})
    assert again == found
    with pytest.raises(AttributeError):
        found.cache_nbytes = 1  # type: ignore[misc]


def test_tls_needs_certificate_and_key() -> None:
    found, _ = load({}, {"BEAMSTREAM_TLS_CERT": "c.pem", "BEAMSTREAM_TLS_KEY": "k.pem"})
    assert found.tls
    assert not load({}, {})[0].tls
    for variable in ("BEAMSTREAM_TLS_CERT", "BEAMSTREAM_TLS_KEY"):
        with pytest.raises(BadSetting, match="both"):
            load({}, {variable: "x.pem"})


def test_what_clients_read_from_the_environment_is_no_setting() -> None:
    names = ("URL", "TOKEN", "BEAMTIME", "CONNECT_FILE", "TLS_CA", "SHM")
    load({}, {f"BEAMSTREAM_{name}": "x" for name in names})
