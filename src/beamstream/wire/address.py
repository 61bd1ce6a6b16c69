"""Addresses: ``[beamtime/]source/stream[range]``, the same in Python and on the command line.

Names are percent-escaped as in ASAPO's URLs (all but letters, digits and ``-._~``); what is
unambiguous may stand for itself. The range is optional, its brackets are literal.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from beamstream import limits
from beamstream.errors import BadInput, BadName, TooLarge
from beamstream.model import check_beamtime, check_label
from beamstream.wire.address_range import IdRange, Range, RangeError, TimeRange, parse_range

__all__ = ["Address", "IdRange", "Pattern", "Range", "TimeRange", "parse", "parse_pattern"]

_FORM: Final = "[beamtime/]source/stream[range]"
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_STAR: Final = "*"


class Address(msgspec.Struct, frozen=True):
    """A stream, or some of its messages.

    Parameters
    ----------
    beamtime : empty for the one that the client is connected to.
    source, stream : names, unescaped.
    range : which messages; None for the stream itself.

    >>> str(Address("", "eiger", "scan 1", IdRange(1, 100)))
    'eiger/scan%201[1:100]'
    """

    beamtime: str
    source: str
    stream: str
    range: Range | None = None

    def __str__(self) -> str:
        parts = (self.beamtime, self.source, self.stream)
        path = "/".join(quote(part, safe="") for part in parts if part)
        return path + ("" if self.range is None else str(self.range))


class Pattern(msgspec.Struct, frozen=True):
    """Streams whose names match; ``*`` stands for any characters, ``%2A`` for a star.

    Parameters
    ----------
    beamtime : empty for the one that the client is connected to; never a pattern.
    source, stream : as they were written, escaped.
    range : which messages of each; None for all.
    """

    beamtime: str
    source: str
    stream: str
    range: Range | None = None

    def matches(self, source: str, stream: str) -> bool:
        """Return whether the stream of this name (unescaped) is meant.

        >>> parse_pattern("eiger/scan*").matches("eiger", "scan 12")
        True
        """
        return _matches(self.source, source) and _matches(self.stream, stream)

    @property
    def exact(self) -> bool:
        """Whether it can match one stream only."""
        return _STAR not in self.source + self.stream

    def __str__(self) -> str:
        path = "/".join(part for part in (self.beamtime, self.source, self.stream) if part)
        return path + ("" if self.range is None else str(self.range))


def parse(text: str, *, now: datetime | None = None) -> Address:
    """Return the address that `text` stands for; ``str()`` of it is the canonical form.

    Parameters
    ----------
    now : the user's clock with its time zone, for ranges of times that name no date or zone.

    Raises
    ------
    BadInput : not understood; the text says where, counted from 1.
    BadName : a name that nothing can have.

    >>> parse("11012345/eiger/scan1[-10:]")
    Address(beamtime='11012345', source='eiger', stream='scan1', range=IdRange(start=-10, \
stop=None, step=1, single=False))
    >>> parse("eiger/scan1[0]")
    Traceback (most recent call last):
    beamstream.errors.BadInput: address 'eiger/scan1[0]': ids start at 1, there is no id 0, at \
character 13 (the first is 1, the last -1)
    """
    parts, beamtime, range = _split(text, now)
    for start, part in parts:
        if _STAR in part:
            raise _wrong(
                text,
                start + part.index(_STAR),
                "one stream is meant here, not a pattern",
                hint="write %2A for a star in a name",
            )
    source, stream = (
        _name(text, kind, start, part)
        for kind, (start, part) in zip(("source", "stream"), parts, strict=True)
    )
    return Address(beamtime, source, stream, range)


def parse_pattern(text: str, *, now: datetime | None = None) -> Pattern:
    """Return the pattern that `text` stands for: an address in which ``*`` may stand in names.

    Raises
    ------
    BadInput, BadName : as `parse`.

    >>> str(parse_pattern("eiger/*"))
    'eiger/*'
    """
    parts, beamtime, range = _split(text, now)
    escaped = []
    for kind, (start, part) in zip(("source", "stream"), parts, strict=True):
        if not part:
            _name(text, kind, start, part)
        position = start
        pieces = []
        for piece in part.split(_STAR):
            name = _name(text, kind, position, piece) if piece else ""
            pieces.append(quote(name, safe=""))
            position += len(piece) + 1
        escaped.append(_STAR.join(pieces))
    return Pattern(beamtime, escaped[0], escaped[1], range)


def _split(text: str, now: datetime | None) -> tuple[list[tuple[int, str]], str, Range | None]:
    """Return source and stream, still escaped, with their places; the beamtime; the range."""
    if len(text) > limits.ADDRESS_NBYTES_MAX:
        raise TooLarge(f"an address of {len(text)} characters is refused")
    path, bracket, rest = text.partition("[")
    range = None
    if bracket:
        if not rest.endswith("]"):
            raise _wrong(text, len(text), "the range is not closed by ']'")
        try:
            range = parse_range(rest[:-1], now)
        except RangeError as error:
            place = len(path) + 1 + error.index
            raise _wrong(text, place, error.message, error.hint) from None
    elif "]" in path:
        raise _wrong(text, path.index("]"), "a ']' without '['", hint="write %5D in a name")
    names = path.split("/")
    if len(names) not in (2, 3):
        place = len(path) if len(names) < 2 else len("/".join(names[:3]))
        raise _wrong(text, place, f"{len(names)} names instead of two or three", hint=_FORM)
    places = [0]
    for name in names[:-1]:
        places.append(places[-1] + len(name) + 1)
    parts = list(zip(places, names, strict=True))
    beamtime = ""
    if len(parts) == 3:
        try:
            beamtime = check_beamtime(names[0])
        except BadName as error:
            raise _wrong_name(text, 0, error) from None
        parts = parts[1:]
    return parts, beamtime, range


def _name(text: str, kind: str, start: int, part: str) -> str:
    if found := _BAD_ESCAPE.search(part):
        raise _wrong(
            text, start + found.start(), "a wrong escape", hint="write %25 for a percent sign"
        )
    try:
        name = unquote_to_bytes(part).decode()
        return check_label(kind, name)
    except UnicodeError:
        raise _wrong(text, start, f"the name of the {kind} is not UTF-8") from None
    except BadName as error:
        raise _wrong_name(text, start, error) from None


def _wrong(text: str, index: int, message: str, hint: str = "") -> BadInput:
    return BadInput(_said(text, index, message), hint=hint)


def _wrong_name(text: str, index: int, error: BadName) -> BadName:
    return BadName(_said(text, index, error.message), hint=error.hint)


def _said(text: str, index: int, message: str) -> str:
    shown = text if len(text) <= 100 else text[:100] + "…"
    return f"address {shown!r}: {message}, at character {index + 1}"


def _matches(pattern: str, name: str) -> bool:
    """Glob by searching each piece once: no pattern makes it slow."""
    first, *others = (unquote_to_bytes(piece).decode() for piece in pattern.split(_STAR))
    if not others:
        return name == first
    last = others.pop()
    if len(name) < len(first) + len(last) or not name.startswith(first):
        return False
    if not name.endswith(last):
        return False
    position, end = len(first), len(name) - len(last)
    for piece in others:
        found = name.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True
