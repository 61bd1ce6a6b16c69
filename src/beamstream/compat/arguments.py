"""Arguments as the official modules take them: the same values, the same refusals."""

from __future__ import annotations

import operator
import warnings
from typing import Any, Final

SECONDS_MAX: Final = 10_000_000.0
"""Timeouts are cut to some months: what sockets take."""

DEFAULT_STREAM: Final = "default"


def text(value: Any) -> str:
    """Return text, or bytes as text.

    Raises
    ------
    TypeError : it is neither.
    UnicodeError : it cannot be written as UTF-8.

    >>> text(b"scan1")
    'scan1'
    """
    if isinstance(value, str):
        value.encode()
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode()
    raise TypeError("Could not convert to unicode.")


def unsigned(value: Any, nbits: int = 64) -> int:
    """Return a number 0 … 2^nbits - 1; fractions are cut off.

    Raises
    ------
    TypeError : it is no number.
    OverflowError : it is negative or too large.

    >>> unsigned(7.9)
    7
    """
    try:
        number = operator.index(value)
    except TypeError:
        if not hasattr(type(value), "__int__"):
            raise TypeError("an integer is required") from None
        number = int(value)
    if number < 0:
        raise OverflowError(f"can't convert negative value to uint{nbits}_t")
    if number >= 1 << nbits:
        raise OverflowError(f"value too large to convert to uint{nbits}_t")
    return number


def seconds(milliseconds: Any) -> float:
    """Return a timeout in seconds.

    >>> seconds(1500)
    1.5
    """
    return min(unsigned(milliseconds) / 1000, SECONDS_MAX)


def stream_name(stream: Any) -> str:
    """Return the name of a stream; None is the default one, of which the caller is warned."""
    if stream is None:
        deprecated("Using the default value of the 'stream' argument", 4)
        return DEFAULT_STREAM
    return text(stream)


def deprecated(what: str, level: int = 3) -> None:
    """Warn the caller of the method that calls this."""
    warnings.warn(
        f"{what} is deprecated since version 24.11.0.", DeprecationWarning, stacklevel=level
    )
