"""States of a message for a group, by the words of docs/design/030-groups.md."""

from __future__ import annotations

from beamstream.server.groups import GroupStream
from beamstream.store.catalog.interface import GroupState


def state_of(group: GroupStream, seq: int, now: float) -> str:
    """The state of a message as the document calls it."""
    states = [
        name
        for name, marks in (
            ("done", group.done),
            ("acknowledged", group.acked),
            ("dead", group.dead),
        )
        if marks.contains(seq)
    ]
    pending = group._leases.find(seq)
    if pending is not None:
        states.append("leased" if pending.due > now else "spent" if pending.spent else "due")
    if group.is_open(seq):
        states.append("open")
    assert len(states) == 1, states
    return states[0]


def saved(group: GroupStream, first_tag: int = 0) -> GroupStream:
    """The group as a node that starts again finds it."""
    group.drain()
    return GroupStream(
        GroupState(
            "g",
            group.id_position,
            group.done.to_tuple(),
            group.acked.to_tuple(),
            group.dead.to_tuple(),
            tuple(group._counts.items()),
            tuple(group.early_acks),
            0,
        ),
        first_tag,
    )
