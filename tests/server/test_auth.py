from __future__ import annotations

import base64
import hashlib
import hmac
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import BadInput, BadName, BadToken, NotAllowed, StorageError
from beamstream.server import auth
from beamstream.server.auth import Authorizer, Grant, check_access, check_subject, issue
from beamstream.store.registry import Registry, Token

KEY = bytes(range(100, 132))
NOW = 1_800_000_000
TOKEN_ID = "0123456789abcdef0123"
DAY = 24 * 3600


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "node.db")
    registry.add_token(Token(TOKEN_ID, "bt_bt1", ("read", "write"), NOW, (NOW + DAY) * 10**9))
    yield registry
    registry.close()


@pytest.fixture
def authorizer(registry: Registry, clock: Clock) -> Authorizer:
    return Authorizer(registry, KEY, clock)


def make(registry: Registry, **changes: Any) -> str:
    arguments: dict[str, Any] = {"beamtime": "bt1", "access": ["write", "read"], "days": 1}
    return issue(registry, KEY, now_ns=NOW * 10**9, **(arguments | changes))


# ------------------------------------------------------------------------------ good tokens


def test_issue_and_grant(registry: Registry, authorizer: Authorizer) -> None:
    token = make(registry, note="detector")
    grant = authorizer.grant(token)
    assert (grant.kind, grant.name, grant.access) == ("bt", "bt1", {"read", "write"})
    assert grant.valid
    assert grant.expires == NOW + DAY
    assert authorizer.grant(token) is grant
    row = registry.token(grant.token_id)
    assert row is not None
    assert (row.subject, row.access, row.note) == ("bt_bt1", ("read", "write"), "detector")


def test_claims_are_those_of_asapo(registry: Registry) -> None:
    token = make(registry, beamtime="", beamline="p01", access=["writeraw"])
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == "bl_p01"
    assert claims["ExtraClaims"] == {"AccessTypes": ["writeraw"]}
    assert claims["exp"] == NOW + DAY
    assert len(claims["jti"]) == 20


def test_the_token_is_not_stored(registry: Registry, tmp_path: Path) -> None:
    token = make(registry)
    authorizer = Authorizer(registry, KEY, Clock())
    shown = repr(authorizer.grant(token)) + repr(vars(authorizer)) + repr(registry.tokens())
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for part in token.split(".")[1:]:
        assert part not in shown
        assert part.encode() not in files


