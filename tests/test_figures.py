"""The README's figures come from a result of the bench, and only from a whole one."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import BEGIN, END, markdown, write
from benchmarks.plan import all_rows


def result() -> dict[str, Any]:
    row = {
        "rate": 12345.6,
        "share": 0.756,
        "original": [55.0, 107.0],
        "p50_ms": 1.23,
        "p99_ms": 4.56,
        "node_us_per_message": 64.5,
    }
    return {
        "complete": True,
        "settings": {
            "repetitions": "3",
            "commit": "abc",
            "processor": "P",
            "kernel": "Linux 6",
            "file system": "ext4",
            "clients": "asapo-producer 25.3.0",
            "shortened": "",
        },
        "rows": [row | {"name": one.name} for one in all_rows()],
    }


def test_figures_are_those_of_the_result(tmp_path: Path) -> None:
    text = markdown(result())
    assert "| cache only | 12,300 | 12,300 |" in text
    assert "| of raw, as many connections | 76% |" in text
    assert "| p50 / p99, ms | 1.2 / 4.6 |" in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(page, text)
    write(page, text)
    assert page.read_text() == f"before\n{BEGIN}\n\n{text}\n\n{END}\nafter\n"


@pytest.mark.parametrize("change", [{"complete": False}, {"shortened": "QUICK RUN"}])
def test_a_shortened_run_gives_no_figures(change: dict[str, object]) -> None:
    shortened = copy.deepcopy(result())
    if "complete" in change:
        shortened |= change
    else:
        shortened["settings"] |= change
    with pytest.raises(SystemExit, match="not complete"):
        markdown(shortened)
