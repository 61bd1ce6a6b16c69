"""Segments as bytes: entries are believed in their place only, damage is found where it is."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.store.segment_format import (
    ENTRY_NBYTES,
    HEADER_NBYTES,
    SCAN_NBYTES,
    Entry,
    Region,
    checksum_of,
    head_of,
    pack_entry,
    pack_header,
    padded,
    parse_entry,
    parse_header,
    scan,
)

# ---------------------------------------------------------------------------- the format


HEAD = head_of(7, bytes(range(100, 116)))


def reader(content: bytes) -> Callable[[int, int], memoryview]:
    def read(offset: int, nbytes: int) -> memoryview:
        assert nbytes <= SCAN_NBYTES
        return memoryview(content)[offset : offset + nbytes]

    return read


def file_of(bodies: list[bytes]) -> bytes:
    content = pack_header(7, bytes(range(100, 116)))
    for body in bodies:
        content += pack_entry(HEAD, len(content), Entry(len(body), 1, checksum_of([body])))
        content += body + bytes(padded(len(body)) - len(body))
    return content


def test_headers_are_what_was_packed() -> None:
    header = pack_header(7, bytes(range(100, 116)))
    assert len(header) == HEADER_NBYTES
    assert parse_header(header) == HEAD
    for bit in range(8 * HEADER_NBYTES):
        damaged = bytearray(header)
        damaged[bit // 8] ^= 1 << bit % 8
        assert parse_header(damaged) is None
    for nbytes in range(HEADER_NBYTES):
        assert parse_header(header[:nbytes]) is None


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**32), st.integers(0))
def test_an_entry_is_believed_in_its_place_only(
    offset: int, nbytes: int, payloads: int, bit: int
) -> None:
    entry = Entry(nbytes, payloads, checksum_of([b"body"]))
    packed = pack_entry(HEAD, offset, entry)
    assert len(packed) == ENTRY_NBYTES
    assert parse_entry(HEAD, offset, packed) == entry
    assert parse_entry(HEAD, offset + 8, packed) is None
    assert parse_entry(head_of(7, bytes(16)), offset, packed) is None
    assert parse_entry(HEAD._replace(seed=1), offset, packed) is None
    assert parse_entry(HEAD, offset, packed[:-1]) is None
    damaged = bytearray(packed)
    damaged[bit // 8 % ENTRY_NBYTES] ^= 1 << bit % 8
    assert parse_entry(HEAD, offset, damaged) is None


@given(st.lists(st.binary(max_size=100), max_size=8), st.binary(max_size=200))
@example([], b"")
def test_all_entries_are_found(bodies: list[bytes], torn: bytes) -> None:
    content = file_of(bodies)
    found = scan(HEAD, reader(content + torn), len(content + torn))
    assert found == (len(content), len(bodies), (), 0)


@given(st.lists(st.binary(max_size=100), min_size=3, max_size=8), st.data())
def test_damage_is_found_where_it_is(bodies: list[bytes], data: st.DataObject) -> None:
    content = bytearray(file_of(bodies))
    hit = data.draw(st.integers(0, len(bodies) - 2))
    start = len(file_of(bodies[:hit]))
    nbytes = ENTRY_NBYTES + len(bodies[hit])
    at = data.draw(st.integers(0, nbytes - 1))
    content[start + at] ^= 1 << data.draw(st.integers(0, 7))
    region = Region(start, ENTRY_NBYTES + padded(len(bodies[hit])))
    found = scan(HEAD, reader(bytes(content)), len(content))
    assert found == (len(content), len(bodies) - 1, (region,), 1)


@given(st.binary(max_size=2000), st.integers(0, 5))
def test_any_bytes_can_be_looked_through(noise: bytes, tags: int) -> None:
    content = pack_header(7, bytes(range(100, 116))) + HEAD.tag * tags + noise
    found = scan(HEAD, reader(content), len(content))
    assert found.end == HEADER_NBYTES
    assert found.entries == found.damages == 0


def test_what_is_larger_than_what_is_looked_at_together() -> None:
    """Entries, and damage, across the pieces in which a file is read."""
    rng = random.Random(3)
    bodies = [rng.randbytes(n) for n in (5, 2 * SCAN_NBYTES + 3, 9, SCAN_NBYTES, 17)]
    content = bytearray(file_of(bodies))
    assert scan(HEAD, reader(bytes(content)), len(content)).entries == 5
    start = len(file_of(bodies[:1]))
    content[start] ^= 1
    found = scan(HEAD, reader(bytes(content)), len(content))
    assert found.entries == 4
    assert found.damaged == (Region(start, ENTRY_NBYTES + padded(len(bodies[1]))),)


def test_damage_that_is_listed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEGMENT_DAMAGES_LISTED_MAX", 2)
    content = bytearray(file_of([b"x"] * 11))
    for number in range(0, 10, 2):
        content[len(file_of([b"x"] * number)) + 8] ^= 1
    found = scan(HEAD, reader(bytes(content)), len(content))
    assert len(found.damaged) == 2
    assert found.damages == 5
    assert found.entries == 6
