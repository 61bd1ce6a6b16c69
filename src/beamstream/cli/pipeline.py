"""`beamstream pipeline`: check, run and look after pipelines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, flag, maybe
from beamstream.cli.terminal import FAILED, plain, print_json, talk

if TYPE_CHECKING:
    from beamstream.worker.pipelines.plan import Plan
    from beamstream.worker.pipelines.state_folder import StateFolder

app = App(name="pipeline", help="Run steps that read what others write.")
File = Annotated[Path, Parameter(help="Pipeline file.")]
Which = Annotated[str, Parameter(help="Pipeline file, or the pipeline's name.")]
Beamtime = Annotated[str, maybe("Where pipelines of one name run for several.")]


_EVERY_S: Final = 0.1


@app.command
def check(file: File, /, *, node: Node = ANY_NODE, json: Json = False) -> int:
    """Check a pipeline file, and show its graph.

    Finds steps that cannot be loaded, wrong parameters, sources that nobody
    writes or two do, and cycles. It asks a node what sources there are, if one
    can be reached. Exit status 1 if the pipeline cannot work.

    $ beamstream pipeline check pipeline.yaml
    """
    from beamstream.worker.pipelines.graph import Graph
    from beamstream.worker.pipelines.plan import make_plan

    plan, problems, _ = make_plan(file)
    warnings = []
    graph = None
    if plan is not None:
        graph = Graph(plan, _known_sources(plan, node))
        problems = sorted([*problems, *graph.problems()])
        warnings = graph.warnings()
    if json:
        print_json(
            {
                "ok": not problems,
                "problems": [problem._asdict() for problem in problems],
                "warnings": [problem._asdict() for problem in warnings],
                "graph": None if graph is None else graph.document(),
            }
        )
        return FAILED if problems else 0
    if graph is not None and graph.plan.steps:
        print(plain_lines(graph.draw()))
    for problem in problems:
        talk(problem.at(str(file)))
    for problem in warnings:
        talk(f"{problem.at(str(file))} (warning)")
    return FAILED if problems else 0


def _known_sources(plan: Plan, node: Node) -> list[str] | None:
    """Sources that exist on the node; None if it cannot be asked."""
    from beamstream.cli import remote
    from beamstream.errors import Error

    try:
        with remote.connect(node, plan.file.beamtime, patience_s=2.0) as there:
            return there.hub.sources()
    except Usage:
        raise
    except Error:
        return None


@app.command
def up(
    file: File,
    /,
    *,
    detach: Annotated[bool, flag("In the background; returns when all steps run.")] = False,
    wait: Annotated[float, Parameter(help="Seconds that --detach waits for that.")] = 60.0,
    quiet: Annotated[bool, flag("Tell only what changes.")] = False,
    node: Node = ANY_NODE,
) -> int:
    """Run a pipeline.

    Starts the workers of all steps, starts them again when they end, and shows
    how they go, until Ctrl-C or `beamstream pipeline down`; workers then have
    ten seconds for what they have in hand. Nothing is lost however it ends.
    Exit status 1 if a step has failed or was stopped by its policy.

    $ beamstream pipeline up pipeline.yaml
    """
    from beamstream.cli import pipeline_up

    if detach:
        return pipeline_up.detached(file, node, wait)
    return pipeline_up.foreground(file, node, quiet=quiet)


@app.command
def ps(
    which: Annotated[str, Parameter(help="Pipeline file or name; none: all that run.")] = "",
    /,
    *,
    beamtime: Beamtime = "",
    json: Json = False,
) -> int:
    """Show how pipelines of this user go on this machine.

    Exit status 1 if the one that is asked for does not run.

    $ beamstream pipeline ps
    """
    import msgspec

    from beamstream.cli import pipeline_view
    from beamstream.errors import Error
    from beamstream.worker.pipelines.running import Snapshot
    from beamstream.worker.pipelines.state_folder import folders

    found = [_folder(which, beamtime)] if which else folders(os.environ, beamtime=beamtime)
    shown = []
    for folder in found:
        if not which and not folder.running:
            continue
        try:
            shown.append(msgspec.convert(_ask(folder, "ps"), Snapshot))
        except Error as error:
            if which:
                raise
            talk(str(error))
    if json:
        documents = [pipeline_view.document(snapshot) for snapshot in shown]
        print_json(documents[0] if which else documents)
        return 0
    for snapshot in shown:
        talk(f"pipeline {snapshot.pipeline} of beamtime {snapshot.beamtime}: {snapshot.state}")
        pipeline_view.print_snapshot(snapshot)
    if not shown:
        talk("no pipeline runs")
    return 0


@app.command
def logs(
    which: Which,
    step: Annotated[str, Parameter(help="Of this step only.")] = "",
    /,
    *,
    follow: Annotated[
        bool, Parameter(name=("--follow", "-f"), negative="", help="Go on as they grow.")
    ] = False,
    lines: Annotated[int, Parameter(help="Lines of each log that are shown first.")] = 20,
    beamtime: Beamtime = "",
) -> int:
    """Show what workers said.

    Also after the pipeline has ended. Ctrl-C ends --follow.

    $ beamstream pipeline logs pipeline.yaml bin
    """
    from beamstream.cli import pipeline_logs

    folder = _folder(which, beamtime)
    return pipeline_logs.show(folder, step, follow=follow, count=max(lines, 0))


@app.command
def scale(
    which: Which,
    step: Annotated[str, Parameter(help="Name of the step.")],
    to: Annotated[int, Parameter(help="How many workers.")],
    /,
    *,
    beamtime: Beamtime = "",
) -> int:
    """Have another number of workers of a step.

    From then on the number does not follow the lag. A step that has failed or
    was stopped is tried again; 0 workers pause it.

    $ beamstream pipeline scale pipeline.yaml peaks 4
    """
    row = _ask(_folder(which, beamtime), "scale", step=step, to=to)
    talk(f"step {row['name']}: {row['wanted']} workers")
    return 0


@app.command
def drain(
    which: Which,
    /,
    *,
    timeout: Annotated[float, maybe("Seconds; then it ends anyway.")] = 0.0,
    beamtime: Beamtime = "",
) -> int:
    """End a pipeline when all that is there has been worked on.

    Returns when it has ended. Exit status 1 if inputs are left.

    $ beamstream pipeline drain pipeline.yaml --timeout 60
    """
    return _end(_folder(which, beamtime), "drain", timeout_s=timeout)


@app.command
def down(which: Which, /, *, beamtime: Beamtime = "") -> int:
    """Stop a pipeline.

    Workers finish what they have in hand, within ten seconds. What is not done
    stays open: the next `up` goes on there.

    $ beamstream pipeline down pipeline.yaml
    """
    _end(_folder(which, beamtime), "down")
    return 0


# ------------------------------------------------------------------------------ inside


def plain_lines(text: str) -> str:
    """Text of several lines, of which none commands the terminal."""
    return "\n".join(plain(line) for line in text.splitlines())


def _folder(which: str, beamtime: str) -> StateFolder:
    """The folder of a pipeline, by its file or name."""
    from beamstream.worker.pipelines.pipeline_file import read_file, refusal
    from beamstream.worker.pipelines.state_folder import the_folder

    path = Path(which)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        return the_folder(os.environ, which, beamtime)
    found, problems = read_file(path)
    if found is None or not found.name:
        raise refusal(which, problems)
    if beamtime and found.beamtime not in ("", beamtime):
        raise Usage(f"{which} is of beamtime {found.beamtime}, --beamtime says {beamtime}")
    return the_folder(os.environ, found.name, beamtime or found.beamtime)


def _ask(folder: StateFolder, do: str, **more: Any) -> Any:
    from beamstream.worker.pipelines.control import Request, ask

    return ask(folder, Request(do, **more))


def _end(folder: StateFolder, do: str, **more: Any) -> int:
    """Have a pipeline ended, tell how that goes, and wait; 1 if inputs are left."""
    import threading
    import time
    from concurrent.futures import Future

    pid = folder.pid
    asked: Future[Any] = Future()

    def wait() -> None:
        try:
            asked.set_result(_ask(folder, do, wait=True, **more))
        except Exception as error:
            asked.set_exception(error)

    # Ctrl-C leaves it waiting: what was asked for goes on without us.
    threading.Thread(target=wait, daemon=True).start()
    while not asked.done():
        _tell_open(folder)
        time.sleep(_EVERY_S)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    last = asked.result()
    # A service manager may have started it again.
    while folder.running and folder.pid == pid:
        time.sleep(_EVERY_S)
    note = last["note"]
    talk(f"pipeline {folder.name} has ended{f': {note}' if note else ''}")
    return FAILED if any(one["figures"]["behind"] for one in last["steps"]) else 0


def _tell_open(folder: StateFolder) -> None:
    """Say how much each step has left, to somebody who looks."""
    from beamstream.errors import Error

    if not sys.stderr.isatty():
        return
    try:
        steps = _ask(folder, "ps")["steps"]
    except Error:
        # It has closed its socket, and is about to answer.
        return
    now = ", ".join(f"{one['name']} {one['figures']['behind']:,}" for one in steps)
    print(f"\r\033[Kopen: {plain(now)}", end="", file=sys.stderr, flush=True)
