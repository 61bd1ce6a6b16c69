"""A peer that is played by the test, and threads to play it in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from client.native.scripted import Peer, peer


@pytest.fixture
def played() -> Iterator[Peer]:
    with peer() as made:
        yield made


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool
