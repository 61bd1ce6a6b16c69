"""Letting a range of a stream come once more: what that means, before it is done.

A replay is a run of its own, and writes into a stream of its own: to a step (its code reads the
range and publishes as it does live), to a stream (the messages are recorded once more, sharing
their payloads), or to a group (the range is open for it again). The old stream is not touched.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
import xxhash

from beamstream import limits
from beamstream._version import __version__
from beamstream.client.native import lookup
from beamstream.errors import BadInput, Conflict, NotFound
from beamstream.wire.address import Address, parse
from beamstream.wire.native import calls
from beamstream.worker.pacing import MAX, Rate

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.stream import Stream
    from beamstream.worker.replay_steps import StepJob

__all__ = ["Plan", "Target", "parse_target", "plan"]

KEY: Final = "replay"
"""Where the metadata of a stream say which replay writes it."""

NUMBERS_MAX: Final = 10_000
"""Streams of one name that are looked through for a free number."""

GAPS: Final = 1_000
"""Ranges of missing ids that are asked for at once."""

_UNTOLD: Final = ("replay_of", "parameters_version", "header_version", "reads", "file")
"""What may differ in a run without a result being another one for it."""

_KINDS: Final = ("step", "stream", "group")


class Target(msgspec.Struct, frozen=True):
    """Where to: `kind` "step", "stream" or "group", and the `name` of it.

    >>> parse_target("step:find_peaks")
    Target(kind='step', name='find_peaks')
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def parse_target(text: str) -> Target:
    """Read a target as it is typed.

    Raises
    ------
    BadInput : it is none.
    """
    kind, colon, name = text.partition(":")
    if not colon or kind not in _KINDS or (not name and kind != "stream"):
        raise BadInput(
            f"{text[:80]!r} is nothing to replay to", hint="step:NAME, stream:[NAME] or group:NAME"
        )
    return Target(kind, name)


class Plan(msgspec.Struct, frozen=True):
    """What a replay would do.

    Parameters
    ----------
    source, stream, lo, hi : which messages: lo ≤ id < hi.
    target, rate : where to, and how fast.
    measured : how many they are, and where their payloads lie.
    to_source, to_stream : the stream that is written; empty for a group.
    begin : the first id that is still to be done.
    done : whether all of it was done before, and its stream is finished.
    seconds : how long it takes at that rate; None: as long as it needs.
    document : of the run; None for a group.
    changes : what differs from the run whose results are there.
    warnings : what somebody should know before.
    """

    source: str
    stream: str
    lo: int
    hi: int
    target: Target
    rate: Rate
    measured: calls.Measured
    to_source: str = ""
    to_stream: str = ""
    begin: int = 0
    done: bool = False
    seconds: float | None = None
    document: dict[str, Any] | None = None
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def resumed(self) -> bool:
        """Whether some of it has been done before."""
        return self.begin > self.lo

    @property
    def mark(self) -> dict[str, Any]:
        """What the metadata of the written stream say of it."""
        assert self.document is not None
        return {"of": self.document["replay_of"], "digest": digest_of(self.document)}


