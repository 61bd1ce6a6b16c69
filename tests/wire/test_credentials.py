from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import BadName, RemoteProtocolError
from beamstream.wire.asapo.credentials import Credentials, format_credentials, parse_credentials

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
parts = texts.map(lambda text: text.replace("%", ""))
filled = parts.map(lambda part: part or "auto")
credentials = st.builds(
    Credentials,
    raw=st.booleans(),
    instance=parts,
    step=parts,
    beamtime=filled,
    beamline=filled,
    source=texts.map(lambda text: text or "detector"),
    token=parts,
)


@given(credentials)
def test_what_a_client_of_today_says_is_understood(given: Credentials) -> None:
    assert parse_credentials(format_credentials(given), "v0.7") == given
    assert parse_credentials(format_credentials(given, "v0.6"), "v0.6") == given


@given(credentials)
def test_old_clients_have_no_instance_and_step(given: Credentials) -> None:
    understood = parse_credentials(format_credentials(given, "v0.5"), "v0.5")
    assert (understood.instance, understood.step) == ("", "")
    for name in ("raw", "beamtime", "beamline", "source", "token"):
        assert getattr(understood, name) == getattr(given, name)


@given(st.binary() | texts.map(lambda t: b"raw%" + t.encode()), st.sampled_from(["v0.5", "v0.7"]))
def test_any_bytes_give_credentials_or_a_protocol_error(raw: bytes, version: str) -> None:
    try:
        understood = parse_credentials(raw, version)
    except RemoteProtocolError:
        return
    assert understood.source
    assert understood.beamtime
    assert understood.beamline
    assert raw.count(b"%") >= (4 if version == "v0.5" else 6)


@pytest.mark.parametrize(
    ("text", "version", "expected"),
    [
        ("raw%i%s%bt%bl%src%T", "v0.7", Credentials(True, "i", "s", "bt", "bl", "src", "T")),
        (
            "processed%i%s%%bl%%T",
            "v0.7",
            Credentials(False, "i", "s", "auto", "bl", "detector", "T"),
        ),
        (
            "processed%i%s%bt%%%50%%%T",
            "v0.7",
            Credentials(False, "i", "s", "bt", "auto", "%50%%", "T"),
        ),
        ("processed%bt%auto%s%1%T", "v0.5", Credentials(False, "", "", "bt", "auto", "s%1", "T")),
        ("raw%auto%p01%%T", "v0.4", Credentials(True, "", "", "auto", "p01", "detector", "T")),
        ("raw%i%s%bt%bl%src%", "v0.7", Credentials(True, "i", "s", "bt", "bl", "src", "")),
    ],
)
def test_examples(text: str, version: str, expected: Credentials) -> None:
    assert parse_credentials(text.encode(), version) == expected


@pytest.mark.parametrize(
    ("text", "version", "match"),
    [
        (b"", "v0.7", "1 parts, 7 belong"),
        (b"processed%bt1%auto%src%T", "v0.7", "5 parts, 7 belong"),
        (b"processed%bt1%auto%T", "v0.5", "4 parts, 5 belong"),
        (b"cooked%i%s%bt1%auto%src%T", "v0.7", "source type 'cooked'"),
        (b"Raw%bt1%auto%src%T", "v0.5", "source type"),
        (b"raw%i%s%bt1%auto%\xff%T", "v0.7", "UTF-8"),
        (b"raw%i%s%bt1%auto%src%T", "7", "version"),
        (b"raw%i%s%bt1%auto%src%" + b"T" * limits.CREDENTIALS_NBYTES_MAX, "v0.7", "allowed"),
    ],
)
def test_refused(text: bytes, version: str, match: str) -> None:
    with pytest.raises(RemoteProtocolError, match=match):
        parse_credentials(text, version)


@pytest.mark.parametrize("field", ["instance", "step", "beamtime", "beamline", "token"])
def test_a_client_does_not_send_what_would_be_misread(field: str) -> None:
    values = {"raw": True} | dict.fromkeys(
        ["instance", "step", "beamtime", "beamline", "source", "token"], "x"
    )
    with pytest.raises(BadName, match="%"):
        format_credentials(Credentials(**(values | {field: "50%"})))
    with pytest.raises(BadName, match="Unicode"):
        format_credentials(Credentials(**(values | {field: "\ud800"})))


def test_a_token_is_never_shown() -> None:
    assert "SECRET" not in repr(Credentials(True, "i", "s", "bt", "bl", "src", "SECRET"))


def test_captured_logins(tcp_captures: list) -> None:
    logins = [about for about, _, _ in tcp_captures if about["op_code"] == 7]
    assert len(logins) >= 3
    for about in logins:
        text = about["meta"].encode()
        understood = parse_credentials(text, about["api_version"])
        assert understood.source == "src1"
        assert understood.raw == about["meta"].startswith("raw")
        assert format_credentials(understood, about["api_version"]) == text
    assert parse_credentials(logins[0]["meta"].encode(), "v0.7").step == "step1"
