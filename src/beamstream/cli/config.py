"""`beamstream config`: every setting, its value, and where the value comes from."""

from __future__ import annotations

from cyclopts import App

from beamstream.cli import common
from beamstream.cli.common import Config, Data, Json

app = App(name="config", help="Show the settings.")


@app.command
def show(*, data: Data = None, config: Config = None, json: Json = False) -> None:
    """Print every setting with its value and origin, as `beamstream up` would see it here."""
    from beamstream import settings

    found, origins = common.load(config, data=data)
    rows = [(name, value, origins[name]) for name, value in settings.items(found)]
    if json:
        common.print_json(
            {name: {"value": value, "origin": origin} for name, value, origin in rows}
        )
        return
    common.print_rows(("SETTING", "VALUE", "ORIGIN"), rows)
