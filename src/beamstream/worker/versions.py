"""Parameters of a running step, versioned: its newest message in ``parameters/STEP`` holds.

The id of that message is the version. Each says which parameters the job was started with
(`base`): when a job is started with others, what was set while the one before ran is void.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from beamstream.client.native.messages import Message
from beamstream.errors import IdConflict, NotFound

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.stream import Stream

SOURCE: Final = "parameters"


class Version(msgspec.Struct, frozen=True):
    """Parameters of a step.

    Parameters
    ----------
    version : id of their message; 0: nobody has said any.
    parameters : those that are given, as JSON; the others have the defaults of the code.
    base : those that the job was started with.
    by : who has set them.
    """

    version: int = 0
    parameters: dict[str, Any] = {}
    base: dict[str, Any] = {}
    by: str = ""


def stream_of(hub: Hub, step_id: str) -> Stream:
    """The stream of the parameters of a step."""
    return hub.source(SOURCE).stream(step_id)


def current(hub: Hub, step_id: str) -> Version:
    """What holds for a step."""
    try:
        newest = stream_of(hub, step_id)[-1]
    except NotFound:
        return Version()
    assert isinstance(newest, Message)
    return version_of(newest)


def version_of(message: Message) -> Version:
    """What a message of the stream says; what is no version says nothing."""
    try:
        found = msgspec.convert(message.meta, Version)
    except msgspec.ValidationError:
        found = Version()
    return msgspec.structs.replace(found, version=message.id)


def begin(
    hub: Hub,
    step_id: str,
    given: Mapping[str, Any],
    by: str,
    *,
    instead_of: Version | None = None,
) -> Version:
    """What holds for a worker that is started with the parameters `given`.

    Several workers may begin at once: the same parameters are said once.

    Parameters
    ----------
    instead_of : a version that is not to hold, though it was made for the same.
    """
    while True:
        now = current(hub, step_id)
        if now.version and now.base == given and now != instead_of:
            return now
        try:
            return _write(hub, step_id, Version(now.version + 1, dict(given), dict(given), by))
        except IdConflict:
            continue


def change(hub: Hub, step_id: str, changes: Mapping[str, Any], by: str) -> Version:
    """Set some parameters of a running step; those that are not named stay.

    Raises
    ------
    NotFound : no worker of that step has ever run.
    """
    while True:
        now = current(hub, step_id)
        if not now.version:
            raise NotFound(
                f"no worker of step {step_id!r} has run in this beamtime",
                hint="beamstream worker ls",
            )
        values = {**now.parameters, **changes}
        if values == now.parameters:
            return now
        try:
            return _write(hub, step_id, Version(now.version + 1, values, now.base, by))
        except IdConflict:
            continue


def _write(hub: Hub, step_id: str, version: Version) -> Version:
    meta = msgspec.to_builtins(version)
    del meta["version"]
    with stream_of(hub, step_id).writer(finish=False) as writer:
        writer.send(b"", meta, id=version.version).result()
    return version
