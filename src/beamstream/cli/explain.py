"""`beamstream explain`: what an error code means, and what to do."""

from __future__ import annotations

from typing import Annotated

from beamstream.cli.options import Json, maybe
from beamstream.cli.terminal import print_facts, print_json, print_rows
from beamstream.errors import Error, NotFound


def explain(
    code: Annotated[str, maybe("E401, or IdConflict; without it: all.")] = "",
    /,
    *,
    json: Json = False,
) -> None:
    """Say what an error means and what to do about it.

    $ beamstream explain E401
    """
    if code:
        row = _row(find(code))
        if json:
            print_json(row)
        else:
            print_facts((name.replace("_", " "), value) for name, value in _said(row))
        return
    rows = [_row(kind) for kind in sorted(known(), key=lambda kind: kind.code)]
    if json:
        print_json(rows)
    else:
        print_rows(
            ("CODE", "ERROR", "MEANS"), [(row["code"], row["error"], row["means"]) for row in rows]
        )


def known() -> list[type[Error]]:
    """Every error that has a code."""
    from beamstream import errors
    from beamstream.client.asapo import errors as asapo_errors

    return [
        *(getattr(errors, name) for name in errors.__all__),
        *(getattr(asapo_errors, name) for name in asapo_errors.__all__),
    ]


def find(text: str) -> type[Error]:
    """The error of a code or name.

    Raises
    ------
    NotFound : there is none; the hint has the nearest ones.

    >>> find("e401").__name__, find("IdConflict").code
    ('IdConflict', 'E401')
    """
    wanted = text.strip().lower()
    kinds = known()
    for kind in kinds:
        if wanted in (kind.code.lower(), kind.code[1:], kind.__name__.lower()):
            return kind
    import difflib

    names = {name.lower(): name for kind in kinds for name in (kind.code, kind.__name__)}
    near = [names[name] for name in difflib.get_close_matches(wanted, names, n=3)]
    raise NotFound(
        f"there is no error {text[:40]!r}",
        hint=f"do you mean {', '.join(near)}?" if near else "`beamstream explain` lists all",
    )


def _row(kind: type[Error]) -> dict[str, object]:
    from beamstream.errors_help import HELP

    text = HELP[kind.code]
    return {
        "code": kind.code,
        "error": kind.__name__,
        "retryable": kind.retryable,
        "means": text.means,
        "advice": text.advice,
    }


def _said(row: dict[str, object]) -> list[tuple[str, object]]:
    again = "the same call may work in a moment" if row["retryable"] else "not by itself"
    return [
        ("error", f"{row['code']} {row['error']}"),
        ("means", row["means"]),
        ("what_to_do", row["advice"]),
        ("again", again),
    ]
