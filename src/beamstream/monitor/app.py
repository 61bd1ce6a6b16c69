"""The monitor over HTTP: questions, the page, the WebSocket; headers that keep it safe."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.routing import Route as Path
from starlette.websockets import WebSocket, WebSocketDisconnect

from beamstream import limits
from beamstream.errors import BadInput, BadToken, Error, NotAllowed, NotFound, TimedOut, TooLarge
from beamstream.monitor import documents as doc
from beamstream.monitor import openapi, pages, roles
from beamstream.monitor.api import HTML, Asked, Enter, Raw
from beamstream.monitor.desk import Desk, Node
from beamstream.monitor.feed import error_text
from beamstream.monitor.roles import COOKIE, PEER_HEADER, Visitor
from beamstream.monitor.routes import ROUTES, Route
from beamstream.monitor.web_errors import failure_of, status_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("monitor")

BODY_NBYTES_MAX: Final = limits.HTTP_BODY_NBYTES_MAX
BODY_S: Final = 10.0
COOKIE_S: Final = 30 * 24 * 3600
JSON: Final = "application/json"
_FORWARDED: Final = ("x-forwarded-for", "forwarded", "x-real-ip", "via")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_POLICY_VIOLATION: Final = 1008
_encode: Final = msgspec.json.Encoder().encode


class Web:
    """The monitor as an ASGI application.

    Parameters
    ----------
    desk : whose answers it gives.
    files : of the page.
    """

    def __init__(self, desk: Desk, files: pages.Pages) -> None:
        self._desk = desk
        self._pages = files
        self._local_names = frozenset((socket.gethostname().lower(), "localhost"))
        self._docs = openapi.docs(pages.link("../ui/plain.css")).encode()
        self._openapi = _encode(openapi.document())

    def application(self) -> ASGIApp:
        """What a server runs."""
        paths: list[BaseRoute] = [
            Path(route.path, self._endpoint(route), methods=[route.method]) for route in ROUTES
        ]
        paths += [
            WebSocketRoute("/ui/feed", self.feed),
            Path("/ui/{name:path}", self.page),
            Path("/api/docs", self.docs),
            Path("/api/openapi.json", self.openapi),
            Path("/ui", _to_page),
            Path("/", _to_page),
        ]
        handlers: Mapping[Any, Any] = {404: _unknown, 405: _unknown}
        app = Starlette(routes=paths, exception_handlers=handlers)
        return _Outermost(app, self._desk.job.prefix)

    # ------------------------------------------------------------------ questions

    def _endpoint(self, route: Route) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                return await self._answer(route, request)
            except Error as error:
                return _failed(error)
            except Exception:
                log.exception("a question has failed", path=route.path)
                return _failed(Error("the monitor has failed at this", hint="its log says why"))

        return answer

    async def _answer(self, route: Route, request: Request) -> Response:
        asked = await _asked(route, request)
        node = self._desk.node(asked.node)
        visitor = await self._visitor(request, node)
        await _check(self._desk, route, node, visitor, asked)
        found = await route.handle(Asked(self._desk, node, visitor), asked)
        match found:
            case Raw(data, media):
                policy = {"content-security-policy": pages.REPORT_POLICY} if media == HTML else {}
                return Response(data, headers={"content-type": media, **policy})
            case Enter(token, document):
                response = Response(_encode(document), media_type=JSON)
                self._keep(request, response, token)
                return response
            case _:
                return Response(_encode(found), media_type=JSON)

    async def _visitor(self, request: HTTPConnection, node: Node) -> Visitor:
        headers = request.headers
        token = request.cookies.get(COOKIE, "")
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            token = given.strip()
        if self._desk.job.socket:
            # Only the node can write there; a program of the same user has no such header.
            peer = headers.get(PEER_HEADER, "")
        else:
            peer = request.client.host if request.client is not None else "?"
        loopback = roles.is_loopback(
            peer,
            headers.get("host", "").lower(),
            self._local_names,
            forwarded=any(name in headers for name in _FORWARDED),
        )
        return await self._desk.visitor(node, token, loopback=loopback)

    def _keep(self, request: Request, response: Response, token: str) -> None:
        told = request.headers.get("x-forwarded-prefix", "").rstrip("/")
        prefix = self._desk.job.prefix or (told if _PREFIX.fullmatch(told) else "")
        proto = request.headers.get("x-forwarded-proto", request.url.scheme)
        response.set_cookie(
            COOKIE,
            token,
            max_age=COOKIE_S if token else 0,
            path=prefix or "/",
            secure=self._desk.job.secure or proto == "https",
            httponly=True,
            samesite="strict",
        )

    # ------------------------------------------------------------------ the page

    async def page(self, request: Request) -> Response:
        """A file of the page, or the plain page."""
        name = request.path_params["name"]
        file = self._pages.file(name)
        if file is not None:
            return _file(request, file)
        if name or self._pages.built:
            return _failed(NotFound("there is no such file", hint="reload the page"))
        return await self._plain(request)

    async def _plain(self, request: Request) -> Response:
        try:
            node = self._desk.node(request.query_params.get("node", ""))
            visitor = await self._visitor(request, node)
            found = None
            why = "This page shows beamtimes to whoever brings a token: beamstream token new."
            if visitor.somebody:
                found = await self._desk.in_thread(self._desk.snapshot, node, visitor, "")
                why = str(node.sampler.failure())
            text = pages.plain(found, node.sampler.stale_s, why)
        except Error as error:
            text = pages.plain(None, 0.0, str(error))
        return Response(text, media_type="text/html")

    async def docs(self, request: Request) -> Response:
        """The API for people."""
        return Response(self._docs, media_type="text/html")

    async def openapi(self, request: Request) -> Response:
        """The API for programs."""
        return Response(self._openapi, media_type=JSON)

    # ------------------------------------------------------------------ the feed

    async def feed(self, websocket: WebSocket) -> None:
        """The WebSocket of a tab."""
        if not _same_origin(websocket):
            await websocket.close(_POLICY_VIOLATION)
            return
        await websocket.accept()
        try:
            node = self._desk.node(websocket.query_params.get("node", ""))
            visitor = await self._visitor(websocket, node)
            if not visitor.somebody:
                raise BadToken("the numbers are shown with a token", hint="log in")

            async def again(at: Node) -> Visitor:
                return await self._visitor(websocket, at)

            async def receive() -> str | bytes | None:
                message = await websocket.receive()
                if message["type"] != "websocket.receive":
                    return None
                text: str | None = message.get("text")
                return text if text is not None else message.get("bytes") or b""

            await self._desk.feeds.serve(websocket, receive, visitor, node, again)
        except Error as error:
            await _close(websocket, error)
        except (WebSocketDisconnect, RuntimeError):
            # It has gone while something was being sent.
            return
        await _close(websocket, None)


async def _close(websocket: WebSocket, error: Error | None) -> None:
    try:
        if error is not None:
            await websocket.send_text(error_text(error))
        await websocket.close(_POLICY_VIOLATION if error is not None else 1000)
    except (WebSocketDisconnect, RuntimeError):
        return


def _same_origin(websocket: WebSocket) -> bool:
    """Whether a page of ours asks: browsers tell where a page is from, and let it connect anywhere.

    Programs that are no browsers need not say.
    """
    origin = websocket.headers.get("origin")
    if origin is None:
        return True
    host = origin.partition("://")[2].lower()
    known = (websocket.headers.get("host", ""), websocket.headers.get("x-forwarded-host", ""))
    return bool(host) and host in (one.lower() for one in known)


async def _asked(route: Route, request: Request) -> Any:
    """What is asked, checked.

    Raises
    ------
    BadInput : it is not what the route takes, or does not come from a page of ours.
    """
    told: dict[str, Any] = dict(request.query_params)
    if route.method == "POST":
        if request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
            raise BadInput("changes are asked for in JSON", hint=f"Content-Type: {JSON}")
        if request.headers.get("x-beamstream") != "1":
            raise NotAllowed("changes need a header of ours", hint="X-Beamstream: 1")
        told = {key: told[key] for key in ("node",) if key in told} | await _body(request)
    try:
        return msgspec.convert(told | request.path_params, route.takes, strict=False)
    except msgspec.ValidationError as error:
        raise BadInput(f"{route.path}: {error}", hint="api/docs has what it takes") from None


async def _body(request: Request) -> dict[str, Any]:
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_NBYTES_MAX:
                    raise TooLarge(f"a body of more than {BODY_NBYTES_MAX} bytes")
        found: dict[str, Any] = msgspec.json.decode(bytes(data) or b"{}", type=dict[str, Any])
    except TimeoutError:
        raise TimedOut(f"the body did not come within {BODY_S:g} s") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"this is no JSON object: {error}") from None
    return found


async def _check(desk: Desk, route: Route, node: Node, visitor: Visitor, asked: Any) -> None:
    """Whether somebody may ask this; raises `Denied` if not."""
    if route.need == "anyone":
        return
    if not visitor.somebody:
        raise BadToken("this is shown with a token", hint="log in: beamstream token new")
    beamtime = getattr(asked, "beamtime", None)
    if beamtime and visitor.may_see(beamtime) and beamtime not in node.sampler.beamtimes():
        # It may be a new one.
        await node.sampler.fresh(0.0)
    if route.need == "viewer":
        return
    if beamtime is not None:
        visitor.check_operates(beamtime)
        desk.beamtime(node, visitor, beamtime)
    elif not (visitor.operates is None or visitor.operates):
        kind = NotAllowed if visitor.known else BadToken
        raise kind(
            "this needs a token that writes", hint="beamstream token new --access read,write"
        )


# ------------------------------------------------------------------------------ answers


def _failed(error: Error) -> Response:
    return Response(_encode(failure_of(error)), status_of(error), media_type=JSON)


def _file(request: Request, file: pages.File) -> Response:
    headers = {"content-type": file.media, "cache-control": file.cache, "vary": "accept-encoding"}
    accepted = request.headers.get("accept-encoding", "")
    if file.packed is not None and re.search(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?(?:,|$))", accepted):
        return Response(file.packed, headers=headers | {"content-encoding": "gzip"})
    return Response(file.data, headers=headers)


async def _to_page(request: Request) -> Response:
    # Relative, so that it is right behind any prefix.
    return RedirectResponse("ui/", 307)


async def _unknown(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    told = doc.Failure(code="E300", message="there is no such question", hint="api/docs lists all")
    return Response(_encode(told), status, media_type=JSON)


class _Outermost:
    """Takes the prefix off, and puts headers on every answer."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        prefix = self._prefix
        if prefix and scope["path"].startswith(f"{prefix}/"):
            scope = {**scope, "path": scope["path"].removeprefix(prefix)}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _guarded(message.get("headers", []))}
            await send(message)

        await self._app(scope, receive, sending)


_GUARDS: Final = {
    b"content-security-policy": pages.POLICY.encode(),
    b"cache-control": pages.NO_STORE.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-frame-options": b"DENY",
}


def _guarded(headers: Any) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in headers}
    return [*headers, *((name, value) for name, value in _GUARDS.items() if name not in there)]
