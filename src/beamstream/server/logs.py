"""Structured logs: one line per event, never one per message, never a token in them."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from beamstream.settings import Log

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_CONTROL = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PER_CAUSE_MAX = 100

_Event = MutableMapping[str, Any]


def configure(settings: Log, stream: TextIO = sys.stderr) -> None:
    """Set up structlog for this process."""
    as_text = settings.format == "text" or (settings.format == "auto" and stream.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty())
        if as_text
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            Flood(),
            structlog.processors.format_exc_info,
            without_tokens,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def without_tokens(logger: object, method: str, event: _Event) -> _Event:
    """Replace what looks like a token, and make control characters visible.

    >>> without_tokens(None, "info", {"event": "eyJhbGciOi.eyJzdWIi.c2ln"})
    {'event': '<token>'}
    >>> without_tokens(None, "info", {"event": "refused", "names": ["a\\nb"]})
    {'event': 'refused', 'names': ['a\\\\x0ab']}
    """
    for key, value in event.items():
        # The lines of a traceback are ours.
        event[key] = _clean(value, "" if key == "exception" else _CONTROL)
    return event


def _clean(value: Any, control: str) -> Any:
    if isinstance(value, str):
        text = _TOKEN.sub("<token>", value)
        return re.sub(control, _visible, text) if control else text
    if isinstance(value, list | tuple):
        return [_clean(item, control) for item in value]
    if isinstance(value, dict):
        return {_clean(key, control): _clean(item, control) for key, item in value.items()}
    return value


def _visible(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"


class Flood:
    """At most 100 lines a second of one cause; then they are counted."""

    def __init__(self) -> None:
        self._second = ""
        self._counts: dict[str, int] = defaultdict(int)

    def __call__(self, logger: object, method: str, event: _Event) -> _Event:
        second = str(event.get("timestamp", ""))[:19]
        if second != self._second:
            left_out = {
                cause: count - _PER_CAUSE_MAX
                for cause, count in self._counts.items()
                if count > _PER_CAUSE_MAX
            }
            self._second = second
            self._counts.clear()
            if left_out:
                event["left_out"] = left_out
        cause = str(event.get("event"))
        self._counts[cause] += 1
        if self._counts[cause] > _PER_CAUSE_MAX:
            raise structlog.DropEvent
        return event
