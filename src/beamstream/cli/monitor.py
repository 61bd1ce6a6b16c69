"""`beamstream monitor`: the page, the API and the metrics of nodes that run elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from beamstream.cli.options import Usage, flag, maybe
from beamstream.cli.terminal import until_stopped


def _each(help: str) -> Parameter:
    """An option that is given once for each node."""
    return Parameter(negative="", help=f"{help} Again for each node.", show_default=False)


def monitor(
    *,
    listen: Annotated[str, Parameter(help="HOST:PORT at which it answers.")] = "127.0.0.1:8410",
    node: Annotated[tuple[str, ...], _each("[NAME=]URL; else the one that is found.")] = (),
    token_file: Annotated[tuple[Path, ...], _each("Its token; else BEAMSTREAM_TOKEN.")] = (),
    data: Annotated[Path | None, maybe("Folder for its history; else it is forgotten.")] = None,
    prefix: Annotated[str, maybe("/PATH in front of all, as a proxy has it.")] = "",
    secure: Annotated[bool, flag("The page is reached by https.")] = False,
) -> int:
    """Serve the page for one node or several; Ctrl-C or SIGTERM ends it.

    A node has its own at its HTTP port, started by `beamstream up`: this one
    is for a wall screen, for many nodes on one page, or for another machine.
    With a node's token it shows all beamtimes, else the token's own.

    $ beamstream monitor --listen 0.0.0.0:8410 --node p11=node1:8400
    """
    import structlog

    from beamstream.errors import BadInput
    from beamstream.monitor import __main__ as program

    words = ["--listen", listen, "--prefix", prefix]
    words += ["--data", str(data)] if data else []
    words += ["--secure"] if secure else []
    for text in node:
        words += ["--node", text]
    for path in token_file:
        words += ["--token-file", str(path)]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        job = program.job_of(words, _environment(alone=not node))
    except BadInput as error:
        raise Usage(error.message, hint=error.hint) from None
    with until_stopped():
        return program.run(job, until_stdin_ends=False)
    return 0


def _environment(*, alone: bool) -> dict[str, str]:
    """The environment, with the node of the same user where nobody names one."""
    environ = dict(os.environ)
    if alone:
        from beamstream.client.native import places

        access = places.find_access("", "", "", environ)
        environ["BEAMSTREAM_URL"], environ["BEAMSTREAM_TOKEN"] = access.url, access.token
    return environ
