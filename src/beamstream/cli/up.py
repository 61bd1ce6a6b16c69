"""`beamstream up`: start a node, tell where it is, what it holds and what is unsafe."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from beamstream import limits
from beamstream._version import __version__
from beamstream.cli import common
from beamstream.cli.common import Config, Data
from beamstream.errors import BadToken
from beamstream.model import Level
from beamstream.server import auth
from beamstream.settings import ALL_INTERFACES, LOOPBACK, Address, Settings, show_size
from beamstream.store.folder import DataFolder
from beamstream.store.registry import Registry

DEMO_BEAMTIME: Final = "demo"
DEMO_DAYS: Final = 30
_DEMO_DAYS_LEFT_MIN: Final = 7

_PROMISES: Final = {
    Level.CACHE: "an answered message is in memory; its record is written",
    Level.OS: "an answered message survives a killed node",
    Level.DISK: "an answered message survives a power cut",
}


def up(
    *,
    data: Data = None,
    http: Annotated[str | None, Parameter(help="HOST:PORT for HTTP.")] = None,
    ingest: Annotated[str | None, Parameter(help="HOST:PORT for producers of ASAPO.")] = None,
    data_port: Annotated[str | None, Parameter(help="HOST:PORT of ASAPO's data server.")] = None,
    native: Annotated[str | None, Parameter(help="HOST:PORT for native clients.")] = None,
    cache: Annotated[str | None, Parameter(help="Size of the cache: 1GiB, 500M.")] = None,
    durability: Annotated[str | None, Parameter(help="cache, os or disk.")] = None,
    advertise: Annotated[str | None, Parameter(help="Host that clients are told.")] = None,
    monitor: Annotated[
        bool | None, Parameter(name="--monitor", help="Start the page's process, too.")
    ] = None,
    config: Config = None,
) -> int:
    """Start a node; Ctrl-C or SIGTERM stops it cleanly."""
    settings, _ = common.load(
        config,
        data=data,
        http=http,
        ingest=ingest,
        data_port=data_port,
        native=native,
        cache=cache,
        durability=durability,
        advertise=advertise,
        monitor=monitor,
    )
    # The node is heavy to import, and a wrong flag should be told at once.
    from beamstream.server import node

    try:
        status: int = node.run(settings, on_ready=on_ready)
    finally:
        forget(os.environ)
    return status


def on_ready(settings: Settings) -> None:
    """Write `connect.json` and print the banner; called when all doors are open.

    Parameters
    ----------
    settings : with the addresses at which the doors really listen.
    """
    folder = DataFolder(settings.data)
    registry = Registry(folder.node_db)
    try:
        token = demo_token(folder, registry, common.now_ns())
    finally:
        registry.close()
    document = connect_document(settings, token)
    folder.write_connect(document)
    remember(document, os.environ)
    print(banner(settings, token, nbytes_free=folder.nbytes_free), flush=True)


def remember(document: bytes, environ: Mapping[str, str]) -> None:
    """Write where this node is to the place where programs of the same user look for one."""
    pointer = _pointer(environ)
    if pointer is None:
        return
    part = pointer.with_name(f".connect-{secrets.token_hex(8)}")
    try:
        pointer.parent.mkdir(0o700, parents=True, exist_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(document)
        part.replace(pointer)
    except OSError as error:
        # Programs are told the address then, as those of other users are.
        print(f"cannot write {pointer}: {error.strerror}", file=sys.stderr)


def forget(environ: Mapping[str, str]) -> None:
    """Remove what `remember` wrote, unless another node has written there since."""
    pointer = _pointer(environ)
    try:
        if pointer is not None and json.loads(pointer.read_bytes())["pid"] == os.getpid():
            pointer.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        return


def _pointer(environ: Mapping[str, str]) -> Path | None:
    # The client is not needed for looking at `up --help`.
    from beamstream.client.native.places import pointer_file

    return pointer_file(environ)


def demo_token(folder: DataFolder, registry: Registry, now_ns: int) -> str:
    """Return the token of the last start if it lasts for another week, else a new one."""
    try:
        token = str(json.loads(folder.connect_file.read_bytes())["token"])
        grant = auth.Authorizer(registry, folder.key, lambda: now_ns / 1e9).grant(token)
    except (OSError, ValueError, KeyError, TypeError, BadToken):
        grant = None
    left_min = _DEMO_DAYS_LEFT_MIN * 24 * 3600
    if grant and grant.name == DEMO_BEAMTIME and grant.expires > now_ns / 1e9 + left_min:
        return token
    return auth.issue(
        registry,
        folder.key,
        beamtime=DEMO_BEAMTIME,
        access=auth.RIGHTS,
        days=DEMO_DAYS,
        now_ns=now_ns,
        note="made by `beamstream up` for connect.json",
    )


def connect_document(settings: Settings, token: str) -> bytes:
    """Return what `connect.json` tells programs of the same user on this machine."""
    socket = DataFolder(settings.data).native_socket
    document = {
        "version": __version__,
        "pid": os.getpid(),
        "url": url(settings),
        "http": str(_reachable(settings, settings.http)),
        "ingest": str(_reachable(settings, settings.ingest)),
        "data_port": str(_reachable(settings, settings.data_port)),
        "native": str(_reachable(settings, settings.native)),
        "unix": str(socket) if socket.is_socket() else "",
        "tls": settings.tls,
        "beamtime": DEMO_BEAMTIME,
        "token": token,
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def url(settings: Settings) -> str:
    """Return the address of the node as clients write it."""
    scheme = "https" if settings.tls else "http"
    return f"{scheme}://{_reachable(settings, settings.http)}"


def banner(settings: Settings, token: str, *, nbytes_free: int) -> str:
    """Return the text that greets whoever has started a node.

    Parameters
    ----------
    settings : with the real addresses.
    token : for the beamtime `demo`.
    nbytes_free : on the file system of the data folder.
    """
    folder = shlex.quote(str(settings.data.absolute()))
    rows = [
        ("endpoint", _reachable(settings, settings.http), "what ASAPO's clients are given"),
        ("ingest", _reachable(settings, settings.ingest), "producers find it by themselves"),
        ("data server", _reachable(settings, settings.data_port), "consumers find it, too"),
        ("native", _reachable(settings, settings.native), "native clients find it, too"),
        *([("page", f"{url(settings)}/ui/", "in a browser")] if settings.monitor else []),
        ("data folder", settings.data.absolute(), f"{nbytes_free / limits.GIB:.1f} GiB free"),
        (
            "cache",
            show_size(settings.cache_nbytes),
            f"payloads above {show_size(settings.cached_payload_nbytes_max)} go to disk directly",
        ),
        ("durability", settings.durability.name.lower(), _PROMISES[settings.durability]),
    ]
    lines = [f"Beamstream {__version__} runs as process {os.getpid()}; Ctrl-C stops it.", ""]
    lines += [f"  {name:<12} {value!s:<24} {text}" for name, value, text in rows]
    lines += ["", *(f"  UNSAFE: {text}" for text in unsafe(settings, nbytes_free))]
    lines += [
        "",
        "A token for your beamtime:",
        f"  beamstream token new --data {folder} --beamtime ID --access read,write --days 30",
        f"To try it, with a token for beamtime {DEMO_BEAMTIME} (also in connect.json there):",
        f"  export BEAMSTREAM_URL={url(settings)} BEAMSTREAM_TOKEN={token}",
    ]
    return "\n".join(lines)


def unsafe(settings: Settings, nbytes_free: int) -> list[str]:
    """Return what an operator should know before trusting the node, worst first."""
    found = []
    if settings.open_doors:
        doors = ", ".join(f"{name} {door}" for name, door in settings.open_doors.items())
        found.append(f"other machines can reach {doors}; ASAPO's protocol sends tokens and data")
        if settings.tls:
            found.append("in clear to ingest and data_port, which TLS does not cover")
        else:
            found.append("in clear: use it inside a trusted network only")
    if settings.durability is Level.CACHE:
        found.append("a crash loses messages that were answered (durability cache)")
    elif settings.durability is Level.OS:
        found.append("a power cut may lose messages that were answered (durability os)")
    if nbytes_free < limits.GIB:
        found.append("the disk of the data folder is nearly full")
    if os.geteuid() == 0:
        found.append("it runs as root; a user of its own is enough")
    return found


def _reachable(settings: Settings, door: Address) -> Address:
    if settings.advertise:
        return Address(settings.advertise, door.port)
    if door.host == ALL_INTERFACES:
        return Address(LOOPBACK, door.port)
    return Address("::1", door.port) if door.host == "::" else door
