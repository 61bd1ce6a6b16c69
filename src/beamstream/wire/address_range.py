"""Which messages of a stream are meant: ids as in Python's slices, or times."""

from __future__ import annotations

import operator
import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Final

import msgspec

from beamstream import limits
from beamstream.errors import BadInput

_SECOND_NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RangeError(BadInput):
    """A range that is not understood. `index` is where in its text."""

    def __init__(self, message: str, index: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.index = index


class IdRange(msgspec.Struct, frozen=True):
    """Ids of a stream, half-open; negative ones count from the end, -1 is the last.

    Parameters
    ----------
    start, stop : first id, and the first that is not meant; None for the beginning, the end.
    step : every how manieth id.
    single : one id was asked for (`start`), not a range of one.

    >>> str(IdRange(1, 100)), str(IdRange.of(-1)), str(IdRange(step=10))
    ('[1:100]', '[-1]', '[::10]')
    """

    start: int | None = None
    stop: int | None = None
    step: int = 1
    single: bool = False

    @classmethod
    def of(cls, key: object) -> IdRange:
        """Return what ``stream[key]`` means.

        Raises
        ------
        BadInput : id 0, a step below 1, beyond 2^63 - 1.
        TypeError : neither a whole number nor a slice of them.

        >>> IdRange.of(slice(1, 100))
        IdRange(start=1, stop=100, step=1, single=False)
        >>> IdRange.of(0)
        Traceback (most recent call last):
        beamstream.errors.BadInput: ids start at 1, there is no id 0 (the first is 1, the last -1)
        """
        if isinstance(key, slice):
            start, stop, step = (
                None if part is None else operator.index(part)
                for part in (key.start, key.stop, key.step)
            )
            for id in (start, stop):
                check_id(id)
            return cls(start, stop, check_step(step))
        id = operator.index(key)  # type: ignore[arg-type]
        return cls(check_id(id), single=True)

    def resolve(self, last_id: int) -> range:
        """Return the ids that are meant while `last_id` (0: none) is the largest, clipped to it.

        A single id that does not exist is an empty range.

        >>> IdRange(-10).resolve(100)
        range(91, 101)
        >>> IdRange(1, 100, 10).resolve(25)
        range(1, 26, 10)
        """
        end = last_id + 1
        start = 1 if self.start is None else self.start
        stop = end if self.stop is None else self.stop
        start = start if start > 0 else end + start
        if self.single:
            return range(start, start + 1) if 1 <= start < end else range(1, 1)
        stop = stop if stop > 0 else end + stop
        start = max(start, 1)
        return range(start, max(min(stop, end), start), self.step)

    def __str__(self) -> str:
        start, stop = ("" if id is None else str(id) for id in (self.start, self.stop))
        if self.single:
            return f"[{start}]"
        return f"[{start}:{stop}:{self.step}]" if self.step != 1 else f"[{start}:{stop}]"


class TimeRange(msgspec.Struct, frozen=True):
    """Messages by time of ingestion, half-open, nanoseconds since 1970 UTC; None for no bound.

    >>> str(TimeRange(1_767_225_600_000_000_000))
    '[t>=2026-01-01T00:00:00Z]'
    """

    start_ns: int | None = None
    stop_ns: int | None = None

    def __str__(self) -> str:
        bounds = ((">=", self.start_ns), ("<", self.stop_ns))
        said = ",".join(f"t{sign}{_iso(ns)}" for sign, ns in bounds if ns is not None)
        return f"[{said or ':'}]"


Range = IdRange | TimeRange


def check_id(id: int | None) -> int | None:
    """Return `id` if a range may have it, else raise `BadInput`."""
    if id == 0:
        raise BadInput("ids start at 1, there is no id 0", hint="the first is 1, the last -1")
    if id is not None and abs(id) > limits.ID_MAX:
        raise BadInput("ids end at 2^63 - 1")
    return id


def check_step(step: int | None) -> int:
    """Return the step, 1 for None, if it is one, else raise `BadInput`."""
    if step is None:
        return 1
    if not 1 <= step <= limits.ID_MAX:
        raise BadInput(
            f"a step of {str(step)[:30]} is not possible", hint="ids are read in ascending order"
        )
    return step


# ------------------------------------------------------------------------------- as text

_NUMBER: Final = r"(-?[0-9]{1,19})"
_ID: Final = re.compile(_NUMBER)
_SLICE: Final = re.compile(rf"{_NUMBER}?:{_NUMBER}?(?::{_NUMBER}?)?")
_BOUND: Final = re.compile(r"\s*t\s*(>=|<=|>|<)\s*([^\s,<>=]+)\s*")
_TIME: Final = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d)(?:[Tt]|(?=[Zz+-]|$)))?"
    r"(?:(?P<time>\d\d:\d\d(?::\d\d)?)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)


