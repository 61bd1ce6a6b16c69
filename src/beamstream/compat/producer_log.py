"""What a producer has to say: lines of JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Final

LEVELS: Final = ("debug", "info", "warn", "error", "none")
_NAMES: Final = {"warn": "warning"}


class Log:
    """Writes what is at or above a level, at the beginning "info".

    Parameters
    ----------
    source : who writes.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._from = LEVELS.index("info")

    def set_level(self, level: str) -> None:
        """Write from now on what is at or above `level`; an unknown one is only remarked."""
        if level in LEVELS:
            self._from = LEVELS.index(level)
        else:
            sys.stdout.write("wrong loglevel mode: " + level + "\n")

    def __call__(self, level: str, message: str) -> None:
        if LEVELS.index(level) < self._from:
            return
        now_ns = time.time_ns()
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now_ns // 10**9))
        line = {
            "time": f"{moment}.{now_ns % 10**9:09d}",
            "source": self._source,
            "level": _NAMES.get(level, level),
            "message": message,
        }
        # A program that has closed its stdout still sends. One write: lines must not mix.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
            sys.stdout.flush()
