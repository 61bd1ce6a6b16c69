"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from hypothesis import settings

# How long an example takes says something about the machine, not about what is tested.
settings.register_profile("beamstream", deadline=None)
settings.load_profile("beamstream")

HERE = Path(__file__).parent
FIRST = ("faults", "official", "compat_modules", "docs", "replay", "page", "store")
"""What takes longest begins first, so that no process is left with it alone."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)


@pytest.fixture(autouse=True)
def log_goes_where_it_goes_now() -> None:
    """Loggers keep the stream that there was when they were made: a test's that is over."""
    structlog.reset_defaults()


def _turn(item: pytest.Item) -> int:
    folder = _folder(item)
    return FIRST.index(folder) if folder in FIRST else len(FIRST)


def _folder(item: pytest.Item) -> str:
    """The folder below this one; empty for what is elsewhere."""
    return item.path.relative_to(HERE).parts[0] if HERE in item.path.parents else ""
