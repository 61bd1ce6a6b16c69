"""What a monitor is told to do: one line of JSON on stdin, or options of the command line."""

from __future__ import annotations

from typing import Final

import msgspec

from beamstream.errors import BadInput

JOB_NBYTES_MAX: Final = 1024 * 1024
NODES_MAX: Final = 64


class NodeJob(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is watched.

    Parameters
    ----------
    name : as people call it; empty: host and port of its address.
    url, token : as for `beamstream.connect`.
    tls_ca : file with certificates to trust.
    """

    name: str = ""
    url: str = ""
    token: str = ""
    tls_ca: str = ""

    def __repr__(self) -> str:
        return f"NodeJob({self.name!r}, {self.url!r}, token={'…' if self.token else ''!r})"

    @property
    def label(self) -> str:
        """Its name, or what of its address tells it from others.

        >>> NodeJob(url="http://max-p3a01:8400/").label
        'max-p3a01:8400'
        """
        return self.name or self.url.partition("://")[2].rstrip("/") or self.url or "node"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor.

    Parameters
    ----------
    url, token, name : of the one node, where there are no `nodes`.
    nodes : those that are watched; the first one is shown when nobody chooses.
    socket : path of the Unix socket at which it answers; what comes there names its peer.
    listen : HOST:PORT at which it answers, in place of a socket.
    data : folder in which it keeps its history; empty: in memory.
    prefix : path in front of /ui/, /api/ and /metrics, as a proxy has it.
    secure : whether the page is reached by https.
    """

    url: str = ""
    token: str = ""
    name: str = ""
    nodes: tuple[NodeJob, ...] = ()
    socket: str = ""
    listen: str = ""
    data: str = ""
    prefix: str = ""
    secure: bool = False

    def __repr__(self) -> str:
        return f"Job({self.socket or self.listen!r}, {self.watched!r})"

    @property
    def watched(self) -> tuple[NodeJob, ...]:
        """All nodes."""
        return self.nodes or (NodeJob(name=self.name, url=self.url, token=self.token),)


def encode(job: Job) -> bytes:
    """A job as one line."""
    return msgspec.json.encode(job) + b"\n"


def decode(line: bytes) -> Job:
    """A job from its line.

    Raises
    ------
    BadInput : it is none.

    >>> decode(encode(Job(url="localhost", token="t", socket="/run/m.sock"))).socket
    '/run/m.sock'
    """
    if len(line) > JOB_NBYTES_MAX:
        raise BadInput(f"a job of {len(line)} bytes, {JOB_NBYTES_MAX} are allowed")
    try:
        job = msgspec.json.decode(line, type=Job)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"this is no job: {error}") from None
    return check(job)


def check(job: Job) -> Job:
    """A job that can be done.

    Raises
    ------
    BadInput : it cannot.
    """
    if bool(job.socket) == bool(job.listen):
        raise BadInput("a monitor answers at a socket or at HOST:PORT", hint="one of the two")
    if len(job.watched) > NODES_MAX:
        raise BadInput(f"{len(job.watched)} nodes, {NODES_MAX} can be watched")
    labels = [node.label for node in job.watched]
    if len(set(labels)) < len(labels):
        raise BadInput("two nodes have the same name", hint="NAME=URL tells them apart")
    if job.prefix and (not job.prefix.startswith("/") or job.prefix.endswith("/")):
        raise BadInput(f"{job.prefix!r} is no prefix", hint="/beamline/monitor")
    return job