@pytest.mark.parametrize(
    "arguments",
    [
        {"beamtime": ""},
        {"beamline": "p01"},
        {"access": []},
        {"access": ["read", "admin"]},
        {"access": [""]},
        {"days": 0},
        {"days": -1},
        {"days": 367},
        {"days": float("nan")},
        {"days": float("inf")},
    ],
)
def test_issue_refuses(registry: Registry, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        make(registry, **arguments)
    assert len(registry.tokens()) == 1


@pytest.mark.parametrize("name", ["..", "a/b", "auto", "*", "a b", "bt\n", "ä"])
def test_issue_checks_names(registry: Registry, name: str) -> None:
    with pytest.raises(BadName):
        make(registry, beamtime=name)
    with pytest.raises(BadName):
        make(registry, beamtime="", beamline=name)


# ------------------------------------------------------------------------------- bad tokens


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def as_json(document: Any) -> str:
    return b64(json.dumps(document).encode())


def derived(label: bytes, key: bytes = KEY) -> bytes:
    return hmac.new(key, label, hashlib.sha256).digest()


USER_KEY = derived(b"beamstream user token 1")
FOLDER_KEY = derived(b"beamstream folder token 1")
HEADER = {"alg": "HS256", "typ": "JWT"}
CLAIMS: dict[str, Any] = {
    "sub": "bt_bt1",
    "jti": TOKEN_ID,
    "iat": NOW,
    "exp": NOW + DAY,
    "ExtraClaims": {"AccessTypes": ["read", "write"]},
    "iss": "beamstream",
    "aud": "beamstream/user",
}
FOLDER_CLAIMS: dict[str, Any] = {
    "sub": "bt_bt1",
    "jti": TOKEN_ID,
    "iat": NOW,
    "exp": NOW + 600,
    "iss": "beamstream",
    "aud": "beamstream/folder",
}
FOLDER_HEADER = {"alg": "HS256", "typ": "folder+jwt"}


def signed(header: Any, claims: Any, key: bytes = USER_KEY, digest: str = "sha256") -> str:
    text = f"{as_json(header)}.{as_json(claims)}"
    return f"{text}.{b64(hmac.new(key, text.encode(), digest).digest())}"


def changed(claims: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (claims | changes).items() if value is not ...}


def bad_headers() -> Iterator[tuple[str, str]]:
    algorithms = ["none", "None", "NONE", "nOnE", "", "HS384", "HS512", "hs256", "HS256 ", "HS1"]
    algorithms += ["RS256", "RS384", "PS256", "ES256", "EdDSA", "A128KW", "dir", "\0HS256"]
    for algorithm in algorithms:
        header = HEADER | {"alg": algorithm}
        yield f"alg {algorithm!r} with our signature", signed(header, CLAIMS)
        yield f"alg {algorithm!r} without signature", f"{as_json(header)}.{as_json(CLAIMS)}."
        yield f"alg {algorithm!r} two parts", f"{as_json(header)}.{as_json(CLAIMS)}"
    yield "HS384 signed so", signed(HEADER | {"alg": "HS384"}, CLAIMS, digest="sha384")
    yield "HS512 signed so", signed(HEADER | {"alg": "HS512"}, CLAIMS, digest="sha512")
    yield "HS256 signed with sha384", signed(HEADER, CLAIMS, digest="sha384")
    extras: dict[str, Any] = {
        "crit": ["exp"],
        "jku": "http://127.0.0.1/keys",
        "jwk": {"kty": "oct", "k": b64(b"x" * 32)},
        "kid": "../../../../dev/null",
        "x5u": "http://127.0.0.1/x",
        "x5c": ["MIIB"],
        "x5t": "AA",
        "cty": "JWT",
        "zip": "DEF",
        "b64": False,
        "enc": "A128GCM",
        "b": 1,
    }
    for name, value in extras.items():
        yield f"header {name}", signed(HEADER | {name: value}, CLAIMS)
    yield "crit and b64", signed(HEADER | {"crit": ["b64"], "b64": False}, CLAIMS)
    yield "kid of SQL", signed(HEADER | {"kid": "' OR 1=1 --"}, CLAIMS)
    yield "kid null", signed(HEADER | {"kid": None}, CLAIMS)
    for typ in ("jwt", "folder+jwt", "at+jwt", "", None, 1, ["JWT"], "JOSE"):
        yield f"typ {typ!r}", signed(HEADER | {"typ": typ}, CLAIMS)
    yield "no typ", signed({"alg": "HS256"}, CLAIMS)
    yield "no alg", signed({"typ": "JWT"}, CLAIMS)
    for header in ([], {}, "HS256", None, 5, [["alg", "HS256"]], {"alg": ["HS256"], "typ": "JWT"}):
        yield f"header is {header!r}", signed(header, CLAIMS)


def bad_claims() -> Iterator[tuple[str, str]]:
    for name in CLAIMS:
        yield f"no {name}", signed(HEADER, changed(CLAIMS, **{name: ...}))
        for value in (None, "", [], {}, True, 1.5, -1, "x", {"a": 1}, 10**30):
            if (name, value) != ("iat", -1):
                yield f"{name} {value!r}", signed(HEADER, CLAIMS | {name: value})
    times = {
        "exp": [
            NOW - 31,
            0,
            NOW + 367 * DAY,
            2**63,
            2**1000,
            str(NOW + DAY),
            [NOW + DAY],
            NOW + 0.5,
        ],
        "iat": [NOW + 31, NOW - 366 * DAY, 2**63, str(NOW)],
        "nbf": [NOW + 31, 2**63, "x", None, str(NOW), 1.5],
    }
    for name, values in times.items():
        for value in values:
            yield f"{name} {str(value)[:20]}", signed(HEADER, CLAIMS | {name: value})
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "1e400"):
        text = json.dumps(CLAIMS).replace(str(NOW + DAY), number)
        body = f"{as_json(HEADER)}.{b64(text.encode())}"
        sign = b64(hmac.new(USER_KEY, body.encode(), "sha256").digest())
        yield f"exp {number}", f"{body}.{sign}"
    for audience in ("beamstream/folder", "beamstream", ["beamstream/user"], "BEAMSTREAM/USER"):
        yield f"aud {audience}", signed(HEADER, CLAIMS | {"aud": audience})
    for issuer in ("asapo", "beamstream ", ["beamstream"], "http://beamstream"):
        yield f"iss {issuer}", signed(HEADER, CLAIMS | {"iss": issuer})
    subjects = ["bt_", "bl_", "bt1", "bt_bt2", "bl_bt1", "BT_bt1", "bt_../x", "bt_a/b", "bt_auto"]
    subjects += ["bt_bt1\0", "bt_bt1 ", " bt_bt1", "bt_*", "xx_bt1", "bt-bt1", "bt_" + "a" * 65]
    for subject in subjects:
        yield f"sub {subject!r}", signed(HEADER, CLAIMS | {"sub": subject})
    access = [["admin"], ["read", "admin"], ["READ"], [None], [1], [["read"]], [{}], "read", {}]
    for rights in access:
        extra = {"AccessTypes": rights}
        yield f"access {rights!r}", signed(HEADER, CLAIMS | {"ExtraClaims": extra})
    for token_id in ("unknown", "' OR 1=1 --", "\0", "x" * 4000, [TOKEN_ID], TOKEN_ID + " "):
        yield f"jti {str(token_id)[:20]!r}", signed(HEADER, CLAIMS | {"jti": token_id})


