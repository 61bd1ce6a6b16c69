"""Replays that were started from the page: each in a thread, a few at a time."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from beamstream.errors import BadInput, Error, NotAllowed, NotFound, TooMany
from beamstream.monitor import declared, doing
from beamstream.monitor import documents as doc
from beamstream.wire import address
from beamstream.wire.address import Address, TimeRange
from beamstream.worker import pacing, replaying
from beamstream.worker.pipelines import state_folder
from beamstream.worker.replay_steps import StepJob, find_job

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.stream import Stream

log = structlog.get_logger("monitor")

RUNNING_MAX: Final = 8
KEPT_MAX: Final = 50
"""Replays that are over and still shown."""

Use = Callable[[], AbstractContextManager["Hub"]]


class _Running:
    """One replay."""

    def __init__(self, node: str, beamtime: str, job: doc.ReplayJob) -> None:
        self.node = node
        self.beamtime = beamtime
        self.stop = threading.Event()
        self.job = job

    def tell(self, **changes: object) -> None:
        self.job = msgspec.structs.replace(self.job, **changes)


class Replays:
    """All of them; for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _Running] = {}

    def plan(self, hub: Hub, asked: doc.ReplayAsked) -> doc.ReplayPlan:
        """What a replay would do; nothing is changed."""
        made, _ = _planned(hub, asked)
        return described(made)

    def start(self, node: str, use: Use, asked: doc.ReplayAsked) -> doc.ReplayJob:
        """Begin one.

        Raises
        ------
        TooMany : so many are running.
        Error : it cannot be planned.
        """
        with use() as hub:
            made, job = _planned(hub, asked)
        found = described(made)
        path = Address("", asked.source, asked.stream)
        running = _Running(
            node,
            asked.beamtime,
            doc.ReplayJob(
                id=secrets.token_hex(8),
                address=f"{path}[{made.lo}:{made.hi}]",
                target=found.target,
                state="running",
                done=0,
                total=found.count,
                rate=0.0,
                left_s=None,
                error="",
            ),
        )
        with self._lock:
            if sum(one.job.state == "running" for one in self._jobs.values()) >= RUNNING_MAX:
                raise TooMany(
                    f"{RUNNING_MAX} replays are running", hint="cancel one, or wait for its end"
                )
            self._jobs[running.job.id] = running
            over = [id for id, one in self._jobs.items() if one.job.state != "running"]
            for id in over[: max(len(over) - KEPT_MAX, 0)]:
                del self._jobs[id]
        threading.Thread(
            target=_carry_out, args=(running, use, made, job), name="replay", daemon=True
        ).start()
        return running.job

    def jobs(self, node: str, wanted: Callable[[str], bool]) -> doc.ReplayJobs:
        """Those of beamtimes that are `wanted`, the newest first."""
        with self._lock:
            every = list(self._jobs.values())
        return doc.ReplayJobs(
            jobs=tuple(
                one.job for one in reversed(every) if one.node == node and wanted(one.beamtime)
            )
        )

    def place_of(self, id: str) -> tuple[str, str]:
        """Node and beamtime of a replay.

        Raises
        ------
        NotFound : there is none.
        """
        found = self._of(id)
        return found.node, found.beamtime

    def cancel(self, id: str) -> doc.Done:
        """End one soon; what it has done stays."""
        self._of(id).stop.set()
        return doc.Done()

    def _of(self, id: str) -> _Running:
        with self._lock:
            found = self._jobs.get(id)
        if found is None:
            raise NotFound(f"there is no replay {id[:40]!r}")
        return found

    def close(self) -> None:
        """End all soon."""
        with self._lock:
            for one in self._jobs.values():
                one.stop.set()


