"""`beamstream token`: who may do what, for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from beamstream.cli import common
from beamstream.cli.common import Config, Data, Json
from beamstream.cli.options import Usage

if TYPE_CHECKING:
    from beamstream.store.registry import Token

app = App(name="token", help="Make, list and revoke tokens.")


@app.command
def new(
    *,
    data: Data = None,
    config: Config = None,
    beamtime: Annotated[str, Parameter(help="The beamtime it is for.")] = "",
    beamline: Annotated[str, Parameter(help="Or the beamline it is for.")] = "",
    access: Annotated[str, Parameter(help="Of read, write, writeraw.")] = "read,write",
    admin: Annotated[
        bool,
        Parameter(negative="", help="For the whole node and all beamtimes."),
    ] = False,
    days: Annotated[float, Parameter(help="Until it expires; up to 366.")] = 30,
    note: Annotated[str, Parameter(help="For whom or what, shown by `ls`.")] = "",
) -> None:
    """Make a token and print it, alone."""
    from beamstream.server import auth

    if admin and (beamtime or beamline):
        raise Usage("--admin is for the whole node, not for a beamtime or beamline")
    with common.opened(data, config, create=True) as (folder, registry):
        if admin:
            print(
                auth.issue_admin(registry, folder.key, days=days, now_ns=common.now_ns(), note=note)
            )
            return
        token = auth.issue(
            registry,
            folder.key,
            beamtime=beamtime,
            beamline=beamline,
            access=[right.strip() for right in access.split(",")],
            days=days,
            now_ns=common.now_ns(),
            note=note,
        )
    print(token)


@app.command
def ls(*, data: Data = None, config: Config = None, json: Json = False) -> None:
    """List the tokens that were made; the tokens themselves are not kept."""
    with common.opened(data, config) as (_, registry):
        tokens = registry.tokens()
    now_ns = common.now_ns()
    if json:
        common.print_json([_document(token, now_ns) for token in tokens])
        return
    common.print_rows(
        ("ID", "FOR", "ACCESS", "MADE", "EXPIRES", "STATE", "NOTE"),
        [
            (
                token.token_id,
                token.subject,
                ",".join(token.access),
                common.show_time(token.created_ns),
                common.show_time(token.expires_ns),
                _state(token, now_ns),
                token.note,
            )
            for token in tokens
        ],
    )


@app.command
def revoke(token_id: str, /, *, data: Data = None, config: Config = None) -> None:
    """End a token for good, within seconds also on open connections.

    Parameters
    ----------
    token_id
        As `token ls` shows it.
    """
    with common.opened(data, config) as (_, registry):
        registry.revoke_token(token_id, common.now_ns())
    print(f"token {token_id} is revoked")


def _state(token: Token, now_ns: int) -> str:
    if token.revoked_ns:
        return "revoked"
    return "expired" if token.expires_ns <= now_ns else "good"


def _document(token: Token, now_ns: int) -> dict[str, object]:
    return {
        "token_id": token.token_id,
        "subject": token.subject,
        "access": list(token.access),
        "created_ns": token.created_ns,
        "expires_ns": token.expires_ns,
        "revoked_ns": token.revoked_ns,
        "state": _state(token, now_ns),
        "note": token.note,
    }
