"""A pipeline that runs: its steps' workers are started, watched, scaled and stopped."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from beamstream import limits
from beamstream.client.native.places import Access
from beamstream.errors import BadPipeline, Error
from beamstream.worker.farewells import Farewells
from beamstream.worker.jobs import Job, Status
from beamstream.worker.pipelines import declaring
from beamstream.worker.pipelines.launchers import Ended, Launcher, Running, Task, make_launcher
from beamstream.worker.pipelines.launchers.local import MARK
from beamstream.worker.pipelines.pipeline_file import LOCAL, REPLICAS_MAX
from beamstream.worker.pipelines.plan import Plan, PlannedStep
from beamstream.worker.pipelines.scaling import Scaler
from beamstream.worker.pipelines.snapshots import Snapshot, StepRow
from beamstream.worker.pipelines.supervisor import Start, StepCare, Verdict
from beamstream.worker.pipelines.watching import Figures, Look, Watcher

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

__all__ = ["PipelineRun", "Snapshot", "StepRow"]

POLL_S: Final = 0.1
DRAIN_S: Final = 10.0
"""A worker that was asked to stop has so long to finish what it has in hand."""

DRAINED_LOOKS: Final = 2
"""So many looks in a row have to find nothing left: results of one step are inputs of the next."""

_NOTE_NCHARS: Final = 300
_LOG_TAIL_NBYTES: Final = 4096


class _Care:
    """A step with its workers' handles."""

    def __init__(self, step: PlannedStep, launcher: Launcher) -> None:
        replicas = step.entry.replicas
        self.step = step
        self.launcher = launcher
        self.care = StepCare(replicas.min)
        self.scaler = None if replicas.fixed else Scaler(replicas)
        self.handles: dict[int, Any] = {}
        self.statuses: dict[int, Status | None] = {}
        self.sessions: dict[int, str] = {}
        """By which the node knows the workers."""
        self.note = ""

    @property
    def works(self) -> bool:
        """Whether somebody is there, or will be, to do what is open."""
        return self.care.verdict is Verdict.GOOD and self.care.wanted > 0

    def row(self, figures: Figures) -> StepRow:
        running = sum(one is not None and one.state != "starting" for one in self.statuses.values())
        state = self.care.state
        if state == "running" and running < self.care.wanted:
            state = "starting"
        said = next((one.note for one in self.statuses.values() if one and one.note), "")
        return StepRow(
            name=self.step.name,
            state=state,
            wanted=self.care.wanted,
            running=running,
            auto=self.scaler is not None,
            restarts=self.care.restarts,
            figures=figures,
            pids=tuple(getattr(one, "pid", 0) for _, one in sorted(self.handles.items())),
            note=said or self.note,
        )


