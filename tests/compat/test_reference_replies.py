"""The servers of release 21.12 were asked these requests; this node answers them alike.

Where it deliberately does not, `DIFFERENCES` says how it answers and names the row of
``docs/compat.md`` that says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from compat.doors import Doors, shared_folder
from compat.test_vectors import masked
from compat.v05_client import VERSION
from compat.wire import AUTHORIZE, METADATA, Answer, Reply, Tcp

FOLDER: Final = shared_folder("asapo/vectors")
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "compat.md"
PREFIXES: Final = {
    "broker": "", "discovery": "/asapo-discovery", "authorizer": "/asapo-authorizer",
    "file transfer": "",
}  # fmt: skip
RAW: Final = re.compile(
    r"op (\d+) id (\d+) custom \((\d+), (\d+), (\d+)\) "
    r"path '(.*?)' stream '(.*?)' meta '(.*)' ?(.*)"
)
CLOSED: Final = "connection closed"


def read_lines() -> list[dict[str, Any]]:
    if FOLDER is None:
        return []
    text = (FOLDER / "reference_21_12_replies.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


LINES: Final = read_lines()


@dataclass(frozen=True)
class Difference:
    """How this node answers instead, and the row of the page that says why."""

    row: str
    status: int | str
    holds: Callable[[str], bool] = lambda text: True


def contains(*parts: str) -> Callable[[str], bool]:
    return lambda text: all(part in text for part in parts)


def lacks(*parts: str) -> Callable[[str], bool]:
    return lambda text: not any(part in text for part in parts)


DIFFERENCES: Final[dict[tuple[str, str, str], Difference]] = {
    ("broker", "GET /v0.5/beamtime/bt1/raw/d/0/1?token=TOKEN", ""): Difference(
        "C37", 400, contains("datasets")
    ),
    ("broker", "GET /v0.5/beamtime/bt1/raw/s/0/9?token=TOKEN", ""): Difference(
        "C6", 409, contains('"id_max":1', '"next_stream":"nx"')
    ),
    (
        "broker",
        "POST /v0.5/beamtime/bt1/raw/s/0/querymessages?token=TOKEN",
        "_id > 0 order by _id desc",
    ): Difference("C5", 200, lacks("asapo_finish_stream")),
    ("discovery", "GET /v0.1/version?client=consumer&protocol=v0.7", ""): Difference(
        "C16", 200, contains('"clientSupported":"yes"')
    ),
    ("discovery", "GET /v0.1/version?client=consumer&protocol=v0.5", ""): Difference(
        "C15", 200, contains('"clientSupported":"yes"', "v0.5 (current)")
    ),
    ("discovery", "GET /v0.1/version?client=producer&protocol=v0.4", ""): Difference(
        "C15", 200, contains('"clientSupported":"no"', "v0.4 (unknown protocol)")
    ),
    ("discovery", "GET /v0.1/asapo-broker?protocol=v0.7", ""): Difference(
        "C16", 200, lambda text: re.fullmatch(r"[\w.]+:\d+", text) is not None
    ),
    ("discovery", "GET /v0.1/asapo-broker?protocol=v0.4", ""): Difference(
        "C15", 415, contains("unknown protocol")
    ),
    (
        "authorizer",
        "POST /authorize",
        '{"SourceCredentials": "processed%bt1%auto%raw%TOKEN", "OriginHost": "127.0.0.1:5"}',
    ): Difference("C17", 404),
}

QUOTED: Final = [
    "ignoring duplicate record for id 1", "already have record with same id", "not authorized",
    "already authorized", "wrong file size", "already acknowledged", "wrong meta type",
    "no datasets found", "from index is greater than to index", "group id is too long",
    "stream name is too long", "cannot extract token from request", "unknown protocol",
    "cannot extract protocol from request", "version not supported", "cannot parse version",
]  # fmt: skip
"""What the description quotes; of other refusals only the status has to be the same."""

DATA: Final = {"": b"abc", "again": b"abc", "other size": b"abcd", "bad meta": b"abc"}
LAST_ID_OF_A_FINISHED_STREAM: Final = "op 4 id 0 custom (0, 0, 0) path '' stream 's' meta '' "
"""The original counts the end mark as a message here, and only here (row C36)."""

EXTRA_KEYS: Final = {
    "schema_version", "dataset_size", "time_id", "stream", "ib_source", "ingest_mode", "timestamp",
}  # fmt: skip
"""Keys that one of the two generations does not have (rows C21 of the page); readers skip them."""


def normal(document: Any) -> Any:
    """Without values and keys in which the generations differ."""
    if isinstance(document, dict):
        return {key: normal(value) for key, value in document.items() if key not in EXTRA_KEYS}
    if isinstance(document, list):
        return [normal(item) for item in document]
    return document


class Asker:
    """Sends the requests in order; a connection ends with a refusal, as the original's does."""

    def __init__(self, doors: Doors) -> None:
        self.doors = doors
        self.http = doors.http()
        self.token = doors.node.token(doors.beamtime, "read,write")
        self.tcp: Tcp | None = None
        self.folder_token = doors.folder_token()
        self.transfers = iter(["", f"Bearer {self.folder_token}", f"Bearer {self.token}"])
        self.got = [self._ask(line) for line in LINES]
        self.http.close()
        self._hang_up()

    def _ask(self, line: dict[str, Any]) -> Answer | Reply | str:
        if line["service"] == "receiver":
            return self._ask_receiver(line["request"])
        if line["status"] == "-":
            return self.folder_token
        method, target = line["request"].replace("TOKEN", self.token).split(" ", 1)
        body = line["request_body"].replace("TOKEN", self.token)
        headers = {}
        if line["service"] == "file transfer":
            cookie = next(self.transfers)
            headers = {"Cookie": f"Authorization={cookie}"} if cookie else {}
        answer = self.http.request(
            method, PREFIXES[line["service"]] + target, body if method == "POST" else None, headers
        )
        if answer.headers.get("connection", "").lower() == "close":
            self.http.close()
            self.http = self.doors.http()
        return answer

    def _ask_receiver(self, request: str) -> Reply | str:
        self.tcp = self.tcp or self.doors.tcp()
        try:
            reply = self._send(self.tcp, request)
        except ConnectionError:
            self._hang_up()
            return CLOSED
        if reply.code not in (0, 2):
            self._hang_up()
        return reply

    def _send(self, tcp: Tcp, request: str) -> Reply:
        found = RAW.fullmatch(request)
        if found is None:
            return tcp.ask(int(request.split()[1]), stream="s", version=VERSION)
        op, id, mode, substream, size = (int(found[k]) for k in range(1, 6))
        path, stream, meta, note = found[6], found[7], found[8], found[9]
        data = b""
        if op in (2, 3) and path != "asapo_finish_stream":
            data = DATA.get(note, b"")
        if op == METADATA:
            data = b'{"m":1}'
        return tcp.ask(
            op,
            id,
            data,
            meta=meta.replace("TOKEN", self.token) if op == AUTHORIZE else meta,
            custom=(mode, substream, size),
            path=path,
            stream=stream,
            version="v0.9" if note == "newer version" else VERSION,
        )

    def _hang_up(self) -> None:
        if self.tcp:
            self.tcp.close()
        self.tcp = None


