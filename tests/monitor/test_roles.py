from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadToken, ConnectionLost, Denied, NotAllowed
from beamstream.monitor.roles import Access, Tokens, Visitor, is_loopback, visitor_of

NAMES = frozenset(("desk1",))


@pytest.mark.parametrize(
    ("peer", "host", "forwarded", "local"),
    [
        ("127.0.0.1:5", "localhost:8400", False, True),
        ("[::1]:5", "[::1]:8400", False, True),
        ("::1", "desk1", False, True),
        ("", "localhost", False, True),
        ("::ffff:127.0.0.1", "127.0.0.1", False, True),
        ("127.0.0.1:5", "localhost:8400", True, False),
        ("127.0.0.1:5", "rebound.example:8400", False, False),
        ("127.0.0.1:5", "", False, False),
        ("192.0.2.1:5", "localhost", False, False),
        ("?", "localhost", False, False),
        ("127.0.0.1.evil.example:1", "localhost", False, False),
    ],
)
def test_who_sits_at_this_machine(peer: str, host: str, forwarded: bool, local: bool) -> None:
    assert is_loopback(peer, host, NAMES, forwarded=forwarded) is local


@given(peer=st.ip_addresses().filter(lambda one: not one.is_loopback), port=st.integers(1, 65535))
def test_nobody_else_does(peer: object, port: int) -> None:
    text = f"[{peer}]:{port}" if ":" in str(peer) else f"{peer}:{port}"
    if "ffff:7f" not in str(getattr(peer, "exploded", "")):
        assert not is_loopback(text, "localhost", NAMES, forwarded=False)


@given(
    rights=st.sets(st.sampled_from(("read", "write", "writeraw", "admin"))), loopback=st.booleans()
)
def test_rights_make_roles(rights: set[str], loopback: bool) -> None:
    found = visitor_of(Access("mine", tuple(rights)), loopback=loopback)
    admin = "admin" in rights
    assert found.may_operate("mine") == (admin or "write" in rights)
    assert found.may_operate("yours") == admin
    assert found.may_see("yours") == (admin or loopback)
    assert found.may_see("mine") == (admin or loopback or bool({"read", "write"} & rights))
    assert found.role == ("admin" if admin else "operator" if "write" in rights else "viewer")


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(BadToken, match="without a token"):
        Visitor().check_sees("b")
    with pytest.raises(NotAllowed, match="to this token"):
        Visitor(known=True).check_operates("b")


class Desk:
    """What a node says of tokens, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = 0.0
        self.answer: Access | Exception = Access("b", ("read",))

    def ask(self, token: str) -> Access:
        self.asked.append(token)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_node_is_asked_once_a_minute() -> None:
    desk = Desk()
    tokens = Tokens(desk.ask, lambda: desk.now)
    assert tokens.access("t") == tokens.access("t") == Access("b", ("read",))
    desk.now = 59.0
    tokens.access("t")
    assert desk.asked == ["t"]
    desk.now, desk.answer = 61.0, BadToken("over")
    with pytest.raises(BadToken):
        tokens.access("t")
    with pytest.raises(BadToken):
        tokens.access("t")
    assert desk.asked == ["t", "t"]


def test_a_node_that_is_away_is_asked_again() -> None:
    desk = Desk()
    tokens = Tokens(desk.ask, lambda: desk.now)
    desk.answer = ConnectionLost("away")
    with pytest.raises(ConnectionLost):
        tokens.access("t")
    desk.answer = Access("b", ())
    assert tokens.access("t").beamtime == "b"


@pytest.mark.parametrize("token", ["", "x" * 10_000, "tökén"])
def test_what_is_no_token_is_not_asked_about(token: str) -> None:
    desk = Desk()
    with pytest.raises(Denied):
        Tokens(desk.ask).access(token)
    assert not desk.asked
