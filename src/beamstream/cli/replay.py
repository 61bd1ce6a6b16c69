"""`beamstream replay`: a range of a stream once more, to a step, a stream or a group."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, flag, maybe
from beamstream.cli.terminal import (
    FAILED,
    INTERRUPTED,
    plural,
    print_facts,
    print_json,
    show_count,
    show_nbytes,
    show_span,
    talk,
)

if TYPE_CHECKING:
    from beamstream.cli.remote import Remote
    from beamstream.worker.replay_steps import StepJob
    from beamstream.worker.replaying import Plan, Progress, Replay, Target

EVERY_S: Final = 1.0
"""Time between lines that tell how it goes."""

PATIENCE_S: Final = 30.0
"""How long it bears with a node that is away."""


def replay(
    address: Annotated[str, Parameter(help="SOURCE/STREAM, or a range of one: [1000:2000].")],
    /,
    *,
    to: Annotated[str, maybe("step:NAME, stream:[SOURCE/STREAM] or group:NAME.")],
    pipeline: Annotated[Path | None, maybe("File in which the step is.")] = None,
    rate: Annotated[str, maybe("100 (a second), original, original*2, max (default).")] = "max",
    into: Annotated[str, maybe("Stream that is written; STREAM~rN without.")] = "",
    fresh: Annotated[bool, flag("Begin anew, even if one like it is unfinished.")] = False,
    dry_run: Annotated[bool, flag("Only say what would be done.")] = False,
    yes: Annotated[bool, flag("Offer them to the group; without: show.")] = False,
    node: Node = ANY_NODE,
    json: Json = False,
    **parameters: Annotated[str, Parameter(help="Parameters of the step.")],
) -> int:
    """Let a range of a stream come once more.

    To a step: its code of today reads the range and writes a new stream, beside
    the old results. To a stream: the messages are recorded once more, whoever
    follows that source reads them as new ones. To a group: it is offered the
    range again. The old stream is never touched. Interrupted, the same command
    goes on; exit status 1 if the step has failed on some of them.

    $ beamstream replay 'eiger/scan1[1000:2000]' --to step:find_peaks --dry-run
    """
    from beamstream.cli import remote
    from beamstream.worker import pacing, replaying

    asked = remote.address_of(address)
    with _as_usage():
        target, how_fast = replaying.parse_target(to), pacing.parse_rate(rate)
        job = _job(target, pipeline, parameters)
    beamtime = asked.beamtime or (job.beamtime if job else "")
    with remote.connect(node, beamtime, patience_s=PATIENCE_S, step="replay") as there:
        made = replaying.plan(
            there.hub,
            asked.source,
            asked.stream,
            _ids(there, asked),
            target,
            how_fast,
            job=job,
            into=into,
            fresh=fresh,
        )
        only_shown = dry_run or (target.kind == "group" and not yes)
        if only_shown and json:
            print_json(document(made))
        elif not json:
            _tell(made)
        if only_shown:
            if not json:
                talk("nothing was changed" + ("" if dry_run else "; --yes does it"))
            return 0 if dry_run else FAILED
        return _carry_out(replaying.Replay(there.hub, made, job), json=json)


def _ids(there: Remote, asked: Any) -> range:
    found = there.ids(asked)
    if not found:
        from beamstream.errors import NotFound

        raise NotFound(f"{asked} is empty: there is nothing to replay")
    return found


@contextlib.contextmanager
def _as_usage() -> Iterator[None]:
    """What was typed wrongly is wrong usage."""
    from beamstream.errors import BadInput

    try:
        yield
    except BadInput as error:
        raise Usage(error.message, hint=error.hint) from None


def _job(target: Target, pipeline: Path | None, parameters: dict[str, str]) -> StepJob | None:
    if target.kind != "step":
        if parameters or pipeline is not None:
            name = "--pipeline" if pipeline is not None else f"--{next(iter(parameters))}"
            raise Usage(f"{name} belongs to a step", hint="--to step:NAME")
        return None
    from beamstream.worker.replay_steps import find_job

    given = {name.replace("-", "_"): text for name, text in parameters.items()}
    return find_job(target.name, pipeline, given)


# ---------------------------------------------------------------------------- carrying out


def _carry_out(doing: Replay, *, json: bool) -> int:
    last = None
    with _until_asked() as stop:
        said_s = time.monotonic()
        for last in doing.run(stop):
            if not json and time.monotonic() - said_s >= EVERY_S:
                said_s = time.monotonic()
                talk(progress_line(last))
    assert last is not None
    if json:
        print_json(document(doing.plan) | _outcome(doing, last))
    else:
        talk(progress_line(last))
        talk(_ending(doing, last))
    if not doing.finished:
        return INTERRUPTED
    return FAILED if last.failed else 0


@contextlib.contextmanager
def _until_asked() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: what is in hand then ends in order; twice: at once."""
    stop = threading.Event()

    def ask(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, ask) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _ending(doing: Replay, last: Progress) -> str:
    from beamstream.cli.remote import path_of

    made = doing.plan
    if made.target.kind == "group":
        return f"{plural(last.done, 'message')} offered to group {made.target.name} again"
    path = path_of(made.to_source, made.to_stream)
    if not doing.finished:
        return f"interrupted; {path} has what was done so far; the same command goes on with it"
    failed = f"; {last.failed:,} failed: {last.note}" if last.failed else ""
    run = f" (run {doing.run_no})" if doing.run_no else ""
    return f"{path} is finished{run}{failed}"