def parse_range(text: str, now: datetime | None = None) -> Range:
    """Return the range in `text`, which is what stands between the brackets.

    Ids are as in Python: ``5``, ``-1``, ``1:100``, ``:``, ``::10``. Times are ``t>=12:30``,
    ``t<2026-11-22T12:30:00.5+01:00`` or two of them with a comma between.

    Parameters
    ----------
    now : where its user's clock stands: its time zone is taken for times that name none, its day
        for those without a date. Without it they are refused.

    Raises
    ------
    RangeError : with the place in `text`.

    >>> parse_range("1:100")
    IdRange(start=1, stop=100, step=1, single=False)
    >>> parse_range("t>=1970-01-01T00:00:01Z")
    TimeRange(start_ns=1000000000, stop_ns=None)
    """
    if found := _ID.fullmatch(text):
        return IdRange(_number(found, 1), single=True)
    if found := _SLICE.fullmatch(text):
        return IdRange(_number(found, 1), _number(found, 2), _step(found))
    if text.lstrip().startswith("t"):
        return _parse_times(text, now)
    wrong = re.match(r"[-0-9:]*", text)
    raise RangeError(
        f"range {text[:80]!r} is not understood",
        wrong.end() if wrong else 0,
        hint="[5], [-1], [1:100], [-10:], [::10] or [t>=12:30]",
    )


def _number(found: re.Match[str], group: int) -> int | None:
    digits = found[group]
    if digits is None:
        return None
    try:
        return check_id(int(digits))
    except BadInput as error:
        raise RangeError(error.message, found.start(group), error.hint) from None


def _step(found: re.Match[str]) -> int:
    try:
        return check_step(None if found[3] is None else int(found[3]))
    except BadInput as error:
        raise RangeError(error.message, found.start(3), error.hint) from None


def _parse_times(text: str, now: datetime | None) -> TimeRange:
    start_ns: int | None = None
    stop_ns: int | None = None
    position = 0
    for bound in text.split(","):
        found = _BOUND.fullmatch(bound)
        if not found:
            raise RangeError(
                f"times {text[:80]!r} are not understood", position, hint="[t>=12:30,t<12:45]"
            )
        ns = _parse_time(found[2], position + found.start(2), now)
        sign = found[1]
        if (start_ns if sign[0] == ">" else stop_ns) is not None:
            raise RangeError(f"times {text[:80]!r} have two bounds of one side", position)
        # Half-open: what is "after" a moment begins a nanosecond later.
        if sign[0] == ">":
            start_ns = ns + (sign == ">")
        else:
            stop_ns = ns + (sign == "<=")
        position += len(bound) + 1
    return TimeRange(start_ns, stop_ns)


def _parse_time(text: str, position: int, now: datetime | None) -> int:
    found = _TIME.fullmatch(text)
    if not found or not (found["date"] or found["time"]):
        raise RangeError(
            f"time {text[:60]!r} is not understood",
            position,
            hint="12:30, 12:30:15.25, 2026-11-22, 2026-11-22T12:30+01:00",
        )
    known = found["date"] and found["zone"]
    if not known and (now is None or now.tzinfo is None):
        raise RangeError(
            f"time {text[:60]!r} needs a date and a time zone here", position, hint="…T12:30Z"
        )
    try:
        zone = _zone(found["zone"]) if found["zone"] else now and now.tzinfo
        day = date.fromisoformat(found["date"]) if found["date"] else now and now.date()
        clock = time.fromisoformat(found["time"] or "00:00")
        moment = datetime.combine(day or _EPOCH.date(), clock, zone or UTC)
        since = moment - _EPOCH
    except (ValueError, OverflowError) as error:
        raise RangeError(f"time {text[:60]!r} is not one: {error}", position) from None
    seconds = since.days * 86_400 + since.seconds
    if not 0 <= seconds < limits.ID_MAX // _SECOND_NS:
        raise RangeError(f"time {text[:60]!r} is before 1970 or after 2262", position)
    return seconds * _SECOND_NS + int((found["fraction"] or "0").ljust(9, "0"))


def _zone(text: str) -> tzinfo:
    if text in "Zz":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[4:6]))
    return timezone(-offset if text[0] == "-" else offset)


def _iso(ns: int) -> str:
    seconds, rest = divmod(ns, _SECOND_NS)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"