def bad_spellings() -> Iterator[tuple[str, str]]:
    good = signed(HEADER, CLAIMS)
    head, body, sign = good.split(".")
    for count in (0, 1, 2, 10, len(head), len(head) + 1, len(good) - 44, len(good) - 1):
        yield f"truncated to {count}", good[:count]
    spellings = {
        "padded": f"{good}=",
        "padded inside": f"{head}=.{body}.{sign}",
        "other alphabet": f"{head}.{body}.+{sign[1:]}",
        "slash": f"{head}.{body}./{sign[1:]}",
        "junk in the signature": f"{head}.{body}.{sign[:5]}!{sign[5:]}",
        "junk in the body": f"{head}.{body[:5]}!{body[5:]}.{sign}",
        "line break": f"{good}\n",
        "blank before": f" {good}",
        "blank after": f"{good} ",
        "NUL": f"{good}\0",
        "four parts": f"{good}.{sign}",
        "five parts": ".".join([head, "", "", body, sign]),
        "dots": "..",
        "more dots": "." * 100,
        "empty head": f".{body}.{sign}",
        "empty body": f"{head}..{sign}",
        "swapped": f"{body}.{head}.{sign}",
        "signature twice": f"{head}.{body}.{sign}{sign}",
        "signature short": f"{head}.{body}.{sign[:-1]}",
        "signature of nothing": f"{head}.{body}.{b64(bytes(32))}",
        "lower case": good.lower(),
        "percent": good.replace(".", "%2E"),
        "bearer": f"Bearer {good}",
        "quoted": f'"{good}"',
        "non-ASCII": good + "é",
        "full width": good.replace("e", "\uff45"),
        "surrogate": good + "\ud800",
        "1 MB": "a" * 2**20,
        "1 MB of dots": "." * 2**20,
        "1 MB of good parts": f"{head}.{'a' * 2**20}.{sign}",
        "just too long": good + "a" * (limits.TOKEN_NBYTES_MAX + 1 - len(good)),
        "deep header": f"{b64(b'[' * 6000)}.{body}.{sign}",
        "deep body": f"{head}.{b64(b'[' * 6000)}.{sign}",
        "header not UTF-8": f"{b64(bytes([255] * 20))}.{body}.{sign}",
        "JSON serialization": json.dumps({"protected": head, "payload": body, "signature": sign}),
        "not a token": "bad.token.x",
        "empty": "",
    }
    yield from spellings.items()
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for number in (1, 2, 3):
        other = last[last.index(sign[-1]) + number]
        yield f"same signature, other spelling {number}", f"{head}.{body}.{sign[:-1]}{other}"
    for position in range(0, 32, 4):
        raw = bytearray(base64.urlsafe_b64decode(sign + "="))
        raw[position] ^= 1
        yield f"bit {position}", f"{head}.{body}.{b64(bytes(raw))}"


