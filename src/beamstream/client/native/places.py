"""Where the node is and how it is reached: addresses, the environment, `connect.json`."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from beamstream import limits
from beamstream.client.native.transport import Plain, Tls, Transport
from beamstream.errors import (
    BadInput,
    ConnectionLost,
    Error,
    NotFound,
    RemoteProtocolError,
    TimedOut,
)

HTTP_PORT: Final = 8400
NATIVE_PORT: Final = 8403
WELL_KNOWN: Final = "/.well-known/beamstream"
_DIRECT: Final = ("beamstream", "tcp", "tls")
_URL: Final = re.compile(
    r"(?:(?P<scheme>[a-z]+)://)?(?P<host>\[[0-9A-Fa-f:.%]{2,64}\]|[A-Za-z0-9_.-]{1,253})"
    r"(?::(?P<port>\d{1,5}))?(?P<prefix>(?:/[A-Za-z0-9._~%-]+)*)/?"
)
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class Place(msgspec.Struct, frozen=True):
    """Where a native door is.

    Parameters
    ----------
    unix : path of a Unix socket; then host and port are unused.
    """

    host: str = ""
    port: int = 0
    tls: bool = False
    unix: str = ""

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}://{host}:{self.port}"


class Access(msgspec.Struct, frozen=True):
    """What a client needs to know; empty where nobody has said it."""

    url: str = ""
    beamtime: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Access({self.url!r}, {self.beamtime!r}, token={'…' if self.token else ''!r})"


class Url(msgspec.Struct, frozen=True):
    """An address as people write it; `scheme` empty, ``unix``, ``http``, ``tcp``, ``tls`` …"""

    scheme: str
    host: str
    port: int
    prefix: str = ""


def parse_url(text: str) -> Url:
    """Read an address.

    Raises
    ------
    BadInput : it is none.

    >>> parse_url("localhost")
    Url(scheme='http', host='localhost', port=8400, prefix='')
    >>> parse_url("tls://node1.example:8403").port
    8403
    """
    if text.startswith("unix:"):
        return Url("unix", text.removeprefix("unix:").removeprefix("//"), 0)
    found = _URL.fullmatch(text)
    scheme = (found["scheme"] or "http") if found else ""
    if not found or scheme not in ("http", "https", *_DIRECT):
        raise BadInput(
            f"{text[:200]!r} is not the address of a node",
            hint="host, host:8400, http://host:8400, tls://host:8403 or unix:/path",
        )
    port = int(found["port"] or (NATIVE_PORT if scheme in _DIRECT else HTTP_PORT))
    if not 0 < port < 65536:
        raise BadInput(f"{text[:200]!r} has no port between 1 and 65535")
    return Url(scheme, found["host"].strip("[]"), port, found["prefix"])


# ------------------------------------------------------------------------ who says where


def pointer_file(environ: Mapping[str, str]) -> Path | None:
    """Where a node tells programs of the same user how to reach it; None: nowhere.

    >>> pointer_file({"XDG_RUNTIME_DIR": "/run/user/1000"}).as_posix()
    '/run/user/1000/beamstream/connect.json'
    """
    named = environ.get("BEAMSTREAM_CONNECT_FILE")
    if named is not None:
        return Path(named) if named else None
    folder = environ.get("XDG_RUNTIME_DIR") or environ.get("LOCALAPPDATA")
    if folder:
        return Path(folder) / "beamstream" / "connect.json"
    try:
        return Path.home() / ".cache" / "beamstream" / "connect.json"
    except RuntimeError:
        return None


def find_access(url: str, beamtime: str, token: str, environ: Mapping[str, str]) -> Access:
    """Fill in what is not given: from the environment, else from the node of the same user.

    Parameters
    ----------
    url : address, or path of a `connect.json`; empty: look for one.

    Raises
    ------
    NotFound : nobody says where the node is.
    """
    if url.endswith(".json"):
        told = read_connect_file(Path(url))
        if told is None:
            raise NotFound(f"there is no file {url!r} that a node has written")
        return Access(told.url, beamtime or told.beamtime, token or told.token)
    given = Access(
        url or environ.get("BEAMSTREAM_URL", ""),
        beamtime or environ.get("BEAMSTREAM_BEAMTIME", ""),
        token or environ.get("BEAMSTREAM_TOKEN", ""),
    )
    if given.url and given.token:
        return given
    pointer = pointer_file(environ)
    told = read_connect_file(pointer) if pointer is not None else None
    if told is not None and (not given.url or _same_node(given.url, told.url)):
        return Access(
            given.url or told.url, given.beamtime or told.beamtime, given.token or told.token
        )
    if not given.url:
        raise NotFound(
            "nobody says where the node is",
            hint='connect("HOST:8400", token=…), or set BEAMSTREAM_URL and BEAMSTREAM_TOKEN as '
            "`beamstream up` prints them",
        )
    return given


def read_connect_file(path: Path) -> Access | None:
    """What a node has written; None if there is no such file, or not by this user."""
    try:
        if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
            return None
        told: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    native, unix = told.get("native"), told.get("unix")
    url = told.get("url")
    if isinstance(native, str) and native:
        url = f"{'tls' if told.get('tls') else 'tcp'}://{native}"
    elif isinstance(unix, str) and unix:
        url = f"unix:{unix}"
    texts = [url, told.get("beamtime", ""), told.get("token", "")]
    if not url or not all(isinstance(text, str) for text in texts):
        return None
    return Access(*map(str, texts))


def _same_node(url: str, told: str) -> bool:
    """Whether an address on this machine may be that of the node of the same user."""
    try:
        asked, own = parse_url(url), parse_url(told)
    except BadInput:
        return False
    return own.scheme == "unix" or (_is_loopback(asked.host) and _is_loopback(own.host))


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


# ------------------------------------------------------------------------ finding and dialling


class Finder:
    """Makes connections to a node, wherever it has gone.

    Parameters
    ----------
    url : as `parse_url` reads it.
    timeout_s : for one attempt.
    tls_ca : file with the certificates to trust; empty: those of the system.
    """

    def __init__(self, url: str, *, timeout_s: float, tls_ca: str = "") -> None:
        self.url = parse_url(url)
        self._text = url
        self._timeout_s = timeout_s
        self._tls_ca = tls_ca
        self._place: Place | None = None

    def dial(self, anew: bool) -> Transport:
        """Connect; `anew`: ask again where the native door is.

        Raises
        ------
        ConnectionLost, TimedOut : there is no connection.
        """
        if self._place is None or anew:
            self._place = self.find()
        transport = self.connect(self._place)
        transport.set_timeout(None)
        return transport

    def find(self) -> Place:
        """Where the native door is; asks the HTTP door if need be."""
        url = self.url
        if url.scheme == "unix":
            return Place(unix=url.host)
        if url.scheme in _DIRECT:
            return Place(url.host, url.port, url.scheme == "tls")
        tls = url.scheme == "https"
        transport = self.connect(Place(url.host, url.port, tls))
        try:
            document = get_json(transport, url)
        except OSError as error:
            raise ConnectionLost(f"{self._text} ended the connection: {error}") from None
        finally:
            transport.close()
        return read_well_known(document, url)

    def connect(self, place: Place) -> Transport:
        """A connection to that place."""
        try:
            sock = self._socket(place)
        except TimeoutError:
            raise TimedOut(f"{place} did not answer within {self._timeout_s:g} s") from None
        except OSError as error:
            raise ConnectionLost(
                f"there is no node at {place}: {error.strerror or error}",
                hint="is it running (`beamstream up`), and is the address right?",
            ) from None
        sock.settimeout(self._timeout_s)
        plain = Plain(sock)
        return self._encrypted(plain, place) if place.tls else plain

    def _socket(self, place: Place) -> socket.socket:
        if place.unix:
            family = getattr(socket, "AF_UNIX", None)
            if family is None:
                raise OSError("this system has no Unix sockets")
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(self._timeout_s)
            try:
                sock.connect(place.unix)
            except BaseException:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((place.host, place.port), self._timeout_s)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return sock

    def _encrypted(self, plain: Plain, place: Place) -> Transport:
        import ssl

        try:
            context = ssl.create_default_context(cafile=self._tls_ca or None)
            tls = Tls(plain, context, place.host)
            tls.greet()
        except OSError as error:
            plain.close()
            raise ConnectionLost(
                f"{place} cannot be spoken to by TLS: {error}",
                hint="a certificate of your own is named by tls_ca= or BEAMSTREAM_TLS_CA",
            ) from None
        return tls


def get_json(transport: Transport, url: Url) -> Any:
    """The document of the well-known address; a small HTTP request of our own.

    Raises
    ------
    RemoteProtocolError : the answer is none.
    """
    host = f"[{url.host}]" if ":" in url.host else url.host
    request = (
        f"GET {url.prefix}{WELL_KNOWN} HTTP/1.1\r\nHost: {host}:{url.port}\r\n"
        "Accept: application/json\r\nConnection: close\r\n\r\n"
    )
    transport.send([request.encode()])
    room = memoryview(bytearray(limits.HTTP_BODY_NBYTES_MAX))
    have = 0
    while have < len(room):
        received = transport.receive(room[have:])
        if not received:
            break
        have += received
        head, end, body = bytes(room[:have]).partition(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-length:[ \t]*(\d{1,6})", head)
        if end and found and len(body) >= int(found[1]):
            break
    head, _, body = bytes(room[:have]).partition(b"\r\n\r\n")
    try:
        if head.split(b" ", 2)[1:2] != [b"200"]:
            raise ValueError
        return msgspec.json.decode(body)
    except (ValueError, msgspec.DecodeError, UnicodeDecodeError):
        raise RemoteProtocolError(
            f"what answers at {url.host}:{url.port} is not a Beamstream node that speaks its own "
            "protocol",
            hint="is the port that of its HTTP door (8400)?",
        ) from None


def read_well_known(document: Any, url: Url) -> Place:
    """Where the native door is, as the HTTP door says.

    Raises
    ------
    RemoteProtocolError : it does not say so.

    >>> str(read_well_known({"native": 8403}, parse_url("node1")))
    'tcp://node1:8403'
    """
    native = document.get("native") if isinstance(document, dict) else None
    tls = bool(isinstance(document, dict) and document.get("tls"))
    with contextlib.suppress(Error, ValueError):
        if isinstance(native, int):
            return Place(url.host, native, tls)
        if isinstance(native, str) and native.isdigit():
            return Place(url.host, int(native), tls)
        if isinstance(native, str):
            found = parse_url(f"tcp://{native}")
            return Place(found.host, found.port, tls)
    raise RemoteProtocolError(
        f"the node at {url.host}:{url.port} has no native door",
        hint="it is an older one, or was started without",
    )
