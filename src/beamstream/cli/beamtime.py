"""`beamstream beamtime`: which beamtimes there are, and what `auto` means at a beamline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from beamstream.cli import common
from beamstream.cli.common import Config, Data, Json

if TYPE_CHECKING:
    from beamstream.store.registry import Beamtime

app = App(name="beamtime", help="Open, list and close beamtimes.")


@app.command(name="open")
def open_(
    beamtime: str,
    /,
    *,
    beamline: Annotated[str, Parameter(help="Where it takes place.")] = "",
    data: Data = None,
    config: Config = None,
) -> None:
    """Open a beamtime: from now on `auto` means it at its beamline.

    Parameters
    ----------
    beamtime
        Its id.
    """
    with common.opened(data, config, create=True) as (_, registry):
        registry.open_beamtime(beamtime, beamline, common.now_ns())
        row = registry.beamtime(beamtime)
    at = f" at beamline {row.beamline}" if row and row.beamline else ""
    print(f"beamtime {beamtime} is open{at}")


@app.command
def ls(*, data: Data = None, config: Config = None, json: Json = False) -> None:
    """List the beamtimes that were opened."""
    import msgspec

    with common.opened(data, config) as (_, registry):
        beamtimes = registry.beamtimes()
    if json:
        common.print_json([msgspec.to_builtins(row) for row in beamtimes])
        return
    common.print_rows(
        ("BEAMTIME", "BEAMLINE", "OPENED", "CLOSED", "STATE"),
        [
            (
                row.beamtime,
                row.beamline or "-",
                common.show_time(row.opened_ns),
                common.show_time(row.closed_ns),
                _state(row),
            )
            for row in beamtimes
        ],
    )


@app.command
def close(beamtime: str, /, *, data: Data = None, config: Config = None) -> None:
    """Close a beamtime: `auto` does not mean it any more. Its data stay.

    Parameters
    ----------
    beamtime
        Its id.
    """
    with common.opened(data, config) as (_, registry):
        registry.close_beamtime(beamtime, common.now_ns())
    print(f"beamtime {beamtime} is closed")


def _state(row: Beamtime) -> str:
    if row.closed_ns:
        return "closed"
    return "current" if row.current else "open"
