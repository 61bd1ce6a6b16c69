"""The doors of a running node, for clients that speak bytes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from beamstream.testing.node import NodeProcess
from compat.wire import Address, Http, Reply, Tcp

T = TypeVar("T")

BEAMTIME = "bt1"


def until(condition: Callable[[], T], what: str, seconds: float = 15.0, step: float = 0.01) -> T:
    """Return the first true value of `condition`, or fail saying `what` never happened."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        pause.wait(step)
    return value


def shared_folder(name: str) -> Path | None:
    """A folder of the material that lies beside the checkout, if it is there."""
    root = os.environ.get("BEAMSTREAM_SHARED")
    base = Path(root) if root else Path(__file__).resolve().parents[2].parent / "shared"
    folder = base / name
    return folder if folder.is_dir() else None


def parse_address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def escape(name: str) -> str:
    """As the clients escape names in paths: all but the unreserved characters of RFC 3986."""
    return quote(name, safe="-._~")


class Doors:
    """Addresses of `node`, found as ASAPO's clients find them, and a token for one beamtime."""

    def __init__(
        self, node: NodeProcess, beamtime: str = BEAMTIME, access: str = "read,write,writeraw"
    ) -> None:
        self.node = node
        self.beamtime = beamtime
        self.http_address = parse_address(node.endpoint)
        self.token = node.token(beamtime, access)
        with self.http() as http:
            found = http.get("/asapo-discovery/v0.1/asapo-receiver?protocol=v0.7")
        self.ingest_address = parse_address(found.json["Uris"][0])

    @property
    def core(self) -> Path:
        """The beamtime's folder on the core file system."""
        return self.node.data / "beamtimes" / self.beamtime

    def http(self, seconds: float = 10.0) -> Http:
        return Http(self.http_address, seconds)

    def tcp(self, seconds: float = 10.0) -> Tcp:
        """A connection to the receiver, not logged in."""
        return Tcp(self.ingest_address, seconds)

    def receiver(
        self, source: str = "src1", *, token: str = "", seconds: float = 10.0, **more: str
    ) -> Tcp:
        """A connection to the receiver, logged in."""
        wire = self.tcp(seconds)
        more.setdefault("beamtime", self.beamtime)
        reply = wire.login(token or self.token, source=source, **more)
        if reply != Reply(7, 0, ""):
            wire.close()
            raise AssertionError(f"the receiver refused the login: {reply}")
        return wire

    def base(self, stream: str = "s", source: str = "src1", version: str = "v0.7") -> str:
        return f"/{version}/beamtime/{self.beamtime}/{escape(source)}/{escape(stream)}"

    def query(self, **parameters: str | int) -> str:
        return "".join([f"?token={self.token}", *(f"&{k}={v}" for k, v in parameters.items())])

    def record(self, id: int, stream: str = "s", source: str = "src1") -> dict[str, Any]:
        """The record of a message, read by id."""
        with self.http() as http:
            answer = http.get(f"{self.base(stream, source)}/0/{id}{self.query()}")
        assert answer.status == 200, answer
        record: dict[str, Any] = answer.json
        return record

    def data(self, record: dict[str, Any]) -> bytes:
        """The payload of a record, from the data server."""
        with Tcp(parse_address(record["source"])) as wire:
            reply, payload = wire.fetch(record["buf_id"], record["size"])
        assert reply == Reply(6, 0, "")
        return payload

    def folder_token(self) -> str:
        with self.http() as http:
            answer = http.post(
                f"/asapo-authorizer/v0.2/folder?token={self.token}",
                f'{{"Folder":"auto","BeamtimeId":"{self.beamtime}","Token":"{self.token}"}}',
            )
        assert answer.status == 200, answer
        return answer.text
