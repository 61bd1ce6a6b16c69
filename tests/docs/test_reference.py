"""The reference pages name everything that there is, and nothing else."""

from __future__ import annotations

import inspect
import re

import pytest

from beamstream import errors, limits, settings
from beamstream.cli import main
from beamstream.client.asapo import errors as client_errors
from docs.pages import DOCS, PAGES, ROOT, table

REFERENCE = DOCS / "reference"


# --------------------------------------------------------------------------------- errors


def test_each_error_has_a_row() -> None:
    known = [getattr(errors, name) for name in errors.__all__]
    known += [getattr(client_errors, name) for name in client_errors.__all__]
    rows = [row for row in table(REFERENCE / "errors.md") if row[0] != "code"]
    assert {(kind.code, kind.__name__, "yes" if kind.retryable else "no") for kind in known} == {
        (code, name, again) for code, name, again, _, _ in rows
    }
    assert len(rows) == len(known)
    assert all(means and what_to_do for _, _, _, means, what_to_do in rows)


# ------------------------------------------------------------------------------- settings


def test_each_setting_has_a_row() -> None:
    rows = {row[0]: row for row in table(REFERENCE / "settings.md") if row[0] != "setting"}
    defaults = dict(settings.items(settings.Settings()))
    assert list(rows) == list(settings.KEYS)
    assert {name: row[1] for name, row in rows.items()} == {
        name: value or "(empty)" for name, value in defaults.items()
    }


def test_settings_have_the_flags_that_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    flags = _flags(capsys, "up")
    rows = {row[0]: row[2] for row in table(REFERENCE / "settings.md") if row[0] != "setting"}
    shown = {flag for flag in rows.values() if flag != "none"}
    assert shown == flags - {"--config", "--monitor"}
    for name, flag in rows.items():
        dashed = name.replace("_", "-")
        assert flag in ("none", f"--{dashed}", f"--no-{dashed}")


# --------------------------------------------------------------------------------- limits


def shown(name: str, value: float) -> str:
    if name == "ID_MAX":
        return "2^63 - 1"
    if "NBYTES" in name:
        for unit, nbytes in (("GiB", limits.GIB), ("MiB", limits.MIB), ("KiB", limits.KIB)):
            if value % nbytes == 0:
                return f"{value // nbytes} {unit}"
        return f"{value:,} bytes"
    if "SECONDS" in name:
        return f"{value:,g} s"
    return f"{value} days" if "DAYS" in name else f"{value:,}"


def test_each_limit_has_a_row() -> None:
    known = {
        name: shown(name, value)
        for name, value in vars(limits).items()
        if name.isupper() and name not in ("KIB", "MIB", "GIB")
    }
    rows = [row for row in table(REFERENCE / "limits.md") if row[0] != "limit"]
    assert {name: value for name, value, _ in rows} == known
    assert len(rows) == len(known)
    assert all(reason for _, _, reason in rows)


# ----------------------------------------------------------------------------------- cli


def _help(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main.main([*command, "--help"]) == 0
    return capsys.readouterr().out


def _flags(capsys: pytest.CaptureFixture[str], *command: str) -> set[str]:
    found = re.findall(r"(?<![\w-])--[a-z][a-z-]*", _help(capsys, *command))
    return {flag for flag in found if not flag.startswith(("--help", "--empty-"))}


def _commands(capsys: pytest.CaptureFixture[str], *above: str) -> list[tuple[str, ...]]:
    text = _help(capsys, *above)
    names = re.findall(r"^  ([a-z]+): ", text.partition("Commands:")[2], re.M)
    if not names:
        return [above]
    return [command for name in names for command in _commands(capsys, *above, name)]


def test_each_command_and_flag_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    page = REFERENCE / "cli.md"
    text = page.read_text()
    commands = _commands(capsys)
    assert len(commands) >= 9
    rows = {row[0] for row in table(page) if row[0].startswith("beamstream ")}
    assert rows == {f"beamstream {' '.join(command)}" for command in commands} | {
        "beamstream --version"
    }
    sections = {part.partition("\n")[0]: part for part in re.split(r"^## ", text, flags=re.M)}
    for command in commands:
        section = sections[f"beamstream {command[0]}"]
        for flag in _flags(capsys, *command) - {"--data", "--config"}:
            assert f"`{flag}" in section, f"{flag} of {' '.join(command)}"


def test_the_service_starts_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    unit = (ROOT / "deploy" / "beamstream.service").read_text()
    [start] = re.findall(r"^ExecStart=\S+/beamstream (\w+) (.+)$", unit, re.M)
    used = set(re.findall(r"--[a-z-]+", start[1]))
    assert start[0] == "up"
    assert "--data" in used
    assert used <= _flags(capsys, "up")


def test_each_exit_status_is_shown() -> None:
    rows = {row[0] for row in table(REFERENCE / "cli.md", "Exit status") if row[0] != "status"}
    used = {main.FAILED, main.USAGE, main.UNREACHABLE, main.INTERRUPTED}
    assert rows == {"0"} | {str(status) for status in used}


# ---------------------------------------------------------------------------------- pages


def test_the_map_names_each_room() -> None:
    """The map's modules exist, and no room of the server, store or wire is left out."""
    import importlib
    import pkgutil

    import beamstream

    rows = {row[0] for row in table(DOCS / "design" / "000-map.md") if row[0] != "module"}
    rooms = set()
    for package in ("server", "store", "wire", "client"):
        found = importlib.import_module(f"beamstream.{package}")
        rooms |= {f"{package}.{module.name}" for module in pkgutil.iter_modules(found.__path__)}
    rooms |= {module.name for module in pkgutil.iter_modules(beamstream.__path__)}
    rooms -= {"server", "store", "wire", "client", "_version"}
    assert {row.removesuffix(".*") for row in rows} == rooms


def test_pages_are_written_for_people() -> None:
    for page in PAGES:
        text = page.read_text()
        assert text.startswith("# "), page
        assert "\t" not in text, page
        assert inspect.cleandoc(text)[-1] not in " \n", page
