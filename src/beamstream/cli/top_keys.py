"""Keys: from bytes of a terminal to what is shown. What a terminal is set to is always set back."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

View = Literal["streams", "groups", "steps"]

VIEWS: Final[dict[str, View]] = {"s": "streams", "g": "groups", "p": "steps"}
FILTER_NCHARS_MAX: Final = 100
PAGE: Final = 10

_READ_NBYTES: Final = 1024
_ESCAPES: Final = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1bOA": "up", "\x1bOB": "down",
}  # fmt: skip
_KEY: Final = re.compile(r"\x1b\[[0-9;?]*[@-~]|\x1bO.|.", re.S)
_STEPS: Final = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -PAGE, "page down": PAGE}


@dataclass(frozen=True)
class Screen:
    """What is shown.

    Parameters
    ----------
    wanted : part of the names that are shown, capitals or not.
    typing : `wanted` is being typed.
    first : row at the top, from 0.
    """

    view: View = "streams"
    wanted: str = ""
    typing: bool = False
    first: int = 0
    over: bool = False


def press(screen: Screen, key: str) -> Screen:
    """The screen after a key.

    >>> screen = Screen()
    >>> for key in ["g", "/", "h", "i", "t", "enter"]:
    ...     screen = press(screen, key)
    >>> screen.view, screen.wanted, screen.typing
    ('groups', 'hit', False)
    """
    if screen.typing:
        return _typed(screen, key)
    if key in VIEWS:
        return replace(screen, view=VIEWS[key], first=0)
    if key == "q":
        return replace(screen, over=True)
    if key == "/":
        return replace(screen, typing=True, wanted="", first=0)
    if key == "escape":
        return replace(screen, wanted="", first=0)
    return replace(screen, first=max(screen.first + _STEPS.get(key, 0), 0))


def _typed(screen: Screen, key: str) -> Screen:
    if key == "enter":
        return replace(screen, typing=False)
    if key == "escape":
        return replace(screen, typing=False, wanted="")
    if key == "backspace":
        return replace(screen, wanted=screen.wanted[:-1])
    if len(key) == 1 and len(screen.wanted) < FILTER_NCHARS_MAX:
        return replace(screen, wanted=screen.wanted + key)
    return screen


def keys_of(text: str) -> list[str]:
    """Names of keys, or letters, in what a terminal has sent at once.

    >>> keys_of("a\\x1b[A\\r\\x7f\\x1b")
    ['a', 'up', 'enter', 'backspace', 'escape']
    """
    found = []
    for match in _KEY.finditer(text):
        word = match[0]
        if word in _ESCAPES:
            found.append(_ESCAPES[word])
        elif word in ("\r", "\n"):
            found.append("enter")
        elif word in ("\x7f", "\b"):
            found.append("backspace")
        elif word == "\x1b":
            found.append("escape")
        elif len(word) == 1 and word.isprintable():
            found.append(word)
    return found


class Keyboard:
    """Keys of a terminal that is set to tell each at once; made by `keyboard`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def wait(self, seconds: float) -> list[str]:
        """Keys that are pressed, at the latest after so many seconds."""
        if not select.select([self._fd], [], [], max(seconds, 0.0))[0]:
            return []
        data = os.read(self._fd, _READ_NBYTES)
        # The terminal has gone; nobody is there to look.
        return keys_of(self._decoder.decode(data)) if data else ["q"]


@contextlib.contextmanager
def keyboard(fd: int) -> Iterator[Keyboard]:
    """Let a terminal tell keys at once and not show them; afterwards it is as it was.

    Parameters
    ----------
    fd : of the terminal that is read.
    """
    # Not everywhere; where they are missing, `top` prints lines.
    import termios
    import tty

    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        now = termios.tcgetattr(fd)
        # Stopped by Ctrl-Z, it would leave a terminal in which nobody can type.
        now[6][termios.VSUSP] = b"\x00"
        termios.tcsetattr(fd, termios.TCSADRAIN, now)
        yield Keyboard(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
