"""`beamstream worker run`: replicas of one step as processes, and a line per second about them."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from beamstream import limits
from beamstream.cli.options import Node, Usage
from beamstream.cli.terminal import FAILED, plural, print_json_line, show_count, show_span, talk
from beamstream.client.native.hub import connect
from beamstream.client.native.places import find_access
from beamstream.errors import BadInput, Error
from beamstream.worker.farewells import Farewells
from beamstream.worker.jobs import Job, Status
from beamstream.worker.loading import load
from beamstream.worker.parameters import plain, summary
from beamstream.worker.pipelines.launchers import Ended, Task, make_launcher
from beamstream.worker.pipelines.supervisor import StepCare, Stop, Verdict
from beamstream.worker.policy import parse
from beamstream.worker.steps import Step, parse_read

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.worker.pipelines.launchers import Launcher

EVERY_S: Final = 1.0
LOOK_S: Final = 0.1
DRAIN_S: Final = 30.0
REPLICAS_MAX: Final = 256
_LOG_TAIL_NBYTES: Final = 2_000


class Asked(NamedTuple):
    """What the command line says."""

    where: str
    name: str
    reads: tuple[str, ...]
    writes: str
    on_error: str
    level: str | None
    replicas: int
    start: str
    parameters: Mapping[str, str]


def make_job(asked: Asked, node: Node) -> tuple[Step, Job]:
    """The step, and the job of its workers.

    Raises
    ------
    BadStep, BadParameter : it cannot work.
    """
    step = load(asked.where)
    given = {name.replace("-", "_"): text for name, text in asked.parameters.items()}
    try:
        step.parameters.check_text(given, later=step.header)
        values = step.parameters.check_text(given, partial=True)
        policy = parse(asked.on_error)
        for text in asked.reads:
            parse_read(text)
    except BadInput as error:
        raise Usage(error.message, hint=error.hint) from None
    if not 1 <= asked.replicas <= REPLICAS_MAX:
        raise Usage(f"--replicas is 1 … {REPLICAS_MAX}, not {asked.replicas}")
    if not (asked.reads or step.reads):
        raise Usage(f"step {step.name!r} does not say what it reads", hint="--reads SOURCE")
    access = find_access(node.url, node.beamtime, node.token, os.environ)
    return step, Job(
        where=step.where,
        step_id=asked.name or step.name,
        url=access.url,
        beamtime=access.beamtime,
        token=access.token,
        reads=asked.reads,
        writes=asked.writes or None,
        parameters=plain(values),
        on_error=policy,
        level=asked.level,
        start=asked.start,
    )


def run(step: Step, job: Job, hub: Hub, *, replicas: int, json: bool) -> int:
    """Run workers until Ctrl-C, SIGTERM, or until they cannot work; the exit status."""
    launcher = make_launcher({})
    with tempfile.TemporaryDirectory(prefix="beamstream-worker-") as logs, _signals() as stop:
        farewells = Farewells(
            lambda: connect(job.url, beamtime=job.beamtime, token=job.token, step="supervisor")
        )
        crew = Crew(launcher, job, replicas, Path(logs), farewells)
        try:
            talk(f"{job.step_id}: {describe(step, job)}; Ctrl-C ends it")
            shown = time.monotonic()
            while not stop.is_set() and not crew.care.done:
                crew.look(time.monotonic())
                if time.monotonic() >= shown + EVERY_S:
                    shown = time.monotonic()
                    _show(crew, hub, json=json)
                stop.wait(LOOK_S)
            crew.drain(time.monotonic() + DRAIN_S)
            _show(crew, hub, json=json)
        finally:
            launcher.close()
            farewells.close()
        return 0 if crew.care.verdict is Verdict.GOOD else FAILED


class Crew:
    """The replicas of a step, kept running."""

    def __init__(
        self, launcher: Launcher, job: Job, replicas: int, logs: Path, farewells: Farewells
    ) -> None:
        self.care = StepCare(replicas)
        self._launcher = launcher
        self._job = job
        self._logs = logs
        self._farewells = farewells
        self._sessions: dict[int, str] = {}
        self._handles: dict[int, Any] = {}
        self._last: dict[int, Status] = {}
        self._gone: list[Status] = []

    def look(self, now_s: float) -> None:
        """See how they are, and start and stop what has to be."""
        for number, handle in list(self._handles.items()):
            found = self._launcher.poll(handle)
            if found.status is not None:
                self._last[number] = found.status
            if isinstance(found, Ended):
                del self._handles[number]
                self._gone += [self._last.pop(number)] if number in self._last else []
                self.care.ended(number, found.code, now_s)
                session = self._sessions.pop(number)
                if found.code:
                    self._farewells.tell(session)
                    self._complain(number, found.code)
        for action in self.care.actions(now_s):
            if isinstance(action, Stop):
                self._launcher.stop(self._handles[action.replica], DRAIN_S)
            else:
                self._start(action.replica)

    def drain(self, until_s: float) -> None:
        """Let all of them finish what they have."""
        self.care.close()
        while self._handles and time.monotonic() < until_s:
            self.look(time.monotonic())
            time.sleep(LOOK_S)

    def status(self) -> Status:
        """All of them together, since the beginning."""
        now, before = list(self._last.values()), self._gone
        both = [*now, *before]
        notes = [one.note for one in both if one.note]
        return Status(
            state=self.care.state,
            done=sum(one.done for one in both),
            failed=sum(one.failed for one in both),
            skipped=sum(one.skipped for one in both),
            retried=sum(one.retried for one in both),
            stale=sum(one.stale for one in both),
            results=sum(one.results for one in both),
            nbytes=sum(one.nbytes for one in both),
            rate=sum(one.rate for one in now),
            busy=sum(one.busy for one in now),
            parameters_version=max((one.parameters_version for one in both), default=0),
            run=max((one.run for one in both), default=0),
            note=notes[0] if notes else "",
        )

    @property
    def running(self) -> int:
        return len(self._handles)

    def _start(self, number: int) -> None:
        instance = f"{socket.gethostname()}:{os.getpid()}.{number}"
        session = self._sessions[number] = secrets.token_hex(limits.SESSION_NBYTES)
        job = msgspec.structs.replace(self._job, instance=instance, session=session)
        task = Task(job, Path.cwd(), {}, self._logs / f"{number}.log")
        self._handles[number] = self._launcher.start(task)

    def _complain(self, number: int, code: int) -> None:
        log = self._logs / f"{number}.log"
        text = log.read_bytes()[-_LOG_TAIL_NBYTES:].decode(errors="replace") if log.exists() else ""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        talk(f"worker {number} {how}")
        for line in text.splitlines()[-12:]:
            talk(f"  {line}")


def describe(step: Step, job: Job) -> str:
    """What is read and written.

    >>> from beamstream.worker import step
    >>> describe(step(lambda frame: frame, reads="eiger", writes="out", name="x"), Job("m:x"))
    'eiger -> out'
    """
    reads = ", ".join(job.reads or map(str, step.reads))
    return f"{reads} -> {(step.writes if job.writes is None else job.writes) or 'nothing'}"


def _show(crew: Crew, hub: Hub, *, json: bool) -> None:
    status = crew.status()
    behind, lag_s = 0, 0.0
    with contextlib.suppress(Error):
        rows = [row for row in hub.groups() if row.group == crew._job.step_id]
        behind = sum(row.open + row.leased for row in rows)
        lag_s = max((row.lag_s for row in rows if row.open), default=0.0)
    if json:
        told = {"workers": crew.running, "behind": behind, "lag_s": round(lag_s, 3)}
        print_json_line({**told, **msgspec.to_builtins(status)})
        return
    words = [
        plural(crew.running, "worker"),
        f"{show_count(status.done)} done",
        f"{show_count(status.rate)}/s",
        f"behind {show_count(behind)}" + (f" ({show_span(lag_s)})" if lag_s else ""),
    ]
    if status.failed:
        words.append(f"{status.failed} failed, the last: {status.note}")
    elif status.note:
        words.append(status.note)
    talk("  ".join(words))


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM; the second one is an interruption as usual."""
    stop = threading.Event()

    def end(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -------------------------------------------------------------------------------- help


def help_of(step: Step) -> str:
    """What a step does, and its parameters as flags."""
    lines = [f"Usage: beamstream worker run {step.where} [OPTIONS]", "", summary(step.doc), ""]
    reads, writes = ", ".join(map(str, step.reads)) or "-", step.writes or "-"
    lines += [f"Reads {reads}, writes {writes}.", ""]
    if not len(step.parameters):
        lines.append("It has no parameters.")
    else:
        rows = []
        for one in step.parameters:
            default = "required" if one.required else f"default: {plain({'': one.default})['']}"
            note = f"{default}, or from the header" if one.name in step.header else default
            rows.append((f"--{one.name.replace('_', '-')}", one.type_name, one.help, note))
        wide = max(len(row[0]) for row in rows)
        lines.append("Parameters:")
        lines += [
            f"  {flag:<{wide}}  {kind}. {text} [{note}]".replace(".  [", ". [").replace("..", ".")
            for flag, kind, text, note in rows
        ]
    lines += ["", "Options of all steps: beamstream worker run --help"]
    return "\n".join(lines)


def me() -> str:
    """Who sets parameters, as others see it."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