@pytest.fixture(scope="module")
def asker(doors: Doors) -> Asker:
    return Asker(doors)


absent = pytest.mark.skipif(
    not LINES, reason="no recorded replies: set BEAMSTREAM_SHARED to their folder"
)


@absent
@pytest.mark.system
@pytest.mark.parametrize(
    "number",
    range(len(LINES)),
    ids=lambda number: f"{number}-{LINES[number]['service']}-{LINES[number]['request'][:60]}",
)
def test_reply(number: int, asker: Asker) -> None:
    line, got = LINES[number], asker.got[number]
    key = (line["service"], line["request"], line.get("request_body", ""))
    if key in DIFFERENCES:
        difference = DIFFERENCES[key]
        assert isinstance(got, Answer)
        assert got.status == difference.status, got
        assert difference.holds(got.text)
    elif isinstance(got, Answer):
        check_answer(line, got)
    elif line["service"] == "receiver":
        check_reply(line, got)
    else:
        # Claims of the folder token: ours names the beamtime instead of two folders (C14).
        assert isinstance(got, str)
        assert got.count(".") == 2


def check_answer(line: dict[str, Any], got: Answer) -> None:
    assert got.status == line["status"], got
    expected = line["body"]
    assert all(text in got.text for text in QUOTED if text in expected)
    if expected[:1] in ("{", "["):
        assert normal(masked(got.json)) == normal(masked(json.loads(expected)))
    elif got.status >= 400:
        assert got.text
    elif "FOLDERTOKEN" not in expected and "creategroup" not in line["request"]:
        assert got.text == expected


def check_reply(line: dict[str, Any], got: Reply | str) -> None:
    if line["error_code"] == CLOSED:
        assert got == CLOSED
        return
    assert isinstance(got, Reply)
    assert (got.op, got.code) == (line["reply_op"], line["error_code"]), got
    expected = line["message"]
    if line["request"] == LAST_ID_OF_A_FINISHED_STREAM:
        assert json.loads(expected)["lastId"] == 2
        expected = expected.replace('"lastId":2', '"lastId":1')
    if expected.startswith("{"):
        assert normal(masked(json.loads(got.text))) == normal(masked(json.loads(expected)))
        return
    assert all(text in got.text for text in QUOTED if text in expected)
    assert bool(got.text) == bool(expected)


def test_every_difference_is_explained() -> None:
    rows = set(re.findall(r"^\| (C\d+) \|", PAGE.read_text(), re.M))
    assert {difference.row for difference in DIFFERENCES.values()} <= rows
    if LINES:
        asked = {(line["service"], line["request"], line.get("request_body", "")) for line in LINES}
        assert set(DIFFERENCES) <= asked


def test_the_page_covers_the_security_list() -> None:
    """Rows of the security list that ASAPO's protocol does not allow have a substitute."""
    rows = re.findall(r"^\| SEC(\d+) \|[^|]+\|([^|]+)\|$", PAGE.read_text(), re.M)
    assert {int(number) for number, _ in rows} >= {16, 18, 20, 21, 22, 28, 31}
    assert all(len(substitute.strip()) > 20 for _, substitute in rows)
