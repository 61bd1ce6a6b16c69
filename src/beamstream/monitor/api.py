"""Answers of the API: what each question of the table of routes does."""

from __future__ import annotations

import time
from typing import NamedTuple

from beamstream.errors import BadToken, NotAllowed
from beamstream.monitor import asking, doing, metrics, notes, report
from beamstream.monitor import documents as doc
from beamstream.monitor.desk import Desk, Node
from beamstream.monitor.history import KINDS, Key
from beamstream.monitor.roles import Visitor

BINARY = "application/octet-stream"
HTML = "text/html; charset=utf-8"


class Asked(NamedTuple):
    """Who asks, and at which node."""

    desk: Desk
    node: Node
    visitor: Visitor

    def sees(self, beamtime: str) -> str:
        """The beamtime that is meant, which may be seen."""
        return self.desk.beamtime(self.node, self.visitor, beamtime)


class Raw(NamedTuple):
    """An answer that is no document of ours."""

    data: bytes
    media: str


class Enter(NamedTuple):
    """An answer that keeps a token in a cookie; empty: that forgets it."""

    token: str
    document: doc.Document


async def me(at: Asked, _: doc.AtNode) -> doc.Me:
    """Who asks, and what they may see."""
    await at.node.sampler.fresh(2.5)
    return at.desk.me(at.node, at.visitor)


async def login(at: Asked, asked: doc.LoginAsked) -> Enter:
    """Keep a token in a cookie that scripts cannot read."""
    found = await at.desk.visitor(at.node, asked.token, loopback=at.visitor.loopback)
    if not found.known:
        raise BadToken("this token is not of this node, or has ended", hint="beamstream token new")
    return Enter(asked.token, at.desk.me(at.node, found))


async def logout(_: Asked, __: doc.AtNode) -> Enter:
    """Forget the token."""
    return Enter("", doc.Done())


async def overview(at: Asked, asked: asking.OfBeamtime) -> doc.SnapshotFrame:
    """What there is to see at this moment."""
    if asked.beamtime:
        at.visitor.check_sees(asked.beamtime)
    await at.node.sampler.fresh()
    data = await at.desk.in_thread(at.desk.snapshot, at.node, at.visitor, asked.beamtime)
    if data is None:
        raise at.node.sampler.failure()
    return doc.SnapshotFrame(
        t=time.time_ns() // 1_000_000,
        seq=at.node.sampler.looks,
        node=at.node.name,
        stale_s=round(at.node.sampler.stale_s, 3),
        data=data,
    )


async def history(at: Asked, asked: asking.OfHistory) -> doc.Series:
    """What was seen of a source, a group, an edge or the node."""
    beamtime = "" if asked.kind == "node" else at.sees(asked.beamtime)
    key = Key(at.node.name, beamtime, asked.kind, asked.name)
    return await at.desk.in_thread(at.desk.history.series, key, asked.seconds, time.time())


async def health(at: Asked, _: doc.AtNode) -> doc.MonitorHealth:
    """How the monitor itself is."""
    return at.desk.health()


async def make_report(at: Asked, asked: asking.OfReport) -> Raw:
    """The last minutes as one self-contained page for the log book."""
    if asked.beamtime:
        at.visitor.check_sees(asked.beamtime)
    text = await at.desk.in_thread(_report, at, asked)
    return Raw(text.encode(), HTML)


def _report(at: Asked, asked: asking.OfReport) -> str:
    found = at.desk.snapshot(at.node, at.visitor, asked.beamtime)
    if found is None:
        raise at.node.sampler.failure()
    keys = [Key(at.node.name, "", "node", "")]
    keys += [Key(at.node.name, row.beamtime, "source", row.source) for row in found.sources]
    keys += [
        Key(at.node.name, row.beamtime, "group", f"{row.group}\n{row.source}/{row.stream}")
        for row in found.groups
    ]
    now_ns = time.time_ns()
    series = {
        key: at.desk.history.series(key, asked.seconds, now_ns / 1e9)
        for key in keys[: report.CHARTS_MAX]
        if key.kind in KINDS
    }
    return report.html(found, series, seconds=asked.seconds, made_ns=now_ns)


async def make_metrics(at: Asked, _: asking.OfMetrics) -> Raw:
    """The counters for Prometheus."""

    await at.node.sampler.fresh()

    def made() -> str:
        found = at.desk.snapshot(at.node, at.visitor, "")
        sampler = at.node.sampler
        return metrics.text(sampler.stats, found, sampler.stale_s, at.visitor.may_see)

    return Raw((await at.desk.in_thread(made)).encode(), metrics.CONTENT_TYPE)


