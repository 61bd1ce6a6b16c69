"""Where `up` tells programs of the same user that it runs."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from beamstream.cli import up


def test_it_is_written_and_removed(tmp_path: Path) -> None:
    pointer = tmp_path / "beamstream" / "connect.json"
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    document = json.dumps({"pid": os.getpid(), "native": "127.0.0.1:8403"}).encode()
    up.remember(document, environ)
    assert pointer.read_bytes() == document
    assert stat.S_IMODE(pointer.stat().st_mode) == 0o600
    assert stat.S_IMODE(pointer.parent.stat().st_mode) == 0o700
    up.remember(document, environ)
    assert os.listdir(pointer.parent) == ["connect.json"]
    up.forget(environ)
    assert not pointer.exists()
    up.forget(environ)


def test_that_of_another_node_stays(tmp_path: Path) -> None:
    pointer = tmp_path / "here.json"
    environ = {"BEAMSTREAM_CONNECT_FILE": str(pointer)}
    for text in (json.dumps({"pid": os.getpid() + 1}), "broken", "[]"):
        pointer.write_text(text)
        up.forget(environ)
        assert pointer.read_text() == text


def test_it_can_be_left_out_and_may_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    up.remember(b"{}", {"BEAMSTREAM_CONNECT_FILE": ""})
    up.forget({"BEAMSTREAM_CONNECT_FILE": ""})
    (tmp_path / "file").write_text("")
    up.remember(b"{}", {"BEAMSTREAM_CONNECT_FILE": str(tmp_path / "file" / "connect.json")})
    assert "cannot write" in capsys.readouterr().err
