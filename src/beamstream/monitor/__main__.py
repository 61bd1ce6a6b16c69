"""The monitor as a program: ``python -m beamstream.monitor``.

Its job is one line of JSON on stdin (`beamstream.monitor.jobs.Job`); it ends when stdin is closed,
or on SIGTERM or SIGINT. With ``--listen HOST:PORT --node URL …`` it runs by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from beamstream import limits
from beamstream.errors import BadInput, Error, StorageError
from beamstream.monitor import feed, jobs
from beamstream.monitor.app import Web
from beamstream.monitor.desk import Desk
from beamstream.monitor.jobs import Job, NodeJob
from beamstream.monitor.pages import Pages

log = structlog.get_logger("monitor")

REQUESTS_MAX: Final = 64
DRAIN_S: Final = 3
REFUSED: Final = 2
FAILED: Final = 1
GIVEN_BY: Final = "BEAMSTREAM_TOKEN"


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a monitor until told to end; the exit status."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given:
            return run(job_of(given, os.environ), until_stdin_ends=False)
        job = jobs.decode(sys.stdin.buffer.readline(jobs.JOB_NBYTES_MAX + 1))
        return run(job, until_stdin_ends=True)
    except BadInput as error:
        return _complain(error, REFUSED)
    except Error as error:
        return _complain(error, FAILED)


def job_of(arguments: Sequence[str], environ: Mapping[str, str]) -> Job:
    """A job from the command line.

    Raises
    ------
    BadInput : it cannot be done.

    >>> job_of(["--listen", "127.0.0.1:8410", "--node", "p11=http://p11:8400"],
    ...        {"BEAMSTREAM_TOKEN": "t"}).watched[0].label
    'p11'
    """
    parser = argparse.ArgumentParser(prog="python -m beamstream.monitor", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--node", action="append", default=[], metavar="[NAME=]URL", help="may be given again"
    )
    parser.add_argument(
        "--token-file", action="append", default=[], metavar="FILE",
        help=f"one for each --node, in order; else {GIVEN_BY} is for all of them",
    )  # fmt: skip
    parser.add_argument("--data", default="", metavar="FOLDER", help="for the history")
    parser.add_argument("--prefix", default="", metavar="/PATH", help="as a proxy has it")
    parser.add_argument("--secure", action="store_true", help="the page is reached by https")
    asked = parser.parse_args(arguments)
    files, urls = asked.token_file, asked.node or [environ.get("BEAMSTREAM_URL", "")]
    if files and len(files) != len(urls):
        raise BadInput(f"{len(files)} token files for {len(urls)} nodes", hint="one for each")
    tokens = [_token(file) for file in files] or [environ.get(GIVEN_BY, "")] * len(urls)
    nodes = tuple(_node(url, token) for url, token in zip(urls, tokens, strict=True))
    return jobs.check(
        Job(
            nodes=nodes, listen=asked.listen, data=asked.data, prefix=asked.prefix,
            secure=asked.secure,
        )
    )  # fmt: skip


def _node(text: str, token: str) -> NodeJob:
    name, equals, url = text.partition("=")
    return NodeJob(name=name, url=url, token=token) if equals else NodeJob(url=text, token=token)


def _token(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the token in {file!r} cannot be read: {error}") from None


def run(job: Job, *, until_stdin_ends: bool) -> int:
    """Do a job.

    Raises
    ------
    StorageError : its socket or its history cannot be made.
    """
    listening = listen(job)
    with contextlib.closing(listening):
        asyncio.run(serve(job, listening, until_stdin_ends=until_stdin_ends))
    if job.socket:
        Path(job.socket).unlink(missing_ok=True)
    return 0


async def serve(job: Job, listening: socket.socket, *, until_stdin_ends: bool) -> None:
    """Serve until told to end."""
    desk = Desk(job)
    web = Web(desk, Pages())
    server = uvicorn.Server(
        uvicorn.Config(
            web.application(),
            http="h11",
            ws="websockets-sansio",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            # Who asks is told by the node, in a header that only it can set.
            proxy_headers=False,
            server_header=False,
            limit_concurrency=REQUESTS_MAX + feed.FEEDS_MAX,
            h11_max_incomplete_event_size=limits.HTTP_HEAD_NBYTES_MAX,
            ws_max_size=feed.MESSAGE_NBYTES_MAX,
            # Snapshots are made once for all tabs: packing them would be done for each.
            ws_per_message_deflate=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    if until_stdin_ends:
        loop = asyncio.get_running_loop()
        threading.Thread(target=_end_with_stdin, args=(loop, server), daemon=True).start()
    async with desk.running():
        print(f"monitor at {where(job, listening)}", flush=True)  # noqa: T201
        await server.serve(sockets=[listening])


def listen(job: Job) -> socket.socket:
    """The socket at which it answers.

    Raises
    ------
    StorageError : it cannot be made.
    """
    try:
        if job.socket:
            return _unix(Path(job.socket))
        host, _, port = job.listen.rpartition(":")
        return socket.create_server(
            (host.strip("[]"), int(port)),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=limits.BACKLOG,
        )
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot answer at {job.socket or job.listen}: {error}") from None


def _unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        # Whoever can connect may say for whom: nobody but this user's node.
        made.bind(str(path))
    finally:
        os.umask(before)
    made.listen(limits.BACKLOG)
    return made


def where(job: Job, listening: socket.socket) -> str:
    """Its address."""
    if job.socket:
        return job.socket
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{job.prefix}/ui/"


def _end_with_stdin(loop: asyncio.AbstractEventLoop, server: uvicorn.Server) -> None:
    """Whoever started us has closed our stdin, or is gone."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass

    def end() -> None:
        server.should_exit = True

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(end)


def _complain(error: Error, status: int) -> int:
    print(f"{error.code} {error}", file=sys.stderr, flush=True)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
