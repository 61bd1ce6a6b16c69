"""Every call in every state does what the table of docs/design/030-groups.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
from group_states import saved, state_of

from beamstream.errors import StaleLease
from beamstream.server.groups import Delivery, GroupStream, Hold, Lease, Terms

DOCUMENT = Path(__file__).parents[2] / "docs" / "design" / "030-groups.md"
TERMS = Terms(10.0, 1)


def table() -> list[tuple[str, str, str]]:
    """(call, state, state afterwards) as the document has it."""
    lines = DOCUMENT.read_text().splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| call |"))
    states = [cell.strip() for cell in lines[start].strip("|").split("|")][1:]
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        call, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found += [(call, state, cell) for state, cell in zip(states, cells, strict=True)]
    return found


def brought_to(state: str) -> tuple[GroupStream, float]:
    """A group whose only message is in `state`, and what time it is."""
    group = GroupStream()
    match state:
        case "leased" | "due":
            group.next(0.0, 1, TERMS)
        case "spent" | "dead":
            group.next(0.0, 1, TERMS)
            assert group.next(10.0, 1, TERMS) is not None
            if state == "dead":
                assert group.next(20.0, 1, TERMS) is None
        case "done":
            group.next(0.0, 1)
        case "acknowledged":
            group.acknowledge(1)
    now = {"leased": 5.0, "due": 10.0}.get(state, 20.0)
    assert state_of(group, 1, now) == state
    return group, now


HOLD = Hold("member", 10.0, 2)
OLD_TAG, FIRST_TAG = 7, 100


def brought_natively(state: str) -> tuple[GroupStream, float, int]:
    """The same by native calls, and the tag of the last delivery."""
    group = GroupStream(first_tag=FIRST_TAG)
    lease: Lease | None = None
    if state != "open":
        lease = group.lease(1, 2, 0.0, Hold("member", 0.0) if state == "done" else HOLD)
    if state in ("spent", "dead"):
        lease = group.lease_due(2, 10.0, HOLD)
    if state == "dead":
        assert group.first_due(20.0) is None
    tag = lease.tag if lease is not None else 0
    if state == "acknowledged":
        group.acknowledge_range(tag, 1, 2)
    now = {"leased": 5.0, "due": 10.0}.get(state, 20.0)
    assert state_of(group, 1, now) == state
    return group, now, tag


def native(call: str, group: GroupStream, now: float, tag: int) -> bool:
    """Do a native call; whether it was handed out. Raises `StaleLease`."""
    match call:
        case "native delivery" | "native delivery without lease":
            hold = HOLD if call == "native delivery" else Hold("member", 0.0)
            if group.first_due(now) is not None:
                return group.lease_due(2, now, hold).count > 1
            return group.first_open(1, 2) == (1, 2) and group.lease(1, 2, now, hold) is not None
        case "native acknowledge":
            group.acknowledge_range(tag, 1, 2)
        case "native acknowledge, other tag":
            group.acknowledge_range(tag + 1, 1, 2)
        case "native acknowledge, to be taken back":
            settle(group, tag, now, dead=False, undo=True)
        case "native giving up":
            settle(group, tag, now, dead=True)
        case "native giving up, other tag":
            settle(group, tag + 1, now, dead=True)
        case "native giving up, to be taken back":
            settle(group, tag, now, dead=True, undo=True)
        case "the same, and the member has gone":
            settle(group, tag, now, dead=True, undo=True, gone=True)
        case "another member takes over an exclusive stream":
            group.release_others({"another"}, now)
        case "native negative acknowledge":
            group.refuse_range(tag, ((1, 2),), now, 0.0, counted=True)
        case "native negative acknowledge with delay":
            group.refuse_range(tag, ((1, 2),), now, 5.0, counted=True)
        case "native negative acknowledge, not counted":
            group.refuse_range(tag, ((1, 2),), now, 0.0, counted=False)
        case "extend":
            group.extend(tag, now + 1)
        case "the member's connection is lost for long":
            group.release("member", now, counted=True)
        case "the member unsubscribes":
            group.release("member", now, counted=False)
        case "the member comes again and has it":
            group.resume(tag, ((1, 2),), 1, now, HOLD)
        case "the member comes again and has it not":
            group.resume(tag, (), 1, now, HOLD)
        case "the same, after the node was started":
            group.resume(OLD_TAG, ((1, 2),), 1, now, HOLD)
        case "something newer is handed out (`NEWEST`)":
            group.abandon(1, 2, now)
        case "redeliver the dead":
            group.revive()
        case other:
            raise AssertionError(f"the table has an unknown call {other!r}")
    return False


def settle(
    group: GroupStream, tag: int, now: float, *, dead: bool, undo: bool = False, gone: bool = False
) -> None:
    group.check_held(tag, 1, 2, dead=dead)
    taken = group.settle(tag, 1, 2, dead=dead)
    assert not taken or state_of(group, 1, now) == ("dead" if dead else "acknowledged")
    if undo:
        group.restore(taken, now, gone=gone)
    else:
        group.store(taken)
    assert not group.settling()


ASAPO = 9
"""The first rows are calls of ASAPO."""


@pytest.mark.parametrize(("call", "state", "after"), table()[ASAPO * 7 :])
def test_the_table_of_native_calls(call: str, state: str, after: str) -> None:
    group, now, tag = brought_natively(state)
    refused = handed = False
    try:
        handed = native(call, group, now, tag)
    except StaleLease:
        refused = True
    assert refused == (after == "refused")
    assert state_of(group, 1, now) == (state if after in ("-", "refused") else after)
    assert handed == ("delivery" in call and after in ("done", "leased"))


@pytest.mark.parametrize(("call", "state", "after"), table()[: ASAPO * 7])
def test_the_table(call: str, state: str, after: str) -> None:
    group, now = brought_to(state)
    refused = False
    handed: Delivery | None = None
    match call:
        case "next":
            handed = group.next(now, 1)
        case "next with resend":
            handed = group.next(now, 1, TERMS)
        case "ordered next, at this message":
            handed = group.take(1, now)
        case "acknowledge":
            refused = not group.acknowledge(1)
        case "negative acknowledge":
            group.refuse(1, now)
        case "negative acknowledge with delay":
            group.refuse(1, now + 5)
        case "seek to before it":
            group.seek(0, (), ((1, 2),))
        case "seek to behind it":
            group.seek(1, ((1, 2),), ())
        case "start again":
            group = saved(group)
        case other:
            raise AssertionError(f"the table has an unknown call {other!r}")
    assert refused == (after == "refused")
    assert state_of(group, 1, now) == (state if after in ("-", "refused") else after)
    assert (handed is not None) == (call.find("next") >= 0 and after in ("done", "leased"))


def test_the_table_is_complete() -> None:
    states = {"open", "leased", "due", "spent", "done", "acknowledged", "dead"}
    calls = {call for call, _, _ in table()}
    assert len(calls) == ASAPO + 21
    assert {(call, state) for call, state, _ in table()} == {(c, s) for c in calls for s in states}
