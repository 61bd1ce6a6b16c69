"""What operators do: seek, offer again, write notes. Blocking: for threads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from beamstream.client.native import lookup
from beamstream.errors import BadInput, NotFound
from beamstream.monitor import documents as doc
from beamstream.wire.native import calls
from beamstream.worker import provenance

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.stream import Stream


def seek(hub: Hub, asked: doc.SeekAsked) -> doc.SeekDone:
    """Move a group, or only say what that would do.

    Raises
    ------
    NotFound : there is no such group.
    BadInput : no place to go to.
    """
    stream = hub.source(asked.source).stream(asked.stream)
    group = stream.group(asked.group)
    row, there = group.info(), stream.info()
    if row is None or there is None:
        raise NotFound(
            f"nobody reads {asked.source}/{asked.stream} as group {asked.group!r}",
            hint="beamstream group ls",
        )
    if asked.to in ("id", "time") and asked.at < 1:
        raise BadInput(f"{asked.at} is no {asked.to} to go to")
    effect = _effect(stream, row, asked)
    if not asked.dry_run:
        group.seek(_target(asked))
    return effect


def _target(asked: doc.SeekAsked) -> str | int | datetime:
    if asked.to == "id":
        return asked.at
    if asked.to == "time":
        seconds, rest_ns = divmod(asked.at, 1_000_000_000)
        # By parts: a float of so many seconds does not hold microseconds.
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(0, seconds, rest_ns // 1000)
    return asked.to


def _effect(stream: Stream, row: calls.GroupRow, asked: doc.SeekAsked) -> doc.SeekDone:
    finished = row.done + row.acked + row.dead
    if asked.to == "begin":
        return doc.SeekDone(skipped=0, reopened=finished)
    if asked.to == "end":
        return doc.SeekDone(skipped=row.open + row.leased, reopened=0)
    id = asked.at if asked.to == "id" else first_since(stream, asked.at)
    before = stream.measure(1, id).count if id > 1 else 0
    return moved(finished, row.position - 1, before)


def moved(finished: int, prefix: int, before: int) -> doc.SeekDone:
    """What a group skips and reads again, when it goes to where `before` messages lie behind it.

    Parameters
    ----------
    finished : messages that it is done with, of which the first `prefix` have none between them.

    >>> moved(finished=100, prefix=100, before=40)
    SeekDone(skipped=0, reopened=60)
    >>> moved(finished=100, prefix=100, before=130)
    SeekDone(skipped=30, reopened=0)
    """
    if before <= prefix:
        return doc.SeekDone(skipped=0, reopened=finished - before)
    # Those that were done out of turn lie close behind the prefix.
    beyond = min(finished - prefix, before - prefix)
    return doc.SeekDone(
        skipped=before - prefix - beyond, reopened=max(finished - prefix - beyond, 0)
    )


def first_since(stream: Stream, since_ns: int) -> int:
    """The smallest id that came at that time or later, by halving: ids grow with time."""
    row = stream.info()
    lo, hi = 1, (0 if row is None else row.max_id) + 1
    while lo < hi:
        middle = (lo + hi) // 2
        fetched, body = stream._hub._call_body(
            calls.Fetch(
                source=stream.source, stream=stream.name, lo=middle, hi=2**62, limit=1,
                payloads=False,
            )
        )  # fmt: skip
        found = lookup.messages(stream.source, stream.name, fetched, body, verify=False)
        times = [part.timestamp_ns for one in found for part in provenance.parts_of(one)]
        if not times or min(times) >= since_ns:
            hi = middle
        else:
            lo = found[0].id + 1
    return lo


def redeliver(hub: Hub, asked: doc.GroupAsked) -> doc.Count:
    """Offer the dead letters of a group again."""
    stream = hub.source(asked.source).stream(asked.stream)
    return doc.Count(count=stream.group(asked.group).redeliver())
