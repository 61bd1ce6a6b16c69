"""Percent escapes, query strings and numbers of HTTP request targets; the error they end in."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from beamstream import limits
from beamstream.errors import BadName, RemoteProtocolError

Params = dict[bytes, bytes]
"""Keys of a query string to their raw values."""


class HttpError(RemoteProtocolError):
    """A request that is answered with this status and text.

    >>> str(HttpError(404, "not found"))
    '404 not found'
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.text = text


def split_query(query: bytes) -> Params:
    """Return what is between the ``&``; of several equal keys the first.

    >>> split_query(b"a=1&b=%20&a=2")
    {b'a': b'1', b'b': b'%20'}
    """
    params: Params = {}
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        params.setdefault(key, value)
    return params


def escape(text: str) -> str:
    """Return `text` as the official clients escape it: all but letters, digits, ``-._~``.

    Raises
    ------
    BadName : lone surrogates.

    >>> escape("a b/é")
    'a%20b%2F%C3%A9'
    """
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise BadName(f"{text[:80]!r} is not valid Unicode") from None


_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def unescape(raw: bytes) -> str:
    """Return `raw` unescaped once; ``+`` is a plus.

    Raises
    ------
    HttpError : 400, a wrong escape or not UTF-8.

    >>> unescape(b"a%2Fb+c%25")
    'a/b+c%'
    """
    try:
        if b"%" not in raw:
            return raw.decode()
        if not _BAD_ESCAPE.search(raw):
            return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise HttpError(400, "request target is not UTF-8") from None
    raise HttpError(400, "wrong percent escape in request target")


def text(params: Params, key: bytes) -> str:
    """Return the unescaped value, empty when there is none."""
    return unescape(params.get(key, b""))


def flag(params: Params, key: bytes, default: bool = False) -> bool:
    """Return whether the value is ``true``."""
    value = params.get(key)
    return default if value is None else value == b"true"


def number(params: Params, key: bytes) -> int:
    """Return the value as a number, 0 when there is none."""
    value = params.get(key)
    return parse_id(value) if value else 0


def parse_id(raw: bytes) -> int:
    """Return a number 0 … 2^63 - 1.

    Raises
    ------
    HttpError : 400, in the words of the original.
    """
    if raw.isdigit():
        value = int(raw) if len(raw) <= 20 else limits.ID_MAX + 1
        if value <= limits.ID_MAX:
            return value
        reason = "value out of range"
    else:
        reason = "invalid syntax"
    raise HttpError(400, f'strconv.Atoi: parsing "{shown(raw)}": {reason}')


def shown(raw: bytes) -> str:
    """Return the beginning of what a client sent, as printable characters."""
    return raw[:40].decode("ascii", "backslashreplace").encode("unicode_escape").decode()
