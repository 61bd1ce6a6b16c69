"""Which frames are worth keeping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from beamstream.errors import BadInput
from beamstream.worker import Result, step

if TYPE_CHECKING:
    from beamstream import Message


@step()
def hits(message: Message, *, min_peaks: Annotated[int, Meta(ge=1)] = 5) -> Result | None:
    """Keep frames with peaks, as they are.

    It stands behind `find_peaks`: what counts is ``peaks`` in the metadata.

    Parameters
    ----------
    min_peaks : frames with fewer peaks are skipped.
    """
    meta = message.meta
    peaks = meta.get("peaks")
    if not isinstance(peaks, int):
        raise BadInput(
            f"message {message.id} of {message.source}/{message.stream} does not say how many "
            "peaks it has",
            hint="put a step before it that writes 'peaks' into the metadata, as find_peaks does",
        )
    if peaks < min_peaks:
        return None
    return Result(message.array() if message.size else b"", meta)
