"""How data flows, and what will go wrong if nobody does anything: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from beamstream.cli.doctor_checks import Finding
from beamstream.cli.terminal import plural, show_nbytes, show_span
from beamstream.monitor.documents import (
    DiskUse,
    ErrorState,
    GroupState,
    LimitState,
    Snapshot,
)

LIMIT_SHARE_MAX: Final = 0.8
EVICT_S_MIN: Final = 60.0
DISK_FULL_S_MIN: Final = 3600.0
CERTIFICATE_S_MIN: Final = 14 * 86_400.0
ANSWER_S_MAX: Final = 0.5
ERRORS_S: Final = 3600.0
"""Errors that are older are history."""

_NAMED_MAX: Final = 5
_ELSEWHERE: Final = frozenset(("cache", "cache in use", "disk"))
"""A full cache is a good cache; the others have checks of their own."""

_LIMIT_REMEDIES: Final[Mapping[str, str]] = {
    "connections": "close what is not needed: many clients share one connection",
    "streams": "finish and leave streams that nobody needs; readers of fewer streams at a time",
    "producers": "programs that come and go should keep their instance names",
    "readers": "programs that come and go should keep their instance names",
}


def of_snapshot(snapshot: Snapshot, answer_s: float, lasting: DiskUse | None) -> Iterator[Finding]:
    """All that the node's counters tell.

    Parameters
    ----------
    answer_s : how long the node took to tell them.
    lasting : the disk as somebody saw it for longer, if there is somebody.
    """
    yield answering(answer_s, snapshot.node.cpu)
    yield from groups(snapshot.groups)
    yield from cache_ends(snapshot)
    yield disk_full(lasting or snapshot.node.disk, seen_long=lasting is not None)
    yield limits(snapshot.limits)
    yield errors(snapshot.errors)


def answering(answer_s: float, cpu: float) -> Finding:
    """Whether the node answers as fast as one that is not overloaded."""
    return Finding(
        "answers of the node",
        answer_s <= ANSWER_S_MAX,
        f"within {show_span(answer_s)}, {cpu:.1f} cores in use",
        "it is overloaded, or waits for its disk: beamstream top; iostat -x 1 on its machine",
    )


# --------------------------------------------------------------------------------- groups


def groups(rows: Sequence[GroupState]) -> Iterator[Finding]:
    """One finding for each group that needs somebody, or one that all is well."""
    found = [finding for row in rows for finding in _group(row)]
    read = sum(1 for row in rows if row.members)
    if not any(finding.ok is False for finding in found):
        yield Finding("groups", True, f"{plural(read, 'group')} read, and keep up")
    yield from found


def _group(row: GroupState) -> Iterator[Finding]:
    name, where = f"group {row.group}", f"{row.source}/{row.stream}"
    behind = f"{plural(row.lag, 'message')} ({show_span(row.lag_s)}) behind in {where}"
    if row.state == "stuck":
        yield Finding(name, False, f"stuck: {behind}", _unstick(row, where))
    elif row.state == "slow":
        yield Finding(
            name,
            False,
            f"slow, {row.trend}: {behind}",
            f"start more members: they share the work; or let it go on from the end: "
            f"beamstream group seek {where} {row.group} end",
        )
    elif row.state == "gone" and row.lag:
        yield Finding(name, None, f"nobody reads as it; {behind}")
    if row.dead and row.members:
        yield Finding(
            name,
            False,
            f"{plural(row.dead, 'message')} of {where} given up",
            f"see why: beamstream group dead {where} {row.group}; then offer them again: "
            f"beamstream group redeliver {where} {row.group}",
        )


def _unstick(row: GroupState, where: str) -> str:
    members = ", ".join(row.members[:_NAMED_MAX])
    if row.unacked_s > 0:
        return (
            f"{members} holds messages for {show_span(row.unacked_s)} without acknowledging them: "
            "look at its log, or end it; what it holds comes to others when its lease is over"
        )
    return (
        f"{members} is connected and asks for nothing: look at its log, or end and start it; "
        f"what is open: beamstream group info {where} {row.group}"
    )


# ---------------------------------------------------------------------------------- node


def cache_ends(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the cache lasts as long as its slowest group needs it."""
    soon = [
        row for row in snapshot.groups
        if row.members and row.lag and row.evict_in_s is not None
        and row.evict_in_s < EVICT_S_MIN and row.state in ("slow", "stuck")
    ]  # fmt: skip
    if not soon:
        yield Finding("cache and the slowest group", True, "no group is about to fall out of it")
        return
    worst = min(soon, key=lambda row: row.evict_in_s or 0.0)
    evict_s = worst.evict_in_s or 0.0
    ends = f"ends in {show_span(evict_s)}" if evict_s else "has ended"
    nbytes_rate = sum(row.nbytes_rate for row in snapshot.sources if row.beamtime == worst.beamtime)
    wanted = max(2 * nbytes_rate * (worst.lag_s + EVICT_S_MIN), 2 * snapshot.node.cache.nbytes)
    yield Finding(
        "cache and the slowest group",
        False,
        f"for {worst.group} the cache {ends}: then it reads from disk, slower, and what was "
        "kept in the cache only is lost to it",
        f"beamstream up --cache {_size(wanted)}, or more members of {worst.group}",
    )


