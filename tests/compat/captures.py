"""Recorded conversations of the official clients, read from the folder beside the checkout."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compat.doors import shared_folder
from compat.wire import HEADER, REPLY, Answer, Reply

META_SIZE_OFFSET = 24
BAD_TOKEN = b"bad.token.x"


@dataclass(frozen=True)
class Capture:
    name: str
    facts: dict[str, Any]
    request: bytes
    reply: bytes

    @property
    def number(self) -> int:
        return int(self.name[:3])

    @property
    def channel(self) -> str:
        return str(self.facts["channel"])

    @property
    def op(self) -> int:
        return self.request[0]

    def expected_answer(self) -> Answer:
        head, _, body = self.reply.partition(b"\r\n\r\n")
        return Answer(int(head.split(None, 2)[1]), {}, body)

    def expected_reply(self) -> Reply:
        op, code, text = REPLY.unpack(self.reply[: REPLY.size])
        return Reply(op, code, text.split(b"\0")[0].decode())


def read_captures() -> list[Capture]:
    """All captures in the order in which they were taken; none when the folder is absent."""
    folder = shared_folder("asapo/vectors")
    if folder is None:
        return []
    return [
        Capture(
            path.stem,
            json.loads(path.read_text()),
            _hex(path.with_suffix(".req.hex")),
            _hex(path.with_suffix(".rsp.hex")),
        )
        for path in sorted(folder.glob("[0-9]*.json"))
    ]


def _hex(path: Path) -> bytes:
    return bytes.fromhex("".join(path.read_text().split()))


def recorded_token(captures: list[Capture]) -> str:
    """The user token of all captures."""
    request = next(c for c in captures if c.number == 2).request.decode()
    return request.split("?token=")[1].split("&")[0]


def with_tokens(request: bytes, tokens: dict[str, str]) -> bytes:
    """An HTTP request with other tokens and the length of its body put right."""
    head, _, body = request.partition(b"\r\n\r\n")
    for old, new in tokens.items():
        head = head.replace(old.encode(), new.encode())
        body = body.replace(old.encode(), new.encode())
    lines = [
        b"Content-Length: %d" % len(body) if line.lower().startswith(b"content-length") else line
        for line in head.split(b"\r\n")
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def with_credentials(request: bytes, token: str) -> bytes:
    """An authorize request with another good token, the size of its metadata put right."""
    credentials, _, recorded = request[HEADER.size :].rpartition(b"%")
    if recorded == BAD_TOKEN:
        return request
    meta = credentials + b"%" + token.encode()
    head = bytearray(request[: HEADER.size])
    struct.pack_into("<Q", head, META_SIZE_OFFSET, len(meta))
    return bytes(head) + meta


def with_buffer(request: bytes, buffer: int) -> bytes:
    """A data server request for another buffer."""
    return request[:8] + struct.pack("<Q", buffer) + request[16:]
