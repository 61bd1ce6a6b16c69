"""Asking the monitor of a node, by the node's own HTTP port."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from beamstream.client.native import places
from beamstream.errors import ConnectionLost, Error, NotAllowed, NotFound, RemoteProtocolError

if TYPE_CHECKING:
    from beamstream.client.native.places import Access

ANSWER_NBYTES_MAX: Final = 64 * 1024 * 1024
_REFUSED: Final = (401, 403)
_AWAY: Final = (404, 502, 503)


class NoMonitor(NotFound):
    """The node is there, and no monitor is."""


def get(
    access: Access, path: str, query: Mapping[str, str], *, timeout_s: float, tls_ca: str = ""
) -> bytes:
    """What the monitor answers.

    Parameters
    ----------
    path : below the node's address, "/api/…".

    Raises
    ------
    NoMonitor : none runs there, or the address is that of no HTTP door.
    NotAllowed : the token does not do.
    ConnectionLost : the node cannot be reached.
    RemoteProtocolError : the answer is no answer.
    """
    url = places.parse_url(access.url)
    if url.scheme not in ("http", "https"):
        raise NoMonitor(
            f"{access.url} is not the HTTP door, behind which the monitor is",
            hint="give the node's address as http://HOST:8400",
        )
    target = f"{url.prefix}{path}"
    if query:
        target = f"{target}?{urllib.parse.urlencode(query)}"
    connection = _connection(url, timeout_s, tls_ca)
    try:
        connection.request("GET", target, headers={"Authorization": f"Bearer {access.token}"})
        answer = connection.getresponse()
        body = answer.read(ANSWER_NBYTES_MAX + 1)
    except http.client.HTTPException as error:
        raise RemoteProtocolError(f"{access.url}{path} does not speak HTTP: {error!r}") from None
    except OSError as error:
        raise ConnectionLost(f"{access.url}{path} does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status == 200 and len(body) <= ANSWER_NBYTES_MAX:
        return body
    raise _refusal(answer.status, body, f"{access.url}{path}")


def _connection(url: places.Url, timeout_s: float, tls_ca: str) -> http.client.HTTPConnection:
    if url.scheme == "http":
        return http.client.HTTPConnection(url.host, url.port, timeout=timeout_s)
    import ssl

    context = ssl.create_default_context(cafile=tls_ca or None)
    return http.client.HTTPSConnection(url.host, url.port, timeout=timeout_s, context=context)


def _refusal(status: int, body: bytes, where: str) -> Error:
    text = body[:1000].decode(errors="replace").strip().partition("\n")[0]
    try:
        said = json.loads(body)
        message, hint = str(said["message"]), str(said.get("hint", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, hint = text or f"HTTP status {status}", ""
    if status in _REFUSED:
        return NotAllowed(message, hint=hint)
    if status in _AWAY:
        return NoMonitor(message, hint=hint)
    return RemoteProtocolError(f"{where}: {status} {message}", hint=hint)