def _size(nbytes: float) -> str:
    """
    >>> _size(2.1e9)
    '2GiB'
    """
    return f"{max(round(nbytes / 1024**3), 1)}GiB"


def disk_full(disk: DiskUse, *, seen_long: bool) -> Finding:
    """Whether the disk lasts for another hour; who looked for seconds only cannot know."""
    name = "disk is full in"
    if disk.full_in_s is None:
        return Finding(name, True, f"it does not fill; {show_nbytes(disk.free)} free")
    lasts = disk.full_in_s >= DISK_FULL_S_MIN
    rate = "of the last minute" if seen_long else "of the last seconds"
    return Finding(
        name,
        lasts if lasts or seen_long else None,
        f"{show_span(disk.full_in_s)} at the rate {rate}; {show_nbytes(disk.free)} free",
        "remove streams (beamstream stream rm SOURCE/STREAM --files), or slow what writes",
    )


def limits(rows: Iterable[LimitState]) -> Finding:
    """Whether a limit is about to be reached."""
    watched = [row for row in rows if row.name not in _ELSEWHERE and row.limit > 0]
    near = [row for row in watched if row.used > LIMIT_SHARE_MAX * row.limit]
    if not near:
        return Finding("limits", True, f"all of {len(watched)} below {LIMIT_SHARE_MAX:.0%}")
    said = ", ".join(f"{row.name} {row.used:g} of {row.limit:g}" for row in near[:_NAMED_MAX])
    kinds = dict.fromkeys(row.name.split(" ")[0] for row in near)
    remedies = dict.fromkeys(_LIMIT_REMEDIES[kind] for kind in kinds if kind in _LIMIT_REMEDIES)
    return Finding("limits", False, said, "; ".join(remedies) or "see the reference of limits")


def errors(rows: Iterable[ErrorState]) -> Finding:
    """What clients were told in the last hour; it may well be their own fault."""
    recent = sorted((row for row in rows if row.last_s < ERRORS_S), key=lambda row: -row.count)
    if not recent:
        return Finding("errors", True, "none was told to anybody in the last hour")
    said = "; ".join(
        f"{row.code} x{row.count}, last {show_span(row.last_s)} ago: {row.text}"
        for row in recent[:_NAMED_MAX]
    )
    return Finding("errors", None, f"{said} (beamstream explain CODE)")


# ------------------------------------------------------------------------- around the node


def monitor(answered_s: float | None, why: str, *, broken: bool = False) -> Finding:
    """Whether the page, the API and the metrics are there.

    Parameters
    ----------
    answered_s : None if it has not answered; `why` says why not.
    broken : it runs, and does not answer as it should.
    """
    name = "monitor"
    if answered_s is not None:
        return Finding(name, True, f"answers within {show_span(answered_s)}")
    if broken:
        return Finding(name, False, why, "end its process: `beamstream up` starts it again")
    return Finding(name, None, f"no page and no metrics: {why}")


def tls(scheme: str, *, loopback: bool, left_s: float | None) -> Finding:
    """Whether others on the way can read what is sent.

    Parameters
    ----------
    left_s : until the certificate is over; None if it is not known.
    """
    if scheme == "unix" or (loopback and left_s is None):
        return Finding("TLS", None, "not needed on one machine")
    if left_s is None:
        detail = "none: who is on the way reads tokens and data; inside a trusted network only"
        return Finding("TLS", None, detail)
    return Finding(
        "TLS",
        left_s >= CERTIFICATE_S_MIN,
        f"the certificate is good for {left_s / 86_400:.1f} days",
        "renew the certificate of the node, and start it again",
    )
