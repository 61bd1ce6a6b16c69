"""What may stand behind the ? of a question to the API."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from beamstream.monitor.documents import AtNode

Limit = Annotated[int, msgspec.Meta(ge=1, le=1_000)]
Id = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
Px = Annotated[int, msgspec.Meta(ge=1, le=4_096)]
Kind = Literal["node", "source", "group", "edge"]


class OfBeamtime(AtNode, frozen=True, kw_only=True):
    """`beamtime` empty: all that may be seen."""

    beamtime: str = ""


class OfHistory(OfBeamtime, frozen=True, kw_only=True):
    """`name`: SOURCE, GROUP newline SOURCE/STREAM, GROUP newline SOURCE, or (node) nothing."""

    kind: Kind
    name: str = ""
    seconds: Annotated[float, msgspec.Meta(gt=0, le=90_000)] = 300.0


class OfReport(OfBeamtime, frozen=True, kw_only=True):
    seconds: Annotated[float, msgspec.Meta(gt=0, le=90_000)] = 600.0


class OfStreams(AtNode, frozen=True, kw_only=True):
    """`pattern`: of names of streams; `after`: what `more` of the page before says."""

    beamtime: str
    source: str = ""
    pattern: str = "*"
    after: str = ""
    limit: Limit = 100


class OfStream(AtNode, frozen=True, kw_only=True):
    beamtime: str
    source: str
    stream: str


class OfMessages(OfStream, frozen=True, kw_only=True):
    """Ids `lo` ≤ id < `hi`."""

    lo: Id = 1
    hi: Id = 2**62
    limit: Limit = 100


class OfMessage(OfStream, frozen=True, kw_only=True):
    """`id` -1: the last one."""

    id: Id


class OfFrame(OfMessage, frozen=True, kw_only=True):
    """`max_px`: no side has more; the window is half-open, in pixels of the detector."""

    max_px: Px = 512
    x0: int = 0
    y0: int = 0
    x1: int = 0
    y1: int = 0


class OfSearch(AtNode, frozen=True, kw_only=True):
    """`stream` empty: all of the source; `source` empty: all of the beamtime."""

    beamtime: str
    query: str
    source: str = ""
    stream: str = ""
    after: str = ""
    limit: Limit = 100


class OfGroup(OfStream, frozen=True, kw_only=True):
    group: str


class OfMetrics(AtNode, frozen=True, kw_only=True):
    """`node` empty: all of them."""


class OfReplay(AtNode, frozen=True, kw_only=True):
    id: str
