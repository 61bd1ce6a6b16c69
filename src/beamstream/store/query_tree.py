"""What a metadata search is made of, once its text is understood."""

from __future__ import annotations

import enum
import functools
from typing import Any, Final

import msgspec
import re2

from beamstream.errors import BadQuery

Scalar = int | float | str

NUMBER_COLUMNS: Final = (
    "_id",
    "size",
    "timestamp",
    "time_id",
    "ingest_mode",
    "dataset_substream",
)
COLUMNS: Final = (*NUMBER_COLUMNS, "name")

PATTERN_NBYTES_MAX: Final = 1024
PATTERNS_KEPT: Final = 64
PATTERN_MEMORY_NBYTES_MAX: Final = 1024 * 1024
"""Of one compiled pattern, with what it builds while matching: 64 MB for all in the worst case."""


class Operator(enum.Enum):
    EQ = "="
    NE = "<>"
    LT = "<"
    GT = ">"
    LE = "<="
    GE = ">="


class Key(msgspec.Struct, frozen=True):
    """A column of the record; if that is ``meta``, `path` leads to a value inside."""

    column: str
    path: tuple[str, ...] = ()


class Comparison(msgspec.Struct, frozen=True):
    key: Key
    operator: Operator
    value: Scalar


class Membership(msgspec.Struct, frozen=True):
    """`values` are all numbers or all strings, at least one."""

    key: Key
    values: tuple[Scalar, ...]
    negated: bool = False


class Between(msgspec.Struct, frozen=True):
    """low ≤ value ≤ high; `negated`: value < low or value > high. Both of one type."""

    key: Key
    low: Scalar
    high: Scalar
    negated: bool = False


class Pattern(msgspec.Struct, frozen=True):
    """An RE2 pattern that is found anywhere in a string."""

    key: Key
    pattern: str
    negated: bool = False


class AllOf(msgspec.Struct, frozen=True):
    terms: tuple[Condition, ...]


class AnyOf(msgspec.Struct, frozen=True):
    terms: tuple[Condition, ...]


Condition = Comparison | Membership | Between | Pattern | AllOf | AnyOf


class Query(msgspec.Struct, frozen=True):
    """A search that was understood; made by `parse`."""

    where: Condition
    order_by: Key | None = None
    descending: bool = False


@functools.lru_cache(maxsize=PATTERNS_KEPT)
def compile_pattern(pattern: str) -> Any:
    """Return the compiled pattern, whose search takes time linear in the text.

    Raises
    ------
    BadQuery : the pattern is no RE2 pattern, or too large.
    """
    if len(pattern.encode()) > PATTERN_NBYTES_MAX:
        raise BadQuery(
            f"the regular expression has more than {PATTERN_NBYTES_MAX} bytes",
            hint="a list with IN may do, or several conditions joined by OR",
        )
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_NBYTES_MAX
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        if isinstance(reason, bytes):
            reason = reason.decode(errors="replace")
        raise BadQuery(
            f"the regular expression {pattern[:80]!r} is not understood: {reason}",
            hint="RE2 syntax: no back-references, no look-around",
        ) from None
