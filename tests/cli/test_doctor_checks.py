from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.cli import doctor_checks as checks


def made(claims: object) -> str:
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{text}.signature"


@given(st.dictionaries(st.text(max_size=5), st.integers()))
def test_claims_are_read_back(said: dict[str, int]) -> None:
    assert checks.claims(made(said)) == said


@given(st.text() | st.builds(".".join, st.lists(st.text(), min_size=3, max_size=3)))
def test_any_text_may_stand_where_a_token_should(text: str) -> None:
    assert isinstance(checks.claims(text), dict)


@pytest.mark.parametrize("said", [[1], "text", None, 7])
def test_claims_that_are_no_object_are_none(said: object) -> None:
    assert checks.claims(made(said)) == {}


def test_a_token_is_well_when_it_allows_something_for_a_while() -> None:
    now = 1_000_000.0
    week = {"exp": now + 7 * 86_400}
    assert checks.token(week, ("read", "write"), now).ok
    assert "7.0 days" in checks.token(week, ("read",), now).detail
    assert checks.token(week, (), now).ok is False
    soon = checks.token({"exp": now + 3600}, ("read",), now)
    assert soon.ok is False
    assert "token new" in soon.remedy
    assert checks.token({"exp": "never"}, ("read",), now).ok
    assert "for" not in checks.token({}, ("read",), now).detail


@pytest.mark.parametrize(
    ("node", "here", "ok"),
    [
        ("Beamstream 1.2.3", "1.2.0", True),
        ("Beamstream 1.3.0", "1.2.0", False),
        ("Beamstream 0.1.0.dev0", "0.1.0", True),
        ("", "1.0.0", None),
        ("something", "1.0.0", None),
    ],
)
def test_versions(node: str, here: str, ok: bool | None) -> None:
    assert checks.version(node, here).ok is ok


def test_shared_memory_is_no_problem_where_it_cannot_be() -> None:
    def check(arenas: str, reachable: bool, platform: str, **environ: str) -> bool | None:
        return checks.shared_memory(
            arenas, reachable=reachable, platform=platform, environ=environ
        ).ok

    assert check("/run/arenas.sock", True, "linux") is True
    assert check("/run/arenas.sock", False, "linux") is False
    assert check("", False, "linux") is None
    assert check("/run/arenas.sock", True, "darwin") is None
    assert check("/run/arenas.sock", True, "linux", BEAMSTREAM_SHM="0") is None


def test_what_is_too_small_is_named_with_the_command() -> None:
    well = checks.tcp_buffers({"net.ipv4.tcp_rmem": 6_291_456, "net.ipv4.tcp_wmem": 4_194_304})
    assert well.ok
    small = checks.tcp_buffers({"net.ipv4.tcp_rmem": 212_992, "net.ipv4.tcp_wmem": 4_194_304})
    assert small.ok is False
    assert "tcp_rmem 212992 < " in small.detail
    assert small.remedy.startswith("sysctl -w net.ipv4.tcp_rmem=")
    assert "tcp_wmem" not in small.detail + small.remedy
    assert checks.tcp_buffers({"net.ipv4.tcp_rmem": None}).ok is None


def test_the_node_is_looked_at() -> None:
    assert checks.disk(10**10).ok
    assert checks.disk(10**8).ok is False
    assert checks.cache(10**9, 10**8).ok
    assert checks.cache(10**9, 10**9).ok is False
    assert checks.cache(0, 0).ok is False
    assert checks.connections(5, 2048).ok
    assert checks.connections(2048, 2048).ok is False
    assert checks.open_files(1024, 4096).ok
    low = checks.open_files(256, 4096)
    assert (low.ok, low.remedy) == (False, "ulimit -n 4096")
    assert checks.clock(0.5).ok
    assert checks.clock(-1.5).ok is False
