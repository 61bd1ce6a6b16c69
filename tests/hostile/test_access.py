"""Tokens that are wrong, old, somebody else's or of another kind."""

from __future__ import annotations

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest

from beamstream import limits
from beamstream.server.auth import issue
from beamstream.store.folder import DataFolder
from beamstream.store.registry import Registry
from compat.doors import Doors, escape, until
from compat.wire import DENIED, INTERNAL, OK, REAUTHORIZE, STORED, Answer

pytestmark = pytest.mark.system

REVOKED_SECONDS_MAX = 5.0


def expired_token(data: Path, days_ago: float) -> str:
    """A token of this node, recorded like all others, that ended an hour ago or so."""
    folder = DataFolder(data)
    registry = Registry(folder.node_db)
    try:
        return issue(
            registry,
            folder.key,
            beamtime="bt1",
            access=["read", "write"],
            days=days_ago - 0.05,
            now_ns=time.time_ns() - int(days_ago * 86_400e9),
        )
    finally:
        registry.close()


def encoded(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def forged(token: str, header: dict[str, Any], key: bytes = b"") -> str:
    """The same claims below another header; signed with a guess."""
    claims = token.split(".")[1]
    text = f"{encoded(header)}.{claims}"
    digest = hmac.digest(key, text.encode(), "sha256") if key else b""
    return f"{text}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def bad_tokens(doors: Doors) -> dict[str, str]:
    token = doors.token
    head, claims, signature = token.split(".")
    none = {"alg": "none", "typ": "JWT"}
    return {
        "empty": "",
        "dots": "..",
        "no signature": f"{head}.{claims}.",
        "two parts": f"{head}.{claims}",
        "four parts": f"{token}.x",
        "cut": token[:-2],
        "longer": token + "A",
        "other claims": f"{head}.{encoded({'sub': 'bt_bt1'})}.{signature}",
        "no algorithm": forged(token, none),
        "empty key": forged(token, none | {"alg": "HS256"}, b"\0"),
        "known key": forged(token, {"alg": "HS256", "typ": "JWT"}, b"secret"),
        "other algorithm": forged(token, {"alg": "HS384", "typ": "JWT"}, b"secret"),
        "folder token": doors.folder_token(),
        "expired": expired_token(doors.node.data, 2),
        "foreign": doors.node.token("other1", "read,write"),
        "long": "A" * (limits.TOKEN_NBYTES_MAX + 1),
        "foreign beamline": doors.node.token(beamline="p77", access="read,write"),
    }


def test_bad_tokens(doors: Doors, source: str) -> None:
    with doors.receiver(source) as wire:
        assert wire.put(1, b"x", path=f"processed/{source}", mode=STORED).code == OK
    cookie = {"Cookie": f"Authorization=Bearer {doors.folder_token()}"}
    for kind, token in bad_tokens(doors).items():
        with doors.tcp() as wire:
            reply = wire.login(token, source=source)
            assert reply.code == DENIED, kind
            assert not token or token not in reply.text
            assert wire.closed()
        for answer in http_doors(doors, source, token, cookie):
            refused = (400, 401, 414, 431) if len(token) > 1000 else (400, 401)
            assert answer.status in refused, (kind, answer)
            assert not token or token not in answer.text
            assert "Traceback" not in answer.text
    log = doors.node.log_text()
    for kind, token in bad_tokens(doors).items():
        assert len(token) < 20 or token not in log, f"the {kind} token is in the log"
    assert doors.token not in log


def http_doors(doors: Doors, source: str, token: str, cookie: dict[str, str]) -> list[Answer]:
    base = doors.base("s", source)
    body = json.dumps({"Folder": "auto", "BeamtimeId": "bt1", "Token": token})
    answers = []
    for method, target, text in (
        ("GET", f"{base}/g/next", None),
        ("GET", f"{base}/0/1", None),
        ("GET", f"{base}/size", None),
        ("GET", f"/v0.7/beamtime/bt1/{escape(source)}/0/streams", None),
        ("GET", f"/v0.7/beamtime/bt1/{escape(source)}/0/sources", None),
        ("GET", f"{base}/0/meta/1", None),
        ("POST", f"{base}/g/1", '{"Op":"ackmessage"}'),
        ("POST", f"{base}/0/querymessages", "_id > 0"),
        ("POST", f"{base}/delete", '{"ErrorOnNotExist":true,"DeleteMeta":true}'),
        ("POST", f"{base}/persist", ""),
        ("POST", "/asapo-authorizer/v0.2/folder", body),
    ):
        with doors.http() as http:
            answers.append(http.request(method, f"{target}?token={token}", text, cookie))
    return answers


def test_requests_without_a_token(doors: Doors, source: str) -> None:
    with doors.http() as http:
        for tail in ("", "?", "?token", "?token=", "?Token=" + doors.token):
            answer = http.get(doors.base("s", source) + "/size" + tail)
            assert answer.status in (400, 401)
        assert http.get(doors.base("s", source) + "/size").text == (
            "cannot extract token from request"
        )


def test_rights(doors: Doors, source: str) -> None:
    reader = doors.node.token("bt1", "read")
    writer = doors.node.token("bt1", "write")
    with doors.receiver(source, token=writer) as wire:
        assert wire.put(1, b"x").code == OK
    with doors.tcp() as wire:
        assert wire.login(reader, source=source).code == DENIED
    with doors.tcp() as wire:
        reply = wire.login(writer, source=source, kind="raw")
        assert reply.code == DENIED
        assert "wrong token access type" in reply.text
    base = doors.base("s", source)
    delete = '{"ErrorOnNotExist":true,"DeleteMeta":true}'
    with doors.http() as http:
        assert http.get(f"{base}/0/1?token={reader}").status == 200
        answer = http.get(f"{base}/0/1?token={writer}")
        assert (answer.status, answer.text) == (401, "wrong token access type")
        assert http.post(f"{base}/delete?token={reader}", delete).status == 401
        foreign = http.get(f"/v0.7/beamtime/other1/{source}/s/size?token={reader}")
        assert (foreign.status, foreign.text) == (401, "wrong token subject")
        unknown = http.get(f"/v0.7/beamtime/nobody/{source}/s/size?token={reader}")
        assert (unknown.status, unknown.text) == (foreign.status, foreign.text)
        assert http.get(f"{base}/0/1?token={reader}").status == 200


def test_revoked_token(doors: Doors, source: str) -> None:
    """Revocation reaches connections that are open, and files as well."""
    token = doors.node.cli(
        "token", "new", "--data", str(doors.node.data), "--beamtime", "bt1",
        "--access", "read,write", "--days", "1",
    ).strip()  # fmt: skip
    claims = token.split(".")[1]
    jti = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"]
    name = f"processed/{source}/f"
    with doors.receiver(source, token=token) as wire, doors.http() as http:
        assert wire.put(1, b"x", path=name, mode=STORED).code == OK
        target = f"{doors.base('s', source)}/0/1?token={token}"
        assert http.get(target).status == 200
        body = json.dumps({"Folder": "auto", "BeamtimeId": "bt1", "Token": token})
        folder = http.post(f"/asapo-authorizer/v0.2/folder?token={token}", body).text
        cookie = {"Cookie": f"Authorization=Bearer {folder}"}
        fetch = json.dumps({"Folder": "auto", "FileName": name})
        assert http.post("/v0.2/transfer", fetch, **cookie).status == 200
        doors.node.cli("token", "revoke", "--data", str(doors.node.data), jti)
        begin = time.monotonic()
        until(lambda: http.get(target).status == 401, "the broker refuses the token")
        until(lambda: put_code(doors, wire) != OK, "the receiver refuses the token")
        until(
            lambda: http.post("/v0.2/transfer", fetch, **cookie).status == 401,
            "the file transfer refuses what came of the token",
        )
        assert time.monotonic() - begin < REVOKED_SECONDS_MAX + 1
    with doors.tcp() as wire:
        assert wire.login(token, source=source).code == DENIED


def put_code(doors: Doors, wire: Any) -> int:
    """Send the first message again; what the node says, or that it wants a new login."""
    try:
        code: int = wire.put(2, b"x").code
    except ConnectionError:
        return DENIED
    assert code in (OK, 2, REAUTHORIZE, DENIED, INTERNAL)
    return OK if code == 2 else code


def test_folder_tokens(doors: Doors, source: str) -> None:
    """They open the files of one beamtime, and nothing else does."""
    name = f"processed/{source}/f"
    with doors.receiver(source) as wire:
        assert wire.put(1, b"secret", path=name, mode=STORED).code == OK
    other = Doors(doors.node, "other1")
    fetch = json.dumps({"Folder": "auto", "FileName": name})
    tail = doors.query(beamtime="bt1", stream="s")
    with doors.http() as http:
        good = {"Cookie": f"Authorization=Bearer {doors.folder_token()}"}
        assert http.post(f"/v0.2/transfer{tail}", fetch, **good).body == b"secret"
        foreign = {"Cookie": f"Authorization=Bearer {other.folder_token()}"}
        assert http.post(f"/v0.2/transfer{tail}", fetch, **foreign).status == 404
        for wrong in (doors.token, "x", "", "a.b.c", expired_token(doors.node.data, 1)):
            cookie = {"Cookie": f"Authorization=Bearer {wrong}"}
            assert http.post(f"/v0.2/transfer{tail}", fetch, **cookie).status == 401
        for cookies in (
            {},
            {"Cookie": "Authorization"},
            {"Cookie": "Authorization=" + doors.folder_token()},
            {"Cookie": "x=" + "y" * 5000},
        ):
            assert http.post(f"/v0.2/transfer{tail}", fetch, **cookies).status == 401
        body = json.dumps({"Folder": "auto", "BeamtimeId": "other1", "Token": doors.token})
        assert http.post(f"/asapo-authorizer/v0.2/folder{tail}", body).status == 401
