"""Modules have at most 700 lines and functions at most 70, their docstrings not counted.

python tools/check_sizes.py FOLDER...
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70


def findings(path: Path) -> Iterator[str]:
    """Yield one line for each thing in `path` that is too long."""
    text = path.read_text(encoding="utf-8")
    count = len(text.splitlines())
    if count > MODULE_LINES_MAX:
        yield f"{path}:1: module has {count} lines, {MODULE_LINES_MAX} are allowed"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = _lines(node) - _docstring_lines(node)
            if count > FUNCTION_LINES_MAX:
                yield (
                    f"{path}:{node.lineno}: {node.name} has {count} lines, "
                    f"{FUNCTION_LINES_MAX} are allowed"
                )


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return _lines(node.body[0]) if ast.get_docstring(node, clean=False) is not None else 0


def main(folders: list[str]) -> int:
    """Print what is too long in `folders` and return the exit status."""
    found = [
        line
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for line in findings(path)
    ]
    for line in found:
        sys.stdout.write(line + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
