"""Where the services of a node are: asked at one endpoint, kept until one of them fails."""

from __future__ import annotations

from typing import Final, NamedTuple

from beamstream.client.asapo.address import Address, parse_address
from beamstream.client.asapo.errors import ServerFault, Unavailable, Unsupported
from beamstream.client.asapo.http import Http
from beamstream.client.asapo.records import Version, read_version
from beamstream.errors import BadInput, BadToken, RemoteProtocolError
from beamstream.wire.asapo.reading import read_receivers

PROTOCOL: Final = "v0.7"
_BASE: Final = "/asapo-discovery/v0.1"
_RECEIVERS_MAX: Final = 1024


class ReceiverList(NamedTuple):
    connections_max: int
    addresses: tuple[Address, ...]


class Discovery:
    """Asks the node at `endpoint` for the addresses of its services.

    Raises (all methods)
    --------------------
    Unavailable, ConnectionLost, TimedOut : it does not answer.
    Unsupported : it does not speak this protocol.
    BadToken, BadInput : it refuses the question.
    """

    def __init__(self, http: Http, endpoint: str, token: str, timeout_s: float = 10.0) -> None:
        self.endpoint = parse_address(endpoint)
        self._http = http
        self._token = token
        self._timeout_s = timeout_s
        self._kept: dict[str, Address] = {}

    def receivers(self) -> ReceiverList:
        """The receivers that take messages, and how many connections a producer may open."""
        found = read_receivers(self._get(f"/asapo-receiver?protocol={PROTOCOL}"))
        if not found.uris or found.max_connections < 1:
            raise Unavailable(f"{self.endpoint} knows no receiver at the moment")
        addresses = tuple(_remote(uri) for uri in found.uris[:_RECEIVERS_MAX])
        return ReceiverList(found.max_connections, addresses)

    def broker(self) -> Address:
        return self._service("asapo-broker")

    def files(self) -> Address:
        return self._service("asapo-file-transfer")

    def version(self, client: str = "consumer") -> Version:
        """What the server says about itself to a `client`, ``consumer`` or ``producer``."""
        return read_version(
            self._get(f"/version?token={self._token}&client={client}&protocol={PROTOCOL}")
        )

    def forget(self) -> None:
        """Ask again next time: an address that was handed out did not answer."""
        self._kept.clear()

    def _service(self, name: str) -> Address:
        if name not in self._kept:
            body = self._get(f"/{name}?token={self._token}&protocol={PROTOCOL}")
            self._kept[name] = _remote(body.decode("utf-8", "replace").strip())
        return self._kept[name]

    def _get(self, target: str) -> bytes:
        response = self._http.request(
            self.endpoint, "GET", _BASE + target, timeout_s=self._timeout_s, repeat=True
        )
        if response.status == 200:
            return response.body
        where = f"discovery at {self.endpoint}"
        match response.status:
            case 401:
                raise BadToken(f"{where}: {response.text}")
            case 400:
                raise BadInput(f"{where}: {response.text}")
            case 404 | 503:
                raise Unavailable(f"{where}: status {response.status} {response.text}")
            case 415:
                raise Unsupported(f"{where} does not take {PROTOCOL}: {response.text}")
            case status:
                raise ServerFault(f"{where}: status {status} {response.text}")


def _remote(text: str) -> Address:
    try:
        return parse_address(text)
    except BadInput as error:
        raise RemoteProtocolError(f"discovery names {error.message}") from None