def bad_keys() -> Iterator[tuple[str, str]]:
    keys = {
        "folder key": FOLDER_KEY,
        "node key itself": KEY,
        "other node": derived(b"beamstream user token 1", bytes(32)),
        "empty key": b"",
        "zeros": bytes(32),
        "secret": b"secret",
        "key as text": KEY.hex().encode(),
        "derived twice": derived(b"beamstream user token 1", USER_KEY),
        "label": b"beamstream user token 1",
    }
    for name, key in keys.items():
        yield f"signed with {name}", signed(HEADER, CLAIMS, key)
    yield "folder token", signed(FOLDER_HEADER, FOLDER_CLAIMS, FOLDER_KEY)
    yield "folder token, user header", signed(HEADER, FOLDER_CLAIMS, FOLDER_KEY)
    yield "folder header and key, user claims", signed(FOLDER_HEADER, CLAIMS, FOLDER_KEY)
    yield "folder header, user key", signed(FOLDER_HEADER, CLAIMS)
    rsa_key = rsa.generate_private_key(65537, 2048)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    yield "RS256 for real", jwt.encode(CLAIMS, rsa_key, "RS256")
    yield "PS256 for real", jwt.encode(CLAIMS, rsa_key, "PS256")
    yield "ES256 for real", jwt.encode(CLAIMS, ec_key, "ES256")
    public = rsa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    yield "HS256 with a public key", signed(HEADER, CLAIMS, public)
    yield "alg none by the library", jwt.encode(CLAIMS, None, "none")


BAD = [*bad_headers(), *bad_claims(), *bad_spellings(), *bad_keys()]


def test_the_hand_made_token_is_good_but_for_its_faults(
    registry: Registry, authorizer: Authorizer
) -> None:
    assert authorizer.grant(signed(HEADER, CLAIMS)).token_id == TOKEN_ID
    assert authorizer.check_folder_token(signed(FOLDER_HEADER, FOLDER_CLAIMS, FOLDER_KEY)) == "bt1"


def test_the_table_is_long() -> None:
    assert len({token for _, token in BAD}) >= 200


@pytest.mark.parametrize("token", [pytest.param(token, id=name[:60]) for name, token in BAD])
def test_bad_tokens(token: str, shared: tuple[Authorizer, list[Grant]]) -> None:
    authorizer, _ = shared
    with pytest.raises(BadToken) as caught:
        authorizer.grant(token)
    assert str(caught.value) == "wrong or expired JWT token"


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Authorizer, list[Grant]]]:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder) / "node.db")
        registry.add_token(Token(TOKEN_ID, "bt_bt1", ("read",), NOW, (NOW + DAY) * 10**9))
        yield Authorizer(registry, KEY, Clock()), []
        registry.close()


