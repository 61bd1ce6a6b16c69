"""What a node knows of steps: runs, groups, failures, parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from beamstream.cli import remote
from beamstream.cli.options import Usage
from beamstream.cli.remote import Found
from beamstream.errors import BadInput, BadStep, NotFound
from beamstream.wire import address
from beamstream.wire.address import IdRange
from beamstream.wire.native import calls
from beamstream.worker import loading, parameters
from beamstream.worker.failures import SUFFIX

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

RUNS_MAX: Final = 10_000
"""Runs that are looked through."""

PAGE: Final = 500


def runs_of_steps(hub: Hub) -> dict[str, dict[str, Any]]:
    """The newest run of each step: its document, with the number as `run`."""
    found: dict[str, dict[str, Any]] = {}
    before = looked = 0
    while looked < RUNS_MAX:
        rows = hub.runs(PAGE, before=before)
        for row in rows:
            with contextlib.suppress(msgspec.DecodeError):
                document = msgspec.json.decode(row.document, type=dict[str, Any])
                if document.get("kind") == "step" and "replay_of" not in document:
                    found.setdefault(str(document.get("step", "")), {**document, "run": row.no})
        looked += len(rows)
        if len(rows) < PAGE:
            break
        before = rows[-1].no
    return found


def steps(hub: Hub) -> list[dict[str, Any]]:
    """Steps that have made something, and how far they are."""
    groups = hub.groups()
    rows = []
    for step, document in sorted(runs_of_steps(hub).items()):
        own = [row for row in groups if row.group == step]
        rows.append(
            {
                "step": step,
                "where": document.get("where", ""),
                "reads": document.get("reads", []),
                "writes": document.get("writes", ""),
                "workers": len({member for row in own for member in row.members}),
                "behind": sum(row.open + row.leased for row in own),
                "lag_s": max((row.lag_s for row in own if row.open), default=0.0),
                "dead": sum(row.dead for row in own),
                "parameters": document.get("parameters", {}),
                "parameters_version": document.get("parameters_version", 0),
                "run": document["run"],
            }
        )
    return rows


# -------------------------------------------------------------------------- parameters


def read_changes(hub: Hub, step: str, changes: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` …, checked by the code of the step if that is at hand.

    Raises
    ------
    Usage : one is not understood, or nothing of the step.
    """
    given: dict[str, str] = {}
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals:
            raise Usage(f"{text[:80]!r} is no change of a parameter", hint="NAME=VALUE")
        given[name.strip().replace("-", "_")] = value
    document = runs_of_steps(hub).get(step)
    where = str(document.get("where", "")) if document else ""
    try:
        if where:
            with contextlib.suppress(BadStep):
                declared = loading.load(where).parameters
                return parameters.plain(declared.check_text(given, partial=True))
        known = document.get("parameters", {}) if document else {}
        unknown = [name for name in given if document and name not in known]
        if unknown:
            there = ", ".join(known) or "none"
            raise Usage(f"step {step!r} has no parameter {unknown[0]!r}", hint=f"there: {there}")
    except BadInput as error:
        raise Usage(error.message, hint=error.hint) from None
    return {name: _guess(text) for name, text in given.items()}


def _guess(text: str) -> Any:
    """What a text most likely is; workers check it.

    >>> _guess("8"), _guess("true"), _guess("sum")
    (8, True, 'sum')
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


# ---------------------------------------------------------------------------- failures


def failures(hub: Hub, step: str, stream: str, limit: int) -> list[Found]:
    """The newest failures of a step, oldest of them first."""
    source = hub.source(step + SUFFIX)
    found: list[Found] = []
    for row in source.streams().rows():
        if row.count and stream in ("", row.stream):
            behind = max(row.max_id - limit, 0)
            ids = IdRange(behind + 1, None)
            found += source.stream(row.stream).messages(ids, payloads=False)
    return sorted(found, key=remote.time_ns)[-limit:]


def unexplained(hub: Hub, step: str, stream: str) -> list[Found]:
    """Dead letters of a step that nobody wrote a failure about: its workers died of them."""
    found: list[Found] = []
    for row in hub.groups():
        if row.group != step or not row.dead or stream not in ("", row.stream):
            continue
        dead = hub.source(row.source).stream(row.stream).group(step).dead()
        notes = hub.source(step + SUFFIX).stream(row.stream)
        noted = [one.meta for one in notes.messages(payloads=False)]
        spans = [meta.get("ids") or [meta.get("id"), meta.get("id")] for meta in noted]
        found += [one for one in dead if not any(lo <= one.id <= hi for lo, hi in spans)]
    return found


def redeliver(hub: Hub, step: str, which: str) -> int:
    """Offer dead letters of a step again; how many.

    Raises
    ------
    NotFound : nobody has run that step here.
    Usage : `which` names no messages.
    """
    rows = [row for row in hub.groups() if row.group == step]
    if not rows:
        raise NotFound(f"step {step!r} has no group in this beamtime", hint="beamstream worker ls")
    asked = _stream_and_range(which) if which else None
    count = 0
    for row in rows:
        if not row.dead or (asked is not None and asked[0] != row.stream):
            continue
        group = hub.source(row.source).stream(row.stream).group(step)
        if asked is None or asked[1] is None:
            count += group.redeliver()
            continue
        params = calls.GetStream(source=row.source, stream=row.stream)
        info: calls.StreamRow | None = hub._call(params)
        ids = asked[1].resolve(info.max_id if info is not None else 0)
        dead = [message for message in group.dead() if message.id in ids]
        count += group.redeliver(*dead) if dead else 0
    return count


def _stream_and_range(which: str) -> tuple[str, IdRange | None]:
    """A stream, and the ids that are meant.

    >>> _stream_and_range("scan1[7]")
    ('scan1', IdRange(start=7, stop=None, step=1, single=True))
    """
    try:
        found = address.parse(f"s/{which}")
    except BadInput as error:
        raise Usage(error.message, hint="STREAM or STREAM[IDS]") from None
    if found.range is not None and not isinstance(found.range, IdRange):
        raise Usage(f"{which!r}: ids, not times")
    return found.stream, found.range
