"""`beamstream pipeline up`: the supervisor, at the terminal or in the background."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from beamstream.cli import pipeline_view
from beamstream.cli.options import Node, Usage
from beamstream.cli.terminal import FAILED, talk
from beamstream.client.native import hub as native
from beamstream.client.native.hub import Hub
from beamstream.client.native.places import Access, find_access
from beamstream.errors import BadPipeline, Error
from beamstream.worker.pipelines.control import ControlServer, Request, ask
from beamstream.worker.pipelines.graph import Graph
from beamstream.worker.pipelines.pipeline_file import refusal
from beamstream.worker.pipelines.plan import Plan, load_plan
from beamstream.worker.pipelines.running import PipelineRun, Snapshot
from beamstream.worker.pipelines.state_folder import StateFolder, folder_of

_PATIENCE_S = 30.0
_LOG_TAIL_NBYTES = 4096


def foreground(file: Path, node: Node, *, quiet: bool = False) -> int:
    """Run a pipeline until it ends; the exit status."""
    plan, access = prepare(file, node)
    folder = folder_of(os.environ, access.beamtime, plan.name)

    def connect() -> Hub:
        return native.connect(
            access.url,
            beamtime=access.beamtime,
            token=access.token,
            step=f"{plan.name}.supervisor",
            patience=_PATIENCE_S,
        )

    with (
        folder.locked(),
        _stop_signals() as stop,
        PipelineRun(plan, connect, access, folder.logs) as run,
        ControlServer(folder, lambda request: handle(run, request)),
    ):
        last = _show(run, stop, quiet=quiet)
        if not run.ended:
            talk("ending: workers finish what they have in hand")
            run.close()
            last = run.snapshot()
    for note in pipeline_view.notes(last):
        talk(note)
    return FAILED if any(step.state in ("failed", "stopped") for step in last.steps) else 0


def prepare(file: Path, node: Node) -> tuple[Plan, Access]:
    """The plan of a pipeline that can work, and how its workers get at the node.

    Raises
    ------
    BadPipeline : it cannot work.
    ConnectionLost, TimedOut, NotFound : there is no node.
    """
    plan = load_plan(file)
    meant = plan.file.beamtime
    if meant and node.beamtime not in ("", meant):
        raise Usage(f"{file} is of beamtime {meant}, --beamtime says {node.beamtime}")
    access = find_access(node.url, node.beamtime or meant, node.token, os.environ)
    with native.connect(
        access.url, beamtime=access.beamtime, token=access.token, patience=5.0
    ) as hub:
        access = Access(access.url, hub.beamtime, access.token)
        graph = Graph(plan, hub.sources())
    problems = graph.problems()
    if problems:
        raise refusal(str(file), problems)
    for problem in graph.warnings():
        talk(f"{problem.at(str(file))} (warning)")
    return plan, access


def handle(run: PipelineRun, request: Request) -> Any:
    """What a request comes to.

    Raises
    ------
    BadPipeline : it is refused.
    """
    match request.do:
        case "ps":
            return msgspec.to_builtins(run.snapshot())
        case "scale":
            return msgspec.to_builtins(run.scale(request.step, request.to))
        case "drain":
            run.drain(request.timeout_s or float("inf"))
        case "down":
            run.down()
        case _:
            what = f"a pipeline cannot {request.do[:80]!r}"
            raise BadPipeline(what, hint="is it of an older version?")
    if not request.wait:
        return None
    run.wait_ended()
    return msgspec.to_builtins(run.snapshot())


def _show(run: PipelineRun, stop: threading.Event, *, quiet: bool) -> Snapshot:
    if quiet:
        return run.run(stop, pipeline_view.Events())
    if sys.stdout.isatty():
        return pipeline_view.live(lambda each: run.run(stop, each))
    return run.run(stop, pipeline_view.Lines())


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set; the second one ends it at once."""
    stop = threading.Event()
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def on_signal(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = [signal.signal(name, on_signal) for name in names]
    try:
        yield stop
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


# ------------------------------------------------------------------------------ background


def detached(file: Path, node: Node, wait_s: float) -> int:
    """Start a supervisor in the background, and wait until all steps run; the exit status."""
    plan, access = prepare(file, node)
    folder = folder_of(os.environ, access.beamtime, plan.name)
    # Says so here, not in a log, when there is one.
    with folder.locked():
        pass
    log = folder.logs / "supervisor.log"
    told = {"URL": access.url, "BEAMTIME": access.beamtime, "TOKEN": access.token}
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "beamstream.cli.main", "pipeline", "up", "--quiet", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **{f"BEAMSTREAM_{key}": value for key, value in told.items()}},
            start_new_session=True,
        )
    snapshot = _wait_running(folder, process, time.monotonic() + wait_s)
    if process.poll() is not None:
        talk(f"pipeline {plan.name} has ended with status {process.returncode}:\n{_tail(log)}")
        return FAILED
    if snapshot is not None and snapshot.all_running:
        talk(f"pipeline {plan.name} runs as process {process.pid}; its logs are in {folder.logs}")
        return 0
    states = [] if snapshot is None else [f"{one.name} {one.state}" for one in snapshot.steps]
    talk(f"pipeline {plan.name}: {', '.join(states) or 'it does not answer'}")
    for note in [] if snapshot is None else pipeline_view.notes(snapshot):
        talk(note)
    if snapshot is not None and any(one.state in ("failed", "stopped") for one in snapshot.steps):
        process.terminate()
        process.wait()
        talk("it has been stopped")
    else:
        talk(f"it goes on as process {process.pid}; its logs are in {folder.logs}")
    return FAILED


def _wait_running(
    folder: StateFolder, process: subprocess.Popen[bytes], until_s: float
) -> Snapshot | None:
    """The first snapshot in which all steps run or one cannot; else the last one."""
    snapshot = None
    while process.poll() is None and time.monotonic() < until_s:
        with contextlib.suppress(Error):
            snapshot = msgspec.convert(ask(folder, Request("ps")), Snapshot)
            lost = any(step.state in ("failed", "stopped") for step in snapshot.steps)
            if snapshot.all_running or lost:
                return snapshot
        time.sleep(0.1)
    return snapshot


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_NBYTES))
        return file.read().decode(errors="replace").strip()