class PipelineRun:
    """Runs a plan; `turn` does what is due, and has to be called often, by `run` for instance.

    All methods may be called by any thread.

    Parameters
    ----------
    connect : gives a connection to the node, of its own.
    access : what the workers are told of the node.
    logs : folder of the workers' logs.
    launchers : by name; without them, as the file says.
    clock : seconds.
    """

    def __init__(
        self,
        plan: Plan,
        connect: Callable[[], Hub],
        access: Access,
        logs: Path,
        *,
        launchers: Mapping[str, Launcher] | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = 1.0,
    ) -> None:
        self.plan = plan
        self._connect = connect
        self._access = access
        self._logs = logs
        self._clock = clock
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._launchers = dict(launchers) if launchers is not None else _launchers(plan)
        self._steps = {
            step.name: _Care(step, self._launchers[step.entry.launcher]) for step in plan.steps
        }
        self._watcher = Watcher(plan, connect, clock=clock, every_s=every_s)
        self._farewells = Farewells(connect)
        self._seen = 0
        self._began_s = 0.0
        self._state = "new"
        self._note = ""
        self._drain_until_s = float("inf")
        self._empty_looks = 0
        self._stop_s = DRAIN_S
        self._closed = False

    # ------------------------------------------------------------------ life

    def start(self) -> Self:
        """Start the workers.

        Raises
        ------
        Error : the node cannot be reached, or refuses it.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        self._watcher.start()
        self._declare("up")
        with self._lock:
            self._began_s = self._clock()
            self._state = "up"
        self.turn()
        return self

    def run(
        self,
        stop: threading.Event,
        each: Callable[[Snapshot], None] | None = None,
        *,
        each_s: float = 0.5,
    ) -> Snapshot:
        """Go on until it has ended, or `stop` is set; `each` gets a snapshot every `each_s`."""
        shown_s = float("-inf")
        while not stop.is_set():
            self.turn()
            if each is not None and self._clock() - shown_s >= each_s:
                shown_s = self._clock()
                each(self.snapshot())
            if self.ended:
                break
            self._wake.wait(POLL_S)
            self._wake.clear()
        last = self.snapshot()
        if each is not None:
            each(last)
        return last

    def turn(self) -> None:
        """Do what is due."""
        with self._lock:
            if self._state in ("new", "ended"):
                return
            for care in self._steps.values():
                self._poll(care)
            look = self._watcher.look
            if look.number != self._seen:
                self._seen = look.number
                self._learn(look)
            if self._state == "draining" and self._clock() >= self._drain_until_s:
                left = _left(name for name, one in look.steps.items() if one.behind)
                self._note = f"the time for draining is over; {left}".rstrip("; ")
                self.down()
            for care in self._steps.values():
                self._act(care)
            if all(care.care.done for care in self._steps.values()):
                self._end()

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Stop all workers, which have `drain_s` for what they have in hand, and let go of all."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.down(drain_s)
        until_s = self._clock() + drain_s + 5.0
        while not self.ended and self._clock() < until_s:
            self.turn()
            self._wake.wait(POLL_S / 5)
        self._farewells.close()
        self._watcher.close()
        for launcher in self._launchers.values():
            launcher.close()
        if self._began_s:
            with contextlib.suppress(Error):
                self._declare("down")
        self._end()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close(0.0)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(DRAIN_S if kind is None else 0.0)

    # ------------------------------------------------------------------ what people ask for

    def scale(self, name: str, wanted: int) -> StepRow:
        """Have so many workers of a step; its number does not follow the lag any more.

        Raises
        ------
        BadPipeline : there is no such step, or the number is none.
        """
        step = self.plan.step(name)
        if not 0 <= wanted <= REPLICAS_MAX:
            raise BadPipeline(f"a step has 0 to {REPLICAS_MAX} workers, not {wanted}")
        with self._lock:
            if self._state != "up":
                raise BadPipeline(f"pipeline {self.plan.name!r} is ending: nothing is scaled")
            care = self._steps[step.name]
            care.scaler = None
            care.note = ""
            care.care.scale(wanted, self._clock())
            self._wake.set()
            return care.row(self._watcher.look.steps.get(step.name, Figures()))

    def drain(self, timeout_s: float = float("inf")) -> None:
        """End when all that is there has been worked on, or after that time."""
        with self._lock:
            if self._state == "up":
                self._state = "draining"
                self._empty_looks = 0
                # What the node said before says nothing about now.
                self._seen = self._watcher.look.number
                self._drain_until_s = self._clock() + timeout_s
            self._wake.set()

    def down(self, drain_s: float = DRAIN_S) -> None:
        """Let workers finish what they have in hand, and stop them, from the next `turn` on."""
        with self._lock:
            if self._state == "ended":
                return
            self._state = "stopping"
            self._stop_s = drain_s
            for care in self._steps.values():
                care.care.close()
            self._wake.set()

    # ------------------------------------------------------------------ looking

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Wait, in another thread than that of `run`, until it has ended."""
        return self._ended.wait(timeout_s)

    def snapshot(self) -> Snapshot:
        with self._lock:
            look = self._watcher.look
            return Snapshot(
                pipeline=self.plan.name,
                beamtime=self._access.beamtime,
                state=self._state,
                up_s=self._clock() - self._began_s if self._began_s else 0.0,
                steps=tuple(
                    care.row(look.steps.get(name, Figures())) for name, care in self._steps.items()
                ),
                note=self._note or look.note,
            )

    # ------------------------------------------------------------------ inside

    def _end(self) -> None:
        with self._lock:
            self._state = "ended"
        self._ended.set()

    def _poll(self, care: _Care) -> None:
        for number, handle in list(care.handles.items()):
            match care.launcher.poll(handle):
                case Running(status):
                    care.statuses[number] = status
                case Ended(code, status):
                    del care.handles[number], care.statuses[number]
                    care.care.ended(number, code, self._clock())
                    session = care.sessions.pop(number, "")
                    if code:
                        self._farewells.tell(session)
                    if code and self._state in ("up", "draining"):
                        why = status.note if status and status.note else ""
                        why = why or _last_line(self._log(care, number))
                        care.note = f"worker {number} ended with {_said(code)}: {why}"

    def _learn(self, look: Look) -> None:
        """Take what the node says into account; nothing is known while it is away."""
        known = {} if look.note else look.steps
        for name, figures in known.items():
            care = self._steps[name]
            if care.scaler is not None and self._state == "up" and care.works:
                wanted = care.scaler.observe(look.at_s, figures.lag_s)
                if wanted != care.care.wanted:
                    care.care.wanted = wanted
        if self._state == "draining" and not look.note:
            open = {name for name, one in look.steps.items() if one.behind}
            left = {name for name in open if self._steps[name].works}
            self._empty_looks = 0 if left else self._empty_looks + 1
            if self._empty_looks >= DRAINED_LOOKS:
                self._note = _left(open)
                self.down()

    def _act(self, care: _Care) -> None:
        for action in care.care.actions(self._clock()):
            number = action.replica
            if isinstance(action, Start):
                try:
                    care.handles[number] = care.launcher.start(self._task(care, number))
                    care.statuses[number] = None
                except Error as error:
                    care.note = str(error)
                    care.care.ended(number, 127, self._clock())
            elif number in care.handles:
                care.launcher.stop(care.handles[number], self._stop_s)

    def _task(self, care: _Care, number: int) -> Task:
        step = care.step
        session = care.sessions[number] = secrets.token_hex(limits.SESSION_NBYTES)
        job = Job(
            where=step.where,
            step_id=step.step_id,
            url=self._access.url,
            beamtime=self._access.beamtime,
            token=self._access.token,
            reads=tuple(map(str, step.reads)),
            writes=step.writes or "",
            parameters=step.parameters,
            on_error=step.entry.on_error,
            level=step.entry.level,
            instance=f"{step.step_id}-{number}@{socket.gethostname()}",
            session=session,
        )
        folder = self.plan.file.folder.resolve()
        return Task(job, folder, step.entry.environment, self._log(care, number))

    def _log(self, care: _Care, number: int) -> Path:
        return self._logs / f"{care.step.name}.{number}.log"

    def _declare(self, state: str) -> None:
        with self._connect() as hub:
            declaring.declare(
                hub, self.plan, state=state, host=socket.gethostname(), pid=os.getpid()
            )


def _launchers(plan: Plan) -> dict[str, Launcher]:
    settings: dict[str, dict[str, Any]] = {LOCAL: {}, **plan.file.launchers}
    used = {step.entry.launcher for step in plan.steps}
    return {name: make_launcher(settings[name]) for name in sorted(used)}


def _said(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"status {code}"


def _left(names: Iterable[str]) -> str:
    found = sorted(names)
    return f"inputs are left for {', '.join(found)}" if found else ""


def _last_line(log: Path) -> str:
    """The last thing that a worker said."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_NBYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    said = bool(lines) and not lines[-1].startswith(MARK)
    return lines[-1][:_NOTE_NCHARS] if said else "it said nothing"
