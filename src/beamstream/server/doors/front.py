"""The front door: what a connection to the HTTP port asks for decides who answers it."""

from __future__ import annotations

import asyncio

import msgspec

from beamstream._version import __version__
from beamstream.server.doors.asapo_http import AsapoHandler
from beamstream.server.doors.http import HttpConnection, HttpRequest
from beamstream.server.doors.relay import is_relayed
from beamstream.server.doors.services import Services
from beamstream.wire.asapo.routes import SUPPORTED_PROTOCOLS, is_asapo
from beamstream.wire.native.frames import VERSION

WELL_KNOWN = b"/.well-known/beamstream"

# Relative: it is right behind a path prefix, too.
_PAGE = b"ui/"


class FrontHandler:
    """Answers the requests of one HTTP connection, or lets ASAPO's handler do it."""

    def __init__(self, services: Services, searches: asyncio.Semaphore) -> None:
        self._services = services
        self._asapo = AsapoHandler(services, searches)

    def handle(self, connection: HttpConnection, request: HttpRequest) -> None:
        if is_asapo(request.target):
            self._asapo.handle(connection, request)
            return
        if is_relayed(request.target):
            self._services.relay.begin(connection, request)
            return
        path = request.target.partition(b"?")[0]
        if request.method != b"GET":
            connection.reply(405, b"only GET is answered here")
        elif path == WELL_KNOWN:
            document = self._document(connection.local_host)
            connection.reply(200, msgspec.json.encode(document), "application/json")
        elif path in (b"/", b"/ui"):
            connection.redirect(_PAGE)
        else:
            connection.reply(404, b"there is nothing at this address; see " + WELL_KNOWN)

    def wants_headers(self, target: bytes) -> bool:
        return is_relayed(target)

    def gone(self) -> None:
        self._asapo.gone()

    def stop(self) -> None:
        self._asapo.stop()

    def _document(self, local_host: str) -> dict[str, object]:
        services = self._services
        ports = services.ports
        return {
            "product": "beamstream",
            "software": f"Beamstream {__version__}",
            "version": __version__,
            "protocol": VERSION,
            "native": services.address("native", local_host),
            "unix": services.unix,
            "tls": services.tls,
            "doors": {
                "asapo": {
                    "http": ports["http"],
                    "ingest": ports["ingest"],
                    "data": ports["data"],
                    "protocols": list(SUPPORTED_PROTOCOLS),
                },
                "native": {"port": ports["native"], "versions": [VERSION]},
            },
        }