def _carry_out(running: _Running, use: Use, made: replaying.Plan, job: StepJob | None) -> None:
    try:
        with use() as hub:
            replay = replaying.Replay(hub, made, job)
            for last in replay.run(running.stop):
                running.tell(done=last.done, total=last.total, rate=last.rate, left_s=last.left_s)
                if last.failed:
                    running.tell(error=f"{last.failed} failed: {last.note}")
        running.tell(state="done" if replay.finished else "cancelled", left_s=None)
    except Error as error:
        running.tell(state="failed", error=str(error), left_s=None)
    except Exception as error:
        # Code of a step may raise anything; the list of replays has to say so.
        log.exception("a replay has failed", address=running.job.address)
        running.tell(state="failed", error=f"{type(error).__name__}: {error}", left_s=None)


def described(made: replaying.Plan) -> doc.ReplayPlan:
    """A plan for the page."""
    found = made.measured
    into = Address("", made.to_source, made.to_stream) if made.to_stream else made.target
    resumed = (f"it goes on from id {made.begin}",) if made.resumed else ()
    return doc.ReplayPlan(
        count=found.count,
        nbytes=found.nbytes,
        cached=found.cached,
        files=found.files,
        log=found.log,
        gone=found.gone,
        target=str(into),
        seconds=made.seconds,
        warnings=(*made.warnings, *made.changes, *resumed),
    )


def _planned(hub: Hub, asked: doc.ReplayAsked) -> tuple[replaying.Plan, StepJob | None]:
    target = replaying.parse_target(asked.to)
    job = _job(hub, target.name) if target.kind == "step" else None
    stream = hub.source(asked.source).stream(asked.stream)
    made = replaying.plan(
        hub, asked.source, asked.stream, _ids(stream, asked.range), target,
        pacing.parse_rate(asked.rate), job=job,
    )  # fmt: skip
    return made, job


def _ids(stream: Stream, text: str) -> range:
    path = Address("", stream.source, stream.name)
    found = address.parse(f"{path}{text}").range
    row = stream.info()
    last = 0 if row is None else row.max_id
    if found is None:
        ids = range(1, last + 1)
    elif isinstance(found, TimeRange):
        lo = 1 if found.start_ns is None else doing.first_since(stream, found.start_ns)
        hi = last + 1 if found.stop_ns is None else doing.first_since(stream, found.stop_ns)
        ids = range(lo, max(lo, hi))
    else:
        ids = found.resolve(last)
    if not ids:
        raise NotFound(f"{path}{text} is empty: there is nothing to replay")
    return ids


# ------------------------------------------------------------------------------- steps


def _job(hub: Hub, name: str) -> StepJob:
    """The step of a name, from where its code may be trusted.

    Code is only taken from stock, or from a pipeline that runs here by the same user: metadata of
    a beamtime could name any file, and whoever writes there is not to run code here.
    """
    pipeline, dot, step = name.partition(".")
    if not dot:
        if not name.isidentifier():
            raise BadInput(f"{name[:80]!r} is no name of a step", hint="step:PIPELINE.STEP")
        return find_job(name)
    document = declared.document(hub, pipeline)
    if document.get("host") == socket.gethostname():
        file = _file_of(hub.beamtime, pipeline, document.get("file"))
        if file is not None:
            return find_job(step, file)
    raise NotAllowed(
        f"pipeline {pipeline!r} does not run on the machine of this page, by the same user",
        hint=f"where it runs: beamstream replay ADDRESS --to step:{step} --pipeline FILE",
    )


def _file_of(beamtime: str, pipeline: str, file: object) -> Path | None:
    """The file of a pipeline, if the process that runs it was started with it."""
    folder = state_folder.folder_of(os.environ, beamtime, pipeline)
    if not isinstance(file, str) or not folder.running:
        return None
    process = Path(f"/proc/{folder.pid}")
    try:
        if process.stat().st_uid != os.getuid():
            return None
        at = Path(os.readlink(process / "cwd"))
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    wanted = Path(file)
    return next((wanted for word in words if (at / os.fsdecode(word)).resolve() == wanted), None)
