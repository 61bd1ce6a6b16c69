from __future__ import annotations

import itertools

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.store.catalog.sqlite_producers import NO_ID, Producers, Runs
from beamstream.store.catalog.sqlite_schema import migrate

P = b"p" * 16
pieces = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(0, 60)), max_size=25)


def fill(runs: Runs, wanted: list[tuple[int, int, int]]) -> dict[int, int]:
    """Add what is not there yet; ids by number."""
    ids: dict[int, int] = {}
    for lo, count, ident in wanted:
        numbers = range(lo, lo + count)
        there = any(number in ids for number in numbers)
        if runs.runs_max > 99:
            assert runs.overlaps(lo, lo + count) == there
        if not runs.overlaps(lo, lo + count):
            runs.add(lo, lo + count, ident, now_ns=lo)
            ids |= {number: ident + number - lo if ident else NO_ID for number in numbers}
    return ids


def check_form(runs: Runs) -> None:
    rows = runs.rows()
    for (lo, hi, ident, _), (next_lo, _, next_id, _) in itertools.pairwise(rows):
        assert lo < hi <= next_lo
        if hi == next_lo:
            assert next_id != (ident + next_lo - lo if ident else NO_ID)


@given(pieces)
def test_runs_are_a_map_of_numbers_to_ids(wanted: list[tuple[int, int, int]]) -> None:
    runs = Runs(runs_max=100)
    ids = fill(runs, wanted)
    assert {n: runs.id_of(n) for n in range(60)} == {n: ids.get(n) for n in range(60)}
    check_form(runs)
    assert {n: Runs(runs.rows()).id_of(n) for n in ids} == ids


@given(pieces, st.integers(2, 9))
def test_the_oldest_ids_are_forgotten_and_never_invented(
    wanted: list[tuple[int, int, int]], runs_max: int
) -> None:
    runs = Runs(runs_max=runs_max)
    ids = fill(runs, wanted)
    assert len(runs.rows()) <= runs_max
    for number in range(60):
        found = runs.id_of(number)
        # What was stored is known to be stored; an id is the right one or none.
        assert found in ((ids[number], NO_ID) if number in ids else (None, NO_ID))


@given(st.lists(pieces, max_size=4))
def test_what_is_written_back_is_read_again(rounds: list[list[tuple[int, int, int]]]) -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection, "memory")
    producers = Producers(connection)
    for number, wanted in enumerate(rounds):
        for lo, count, ident in wanted:
            producers.store(7, P, lo, lo + count, ident, now_ns=number)
        producers.runs(7, P).runs_max = 6
        before = producers.runs(7, P).rows()
        producers.write_back()
        producers.forget()
        assert producers.runs(7, P).rows() == before
    assert producers.runs(8, P).rows() == producers.runs(7, b"q" * 16).rows() == []


def test_a_lonely_producer_has_one_run_and_two_have_one_for_each_turn() -> None:
    alone, shared = Runs(), Runs()
    for n in range(100):
        alone.add(1 + 10 * n, 11 + 10 * n, 501 + 10 * n, now_ns=n)
        shared.add(1 + 10 * n, 11 + 10 * n, 501 + 20 * n, now_ns=n)
    assert alone.rows() == [(1, 1001, 501, 99)]
    assert len(shared.rows()) == 100


@pytest.mark.parametrize(("used_ns", "left"), [(5, 1), (4, 0)])
def test_a_producer_is_as_old_as_its_newest_run(used_ns: int, left: int) -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection, "memory")
    producers = Producers(connection)
    producers.store(1, P, 1, 3, 10, now_ns=1)
    producers.store(1, P, 5, 6, 20, now_ns=used_ns)
    producers.expire(5)
    assert len(producers.runs(1, P).rows()) == 2 * left
