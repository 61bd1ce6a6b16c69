"""Each question of the table: who may ask it, and what every answer says to browsers."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

import beamstream as bs
from beamstream.monitor import openapi
from beamstream.monitor.pages import POLICY
from beamstream.monitor.routes import ROUTES, Route
from beamstream.testing.node import NodeProcess
from monitor.running import ELSEWHERE, LOCAL, POST, Answer, MonitorProcess

WHERE = {"beamtime": "demo", "source": "camera", "stream": "scan <1>"}
ASKED: dict[str, dict[str, Any]] = {
    "/api/v1/history": {"beamtime": "demo", "kind": "source", "name": "camera"},
    "/api/v1/streams": {"beamtime": "demo"},
    "/api/v1/stream": WHERE,
    "/api/v1/messages": WHERE,
    "/api/v1/message": WHERE | {"id": 3},
    "/api/v1/frame": WHERE | {"id": 3},
    "/api/v1/search": {"beamtime": "demo", "query": "meta.n = 3"},
    "/api/v1/groups/dead": WHERE | {"group": "g"},
    "/api/v1/groups/seek": WHERE | {"group": "g", "to": "begin"},
    "/api/v1/groups/redeliver": WHERE | {"group": "g"},
    "/api/v1/streams/note": WHERE | {"comment": "", "tags": []},
    "POST /api/v1/replays": WHERE | {"to": "stream:", "dry_run": True},
    "/api/v1/login": {"token": "no token"},
}


@pytest.fixture(scope="module", autouse=True)
def group(images: bs.Stream) -> None:
    next(iter(images.group("g")))


def ask(monitor: MonitorProcess, route: Route, headers: dict[str, str], **more: Any) -> Answer:
    asked = asked_of(route) | more
    path = route.path.replace("{id}", "0123456789abcdef")
    if route.method == "GET":
        return monitor.ask("GET", f"{path}?{urlencode(asked)}", None, headers)
    return monitor.ask("POST", path, asked, headers)


def asked_of(route: Route) -> dict[str, Any]:
    return ASKED.get(f"{route.method} {route.path}") or ASKED.get(route.path, {})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


every = pytest.mark.parametrize("route", ROUTES, ids=name_of)
guarded = pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.need != "anyone"], ids=name_of
)
changing = pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.method == "POST"], ids=name_of
)
of_operators = pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.need == "operator"], ids=name_of
)


@guarded
def test_from_elsewhere_a_token_is_needed(monitor: MonitorProcess, route: Route) -> None:
    for headers in (ELSEWHERE, ELSEWHERE | bearer("a.b.c"), LOCAL | {"X-Forwarded-For": "::1"}):
        found = ask(monitor, route, headers | POST)
        assert found.status == 401, found.data
        assert found.json["code"] == "E201"


@guarded
def test_a_token_of_another_beamtime_does_not_do(
    monitor: MonitorProcess, node: NodeProcess, route: Route
) -> None:
    token = node.token("other", "read,write")
    found = ask(monitor, route, ELSEWHERE | POST | bearer(token))
    if "beamtime" in asked_of(route):
        assert found.status == 403, found.data
    else:
        assert b"demo" not in found.data
        assert b"camera" not in found.data


@of_operators
def test_a_token_that_reads_changes_nothing(
    monitor: MonitorProcess, node: NodeProcess, route: Route
) -> None:
    token = node.token("demo", "read")
    for headers in (ELSEWHERE, LOCAL):
        assert ask(monitor, route, headers | POST | bearer(token)).status == 403
    assert ask(monitor, route, LOCAL | POST).status == 401


@every
def test_a_token_that_writes_does(
    monitor: MonitorProcess, node: NodeProcess, admin: str, route: Route
) -> None:
    for token in (node.token("demo", "read,write"), admin):
        found = ask(monitor, route, ELSEWHERE | POST | bearer(token))
        if route.path.endswith("/cancel"):
            assert found.status == 404, "there is no such replay"
        elif route.path == "/api/v1/login":
            assert found.status == 401, "that is no token"
        else:
            assert found.status == 200, found.data


@changing
def test_changes_come_from_pages_of_ours(
    monitor: MonitorProcess, node: NodeProcess, route: Route
) -> None:
    mine = LOCAL | bearer(node.token())
    assert ask(monitor, route, mine | {"Content-Type": "application/json"}).status == 403
    forms = {"Content-Type": "text/plain", "X-Beamstream": "1"}
    assert ask(monitor, route, mine | forms).status == 400


@changing
def test_nothing_is_changed_by_get(monitor: MonitorProcess, admin: str, route: Route) -> None:
    if route.path == "/api/v1/replays":
        pytest.skip("lists them")
    path = f"{route.path}?{urlencode(asked_of(route))}"
    assert monitor.ask("GET", path, None, LOCAL | bearer(admin)).status == 405


@every
def test_every_answer_is_guarded(monitor: MonitorProcess, route: Route) -> None:
    for headers in (LOCAL | POST, ELSEWHERE | POST):
        found = ask(monitor, route, headers).headers
        assert found["cache-control"] == "no-store"
        assert found["x-content-type-options"] == "nosniff"
        assert found["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in found["content-security-policy"]
        assert "frame-ancestors 'none'" in found["content-security-policy"]
        assert not any(name.startswith("access-control") for name in found)


def test_the_policy_lets_nothing_in_from_outside() -> None:
    assert "unsafe" not in POLICY
    assert "*" not in POLICY
    assert "http" not in POLICY


@every
def test_each_is_described(route: Route) -> None:
    found = openapi.document()["paths"][route.path][route.method.lower()]
    assert found["summary"].endswith(".")
    names = {one["name"] for one in found["parameters"]}
    if route.method == "GET":
        assert set(asked_of(route)) <= names


def test_all_that_is_described_is_there(monitor: MonitorProcess) -> None:
    found = monitor.ask("GET", "/api/openapi.json").json
    assert {
        (path, method.upper()) for path, kinds in found["paths"].items() for method in kinds
    } == {(route.path, route.method) for route in ROUTES}
    text = json.dumps(found)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in found["components"]["schemas"]


def test_the_description_is_a_page_without_scripts(monitor: MonitorProcess) -> None:
    found = monitor.ask("GET", "/api/docs")
    text = found.data.decode()
    assert found.headers["content-type"].startswith("text/html")
    assert "<script" not in text
    assert all(route.path in text for route in ROUTES)
    assert monitor.ask("GET", "/ui/plain.css").status == 200


# ------------------------------------------------------------------------------ cookies


def login(monitor: MonitorProcess, token: str, **headers: str) -> Answer:
    return monitor.ask("POST", "/api/v1/login", {"token": token}, ELSEWHERE | POST | headers)


def test_a_token_goes_into_a_cookie_that_scripts_cannot_read(
    monitor: MonitorProcess, node: NodeProcess
) -> None:
    found = login(monitor, node.token("demo", "read"))
    assert found.json["role"] == "viewer"
    assert found.json["beamtimes"] == ["demo"]
    cookie = found.headers["set-cookie"]
    parts = {part.strip().lower() for part in cookie.split(";")}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert "secure" not in parts
    mine = ELSEWHERE | {"Cookie": cookie.split(";")[0]}
    assert monitor.get("me", mine)["role"] == "viewer"
    assert monitor.get("streams", mine, beamtime="demo")["rows"]
    out = monitor.ask("POST", "/api/v1/logout", {}, mine | POST)
    assert "max-age=0" in out.headers["set-cookie"].lower()


def test_behind_a_proxy_the_cookie_is_for_its_path_and_https(
    monitor: MonitorProcess, node: NodeProcess
) -> None:
    behind = {"X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/p11/mon"}
    cookie = login(monitor, node.token(), **behind).headers["set-cookie"].lower()
    assert "; secure" in cookie
    assert "path=/p11/mon" in cookie
    odd = login(monitor, node.token(), **{"X-Forwarded-Prefix": "/a; Domain=evil"})
    assert "evil" not in odd.headers["set-cookie"]


def test_nobody_is_told_what_there_is(monitor: MonitorProcess) -> None:
    found = monitor.get("me", ELSEWHERE)
    assert found["beamtimes"] == found["nodes"] == []
    assert login(monitor, "a.b.c").status == 401


# ------------------------------------------------------------------------------ limits


def test_large_and_broken_bodies_are_refused(monitor: MonitorProcess, node: NodeProcess) -> None:
    headers = LOCAL | POST | bearer(node.token())
    note = ASKED["/api/v1/streams/note"]
    large = monitor.ask("POST", "/api/v1/streams/note", note | {"comment": "x" * 70_000}, headers)
    assert large.status == 413
    long = monitor.ask("POST", "/api/v1/streams/note", note | {"comment": "x" * 3_000}, headers)
    assert long.status == 413
    assert monitor.ask("POST", "/api/v1/streams/note", [1], headers).status == 400
    assert monitor.ask("POST", "/api/v1/streams/note", {"beamtime": 7}, headers).status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/streams",
        "/api/v1/streams?beamtime=demo&limit=5000",
        "/api/v1/streams?beamtime=demo&after=nonsense",
        "/api/v1/frame?beamtime=demo&source=camera&stream=x&id=a",
        "/api/v1/history?kind=other",
        "/api/v1/search?beamtime=demo&query=SELECT",
    ],
)
def test_wrong_questions_are_told_so(monitor: MonitorProcess, images: bs.Stream, path: str) -> None:
    found = monitor.ask("GET", path)
    assert found.status == 400
    assert set(found.json) == {"code", "message", "hint"}
    assert found.json["code"].startswith("E1")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/nothing", 404),
        ("/api/v1/stream?beamtime=demo&source=camera&stream=none", 404),
        ("/api/v1/message?beamtime=demo&source=camera&stream=scan+%3C1%3E&id=12", 404),
        ("/api/v1/streams?beamtime=never_seen", 404),
        ("/api/v1/me?node=none", 404),
        ("/ui/../pages.py", 404),
        ("/ui/%2e%2e/pages.py", 404),
    ],
)
def test_what_is_not_there(monitor: MonitorProcess, path: str, status: int) -> None:
    found = monitor.ask("GET", path)
    assert found.status == status
    assert found.json["message"]


def test_looking_at_a_beamtime_does_not_make_it(monitor: MonitorProcess, node: NodeProcess) -> None:
    before = sorted(path.name for path in node.data.rglob("*never*"))
    assert monitor.ask("GET", "/api/v1/streams?beamtime=never_seen").status == 404
    assert sorted(path.name for path in node.data.rglob("*never*")) == before == []
