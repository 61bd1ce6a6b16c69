"""Addresses as ASAPO's services write them: ``host:port``, maybe with a scheme and a path."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from beamstream.errors import BadInput

_ADDRESS: Final = re.compile(
    r"(?:http://)?(?P<host>\[[0-9A-Fa-f:.%]{2,64}\]|[A-Za-z0-9_.-]{1,253})(?::(?P<port>\d{1,5}))?"
    r"(?P<prefix>(?:/[A-Za-z0-9._~%-]+)*)/?"
)


class Address(msgspec.Struct, frozen=True, gc=False):
    """Where a service is; `prefix` is prepended to the path of each HTTP request."""

    host: str
    port: int
    prefix: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{self.prefix}"


def parse_address(text: str, port: int = 0) -> Address:
    """Read an address; `port` is meant where it names none.

    Raises
    ------
    BadInput : it is none, or asks for ``https``, which these services do not have.

    >>> parse_address("http://localhost:8400/asapo/")
    Address(host='localhost', port=8400, prefix='/asapo')
    >>> str(parse_address("[::1]:8400"))
    '[::1]:8400'
    """
    found = _ADDRESS.fullmatch(text)
    number = int(found["port"] or port) if found else 0
    if not found or not 0 < number < 65536:
        raise BadInput(f"{text[:200]!r} is not an address", hint="HOST:PORT or http://HOST:PORT")
    return Address(found["host"].strip("[]"), number, found["prefix"])
