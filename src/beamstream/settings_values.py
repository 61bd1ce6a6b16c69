"""How single settings are written: sizes, addresses, levels, paths, templates of folders."""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from beamstream import limits
from beamstream.errors import BadSetting
from beamstream.model import Level

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SIZE: Final = re.compile(r"\s*(\d{1,19}(?:\.\d{1,6})?)\s*([kKMGT]?)(i?)[bB]?\s*")
_SIZE_MAX: Final = 2**63
_UNITS: Final = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


class Address(msgspec.Struct, frozen=True):
    """Where a door listens. Port 0 asks for any free one.

    >>> str(Address("127.0.0.1", 8400))
    '127.0.0.1:8400'
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only programs on this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_size(text: object) -> int:
    """Return nbytes from a number or a text such as ``1GiB``, ``500M`` (10^6) or ``64k``.

    Raises
    ------
    BadSetting : it is not a size.

    >>> parse_size("1.5 GiB"), parse_size("500M")
    (1610612736, 500000000)
    """
    hint = "for example 1GiB, 500M or 65536"
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text < _SIZE_MAX:
        return text
    found = _SIZE.fullmatch(text) if isinstance(text, str) and text.isascii() else None
    if found is None:
        raise BadSetting(f"{_shown(text)} is not a size", hint=hint)
    number, unit, binary = found.groups()
    whole, _, fraction = number.partition(".")
    factor: int = (1024 if binary else 1000) ** _UNITS[unit]
    # Whole numbers only: floats would round sizes above 2^53 bytes.
    nbytes = int(whole) * factor + int(fraction or 0) * factor // int(10 ** len(fraction))
    if nbytes >= _SIZE_MAX:
        raise BadSetting(f"{_shown(text)} is more than any machine has", hint=hint)
    return nbytes


def show_size(nbytes: int) -> str:
    """Write a number of bytes in the largest unit that leaves no remainder.

    >>> show_size(2**30), show_size(500_000_000), show_size(1000)
    ('1GiB', '500M', '1k')
    """
    for factor, unit in ((1024, "iB"), (1000, "")):
        for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k" if not unit else "K")):
            if nbytes and nbytes % factor**power == 0:
                return f"{nbytes // factor**power}{letter}{unit}"
    return str(nbytes)


def parse_address(text: object) -> Address:
    """Return the address in ``HOST:PORT``; ``:PORT`` leaves the host empty.

    Raises
    ------
    BadSetting : it is not an address.

    >>> parse_address("[::1]:0")
    Address(host='::1', port=0)
    """
    hint = "HOST:PORT, for example 127.0.0.1:8400; port 0 takes any free one"
    if isinstance(text, Address):
        return text
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise BadSetting(f"{_shown(text)} is not an address", hint=hint)
    if host.startswith("[") and host.endswith("]"):
        host = _ipv6(host[1:-1], text, hint)
    elif host and not _HOST.fullmatch(host):
        raise BadSetting(f"{_shown(text)} is not an address", hint=hint)
    return Address(host, int(port))


def _ipv6(host: str, text: object, hint: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise BadSetting(f"{_shown(text)} is not an address", hint=hint) from None


def _shown(value: object) -> str:
    return repr(value)[:80]


def parse_cache_size(value: object) -> int:
    nbytes = parse_size(value)
    if nbytes < limits.CACHE_NBYTES_MIN:
        raise BadSetting(
            f"a cache of {nbytes} bytes is too small",
            hint=f"at least {show_size(limits.CACHE_NBYTES_MIN)}",
        )
    return nbytes


def parse_share(value: object) -> float:
    largest = 1 / limits.CACHE_ARENAS
    try:
        share = float(value) if isinstance(value, str | int | float) else 0.0
    except ValueError:
        share = 0.0
    if not 0 < share <= largest:
        raise BadSetting(
            f"{_shown(value)} is not a share of the cache", hint=f"above 0, up to {largest}"
        )
    return share


def parse_level(value: object) -> Level:
    if isinstance(value, Level):
        return value
    if isinstance(value, str) and value.upper() in Level.__members__:
        return Level[value.upper()]
    raise BadSetting(f"{_shown(value)} is not a level", hint="cache, os or disk")


def parse_boolean(value: object) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise BadSetting(f"{_shown(value)} is neither true nor false")


def parse_host(value: object) -> str:
    if value == "":
        return ""
    if isinstance(value, str) and _HOST.fullmatch(value):
        return value
    raise BadSetting(f"{_shown(value)} is not a host", hint="a name or IPv4 address, without port")


def parse_path(value: object) -> Path:
    text = str(value) if isinstance(value, str | Path) else ""
    if not text or "\0" in text:
        raise BadSetting(f"{_shown(value)} is not a path")
    return Path(text).expanduser() if text.startswith("~") else Path(text)


def parse_absolute(value: object) -> Path:
    path = parse_path(value)
    if not path.is_absolute():
        raise BadSetting(f"{_shown(value)} is not an absolute path")
    return path


def template(*needed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = str(parse_path(value))
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise BadSetting(f"{_shown(value)} is not a template: {error}") from None
        fields = [field for _, field, _, _ in parts if field is not None]
        plain = all(not spec and not conversion for _, _, spec, conversion in parts)
        if not plain or not set(needed) <= set(fields) <= {"data", "beamtime", "beamline"}:
            raise BadSetting(
                f"{_shown(value)} is not a template of a beamtime's folder",
                hint=f"it needs {{{'} and {'.join(needed)}}}, may have {{data}} and {{beamline}}",
            )
        return text

    return parse


def one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in words:
            raise BadSetting(f"{_shown(value)} is not possible", hint=", ".join(words))
        return str(value)

    return parse
