"""`beamstream bench`: what a node does for clients here, on a stream that is removed after."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from beamstream.cli.options import ANY_NODE, Json, Node, Usage, maybe
from beamstream.cli.terminal import print_json, show_count, show_nbytes, show_span, talk

if TYPE_CHECKING:
    from beamstream.cli.bench_client import Task
    from beamstream.cli.bench_figures import Done
    from beamstream.cli.remote import Remote

app = App(name="bench", help="Measure a running node.")

SOURCE: Final = "beamstream-bench"
_FILL_NBYTES: Final = 256 * 1024 * 1024
_FILL_MESSAGES: Final = 100_000
_CLIENTS_MAX: Final = 64
_END_S: Final = 120.0

Size = Annotated[str, Parameter(help="Of one message: 1k, 4MiB.")]
Messages = Annotated[int, maybe("Messages of each client, in place of --seconds.")]
Seconds = Annotated[float, Parameter(help="How long to go on.")]
Clients = Annotated[int, Parameter(help="Programs that work at the same time.")]
Many = Annotated[int, Parameter(help="Messages sent at once; 1: one by one.")]
Level = Annotated[str, maybe("cache, os or disk; else as the node is set.")]


@app.command
def put(
    *,
    size: Size = "1M",
    messages: Messages = 0,
    seconds: Seconds = 5.0,
    clients: Clients = 1,
    batch: Many = 1,
    level: Level = "",
    node: Node = ANY_NODE,
    json: Json = False,
) -> None:
    """Measure how fast messages are taken.

    And how soon receipts come while as much as possible is on its way.

    $ beamstream bench put --size 4MiB --clients 2
    """
    nbytes = _checked(size, messages, seconds, clients, batch, level)
    with _stream(node) as (there, stream):
        task = _task(
            node, there, "put", stream, nbytes, messages, seconds, batch=batch, level=level
        )
        figures = _summary(_run(task, clients))
    _show("put", figures, "receipts", json=json)


@app.command
def get(
    *,
    size: Size = "1M",
    messages: Annotated[int, maybe("Messages in all; else 256 MiB of them.")] = 0,
    clients: Clients = 1,
    level: Level = "",
    node: Node = ANY_NODE,
    json: Json = False,
) -> None:
    """Measure how fast messages are handed out.

    The clients are members of one group: each message goes to one of them.

    $ beamstream bench get --size 100k --clients 2
    """
    from dataclasses import replace

    nbytes = _checked(size, messages, 1.0, clients, 1, level)
    count = messages or max(min(_FILL_NBYTES // max(nbytes, 1), _FILL_MESSAGES), 1)
    with _stream(node) as (there, stream):
        batch = max(min(_FILL_NBYTES // 16 // max(nbytes, 1), 1000, count), 1)
        runs = -(-count // batch)
        task = _task(
            node, there, "put", stream, nbytes, runs * batch, 1.0, batch=batch, level=level
        )
        talk(f"writing {runs * batch} messages of {show_nbytes(nbytes)}")
        _run(task, 1)
        there.hub.source(SOURCE).stream(stream).finish()
        figures = _summary(_run(replace(task, verb="get"), clients))
    _show("get", figures, "", json=json)


@app.command
def latency(
    *,
    size: Size = "1M",
    rate: Annotated[float, Parameter(help="Messages per second.")] = 100.0,
    messages: Messages = 0,
    seconds: Seconds = 5.0,
    level: Level = "",
    node: Node = ANY_NODE,
    json: Json = False,
) -> None:
    """Measure the time from sending to having read.

    Messages go at an even rate, and are read as they come.

    $ beamstream bench latency --size 2M --rate 200
    """
    nbytes = _checked(size, messages, seconds, 1, 1, level)
    if not 0 < rate <= 1e6:
        raise Usage(f"a rate of {rate:g} messages per second is not possible")
    with _stream(node) as (there, stream):
        task = _task(
            node, there, "latency", stream, nbytes, messages, seconds, level=level, rate_hz=rate
        )
        figures = _summary(_run(task, 1))
    _show("latency", figures, "sent to read", json=json)


def _checked(size: str, messages: int, seconds: float, clients: int, batch: int, level: str) -> int:
    """The size in bytes, if all of it is possible."""
    from beamstream import limits
    from beamstream.cli import remote
    from beamstream.errors import BadSetting
    from beamstream.settings_values import parse_size

    try:
        nbytes = parse_size(size)
    except BadSetting as error:
        raise Usage(error.message, hint=error.hint) from None
    remote.level_of(level)
    if nbytes * batch > limits.PAYLOAD_NBYTES_MAX:
        raise Usage(f"{batch} messages of {size} are more than one frame takes")
    if not (messages >= 0 and 0 < seconds <= 86_400 and batch >= 1):
        raise Usage("--messages, --seconds and --batch must not be negative or nothing")
    if not 1 <= clients <= _CLIENTS_MAX:
        raise Usage(f"{clients} clients are not possible; 1 … {_CLIENTS_MAX}")
    return nbytes


def _task(
    node: Node,
    there: Remote,
    verb: str,
    stream: str,
    nbytes: int,
    count: int,
    seconds: float,
    *,
    batch: int = 1,
    level: str = "",
    rate_hz: float = 0.0,
) -> Task:
    from beamstream.cli.bench_client import Task
    from beamstream.client.native.places import find_access

    access = find_access(node.url, node.beamtime, node.token, os.environ)
    return Task(
        verb=verb,
        url=access.url,
        token=access.token,
        beamtime=there.hub.beamtime,
        source=SOURCE,
        stream=stream,
        nbytes=nbytes,
        count=count,
        seconds=seconds,
        batch=batch,
        level=level,
        rate_hz=rate_hz,
    )


@contextlib.contextmanager
def _stream(node: Node) -> Iterator[tuple[Remote, str]]:
    """A stream that nobody else has, and that is gone afterwards."""
    from beamstream.cli import remote
    from beamstream.errors import NotFound

    name = f"bench-{os.urandom(6).hex()}"
    with remote.connect(node, step="bench") as there:
        try:
            yield there, name
        finally:
            with contextlib.suppress(NotFound):
                there.hub.source(SOURCE).stream(name).delete()


# ------------------------------------------------------------------------------ clients


def _run(task: Task, count: int) -> list[Done]:
    """Let so many clients do the same, beginning together."""
    from beamstream.cli.bench_client import READY
    from beamstream.cli.bench_figures import Done

    line = jsonlib.dumps(asdict(task))
    clients: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            clients.append(_start())
            _say(clients[-1].stdin, line)
        for client in clients:
            assert client.stdout is not None
            if client.stdout.readline().strip() != READY:
                raise _fault(client)
        for client in clients:
            _say(client.stdin, "go")
        return [Done(**jsonlib.loads(_answer(client, task.seconds))) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.communicate()


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "beamstream.cli.bench_client"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _say(stdin: IO[str] | None, line: str) -> None:
    assert stdin is not None
    # A client that has ended says why when it is listened to.
    with contextlib.suppress(BrokenPipeError):
        stdin.write(f"{line}\n")
        stdin.flush()


def _answer(client: subprocess.Popen[str], seconds: float) -> str:
    from beamstream.errors import TimedOut

    try:
        said, errors = client.communicate(timeout=seconds + _END_S)
    except subprocess.TimeoutExpired:
        raise TimedOut(
            f"a client of the bench has not ended after {seconds + _END_S:g} s"
        ) from None
    if client.returncode or not said.strip():
        raise _error(errors)
    return said.strip().splitlines()[-1]


def _fault(client: subprocess.Popen[str]) -> Exception:
    _, errors = client.communicate(timeout=_END_S)
    return _error(errors)


def _error(said: str) -> Exception:
    """What a client has said before it ended, as the error that it was."""
    from beamstream.client.native.faults import fault

    line = (said.strip().splitlines() or ["E000 a client of the bench ended without a word"])[-1]
    code, _, message = line.partition(" ")
    return fault(code, message or line)


# ------------------------------------------------------------------------------ telling


def _summary(clients: Sequence[Done]) -> dict[str, Any]:
    from beamstream.cli.bench_figures import summary

    return summary(clients)


def _show(verb: str, figures: dict[str, Any], what: str, *, json: bool) -> None:
    if json:
        print_json({"verb": verb, **figures})
        return
    for line in lines(verb, figures, what):
        print(line)


def lines(verb: str, figures: dict[str, Any], what: str) -> list[str]:
    """Figures for people: all together, each client, delays.

    Parameters
    ----------
    what : the delays are of; empty for none.
    """
    clients = figures["clients"]
    found = [
        f"{verb}   {show_count(figures['rate_hz'])} msgs/s ~ "
        f"{show_nbytes(figures['nbytes_per_s'])}/s   "
        f"{show_count(figures['messages'])} messages in {show_span(figures['seconds'])}"
    ]
    if len(clients["rates_hz"]) > 1:
        found += [
            f"  [{number}] {show_count(rate)} msgs/s"
            for number, rate in enumerate(clients["rates_hz"], 1)
        ]
        found.append(
            "  "
            + " | ".join(
                f"{name} {show_count(clients[name])}" for name in ("min", "avg", "max", "stddev")
            )
        )
    if figures["lost"]:
        found.append(f"  payloads of {figures['lost']} messages were not kept (level cache)")
    if what and figures["delays"]:
        delays = figures["delays"]
        percents = ("p50", "p90", "p99", "p99.9")
        said = "   ".join(f"{name} {delays[f'{name}_ms']:.2f}" for name in percents)
        found.append(
            f"{what}   min {delays['min_ms']:.2f}   {said}   max {delays['max_ms']:.2f}   "
            f"stddev {delays['stddev_ms']:.2f} ms"
        )
    return found
