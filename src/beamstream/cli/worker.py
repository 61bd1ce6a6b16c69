"""`beamstream worker`: steps as programs, their parameters and their failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, maybe
from beamstream.cli.terminal import (
    FAILED,
    plain,
    plural,
    print_json,
    print_rows,
    show_count,
    show_moment,
    show_span,
    talk,
)

if TYPE_CHECKING:
    from beamstream.cli.remote import Found
    from beamstream.worker.versions import Version

app = App(name="worker", help="Run steps, set their parameters, look at what failed.")
_run = App(
    name="run",
    # What WHERE stands for has a help of its own.
    help_flags=(),
    help_format="plaintext",
    help_formatter="plain",
    usage="Usage: beamstream worker run WHERE [OPTIONS]",
)
app.command(_run)

StepId = Annotated[str, Parameter(help="Name of the step; PIPELINE.STEP in a pipeline.")]


@_run.default
def run(
    where: Annotated[
        str, Parameter(help="MODULE:NAME, FILE.py:NAME, or a stock step.", show_default=False)
    ] = "",
    /,
    *,
    replicas: Annotated[int, Parameter(help="Worker processes.")] = 1,
    reads: Annotated[
        list[str] | None,
        Parameter(
            help="SOURCE or SOURCE/PATTERN; given several times: a join.",
            negative="",
            show_default=False,
        ),
    ] = None,
    writes: Annotated[str, maybe("Data source of the results.")] = "",
    name: Annotated[str, maybe("Of its group, parameters and failures; that of the step.")] = "",
    on_error: Annotated[str, Parameter(help="retry=N,backoff_s=S,then=dead|skip|stop.")] = "dead",
    level: Annotated[str, maybe("cache, os or disk; without: as the node is set.")] = "",
    start: Annotated[str, Parameter(help="begin or new: where a new group begins.")] = "begin",
    node: Node = ANY_NODE,
    json: Json = False,
    help: Annotated[bool, Parameter(name=["--help", "-h"], negative="", show=False)] = False,
    **parameters: Annotated[str, Parameter(help="Parameters of the step.")],
) -> int:
    """Run the workers of a step.

    They share the work, are started again when they crash, and finish what they
    have in hand at Ctrl-C. Parameters of the step are options, too: see
    beamstream worker run WHERE --help.

    $ beamstream worker run my.py:bin2 --replicas 4 --factor 4
    """
    if help and not where:
        _run.help_print([])
        return 0
    from beamstream.cli import remote, worker_run

    if help:
        from beamstream.worker.loading import load

        print(worker_run.help_of(load(where)))
        return 0
    if not where:
        raise Usage("which step?", hint="beamstream worker run MODULE:NAME or FILE.py:NAME")
    if start not in ("begin", "new"):
        raise Usage(f"--start is begin or new, not {start[:40]!r}")
    asked = worker_run.Asked(
        where, name, tuple(reads or ()), writes, on_error, remote.level_of(level), replicas, start,
        parameters,
    )  # fmt: skip
    step, job = worker_run.make_job(asked, node)
    with remote.connect(node, patience_s=worker_run.DRAIN_S, step="worker") as there:
        return worker_run.run(step, job, there.hub, replicas=replicas, json=json)


@app.command(name="set")
def set_(
    step: StepId,
    /,
    *changes: Annotated[str, Parameter(help="NAME=VALUE.")],
    node: Node = ANY_NODE,
    json: Json = False,
) -> None:
    """Change parameters of a running step.

    Its workers use them from the next message on; without any, show what holds.

    $ beamstream worker set bin2 factor=8
    """
    from beamstream.cli import remote, worker_run
    from beamstream.cli.worker_steps import read_changes
    from beamstream.worker import versions

    with remote.connect(node) as there:
        if changes:
            values = read_changes(there.hub, step, changes)
            now = versions.change(there.hub, step, values, worker_run.me())
        else:
            now = versions.current(there.hub, step)
    _show_version(step, now, json=json)


def _show_version(step: str, now: Version, *, json: bool) -> None:
    if json:
        print_json({"step": step, "version": now.version, "parameters": now.parameters,
                    "by": now.by})  # fmt: skip
        return
    text = ", ".join(f"{name}={value}" for name, value in now.parameters.items())
    by = f", by {now.by}" if now.by else ""
    print(plain(f"{step}: {text or 'nothing is set'} (version {now.version}{by})"))


@app.command
def failed(
    step: StepId,
    /,
    *,
    limit: Annotated[int, Parameter(help="So many, the newest.")] = 10,
    stream: Annotated[str, maybe("Only of this stream.")] = "",
    node: Node = ANY_NODE,
    json: Json = False,
) -> int:
    """Show what a step failed on, with tracebacks.

    Exit status 1 if there is something.

    $ beamstream worker failed bin2
    """
    from beamstream.cli import remote
    from beamstream.cli.worker_steps import failures, unexplained

    with remote.connect(node) as there:
        found = failures(there.hub, step, stream, limit)
        silent = unexplained(there.hub, step, stream)
    if json:
        gone = [{"source": one.source, "stream": one.stream, "id": one.id, "seq": one.seq,
                 "then": "dead", "error": _SILENT} for one in silent]  # fmt: skip
        print_json([*gone, *(one.meta for one in found)])
        return FAILED if found or silent else 0
    for one in silent:
        print(plain(f"{remote.path_of(one.source, one.stream, one.id)}  {_SILENT}"))
    for one in found:
        _show_failure(one)
    if not (found or silent):
        talk(f"{step} has not failed on anything")
    return FAILED if found or silent else 0


_SILENT = "given up by the node: its workers died while they had it"


def _show_failure(found: Found) -> None:
    from beamstream.cli.remote import path_of

    meta: dict[str, Any] = found.meta
    where = path_of(str(meta.get("source", "")), str(meta.get("stream", "")), meta.get("id", 0))
    when, by = show_moment(int(meta.get("time_ns", 0))), meta.get("worker", "")
    print(plain(f"{where}  attempt {meta.get('attempt')}, {meta.get('then')}, {when}, {by}"))
    for line in str(meta.get("traceback", meta.get("error", ""))).splitlines():
        print(plain(f"    {line}"))


@app.command
def again(
    step: StepId,
    which: Annotated[str, Parameter(help="STREAM or STREAM[IDS]; all without.")] = "",
    /,
    *,
    node: Node = ANY_NODE,
    json: Json = False,
) -> None:
    """Offer a step again what it gave up.

    $ beamstream worker again bin2 'scan1[7]'
    """
    from beamstream.cli import remote
    from beamstream.cli.worker_steps import redeliver

    with remote.connect(node) as there:
        count = redeliver(there.hub, step, which)
    if json:
        print_json({"step": step, "offered": count})
    else:
        print(f"{plural(count, 'message')} offered again")


@app.command
def ls(*, node: Node = ANY_NODE, json: Json = False) -> None:
    """List the steps that have run in this beamtime.

    $ beamstream worker ls
    """
    from beamstream.cli import remote
    from beamstream.cli.worker_steps import steps

    with remote.connect(node) as there:
        rows = steps(there.hub)
    if json:
        print_json(rows)
        return
    print_rows(
        ("STEP", "READS", "WRITES", "WORKERS", "BEHIND", "BY", "DEAD", "PARAMETERS", "CODE"),
        [
            (
                row["step"],
                ", ".join(row["reads"]) or "-",
                row["writes"] or "-",
                row["workers"],
                show_count(row["behind"]),
                show_span(row["lag_s"]) if row["lag_s"] else "-",
                show_count(row["dead"]),
                f"version {row['parameters_version']}" if row["parameters_version"] else "-",
                row["where"],
            )
            for row in rows
        ],
        right=("WORKERS", "BEHIND", "BY", "DEAD"),
    )
