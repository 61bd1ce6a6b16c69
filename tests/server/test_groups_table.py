"""Every call in every state does what the table of docs/design/030-groups.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
from group_states import saved, state_of

from beamstream.server.groups import Delivery, GroupStream, Terms

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


@pytest.mark.parametrize(("call", "state", "after"), table())
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
    assert len(calls) == 9
    assert {(call, state) for call, state, _ in table()} == {(c, s) for c in calls for s in states}