def plan(
    hub: Hub,
    source: str,
    stream: str,
    ids: range,
    target: Target,
    rate: Rate = MAX,
    *,
    job: StepJob | None = None,
    into: str = "",
    fresh: bool = False,
) -> Plan:
    """Look at what a replay would do; nothing is changed.

    Parameters
    ----------
    ids : which messages.
    job : of a target ``step:``: what is run, with which parameters.
    into : name of the stream that is written, or SOURCE/STREAM; empty: ``STREAM~rN``.
    fresh : begin a new stream, even if one of this very replay is unfinished.

    Raises
    ------
    NotFound : there is nothing in that range, or no such group.
    BadInput : a step that writes nothing, a range with a step.
    Conflict : the stream that would be written is somebody else's.
    """
    if ids.step != 1:
        raise BadInput("a replay is of all ids of a range", hint="leave the step out of it")
    read = hub.source(source).stream(stream)
    measured = read.measure(ids.start, ids.stop)
    if not measured.count:
        raise NotFound(
            f"{_range(source, stream, ids)} is empty: there is nothing to replay",
            hint=f"beamstream stream info {Address('', source, stream)}",
        )
    made = Plan(
        source,
        stream,
        ids.start,
        ids.stop,
        target,
        rate,
        measured,
        begin=ids.start,
        seconds=rate.seconds(measured.count, measured.first_ns, measured.last_ns),
        warnings=(*_gone(measured), *_goes_on(read, ids)),
    )
    if target.kind == "group":
        return _of_group(hub, made)
    to_source, named = _written(made, job, into)
    if job is not None:
        job.look(hub)
    original = _original(hub, made, to_source) if job else 0
    document = _document(hub, made, job, original)
    made = msgspec.structs.replace(made, to_source=to_source, document=document)
    to_stream, begin = _choose(hub, made, job, named, fresh=fresh)
    return msgspec.structs.replace(
        made,
        to_stream=to_stream,
        begin=made.hi if begin is None else begin,
        done=begin is None,
        changes=_changes(hub, document, original),
        warnings=made.warnings + (job.warnings(ids) if job else ()),
    )