@hypothesis_settings(max_examples=200)
@given(data=st.data())
def test_no_single_change_is_accepted(
    shared: tuple[Authorizer, list[Grant]], data: st.DataObject
) -> None:
    good = signed(HEADER, CLAIMS)
    at = data.draw(st.integers(0, len(good) - 1))
    new = data.draw(st.characters(codec="latin-1"))
    token = good[:at] + new + good[at + data.draw(st.integers(0, 1)) :]
    if token != good:
        with pytest.raises(BadToken):
            shared[0].grant(token)


# -------------------------------------------------------------------------- the end of grants


def test_expiry_with_leeway(registry: Registry, authorizer: Authorizer, clock: Clock) -> None:
    token = make(registry)
    grant = authorizer.grant(token)
    clock.now = NOW + DAY + limits.TOKEN_LEEWAY_SECONDS - 1
    authorizer.refresh(clock.now)
    assert grant.valid
    assert authorizer.grant(token) is grant
    clock.now += 1
    with pytest.raises(BadToken):
        authorizer.grant(token)
    authorizer.refresh(clock.now)
    assert not grant.valid


def test_a_clock_slightly_behind(registry: Registry, clock: Clock) -> None:
    token = make(registry)
    clock.now = NOW - limits.TOKEN_LEEWAY_SECONDS
    assert Authorizer(registry, KEY, clock).grant(token).valid
    clock.now -= 1
    with pytest.raises(BadToken):
        Authorizer(registry, KEY, clock).grant(token)


def test_revocation_reaches_open_connections(
    registry: Registry, authorizer: Authorizer, clock: Clock, tmp_path: Path
) -> None:
    kept, ended = make(registry), make(registry)
    good, bad = authorizer.grant(kept), authorizer.grant(ended)
    command_line = Registry(tmp_path / "node.db")
    command_line.revoke_token(bad.token_id, NOW * 10**9)
    command_line.close()
    authorizer.refresh(clock.now + 1)
    assert (good.valid, bad.valid) == (True, False)
    with pytest.raises(BadToken):
        authorizer.grant(ended)
    with pytest.raises(BadToken):
        Authorizer(registry, KEY, clock).grant(ended)
    with pytest.raises(BadToken):
        authorizer.folder_token(bad, "bt1")
    authorizer.refresh(clock.now + 2)
    assert authorizer.grant(kept) is good


def test_revocation_by_the_node_itself(registry: Registry, authorizer: Authorizer) -> None:
    grant = authorizer.grant(make(registry))
    registry.revoke_token(grant.token_id, 1)
    authorizer.refresh(NOW)
    assert not grant.valid


