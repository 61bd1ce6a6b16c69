"""The table of all questions: path, who may ask, what is asked, what is answered.

Roles are checked by this table, and nowhere else but for the beamtimes that are named.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple

from beamstream.monitor import api, asking, metrics
from beamstream.monitor import documents as doc
from beamstream.monitor.api import Answer, Asked

Need = Literal["anyone", "viewer", "operator"]


class Route(NamedTuple):
    """One question.

    Parameters
    ----------
    need : "anyone"; "viewer": whoever may see anything; "operator": of the beamtime that is named.
    takes : parameters (of GET) or body (of POST).
    gives : what is answered: a document, one of several, or a media type.
    """

    method: Literal["GET", "POST"]
    path: str
    need: Need
    takes: type[doc.AtNode]
    gives: Any
    handle: Callable[[Asked, Any], Awaitable[Answer]]

    @property
    def text(self) -> str:
        """What it does, in a sentence."""
        return (self.handle.__doc__ or "").strip()


ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/api/v1/me", "anyone", doc.AtNode, doc.Me, api.me),
    Route("POST", "/api/v1/login", "anyone", doc.LoginAsked, doc.Me, api.login),
    Route("POST", "/api/v1/logout", "anyone", doc.AtNode, doc.Done, api.logout),
    Route(
        "GET", "/api/v1/overview", "viewer", asking.OfBeamtime, doc.SnapshotFrame, api.overview
    ),
    Route("GET", "/api/v1/history", "viewer", asking.OfHistory, doc.Series, api.history),
    Route("GET", "/api/v1/health", "viewer", doc.AtNode, doc.MonitorHealth, api.health),
    Route("GET", "/api/v1/report", "viewer", asking.OfReport, api.HTML, api.make_report),
    Route("GET", "/api/v1/streams", "viewer", asking.OfStreams, doc.StreamPage, api.streams),
    Route("GET", "/api/v1/stream", "viewer", asking.OfStream, doc.StreamAbout, api.stream),
    Route("GET", "/api/v1/messages", "viewer", asking.OfMessages, doc.MessagePage, api.messages),
    Route("GET", "/api/v1/message", "viewer", asking.OfMessage, doc.MessageAbout, api.message),
    Route("GET", "/api/v1/frame", "viewer", asking.OfFrame, api.BINARY, api.frame),
    Route("GET", "/api/v1/search", "viewer", asking.OfSearch, doc.Hits, api.search),
    Route("GET", "/api/v1/groups/dead", "viewer", asking.OfGroup, doc.DeadLetters, api.dead),
    Route("GET", "/api/v1/replays", "viewer", asking.OfBeamtime, doc.ReplayJobs, api.list_replays),
    Route("POST", "/api/v1/groups/seek", "operator", doc.SeekAsked, doc.SeekDone, api.seek),
    Route(
        "POST", "/api/v1/groups/redeliver", "operator", doc.GroupAsked, doc.Count, api.redeliver
    ),
    Route("POST", "/api/v1/streams/note", "operator", doc.NoteAsked, doc.Done, api.note),
    Route(
        "POST", "/api/v1/replays", "operator", doc.ReplayAsked,
        (doc.ReplayPlan, doc.ReplayJob), api.replay,
    ),
    Route(
        "POST", "/api/v1/replays/{id}/cancel", "operator", asking.OfReplay, doc.Done, api.cancel
    ),
    Route("GET", "/metrics", "viewer", asking.OfMetrics, metrics.CONTENT_TYPE, api.make_metrics),
)  # fmt: skip
