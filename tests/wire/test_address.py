"""The one address grammar: what it means, that it comes back, and where it says it is wrong."""

from __future__ import annotations

import fnmatch
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import BadInput, BadName, Error, TooLarge
from beamstream.wire.address import (
    Address,
    IdRange,
    Pattern,
    TimeRange,
    parse,
    parse_pattern,
)
from beamstream.wire.address_range import parse_range

SECOND_NS = 1_000_000_000
NOW = datetime(2026, 11, 22, 13, 0, tzinfo=timezone(timedelta(hours=1)))

names = st.text(
    st.characters(
        exclude_categories=("Cs", "Cc"),
        exclude_characters='"\\\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069',
    ),
    min_size=1,
    max_size=40,
)
beamtimes = st.just("") | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda text: text != "auto"
)
ids = st.integers(-limits.ID_MAX, limits.ID_MAX).filter(bool)
id_ranges = st.builds(IdRange, st.none() | ids, st.none() | ids, st.integers(1, 10**6)) | st.builds(
    IdRange, ids, single=st.just(True)
)
times_ns = st.integers(0, limits.ID_MAX - 2 * SECOND_NS)
time_ranges = st.builds(TimeRange, st.none() | times_ns, st.none() | times_ns).filter(
    lambda times: times != TimeRange()
)
addresses = st.builds(Address, beamtimes, names, names, st.none() | id_ranges | time_ranges)


# --------------------------------------------------------------------------- round trips


@given(addresses)
def test_an_address_comes_back_from_its_text(address: Address) -> None:
    assert parse(str(address)) == address
    assert str(parse(str(address))) == str(address)


@given(addresses)
def test_an_address_is_a_pattern_that_matches_itself(address: Address) -> None:
    pattern = parse_pattern(str(address))
    assert pattern.exact
    assert pattern.matches(address.source, address.stream)
    assert str(pattern) == str(address)


@given(st.text(max_size=60) | st.text("ab/[]:*%-0159t><=,.TZ+ ", max_size=40))
def test_any_text_is_an_address_or_an_error_of_ours(text: str) -> None:
    for how in (parse, parse_pattern):
        try:
            found = how(text, now=NOW)
        except Error:
            continue
        assert how(str(found)) == found


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("eiger/scan1", Address("", "eiger", "scan1")),
        ("11012345/eiger/scan1", Address("11012345", "eiger", "scan1")),
        ("eiger/scan 1", Address("", "eiger", "scan 1")),
        ("eiger/a%2Fb%5B1%5D", Address("", "eiger", "a/b[1]")),
        ("eiger/%2A", Address("", "eiger", "*")),
        ("eiger/ä", Address("", "eiger", "ä")),
        ("eiger/%C3%A4", Address("", "eiger", "ä")),
        ("eiger/a+b", Address("", "eiger", "a+b")),
        ("e/s[5]", Address("", "e", "s", IdRange(5, single=True))),
        ("e/s[-1]", Address("", "e", "s", IdRange(-1, single=True))),
        ("e/s[1:100]", Address("", "e", "s", IdRange(1, 100))),
        ("e/s[:]", Address("", "e", "s", IdRange())),
        ("e/s[::]", Address("", "e", "s", IdRange())),
        ("e/s[::10]", Address("", "e", "s", IdRange(step=10))),
        ("e/s[-10:-1:2]", Address("", "e", "s", IdRange(-10, -1, 2))),
    ],
)
def test_forms(text: str, address: Address) -> None:
    assert parse(text) == address


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "said", "place"),
    [
        ("", "1 names", 1),
        ("eiger", "1 names", 6),
        ("b/e/s/x", "4 names", 6),
        ("eiger/", "must not be empty", 7),
        ("/scan", "must not be empty", 1),
        ("-b/eiger/scan", "beamtime", 1),
        ("auto/eiger/scan", "beamtime", 1),
        ("eiger/sc%an", "wrong escape", 9),
        ("eiger/%ff", "not UTF-8", 7),
        ("eiger/a%00", "'\\x00'", 7),
        ("eiger/scan*", "not a pattern", 11),
        ("eiger/s[1", "not closed", 10),
        ("eiger/s]", "']' without '['", 8),
        ("eiger/s[0]", "ids start at 1", 9),
        ("eiger/s[0:5]", "ids start at 1", 9),
        ("eiger/s[1:0]", "ids start at 1", 11),
        ("eiger/s[1:5:0]", "step", 13),
        ("eiger/s[1:5:-1]", "step", 13),
        ("eiger/s[12x]", "not understood", 11),
        ("eiger/s[]", "not understood", 9),
        ("eiger/s[1.5]", "not understood", 10),
        ("eiger/s[9999999999999999999]", "2^63", 9),
        ("eiger/s[t>]", "not understood", 9),
        ("eiger/s[t>=2026-11-22T12:30]", "time zone", 12),
        ("eiger/s[t>=12:30Z]", "date", 12),
        ("eiger/s[t>=2026-13-22T12:30Z]", "not one", 12),
        ("eiger/s[t>=1960-01-01T00:00Z]", "before 1970", 12),
        ("eiger/s[t>=2026-11-22Z,t>2026-11-23Z]", "two bounds", 24),
        ("eiger/s[t>=2026-11-22Z,x]", "not understood", 24),
        ("eiger/s[t>=99]", "not understood", 12),
    ],
)
def test_errors_say_what_and_where(text: str, said: str, place: int) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert said in caught.value.message
    assert caught.value.message.endswith(f"at character {place}")


