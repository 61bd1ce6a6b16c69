"""Reading mappings key by key, so that all that is wrong with a file is told at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Final

from beamstream.errors import BadName
from beamstream.worker.pipelines.yaml_text import Problem, Value

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NAME_HINT: Final = "1 to 64 letters, digits, '-' or '_', beginning with a letter or digit"


class Keys:
    """The keys of one mapping, taken one by one; problems are noted, and reading goes on.

    Parameters
    ----------
    what : the mapping, for sentences.
    """

    def __init__(self, value: Value, what: str, problems: list[Problem]) -> None:
        self.what = what
        self._line = value.line
        self._problems = problems
        self._known: list[str] = []
        self._lines: dict[str, int] = {}
        self._found: dict[str, Value] = {}
        self._mapping = isinstance(value.value, dict)
        if self._mapping:
            self._found = dict(value.value)
            self._lines = {key: below.line for key, below in self._found.items()}
        else:
            problems.append(Problem(value.line, f"{what} has to be a mapping, it is {value.kind}"))

    def wrong(self, key: str, text: str, line: int = 0) -> None:
        at = line or self._lines.get(key, self._line)
        self._problems.append(Problem(at, f"{self.what}: {text}"))

    def check(self, key: str, checked: Callable[[], object]) -> None:
        """Note what `checked()` raises about a name."""
        try:
            checked()
        except BadName as error:
            self.wrong(key, str(error))

    def take(self, key: str) -> Value | None:
        """The value of a key, if it is there."""
        self._known.append(key)
        value = self._found.pop(key, None)
        return None if value is None or value.value is None else value

    def text(self, key: str, *, needed: bool = False) -> str:
        """Text as it was written: a number is taken for its digits."""
        value = self.take(key)
        if value is None:
            if needed and self._mapping:
                self.wrong(key, f"the key {key!r} is missing")
            return ""
        if isinstance(value.value, dict | list):
            self.wrong(key, f"{key!r} has to be text, it is {value.kind}")
            return ""
        return value.text

    def texts(self, key: str) -> tuple[str, ...] | None:
        """One text, or a list of them."""
        value = self.take(key)
        if value is None:
            return None
        parts = value.value if isinstance(value.value, list) else [value]
        if any(isinstance(part.value, dict | list) or not part.text for part in parts):
            self.wrong(key, f"{key!r} has to be text, or a list of texts")
            return None
        if not parts:
            self.wrong(key, f"{key!r} is an empty list")
            return None
        return tuple(part.text for part in parts)

    def name(self, key: str, *, needed: bool = False) -> str:
        text = self.text(key, needed=needed)
        if text and not NAME.fullmatch(text):
            self.wrong(key, f"{text[:80]!r} cannot be a name: {NAME_HINT}")
        return text

    def mapping(self, key: str) -> dict[str, Value]:
        value = self.take(key)
        if value is None:
            return {}
        if not isinstance(value.value, dict):
            self.wrong(key, f"{key!r} has to be a mapping, it is {value.kind}")
            return {}
        return value.value

    def whole(self, key: str, value: Value | None, default: int, lowest: int, highest: int) -> int:
        if value is None:
            return default
        number = value.value
        if type(number) is not int or not lowest <= number <= highest:
            self.wrong(key, f"{key!r} has to be a whole number, {lowest} to {highest}")
            return default
        return number

    def number(self, key: str, default: float, lowest: float, highest: float) -> float:
        value = self.take(key)
        if value is None:
            return default
        number = value.value
        if type(number) not in (int, float) or not lowest <= number <= highest:
            self.wrong(key, f"{key!r} has to be a number, {lowest:g} to {highest:g}")
            return default
        return float(number)

    def one_of(self, key: str, words: tuple[str, ...]) -> str | None:
        text = self.text(key)
        if text and text not in words:
            self.wrong(key, f"{key!r} is {text[:80]!r}; it has to be one of {', '.join(words)}")
            return None
        return text or None

    def end(self) -> None:
        """What has not been taken is not known."""
        for key, value in self._found.items():
            near = difflib.get_close_matches(key, self._known, n=1)
            known = f"is {near[0]!r} meant?" if near else f"there are {', '.join(self._known)}"
            text = f"{self.what} has no key {key[:80]!r}; {known}"
            self._problems.append(Problem(value.line, text))
