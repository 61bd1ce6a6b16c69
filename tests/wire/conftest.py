"""Captures of the official clients and servers, where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def _captures() -> Path:
    shared = os.environ.get("BEAMSTREAM_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[3] / "shared"
    folder = root / "asapo" / "vectors"
    if not folder.is_dir():
        pytest.skip("captures of ASAPO are not at hand (BEAMSTREAM_SHARED names their folder)")
    return folder


@pytest.fixture(scope="session")
def captures() -> list[tuple[dict[str, Any], bytes, bytes]]:
    """(description, bytes of the request, bytes of the reply) of the official clients 25.3."""
    found = []
    for path in sorted(_captures().glob("*.json")):
        raw = [bytes.fromhex(path.with_suffix(end).read_text()) for end in (".req.hex", ".rsp.hex")]
        found.append((json.loads(path.read_text()), raw[0], raw[1]))
    assert len(found) >= 90
    return found


@pytest.fixture(scope="session")
def tcp_captures(
    captures: list[tuple[dict[str, Any], bytes, bytes]],
) -> list[tuple[dict[str, Any], bytes, bytes]]:
    return [capture for capture in captures if "op_code" in capture[0]]


@pytest.fixture(scope="session")
def http_captures(
    captures: list[tuple[dict[str, Any], bytes, bytes]],
) -> list[tuple[dict[str, Any], bytes, bytes]]:
    return [capture for capture in captures if "request_line" in capture[0]]


@pytest.fixture(scope="session")
def replies_21_12() -> list[dict[str, Any]]:
    """What the servers of 21.12 answered to raw requests."""
    text = (_captures() / "reference_21_12_replies.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
