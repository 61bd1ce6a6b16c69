from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamstream._version import __version__
from beamstream.errors import ConnectionLost
from beamstream.server.auth import Authorizer
from beamstream.store.folder import DataFolder
from beamstream.store.registry import Registry


def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "BEAMSTREAM" not in name}
    return subprocess.run(
        [sys.executable, "-m", "beamstream.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean | environ,
        timeout=60,
        check=False,
    )


def good(*arguments: str | Path, **environ: str) -> str:
    done = run(*arguments, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def failed(code: int, *arguments: str | Path, **environ: str) -> str:
    done = run(*arguments, **environ)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("beamstream: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_version_and_help() -> None:
    assert good("--version") == f"{__version__}\n"
    text = good("--help")
    for command in ("up", "demo", "token", "beamtime", "config"):
        assert f"{command}:" in text
    for command in ("token", "beamtime", "config", "up"):
        assert f"beamstream {command}" in good(command, "--help")


def test_help_imports_no_machinery() -> None:
    program = (
        "import sys; from beamstream.cli.main import main; main(['--help']);"
        "print(sorted({'apsw', 'msgspec', 'jwt', 'numpy', 'asyncio', 'sqlglot', 'uvloop', "
        "'structlog'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "[]\n"


def test_a_token_from_a_fresh_folder(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    arguments = ("--data", data, "--beamtime", "bt1", "--access", "read, write", "--days", "2")
    text = good("token", "new", *arguments, "--note", "detector")
    assert text.count("\n") == 1
    assert " " not in text
    folder = DataFolder(data)
    registry = Registry(folder.node_db)
    row = registry.tokens()[0]
    clock = lambda: row.created_ns / 1e9  # noqa: E731
    grant = Authorizer(registry, folder.key, clock).grant(text.strip())
    registry.close()
    assert (grant.subject, grant.access) == ("bt_bt1", {"read", "write"})
    assert grant.expires - row.created_ns // 10**9 == 2 * 24 * 3600
    assert row.note == "detector"


def test_tokens_are_listed_and_revoked_beside_a_running_node(tmp_path: Path) -> None:
    token = good("token", "new", "--data", tmp_path, "--beamline", "p01", "--note", "a\x1b[2Jb")
    folder = DataFolder(tmp_path)
    with folder.locked():
        registry = Registry(folder.node_db)
        authorizer = Authorizer(registry, folder.key, lambda: registry.tokens()[0].created_ns / 1e9)
        grant = authorizer.grant(token.strip())
        table = good("token", "ls", "--data", tmp_path)
        assert grant.token_id in table
        assert "bl_p01" in table
        assert "good" in table
        assert "\x1b" not in table
        assert token.split(".")[2].strip() not in table
        good("token", "revoke", grant.token_id, "--data", tmp_path)
        authorizer.refresh(registry.tokens()[0].created_ns / 1e9)
        assert not grant.valid
        registry.close()
    rows = json.loads(good("token", "ls", "--json", BEAMSTREAM_DATA=str(tmp_path)))
    assert [(row["token_id"], row["state"]) for row in rows] == [(grant.token_id, "revoked")]
    assert rows[0]["access"] == ["read", "write"]


def test_beamtimes(tmp_path: Path) -> None:
    at = ("--data", tmp_path)
    assert "at beamline p01" in good("beamtime", "open", "bt1", "--beamline", "p01", *at)
    assert "at" not in good("beamtime", "open", "bt2", *at).removeprefix("beamtime")
    assert "belongs to" in failed(1, "beamtime", "open", "bt1", "--beamline", "p02", *at)
    assert "current" in good("beamtime", "ls", *at)
    good("beamtime", "close", "bt1", *at)
    rows = json.loads(good("beamtime", "ls", "--json", *at))
    assert [(row["beamtime"], row["beamline"], row["current"]) for row in rows] == [
        ("bt1", "p01", False),
        ("bt2", "", True),
    ]
    assert rows[0]["closed_ns"] > rows[0]["opened_ns"]


def test_listing_a_missing_folder_does_not_make_it(tmp_path: Path) -> None:
    missing = tmp_path / "typo"
    for command in ("token", "beamtime"):
        assert "no data folder" in failed(1, command, "ls", "--data", missing)
    assert not missing.exists()
    assert json.loads(good("token", "ls", "--json", "--data", tmp_path)) == []


def test_config_shows_every_value_with_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('durability = "os"\n[log]\nformat = "json"\n')
    shown = json.loads(
        good("config", "show", "--json", "--config", file, "--data", "x", BEAMSTREAM_CACHE="2GiB")
    )
    assert shown["durability"] == {"value": "os", "origin": f"file {file}"}
    assert shown["cache"] == {"value": "2GiB", "origin": "environment BEAMSTREAM_CACHE"}
    assert shown["data"] == {"value": "x", "origin": "flag --data"}
    assert shown["http"] == {"value": "127.0.0.1:8400", "origin": "default"}
    table = good("config", "show", BEAMSTREAM_CONFIG=str(file))
    assert f"file {file}" in table
    assert len(table.splitlines()) == len(shown) + 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["token", "new", "--beamtime", "../x"], "not a beamtime id"),
        (["token", "new"], "for a beamtime or for a beamline"),
        (["token", "new", "--beamtime", "1", "--beamline", "p01"], "or for a beamline"),
        (["token", "new", "--beamtime", "1", "--access", "all"], "read, write, writeraw"),
        (["token", "new", "--beamtime", "1", "--days", "400"], "400"),
        (["token", "revoke", "nobody"], "token ls"),
        (["beamtime", "open", "a/b"], "not a beamtime id"),
        (["beamtime", "open", "1", "--beamline", ".."], "not the name of a beamline"),
        (["beamtime", "close", "1"], "never opened"),
    ],
)
def test_errors_are_one_line(arguments: list[str], text: str, tmp_path: Path) -> None:
    assert text in failed(1, *arguments, "--data", tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["token", "frobnicate"],
        ["token", "new", "--frobnicate"],
        ["token", "new", "--days", "many"],
        ["token", "revoke"],
        ["token", "ls", "more"],
        ["beamtime", "open"],
        ["up", "--http"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert "--help" in failed(2, *arguments)


def test_wrong_settings(tmp_path: Path) -> None:
    text = failed(1, "config", "show", BEAMSTREAM_CAHCE="1GiB")
    assert "BEAMSTREAM_CACHE" in text
    assert "not a size" in failed(1, "up", "--data", tmp_path / "x", "--cache", "big")
    assert not (tmp_path / "x").exists()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    good("token", "new", "--data", tmp_path, "--beamtime", "1")
    (tmp_path / "key").chmod(0o644)
    assert "chmod 600" in failed(1, "token", "new", "--data", tmp_path, "--beamtime", "1")


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "beamstream.cli.main", "config", "show"],
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writer)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, b"")


def test_an_unreachable_node_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from beamstream.cli import config, main

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionLost("nobody answers at 127.0.0.1:1", hint="is the node up?")

    monkeypatch.setattr(config.common, "load", unreachable)
    assert main.main(["config", "show"]) == 3
    assert capsys.readouterr().err == (
        "beamstream: nobody answers at 127.0.0.1:1 (is the node up?)\n"
    )
