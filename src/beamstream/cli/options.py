"""Options that many commands have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from beamstream.errors import BadInput


def flag(help: str) -> Parameter:
    """A flag that is off, and cannot be turned off."""
    return Parameter(negative="", help=help, show_default=False)


def maybe(help: str) -> Parameter:
    """An option whose default is said in its `help`."""
    return Parameter(help=help, show_default=False)


Data = Annotated[Path | None, Parameter(name="--data", help="Data folder.")]
Config = Annotated[Path | None, Parameter(name="--config", help="TOML file with settings.")]
Json = Annotated[bool, flag("Print JSON.")]
Yes = Annotated[bool, flag("Do it; without: show.")]


class Usage(BadInput):
    """The command line is wrong: exit status 2."""


@Parameter(name="*")
@dataclass(frozen=True)
class Node:
    """Which node, and who asks; what is not given comes from BEAMSTREAM_* and `connect.json`."""

    url: Annotated[str, maybe("Node: HOST:8400, … (or BEAMSTREAM_URL).")] = ""
    token: Annotated[str, maybe("Or BEAMSTREAM_TOKEN.")] = ""
    beamtime: Annotated[str, maybe("Or BEAMSTREAM_BEAMTIME.")] = ""


ANY_NODE = Node()
