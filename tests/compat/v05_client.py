"""A client of ASAPO's protocol v0.5 (release 21.12), for tests: raw requests, nothing hidden."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self

from compat import wire
from compat.doors import Doors, escape, parse_address
from compat.wire import Answer, Http, Reply, Tcp

VERSION = "v0.5"


class Producer05:
    """Sends by TCP; asks for stream information and metadata on the same connection."""

    def __init__(
        self,
        doors: Doors,
        source: str = "src05",
        *,
        beamtime: str = "bt1",
        beamline: str = "auto",
        kind: str = "processed",
        token: str = "",
    ) -> None:
        with doors.http() as http:
            found = http.get(f"/asapo-discovery/v0.1/asapo-receiver?protocol={VERSION}")
        assert found.status == 200
        assert found.json["MaxConnections"] > 0
        self.wire = Tcp(parse_address(found.json["Uris"][0]))
        self.credentials = "%".join([kind, beamtime, beamline, source, token or doors.token])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wire.close()

    def login(self, version: str = VERSION) -> Reply:
        return self.wire.ask(wire.AUTHORIZE, meta=self.credentials, version=version)

    def put(self, id: int, data: bytes, **more: Any) -> Reply:
        return self.wire.put(id, data, version=VERSION, **more)

    def finish(self, stream: str, last_id: int, next_stream: str = "asapo_no_next") -> Reply:
        return self.wire.put(
            last_id + 1,
            path="asapo_finish_stream",
            stream=stream,
            mode=wire.META_ONLY,
            meta=json.dumps({"next_stream": next_stream}, separators=(",", ":")),
            version=VERSION,
        )

    def send_meta(self, document: str, stream: str = "", mode: int = 12) -> Reply:
        """Metadata of a stream or the beamtime; `mode` is 1, 2, 3 (insert …) + 10 for upsert."""
        return self.wire.ask(
            wire.METADATA,
            data=document.encode(),
            custom=(wire.CACHE_ONLY, mode, 0),
            path=f"{stream}.meta" if stream else "beamtime_global.meta",
            stream=stream,
            version=VERSION,
        )

    def get_meta(self, stream: str = "") -> Reply:
        return self.wire.ask(wire.GET_META, stream=stream, version=VERSION)

    def stream_info(self, stream: str) -> Reply:
        return self.wire.ask(wire.STREAM_INFO, stream=stream, version=VERSION)

    def last_stream(self) -> Reply:
        return self.wire.ask(wire.LAST_STREAM, version=VERSION)

    def delete_stream(self, stream: str, *, meta: bool = True, must_exist: bool = True) -> Reply:
        flags = int(meta) | int(must_exist) << 1
        return self.wire.ask(
            wire.DELETE_STREAM, custom=(flags, 0, 0), stream=stream, version=VERSION
        )


class Consumer05:
    """Reads by HTTP from the broker that discovery names, and payloads from the data server."""

    def __init__(self, doors: Doors, source: str = "src05", *, token: str = "") -> None:
        self.token = token or doors.token
        self.beamtime = doors.beamtime
        self.source = source
        with doors.http() as http:
            target = f"asapo-broker?token={self.token}&protocol={VERSION}"
            found = http.get(f"/asapo-discovery/v0.1/{target}")
        assert found.status == 200
        self.http = Http(parse_address(found.text))
        self.doors = doors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def target(self, stream: str, rest: str, query: str = "") -> str:
        base = f"/{VERSION}/beamtime/{self.beamtime}/{escape(self.source)}"
        middle = f"/{escape(stream)}" if stream else ""
        return f"{base}{middle}/{rest}?token={self.token}{query}"

    def get(self, stream: str, rest: str, query: str = "") -> Answer:
        return self.http.get(self.target(stream, rest, query))

    def post(self, stream: str, rest: str, body: str = "", query: str = "") -> Answer:
        return self.http.post(self.target(stream, rest, query), body)

    def next(self, group: str, stream: str, query: str = "") -> Answer:
        return self.get(stream, f"{escape(group)}/next", query)

    def by_id(self, id: int, stream: str, query: str = "") -> Answer:
        return self.get(stream, f"0/{id}", query)

    def data(self, record: dict[str, Any]) -> tuple[Reply, bytes]:
        with Tcp(parse_address(record["source"])) as data_server:
            return data_server.fetch(record["buf_id"], record["size"])

    def file(self, name: str, *, folder: str = "auto", size_only: bool = False) -> Answer:
        """A file by the transfer service, with a folder token fetched for it."""
        request = {"Folder": folder, "BeamtimeId": self.beamtime, "Token": self.token}
        answer = self.http.post("/asapo-authorizer/v0.2/folder", json.dumps(request))
        if answer.status != 200:
            return answer
        with self.doors.http() as http:
            target = f"asapo-file-transfer?token={self.token}&protocol={VERSION}"
            found = http.get(f"/asapo-discovery/v0.1/{target}")
        with Http(parse_address(found.text)) as transfer:
            result: Answer = transfer.request(
                "POST",
                "/v0.2/transfer" + ("?sizeonly=true" if size_only else ""),
                json.dumps({"Folder": folder, "FileName": name}),
                {"Cookie": f"Authorization=Bearer {answer.text}"},
            )
        return result