# ------------------------------------------------------------------------------ beamtimes


async def streams(at: Asked, asked: asking.OfStreams) -> doc.StreamPage:
    """A page of streams, the newest first."""
    looking, name = at.desk.looking, at.node.name
    return await at.desk.asking(
        at.node, at.sees(asked.beamtime), lambda hub: looking.streams(name, hub, asked)
    )


async def stream(at: Asked, asked: asking.OfStream) -> doc.StreamAbout:
    """All about one stream."""
    looking, name = at.desk.looking, at.node.name
    return await at.desk.asking(
        at.node, at.sees(asked.beamtime), lambda hub: looking.stream(name, hub, asked)
    )


async def messages(at: Asked, asked: asking.OfMessages) -> doc.MessagePage:
    """Messages by id, without payloads."""
    looking = at.desk.looking
    return await at.desk.asking(
        at.node, at.sees(asked.beamtime), lambda hub: looking.messages(hub, asked)
    )


async def message(at: Asked, asked: asking.OfMessage) -> doc.MessageAbout:
    """One message, and what it was made of."""
    looking = at.desk.looking
    return await at.desk.asking(
        at.node, at.sees(asked.beamtime), lambda hub: looking.message(hub, asked)
    )


async def frame(at: Asked, asked: asking.OfFrame) -> Raw:
    """A message as a picture: a head of 32 bytes ("BSF1") and pixels, max-pooled."""
    looking = at.desk.looking
    data = await at.desk.asking(
        at.node, at.sees(asked.beamtime), lambda hub: looking.frame(hub, asked)
    )
    return Raw(data, BINARY)


async def search(at: Asked, asked: asking.OfSearch) -> doc.Hits:
    """Messages whose metadata match, as many as are found within a fifth of a second."""
    looking = at.desk.looking
    return await at.desk.asking(
        at.node, at.sees(asked.beamtime), lambda hub: looking.search(hub, asked)
    )


async def dead(at: Asked, asked: asking.OfGroup) -> doc.DeadLetters:
    """What a group has given up, and why."""
    looking = at.desk.looking
    return await at.desk.asking(
        at.node, at.sees(asked.beamtime), lambda hub: looking.dead(hub, asked)
    )


# ------------------------------------------------------------------------------ operators


async def seek(at: Asked, asked: doc.SeekAsked) -> doc.SeekDone:
    """Move a group, or (`dry_run`) only say what that would do."""
    return await at.desk.asking(at.node, asked.beamtime, lambda hub: doing.seek(hub, asked))


async def redeliver(at: Asked, asked: doc.GroupAsked) -> doc.Count:
    """Offer the dead letters of a group again."""
    return await at.desk.asking(at.node, asked.beamtime, lambda hub: doing.redeliver(hub, asked))


async def note(at: Asked, asked: doc.NoteAsked) -> doc.Done:
    """Write comment and tags of a stream."""
    await at.desk.asking(
        at.node,
        asked.beamtime,
        lambda hub: notes.write(hub, asked.source, asked.stream, asked.comment, asked.tags),
    )
    at.desk.notes.forget(at.node.name, asked.beamtime)
    return doc.Done()


async def replay(at: Asked, asked: doc.ReplayAsked) -> doc.ReplayPlan | doc.ReplayJob:
    """Begin a replay, or (`dry_run`) only say what it would do."""
    replays, hubs = at.desk.replays, at.node.hubs
    if asked.dry_run:
        return await at.desk.asking(at.node, asked.beamtime, lambda hub: replays.plan(hub, asked))
    return await at.desk.calling(
        lambda: replays.start(at.node.name, lambda: hubs.use(asked.beamtime), asked)
    )


async def list_replays(at: Asked, asked: asking.OfBeamtime) -> doc.ReplayJobs:
    """Replays that run and ran, the newest first."""

    def wanted(name: str) -> bool:
        return asked.beamtime in ("", name) and at.visitor.may_see(name)

    return at.desk.replays.jobs(at.node.name, wanted)


async def cancel(at: Asked, asked: asking.OfReplay) -> doc.Done:
    """End a replay soon; what it has done stays."""
    node, beamtime = at.desk.replays.place_of(asked.id)
    if node != at.node.name:
        raise NotAllowed("this replay is of another node", hint=f"node={node}")
    at.visitor.check_operates(beamtime)
    return at.desk.replays.cancel(asked.id)


Answer = doc.Document | Raw | Enter
