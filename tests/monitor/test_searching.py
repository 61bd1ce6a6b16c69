"""A search under a clock that runs out at once still comes to its end."""

from __future__ import annotations

import itertools

import pytest

import beamstream as bs
from beamstream.monitor import searching
from beamstream.monitor.asking import OfSearch


def test_each_question_gets_on(hub: bs.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "PIECE_IDS", 700)
    with hub.source("long").stream("s").writer() as writer:
        writer.send_many([b"x"] * 2_500, [{"k": k % 100} for k in range(2_500)])
    seen: list[int] = []
    after, turns = "", 0
    while True:
        # Each look at the clock finds it an hour later.
        hours = itertools.count(step=3600.0)
        asked = OfSearch(beamtime="demo", source="long", query="meta.k = 7", after=after)
        found = searching.search(hub, asked, frozenset(), lambda: float(next(hours)))  # noqa: B023
        seen += [hit.id for hit in found.hits]
        turns += 1
        after = found.after
        if not after:
            break
    assert seen == list(range(8, 2_501, 100))
    assert 3 <= turns <= 6


def test_what_is_kept_by_us_is_left_out_unless_it_is_named(hub: bs.Hub) -> None:
    hidden = frozenset(("long",))
    asked = OfSearch(beamtime="demo", query="meta.k = 7", limit=1_000)
    found = searching.search(hub, asked, hidden, lambda: 0.0)
    assert "long" not in {hit.source for hit in found.hits}
    named = OfSearch(beamtime="demo", source="long", query="meta.k = 7")
    assert searching.search(hub, named, hidden, lambda: 0.0).hits
