"""What `beamstream explain` says."""

from __future__ import annotations

import json

import pytest

from beamstream.cli.explain import find, known
from beamstream.cli.main import main
from beamstream.errors import NotFound
from beamstream.errors_help import HELP


def test_every_error_is_explained_and_nothing_else() -> None:
    codes = [kind.code for kind in known()]
    assert len(codes) == len(set(codes))
    assert set(codes) == set(HELP)
    assert all(text.means and text.advice for text in HELP.values())


@pytest.mark.parametrize("text", ["E401", "e401", "401", "IdConflict", " idconflict "])
def test_an_error_is_found_by_code_and_name(text: str) -> None:
    assert find(text).code == "E401"


def test_what_is_nearly_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match="IdConflict"):
        find("IdConflit")
    assert main(["explain", "zzz"]) == 1
    assert "lists all" in capsys.readouterr().err


def test_it_is_said_to_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "E501"]) == 0
    said = capsys.readouterr().out
    assert "NoSpace" in said
    assert HELP["E501"].advice in said
    assert "in a moment" in said
    assert main(["explain", "NoSpace", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "code": "E501",
        "error": "NoSpace",
        "retryable": True,
        "means": HELP["E501"].means,
        "advice": HELP["E501"].advice,
    }
    assert main(["explain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(HELP) + 1
    assert main(["explain", "--json"]) == 0
    assert [row["code"] for row in json.loads(capsys.readouterr().out)] == sorted(HELP)
