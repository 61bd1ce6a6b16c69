"""The checks of the documentation find what they are there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import pages
from docs.pages import Block, blocks, table
from docs.test_docs import Reader, anchors


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "page.md"


@pytest.mark.parametrize(
    ("mark", "language", "good"),
    [
        ("", "python", True),
        ("<!-- not run: needs root -->", "python", True),
        ("<!-- not run -->", "python", False),
        ("<!-- run -->", "console", True),
        ("<!-- run: a node -->", "console", True),
        ("<!-- a remark -->", "console", False),
        ("", "console", False),
        ("", "text", False),
        ("", "", False),
        ("<!-- not run: a picture -->", "", True),
        ("<!-- settings -->", "toml", True),
        ("", "toml", False),
        ("<!-- run -->\n", "console", False),
    ],
)
def test_marks(page: Path, mark: str, language: str, good: bool) -> None:
    page.write_text(f"# Page\n\n{mark}\n```{language}\nx\n```\n")
    [block] = blocks(page)
    assert block.text == "x\n"
    assert block.well_marked is good


def test_blocks_know_where_they_are(page: Path) -> None:
    page.write_text("# Page\n\n```python\na = 1\n```\n\n<!-- output -->\n```text\n1\n```\n")
    assert [(block.line, block.mark) for block in blocks(page)] == [(4, ""), (9, "output")]


def follow(page: Path, text: str) -> Reader:
    page.write_text(text)
    reader = Reader(page.parent)
    for block in blocks(page):
        reader.follow(block)
    return reader


def test_a_program_goes_on_from_block_to_block(page: Path) -> None:
    reader = follow(
        page,
        "```python\na = 1\n```\n\n```python\nprint(a + 1)\n```\n<!-- output -->\n```text\n2\n```\n",
    )
    assert reader.printed == "2\n"


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)\n```\n<!-- output -->\n```text\n2\n```\n",
        "```python\nraise ValueError\n```\n",
        "<!-- run -->\n```console\n$ echo a b c\na ... d\n```\n",
        "<!-- run -->\n```console\n$ false\n$ true\n```\n",
        '<!-- settings -->\n```toml\ncach = "1GiB"\n```\n',
    ],
)
def test_what_is_not_so_is_found(page: Path, text: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        follow(page, text)


def test_commands_keep_what_they_export(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMSTREAM_TEST_DOCS", "")
    follow(
        page,
        "<!-- run -->\n```console\n$ export BEAMSTREAM_TEST_DOCS=kept\n```\n"
        "<!-- run -->\n```console\n$ echo $BEAMSTREAM_TEST_DOCS\nkept\n```\n",
    )


def test_tables_and_anchors(page: Path) -> None:
    page.write_text(
        "# A `b`, c\n\n| `x` | y\\|z |\n|---|---|\n| `--a` | `b` |\n\n## Next\n\n| 1 |\n"
    )
    assert table(page) == [["x", "y|z"], ["--a", "b"], ["1"]]
    assert table(page, "Next") == [["1"]]
    assert anchors(page) == {"a-b-c", "next"}


def test_a_block_is_named_by_page_and_line(page: Path) -> None:
    assert Block(page, 7, "python", "", "").where == "page.md:7"
