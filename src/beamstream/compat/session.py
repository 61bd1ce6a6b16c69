"""What both modules need of a node: where it is, who asks, what it says about itself."""

from __future__ import annotations

from typing import Final

from beamstream import __version__
from beamstream.client.asapo.address import parse_address
from beamstream.client.asapo.broker import Broker
from beamstream.client.asapo.discovery import PROTOCOL, Discovery
from beamstream.client.asapo.http import Http
from beamstream.client.asapo.producer import default_instance
from beamstream.wire.asapo.credentials import AUTO, DEFAULT_SOURCE

CLIENT_VERSION: Final = "25.03.0"
"""The release of ASAPO's clients whose interface this is."""

_HTTP_PORT: Final = 80
_STEP: Final = "DefaultStep"


class Session:
    """One beamtime and data source at the node behind `endpoint`, and the questions to it.

    Raises
    ------
    BadInput : the endpoint is none.
    """

    def __init__(
        self,
        endpoint: str,
        beamtime: str,
        source: str,
        token: str,
        timeout_s: float,
        instance: str,
        step: str,
    ) -> None:
        self.endpoint = str(parse_address(endpoint, _HTTP_PORT))
        self.beamtime = beamtime or AUTO
        self.source = source or DEFAULT_SOURCE
        self.token = token
        self.instance = default_instance() if instance in ("", AUTO) else instance
        self.step = _STEP if step in ("", AUTO) else step
        self.http = Http()
        self.discovery = Discovery(self.http, self.endpoint, token)
        self.broker = Broker(
            self.http,
            self.discovery,
            beamtime=self.beamtime,
            source=self.source,
            token=token,
            timeout_s=timeout_s,
            instance=self.instance,
            step=self.step,
        )

    def server_version(self, kind: str) -> tuple[str, bool]:
        """Return what the server says of itself to a `kind` of client, and if it supports it."""
        version = self.discovery.version(kind)
        said = (
            f"Server version: {version.software}, "
            f"{kind} protocol on server: {version.protocol.info}"
        )
        return said, version.supports


def client_version(*kinds: str) -> str:
    """Return what a client says of itself.

    >>> client_version("consumer")
    'software version: 25.03.0 (Beamstream ...), consumer protocol: v0.7'
    """
    protocols = ", ".join(f"{kind} protocol: {PROTOCOL}" for kind in kinds)
    return f"software version: {CLIENT_VERSION} (Beamstream {__version__}), {protocols}"