def progress_line(last: Progress) -> str:
    """How it goes, in a line.

    >>> from beamstream.worker.replaying import Progress
    >>> progress_line(Progress(500, 1000, 8_000_000, rate=100.0, left_s=5.0, results=480))
    '500 of 1,000 (50 %)  100 /s  8.00 MB  480 results  5.00 s left'
    """
    words = [f"{last.done:,} of {last.total:,} ({100 * last.done // max(last.total, 1)} %)"]
    if last.rate:
        words.append(f"{show_count(round(last.rate, 1))} /s")
    if last.nbytes:
        words.append(show_nbytes(last.nbytes))
    words += [
        f"{count:,} {what}"
        for count, what in (
            (last.results, "results"),
            (last.skipped, "without"),
            (last.failed, "failed"),
        )
        if count
    ]
    if last.left_s and last.done < last.total:
        words.append(f"{show_span(last.left_s)} left")
    return "  ".join(words)


# -------------------------------------------------------------------------------- showing


def document(made: Plan) -> dict[str, Any]:
    """A plan as JSON has it."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(made)
    return found | {"target": str(made.target), "rate": str(made.rate), "resumed": made.resumed}


def _outcome(doing: Replay, last: Progress) -> dict[str, Any]:
    import msgspec

    return {
        "run": doing.run_no,
        "finished": doing.finished,
        "progress": msgspec.to_builtins(last),
    }


def _tell(made: Plan) -> None:
    sys.stdout.flush()
    print_facts(facts(made))
    sys.stdout.flush()
    for text in made.warnings:
        talk(f"note: {text}")


def facts(made: Plan) -> list[tuple[str, object]]:
    """A plan for people."""
    from beamstream.cli.remote import path_of

    found = made.measured
    places = ((found.cached, "cache"), (found.files, "files"), (found.log, "log"))
    lie = [f"{count:,} in the {where}" for count, where in places if count]
    lie += [f"{found.gone:,} gone"] if found.gone else []
    shown: list[tuple[str, object]] = [
        ("messages", f"{path_of(made.source, made.stream)}[{made.lo}:{made.hi}]"),
        ("", f"{plural(found.count, 'message')}, {show_nbytes(found.nbytes)}: {', '.join(lie)}"),
        ("to", made.target),
    ]
    if made.to_stream:
        on = f", going on from id {made.begin}" if made.resumed else ""
        on = ", which is finished: nothing is left to do" if made.done else on
        shown.append(("writes", f"{path_of(made.to_source, made.to_stream)}{on}"))
    document = made.document or {}
    if made.target.kind == "step":
        shown.append(("code", document.get("where", "")))
        parameters = document.get("parameters", {})
        shown.append(("parameters", ", ".join(f"{k}={v}" for k, v in parameters.items()) or "none"))
        of = document["replay_of"]["run"]
        shown.append(("results there", f"of run {of}" if of else "none"))
        shown += [("differs in", text) for text in made.changes]
        if of and not made.changes:
            shown.append(("differs in", "nothing: deterministic code gives the same bytes"))
    if made.target.kind != "group":
        takes = "as long as it needs" if made.seconds is None else show_span(made.seconds)
        shown.append(("rate", f"{made.rate}: {takes}"))
    return shown
