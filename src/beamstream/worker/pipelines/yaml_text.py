"""YAML text -> values that know their lines; small documents of plain values only.

Words are what YAML 1.2 makes of them: ``no``, ``on`` and ``12:30`` are text. Aliases are followed,
and count for what they stand for, so that a small file cannot become a large document.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import yaml

from beamstream import limits

NBYTES_MAX: Final = limits.MIB
NODES_MAX: Final = 10_000
DEPTH_MAX: Final = 16
"""A file that people write is far below: a pipeline has three levels and its parameters."""

_INT: Final = re.compile(r"[-+]?[0-9]{1,400}|0x[0-9a-fA-F]{1,300}|0o[0-7]{1,300}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Final = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Problem(NamedTuple):
    """What is wrong with a file, and in which line (0: in no particular one)."""

    line: int
    text: str

    def at(self, file: str) -> str:
        return f"{file}:{self.line}: {self.text}" if self.line else f"{file}: {self.text}"


class Refused(ValueError):
    """The text is no document that is taken; `problem` says why."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(line, text)


@dataclass(frozen=True, slots=True)
class Value:
    """A value in a document.

    Parameters
    ----------
    line : where it begins, from 1; for one with a key, the line of the key.
    value : text, number, bool, None, a list of `Value`, or a dict of them.
    text : a scalar as it was written.
    """

    line: int
    value: Any
    text: str = ""

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: below.plain() for key, below in self.value.items()}
        if isinstance(self.value, list):
            return [below.plain() for below in self.value]
        return self.value

    @property
    def kind(self) -> str:
        """What it is, for sentences."""
        match self.value:
            case dict():
                return "a mapping"
            case list():
                return "a list"
            case None:
                return "nothing"
            case str():
                return "text"
            case bool():
                return "true or false"
            case _:
                return "a number"


def read(text: str) -> Value:
    """Read one document.

    Raises
    ------
    Refused : no YAML, more than one document, too large, too deep, keys twice or no text.

    >>> read("a: [1, on]").plain()
    {'a': [1, 'on']}
    """
    if len(text) > NBYTES_MAX:
        raise Refused(0, f"{len(text)} characters are too many, {NBYTES_MAX} are allowed")
    try:
        _check_events(text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _refused(error) from None
    if node is None:
        raise Refused(1, "the file is empty")
    return _Maker().make(node, 0)


def _check_events(text: str) -> None:
    """Bound what composing the text may cost: it calls itself for each level."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = _line(event)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, yaml.NodeEvent)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise Refused(line, f"the tag {tag[:80]!r} is not understood; leave it out")
        if depth > DEPTH_MAX:
            raise Refused(line, f"nested more than {DEPTH_MAX} levels deep")
        if nodes > NODES_MAX:
            raise Refused(line, f"more than {NODES_MAX:,} values")


def _line(marked: yaml.Node | yaml.Event) -> int:
    return 0 if marked.start_mark is None else marked.start_mark.line + 1


class _Maker:
    def __init__(self) -> None:
        self._nodes = 0

    def make(self, node: yaml.Node, depth: int, line: int = 0) -> Value:
        line = line or _line(node)
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise Refused(line, f"with its aliases the document has more than {NODES_MAX:,} values")
        if depth > DEPTH_MAX:
            raise Refused(line, f"nested more than {DEPTH_MAX} levels deep")
        if isinstance(node, yaml.ScalarNode):
            return Value(line, _scalar(node), node.value)
        if isinstance(node, yaml.SequenceNode):
            return Value(line, [self.make(below, depth + 1) for below in node.value])
        found: dict[str, Value] = {}
        for key, below in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            at = _line(key)
            if name is None:
                raise Refused(at, "a key has to be text")
            if name in found:
                raise Refused(at, f"the key {name[:80]!r} comes twice")
            found[name] = self.make(below, depth + 1, at)
        return Value(line, found)


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    # One of the two parsers says None of a word without quotes, the other says nothing.
    if node.style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _refused(error: yaml.YAMLError) -> Refused:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    text = f"no YAML: {context}, {what}" if context else f"no YAML: {what}"
    return Refused(mark.line + 1 if mark is not None else 0, " ".join(text.split())[:300])
