"""Joins of sources: a stream of datasets for each stream of the first source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from beamstream.worker.steps import Read

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub


def join_source(step_id: str) -> str:
    """The data source of the joined streams of a step.

    >>> join_source("demo.merge")
    'demo.merge.join'
    """
    return f"{step_id}.join"


class Joiner:
    """Joins streams of the same name in several sources, as they appear.

    Parameters
    ----------
    reads : what is joined; the pattern of the first says which streams.
    into : data source of the joined streams.
    """

    def __init__(self, hub: Hub, reads: Sequence[Read], into: str) -> None:
        self._hub = hub
        self._reads = tuple(reads)
        self._into = into
        self._joined: set[str] = set()

    def look(self) -> list[str]:
        """Join what is new, and return the names of these streams.

        The node keeps a join up from then on; asking for one that is there is harmless.

        Raises
        ------
        Error : the node refuses it, or cannot be reached; the next look tries again.
        """
        first = self._reads[0]
        rows = self._hub.source(first.source).streams(first.pattern).rows()
        found = []
        for name in (row.stream for row in rows if row.stream not in self._joined):
            parts = [self._hub.source(read.source).stream(name) for read in self._reads]
            self._hub.source(self._into).stream(name).join(parts)
            self._joined.add(name)
            found.append(name)
        return found
