"""Options that many commands have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from beamstream.errors import BadInput

Data = Annotated[Path | None, Parameter(name="--data", help="Data folder.")]
Config = Annotated[Path | None, Parameter(name="--config", help="TOML file with settings.")]
Json = Annotated[
    bool, Parameter(name="--json", negative="", help="Print JSON.", show_default=False)
]
Yes = Annotated[bool, Parameter(negative="", help="Do it; without: show.", show_default=False)]


class Usage(BadInput):
    """The command line is wrong: exit status 2."""


@Parameter(name="*")
@dataclass(frozen=True)
class Node:
    """Which node, and who asks; what is not given comes from BEAMSTREAM_* and `connect.json`."""

    url: Annotated[
        str, Parameter(help="Node: HOST:8400, … (or BEAMSTREAM_URL).", show_default=False)
    ] = ""
    token: Annotated[str, Parameter(help="Or BEAMSTREAM_TOKEN.", show_default=False)] = ""
    beamtime: Annotated[str, Parameter(help="Or BEAMSTREAM_BEAMTIME.", show_default=False)] = ""


ANY_NODE = Node()
