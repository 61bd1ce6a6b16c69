"""A range of a stream is open for a group once more, and nothing else of it moves."""

from __future__ import annotations

from collections.abc import Callable

from beamstream.errors import Error
from beamstream.server.delivery import Deliveries
from beamstream.server.streams import View
from beamstream.store.catalog import Catalog
from beamstream.store.ranges import RangeSet

_PAGE = 10_000


def seqs_between(catalog: Catalog, view: View, lo: int, hi: int, upto_seq: int) -> RangeSet:
    """The seqs of what has an id in [lo, hi), up to `upto_seq`. Blocks: call it in a thread."""
    found = RangeSet()
    while view.no and lo < hi:
        pairs = catalog.ids(view.beamtime, view.no, lo, hi, _PAGE)
        for id, seq in pairs:
            if seq <= upto_seq:
                found.add(seq, seq + 1)
            lo = id + 1
        if len(pairs) < _PAGE:
            break
    return found


def reopen(
    deliveries: Deliveries,
    view: View,
    group: str,
    lo: int,
    seqs: RangeSet,
    done: Callable[[int | Error], None],
) -> None:
    """Open messages again, whose ids begin at `lo`; `done` with how many when it is safe.

    They come as if never delivered; leases of them end. Who reads by id goes back to `lo` and
    passes over what stays done. Ids that were acknowledged before there was a message are
    forgotten, as by any seek.
    """
    count = sum(end - start for start, end in seqs)
    if not count:
        done(0)
        return
    found = deliveries.group(view, group)
    from_id = found.from_id
    position = min(found.id_position, lo - 1)
    deliveries.seek_seqs(
        view, group, position, (), seqs.to_tuple(), lambda error: done(error or count)
    )
    # It is no seek to somewhere: a group that was begun at an id still leaves out those below.
    found.from_id = min(from_id, lo)