def digest_of(document: dict[str, Any]) -> str:
    """By which a replay is known again, in hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(document, order="deterministic"))


def _gone(measured: calls.Measured) -> tuple[str, ...]:
    if not measured.gone:
        return ()
    what = "was kept" if measured.gone == 1 else "were kept"
    return (f"{measured.gone:,} of {measured.count:,} payloads {what} in memory only and are gone",)


def _goes_on(read: Stream, ids: range) -> tuple[str, ...]:
    row = read.info()
    if row is None or row.last_id >= 0 or ids.stop <= row.max_id:
        return ()
    path = Address("", row.source, row.stream)
    return (f"{path} is not finished: what comes after id {ids.stop - 1} is left out",)


def _range(source: str, stream: str, ids: range) -> str:
    return f"{Address('', source, stream)}[{ids.start}:{ids.stop}]"


def _of_group(hub: Hub, made: Plan) -> Plan:
    group = hub.source(made.source).stream(made.stream).group(made.target.name)
    if group.info() is None:
        raise NotFound(
            f"stream {made.stream!r} of source {made.source!r} has no group {made.target.name!r}",
            hint=f"beamstream group ls {Address('', made.source, made.stream)}",
        )
    twice = (
        "whoever reads the group gets them again, and what it writes may be there twice; results "
        "of a step with the same code and parameters are recorded once"
    )
    return msgspec.structs.replace(made, warnings=(*made.warnings, twice))


# ----------------------------------------------------------------------- what is written


def _written(made: Plan, job: StepJob | None, into: str) -> tuple[str, str]:
    """The source that is written, and the stream if one was named."""
    said = into or (made.target.name if job is None else "")
    source = made.source if job is None else job.writes
    named = ""
    if said:
        found = parse(said if "/" in said else f"{source or made.source}/{said}")
        if found.range is not None or found.beamtime:
            raise BadInput(f"{said[:80]!r} is no stream to write", hint="[SOURCE/]STREAM")
        named, source = found.stream, found.source if "/" in said else source
    if not source:
        raise BadInput(
            f"step {job.step_id if job else ''!r} writes nothing, so that nothing would come of it",
            hint="--into SOURCE/STREAM",
        )
    if (named, source) == (made.stream, made.source):
        raise BadInput(f"stream {named!r} of source {source!r} would be replayed into itself")
    if job is not None:
        job.writes = source
    return source, named


def _choose(
    hub: Hub, made: Plan, job: StepJob | None, named: str, *, fresh: bool
) -> tuple[str, int | None]:
    """The stream that is written, and the id to begin or go on with; None: all is done."""
    there = {row.stream: row for row in hub.source(made.to_source).streams().rows()}
    names = [named] if named else (f"{made.stream}~r{n}" for n in itertools.count(2))
    for name in itertools.islice(names, NUMBERS_MAX):
        out, row = hub.source(made.to_source).stream(name), there.get(name)
        found = (out.meta or {}).get(KEY)
        ours = isinstance(found, dict) and found.get("digest") == made.mark["digest"]
        if row is None and (ours or found is None):
            return name, made.lo
        if row is None or not ours or (fresh and not named):
            continue
        if row.last_id < 0:
            return name, _go_on(out, made, job)
        if named:
            return name, None
    path = Address("", made.to_source, named or f"{made.stream}~r{NUMBERS_MAX}")
    raise Conflict(
        f"{path} is there already, and not of this replay",
        hint="another --into; without it there is a new stream",
    )


def _go_on(out: Stream, made: Plan, job: StepJob | None) -> int:
    """The first id that is still to be done; what is done twice is recorded once."""
    last = _last(out)
    if last is None or (job is not None and job.stateful):
        return made.lo
    origin = out.origin(last)
    inputs = [one.id for one in origin.inputs if one.id] if origin else []
    # Of an input with more results than one unit holds some may be missing.
    after = 0 if job is not None and job.step.at_least_once else 1
    at = min(max([made.lo, *(id + after for id in inputs)]), made.hi)
    if job is None or job.step.many:
        return at
    at = max(job.block(at), made.lo)
    return min([at, *_missing(out, made, at, job.step.window or 1)])


def _missing(out: Stream, made: Plan, hi: int, size: int) -> Iterator[int]:
    """First inputs below `hi` whose results are not there though others behind them are.

    They failed, or were on their way when it was interrupted.
    """
    lo = made.lo
    while lo < hi:
        first, behind = (lo - 1) // size + 1, (hi - 1) // size + 1
        found: calls.GapRows = out._call(calls.ListGaps, lo=first, hi=behind, limit=GAPS)
        for low, high in found.gaps:
            ids = range(max((low - 1) * size + 1, made.lo), (high - 1) * size + 1)
            pages = lookup.pages(out._hub, made.source, made.stream, ids, payloads=False)
            if next(pages, None) is not None:
                yield ids.start
                return
        if not found.more or not found.gaps:
            return
        lo = (found.gaps[-1][1] - 1) * size + 1


def _last(stream: Stream) -> int | None:
    """The largest id there is."""
    fetched: calls.Fetched = stream._call(calls.FetchLast, payloads=False)
    found = lookup.messages(stream.source, stream.name, fetched, memoryview(b""), verify=False)
    return found[-1].id if found else None


# ------------------------------------------------------------------------- what made it


def _document(hub: Hub, made: Plan, job: StepJob | None, original: int) -> dict[str, Any]:
    of = {"source": made.source, "stream": made.stream, "ids": [made.lo, made.hi], "run": original}
    if job is not None:
        return job.document(hub, made.source, made.stream, of)
    return {"kind": "copy", "software": {"beamstream": __version__}, "replay_of": of}


def _original(hub: Hub, made: Plan, to_source: str) -> int:
    """The run of the results that are there; 0: there are none."""
    out = hub.source(to_source).stream(made.stream)
    ids = range(made.lo, limits.ID_MAX)
    first = next(lookup.pages(hub, to_source, made.stream, ids, payloads=False), None)
    id = _last(out) if first is None else first.id
    origin = None if id is None else out.origin(id)
    return 0 if origin is None else origin.run


def _changes(hub: Hub, document: dict[str, Any], original: int) -> tuple[str, ...]:
    """What is not as it was, a line each."""
    row = hub.run(original) if original else None
    if row is None:
        return ()
    old = _flat(msgspec.json.decode(row.document, type=dict[str, Any]))
    new = _flat(document)
    return tuple(
        f"{key}: {old.get(key, 'none')} before, {new.get(key, 'none')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(_UNTOLD)
    )


def _flat(document: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
