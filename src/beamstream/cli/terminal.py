"""What commands say: data to stdout, talk to stderr, tables, JSON, numbers for people.

Nothing of the package and nothing heavy is imported here: help has to come at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
"""Exit statuses besides 0."""

STDIO: Final = "\0"
"""What a lone ``-`` becomes before the command line is read; nobody can type it."""

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def talk(text: str) -> None:
    """Say something to the person at the terminal; data never goes this way."""
    print(plain(text), file=sys.stderr, flush=True)


def print_rows(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()
) -> None:
    """Print a table with aligned columns; nothing in it can command the terminal.

    Parameters
    ----------
    right : heads of columns of numbers.

    >>> print_rows(("NAME", "SIZE"), [("a", 10), ("bcdef", 5)], right=("SIZE",))
    NAME   SIZE
    a        10
    bcdef     5
    """
    table = [list(head), *([plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    to_right = [name in set(right) for name in head]
    for row in table:
        cells = (
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, to_right, strict=True)
        )
        print("  ".join(cells).rstrip())


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line."""
    rows = [(name, plain(str(value))) for name, value in facts]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}".rstrip())


def print_json(document: Any) -> None:
    """Print one document."""
    print(json.dumps(document, indent=2))


def print_json_line(document: Any) -> None:
    """Print one of many documents, each on a line of its own, and at once."""
    print(json.dumps(document), flush=True)


def plain(text: str) -> str:
    """Return `text` with everything written out that would command a terminal.

    >>> plain("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def show_time(ns: int) -> str:
    """Write a time to the minute; ``-`` for none.

    >>> show_time(1_767_225_600_000_000_000)
    '2026-01-01 00:00 UTC'
    """
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC") if ns else "-"


def show_moment(ns: int) -> str:
    """Write a time to the microsecond as addresses understand it; ``-`` for none.

    >>> show_moment(1_767_225_600_250_000_000)
    '2026-01-01T00:00:00.250000Z'
    """
    if not ns:
        return "-"
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000 // 1000:06}Z"


def show_nbytes(nbytes: float) -> str:
    """Write a number of bytes in the unit that suits it.

    >>> show_nbytes(0), show_nbytes(999), show_nbytes(6_224_001), show_nbytes(8e9)
    ('0 B', '999 B', '6.22 MB', '8.00 GB')
    """
    for unit in _UNITS[:-1]:
        if abs(nbytes) < 999.5:
            return f"{nbytes:.3g} {unit}" if unit == "B" else f"{_three(nbytes)} {unit}"
        nbytes /= 1000
    return f"{_three(nbytes)} {_UNITS[-1]}"


def show_span(seconds: float) -> str:
    """Write a duration in the unit that suits it.

    >>> show_span(0.0004), show_span(0.25), show_span(75), show_span(90_000)
    ('0.40 ms', '250 ms', '75.0 s', '25.0 h')
    """
    if seconds < 1:
        return f"{_three(seconds * 1000)} ms" if seconds >= 1e-3 else f"{seconds * 1000:.2f} ms"
    if seconds < 120:
        return f"{_three(seconds)} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_count(count: float) -> str:
    """Write a number with thousands apart.

    >>> show_count(184220), show_count(3.14159)
    ('184,220', '3.14')
    """
    return f"{count:,.0f}" if abs(count) >= 100 or count == int(count) else _three(count)


def plural(count: int, what: str) -> str:
    """Write how many there are.

    >>> plural(1, "file"), plural(0, "file"), plural(1200, "message")
    ('1 file', 'no files', '1,200 messages')
    """
    return f"{count:,} {what}" if count == 1 else f"{f'{count:,}' if count else 'no'} {what}s"


def _three(value: float) -> str:
    """Three digits."""
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}"


@contextlib.contextmanager
def until_stopped() -> Iterator[None]:
    """What goes on until Ctrl-C or SIGTERM: either is its ordinary end, not an error."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def silence() -> None:
    """Whoever read our output has seen enough; nothing must be flushed into it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