def test_grants_that_fell_out_of_the_cache_are_still_watched(
    registry: Registry, authorizer: Authorizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_GRANTS_CACHED_MAX", 2)
    tokens = [make(registry) for _ in range(5)]
    held = authorizer.grant(tokens[0])
    for token in tokens[1:]:
        authorizer.grant(token)
    assert len(authorizer._recent) == 2
    assert len(authorizer._live) == 3
    registry.revoke_token(held.token_id, 1)
    authorizer.refresh(NOW)
    assert not held.valid
    again = authorizer.grant(tokens[1])
    for token in tokens[2:]:
        authorizer.grant(token)
    assert authorizer.grant(tokens[1]) is again


def test_without_the_registry_nobody_is_let_in(
    registry: Registry, authorizer: Authorizer, clock: Clock
) -> None:
    known, new = make(registry), make(registry)
    grant = authorizer.grant(known)
    folder_token = authorizer.folder_token(grant, "bt1")
    registry.close()
    with pytest.raises(StorageError):
        authorizer.refresh(clock.now)
    assert not grant.valid
    for token in (known, new):
        with pytest.raises(StorageError):
            authorizer.grant(token)
    with pytest.raises(StorageError):
        authorizer.check_folder_token(folder_token)


# ------------------------------------------------------------------------------ folder tokens


def test_folder_tokens_are_short_lived(
    registry: Registry, authorizer: Authorizer, clock: Clock
) -> None:
    grant = authorizer.grant(make(registry))
    token = authorizer.folder_token(grant, "bt1")
    assert authorizer.check_folder_token(token) == "bt1"
    clock.now += limits.FOLDER_TOKEN_SECONDS + limits.TOKEN_LEEWAY_SECONDS
    with pytest.raises(BadToken):
        authorizer.check_folder_token(token)


def test_folder_tokens_end_with_the_token_behind_them(
    registry: Registry, authorizer: Authorizer
) -> None:
    grant = authorizer.grant(make(registry))
    token = authorizer.folder_token(grant, "bt1")
    registry.revoke_token(grant.token_id, 1)
    with pytest.raises(BadToken):
        authorizer.check_folder_token(token)


def test_kinds_are_never_taken_for_each_other(registry: Registry, authorizer: Authorizer) -> None:
    user = make(registry)
    folder = authorizer.folder_token(authorizer.grant(user), "bt1")
    with pytest.raises(BadToken):
        authorizer.grant(folder)
    with pytest.raises(BadToken):
        authorizer.check_folder_token(user)


@pytest.mark.parametrize(
    "token",
    [
        signed(FOLDER_HEADER, FOLDER_CLAIMS),
        signed(HEADER, FOLDER_CLAIMS, FOLDER_KEY),
        signed(FOLDER_HEADER, CLAIMS, FOLDER_KEY),
        signed(HEADER, CLAIMS),
        signed(FOLDER_HEADER, FOLDER_CLAIMS | {"sub": "bl_p01"}, FOLDER_KEY),
        signed(FOLDER_HEADER, FOLDER_CLAIMS | {"sub": "bt_../x"}, FOLDER_KEY),
        signed(FOLDER_HEADER, FOLDER_CLAIMS | {"exp": NOW + 601}, FOLDER_KEY),
        signed(FOLDER_HEADER, FOLDER_CLAIMS | {"jti": "unknown"}, FOLDER_KEY),
        signed(FOLDER_HEADER, changed(FOLDER_CLAIMS, exp=...), FOLDER_KEY),
        "a" * 2**20,
        "",
    ],
)
def test_bad_folder_tokens(authorizer: Authorizer, token: str) -> None:
    with pytest.raises(BadToken):
        authorizer.check_folder_token(token)


def test_folder_tokens_need_read(registry: Registry, authorizer: Authorizer) -> None:
    grant = authorizer.grant(make(registry, access=["write"]))
    with pytest.raises(NotAllowed, match="wrong token access type"):
        authorizer.folder_token(grant, "bt1")


# ------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize("right", auth.RIGHTS)
def test_access(right: str) -> None:
    check_access(Grant("bt", "1", frozenset({right}), "t", 1), right)
    for other in set(auth.RIGHTS) - {right}:
        with pytest.raises(NotAllowed) as caught:
            check_access(Grant("bt", "1", frozenset({right}), "t", 1), other)
        assert str(caught.value) == "wrong token access type"


@pytest.mark.parametrize(
    ("kind", "name", "beamtime", "beamline", "allowed"),
    [
        ("bt", "1", "1", "", True),
        ("bt", "1", "2", "", False),
        ("bt", "1", "2", "1", False),
        ("bl", "p01", "1", "p01", True),
        ("bl", "p01", "1", "p02", False),
        ("bl", "p01", "p01", "", False),
    ],
)
def test_subject(kind: str, name: str, beamtime: str, beamline: str, allowed: bool) -> None:
    grant = Grant(kind, name, frozenset({"read"}), "t", 1)
    if allowed:
        check_subject(grant, beamtime, beamline)
        return
    with pytest.raises(NotAllowed) as caught:
        check_subject(grant, beamtime, beamline)
    assert str(caught.value) == "wrong token subject"