def test_wrong_names_are_bad_names() -> None:
    with pytest.raises(BadName):
        parse('eiger/a"b')
    with pytest.raises(BadName):
        parse("eiger/" + "a" * (limits.STREAM_NBYTES_MAX + 1))


def test_a_long_text_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(TooLarge):
        parse("a" * (limits.ADDRESS_NBYTES_MAX + 1))


def test_the_longest_names_fit() -> None:
    address = Address("b" * 64, "ä" * 511, " " * 1023, IdRange(-limits.ID_MAX, limits.ID_MAX, 10))
    assert parse(str(address)) == address


# ------------------------------------------------------------------------------- ranges

bounds = st.none() | st.integers(-30, 30).filter(bool)


@given(bounds, bounds, st.integers(1, 7), st.integers(0, 20))
def test_slices_are_pythons(start: int | None, stop: int | None, step: int, last_id: int) -> None:
    """Id n stands at place n - 1 of a list."""
    places = [id - 1 if id is not None and id > 0 else id for id in (start, stop)]
    expected = list(range(1, last_id + 1))[places[0] : places[1] : step]
    found = IdRange(start, stop, step).resolve(last_id)
    assert list(found) == expected
    assert IdRange.of(slice(start, stop, step)).resolve(last_id) == found


@given(st.integers(-30, 30).filter(bool), st.integers(0, 20))
def test_a_single_id_is_that_one_or_none(id: int, last_id: int) -> None:
    there = list(range(1, last_id + 1))
    place = id - 1 if id > 0 else id
    expected = there[place : place + 1 or None] if -last_id <= place < last_id else []
    assert list(IdRange.of(id).resolve(last_id)) == expected


@pytest.mark.parametrize(
    "key", [0, slice(0, 5), slice(1, 0), slice(1, 5, 0), slice(1, 5, -1), 2**63, slice(-(2**63))]
)
def test_keys_that_are_refused(key: object) -> None:
    with pytest.raises(BadInput):
        IdRange.of(key)


@pytest.mark.parametrize("key", ["1", 1.5, None, slice("a", None)])
def test_keys_that_are_no_numbers(key: object) -> None:
    with pytest.raises(TypeError):
        IdRange.of(key)


def test_id_0_is_explained() -> None:
    with pytest.raises(BadInput, match="ids start at 1"):
        IdRange.of(0)


# -------------------------------------------------------------------------------- times


def ns(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * SECOND_NS  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("t>=12:30", TimeRange(ns(2026, 11, 22, 11, 30))),
        ("t>12:30", TimeRange(ns(2026, 11, 22, 11, 30) + 1)),
        ("t<12:30:15.25", TimeRange(None, ns(2026, 11, 22, 11, 30, 15) + 250_000_000)),
        ("t<=12:30Z", TimeRange(None, ns(2026, 11, 22, 12, 30) + 1)),
        (
            " t >= 12:30 , t < 12:45",
            TimeRange(ns(2026, 11, 22, 11, 30), ns(2026, 11, 22, 11, 45)),
        ),
        ("t>=2026-01-02", TimeRange(ns(2026, 1, 1, 23))),
        ("t>=2026-01-02T03:04:05.123456789-01:30", TimeRange(ns(2026, 1, 2, 4, 34, 5) + 123456789)),
    ],
)
def test_times(text: str, times: TimeRange) -> None:
    assert parse_range(text, NOW) == times


def test_a_time_zone_with_summer_time_is_that_of_the_day() -> None:
    now = datetime(2026, 11, 22, 13, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    assert parse_range("t>=2026-07-01T12:00", now) == TimeRange(ns(2026, 7, 1, 10))


def test_a_clock_without_zone_is_not_guessed() -> None:
    with pytest.raises(BadInput, match="time zone"):
        parse_range("t>=12:30", datetime(2026, 11, 22, 13, 0))  # noqa: DTZ001


# ------------------------------------------------------------------------------ patterns


@given(
    st.lists(st.sampled_from(["*", "a", "b", "ab", "?"]), min_size=1, max_size=8),
    st.text("ab?", min_size=1),
)
def test_patterns_match_as_a_shell_does(pieces: list[str], name: str) -> None:
    pattern = "".join(pieces)
    expected = fnmatch.fnmatchcase(name, pattern.replace("?", "[?]"))
    assert parse_pattern(f"s/{pattern}").matches("s", name) == expected
    assert parse_pattern(f"{pattern}/s").matches(name, "s") == expected


def test_an_escaped_star_is_a_star() -> None:
    pattern = parse_pattern("eiger/%2A-*")
    assert pattern == Pattern("", "eiger", "%2A-*")
    assert pattern.matches("eiger", "*-1")
    assert not pattern.matches("eiger", "a-1")


@given(names)
def test_everything_is_matched_by_a_star(name: str) -> None:
    assert parse_pattern("*/*").matches(name, name)
    assert parse_pattern(f"{quote(name, safe='')}*/*").matches(name + "x", "y")


def test_patterns_take_ranges_and_beamtimes() -> None:
    pattern = parse_pattern("b1/eiger/scan*[-1]")
    assert pattern == Pattern("b1", "eiger", "scan*", IdRange(-1, single=True))
    assert not pattern.exact
    assert str(pattern) == "b1/eiger/scan*[-1]"


def test_a_beamtime_is_never_a_pattern() -> None:
    with pytest.raises(BadName, match="beamtime"):
        parse_pattern("b*/eiger/scan")


def test_many_stars_do_not_make_it_slow() -> None:
    pattern = parse_pattern("s/" + "*a" * 2000 + "b")
    assert not pattern.matches("s", "a" * 4000)
